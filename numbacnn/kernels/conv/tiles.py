"""The register-tile inner loops that convolution, its gradients and matrix products share.

A *panel* is ``WIDTH`` neighbouring output channels: packed weights lie panel by panel, ``[panel][depth][WIDTH]``, zeros behind the
last channel. A tile is up to :data:`MAX_ROWS` pixels by one panel; its sums go through an array of the task (``sums``), from which an
epilogue writes the output row by row.
"""

from __future__ import annotations

import functools

import numpy as np

from ...simd import LANES, VECTOR_BITS, load, load_part, outer, store, store_part, zeros
from ..channels import VECTORS, WIDTH
from ..jit import inline

_TALL = (14, 10, 7, 4, 2, 1)
LADDER = _TALL if VECTOR_BITS == 512 else (6, 5, 4, 3, 2, 1)
"""Tile heights that are compiled: the first one fills the registers (32 of them with AVX-512, 16 with AVX2)."""
NARROW_LADDER = _TALL
"""Heights of tiles that are one vector wide, where a group has no more channels than that."""
MAX_ROWS = LADDER[0]


def tile_heights(longest, ladder=LADDER):
    """For each number of rows left to do, up to ``longest``, the height of the next tile, so that all tiles are about equally high."""
    balanced = [-(-left // -(-left // ladder[0])) for left in range(1, longest + 1)]
    return np.array([0, *(next(height for height in ladder if height <= wanted) for wanted in balanced)])


@functools.cache
def _product(rows, vectors):
    @inline
    def product(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at):
        tile = zeros(sums, rows, vectors)
        if not first:
            tile = load(sums, at, WIDTH, rows, vectors)
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


@functools.cache
def products(narrow):
    """The function that multiplies ``rows`` pixels, one of the ladder's heights, with a panel, or (``narrow``) its first vector:
    ``sums[i] (+)= sum over runs and p < length of x[x_at + offsets[run] + i * row_stride + p] * w[next row of the panel]``;
    ``first`` overwrites."""
    ladder, vectors = (NARROW_LADDER, 1) if narrow else (LADDER, VECTORS)
    h0, h1, h2, h3, h4, _ = ladder
    p0, p1, p2, p3, p4, p5 = (_product(rows, vectors) for rows in ladder)

    @inline
    def multiply(rows, sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at):
        if rows == h0:
            p0(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
        elif rows == h1:
            p1(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
        elif rows == h2:
            p2(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
        elif rows == h3:
            p3(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
        elif rows == h4:
            p4(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)
        else:
            p5(sums, at, first, x, x_at, row_stride, offsets, run_from, run_to, length, w, w_at)

    return multiply


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


_H0, _H1, _H2, _H3, _H4, _ = LADDER
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
