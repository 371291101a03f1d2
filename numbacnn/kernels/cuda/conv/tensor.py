"""The passes of a convolution on tensor cores, with the same methods as those of ``launch.py``.

Products are of ``"tf32"`` numbers, rounded to 10 bits of mantissa (a relative error of up to 2**-11 of each factor), or of ``"bf16"``
numbers, rounded to 7 (2**-8); sums are float32. Arrays are float32, or for bf16 also :data:`~numbacnn.kernels.bfloat16.BF16`: these are
read at half the cost, and where channels come by eights they go to shared memory as they are. :func:`fits` says which convolutions can
be computed so.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ...bfloat16 import BF16
from ..ending import Ending
from ..launch import blocks_for
from ..memory import DeviceArray, on_device
from ..parts import add_parts
from . import bf16, bf16_stored, gather, tf32
from .gather import CHUNK, DEPTH, Axes
from .launch import ALIGNMENT, Problem
from .tile import ROWS

PRODUCTS: dict[str, Any] = {"tf32": tf32, "bf16": bf16}
AT_ONCE = 264  # blocks, of a large GPU: two on each multiprocessor
LEAST_TILES = 8  # of pixels, of a part of the gradient of weights
NARROW_COST = 0.6  # of a block with 64 columns: half of the products of one with 128, and more than half of its copies


def fits(problem: Problem, *arrays: DeviceArray) -> bool:
    """Whether tensor cores can take a convolution of these arrays: rows of whole 16 bytes, in each group, and no very large kernel."""
    group = CHUNK * problem.window.groups
    in_chunks = problem.channels % group == 0 and problem.outputs % group == 0 and all(array.offset % ALIGNMENT == 0 for array in arrays)
    return in_chunks and sum(problem.window.extent) <= gather.MOST_TAPS


@dataclasses.dataclass(frozen=True)
class _Pass:
    """A pass of a convolution that :func:`fits`."""

    problem: Problem
    precision: str

    def _kernels(self, left: DeviceArray, right: DeviceArray) -> Any:
        """The module of the kernels for these operands."""
        group = bf16_stored.COPIED * self.problem.window.groups
        by_eights = self.problem.channels % group == self.problem.outputs % group == 0
        stored = all(operand.dtype == BF16 and operand.offset % ALIGNMENT == 0 for operand in (left, right))
        return bf16_stored if self.precision == "bf16" and stored and by_eights else PRODUCTS[self.precision]


class _Correlation(_Pass):
    """A pass that adds up taps, for each set of axes."""

    scratch_elements = 0
    transposed: bool  # whether the weights are read from their filters to their channels

    def _sides(self) -> tuple[list[Axes], int, int]:
        """``(axes, channels, outputs)``."""
        raise NotImplementedError

    @property
    def statistics_parts(self) -> int:
        """Parts of the statistics that :meth:`run` gathers of its output."""
        sets, _, _ = self._sides()
        return sum(map(self._row_blocks, sets))

    def _row_blocks(self, axes: Axes) -> int:
        """Blocks of pixels."""
        return blocks_for(self.problem.batch * math.prod(axis.count for axis in axes), ROWS)

    def run(self, x: DeviceArray, weight: DeviceArray, y: DeviceArray, ending: Ending, scratch: Any = None) -> None:
        """``y`` from ``x``, with that ``ending``."""
        sets, channels, outputs = self._sides()
        problem, groups, kernels = self.problem, self.problem.window.groups, self._kernels(x, weight)
        group, group_outputs, per_channel = channels // groups, outputs // groups, problem.outputs
        per_tap = problem.channels // groups * per_channel
        part = 0
        for axes in sets:
            met: Axes = tuple(axis.met() for axis in axes)  # type: ignore[assignment]
            pixels = gather.pixels(met, channels, outputs)
            chunks = gather.chunks(met, group, channels, (per_tap, 1 if self.transposed else per_channel))
            rows, tiles = problem.batch * pixels.shape[1], chunks.shape[1] // (DEPTH // CHUNK) - 1
            columns = _columns(rows, group_outputs, groups)
            column_blocks = blocks_for(group_outputs, columns)
            kernels.convolution(ending.kind, columns, self.transposed, ending.statistics is not None)(
                (blocks_for(rows, ROWS) * column_blocks, groups), x, weight, y, *ending.arguments(y), *self._gathered(ending, y, part),
                on_device(pixels), on_device(chunks), rows, pixels.shape[1], x.size // problem.batch, y.size // problem.batch, group,
                group_outputs, per_channel, tiles, column_blocks, shared=kernels.shared_bytes(columns),
            )  # fmt: skip
            part += self._row_blocks(axes)

    def _gathered(self, ending: Ending, y: DeviceArray, part: int) -> tuple:
        """What kernels take to gather statistics; the first block of pixels leaves part number ``part``."""
        statistics, plane_size = ending.gathered(y)
        return statistics if plane_size == 0 else statistics.reshape(-1)[part * y.shape[-1] :], plane_size


class Forward(_Correlation):
    """The convolution itself."""

    transposed = False

    def _sides(self) -> tuple[list[Axes], int, int]:
        problem = self.problem
        return [gather.forward_axes(problem.window, problem.size, problem.places)], problem.channels, problem.outputs


class DataGradient(_Correlation):
    """The gradient of its input, ``dx`` from ``dy``; as a layer, a transposed convolution."""

    transposed = True

    def _sides(self) -> tuple[list[Axes], int, int]:
        problem = self.problem
        return gather.data_gradient_axes(problem.window, problem.size, problem.places), problem.outputs, problem.channels


class WeightGradient(_Pass):
    """The gradient of its weights, ``dw (kernel..., C / groups, CO)`` from ``x`` and ``dy``."""

    @property
    def lines(self) -> int:
        """Rows of the product: channels of taps."""
        return self.problem.window.taps * self.problem.channels // self.problem.window.groups

    def _cut(self) -> tuple[int, int, int]:
        """``(columns of a block, parts, tiles of each)``: so many parts that there are blocks enough for a large GPU, but none is short."""
        problem, groups = self.problem, self.problem.window.groups
        columns = _columns(self.lines, problem.outputs // groups, groups)
        blocks = blocks_for(self.lines, ROWS) * blocks_for(problem.outputs // groups, columns) * groups
        tiles = blocks_for(problem.batch * math.prod(problem.places), DEPTH)
        length = blocks_for(tiles, max(1, min(AT_ONCE // blocks, tiles // LEAST_TILES)))
        return columns, blocks_for(tiles, length), length

    @property
    def scratch_elements(self) -> int:
        """Elements of scratch that :meth:`run` needs."""
        _, parts, _ = self._cut()
        return parts * self.lines * self.problem.outputs if parts > 1 else 0

    def run(self, x: DeviceArray, dy: DeviceArray, dw: DeviceArray, scratch: Any) -> None:
        """Fill ``dw``. ``scratch`` as of :attr:`scratch_elements`, or None for no elements."""
        problem, groups, lines, kernels = self.problem, self.problem.window.groups, self.lines, self._kernels(x, dy)
        group, group_outputs = problem.channels // groups, problem.outputs // groups
        columns, parts, length = self._cut()
        axes = gather.forward_axes(problem.window, problem.size, problem.places)
        pixels = gather.pixels(axes, problem.channels, problem.outputs)
        chunks = gather.chunks(axes, group, problem.channels, (group * problem.outputs, problem.outputs), in_order=True)
        column_blocks = blocks_for(group_outputs, columns)
        kernels.weight_gradient(columns)(
            (blocks_for(lines, ROWS) * column_blocks, groups, parts), x, dy, dw if parts == 1 else scratch, on_device(pixels),
            on_device(chunks[:, : lines // CHUNK]), problem.batch * pixels.shape[1], pixels.shape[1], x.size // problem.batch,
            dy.size // problem.batch, group, group_outputs, problem.outputs, lines, column_blocks, length, dw.size,
            shared=kernels.shared_bytes(columns),
        )  # fmt: skip
        if parts > 1:
            add_parts(scratch, parts, dw)


def _columns(rows: int, outputs: int, groups: int) -> int:
    """Of a block: what takes fewer turns of a large GPU's multiprocessors."""

    def cost(columns: int) -> float:
        blocks = blocks_for(rows, ROWS) * blocks_for(outputs, columns) * groups
        return blocks_for(blocks, AT_ONCE) * (1 if columns == 128 else NARROW_COST)

    return min((128, 64), key=cost)
