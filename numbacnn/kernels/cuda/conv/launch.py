"""The passes of a convolution: what each launches, and the scratch that it needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ...conv.launch import residues
from ...conv.window import Triple, Window, met
from ..ending import Ending
from ..memory import DeviceArray, on_device
from ..parts import add_parts, statistics_parts
from .direct import CLASS, TAP, convolution
from .gradient import weight_gradient
from .tiles import VECTOR, Cut, Tile, cut

ALIGNMENT = 16  # bytes, of what is loaded and stored by fours


@dataclasses.dataclass(frozen=True)
class Problem:
    """A convolution of ``(N, D, H, W, C)``: its window, ``size`` places with ``channels``, which give ``places`` with ``outputs`` channels,
    of ``batch`` images; axes that there are not have one place."""

    window: Window
    size: Triple
    channels: int
    places: Triple
    outputs: int
    batch: int


@dataclasses.dataclass(frozen=True)
class _Class:
    """Places of what is computed, one in ``steps`` from ``start`` on, which see what is read through a ``window`` of these ``taps``."""

    start: Triple
    steps: Triple
    places: Triple
    window: Window
    taps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Direct:
    """A pass that computes ``places`` with ``outputs`` channels from ``size`` places with ``channels``."""

    problem: Problem

    _transposed: ClassVar[bool]  # whether weights are read from their outputs to their inputs

    def _sides(self) -> tuple[Triple, int, Triple, int]:
        """``(size, channels, places, outputs)``."""
        raise NotImplementedError

    def _classes(self) -> list[_Class]:
        raise NotImplementedError

    def _cut(self, classes: Sequence[_Class]) -> Cut:
        _, channels, _, outputs = self._sides()
        groups = self.problem.window.groups
        rows = self.problem.batch * max(math.prod(each.places) for each in classes)
        depth = max(len(each.taps) for each in classes) * channels // groups
        wide = channels // groups % VECTOR == outputs // groups % VECTOR == 0
        return cut(rows, outputs // groups, depth, groups * len(classes), wide)

    @property
    def scratch_elements(self) -> int:
        """Elements of scratch that :meth:`run` needs."""
        _, _, places, outputs = self._sides()
        parts = self._cut(self._classes()).parts
        return parts * self.problem.batch * math.prod(places) * outputs if parts > 1 else 0

    @property
    def statistics_parts(self) -> int:
        """Parts of the statistics that :meth:`run` gathers of its output."""
        classes, (_, _, places, outputs) = self._classes(), self._sides()
        found = self._cut(classes)
        if found.parts > 1:
            return statistics_parts(self.problem.batch * math.prod(places), outputs)
        return len(classes) * self._row_tiles(classes, found.tile)

    def _row_tiles(self, classes: Sequence[_Class], tile: Tile) -> int:
        """Tiles of the places of each class."""
        return -(-self.problem.batch * max(math.prod(each.places) for each in classes) // tile.rows)

    def run(self, x: DeviceArray, weight: DeviceArray, y: DeviceArray, ending: Ending, scratch: Any) -> None:
        """``y`` from ``x``, with that ``ending``. ``scratch`` as of :attr:`scratch_elements`, or None for no elements."""
        classes, (size, channels, places, outputs) = self._classes(), self._sides()
        groups = self.problem.window.groups
        channels, outputs = channels // groups, outputs // groups
        found, transposed = self._cut(classes), self._transposed
        tile, parts = found.tile, found.parts
        target, end = (y, ending) if parts == 1 else (scratch, Ending())
        wide_w = _wide(weight, channels if transposed else outputs)
        wide_x = _wide(x, channels) and (wide_w or not transposed)
        function = convolution(tile, wide_x, wide_w, _wide(target, outputs), transposed, end.kind, end.statistics is not None)
        row_tiles = self._row_tiles(classes, tile)
        column_tiles = -(-outputs // tile.columns)
        pixel = groups * outputs
        row, plane, image = (pixel * math.prod(places[axis:]) for axis in (2, 1, 0))
        step_d, step_h, step_w = classes[0].steps
        function(
            len(classes) * groups * parts * row_tiles * column_tiles, x, weight, target, *end.arguments(target),
            *end.gathered(target), on_device(self._table(classes)), groups, parts, row_tiles, column_tiles, found.length, y.size, channels,
            outputs, groups * (channels if transposed else outputs), *size, *classes[0].window.stride, image, step_d * plane,
            step_h * row, step_w * pixel, tile.depth // channels * TAP, tile.depth % channels,
        )  # fmt: skip
        if parts > 1:
            add_parts(scratch, parts, y, ending)

    def _table(self, classes: Sequence[_Class]) -> np.ndarray:
        """What the kernel looks up (see ``direct.py``)."""
        (_, in_height, in_width), channels, (_, height, width), outputs = self._sides()
        heads: list[tuple] = []
        taps: list[tuple] = []
        at = CLASS * len(classes)
        for each in classes:
            first = (each.start[0] * height + each.start[1]) * width + each.start[2]
            rows = self.problem.batch * math.prod(each.places)
            heads.append((rows, *each.places, *(-p for p in each.window.padding), first * outputs, len(each.taps), at + TAP * len(taps)))
            for number, tap in enumerate(each.taps):
                d, h, w = (k * step for k, step in zip(np.unravel_index(number, each.window.extent), each.window.dilation))
                weight = tap * (outputs // self.problem.window.groups) * channels if self._transposed else 0
                taps.append((((d * in_height + h) * in_width + w) * channels, d, h, w, weight))
        return np.array([number for row in (*heads, *taps) for number in row], np.int32)


class Forward(_Direct):
    """The convolution itself."""

    _transposed = False

    def _sides(self) -> tuple[Triple, int, Triple, int]:
        problem = self.problem
        return problem.size, problem.channels, problem.places, problem.outputs

    def _classes(self) -> list[_Class]:
        window = self.problem.window
        return [_Class((0, 0, 0), (1, 1, 1), self.problem.places, window, tuple(range(window.taps)))]


class DataGradient(_Direct):
    """The gradient of its input, ``dx`` from ``dy``; as a layer, a transposed convolution."""

    _transposed = True

    def _sides(self) -> tuple[Triple, int, Triple, int]:
        problem = self.problem
        return problem.places, problem.outputs, problem.size, problem.channels

    def _classes(self) -> list[_Class]:
        problem, found = self.problem, []
        for part in residues(problem.window, problem.size):
            seen, kept = met(part.window, problem.places, part.places)
            taps = tuple(part.taps[tap] for tap in kept)
            found.append(_Class(part.start, problem.window.stride, part.places, seen, taps))
        return found


@dataclasses.dataclass(frozen=True)
class WeightGradient:
    """The gradient of its weights, ``dw (kernel..., C / groups, CO)`` from ``x`` and ``dy``."""

    problem: Problem

    def _sizes(self) -> tuple[int, int, int, Cut]:
        """Rows, columns and depth of the product, and how it is cut."""
        problem, groups = self.problem, self.problem.window.groups
        rows, columns = problem.window.taps * problem.channels // groups, problem.outputs // groups
        depth = problem.batch * math.prod(problem.places)
        wide = problem.channels // groups % VECTOR == columns % VECTOR == 0
        return rows, columns, depth, cut(rows, columns, depth, groups, wide)

    @property
    def scratch_elements(self) -> int:
        """Elements of scratch that :meth:`run` needs."""
        rows, columns, _, found = self._sizes()
        return found.parts * rows * columns * self.problem.window.groups if found.parts > 1 else 0

    def run(self, x: DeviceArray, dy: DeviceArray, dw: DeviceArray, scratch: Any) -> None:
        """Fill ``dw``. ``scratch`` as of :attr:`scratch_elements`, or None for no elements."""
        problem, window = self.problem, self.problem.window
        rows, columns, depth, found = self._sizes()
        tile, parts, channels = found.tile, found.parts, problem.channels // window.groups
        row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
        target = dw if parts == 1 else scratch
        weight_gradient(tile, _wide(x, channels), _wide(dy, columns))(
            window.groups * parts * row_tiles * column_tiles, x, dy, target, window.groups, parts, row_tiles, column_tiles, found.length,
            dw.size, channels, columns, rows, depth, *problem.places, *_digits(tile.depth, problem.places), *problem.size,
            *window.extent[1:], *window.stride, *window.dilation, *window.padding,
        )  # fmt: skip
        if parts > 1:
            add_parts(scratch, parts, dw)


def _wide(array: DeviceArray, channels: int) -> bool:
    """Whether ``channels`` of each pixel may be loaded or stored by fours."""
    return channels % VECTOR == 0 and array.offset % ALIGNMENT == 0


def _digits(count: int, places: Triple) -> tuple[int, int, int, int]:
    """``count`` places further on are so many along each of the three axes, and so many images."""
    rest, w = divmod(count, places[2])
    rest, h = divmod(rest, places[1])
    n, d = divmod(rest, places[0])
    return d, h, w, n
