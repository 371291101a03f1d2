"""What :meth:`numbacnn.model.Model.optimize` found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..graph.measure import Measured


@dataclass(frozen=True)
class OptimizeReport:
    """What was measured for batches of ``batch_size`` on ``threads`` threads: a row for each kind and shape of layers that can run in
    several ways."""

    batch_size: int
    threads: int
    rows: tuple[Measured, ...]

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The rows for which there was time."""
        return tuple(row for row in self.rows if row.milliseconds)

    @property
    def before(self) -> float:
        """Milliseconds of all measured layers by the cost model's methods."""
        return sum(len(row.layers) * row.milliseconds[row.default] for row in self.measured)

    @property
    def after(self) -> float:
        """Milliseconds of all measured layers by the chosen methods."""
        return sum(len(row.layers) * row.milliseconds[row.choice] for row in self.measured)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        totals = {"before_milliseconds": self.before, "after_milliseconds": self.after}
        return {"batch_size": self.batch_size, "threads": self.threads, **totals, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        if not self.rows:
            return "No layer can run in several ways: there is nothing to choose."
        methods = list(dict.fromkeys(name for row in self.rows for name in row.milliseconds))
        table = [["layers", "input", "output", *methods, "choice"]]
        table += [_cells(row, methods) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*table)]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [_line(cells, widths, len(methods)) for cells in table]
        return "\n".join([rule, lines[0], rule, *lines[1:], rule, *self._totals()])

    def _totals(self) -> list[str]:
        late = len(self.rows) - len(self.measured)
        lines = []
        if self.measured:
            lines.append("milliseconds of one layer; (*) the cost model's choice")
            where = f"batch size {self.batch_size}, {self.threads} thread{'s' if self.threads > 1 else ''}"
            lines.append(f"{where}: {self.before:.2f} ms by the cost model, {self.after:.2f} ms by what was chosen")
        if late:
            lines.append(f"{late} of {len(self.rows)} shapes were not measured: the budget was spent. Another call begins with them.")
        return lines


def _cells(row: Measured, methods: Sequence[str]) -> list[str]:
    more = len(row.layers) - 1
    names = row.layers[0] + (f" and {more} more" if more else "")
    shapes = [" x ".join(map(str, shape)) for shape in (row.inputs, row.outputs)]
    return [names, *shapes, *(_time(row, name) for name in methods), row.choice]


def _time(row: Measured, name: str) -> str:
    milliseconds = row.milliseconds.get(name)
    mark = "*" if name == row.default else " "
    return f"-{mark}" if milliseconds is None else f"{milliseconds:.3f}{mark}"


def _line(cells: Sequence[str], widths: Sequence[int], numbers: int) -> str:
    right = range(3, 3 + numbers)
    return "  ".join(cell.rjust(width) if k in right else cell.ljust(width) for k, (cell, width) in enumerate(zip(cells, widths))).rstrip()
