"""When and how a convolution runs by Winograd's minimal filtering (:mod:`.winograd`): the choice for a shape, and the launches."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from ...simd import LANES, VECTOR_BITS
from ..channels import WIDTH
from . import winograd
from .ending import resolved
from .launch import evened, int_array, nothing_gathered
from .tiles import MAX_ROWS, ladder_of, tile_heights
from .window import Triple, Window

TILES = {(3, 3): (2, 4), (5, 5): (2,)}  # what M may be, by the kernel's height and width
LEAST_CHANNELS = 12  # below, transforms cost more than products are saved
PRODUCTS_PER_WEIGHT = 27 if VECTOR_BITS == 512 else 9  # multiply-adds in place of which a weight comes from memory
PRODUCTS_PER_PACKED_WEIGHT = 30  # multiply-adds in place of which a weight is packed, or a transformed one made
PRODUCTS_PER_ELEMENT = 15  # multiply-adds in place of which an element is transformed, there or back
DENSE = WIDTH  # elements of the longest rows of transformed inputs that lie next to each other
BLOCK_BYTES = 512 * 1024  # of a thread's transformed tiles and sums: most of them should stay in a second-level cache
LEAST_TILES = 2 * MAX_ROWS  # that a task takes through all steps, and
FEW_TILES = 4 * MAX_ROWS  # per thread: with fewer, all threads together read each weight once, unless
FEW_WEIGHT_BYTES = 2 << 20  # are all weights: then three launches would cost more than every thread's reading them
MANY_WEIGHT_BYTES = 12 << 20  # of more, little stays in the last-level cache from one block of tiles to the next
PHASED_BYTES = 32 << 20  # of transformed inputs and sums, if one plane has no more: more planes or images go through the phases in groups

Convolution = tuple[Window, Triple, int, Triple, int, int]
"""Window, places and channels read, places and channels written, and batch."""


# The choice ----------------------------------------------------------------------------------------------------------


def tile_size(window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, packs: bool) -> int:
    """``M`` of the F(M x M, taps) to take for a convolution of ``size`` places with ``channels`` into ``places`` with ``outputs``
    channels; 0 where it is done directly.

    What counts are the products and, where there are few places, the weights: 36 or 16 numbers to be read, and made if the weights are
    packed each time (``packs``), for 9 or 25."""
    if not applies(window, channels, outputs):
        return 0
    weights = window.taps * channels * _computed(outputs)
    per_weight = PRODUCTS_PER_WEIGHT + (PRODUCTS_PER_PACKED_WEIGHT if packs else 0)
    sums = int(planes_seen(window, size, places)[1].sum())
    costs = {0: weights * (batch * math.prod(places) + per_weight)}
    for tile in TILES[window.extent[1:]]:
        costs[tile] = _cost(Extents.of(tile, window, size, channels, places, outputs, batch), _computed(outputs), sums, per_weight)
    return min(costs, key=costs.__getitem__)


def _computed(outputs: int) -> int:
    """Output channels that tiles compute: whole vectors where one is enough, and whole panels otherwise."""
    return LANES if outputs <= LANES else -(-outputs // WIDTH) * WIDTH


def applies(window: Window, channels: int, outputs: int) -> bool:
    """Whether a convolution can be done so, and has channels enough for it to be worth a thought."""
    shape = window.extent[0] > 0 and window.extent[1:] in TILES and window.stride[1:] == window.dilation[1:] == (1, 1)
    return shape and window.groups == 1 and min(channels, outputs) >= LEAST_CHANNELS


def planes_seen(window: Window, size: Triple, places: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Which plane of inputs each plane of the kernel meets at each plane of outputs, ``(planes, planes of the kernel)``, and whether it
    exists."""
    seen = np.arange(places[0])[:, None] * window.stride[0] + np.arange(window.extent[0]) * window.dilation[0] - window.padding[0]
    return seen, (seen >= 0) & (seen < size[0])


@dataclasses.dataclass(frozen=True)
class Layout:
    """Of a thread's scratch, in elements."""

    row: int  # of transformed inputs
    place: int  # from one to the next
    sums: int  # where they begin
    sum_row: int
    sum_panel: int  # from one to the next
    sum_place: int  # from one to the next
    end: int

    def array(self) -> np.ndarray:
        return int_array(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Extents:
    """Sizes of the arrays between the steps."""

    across: int  # places of a transformed tile, in a line
    tiles: int  # of one plane of all images
    depth: int
    panels: int
    sum_row: int  # elements of a row of sums
    kernel: int  # planes of it,
    ring: int  # of inputs that a plane of outputs may need,
    read: int  # of all inputs
    written: int  # and of outputs

    @classmethod
    def of(cls, tile: int, window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int) -> Extents:
        tiles = batch * -(-places[1] // tile) * -(-places[2] // tile)
        depth, panels = -(-channels // LANES) * LANES, -(-outputs // WIDTH)
        kernel, ring = window.extent[0], min(size[0], reach(window, 1))
        sum_row = LANES if outputs <= LANES else WIDTH
        return cls(tile_places(tile, window), tiles, depth, panels, sum_row, kernel, ring, size[0], places[0])

    @property
    def places(self) -> int:
        """Of a transformed tile."""
        return self.across**2

    @property
    def weights(self) -> int:
        return self.places * self.panels * self.kernel * self.depth * WIDTH

    def fused(self, tiles: int) -> Layout:
        """Of so many tiles that go through all steps, plane after plane."""
        row = self.depth if self.depth <= DENSE else self.depth + winograd.GAP
        place = self.ring * tiles * row + winograd.GAP
        if self.ring == self.kernel == self.panels == 1 and self.sum_row <= row:
            return Layout(row, place, 0, row, 0, place, self.places * place)
        panel = tiles * self.sum_row
        sums = self.places * place
        return Layout(row, place, sums, self.sum_row, panel, self.panels * panel, sums + self.places * self.panels * panel)

    @property
    def touched(self) -> int:
        """Elements that a tile's products read and write."""
        return self.places * (self.ring * self.depth + self.panels * self.sum_row)

    @property
    def phased(self) -> int:
        """Elements of all transformed inputs and sums."""
        return self.places * self.tiles * (self.read * (self.depth + winograd.GAP) + self.written * self.panels * self.sum_row)

    def own(self, tile: int) -> int:
        """Elements that the transforms of one tile need."""
        elements = max(self.places * (LANES + self.depth), self.across * tile * LANES + tile * tile * WIDTH)
        return -(-elements // winograd.GAP) * winograd.GAP


def tile_places(tile: int, window: Window) -> int:
    """Places of a transformed tile, in a line."""
    return tile + window.extent[1] - 1


def reach(window: Window, planes: int) -> int:
    """Planes of inputs from the first to the last one that so many neighbouring planes of outputs see."""
    return (planes - 1) * window.stride[0] + (window.extent[0] - 1) * window.dilation[0] + 1


def _cost(found: Extents, outputs: int, sums: int, per_weight: int) -> int:
    """In multiply-adds; ``outputs`` are computed."""
    elements = found.places * found.tiles * (found.read * found.depth + found.written * outputs)
    weights = found.places * found.kernel * found.depth * outputs
    return weights * (sums * found.tiles // found.kernel + per_weight) + elements * PRODUCTS_PER_ELEMENT


def in_phases(tile: int, convolution: Convolution, threads: int) -> bool:
    """Whether there are so few tiles or so many weights that all threads together should take each step, and read each weight once."""
    found = Extents.of(tile, *convolution)
    few = found.tiles < FEW_TILES * threads
    return 4 * found.weights > (FEW_WEIGHT_BYTES if few else MANY_WEIGHT_BYTES)


def _phased_group(tile: int, convolution: Convolution) -> tuple[int, int]:
    """Images that go through the phases together, and of how many planes of outputs."""
    *_, places, _, batch = convolution
    images = max(1, PHASED_BYTES // (4 * Extents.of(tile, *_part(convolution, 1, places[0])).phased))
    fitting = (n for n in range(places[0], 1, -1) if 4 * Extents.of(tile, *_part(convolution, 1, n)).phased <= PHASED_BYTES)
    return evened(batch, images), evened(places[0], next(fitting, 1))


def _part(convolution: Convolution, images: int, planes: int) -> Convolution:
    """The convolution of so many images into so many planes."""
    window, size, channels, places, outputs, _ = convolution
    return window, (min(size[0], reach(window, planes)), *size[1:]), channels, (planes, *places[1:]), outputs, images


def block_size(tile: int, convolution: Convolution, threads: int) -> int:
    """Tiles that a task takes through all steps: as many as fit the cache, and equally many for all threads."""
    found = Extents.of(tile, *convolution)
    most = max(LEAST_TILES, BLOCK_BYTES // (4 * found.touched) // MAX_ROWS * MAX_ROWS)
    tasks = -(-found.tiles // (most * threads)) * threads
    return -(-found.tiles // tasks)


def part_of_tiles(tile: int, places: Triple) -> tuple[int, int]:
    """How the tiles of a plane fall into parts whose statistics are gathered: after how many tiles parts start anew, and tiles of one. They
    are pieces of a line of tiles, or some lines."""
    down, wide = -(-places[1] // tile), -(-places[2] // tile)
    if wide > MAX_ROWS:
        return wide, evened(wide, MAX_ROWS)
    return down * wide, evened(down, MAX_ROWS // wide) * wide


def gathered_shape(tile: int, places: Triple, batch: int) -> Triple:
    """The parts of the statistics that :func:`convolve` gathers: images, planes, and parts of each."""
    run, length = part_of_tiles(tile, places)
    return batch, places[0], -(-places[1] // tile) * -(-places[2] // tile) // run * -(-run // length)


# Launches ------------------------------------------------------------------------------------------------------------


def packed_elements(tile: int, convolution: Convolution) -> int:
    """Elements of transformed weights."""
    return Extents.of(tile, *convolution).weights


def scratch_elements(tile: int, block: int, convolution: Convolution, threads: int) -> int:
    """Scratch elements per thread that :func:`convolve` needs."""
    if block:
        found = Extents.of(tile, *convolution)
        between = found.fused(block).end
    else:
        found = Extents.of(tile, *_part(convolution, *_phased_group(tile, convolution)))
        between = -(-found.phased // threads)
    return -(-between // winograd.GAP) * winograd.GAP + found.own(tile)


def convolve(
    tile: int, block: int, x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, window: Window, scratch: np.ndarray,
    addend: np.ndarray | None, activation: Callable | None, gathered: np.ndarray | None = None,
) -> None:  # fmt: skip
    """``y = activation(conv(x) + bias + addend)`` by F(tile x tile, taps), ``block`` tiles at a time or, for 0, in phases; arrays
    ``(N, D, H, W, C)``, weights from :func:`numbacnn.kernels.conv.winograd.transform_weights`. What is ``gathered (STATISTICS,
    *gathered_shape, CO)`` are the statistics of ``y``."""
    statistics = nothing_gathered(y) if gathered is None else gathered
    more = y if addend is None else addend
    function, low, high = resolved(activation)
    convolution = window, x.shape[1:4], x.shape[4], y.shape[1:4], y.shape[4], len(x)
    if block:
        epilogue, padding = (bias, addend is not None, more, low, high), np.array(window.padding[1:])
        found = Extents.of(tile, *convolution)
        run, length, together = found.tiles, block, 1
        if gathered is not None:
            run, length = part_of_tiles(tile, y.shape[1:4])
            together = block // length
        block = together * length
        layout = found.fused(block)
        walk, offsets = _walk(window, x.shape[1:4], y.shape[1:4], found.ring, block * layout.row)
        narrow, heights = _tiling(y.shape[4], block)
        convolve_fused = winograd.fused(tile, found.across, _several(walk), narrow, function)
        convolve_fused(
            x, packed, *epilogue, y, heights, padding, walk, offsets, found.ring, found.kernel, run, length, together, layout.array(),
            statistics, scratch,
        )  # fmt: skip
        return
    images, planes = _phased_group(tile, convolution)
    for image, plane in itertools.product(range(0, len(x), images), range(0, y.shape[1], planes)):
        written = slice(image, image + images), slice(plane, plane + planes)
        first = plane * window.stride[0] - window.padding[0]
        start = min(max(0, first), x.shape[1] - 1)
        end = max(start + 1, first + reach(window, planes))
        part = dataclasses.replace(window, padding=(start - first, *window.padding[1:]))
        epilogue = bias, addend is not None, more[written], low, high
        of_part = statistics if gathered is None else gathered[:, *written]
        _in_phases(tile, x[written[0], start:end], packed, epilogue, y[written], part, scratch, function, of_part)


def _in_phases(
    tile: int, x: np.ndarray, packed: np.ndarray, epilogue: tuple, y: np.ndarray, window: Window, scratch: np.ndarray,
    function: Callable | None, gathered: np.ndarray,
) -> None:  # fmt: skip
    """Transform all inputs, then multiply them, then transform all sums back."""
    threads = len(scratch)
    found = Extents.of(tile, window, x.shape[1:4], x.shape[4], y.shape[1:4], y.shape[4], len(x))
    row = found.depth + winograd.GAP
    flat, end = scratch.reshape(-1), found.places * found.read * found.tiles * row
    transformed = flat[:end].reshape(found.places, found.read, found.tiles, row)
    sums = flat[end : found.phased].reshape(found.places, found.panels, found.written, found.tiles, found.sum_row)
    own = flat[flat.size - threads * found.own(tile) :].reshape(threads, -1)
    winograd.transform_inputs(tile, found.across)(x, np.array(y.shape[2:4]), np.array(window.padding[1:]), transformed, own)
    walk, offsets = _walk(window, x.shape[1:4], y.shape[1:4], found.read, found.tiles * row)
    narrow, heights = _tiling(y.shape[4], found.tiles)
    multiply_places = winograd.multiply_places(_several(walk), narrow)
    multiply_places(transformed, packed, sums, heights, walk, offsets, found.kernel)
    run, length = part_of_tiles(tile, y.shape[1:4]) if gathered.size else (found.tiles, 1)
    winograd.transform_outputs(tile, found.across, function)(sums, *epilogue, y, run, length, gathered, own)


def _walk(window: Window, size: Triple, places: Triple, slots: int, slot_step: int) -> tuple[np.ndarray, np.ndarray]:
    """``walk`` and ``offsets`` of :func:`numbacnn.kernels.conv.winograd.fused`, for slots that are so many elements apart."""
    seen, met = planes_seen(window, size, places)
    walk = np.zeros((places[0], 5), np.int64)
    offsets: list[int] = []
    ready = 0
    for plane in range(places[0]):
        (kernel,) = np.nonzero(met[plane])
        if kernel.size:
            inputs = seen[plane, kernel]
            end = inputs[-1] + 1
            # From the window's start on: of what a dilated kernel skips here, planes of outputs to come need some.
            walk[plane] = max(ready, seen[plane, 0]), end, len(offsets), len(offsets) + kernel.size, kernel[0]
            offsets += [slot * slot_step for slot in inputs % slots]
            ready = max(ready, end)
    return walk, np.array(offsets, np.int64)


def _tiling(outputs: int, longest: int) -> tuple[bool, np.ndarray]:
    """Whether tiles are one vector wide, and their heights."""
    narrow = outputs <= LANES
    return narrow, tile_heights(longest, ladder_of(narrow, False))


def _several(walk: np.ndarray) -> bool:
    """Whether planes of outputs are sums of other than one product each."""
    return bool((walk[:, 3] - walk[:, 2] != 1).any())
