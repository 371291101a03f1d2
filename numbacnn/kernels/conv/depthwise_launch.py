"""Arithmetic around the depthwise kernels: block sizes, and the launches of each pass (compare :mod:`.launch`)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ...simd import LANES
from ..channels import WIDTH
from .depthwise import EXPANSION_LADDER, HEIGHTS, HELD, depthwise, depthwise_weight_gradient, gradient_tile, pack_taps
from .direct import add_parts
from .ending import EVERYTHING, is_long, resolved
from .launch import (
    GATHERED_PIXELS,
    TASKS_PER_THREAD,
    Residue,
    as_one_line,
    evened,
    geometry_of,
    int_array,
    nothing_gathered,
    panels_of,
    residues,
    rounded,
)
from .tiles import Panels, tile_heights
from .window import Triple, Window

DEPTHWISE_ELEMENTS = 6 * 1024  # of the lines that a task of a depthwise convolution holds
EXPANDED_ELEMENTS = 80 * 1024  # of what it expands for each block of channels, from the second-level cache
MOST_EXPANDED = 128  # channels of which another convolution makes the input of a depthwise one line by line,
LEAST_EXPANSION = 64 * 1024  # elements of that input, and
EXPANDED_COLUMNS = 14  # of the output: shorter lines leave too much of tiles empty
DEPTHWISE_RUN = 3  # taps that share what they read
LEAST_LINES = 4  # of a task's output: it reads some more lines of input, and
LEAST_COLUMNS = 14  # some more columns
GRADIENT_PARTS = 16  # at most, of the weight gradient of a depthwise convolution, and
GRADIENT_LINES = 8  # at least, of one,
GRADIENT_PART = 448  # pixels at least, and
GRADIENT_TOGETHER = 8  # lines that it takes before the next channels
ONE: Triple = (1, 1, 1)


@dataclasses.dataclass(frozen=True)
class DepthwiseBlocks:
    """How a depthwise convolution is cut into tasks."""

    height: int  # of tiles
    rows: int
    columns: int
    spans: Sequence[int]  # of channels: where those of each task begin, and where the last ones end
    piece_rows: int  # of a part of the statistics, as wide as a task, where they are gathered
    offsets: np.ndarray  # where runs of taps start, for each part and each place of their first line in the ring of lines
    lengths: np.ndarray  # of runs
    phases: Sequence[tuple[int, ...]]  # what the kernel takes of each part
    geometry: tuple[Triple, ...]
    scratch: int  # elements per thread


@dataclasses.dataclass(frozen=True)
class Expansion:
    """A pointwise convolution that makes the input of a depthwise one: ``scalar(x @ weights + bias)``, weights from :func:`pack`."""

    packed: np.ndarray
    bias: np.ndarray
    scalar: Callable | None


def depthwise_blocks(
    parts: Sequence[Residue], spread: Triple, channels: int, batch: int, threads: int, expanded: int = 0, gathers: bool = False
) -> DepthwiseBlocks:  # fmt: skip
    """Cut depthwise convolutions of one input with ``channels``, whose places are ``spread`` apart: enough tasks for all threads, whose
    lines fit the cache. Columns follow from the shape alone, and with them the stretches that are summed. ``expanded``: the channels that
    an :class:`Expansion` reads, if there is one; ``gathers``: tasks consist of whole pieces, of which statistics are gathered."""
    window = _around(parts)
    depth, height, width = parts[0].places
    (kd, ring, reach), (_, sh, sw) = window.extent, window.stride
    columns = _depthwise_columns(window, width)
    across = (columns - 1) * sw + reach
    part = -(-across // sw) * HELD
    line = min(sw, across) * part
    blocks, panels, others = -(-channels // HELD), -(-channels // WIDTH), batch * depth * -(-width // columns)
    share = -(-panels // threads) * WIDTH / HELD if expanded and others == 1 else None
    again = (window.extent[1] - sh) / sh if expanded else 0
    rows = _rows_of_task(height, others * blocks, threads, again, height * sh * across * expanded // EXPANDED_ELEMENTS, share)
    piece_rows = evened(height, max(1, GATHERED_PIXELS // columns))
    if gathers:
        rows = -(-rows // piece_rows) * piece_rows
    most = max(len(_runs_of(residue.window)) for residue in parts)
    offsets, lengths = np.zeros((len(parts), ring, most), np.int64), np.zeros((len(parts), most), np.int64)
    phases, weights = [], 0
    for k, residue in enumerate(parts):
        own, runs = residue.window, _runs_of(residue.window)
        down, right = (around - padding for around, padding in zip(window.padding[1:], own.padding[1:]))
        for run, (d, h, taps) in enumerate(runs):
            low, start = h * own.dilation[1] + down, taps[0] * own.dilation[2] + right
            column = start % sw * part + start // sw * HELD
            offsets[k, :, run] = [(d * ring + (first + low) % ring) * line + column for first in range(ring)]
            lengths[k, run] = len(taps)
        phases.append((*residue.start[1:], *residue.places[1:], len(runs), weights, len(residue.taps)))
        weights += depthwise_packed_elements(channels, len(residue.taps))
    spans = [*range(0, channels, HELD), channels]
    if share is not None and rows == height:
        pieces = min(panels, -(-blocks // threads) * threads)
        spans = [*(piece * panels // pieces * WIDTH for piece in range(pieces)), channels]
    narrowest = max(1, columns - (width - min(residue.places[2] for residue in parts)))
    tall = min((h for h in HEIGHTS if h <= narrowest), key=lambda h: -(-columns // h) * (h + 1))
    geometry = (window.stride, window.padding, spread, window.extent, window.dilation)
    return DepthwiseBlocks(tall, rows, columns, spans, piece_rows, offsets, lengths, phases, geometry, rounded(kd * ring * line))


def _rows_of_task(height: int, others: int, threads: int, more: float, fewest: int, share: float | None) -> int:
    """Lines of output of a task: ``others`` tasks have the same lines, ``more`` lines are made again by each, and there are to be at least
    ``fewest`` tasks along the lines. ``share``: how many of the others a thread has if each has all lines, where channels are divided
    among threads."""
    most = -(-height // LEAST_LINES)
    enough = -(-TASKS_PER_THREAD * threads // others)
    cuts = range(min(max(fewest, 1), most), min(max(fewest, enough), most) + 1)

    def load(cut: int) -> float:
        rows = -(-height // cut)
        tasks = -(-others * -(-height // rows) // threads) if share is None or rows < height else share
        return tasks * (rows + more)

    return -(-height // min(reversed(cuts), key=load))


def _runs_of(window: Window) -> list[tuple[int, int, list[int]]]:
    """Plane, line and taps of the runs of a window."""
    return [(d, h, taps) for d, h in np.ndindex(window.extent[:2]) for taps in _column_runs(window)]


def _around(parts: Sequence[Residue]) -> Window:
    """The window over all that any of these convolutions reads for one place, without dilation of lines and columns. They have the same
    stride, and their planes are the same."""
    windows = [part.window for part in parts if part.taps] or [part.window for part in parts]
    front = [max(window.padding[axis] for window in windows) for axis in range(3)]
    lines, columns = (
        max((window.extent[axis] - 1) * window.dilation[axis] - window.padding[axis] for window in windows) + front[axis] + 1
        for axis in (1, 2)
    )
    first = windows[0]
    return Window((first.extent[0], lines, columns), first.stride, (first.dilation[0], 1, 1), tuple(front))  # type: ignore[arg-type]


def _depthwise_columns(window: Window, width: int) -> int:
    """Columns of a task, of ``width``: as many as have their lines of input in the first-level cache."""
    inputs = DEPTHWISE_ELEMENTS // (max(1, window.extent[0]) * _ring(window) * HELD)
    most = (inputs - (window.extent[2] - 1) * window.dilation[2] - 1) // window.stride[2] + 1
    return -(-width // -(-width // max(LEAST_COLUMNS, most)))


def _ring(window: Window) -> int:
    """Lines of input between the first and the last one that a line of output is made of."""
    return max(1, (window.extent[1] - 1) * window.dilation[1] + 1)


def _column_runs(window: Window) -> list[list[int]]:
    """The taps along a line, cut into runs of at most three whose inputs are neighbours, where columns are sorted by their remainder modulo
    the stride."""
    step, dilation = window.stride[2], window.dilation[2]
    together = step // math.gcd(step, dilation)  # so many taps further, the remainder is the same
    near = math.lcm(step, dilation) // step == 1
    runs = []
    for first in range(min(together, window.extent[2])):
        taps = list(range(first, window.extent[2], together))
        length = DEPTHWISE_RUN if near else 1
        runs += [taps[k : k + length] for k in range(0, len(taps), length)]
    return runs


def depthwise_elements(window: Window, channels: int, places: Triple, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`depthwise_convolve` needs."""
    return depthwise_blocks(_whole(window, places), ONE, channels, batch, threads).scratch


def _whole(window: Window, places: Triple) -> list[Residue]:
    """All of a convolution that gives ``places``, as the one residue of a data gradient without a stride."""
    return [Residue((0, 0, 0), places, window, tuple(range(window.taps)))]


def makes_expansion(window: Window, size: Triple, channels: int, places: Triple, outputs: int) -> bool:
    """Whether a convolution can be an :class:`Expansion`, and is faster as one: where its output would hardly stay in the second-level
    cache, and its weights for a block of channels stay in the first-level one. Of no data type may these be paired."""
    pointwise = window.groups == 1 and as_one_line(window, size, places)
    plain = panels_of(window, channels, outputs, np.float32) is not Panels.PAIRED
    return pointwise and plain and channels <= MOST_EXPANDED and math.prod(size) * outputs >= LEAST_EXPANSION


def takes_expansion(places: Triple) -> bool:
    """Whether :func:`depthwise_convolve` that gives ``places`` is faster with an :class:`Expansion`."""
    return places[2] >= EXPANDED_COLUMNS


def depthwise_stretches(window: Window, places: Triple) -> int:
    """How many stretches of lines of pixels :func:`depthwise_convolve` sums, whatever the number of threads."""
    return places[0] * places[1] * -(-places[2] // _depthwise_columns(window, places[2]))


def depthwise_gathered_shape(window: Window, channels: int, places: Triple, batch: int) -> Triple:
    """The parts of the statistics that :func:`depthwise_convolve` gathers: images, planes, and parts of each."""
    plan = depthwise_blocks(_whole(window, places), ONE, channels, batch, 1)
    return batch, places[0], -(-places[1] // plan.piece_rows) * -(-places[2] // plan.columns)


def depthwise_convolve(
    x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, window: Window, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None, sums: np.ndarray | None = None,
    expansion: Expansion | None = None, gathered: np.ndarray | None = None,
) -> None:  # fmt: skip
    """``y = activation(depthwise conv(x) + bias + addend)``; arrays ``(N, D, H, W, C)``, weights from :func:`pack_depthwise`. ``sums
    (N, stretches, C)`` gets the sums of ``y`` over each of :func:`depthwise_stretches`. The convolution is of what the ``expansion`` makes
    of ``x``, if there is one. What is ``gathered (STATISTICS, 1, parts, C)`` are the statistics of ``y``, by the parts of
    :func:`depthwise_gathered_shape` in their order."""
    if gathered is not None:
        pieces = depthwise_gathered_shape(window, y.shape[4], y.shape[1:4], y.shape[0])
        gathered = gathered.reshape(len(gathered), *pieces, y.shape[4])
    parts = _whole(window, y.shape[1:4])
    _convolve_parts(x, packed, bias, y, parts, ONE, scratch, addend, activation, sums, expansion, gathered)


def _convolve_parts(
    x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, parts: Sequence[Residue], spread: Triple, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None, sums: np.ndarray | None = None,
    expansion: Expansion | None = None, gathered: np.ndarray | None = None,
) -> None:  # fmt: skip
    """:func:`depthwise_convolve` for several ``parts`` of the places of ``y``, whose lines and columns are ``spread`` apart."""
    expanded = 0 if expansion is None else x.shape[4]
    plan = depthwise_blocks(parts, spread, y.shape[4], y.shape[0], scratch.shape[0], expanded, gathered is not None)
    assert plan.scratch <= scratch.shape[1], "a patch must fit the scratch of its thread"
    function, low, high = resolved(activation)
    before, weights, shift, floor, ceiling, longest = _expansion(expansion, packed, bias, x.shape[3])
    depthwise(plan.height, function, before)(
        x, weights, shift, floor, ceiling, tile_heights(longest, EXPANSION_LADDER),
        packed, bias, addend is not None, y if addend is None else addend, low, high, y,
        np.empty((0, 0, 0), y.dtype) if sums is None else sums, nothing_gathered(y) if gathered is None else gathered, plan.piece_rows,
        plan.offsets, plan.lengths, np.array(plan.phases, np.int64), np.array(plan.geometry, np.int64),
        plan.rows, plan.columns, int_array(plan.spans), scratch,
    )  # fmt: skip


def _expansion(expansion: Expansion | None, packed: np.ndarray, bias: np.ndarray, columns: int) -> tuple:
    """What the kernel is made for, and what it takes, of an expansion of lines of ``columns``: weights, bias, clamp and longest line."""
    if expansion is None:
        return None, packed, bias, *EVERYTHING, 0
    function, low, high = resolved(expansion.scalar)
    return (function, is_long(expansion.scalar)), expansion.packed, expansion.bias, low, high, columns


def depthwise_packed_elements(channels: int, taps: int) -> int:
    """Elements of packed weights."""
    return -(-channels // HELD) * taps * HELD


def pack_depthwise(weight: np.ndarray, window: Window, scale: np.ndarray, packed: np.ndarray) -> None:
    """Pack ``weight (kernel..., 1, C)`` times ``scale (C,)`` for :func:`depthwise_convolve` with ``window``."""
    flat = weight.reshape(-1, weight.shape[-1])
    _pack_taps(flat, tuple(range(flat.shape[0])), window, scale, packed)


def _pack_taps(weight: np.ndarray, taps: tuple[int, ...], window: Window, scale: np.ndarray, packed: np.ndarray) -> None:
    """Pack the ``taps`` of a ``window``, in the order of its runs."""
    lines = window.extent[0] * window.extent[1]
    chosen = [taps[line * window.extent[2] + tap] for line in range(lines) for run in _column_runs(window) for tap in run]
    pack_taps(weight, int_array(chosen), scale, packed.reshape(-1, len(taps), HELD))


def depthwise_data_gradient_elements(window: Window, size: Triple, channels: int, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`depthwise_data_gradient` needs."""
    return max(depthwise_blocks(parts, window.stride, channels, batch, threads).scratch for parts in _plane_residues(window, size))


def _plane_residues(window: Window, size: Triple) -> list[list[Residue]]:
    """The residues, those of the same planes together: they read the same planes."""
    return [list(parts) for _, parts in itertools.groupby(residues(window, size), lambda part: part.start[0])]


def depthwise_data_gradient(
    dy: np.ndarray, weight: np.ndarray, packed: np.ndarray, dx: np.ndarray, window: Window, scratch: np.ndarray
) -> None:
    """``dx`` of a depthwise convolution with ``weight (kernel..., 1, C)``; ``packed`` is scratch as large as packed weights."""
    channels = weight.shape[-1]
    flat = weight.reshape(-1, channels)
    ones, zeros = np.ones(channels, dx.dtype), np.zeros(channels, dx.dtype)
    at = 0
    for parts in _plane_residues(window, dx.shape[1:4]):
        first = at
        for part in parts:
            taps = packed[at : at + depthwise_packed_elements(channels, len(part.taps))]
            at += taps.size
            if part.taps:
                _pack_taps(flat, part.taps, part.window, ones, taps)
        _convolve_parts(dy, packed[first:], zeros, dx[:, parts[0].start[0] :: window.stride[0]], parts, window.stride, scratch)


@dataclasses.dataclass(frozen=True)
class DepthwiseGradientBlocks:
    """How the weight gradient of a depthwise convolution is cut into tasks: all follows from the shape, so that the bits do not depend on
    the number of threads."""

    together: int  # lines that a task takes through all of its channels before the next ones
    parts: int
    scratch: int  # elements per thread

    def elements(self, window: Window, channels: int, threads: int) -> int:
        """Scratch elements per thread, and a thread's share of the parts."""
        return self.scratch + rounded(-(-self.parts * window.taps * channels // threads))


def depthwise_gradient_blocks(window: Window, channels: int, places: Triple, batch: int) -> DepthwiseGradientBlocks:
    """Cut the weight gradient of a depthwise convolution that gave ``places``."""
    taps, _, vectors = gradient_tile(window.extent)
    sums = (
        3 * window.extent[0] * window.extent[1] * -(-window.extent[2] // taps) * taps * -(-channels // (vectors * LANES)) * vectors * LANES
    )
    parts = max(1, min(GRADIENT_PARTS, batch * math.prod(places) // GRADIENT_PART, batch * places[0] * places[1] // GRADIENT_LINES))
    return DepthwiseGradientBlocks(GRADIENT_TOGETHER, parts, rounded(sums))


def depthwise_gradient_elements(window: Window, channels: int, places: Triple, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`depthwise_weight_gradients` needs."""
    return depthwise_gradient_blocks(window, channels, places, batch).elements(window, channels, threads)


def depthwise_weight_gradients(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    """``dw (kernel..., 1, C)`` of a depthwise convolution."""
    total = dw.reshape(window.taps, -1)
    plan = depthwise_gradient_blocks(window, dy.shape[4], dy.shape[1:4], len(dy))
    threads, memory = len(scratch), scratch.reshape(-1)
    own = memory[: threads * plan.scratch].reshape(threads, -1)
    parts = memory[own.size : own.size + plan.parts * total.size].reshape(plan.parts, *total.shape) if plan.parts > 1 else total[None]
    gradient = depthwise_weight_gradient(*gradient_tile(window.extent))
    gradient(x, dy, parts, geometry_of(window), plan.together, own)
    if plan.parts > 1:
        add_parts(parts, total)
