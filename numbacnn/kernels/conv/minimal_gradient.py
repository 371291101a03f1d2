"""When and how a weight gradient is made by Winograd's minimal filtering (:mod:`.winograd_gradient`): the choice for a shape, the cut into
tasks, and the launches."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ...simd import LANES
from ..channels import VECTORS
from . import minimal, winograd_gradient
from .direct import add_parts
from .tiles import tile_heights
from .weight_launch import counts, gradient_blocks
from .window import Triple, Window
from .winograd import GAP
from .winograd_gradient import PLACES, TILE

BLOCK_TILES = 32  # per sum in registers
MOST_PARTS = 16  # of the tiles, and
PART_WEIGHTS = 64 * 1024  # weights that there may be sums of, in all of them
LEAST_BLOCKS = 4  # of a part
TASK_ELEMENTS = 384 * 1024  # that a task holds: more than a second-level cache, from start to end again and again, as prefetchers like it
VECTOR_COST = 8  # of transforming a vector of a place, in vector products
WEIGHT_COST = 20  # of transforming a vector of weights of a place
MEMORY_COST = 8  # of reading a vector of input or of gradients, in vector products


@dataclasses.dataclass(frozen=True)
class GradientTasks:
    """How a weight gradient is cut into tasks."""

    parts: int
    channels: int
    panels: int
    block: int
    cost: float  # of the thread that has most to do, in vector products
    scratch: int  # elements


@functools.cache
def gradient_tasks(kernel: int, places: Triple, channels: int, outputs: int, batch: int, threads: int) -> GradientTasks:
    """Cut the weight gradient of a convolution from ``channels`` to ``places`` with ``outputs`` channels, by a kernel of so many planes.
    Parts and blocks, and with them the order of sums, follow from the shape alone; the rest is what costs least on that many threads."""
    lanes = _vectors(outputs) * LANES
    all_panels = -(-outputs // lanes)
    tiles = batch * places[0] * -(-places[1] // TILE) * -(-places[2] // TILE)
    block = min(BLOCK_TILES, tiles)
    parts = max(1, min(MOST_PARTS, PART_WEIGHTS // (kernel * channels * outputs), tiles // (LEAST_BLOCKS * block)))

    def task(some: int, panels: int) -> GradientTasks:
        depth, width = -(-some // LANES) * LANES, panels * lanes
        tasks = kernel * parts * -(-channels // some) * -(-all_panels // panels)
        vectors = (depth + width) // LANES
        weights = PLACES * some * width // LANES
        per_tile = weights + PLACES * vectors * VECTOR_COST + vectors * TILE * TILE * MEMORY_COST
        own = PLACES * (LANES + depth) + TILE * TILE * width
        scratch = PLACES * (block * (depth + GAP + width) + 3 * GAP + some * width) + own
        cost = -(-tasks // threads) * (tiles / parts * per_tile + weights * WEIGHT_COST)
        return GradientTasks(parts, some, panels, block, cost, -(-scratch // GAP) * GAP)

    vectors = -(-channels // LANES)
    cuts = [task(min(channels, -(-vectors // c) * LANES), -(-all_panels // p)) for c in counts(vectors) for p in counts(all_panels)]
    fitting = [cut for cut in cuts if cut.scratch <= TASK_ELEMENTS] or [min(cuts, key=lambda cut: cut.scratch)]
    return min(fitting, key=lambda cut: cut.cost)


def _vectors(outputs: int) -> int:
    """Of a panel of output channels."""
    return 1 if outputs <= LANES else VECTORS


def applies(window: Window, channels: int, outputs: int) -> bool:
    """Whether a weight gradient can be made so: of the kernels of :func:`minimal.applies`, those of 3 x 3 taps."""
    return window.extent[1:] == (3, 3) and minimal.applies(window, channels, outputs)


def gradient_pays(window: Window, places: Triple, channels: int, outputs: int, batch: int) -> bool:
    """Whether a weight gradient that can be made so costs less than directly. It is asked for one thread whatever their number, on which
    bits must not depend."""
    directly = gradient_blocks(window, channels, places, outputs, batch, 1).cost
    return gradient_tasks(window.extent[0], places, channels, outputs, batch, 1).cost < directly


def gradient_elements(window: Window, places: Triple, channels: int, outputs: int, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`weight_gradients` needs."""
    plan = gradient_tasks(window.extent[0], places, channels, outputs, batch, threads)
    sums = plan.parts * window.taps * channels * outputs if plan.parts > 1 else 0
    return plan.scratch + -(-sums // (threads * GAP)) * GAP


def weight_gradients(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    """``dw (planes, 3, 3, C, CO)`` of the convolution of ``x (N, D, H, W, C)``, from ``dy``."""
    threads, channels, outputs = scratch.shape[0], x.shape[4], dy.shape[4]
    plan = gradient_tasks(window.extent[0], dy.shape[1:4], channels, outputs, x.shape[0], threads)
    flat, own = scratch.reshape(-1), threads * plan.scratch
    total = dw.reshape(1, window.taps, channels, outputs)
    parts = total if plan.parts == 1 else flat[own : own + plan.parts * total.size].reshape(plan.parts, *total.shape[1:])
    kernel = winograd_gradient.weight_gradient_parts(_vectors(outputs))
    kernel(
        x, dy, parts, np.array(window.padding[1:]), _walk(window, x.shape[1:4], dy.shape[1:4]), tile_heights(plan.channels),
        plan.channels, plan.panels, plan.block, flat[:own].reshape(threads, plan.scratch),
    )  # fmt: skip
    if plan.parts > 1:
        add_parts(parts, total[0])


def _walk(window: Window, size: Triple, places: Triple) -> np.ndarray:
    """``walk`` of :func:`numbacnn.kernels.conv.winograd_gradient.weight_gradient_parts`."""
    seen, met = minimal.planes_seen(window, size, places)
    first = met.argmax(0)
    return np.stack([first, met.sum(0), seen[first, np.arange(window.extent[0])], np.full_like(first, window.stride[0])], 1)
