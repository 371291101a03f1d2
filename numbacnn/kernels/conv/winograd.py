"""Convolution with 3 x 3 or 5 x 5 kernels, or several planes of them, and stride 1 by Winograd's minimal filtering, with fewer products
than taps.

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: an output tile of ``M x M`` places is

    ``Y = A' [ (G g G') * (B' d B) ] A``,   summed over channels before the outer transform,

with ``d`` the ``A x A`` places of input below it, ``A = M + T - 1``, and ``g`` the kernel of ``T x T`` taps: ``A^2`` products in place of
``T^2 M^2``, a fourth of them for F(4 x 4, 3 x 3), 4/9 for F(2 x 2, 3 x 3) and 9/25 for F(2 x 2, 5 x 5). Per place of the transformed tile
the sum over channels is a matrix product, tiles by channels by output channels, for which the register tiles of the direct convolution
serve. The polynomials behind ``A = 4`` are evaluated at 0, 1, -1 and infinity, those behind ``A = 6`` at 2 and -2, too.

A kernel of several planes, ``K x T x T``, is filtered minimally within the planes, and the sum runs over its planes too, with any stride
and dilation along them: an output plane is the sum of ``K`` transformed input planes, without those that lie in the padding.

Arrays in between: transformed inputs ``[A * A][plane][tiles][depth]``, transformed weights ``[A * A][panel][K][depth][WIDTH]`` and sums
``[A * A][panel][plane][tiles][WIDTH]``, or ``[LANES]`` where outputs need no more; ``tiles`` are those of one plane of all images, and
``depth`` is the number of channels rounded up to a vector, the rest being zeros. *Fused*: a task takes a block of tiles through all three
steps in scratch of its own, plane after plane; a ring of the transformed input planes that an output plane needs has it that each is
transformed once. Where only one product reads a row of transformed inputs, its sums take that row's place. *Phased*: three launches, in
the second of which each task owns one place and panel, so that weights are read once in all: for few tiles with many channels.

Errors relative to the largest output, against float64: some 1e-6 where ``A = 4``, 1e-5 where ``A = 6``.
"""

from __future__ import annotations

import functools

from ...simd import LANES, load, load_part, store, stride, transpose, zeros
from ..channels import VECTORS, WIDTH, read, write
from ..jit import inline, kernel, outline
from ..statistics import gather
from ..tasks import next_task
from .ahead import line_to_read, line_to_write, place_of
from .direct import pack_line
from .ending import ending
from .tiles import copy_run, products

GAP = 16  # elements behind a row of transformed inputs: rows a power of two apart would share sets of the cache
FAR = 2_000_000  # elements that are read and written, from which on they come from memory: they are asked for while others are multiplied


# Transforms of one line ----------------------------------------------------------------------------------------------


@inline
def _input4(a, b, c, d):
    return a - c, b + c, c - b, b - d


@inline
def _output4(a, b, c, d):
    return a + b + c, b - c - d


@inline
def _input6(a, b, c, d, e, f):
    p, q, r, s = e - c * 4.0, d - b * 4.0, e - c, (d - b) * 2.0
    return a * 4.0 - c * 5.0 + e, p + q, p - q, r + s, r - s, b * 4.0 - d * 5.0 + f


@inline
def _output6(a, b, c, d, e, f):
    p, q, r, s = b + c, b - c, d + e, d - e
    return a + p + r, q + s * 2.0, p + r * 4.0, q + s * 8.0 + f


@inline
def _two_outputs6(a, b, c, d, e, f):
    return a + b + c + d + e, b - c + (d - e) * 2.0 + f


@inline
def _weight4(a, b, c):
    p, q = (a + c) * 0.5, b * 0.5
    return a, p + q, p - q, c


@inline
def _weight6(a, b, c):
    p, q = (a + c) * (-1.0 / 6.0), b * (-1.0 / 6.0)
    r, s = a * (1.0 / 24.0) + c * (1.0 / 6.0), b * (1.0 / 12.0)
    return a * 0.25, p + q, p - q, r + s, r - s, c


@inline
def _five_weights6(a, b, c, d, e):
    p, q = (a + c + e) * (-1.0 / 6.0), (b + d) * (-1.0 / 6.0)
    r, s = a * (1.0 / 24.0) + c * (1.0 / 6.0) + e * (2.0 / 3.0), b * (1.0 / 12.0) + d * (1.0 / 3.0)
    return a * 0.25, p + q, p - q, r + s, r - s, e


# Tiles ---------------------------------------------------------------------------------------------------------------


@inline
def place_of_tile(tile, shape):
    """Image, plane, line and column of a tile, of ``shape`` (planes, lines, columns) in each image."""
    rest, column = divmod(tile, shape[2])
    rest, line = divmod(rest, shape[1])
    n, plane = divmod(rest, shape[0])
    return n, plane, line, column


@inline
def next_place(n, plane, line, column, shape):
    """The place of the next tile."""
    column += 1
    if column == shape[2]:
        column, line = 0, line + 1
        if line == shape[1]:
            line, plane = 0, plane + 1
            if plane == shape[0]:
                plane, n = 0, n + 1
    return n, plane, line, column


# Steps ---------------------------------------------------------------------------------------------------------------


@functools.cache
def input_step(size, across):
    """The function that transforms tiles of ``across x across`` places of the input, ``size`` apart."""

    @inline
    def transform(x, at, row, pixel, depth, transformed, to, place_step, lines):
        """``depth`` channels at ``x[at + i * row + j * pixel]`` to ``transformed[to + place * place_step]``; ``lines`` holds a tile of one
        vector."""
        for c in range(0, depth, LANES):
            for j in range(across):
                p = at + j * pixel + c
                if across == 4:
                    a0, a1, a2, a3 = _input4(
                        load(x, p, 0, 1, 1), load(x, p + row, 0, 1, 1), load(x, p + 2 * row, 0, 1, 1), load(x, p + 3 * row, 0, 1, 1)
                    )
                else:
                    a0, a1, a2, a3, a4, a5 = _input6(
                        load(x, p, 0, 1, 1), load(x, p + row, 0, 1, 1), load(x, p + 2 * row, 0, 1, 1),
                        load(x, p + 3 * row, 0, 1, 1), load(x, p + 4 * row, 0, 1, 1), load(x, p + 5 * row, 0, 1, 1),
                    )  # fmt: skip
                    store(a4, lines, (4 * across + j) * LANES, 0)
                    store(a5, lines, (5 * across + j) * LANES, 0)
                store(a0, lines, j * LANES, 0)
                store(a1, lines, (across + j) * LANES, 0)
                store(a2, lines, (2 * across + j) * LANES, 0)
                store(a3, lines, (3 * across + j) * LANES, 0)
            for i in range(across):
                p = i * across * LANES
                q = to + i * across * place_step + c
                if across == 4:
                    a0, a1, a2, a3 = _input4(
                        load(lines, p, 0, 1, 1), load(lines, p + LANES, 0, 1, 1),
                        load(lines, p + 2 * LANES, 0, 1, 1), load(lines, p + 3 * LANES, 0, 1, 1),
                    )  # fmt: skip
                else:
                    a0, a1, a2, a3, a4, a5 = _input6(
                        load(lines, p, 0, 1, 1), load(lines, p + LANES, 0, 1, 1), load(lines, p + 2 * LANES, 0, 1, 1),
                        load(lines, p + 3 * LANES, 0, 1, 1), load(lines, p + 4 * LANES, 0, 1, 1), load(lines, p + 5 * LANES, 0, 1, 1),
                    )  # fmt: skip
                    store(a4, transformed, q + 4 * place_step, 0)
                    store(a5, transformed, q + 5 * place_step, 0)
                store(a0, transformed, q, 0)
                store(a1, transformed, q + place_step, 0)
                store(a2, transformed, q + 2 * place_step, 0)
                store(a3, transformed, q + 3 * place_step, 0)

    @inline
    def transform_one(x, n, plane, row, column, channel, channels, depth, transformed, to, place_step, scratch):
        """The tile of a plane of image ``n`` whose first place of input is ``(row, column)``, which may lie in the padding."""
        lines = scratch
        whole = row >= 0 and column >= 0 and row + across <= x.shape[2] and column + across <= x.shape[3]
        if whole and channels == depth:
            transform(
                x, place_of(x, n, plane, row, column) + channel, stride(x, 2), stride(x, 3), depth, transformed, to, place_step, lines
            )
        else:
            patch = scratch[across * across * LANES :]
            for i in range(across):
                if channels == depth:
                    pack_line(x, n, plane, row + i, column, across, channel, channels, patch, i * across * depth)
                else:
                    for j in range(across):
                        at = (i * across + j) * depth
                        store(zeros(patch, 1, 1), patch, at + depth - LANES, 0)
                        pack_line(x, n, plane, row + i, column + j, 1, channel, channels, patch, at)
            transform(patch, 0, across * depth, depth, depth, transformed, to, place_step, lines)

    @outline
    def step(x, tile, count, shape, padding, plane, plane_step, channel, channels, depth, transformed, to, tile_step, place_step, scratch):
        """``channels`` channels from ``channel`` on of ``count`` tiles from number ``tile`` on. Tiles are numbered through images,
        ``shape[0]`` planes, which are ``plane_step`` apart from ``plane`` on, and ``shape[1:]`` lines and columns of tiles; the first place
        of input lies ``padding`` before that of output."""
        n, k, i, j = place_of_tile(tile, shape)
        for _ in range(count):
            transform_one(
                x, n, plane + k * plane_step, i * size - padding[0], j * size - padding[1], channel, channels, depth,
                transformed, to, place_step, scratch,
            )  # fmt: skip
            to += tile_step
            n, k, i, j = next_place(n, k, i, j, shape)

    return step


@functools.cache
def output_step(size, across, activation):
    """The function that makes ``size x size`` outputs of the sums of one tile of ``across x across`` places, and applies the epilogue."""
    finish = ending(activation)

    @inline
    def transform_one(sums, at, place_step, panel_step, bias, residual, addend, low, high, y, n, plane, row, column, lines):
        """Panels of sums at ``sums[at + place * place_step + panel * panel_step]`` to a plane of ``y``, from ``(row, column)`` on."""
        channels = y.shape[4]
        rows, columns = min(size, y.shape[2] - row), min(size, y.shape[3] - column)
        outputs = lines[across * size * LANES :]
        for channel in range(0, channels, WIDTH):
            count = min(WIDTH, channels - channel)
            for vector in range(VECTORS if count > LANES else 1):
                p = at + vector * LANES
                for j in range(across):
                    q = p + j * place_step
                    if across == 4:
                        a0, a1 = _output4(
                            load(sums, q, 0, 1, 1), load(sums, q + 4 * place_step, 0, 1, 1),
                            load(sums, q + 8 * place_step, 0, 1, 1), load(sums, q + 12 * place_step, 0, 1, 1),
                        )  # fmt: skip
                    elif size == 2:
                        a0, a1 = _two_outputs6(
                            load(sums, q, 0, 1, 1), load(sums, q + 6 * place_step, 0, 1, 1), load(sums, q + 12 * place_step, 0, 1, 1),
                            load(sums, q + 18 * place_step, 0, 1, 1), load(sums, q + 24 * place_step, 0, 1, 1),
                            load(sums, q + 30 * place_step, 0, 1, 1),
                        )  # fmt: skip
                    else:
                        a0, a1, a2, a3 = _output6(
                            load(sums, q, 0, 1, 1), load(sums, q + 6 * place_step, 0, 1, 1), load(sums, q + 12 * place_step, 0, 1, 1),
                            load(sums, q + 18 * place_step, 0, 1, 1), load(sums, q + 24 * place_step, 0, 1, 1),
                            load(sums, q + 30 * place_step, 0, 1, 1),
                        )  # fmt: skip
                        store(a2, lines, (2 * across + j) * LANES, 0)
                        store(a3, lines, (3 * across + j) * LANES, 0)
                    store(a0, lines, j * LANES, 0)
                    store(a1, lines, (across + j) * LANES, 0)
                for i in range(rows):
                    q = i * across * LANES
                    to = i * size * WIDTH + vector * LANES
                    if across == 4:
                        a0, a1 = _output4(
                            load(lines, q, 0, 1, 1), load(lines, q + LANES, 0, 1, 1),
                            load(lines, q + 2 * LANES, 0, 1, 1), load(lines, q + 3 * LANES, 0, 1, 1),
                        )  # fmt: skip
                    elif size == 2:
                        a0, a1 = _two_outputs6(
                            load(lines, q, 0, 1, 1), load(lines, q + LANES, 0, 1, 1), load(lines, q + 2 * LANES, 0, 1, 1),
                            load(lines, q + 3 * LANES, 0, 1, 1), load(lines, q + 4 * LANES, 0, 1, 1), load(lines, q + 5 * LANES, 0, 1, 1),
                        )  # fmt: skip
                    else:
                        a0, a1, a2, a3 = _output6(
                            load(lines, q, 0, 1, 1), load(lines, q + LANES, 0, 1, 1), load(lines, q + 2 * LANES, 0, 1, 1),
                            load(lines, q + 3 * LANES, 0, 1, 1), load(lines, q + 4 * LANES, 0, 1, 1), load(lines, q + 5 * LANES, 0, 1, 1),
                        )  # fmt: skip
                        store(a2, outputs, to + 2 * WIDTH, 0)
                        store(a3, outputs, to + 3 * WIDTH, 0)
                    store(a0, outputs, to, 0)
                    store(a1, outputs, to + WIDTH, 0)
            shift = read(bias, channel, count)
            for i in range(rows):
                to = n * stride(y, 0) + plane * stride(y, 1) + (row + i) * stride(y, 2) + column * stride(y, 3) + channel
                more = 0
                if residual:
                    more = n * stride(addend, 0) + plane * stride(addend, 1) + (row + i) * stride(addend, 2)
                    more += column * stride(addend, 3) + channel
                for j in range(columns):
                    value = load(outputs, (i * size + j) * WIDTH, 0, 1, VECTORS) + shift
                    if residual:
                        value = value + read(addend, more + j * stride(addend, 3), count)
                    write(finish(value, low, high), y, to + j * stride(y, 3), count)
            at += panel_step

    @outline
    def step(sums, at, tile_step, place_step, panel_step, bias, residual, addend, low, high, y, plane, tile, count, shape, lines):
        """``count`` tiles of a plane, from number ``tile`` on. They are numbered through images and, of ``shape`` (1, lines, columns), the
        tiles of a plane."""
        n, _, i, j = place_of_tile(tile, shape)
        for _ in range(count):
            transform_one(sums, at, place_step, panel_step, bias, residual, addend, low, high, y, n, plane, i * size, j * size, lines)
            at += tile_step
            n, _, i, j = next_place(n, 0, i, j, shape)

    return step


# Statistics of the output ---------------------------------------------------------------------------------------------
#
# A *part* is a rectangle of tiles that follow each other: a piece of a line of tiles, or some whole lines. Tiles fall into runs (lines of
# tiles, or images) in which parts of ``length`` tiles start anew.


@inline
def _first_tile(part, run, length):
    """The first tile of a part."""
    run_parts = (run + length - 1) // length
    return part // run_parts * run + part % run_parts * length


@functools.cache
def _gathering(size):
    """The function that gathers the statistics of a part of a plane of ``y``, for tiles of ``size``."""

    @inline
    def gather_part(y, plane, part, run, length, gathered):
        down, wide = (y.shape[2] + size - 1) // size, (y.shape[3] + size - 1) // size
        first, behind = _first_tile(part, run, length), _first_tile(part + 1, run, length)
        n, rest = divmod(first, down * wide)
        i, j = divmod(rest, wide)
        lines = min(max(1, (behind - first) // wide) * size, y.shape[2] - i * size)
        pixels = min(min(behind - first, wide) * size, y.shape[3] - j * size)
        at = n * stride(y, 0) + plane * stride(y, 1) + i * size * stride(y, 2) + j * size * stride(y, 3)
        gather(y, at, lines, stride(y, 2), pixels, stride(y, 3), 0, y.shape[4], gathered, n, plane, part % gathered.shape[3])

    return gather_part


# Fused ---------------------------------------------------------------------------------------------------------------


@functools.cache
def fused(size, across, several, narrow, activation):
    """The kernel that convolves block of tiles by block of tiles; ``several`` and ``narrow`` as of
    :func:`numbacnn.kernels.conv.tiles.products` and ``activation`` as of :func:`numbacnn.kernels.conv.ending.ending`."""
    places = across * across
    multiply = products(several, narrow)
    transform_input, transform_output, gather_part = input_step(size, across), output_step(size, across, activation), _gathering(size)

    @kernel(parallel=True, views=("x", "addend", "y", "gathered"))
    def convolve(
        x, u, bias, residual, addend, low, high, y, heights, padding, walk, offsets, slots, extent,
        run, length, together, layout, gathered, scratch, queue, thread,
    ):  # fmt: skip
        """``y = finish(conv(x) + bias + addend)``, the addend only where ``residual``, of views ``(N, D, H, W, C)``; ``u`` transformed
        weights (:func:`transform_weights`), ``heights`` as of the direct convolution, ``padding`` (height, width) in front,
        ``scratch (threads, elements)``. A task takes ``together`` parts of ``length`` tiles (see above; tiles are numbered through all
        images, and fall into whole runs of ``run``). ``gathered (STATISTICS, N, OD, parts of an image, CO)``, if it is not empty, gets the
        statistics of ``y``, by the same parts.

        Inputs are transformed into a ring of ``slots`` planes. ``walk (OD, 5)`` holds for each plane of ``y`` the first and behind-last
        plane of ``x`` to be transformed for it, after those for the planes before, where its ``offsets`` of slots begin and end, and the
        first plane of the kernel, of ``extent``, that meets an input.

        ``layout`` of the scratch, in elements: a row of transformed inputs, the distance of places; where sums begin, a row of them, the
        distances of panels and of places; where there is room for the transforms."""
        channels, out_channels = x.shape[4], y.shape[4]
        depth = (channels + LANES - 1) // LANES * LANES
        w_step = extent * depth * WIDTH
        row, place_step = layout[0], layout[1]
        sum_row, panel_sums, place_sums = layout[3], layout[4], layout[5]
        panels = (out_channels + WIDTH - 1) // WIDTH
        shape = 1, (y.shape[2] + size - 1) // size, (y.shape[3] + size - 1) // size
        block = together * length
        parts = y.shape[0] * shape[1] * shape[2] // run * ((run + length - 1) // length)
        far = x.size + y.size > FAR
        transformed = scratch[thread]
        sums, lines = transformed[layout[2] :], transformed[layout[6] :]
        while True:
            part = next_task(queue, thread, -(-parts // together)) * together
            if part >= parts:
                break
            last_part = min(parts, part + together)
            first = _first_tile(part, run, length)
            count = _first_tile(last_part, run, length) - first
            for plane in range(y.shape[1]):
                for read_plane in range(walk[plane, 0], walk[plane, 1]):
                    slot = read_plane % slots * block
                    transform_input(
                        x, first, count, shape, (padding[0], padding[1]), read_plane, 0, 0, channels, depth,
                        transformed, slot * row, row, place_step, lines,
                    )  # fmt: skip
                first_run, end_run, kd = walk[plane, 2], walk[plane, 3], walk[plane, 4]
                next_plane, next_first = (walk[plane + 1, 1] - 1, first) if plane + 1 < y.shape[1] else (walk[0, 0], first + count)
                asked, line, (n, _, i, j), (own_n, _, own_i, own_j) = 0, 0, place_of_tile(next_first, shape), place_of_tile(first, shape)
                for place in range(places):
                    for panel in range(panels):
                        while far and asked * places * panels < count * size * (place * panels + panel + 1):
                            below, right = i * size - padding[0] + across - size, j * size - padding[1] + across - size
                            line_to_read(x, n, next_plane, below + line, max(0, right), size, 0, channels)
                            line_to_write(y, own_n, plane, own_i * size + line, own_j * size, size, 0, out_channels)
                            asked, line = asked + 1, line + 1
                            if line == size:
                                line, (n, _, i, j) = 0, next_place(n, 0, i, j, shape)
                                own_n, _, own_i, own_j = next_place(own_n, 0, own_i, own_j, shape)
                        at = place * place_sums + panel * panel_sums
                        weights = ((place * panels + panel) * extent + kd) * depth * WIDTH
                        following = weights + w_step
                        done, fetched = 0, 0 if following < u.size else 2
                        while done < count:
                            rows = heights[count - done]
                            ahead = following + fetched * (w_step // 2) if fetched < 2 else weights
                            fetched += 1
                            multiply(
                                rows, transformed, place * place_step + done * row, row, offsets, first_run, end_run, depth,
                                u, weights, sums, at + done * sum_row, sum_row, ahead,
                            )  # fmt: skip
                            done += rows
                transform_output(
                    sums, 0, sum_row, place_sums, panel_sums, bias, residual, addend, low, high, y, plane, first, count, shape, lines
                )
                if gathered.size > 0:
                    for k in range(part, last_part):
                        gather_part(y, plane, k, run, length, gathered)

    return convolve


# Phased --------------------------------------------------------------------------------------------------------------


@functools.cache
def transform_inputs(size, across):
    """The kernel of the first phase."""
    transform_input = input_step(size, across)

    @kernel(parallel=True, views=("x",))
    def transform(x, shape, padding, transformed, scratch, queue, thread):
        """All tiles of ``x (N, D, H, W, C)`` to ``transformed (places, D, tiles, depth + GAP)``; ``shape`` are the output's places (height,
        width), ``padding`` (height, width) in front."""
        channels = x.shape[4]
        planes, tiles, row = transformed.shape[1:]
        tiles_shape = 1, (shape[0] + size - 1) // size, (shape[1] + size - 1) // size
        flat = transformed.reshape(-1)
        own = scratch[thread]
        while True:
            tile = next_task(queue, thread, planes * tiles)
            if tile >= planes * tiles:
                break
            plane, rest = divmod(tile, tiles)
            transform_input(
                x, rest, 1, tiles_shape, (padding[0], padding[1]), plane, 0, 0, channels, row - GAP,
                flat, tile * row, row, planes * tiles * row, own,
            )  # fmt: skip

    return transform


@functools.cache
def multiply_places(several, narrow):
    """The kernel of the second phase; ``several`` and ``narrow`` as of :func:`numbacnn.kernels.conv.tiles.products`."""
    multiply = products(several, narrow)

    @kernel(parallel=True)
    def multiply_all(transformed, u, sums, heights, walk, offsets, extent, queue, thread):
        """``sums (places, panels, OD, tiles, elements)`` of ``transformed (places, D, tiles, depth + GAP)`` and transformed weights ``u``;
        ``heights``, ``walk``, ``offsets`` and ``extent`` as of :func:`fused`."""
        places, panels, planes, tiles, sum_row = sums.shape
        place_step, row = transformed.shape[1] * tiles, transformed.shape[3]
        depth = row - GAP
        w_step = extent * depth * WIDTH
        flat, target = transformed.reshape(-1), sums.reshape(-1)
        while True:
            task = next_task(queue, thread, places * panels)
            if task >= places * panels:
                break
            place = task // panels
            for plane in range(planes):
                weights = (task * extent + walk[plane, 4]) * depth * WIDTH
                following = weights + w_step
                done, fetched = 0, 0 if following < u.size else 2
                while done < tiles:
                    rows = heights[tiles - done]
                    ahead = following + fetched * (w_step // 2) if fetched < 2 else weights
                    fetched += 1
                    multiply(
                        rows, flat, (place * place_step + done) * row, row, offsets, walk[plane, 2], walk[plane, 3],
                        depth, u, weights, target, ((task * planes + plane) * tiles + done) * sum_row, sum_row, ahead,
                    )  # fmt: skip
                    done += rows

    return multiply_all


@functools.cache
def transform_outputs(size, across, activation):
    """The kernel of the third phase; ``activation`` as of :func:`numbacnn.kernels.conv.ending.ending`."""
    transform_output, gather_part = output_step(size, across, activation), _gathering(size)

    @kernel(parallel=True, views=("addend", "y", "gathered"))
    def transform(sums, bias, residual, addend, low, high, y, run, length, gathered, scratch, queue, thread):
        """``y (N, D, H, W, CO)`` from ``sums (places, panels, D, tiles, elements)``; ``run``, ``length`` and ``gathered`` as of
        :func:`fused`."""
        shape = 1, (y.shape[2] + size - 1) // size, (y.shape[3] + size - 1) // size
        panels, planes, tiles, sum_row = sums.shape[1:]
        panel_step = planes * tiles * sum_row
        parts = tiles // run * ((run + length - 1) // length)
        flat = sums.reshape(-1)
        own = scratch[thread]
        while True:
            task = next_task(queue, thread, planes * parts)
            if task >= planes * parts:
                break
            plane, part = divmod(task, parts)
            first = _first_tile(part, run, length)
            count = _first_tile(part + 1, run, length) - first
            transform_output(
                flat, (plane * tiles + first) * sum_row, sum_row, panels * panel_step, panel_step, bias, residual, addend, low, high,
                y, plane, first, count, shape, own,
            )  # fmt: skip
            if gathered.size > 0:
                gather_part(y, plane, part, run, length, gathered)

    return transform


# Weights -------------------------------------------------------------------------------------------------------------


@functools.cache
def _weight_line(across, extent):
    """The function that transforms a line of ``extent`` vectors."""
    from_three = _weight4 if across == 4 else _weight6

    @inline
    def transform(source, at, step, u, to, to_step):
        """``extent`` vectors ``step`` apart in ``source`` to ``across`` ones ``to_step`` apart in ``u``."""
        a, b, c = load(source, at, 0, 1, 1), load(source, at + step, 0, 1, 1), load(source, at + 2 * step, 0, 1, 1)
        if extent == 5:
            transformed = _five_weights6(a, b, c, load(source, at + 3 * step, 0, 1, 1), load(source, at + 4 * step, 0, 1, 1))
        else:
            transformed = from_three(a, b, c)
        store(transformed[0], u, to, 0)
        store(transformed[1], u, to + to_step, 0)
        store(transformed[2], u, to + 2 * to_step, 0)
        store(transformed[3], u, to + 3 * to_step, 0)
        if across == 6:
            store(transformed[4], u, to + 4 * to_step, 0)
            store(transformed[5], u, to + 5 * to_step, 0)

    return transform


@functools.cache
def transform_weights(across, extent):
    """The kernel that transforms weights of ``extent x extent`` taps for tiles of ``across x across`` places."""
    transform_line, kernel_taps = _weight_line(across, extent), extent * extent
    line_elements = max(across * extent, LANES) * LANES

    @inline
    def transform(taps, at, step, u, to, place_step, lines):
        """The vectors at ``taps[at + tap * step]`` to ``u[to + place * place_step]``."""
        for j in range(extent):
            transform_line(taps, at + j * step, extent * step, lines, j * LANES, extent * LANES)
        for i in range(across):
            transform_line(lines, extent * i * LANES, LANES, u, to + i * across * place_step, place_step)

    @kernel(parallel=True)
    def transform_all(w, transposed, scale, u, scratch, queue, thread):
        """``u [place][panel][plane][depth][WIDTH]`` of ``w (planes * taps, C, CO)``. Not ``transposed``: depth runs over input channels and
        panels over output channels; transposed, for the data gradient, the other way round and taps from the last to the first. ``scale``
        multiplies the channels that panels run over. ``scratch (threads, elements)``, :func:`weight_elements` each.

        Places are far apart in ``u``: a block of depth is gathered first, and then written place by place."""
        along, over = (w.shape[2], w.shape[1]) if transposed else (w.shape[1], w.shape[2])
        depth = (along + LANES - 1) // LANES * LANES
        panels = (over + WIDTH - 1) // WIDTH
        flat = w.reshape(-1)
        planes, matrix = w.shape[0] // kernel_taps, w.shape[1] * w.shape[2]
        taps = scratch[thread]
        lines = taps[kernel_taps * LANES * LANES :]
        block = lines[line_elements:]
        while True:
            task = next_task(queue, thread, panels * planes)
            if task >= panels * planes:
                break
            panel, plane = divmod(task, planes)
            first_tap = kernel_taps * (planes - plane) - 1 if transposed else kernel_taps * plane
            for at in range(0, depth, LANES):
                height = min(LANES, along - at)
                for vector in range(VECTORS):
                    first = panel * WIDTH + vector * LANES
                    count = max(0, min(LANES, over - first))
                    factors = load_part(scale, first if count > 0 else 0, 0, count, 1, 1)
                    for tap in range(kernel_taps):
                        if transposed:
                            for lane in range(LANES):
                                there = lane < count
                                source = (first_tap - tap) * matrix + (first + lane) * w.shape[2] + at
                                row = load_part(flat, source if there else 0, 0, height if there else 0, 1, 1)
                                store(row * scale[first + lane if there else 0], lines, lane * LANES, 0)
                            store(transpose(load(lines, 0, LANES, LANES, 1)), taps, tap * LANES * LANES, LANES)
                        else:
                            for k in range(LANES):
                                there = k < height and count > 0
                                source = (first_tap + tap) * matrix + (at + k) * w.shape[2] + first
                                row = load_part(flat, source if there else 0, 0, count if there else 0, 1, 1)
                                store(row * factors, taps, (tap * LANES + k) * LANES, 0)
                    for k in range(LANES):
                        transform(taps, k * LANES, LANES * LANES, block, k * WIDTH + vector * LANES, LANES * WIDTH, lines)
                for place in range(across * across):
                    copy_run(block, place * LANES * WIDTH, u, ((place * panels * planes + task) * depth + at) * WIDTH, LANES * WIDTH)

    return transform_all


def weight_elements(across: int, extent: int) -> int:
    """Scratch elements per thread of :func:`transform_weights`."""
    return extent * extent * LANES * LANES + max(across * extent, LANES) * LANES + across * across * LANES * WIDTH
