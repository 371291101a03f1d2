"""What a model is made of, as a table: shapes, parameters, operations, receptive fields and memory of activations.

All of it is arithmetic on shapes: no kernel runs, and Numba is not imported.
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from .receptive_field import ReceptiveField, receptive_fields


@dataclass(frozen=True)
class Row:
    """One application of a layer.

    ``parameters`` counts the numbers that the layer learns (a convolution: ``kernel * (C_in / groups) * C_out``, and ``C_out`` of a
    bias), ``trainable`` those of them that are not frozen, and ``state`` those that it keeps beside them (running statistics). A layer
    that shares the weights of an earlier row counts none and has ``shared`` set. ``flops`` are the operations of one sample's forward
    pass, those of the layer's activation included, a multiply-add counted as two (a convolution: ``2 * kernel * (C_in / groups) * C_out
    * output places``). ``activation_bytes`` is the size of the outputs for one sample, ``elements * bytes of a number``.
    """

    name: str
    layer: str
    output_shape: tuple[int, ...] | tuple[tuple[int, ...], ...]
    parameters: int
    trainable: int
    state: int
    flops: int
    receptive_field: ReceptiveField
    activation_bytes: int
    shared: bool = False


@dataclass(frozen=True)
class Summary:
    """Rows in the order in which the layers run, and totals. ``receptive_field`` is that of the (first) output (size, stride and centre
    as :mod:`numbacnn.inspect.receptive_field` computes them)."""

    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    rows: tuple[Row, ...]
    receptive_field: ReceptiveField

    @property
    def parameters(self) -> int:
        """Numbers that the model learns, frozen or not; shared ones count once."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """``parameters`` without those that are frozen at present."""
        return sum(row.trainable for row in self.rows)

    @property
    def state(self) -> int:
        """Numbers that the model keeps but doesn't learn: running statistics."""
        return sum(row.state for row in self.rows)

    @property
    def flops(self) -> int:
        """Operations of one sample's forward pass, a multiply-add counted as two."""
        return sum(row.flops for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Size of all layers' outputs for one sample, were none of them to share memory."""
        return sum(row.activation_bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        rows = [asdict(row) for row in self.rows]
        totals = {key: getattr(self, key) for key in ("parameters", "trainable", "state", "flops", "activation_bytes")}
        field = asdict(self.receptive_field)
        return {"name": self.name, "input_shapes": self.input_shapes, **totals, "receptive_field": field, "rows": rows}

    def __str__(self) -> str:
        table = [COLUMNS, *(_cells(row) for row in self.rows)]
        widths = [max(len(cells[k]) for cells in table) for k in range(len(COLUMNS))]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [_line(cells, widths) for cells in table]
        return "\n".join([self._title(), rule, lines[0], rule, *lines[1:], rule, *self._totals()])

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self._title(), caption="\n".join(self._totals()), title_justify="left", caption_justify="left")
        for name, left in zip(COLUMNS, LEFT):
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*_cells(row))
        return table

    def _repr_html_(self) -> str:
        def cells(tag: str, texts: tuple[str, ...]) -> str:
            aligned = [f'<{tag} style="text-align:{"left" if left else "right"}">' for left in LEFT]
            return "<tr>" + "".join(f"{start}{html.escape(text)}</{tag}>" for start, text in zip(aligned, texts)) + "</tr>"

        caption = f"<caption>{html.escape(self._title())}</caption>"
        body = "".join(cells("td", _cells(row)) for row in self.rows)
        totals = "<br>".join(map(html.escape, self._totals()))
        return f"<table>{caption}<thead>{cells('th', COLUMNS)}</thead><tbody>{body}</tbody></table><p>{totals}</p>"

    def _title(self) -> str:
        return f"{self.name}, input {', '.join(map(_shape, self.input_shapes))}"

    def _totals(self) -> list[str]:
        frozen = self.parameters - self.trainable
        lines = [
            f"parameters       {self.parameters:,}" + (f" ({self.trainable:,} trainable, {frozen:,} frozen)" if frozen else ""),
            *([f"state            {self.state:,} (running statistics)"] if self.state else []),
            f"operations       {quantity(self.flops)}FLOP per sample (a multiply-add counts as two)",
            f"activations      {quantity(self.activation_bytes, 1024)}B per sample",
        ]
        field = self.receptive_field
        if field.size:
            stride = f", stride {_per_axis(field.stride)}" if any(field.stride) else ""
            lines.append(f"receptive field  {field}{stride}, first centre at {_per_axis(field.centre)}")
        return lines


COLUMNS = ("layer", "type", "output", "parameters", "FLOP", "receptive field", "activations")
LEFT = (True, True, True, False, False, False, False)


def summarize(model: Any) -> Summary:
    """Summary of a model. Runs no kernel."""
    graph = model.graph
    fields = receptive_fields(graph.inputs, graph.nodes)
    counted: set[str] = set()
    rows = []
    for node in graph.nodes:
        rows.append(_row(model, node, fields[node.outputs[0]], counted))
        counted.update(node.parameters.values())
    return Summary(
        name=model.name or "model",
        input_shapes=tuple(tuple(t.shape) for t in graph.inputs),
        rows=tuple(rows),
        receptive_field=fields[graph.outputs[0]],
    )


def _row(model: Any, node: Any, field: ReceptiveField, counted: set[str]) -> Row:
    specs = model.graph.specs
    sizes = {name: prod(specs[name].shape) for name in node.parameters.values() if name not in counted}
    learned = {name: size for name, size in sizes.items() if specs[name].trainable}
    flops = node.layer.flops(node.shapes) + (node.activation.flops(node.outputs[0].shape) if node.activation else 0)
    shapes = tuple(tuple(t.shape) for t in node.outputs)
    return Row(
        name=node.name,
        layer=type(node.layer).__name__,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
        parameters=sum(learned.values()),
        trainable=sum(size for name, size in learned.items() if name not in model.store.frozen),
        state=sum(sizes.values()) - sum(learned.values()),
        flops=int(flops),
        receptive_field=field,
        activation_bytes=sum(map(prod, shapes)) * np.dtype(model.dtype).itemsize,
        shared=bool(node.parameters) and not sizes,
    )


def _cells(row: Row) -> tuple[str, ...]:
    shapes = row.output_shape if row.output_shape and isinstance(row.output_shape[0], tuple) else (row.output_shape,)
    counted = "shared" if row.shared else f"{row.parameters:,}" if row.parameters else "-"
    flops = quantity(row.flops) if row.flops else "-"
    size = f"{quantity(row.activation_bytes, 1024)}B"
    return row.name, row.layer, ", ".join(map(_shape, shapes)), counted, flops, str(row.receptive_field), size


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _per_axis(numbers: tuple[float, ...]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(w) if left else cell.rjust(w) for cell, w, left in zip(cells, widths, LEFT)).rstrip()


def quantity(value: float, base: int = 1000) -> str:
    """A count in three digits and a prefix: ``4.09 G``; with base 1024 ``1.2 Mi``."""
    prefixes = ("", "k", "M", "G", "T", "P") if base == 1000 else ("", "Ki", "Mi", "Gi", "Ti", "Pi")
    power = 0
    while value >= base and power < len(prefixes) - 1:
        value, power = value / base, power + 1
    digits = f"{value:.0f}" if power == 0 or value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{digits} {prefixes[power]}"
