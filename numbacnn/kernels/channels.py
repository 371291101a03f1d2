"""Tiles along the channels of a pixel, the last of which may be cut short: a masked access costs several times a full one."""

from __future__ import annotations

from ..simd import LANES, load, load_part, store, store_part
from .jit import inline

VECTORS = 2
WIDTH = VECTORS * LANES  # channels of a tile


@inline
def read(array, at, count):
    """The tile at ``at``, of which ``count`` channels (or all) exist; the others are zero."""
    if count >= WIDTH:
        return load(array, at, 0, 1, VECTORS)
    return load_part(array, at, 0, count, 1, VECTORS)


@inline
def write(tile, array, at, count):
    """Store the ``count`` channels (or all) of a tile that exist."""
    if count >= WIDTH:
        store(tile, array, at, 0)
    else:
        store_part(tile, array, at, 0, count)
