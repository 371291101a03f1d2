"""The register-tile inner loops that convolution, its gradients and matrix products share.

A *panel* is ``WIDTH`` neighbouring output channels: packed weights lie panel by panel, ``[panel][depth][WIDTH]``, zeros behind the
last channel. A tile is up to :data:`MAX_ROWS` pixels by one panel; its sums go through a small array in the L1 cache (``sums``), from which
an epilogue writes the output row by row.
"""

from __future__ import annotations

import functools

import numpy as np

from ...simd import LANES, VECTOR_BITS, load, load_part, outer, store, store_part, zeros
from ..channels import VECTORS, WIDTH
from ..jit import inline

LADDER = (14, 10, 7, 4, 2, 1) if VECTOR_BITS == 512 else (6, 5, 4, 3, 2, 1)
"""Tile heights that are compiled: the first one fills the registers (32 of them with AVX-512, 16 with AVX2)."""
MAX_ROWS = LADDER[0]
_H0, _H1, _H2, _H3, _H4, _H5 = LADDER


def tile_heights(longest):
    """For each number of rows left to do, up to ``longest``, the height of the next tile, so that all tiles are about equally high."""
    balanced = [-(-left // -(-left // MAX_ROWS)) for left in range(1, longest + 1)]
    return np.array([0, *(next(height for height in LADDER if height <= wanted) for wanted in balanced)])


@functools.cache
def _product(rows):
    @inline
    def product(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at):
        tile = zeros(sums, rows, VECTORS)
        if not first:
            tile = load(sums, at, WIDTH, rows, VECTORS)
        for run in range(run_from, run_to):
            p = x_at + offsets[run]
            for _ in range(length // 4):
                tile = outer(tile, x, p, row_stride, w, w_at)
                tile = outer(tile, x, p + 1, row_stride, w, w_at + WIDTH)
                tile = outer(tile, x, p + 2, row_stride, w, w_at + 2 * WIDTH)
                tile = outer(tile, x, p + 3, row_stride, w, w_at + 3 * WIDTH)
                p += 4
                w_at += 4 * WIDTH
            for _ in range(length % 4):
                tile = outer(tile, x, p, row_stride, w, w_at)
                p += 1
                w_at += WIDTH
        store(tile, sums, at, WIDTH)

    return product


_p0, _p1, _p2, _p3, _p4, _p5 = map(_product, LADDER)


@inline
def products(rows, sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at):
    """``sums[i] (+)= sum over runs and p < length of x[x_at + offsets[run] + i * row_stride + p] * w[next row of the panel]``
    for ``rows`` (one of :data:`LADDER`) pixels; ``first`` overwrites."""
    if rows == _H0:
        _p0(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
    elif rows == _H1:
        _p1(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
    elif rows == _H2:
        _p2(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
    elif rows == _H3:
        _p3(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
    elif rows == _H4:
        _p4(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
    else:
        _p5(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)


@functools.cache
def _correlation(rows):
    @inline
    def correlation(sums, x, x_at, x_line, x_step, g, g_at, lines, columns):
        tile = zeros(sums, rows, VECTORS)
        for line in range(lines):
            p = x_at + line * x_line
            for _ in range(columns // 4):
                tile = outer(tile, x, p, 1, g, g_at)
                tile = outer(tile, x, p + x_step, 1, g, g_at + WIDTH)
                tile = outer(tile, x, p + 2 * x_step, 1, g, g_at + 2 * WIDTH)
                tile = outer(tile, x, p + 3 * x_step, 1, g, g_at + 3 * WIDTH)
                p += 4 * x_step
                g_at += 4 * WIDTH
            for _ in range(columns % 4):
                tile = outer(tile, x, p, 1, g, g_at)
                p += x_step
                g_at += WIDTH
        store(tile, sums, 0, WIDTH)

    return correlation


_c0, _c1, _c2, _c3, _c4, _c5 = map(_correlation, LADDER)


@inline
def correlations(rows, sums, x, x_at, x_line, x_step, g, g_at, lines, columns):
    """``sums[i] = sum over pixels of x[pixel + i] * g[pixel]``, pixels being ``lines x columns``: a tile of a weight gradient."""
    if rows == _H0:
        _c0(sums, x, x_at, x_line, x_step, g, g_at, lines, columns)
    elif rows == _H1:
        _c1(sums, x, x_at, x_line, x_step, g, g_at, lines, columns)
    elif rows == _H2:
        _c2(sums, x, x_at, x_line, x_step, g, g_at, lines, columns)
    elif rows == _H3:
        _c3(sums, x, x_at, x_line, x_step, g, g_at, lines, columns)
    elif rows == _H4:
        _c4(sums, x, x_at, x_line, x_step, g, g_at, lines, columns)
    else:
        _c5(sums, x, x_at, x_line, x_step, g, g_at, lines, columns)


@inline
def copy_run(source, source_at, target, target_at, count):
    """Copy ``count`` neighbouring elements."""
    done = 0
    while done + 4 * LANES <= count:
        store(load(source, source_at + done, 0, 1, 4), target, target_at + done, 0)
        done += 4 * LANES
    while done < count:
        store_part(load_part(source, source_at + done, 0, count - done, 1, 1), target, target_at + done, 0, count - done)
        done += LANES


@inline
def clear_run(target, target_at, count):
    """Write ``count`` zeros."""
    done = 0
    while done < count:
        store_part(zeros(target, 1, 1), target, target_at + done, 0, count - done)
        done += LANES
