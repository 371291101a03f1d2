"""Where the time of a training step goes, as a table and as a trace that https://ui.perfetto.dev opens."""

from __future__ import annotations

import html
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .summary import quantity

ORDERS = ("time", "network")
ROWS = 30  # of a table, unless told otherwise


@dataclass(frozen=True)
class Call:
    """A call of a kernel (or of the method of a layer that calls none) in one step: ``row`` is the number of the row that it belongs to,
    ``start`` and ``seconds`` are counted from the beginning of the step, ``shapes`` are those of the arrays that it was given."""

    kernel: str
    row: int
    start: float
    seconds: float
    nbytes: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Row:
    """A layer in one pass (``"forward"`` or ``"backward"``), or what comes between: ``"input"``, ``"loss"``, ``"update"``.

    ``seconds`` is the median over steps of all its ``calls`` together. ``flops`` are operations for the batch, a multiply-add counted as
    two: forward those of :class:`numbacnn.inspect.summary.Row`, backward once as many for the gradient of the layer's inputs and once
    as many for that of its parameters, where these are computed; a method that needs fewer (Winograd's) is credited with all of them. Loss
    and update count none. ``nbytes`` counts each array that a call reads or writes once, without its scratch memory, and adds up over
    the calls; what a call reads several times, or reads and writes, counts once, and what caches hold counts as well.
    """

    layer: str
    type: str
    phase: str
    output_shape: tuple[int, ...]
    seconds: float
    calls: int
    flops: int
    nbytes: int

    @property
    def gigaflops(self) -> float:
        """Operations per second, in 10^9."""
        return self.flops / max(self.seconds, 1e-9) / 1e9

    @property
    def gigabytes(self) -> float:
        """Bytes per second, in 10^9."""
        return self.nbytes / max(self.seconds, 1e-9) / 1e9


@dataclass(frozen=True)
class Profile:
    """Rows in the order in which they run, which cover a step without gaps; ``steps`` holds the calls of each step that was timed call by
    call. ``step_seconds`` is the median of as many steps that were timed as a whole, ``loading_seconds`` what a thread took to prepare a
    batch, None where the batch was given. ``device`` names the GPU, None on the CPU."""

    name: str
    batch: int
    threads: int
    rows: tuple[Row, ...]
    steps: tuple[tuple[Call, ...], ...]
    step_seconds: float
    loading_seconds: float | None = None
    device: str | None = None

    @property
    def seconds(self) -> float:
        """Sum of all rows."""
        return sum(row.seconds for row in self.rows)

    @property
    def profiled_seconds(self) -> float:
        """Median of the steps that were timed call by call: ``step_seconds``, and what reading the clock costs. On a busy machine it is
        more than the sum of all rows, as in each step some call or other is held up."""
        return statistics.median(_length(calls) for calls in self.steps)

    @property
    def flops(self) -> int:
        """Operations of a step."""
        return sum(row.flops for row in self.rows)

    def phases(self) -> dict[str, float]:
        """Seconds of each pass."""
        found: dict[str, float] = {}
        for row in self.rows:
            found[row.phase] = found.get(row.phase, 0.0) + row.seconds
        return found

    def table(self, sort: str = "time", rows: int | None = None) -> str:
        """The rows as text, the slowest first, or in the order of the ``"network"``; the first ``rows`` of them, or all. Raises ConfigError
        for another order or number."""
        chosen = self._chosen(sort, rows)
        cells = [COLUMNS, *(self._cells(row) for row in chosen), *self._rest(chosen)]
        widths = [max(map(len, column)) for column in zip(*cells)]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [
            "  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in zip(line, widths, LEFT)).rstrip()
            for line in cells
        ]
        return "\n".join([self._title(), rule, lines[0], rule, *lines[1:], rule, *self._totals()])

    def __str__(self) -> str:
        return self.table(rows=ROWS)

    def __rich__(self) -> Any:
        return self.rich_table(rows=ROWS)

    def rich_table(self, sort: str = "time", rows: int | None = None) -> Any:
        """As :meth:`table`, for a ``rich.console.Console``."""
        from rich.table import Table

        chosen = self._chosen(sort, rows)
        table = Table(title=self._title(), caption="\n".join(self._totals()), title_justify="left", caption_justify="left")
        for name, left in zip(COLUMNS, LEFT):
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        for cells in [*map(self._cells, chosen), *self._rest(chosen)]:
            table.add_row(*cells)
        return table

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; without the single calls, which are in the trace."""
        rows = [{**asdict(row), "gigaflops": row.gigaflops, "gigabytes": row.gigabytes} for row in self.rows]
        totals = {name: getattr(self, name) for name in ("seconds", "step_seconds", "profiled_seconds", "loading_seconds")}
        where = {"threads": self.threads, "device": self.device}
        return {"name": self.name, "batch": self.batch, **where, **totals, "phases": self.phases(), "rows": rows}

    def save(self, path: str | os.PathLike) -> None:
        """Write all timed steps, one after the other, as a trace in Chrome's Trace Event Format, which https://ui.perfetto.dev and
        chrome://tracing open: a slice for each step, in it one for each row, in it one for each call."""
        names = [
            {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"numbacnn: {self._title()}"}},
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": "training step"}},
        ]
        trace = {"traceEvents": [*names, *self._events()], "displayTimeUnit": "ms", "otherData": {"threads": self.threads}}
        Path(path).write_text(json.dumps(trace) + "\n", encoding="utf-8")

    def _events(self) -> Iterator[dict[str, Any]]:
        begin = 0.0
        for number, calls in enumerate(self.steps, 1):
            end = _length(calls)
            yield _slice(f"step {number}", "step", begin, end, {"batch": self.batch})
            for at, row in enumerate(self.rows):
                own = [call for call in calls if call.row == at]
                figures = {"type": row.type, "output": _shape(row.output_shape), "flops": row.flops, "bytes": row.nbytes}
                last = own[-1].start + own[-1].seconds
                yield _slice(f"{row.layer} {row.phase}", row.phase, begin + own[0].start, last - own[0].start, figures)
                for call in own:
                    shapes = {"arrays": [_shape(shape) for shape in call.shapes], "bytes": call.nbytes}
                    yield _slice(call.kernel, "kernel", begin + call.start, call.seconds, shapes)
            begin += end

    def _chosen(self, sort: str, rows: int | None) -> list[Row]:
        if sort not in ORDERS:
            raise ConfigError(f"A profile was asked to sort by {sort!r}; it sorts by 'time' or in the order of the 'network'.")
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise ConfigError(f"A profile was asked for {rows!r} rows; it takes a whole number of at least 1, or None for all.")
        ordered = sorted(self.rows, key=lambda row: -row.seconds) if sort == "time" else list(self.rows)
        return ordered[:rows]

    def _cells(self, row: Row) -> tuple[str, ...]:
        speeds = f"{row.gigaflops:.1f}" if row.flops else "-", f"{row.gigabytes:.1f}" if row.nbytes else "-"
        return row.layer, row.type, row.phase, _shape(row.output_shape), f"{1e3 * row.seconds:.3f}", self._share(row.seconds), *speeds

    def _rest(self, chosen: Sequence[Row]) -> list[tuple[str, ...]]:
        """A line for the rows that are not shown."""
        count, seconds = len(self.rows) - len(chosen), self.seconds - sum(row.seconds for row in chosen)
        return [(f"{count} more", "", "", "", f"{1e3 * seconds:.3f}", self._share(seconds), "", "")] if count else []

    def _share(self, seconds: float) -> str:
        return f"{100 * seconds / max(self.seconds, 1e-9):.1f} %"

    def _title(self) -> str:
        where = f"{self.threads} thread(s)" if self.device is None else self.device
        return f"{self.name}, a training step of {self.batch} sample{'s' if self.batch > 1 else ''}, {where}"

    def _totals(self) -> list[str]:
        speed = self.batch / self.step_seconds
        phases = ", ".join(f"{phase} {self._share(seconds)}" for phase, seconds in self.phases().items())
        apart = self.profiled_seconds / self.step_seconds - 1
        lines = [
            f"step       {1e3 * self.step_seconds:.3f} ms, {speed:,.0f} samples/s, {quantity(self.flops / self.step_seconds)}FLOP/s",
            f"profiled   {1e3 * self.profiled_seconds:.3f} ms, timed call by call ({apart:+.1%})",
            f"rows       {1e3 * self.seconds:.3f} ms together",
            f"passes     {phases}",
        ]
        if self.loading_seconds is not None:
            lines.append(f"data       {1e3 * self.loading_seconds:.3f} ms to prepare a batch, in another thread")
        return lines


COLUMNS = ("layer", "type", "pass", "output", "ms", "share", "GFLOP/s", "GB/s")
LEFT = (True, True, True, True, False, False, False, False)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "-"


def _length(calls: Sequence[Call]) -> float:
    """Seconds of a step."""
    return calls[-1].start + calls[-1].seconds


def _slice(name: str, category: str, start: float, seconds: float, figures: dict[str, Any]) -> dict[str, Any]:
    """A complete event, in microseconds."""
    return {"name": name, "cat": category, "ph": "X", "ts": 1e6 * start, "dur": 1e6 * seconds, "pid": 1, "tid": 1, "args": figures}
