"""Tiles along a line of elements, the last of which may be cut short: a masked access costs several times a full one."""

from __future__ import annotations

import functools
from typing import Any

from ..simd import LANES, load, load_part, store, store_part
from .jit import inline


@functools.cache
def access(vectors: int) -> tuple[Any, Any]:
    """How to read and how to write tiles of one row, ``vectors`` wide."""
    width = vectors * LANES

    @inline
    def read(array, at, count):
        """The tile at ``at``, of which ``count`` elements (or all) exist; the others are zero."""
        if count >= width:
            return load(array, at, 0, 1, vectors)
        return load_part(array, at, 0, count, 1, vectors)

    @inline
    def write(tile, array, at, count):
        """Store the ``count`` elements (or all) of a tile that exist."""
        if count >= width:
            store(tile, array, at, 0)
        else:
            store_part(tile, array, at, 0, count)

    return read, write


VECTORS = 2
WIDTH = VECTORS * LANES  # channels of a tile
read, write = access(VECTORS)

TASKS = 4  # of sums over pixels per thread, if there are channels for as many


@inline
def channel_span(channels, parts, threads):
    """Channels per task of sums over some parts of the pixels: all, or where there are few parts so many that there is work for all
    threads. A task goes through its channels pixel by pixel or line by line, which is how memory is fast."""
    spans = max(1, (TASKS * threads + parts - 1) // parts)
    vectors = (channels + WIDTH - 1) // WIDTH
    return (vectors + spans - 1) // spans * WIDTH
