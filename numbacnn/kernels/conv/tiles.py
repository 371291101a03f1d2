"""The register-tile inner loops that convolution, its gradients and matrix products share.

A *panel* is ``WIDTH`` neighbouring output channels: packed weights lie panel by panel, ``[panel][depth][WIDTH]``, zeros behind the
last channel. A tile is up to :data:`MAX_ROWS` pixels by one panel; its sums stay in registers from the first product to the epilogue.
"""

from __future__ import annotations

import enum
import functools

import numpy as np

from ...simd import (
    LANES,
    VECTOR_BITS,
    load,
    load_part,
    moved,
    outer,
    outer_of,
    prefetch,
    prefetch_for_writing,
    rows_of,
    store,
    store_part,
    zeros,
)
from ..channels import VECTORS, WIDTH, access, read, write
from ..jit import inline
from .ending import ending, untouched
from .pairs import SUMS, outer_of_pairs, pair_sums

LADDER = (8, 7, 6, 4, 2, 1) if VECTOR_BITS == 512 else (6, 5, 4, 3, 2, 1)
"""Tile heights that are compiled: the first one fills the 16 vector registers of AVX2. AVX-512 has 32, but with 10 to 14 rows, products
come no faster (240 GFLOP/s of a core's 250, Zen 5), and more pixels are left over."""
NARROW_LADDER = (10, 8, 7, 4, 2, 1)
"""Heights of tiles that are one vector wide, where a group has no more channels than that."""
ADJACENT_LADDER = (8, 7, 6, 4, 2, 1)
"""The same where rows are neighbouring elements: one address is enough, and what is loaded for one product serves the next ones."""
MAX_ROWS = LADDER[0]
ACTIVATED = 4
"""Vectors that an activation is computed of at a time: enough to wait for none, and few enough for the registers."""
read_vector, write_vector = access(1)


class Panels(enum.Enum):
    """What a group of output channels is computed by."""

    WIDE = "panels, of the last one perhaps only its first vector"
    NARROW = "the first vector of one panel"
    PAIRED = "one panel, two inputs at a time (see :mod:`.pairs`)"


def tile_heights(longest, ladder=LADDER):
    """For each number of rows left to do, up to ``longest``, the height of the next tile, so that all tiles are about equally high."""
    balanced = [-(-left // -(-left // ladder[0])) for left in range(1, longest + 1)]
    return np.array(
        [
            0,
            *(next(height for height in ladder if height <= wanted) for wanted in balanced),
        ]
    )


def ladder_of(narrow, adjacent):
    """The heights of the tiles of :func:`strips`."""
    return (ADJACENT_LADDER if adjacent else NARROW_LADDER) if narrow else LADDER


def _by_height(ladder, functions):
    """The function that calls, by its first argument, the one for that height: ``functions`` in the order of the ladder."""
    h0, h1, h2, h3, h4, _ = ladder
    f0, f1, f2, f3, f4, f5 = functions

    @inline
    def dispatch(rows, *arguments):
        if rows == h0:
            f0(*arguments)
        elif rows == h1:
            f1(*arguments)
        elif rows == h2:
            f2(*arguments)
        elif rows == h3:
            f3(*arguments)
        elif rows == h4:
            f4(*arguments)
        else:
            f5(*arguments)

    return dispatch


@functools.cache
def _panel(rows, vectors, adjacent, fetches, finish):
    """``fetches``: there are enough products for prefetching to pay."""

    @inline
    def panel(
        x, x_at, x_step, x_ahead, x_fetch, offsets, length, w, w_at, w_ahead, w_fetch, bias, channel, count,
        residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
    ):  # fmt: skip
        whole = count >= vectors * LANES
        x_step = 1 if adjacent else x_step
        total = load(bias, channel, 0, rows, vectors) if whole else load_part(bias, channel, 0, count, rows, vectors)
        if fetches:
            prefetch_for_writing(y, y_at + rows * y_step, y_step, rows)  # a store waits for its line, too
        for run in range(offsets.size):
            at = rows_of(x, x_at + offsets[run], x_step, rows, length)
            for _ in range(length // 4):
                if fetches:
                    prefetch(w, w_ahead, 0, 1)
                    prefetch(x, x_ahead, WIDTH, 2)
                total = outer_of(total, at, 0, w, w_at)
                total = outer_of(total, at, 1, w, w_at + WIDTH)
                total = outer_of(total, at, 2, w, w_at + 2 * WIDTH)
                total = outer_of(total, at, 3, w, w_at + 3 * WIDTH)
                at = moved(at, 4)
                w_at += 4 * WIDTH
                w_ahead += w_fetch
                x_ahead += x_fetch
            for _ in range(length % 4):
                total = outer_of(total, at, 0, w, w_at)
                at = moved(at, 1)
                w_at += WIDTH
        if residual:
            if whole:
                total = total + load(addend, addend_at, addend_step, rows, vectors)
            else:
                total = total + load_part(addend, addend_at, addend_step, count, rows, vectors)
        total = finish(total, low, high)
        if whole:
            store(total, y, y_at, y_step)
        else:
            store_part(total, y, y_at, y_step, count)

    return panel


@functools.cache
def _paired_panel(rows, finish):
    """As :func:`_panel`, for channels that fill more than a vector; runs have even lengths."""

    @inline
    def panel(
        x, x_at, x_step, x_ahead, x_fetch, offsets, length, w, w_at, w_ahead, w_fetch, bias, channel, count,
        residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
    ):  # fmt: skip
        count = max(count, LANES + 1)  # as it is: LLVM leaves out what would mask the first vector
        sums = zeros(w, rows, SUMS)
        prefetch_for_writing(y, y_at + rows * y_step, y_step, rows)
        for run in range(offsets.size):
            at = rows_of(x, x_at + offsets[run], x_step, rows, length)
            for _ in range(length // 2):
                prefetch(w, w_ahead, 0, 1)
                prefetch(x, x_ahead, 0, 1)
                sums = outer_of_pairs(sums, at, 0, w, w_at)
                at = moved(at, 2)
                w_at += 2 * WIDTH
                w_ahead += (w_fetch + 1) // 2
                x_ahead += x_fetch // 2
        total = pair_sums(sums) + load_part(bias, channel, 0, count, rows, VECTORS)
        if residual:
            total = total + load_part(addend, addend_at, addend_step, count, rows, VECTORS)
        store_part(finish(total, low, high), y, y_at, y_step, count)

    return panel


@functools.cache
def _panels_of_one(finish):
    """The function for four panels of one pixel: the sums of one alone would wait for each other."""

    @inline
    def end(total, residual, addend, addend_at, count, low, high, y, y_at):
        if residual:
            total = total + read(addend, addend_at, count)
        write(finish(total, low, high), y, y_at, count)

    @inline
    def panels(
        x, x_at, offsets, length, w, w_at, w_step, bias, channel, count, residual, addend, addend_at, low, high, y, y_at
    ):  # fmt: skip
        first, second = read(bias, channel, WIDTH), read(bias, channel + WIDTH, WIDTH)
        third, fourth = read(bias, channel + 2 * WIDTH, WIDTH), read(bias, channel + 3 * WIDTH, count - 3 * WIDTH)
        for run in range(offsets.size):
            p = x_at + offsets[run]
            for k in range(p, p + length):
                first = outer(first, x, k, 0, w, w_at)
                second = outer(second, x, k, 0, w, w_at + w_step)
                third = outer(third, x, k, 0, w, w_at + 2 * w_step)
                fourth = outer(fourth, x, k, 0, w, w_at + 3 * w_step)
                w_at += WIDTH
        end(first, residual, addend, addend_at, WIDTH, low, high, y, y_at)
        end(second, residual, addend, addend_at + WIDTH, WIDTH, low, high, y, y_at + WIDTH)
        end(third, residual, addend, addend_at + 2 * WIDTH, WIDTH, low, high, y, y_at + 2 * WIDTH)
        end(fourth, residual, addend, addend_at + 3 * WIDTH, count - 3 * WIDTH, low, high, y, y_at + 3 * WIDTH)

    return panels


@functools.cache
def _strip(rows, kind, adjacent, finish):
    if kind is Panels.NARROW:
        return _strip_of_one_panel(rows, _panel(rows, 1, adjacent, False, finish))
    if kind is Panels.PAIRED:
        return _strip_of_one_panel(rows, _paired_panel(rows, finish))
    return _strip_of_one(finish) if rows == 1 else _strip_of_many(rows, finish)


def _strip_of_one_panel(rows, panel):
    @inline
    def strip(
        x, x_at, x_step, x_fetch, offsets, length, w, w_at, w_step, w_ahead, w_fetch, bias, channel, end,
        residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
    ):  # fmt: skip
        panel(
            x, x_at, x_step, x_at + rows * x_step, x_fetch, offsets, length, w, w_at, w_ahead, w_fetch, bias, channel, end - channel,
            residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
        )  # fmt: skip

    return strip


def _strip_of_one(finish):
    panels, others = _panels_of_one(finish), _strip_of_many(1, finish)

    @inline
    def strip(
        x, x_at, x_step, x_fetch, offsets, length, w, w_at, w_step, w_ahead, w_fetch, bias, channel, end,
        residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
    ):  # fmt: skip
        while channel + 3 * WIDTH < end:
            panels(
                x, x_at, offsets, length, w, w_at, w_step, bias, channel, min(4 * WIDTH, end - channel),
                residual, addend, addend_at, low, high, y, y_at,
            )  # fmt: skip
            channel += 4 * WIDTH
            w_at += 4 * w_step
            w_ahead += w_step // WIDTH * w_fetch
            addend_at += 4 * WIDTH
            y_at += 4 * WIDTH
        others(
            x, x_at, x_step, x_fetch, offsets, length, w, w_at, w_step, w_ahead, w_fetch, bias, channel, end,
            residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
        )  # fmt: skip

    return strip


def _strip_of_many(rows, finish):
    wide, last = _panel(rows, VECTORS, False, True, finish), _panel(rows, 1, False, True, finish)

    @inline
    def strip(
        x, x_at, x_step, x_fetch, offsets, length, w, w_at, w_step, w_ahead, w_fetch, bias, channel, end,
        residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
    ):  # fmt: skip
        x_ahead = x_at + rows * x_step
        while channel + LANES < end:
            wide(
                x, x_at, x_step, x_ahead, x_fetch, offsets, length, w, w_at, w_ahead, w_fetch, bias, channel, end - channel,
                residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
            )  # fmt: skip
            x_fetch = 0
            channel += WIDTH
            w_at += w_step
            w_ahead += w_step // (4 * WIDTH) * w_fetch
            addend_at += WIDTH
            y_at += WIDTH
        if channel < end:
            last(
                x, x_at, x_step, x_ahead, x_fetch, offsets, length, w, w_at, w_ahead, w_fetch, bias, channel, end - channel,
                residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
            )  # fmt: skip

    return strip


@functools.cache
def strips(kind, adjacent, activation, later):
    """The function ``(rows, x, x_at, x_step, x_fetch, offsets, length, w, w_at, w_step, w_ahead, w_fetch, bias, channel, end, residual,
    addend, addend_at, addend_step, low, high, y, y_at, y_step)`` that makes output channels ``channel .. end`` of ``rows`` pixels, one of
    the ladder's heights, by panels of that ``kind``:

    ``y[i] = finish(bias + sum over runs and p < length of x[x_at + offsets[run] + i * x_step + p] * w[next row] + addend[i])``,

    with panels of weights ``w_step`` apart, the addend only where ``residual``, and ``finish`` as of
    :func:`numbacnn.kernels.conv.ending.ending`. ``adjacent``: ``x_step`` is 1. ``later``: a long activation comes after all panels.

    With each four products, ``w_fetch`` elements from ``w[w_ahead]`` on and, in the first panel, ``x_fetch`` elements of the pixels behind
    these are prefetched, and so is the place of the next pixels' outputs, unless the panel is narrow."""
    ladder = ladder_of(kind is Panels.NARROW, adjacent)
    finish = untouched if later else ending(activation)
    strip = _by_height(ladder, [_strip(rows, kind, adjacent, finish) for rows in ladder])
    return _activated(strip, activation) if later else strip


def _activated(strip, activation):
    """The strip, then its activation, from the first-level cache: while sums are in all registers, there is no room for what it needs. And
    it is compiled once, not for each height."""
    finish = ending(activation)

    @inline
    def activated(
        rows, x, x_at, x_step, x_fetch, offsets, length, w, w_at, w_step, w_ahead, w_fetch, bias, channel, end,
        residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
    ):  # fmt: skip
        strip(
            rows, x, x_at, x_step, x_fetch, offsets, length, w, w_at, w_step, w_ahead, w_fetch, bias, channel, end,
            residual, addend, addend_at, addend_step, low, high, y, y_at, y_step,
        )  # fmt: skip
        for row in range(rows):
            at, left = y_at + row * y_step, end - channel
            while left >= ACTIVATED * LANES:
                store(finish(load(y, at, 0, 1, ACTIVATED), low, high), y, at, 0)
                at += ACTIVATED * LANES
                left -= ACTIVATED * LANES
            while left > 0:
                write_vector(finish(read_vector(y, at, left), low, high), y, at, left)
                at += LANES
                left -= LANES

    return activated


@functools.cache
def _product(rows, several, vectors):
    @inline
    def product(x, x_at, x_step, offsets, first, end, length, w, w_at, sums, at, step, ahead):
        total = zeros(sums, rows, vectors)
        for run in range(first, end if several else first + 1):
            at_x = rows_of(x, x_at + offsets[run], x_step, rows, length)
            for _ in range(length // 4):
                prefetch(w, ahead, WIDTH, 2)
                total = outer_of(total, at_x, 0, w, w_at)
                total = outer_of(total, at_x, 1, w, w_at + WIDTH)
                total = outer_of(total, at_x, 2, w, w_at + 2 * WIDTH)
                total = outer_of(total, at_x, 3, w, w_at + 3 * WIDTH)
                at_x = moved(at_x, 4)
                w_at += 4 * WIDTH
                ahead += 2 * WIDTH
        store(total, sums, at, step)

    return product


@functools.cache
def products(several, narrow):
    """The function ``(rows, x, x_at, x_step, offsets, first, end, length, w, w_at, sums, at, step, ahead)``: ``rows`` rows of ``x``, one of
    the heights of :func:`ladder_of`, times a panel of weights, or its first vector if ``narrow``, to rows of sums ``step`` apart. A row
    consists of runs of ``length`` elements, a multiple of four, at ``offsets[first:end]`` from its start. Not ``several``: it is always one
    run, and no loop around it is compiled. Meanwhile half as many weights, from ``w[ahead]`` on, come into the caches."""
    ladder = ladder_of(narrow, False)
    return _by_height(ladder, [_product(rows, several, 1 if narrow else VECTORS) for rows in ladder])


@functools.cache
def _correlation(rows, vectors):
    """Tiles of one vector have two sums, of every other pixel: one product alone would wait for the one before."""
    narrow = vectors == 1

    @inline
    def correlation(first, sums, at, step, x, x_at, x_line, x_step, g, g_at, g_step, lines, columns):
        tile, other = zeros(sums, rows, vectors), zeros(sums, rows, vectors)
        prefetch(sums, at, step, rows)  # to be added to at the end
        for line in range(lines):
            p = x_at + line * x_line
            for _ in range(columns // 4):
                if narrow:
                    tile = outer(tile, x, p, 1, g, g_at)
                    other = outer(other, x, p + x_step, 1, g, g_at + g_step)
                    tile = outer(tile, x, p + 2 * x_step, 1, g, g_at + 2 * g_step)
                    other = outer(other, x, p + 3 * x_step, 1, g, g_at + 3 * g_step)
                else:
                    tile = outer(tile, x, p, 1, g, g_at)
                    tile = outer(tile, x, p + x_step, 1, g, g_at + g_step)
                    tile = outer(tile, x, p + 2 * x_step, 1, g, g_at + 2 * g_step)
                    tile = outer(tile, x, p + 3 * x_step, 1, g, g_at + 3 * g_step)
                p += 4 * x_step
                g_at += 4 * g_step
            for _ in range(columns % 4):
                tile = outer(tile, x, p, 1, g, g_at)
                p += x_step
                g_at += g_step
        if narrow:
            tile = tile + other
        if not first:
            tile = tile + load(sums, at, step, rows, vectors)
        store(tile, sums, at, step)

    return correlation


correlations = _by_height(LADDER, [_correlation(rows, VECTORS) for rows in LADDER])
"""``correlations(rows, first, sums, at, step, x, x_at, x_line, x_step, g, g_at, g_step, lines, columns)``: a tile of a weight gradient,
``sums[i] (+)= sum over pixels of x[pixel + i] * g[pixel]``, sums being ``step`` apart and pixels, ``lines x columns``, ``x_step`` and
``g_step``; ``first`` overwrites."""
narrow_correlations = _by_height(LADDER, [_correlation(rows, 1) for rows in LADDER])
"""The same with tiles of one vector."""
CORRELATIONS = {1: narrow_correlations, VECTORS: correlations}


@inline
def accumulate(value, array, at, count, first):
    """``array (+)= value`` for the first ``count`` channels of a panel; ``first`` overwrites."""
    if not first:
        value = value + read(array, at, count)
    write(value, array, at, count)


@inline
def copy_run(source, source_at, target, target_at, count):
    """Copy ``count`` neighbouring elements."""
    done = 0
    while done + 4 * LANES <= count:
        store(load(source, source_at + done, 0, 1, 4), target, target_at + done, 0)
        done += 4 * LANES
    while done + LANES <= count:
        store(load(source, source_at + done, 0, 1, 1), target, target_at + done, 0)
        done += LANES
    if done < count:
        store_part(load_part(source, source_at + done, 0, count - done, 1, 1), target, target_at + done, 0, count - done)


@inline
def clear_run(target, target_at, count):
    """Write ``count`` zeros."""
    done = 0
    while done + LANES <= count:
        store(zeros(target, 1, 1), target, target_at + done, 0)
        done += LANES
    if done < count:
        store_part(zeros(target, 1, 1), target, target_at + done, 0, count - done)


@inline
def inside(start, step, taps, size):
    """First and behind-last of the k below ``taps`` for which ``start + k * step`` lies in ``0 .. size``."""
    first = max(0, -(start // step)) if start < 0 else 0
    last = min(taps, -((start - size) // step)) if start < size else 0
    return first, max(first, last)
