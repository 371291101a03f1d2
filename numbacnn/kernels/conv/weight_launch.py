"""How weight gradients are cut into tasks, and their launches."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ...simd import LANES
from ..channels import VECTORS, WIDTH
from .direct import add_parts, weight_gradient
from .folding import folding, unfold_gradient
from .launch import as_one_line, geometry_of, leaves_out, patch_of, rounded, vectors_of, without_gaps
from .narrow import narrow_weight_gradient
from .tiles import MAX_ROWS, tile_heights
from .window import POINTWISE, Triple, Window

GRADIENT_PIXELS = 256  # pixels per block of the weight gradient, at most, and
PANEL_PIXELS = 168  # of a pointwise one: a panel of inputs and one of gradients should stay in a first-level cache
GRADIENT_ELEMENTS = 96 * 1024  # of input and gradients that a task of it holds at a time
NARROW_ELEMENTS = 12 * 1024  # of input and gradients that a task of a narrow one holds at a time: most stay in a first-level cache
NARROW_COLUMNS = 256  # at most, of its blocks of pixels
NARROW_PARTS = 16  # at most, whose sums are added up,
NARROW_PIXELS = 512  # at least, of one, and
NARROW_WEIGHTS = 64 * 1024  # at most, of all of them
NARROW_INPUTS = 24  # at most, of a line of the kernel, where there are more than two vectors of output channels
NARROW_BLOCK = 64  # pixels at least, of images whose groups have two vectors
COPY_COST = 4  # of a vector: as much as so many times LANES products


@dataclasses.dataclass(frozen=True)
class GradientBlocks:
    """How a weight gradient is cut into tasks."""

    rows: int
    columns: int
    channels: int
    panels: int
    cost: float  # of the thread that has most to do, in vector products
    scratch: int


def gradient_blocks(window: Window, channels: int, places: Triple, outputs: int, batch: int, threads: int) -> GradientBlocks:
    """Cut the weight gradient of a convolution that gave ``places`` with ``outputs`` channels. Rows and columns, and with them the order of
    sums, follow from the shape alone; channels and panels are the ones that copy least, for all threads."""
    channels, panels = channels // window.groups, -(-outputs // window.groups // WIDTH)
    panelled, pixels = _panelled(window), PANEL_PIXELS if _panelled(window) else GRADIENT_PIXELS
    columns = -(-places[2] // -(-places[2] // pixels)) if panelled else min(places[2], pixels)
    line = (columns - 1) * window.stride[2] + (window.extent[2] - 1) * window.dilation[2] + 1
    rows = max(1, min(batch * places[0] * places[1], pixels // max(columns, line // window.stride[2])))
    lines = window.groups * window.extent[0] * window.extent[1]

    def scratch(block: int, some: int) -> int:
        panel = (rows * columns + 1) * WIDTH
        return (-(-block // WIDTH) * panel if panelled else rows * line * block) + some * panel + MAX_ROWS * WIDTH

    def cost(block: int, some: int) -> float:
        """Per column of a line, in products of a panel."""
        tasks = lines * -(-channels // block) * -(-panels // some)
        products = block * some * window.extent[2]
        copies = COPY_COST * (block / LANES * line / columns + some * VECTORS)
        return -(-tasks // threads) * (products + copies)

    unit = WIDTH if panelled else 1
    cuts = [(min(channels, -(-channels // c // unit) * unit), -(-panels // p)) for c in counts(channels) for p in counts(panels)]
    fitting = [cut for cut in cuts if scratch(*cut) <= GRADIENT_ELEMENTS] or [min(cuts, key=lambda cut: scratch(*cut))]
    block, some = min(fitting, key=lambda cut: cost(*cut))
    total = batch * math.prod(places) * VECTORS * cost(block, some)
    return GradientBlocks(rows, columns, block, some, total, rounded(scratch(block, some)))


def counts(length: int) -> list[int]:
    """Numbers of parts that ``length`` may be cut into."""
    return sorted({min(length, count) for power in range(length.bit_length() + 1) for count in (2**power, 3 * 2**power)})


@dataclasses.dataclass(frozen=True)
class NarrowBlocks:
    """How the weight gradient of a convolution with narrow groups is cut into tasks: all follows from the shape, so that the bits do not
    depend on the number of threads."""

    rows: int
    columns: int
    channels: int
    parts: int
    weights: int  # of a part
    scratch: int  # elements per thread

    def elements(self, threads: int) -> int:
        """Scratch elements per thread, and a thread's share of the parts."""
        return self.scratch + rounded(-(-self.parts * self.weights // threads))


def narrow_blocks(window: Window, channels: int, places: Triple, outputs: int, batch: int) -> NarrowBlocks:
    """Cut the weight gradient of a convolution that gave ``places`` with ``outputs`` channels, few in each group."""
    weights = window.taps * channels // window.groups * outputs
    width = _tile_vectors(window, outputs) * LANES
    channels, outputs = channels // window.groups, min(width, outputs // window.groups)
    columns = -(-places[2] // -(-places[2] // NARROW_COLUMNS))

    def held(rows: int, block: int) -> int:
        return math.prod(patch_of(window, rows, columns, block)) + rows * columns * outputs

    block = channels
    while block > LANES and held(1, block) > NARROW_ELEMENTS:
        block = -(-block // 2)
    rows = 1
    while rows < places[1] and held(rows + 1, block) <= NARROW_ELEMENTS:
        rows += 1
    rows = -(-places[1] // -(-places[1] // rows))
    pixels = batch * math.prod(places)
    parts = max(1, min(NARROW_PARTS, pixels // NARROW_PIXELS, NARROW_WEIGHTS // weights))
    scratch = held(rows, block) + math.prod(window.extent[1:]) * block * width + width
    return NarrowBlocks(rows, columns, block, parts, weights, rounded(scratch))


def _tile_vectors(window: Window, outputs: int) -> int:
    """Vectors of a tile of a weight gradient that is cut into :class:`NarrowBlocks`."""
    return min(VECTORS, vectors_of(window, outputs))


def _sums_parts(window: Window, channels: int, places: Triple, outputs: int) -> bool:
    """Whether the weight gradient is cut into :class:`NarrowBlocks`: groups have one vector of output channels, or more where several lines
    of the kernel share what is copied, which is most of the work (two vectors, or few input channels), weights are few, and blocks large
    enough to pay for loading the sums of all of them."""
    weights = window.taps * channels // window.groups * outputs
    few = weights * NARROW_PARTS <= NARROW_WEIGHTS and vectors_of(window, outputs) == VECTORS
    few = few or (channels // window.groups * window.extent[2] <= NARROW_INPUTS and 2 * weights <= NARROW_WEIGHTS)
    return vectors_of(window, outputs) == 1 or (window.extent[1] > 1 and few and math.prod(places[1:]) >= NARROW_BLOCK)


def _panelled(window: Window) -> bool:
    """Whether the weight gradient copies inputs into panels."""
    return window == POINTWISE


def weight_gradient_elements(window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`weight_gradients` needs."""
    if as_one_line(window, size, places):
        places, batch = (1, 1, batch * math.prod(places)), 1
    elif leaves_out(window, size, places):
        window = dataclasses.replace(window, stride=(1, 1, 1))
    apart, found = _gradient_elements(window, channels, places, outputs, batch, threads), folding(window, places, outputs)
    if found.pixels == 1:
        return apart
    sums = -(-found.window.taps * channels * found.outputs // threads)
    return max(apart, _gradient_elements(found.window, channels, found.places, found.outputs, batch, threads) + rounded(sums))


def _gradient_elements(window: Window, channels: int, places: Triple, outputs: int, batch: int, threads: int) -> int:
    """The same without folding pixels."""
    if _sums_parts(window, channels, places, outputs):
        return narrow_blocks(window, channels, places, outputs, batch).elements(threads)
    return gradient_blocks(window, channels, places, outputs, batch, threads).scratch


def weight_gradients(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    """``dw (kernel..., C / groups, CO)`` of the convolution of ``x`` with ``window``, from ``dy``."""
    if as_one_line(window, x.shape[1:4], dy.shape[1:4]):
        x, dy = x.reshape(1, 1, 1, -1, x.shape[4]), dy.reshape(1, 1, 1, -1, dy.shape[4])
    else:
        x, window = without_gaps(x, dy.shape[1:4], window)
    flat, found = dw.reshape(-1, *dw.shape[-2:]), folding(window, dy.shape[1:4], dy.shape[4])
    folded_dy = found.of(dy) if found.pixels > 1 else None
    if folded_dy is None:
        _weight_gradients(x, dy, flat, window, scratch)
        return
    line, channels = found.window.extent[2], x.shape[4]
    memory, size = scratch.reshape(-1), found.window.taps * channels * found.outputs
    own = memory[: (memory.size - size) // len(scratch) * len(scratch)].reshape(len(scratch), -1)
    folded = memory[memory.size - size :].reshape(-1, line, channels, found.pixels, dy.shape[4])
    _weight_gradients(x, folded_dy, folded.reshape(-1, channels, found.outputs), found.window, own)
    unfold_gradient(folded, window.extent[2], found.pixels, window.stride[2], flat)


def _weight_gradients(x: np.ndarray, dy: np.ndarray, flat: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    """``flat (taps, C / groups, CO)``, as it is."""
    if _sums_parts(window, x.shape[4], dy.shape[1:4], dy.shape[4]):
        _narrow_weight_gradients(x, dy, flat, window, scratch)
        return
    plan = gradient_blocks(window, x.shape[4], dy.shape[1:4], dy.shape[4], x.shape[0], scratch.shape[0])
    weight_gradient(
        x,
        dy,
        flat,
        tile_heights(plan.channels * window.extent[2]),
        window.groups,
        geometry_of(window),
        _panelled(window),
        plan.rows,
        plan.columns,
        plan.channels,
        plan.panels,
        scratch,
    )


def _narrow_weight_gradients(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    plan = narrow_blocks(window, x.shape[4], dy.shape[1:4], dy.shape[4], x.shape[0])
    threads, memory = len(scratch), scratch.reshape(-1)
    own = memory[: threads * plan.scratch].reshape(threads, -1)
    parts = memory[own.size : own.size + plan.parts * dw.size].reshape(plan.parts, *dw.shape) if plan.parts > 1 else dw[None]
    heights = tile_heights(plan.channels * window.extent[2])
    geometry = geometry_of(window)
    kernel = narrow_weight_gradient(_tile_vectors(window, dy.shape[4]))
    kernel(x, dy, parts, heights, window.groups, geometry, plan.rows, plan.columns, plan.channels, own)
    if plan.parts > 1:
        add_parts(parts, dw)
