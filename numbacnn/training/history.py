"""What happened in each epoch of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UnknownNameError

MODES = ("auto", "min", "max")


def check_mode(mode: str) -> None:
    """Raise ConfigError for what is not a ``mode``: how a watched value improves."""
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; it is 'min' (smaller is better), 'max' (larger is better) or 'auto' (as the metric says).")


def falls(history: Any, monitor: str, mode: str = "auto") -> bool:
    """Whether the entry ``monitor`` of the records improves by getting smaller."""
    falling = history.falling if isinstance(history, History) else History.falling
    return mode == "min" or (mode == "auto" and monitor.removeprefix("val_") in falling)


def score(value: Any, falling: bool) -> float:
    """A watched value as a number of which larger is better. NaN is worse than anything."""
    number = float(value)
    return -math.inf if math.isnan(number) else -number if falling else number


class History(list[dict[str, Any]]):
    """A list with one record per epoch: ``epoch`` (from 1 on), ``loss``, the metrics, the same with ``val_`` in front for the
    validation data, ``rate``, ``seconds`` and ``images_per_second`` (of training alone), and ``waited_seconds``, how many of them steps
    waited for their batch.

    ``falling`` names the entries that improve by getting smaller: the loss, and the metrics that say so.
    """

    falling: frozenset[str] = frozenset({"loss"})

    def __init__(self, records: Iterable[dict[str, Any]] = (), falling: Iterable[str] = ("loss",)):
        super().__init__(records)
        self.falling = frozenset(falling)

    def column(self, name: str) -> list[Any]:
        """One entry of all records, None where a record lacks it. Raises UnknownNameError where all do."""
        if not any(name in record for record in self):
            raise UnknownNameError("entry of the history", name, self[0] if self else ())
        return [record.get(name) for record in self]

    def best(self, monitor: str, mode: str = "auto") -> Mapping[str, Any]:
        """The record in which ``monitor`` is best, the first of several. ``mode`` ``"min"`` or ``"max"`` says what that is; ``"auto"``
        takes the smallest of what is in ``falling``, else the largest. NaN is never better than a number."""
        check_mode(mode)
        falling, values = falls(self, monitor, mode), self.column(monitor)
        present = [place for place, value in enumerate(values) if value is not None]
        return self[max(present, key=lambda place: score(values[place], falling))]

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """The records as JSON text, also written to ``path`` if one is given."""
        text = json.dumps(list(self), indent=2, default=plain)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text


def plain(value: Any) -> Any:
    """A NumPy number as Python's, for ``json.dumps(default=...)``."""
    try:
        return value.item()
    except (AttributeError, ValueError):
        raise ConfigError(f"A record of the history holds {value!r}; it can hold numbers, text and lists of them.") from None
