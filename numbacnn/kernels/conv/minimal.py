"""When and how a convolution runs by Winograd's minimal filtering (:mod:`.winograd`): the choice for a shape, and the launches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from ...simd import LANES
from ..channels import WIDTH
from . import winograd
from .ending import resolved
from .tiles import MAX_ROWS, tile_heights
from .window import Triple, Window

TILES = (2, 4)  # what M may be
LEAST_CHANNELS = 12  # below, transforms cost more than products are saved
PRODUCTS_PER_WEIGHT = 9  # multiply-adds in place of which a weight comes from memory
PRODUCTS_PER_PACKED_WEIGHT = 30  # multiply-adds in place of which a weight is packed, or a transformed one made
PRODUCTS_PER_ELEMENT = 15  # multiply-adds in place of which an element is transformed, there or back
BLOCK_BYTES = 512 * 1024  # of a thread's transformed tiles and sums: most of them should stay in a second-level cache
FEW_TILES = 2 * MAX_ROWS  # per thread: with fewer, all threads together read each weight once, unless
FEW_WEIGHT_BYTES = 1 << 20  # are all weights: then three launches would cost more than every thread's reading them
MANY_WEIGHT_BYTES = 12 << 20  # of more, little stays in the last-level cache from one block of tiles to the next
PHASED_BYTES = 32 << 20  # of transformed inputs and sums, if one image has no more: more images go through the phases group by group


# The choice ----------------------------------------------------------------------------------------------------------


def tile_size(window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, packs: bool) -> int:
    """``M`` of the F(M x M, 3 x 3) to take for a convolution of ``size`` places with ``channels`` into ``places`` with ``outputs``
    channels; 0 where it is done directly.

    What counts are the products and, where there are few places, the weights: 36 or 16 numbers to be read, and made if the weights are
    packed each time (``packs``), for 9."""
    if not applies(window, size, channels, outputs):
        return 0
    weights = window.taps * channels * -(-outputs // WIDTH) * WIDTH
    per_weight = PRODUCTS_PER_WEIGHT + (PRODUCTS_PER_PACKED_WEIGHT if packs else 0)
    costs = {0: weights * (batch * math.prod(places) + per_weight)}
    for tile in TILES:
        costs[tile] = _cost(Extents.of(tile, places, channels, outputs, batch), per_weight)
    return min(costs, key=costs.__getitem__)


def applies(window: Window, size: Triple, channels: int, outputs: int) -> bool:
    """Whether a convolution can be done so, and has channels enough for it to be worth a thought."""
    shape = window.extent == (1, 3, 3) and window.stride == window.dilation == (1, 1, 1) and window.groups == 1
    return shape and size[0] == 1 and window.padding[0] == 0 and min(channels, outputs) >= LEAST_CHANNELS


@dataclasses.dataclass(frozen=True)
class Extents:
    """Sizes of the arrays between the steps."""

    places: int
    tiles: int
    depth: int
    panels: int

    @classmethod
    def of(cls, tile: int, places: Triple, channels: int, outputs: int, batch: int) -> Extents:
        tiles = batch * -(-places[1] // tile) * -(-places[2] // tile)
        return cls((tile + 2) ** 2, tiles, -(-channels // LANES) * LANES, -(-outputs // WIDTH))

    @property
    def row(self) -> int:
        """Elements of a row of transformed inputs."""
        return self.depth + winograd.GAP

    @property
    def weights(self) -> int:
        return self.places * self.panels * self.depth * WIDTH

    def between(self, tiles: int) -> int:
        """Elements of transformed inputs and sums of that many tiles."""
        return self.places * tiles * (self.row + self.panels * WIDTH)

    def own(self, tile: int) -> int:
        """Elements that the transforms of one tile need."""
        across = tile + 2
        elements = max(self.places * (LANES + self.depth), across * tile * LANES + tile * tile * WIDTH)
        return -(-elements // winograd.GAP) * winograd.GAP


def _cost(found: Extents, per_weight: int) -> int:
    """In multiply-adds."""
    elements = found.places * found.tiles * (found.depth + found.panels * WIDTH)
    return found.weights * (found.tiles + per_weight) + elements * PRODUCTS_PER_ELEMENT


def in_phases(tile: int, places: Triple, channels: int, outputs: int, batch: int, threads: int) -> bool:
    """Whether there are so few tiles or so many weights that all threads together should take each step, and read each weight once."""
    found = Extents.of(tile, places, channels, outputs, batch)
    few = found.tiles < FEW_TILES * threads
    return 4 * found.weights > (FEW_WEIGHT_BYTES if few else MANY_WEIGHT_BYTES)


def _phased_images(tile: int, places: Triple, channels: int, outputs: int, batch: int) -> int:
    """Images that go through the phases together."""
    one = Extents.of(tile, places, channels, outputs, 1)
    groups = -(-batch // max(1, PHASED_BYTES // (4 * one.between(one.tiles))))
    return -(-batch // groups)


def block_size(tile: int, places: Triple, channels: int, outputs: int, batch: int, threads: int) -> int:
    """Tiles that a task takes through all steps: as many as fit the cache, and equally many for all threads."""
    found = Extents.of(tile, places, channels, outputs, batch)
    most = max(FEW_TILES, BLOCK_BYTES // (4 * found.between(1)) // MAX_ROWS * MAX_ROWS)
    tasks = -(-found.tiles // (most * threads)) * threads
    return -(-found.tiles // tasks)


# Launches ------------------------------------------------------------------------------------------------------------


def packed_elements(tile: int, channels: int, outputs: int) -> int:
    """Elements of transformed weights."""
    return Extents.of(tile, (1, 1, 1), channels, outputs, 1).weights


def scratch_elements(tile: int, block: int, places: Triple, channels: int, outputs: int, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`convolve` needs."""
    images = batch if block else _phased_images(tile, places, channels, outputs, batch)
    found = Extents.of(tile, places, channels, outputs, images)
    between = found.between(block or -(-found.tiles // threads))
    return -(-between // winograd.GAP) * winograd.GAP + found.own(tile)


def convolve(
    tile: int, block: int, x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, padding: Triple, scratch: np.ndarray,
    addend: np.ndarray | None, activation: Callable | None,
) -> None:  # fmt: skip
    """``y = activation(conv(x) + bias + addend)`` by F(tile x tile, 3 x 3), ``block`` tiles at a time or, for 0, in phases; arrays
    ``(N, 1, H, W, C)``, weights from :func:`numbacnn.kernels.conv.winograd.transform_weights`."""
    more, before = y if addend is None else addend, np.array(padding[1:])
    function, low, high = resolved(activation)
    if block:
        epilogue = bias, addend is not None, more, low, high
        winograd.fused(tile, function)(x, packed, *epilogue, y, tile_heights(block), before, block, scratch)
        return
    together = _phased_images(tile, y.shape[1:4], x.shape[4], y.shape[4], len(x))
    for start in range(0, len(x), together):
        some = slice(start, start + together)
        epilogue = bias, addend is not None, more[some], low, high
        _in_phases(tile, x[some], packed, epilogue, y[some], before, scratch, function)


def _in_phases(
    tile: int, x: np.ndarray, packed: np.ndarray, epilogue: tuple, y: np.ndarray, before: np.ndarray, scratch: np.ndarray,
    function: Callable | None,
) -> None:  # fmt: skip
    """Transform all inputs, then multiply them, then transform all sums back."""
    threads, found = len(scratch), Extents.of(tile, y.shape[1:4], x.shape[4], y.shape[4], len(x))
    flat, end = scratch.reshape(-1), found.places * found.tiles * found.row
    transformed = flat[:end].reshape(found.places, found.tiles, found.row)
    sums = flat[end : found.between(found.tiles)].reshape(found.places, found.panels, found.tiles, WIDTH)
    own = flat[flat.size - threads * found.own(tile) :].reshape(threads, -1)
    winograd.transform_inputs(tile)(x, np.array(y.shape[2:4]), before, transformed, own)
    winograd.multiply_places(transformed, packed, sums, tile_heights(found.tiles))
    winograd.transform_outputs(tile, function)(sums, *epilogue, y, own)
