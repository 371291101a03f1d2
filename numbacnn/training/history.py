"""What happened in each epoch of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UnknownNameError


class History(list[dict[str, Any]]):
    """A list with one record per epoch: ``epoch`` (from 1 on), ``loss``, the metrics, the same with ``val_`` in front for the
    validation data, ``rate``, ``seconds`` and ``images_per_second`` (of training alone)."""

    def column(self, name: str) -> list[Any]:
        """One entry of all records. Raises UnknownNameError where none has it."""
        if not any(name in record for record in self):
            raise UnknownNameError("entry of the history", name, self[0] if self else ())
        return [record.get(name) for record in self]

    def best(self, monitor: str) -> Mapping[str, Any]:
        """The record in which ``monitor`` is best (the smallest of a loss or error, else the largest), the first of several."""
        from .metrics import smaller_is_better

        values = self.column(monitor)
        pick = min if smaller_is_better(monitor) else max
        return self[values.index(pick(value for value in values if value is not None))]

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """The records as JSON text, also written to ``path`` if one is given."""
        text = json.dumps(list(self), indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text
