"""The weight gradient of convolutions with 3 x 3 kernels and stride 1 by Winograd's minimal filtering F(4 x 4, 3 x 3).

The output ``Y = A' [ U * (B' d B) ] A`` of a tile (:mod:`.winograd`), ``U = G g G'`` being the transformed weights, is linear in ``g``. Of
a gradient ``dY`` of that tile follows, summed over all tiles,

    ``dU = sum of (A dY A') * (B' d B)``  and  ``dg = G' dU G``:

per place of the transformed tile a matrix product, channels by tiles by output channels, and 36 products in place of 144. Each plane of a
kernel of several planes has a gradient of its own, of the planes of the input that it meets.

A task owns some input channels and panels of output channels and walks over one *part* of the tiles, a block at a time. Parts follow from
the shape alone, and their sums are added up in their order: the same bits for any number of threads.
"""

from __future__ import annotations

import functools

from ...simd import LANES, fma, load, store, stride, zeros
from ..channels import WIDTH, access
from ..jit import inline, kernel, outline
from ..tasks import next_task
from .ahead import line_to_read, place_of
from .direct import pack_line
from .tiles import CORRELATIONS, clear_run
from .winograd import GAP, input_step, next_place, place_of_tile

TILE = 4
ACROSS = TILE + 2
PLACES = ACROSS * ACROSS
FAR = 500_000  # elements that are read, from which on they come from memory: inputs were made long ago

_, _write = access(1)
_transform_input = input_step(TILE, ACROSS)


# Transforms of one line ----------------------------------------------------------------------------------------------


@inline
def _gradient(a, b, c, d):
    p, q, r, s = a + c, b + d, fma(c, 4.0, a), fma(d, 8.0, b * 2.0)
    return a, p + q, p - q, r + s, r - s, d


@inline
def _weights(a, b, c, d, e, f):
    p, q, r = (b + c) * (-1.0 / 6.0), d + e, (c - b) * (1.0 / 6.0)
    return fma(q, 1.0 / 24.0, fma(a, 0.25, p)), fma(d - e, 1.0 / 12.0, r), fma(q, 1.0 / 6.0, p) + f


# Steps ---------------------------------------------------------------------------------------------------------------


@inline
def _transform_gradient(dy, at, row, pixel, count, transformed, to, place_step, panel_step, lines):
    """``count`` channels, whole vectors of them, at ``dy[at + i * row + j * pixel]`` to panels ``panel_step`` apart at
    ``transformed[to + place * place_step]``; ``lines`` holds a tile of one vector."""
    for c in range(0, count, LANES):
        for j in range(TILE):
            p = at + j * pixel + c
            a0, a1, a2, a3, a4, a5 = _gradient(
                load(dy, p, 0, 1, 1), load(dy, p + row, 0, 1, 1), load(dy, p + 2 * row, 0, 1, 1), load(dy, p + 3 * row, 0, 1, 1)
            )
            store(a0, lines, j * LANES, 0)
            store(a1, lines, (TILE + j) * LANES, 0)
            store(a2, lines, (2 * TILE + j) * LANES, 0)
            store(a3, lines, (3 * TILE + j) * LANES, 0)
            store(a4, lines, (4 * TILE + j) * LANES, 0)
            store(a5, lines, (5 * TILE + j) * LANES, 0)
        for i in range(ACROSS):
            p = i * TILE * LANES
            q = to + i * ACROSS * place_step + c // WIDTH * panel_step + c % WIDTH
            a0, a1, a2, a3, a4, a5 = _gradient(
                load(lines, p, 0, 1, 1), load(lines, p + LANES, 0, 1, 1),
                load(lines, p + 2 * LANES, 0, 1, 1), load(lines, p + 3 * LANES, 0, 1, 1),
            )  # fmt: skip
            store(a0, transformed, q, 0)
            store(a1, transformed, q + place_step, 0)
            store(a2, transformed, q + 2 * place_step, 0)
            store(a3, transformed, q + 3 * place_step, 0)
            store(a4, transformed, q + 4 * place_step, 0)
            store(a5, transformed, q + 5 * place_step, 0)


@inline
def _transform_one_gradient(dy, n, plane, row, column, channel, channels, transformed, to, place_step, panel_step, scratch):
    """The tile of image ``n`` from ``(plane, row, column)`` on, which may reach beyond the map."""
    whole = (channels + LANES - 1) // LANES * LANES
    if row + TILE <= dy.shape[2] and column + TILE <= dy.shape[3] and channels == whole:
        at = place_of(dy, n, plane, row, column) + channel
        _transform_gradient(dy, at, stride(dy, 2), stride(dy, 3), whole, transformed, to, place_step, panel_step, scratch)
    else:
        patch = scratch[ACROSS * TILE * LANES :]
        for i in range(TILE):
            for j in range(TILE):
                at = (i * TILE + j) * whole
                store(zeros(patch, 1, 1), patch, at + whole - LANES, 0)
                pack_line(dy, n, plane, row + i, column + j, 1, channel, channels, patch, at)
        _transform_gradient(patch, 0, TILE * whole, whole, whole, transformed, to, place_step, panel_step, scratch)


@outline
def gradient_step(dy, tile, count, shape, plane, channel, channels, transformed, to, tile_step, place_step, panel_step, scratch):
    """Transform ``channels`` channels from ``channel`` on of the gradient of ``count`` tiles of the output from number ``tile`` on. They
    are numbered as for :func:`numbacnn.kernels.conv.winograd.input_step`."""
    n, k, i, j = place_of_tile(tile, shape)
    for _ in range(count):
        _transform_one_gradient(dy, n, plane + k, i * TILE, j * TILE, channel, channels, transformed, to, place_step, panel_step, scratch)
        to += tile_step
        n, k, i, j = next_place(n, k, i, j, shape)


@outline
def weight_step(sums, at, place_step, target, to, tap_step, count, lines):
    """Nine vectors of weights' gradients of those of transformed weights: of a vector at ``sums[at + place * place_step]``, ``count``
    elements of each to ``target[to + tap * tap_step]``."""
    row = ACROSS * place_step
    for j in range(ACROSS):
        p = at + j * place_step
        a0, a1, a2 = _weights(
            load(sums, p, 0, 1, 1), load(sums, p + row, 0, 1, 1), load(sums, p + 2 * row, 0, 1, 1),
            load(sums, p + 3 * row, 0, 1, 1), load(sums, p + 4 * row, 0, 1, 1), load(sums, p + 5 * row, 0, 1, 1),
        )  # fmt: skip
        store(a0, lines, j * LANES, 0)
        store(a1, lines, (ACROSS + j) * LANES, 0)
        store(a2, lines, (2 * ACROSS + j) * LANES, 0)
    for i in range(3):
        p = i * ACROSS * LANES
        a0, a1, a2 = _weights(
            load(lines, p, 0, 1, 1), load(lines, p + LANES, 0, 1, 1), load(lines, p + 2 * LANES, 0, 1, 1),
            load(lines, p + 3 * LANES, 0, 1, 1), load(lines, p + 4 * LANES, 0, 1, 1), load(lines, p + 5 * LANES, 0, 1, 1),
        )  # fmt: skip
        q = to + 3 * i * tap_step
        _write(a0, target, q, count)
        _write(a1, target, q + tap_step, count)
        _write(a2, target, q + 2 * tap_step, count)


# Kernels -------------------------------------------------------------------------------------------------------------


@functools.cache
def weight_gradient_parts(vectors):
    """The kernel ``weight_gradient_parts`` whose panels have so many vectors of output channels."""
    correlate, lanes = CORRELATIONS[vectors], vectors * LANES

    @kernel(parallel=True, views=("x", "dy"))
    def weight_gradient_parts(x, dy, dw, padding, walk, heights, block_channels, task_panels, block, scratch, queue, thread):
        """The weight gradient ``dw (parts, planes * 9, C, CO)`` of each part of the tiles, of views ``x (N, D, H, W, C)`` and ``dy (N,
        OD, OH, OW, CO)``; ``padding`` (height, width) in front of ``x``. For each plane of the kernel ``walk (planes, 4)`` holds the first
        plane of ``dy`` that gives it products, how many do, the first plane of ``x`` that they are with and the distance to the next. A
        task makes ``block_channels`` channels and ``task_panels`` panels of one plane of the kernel, ``block`` tiles at a time;
        ``heights`` of tiles of registers; ``scratch (threads, elements)``."""
        parts, channels, out_channels = dw.shape[0], x.shape[4], dy.shape[4]
        panels = (out_channels + lanes - 1) // lanes
        down, wide = (dy.shape[2] + TILE - 1) // TILE, (dy.shape[3] + TILE - 1) // TILE
        extent = walk.shape[0]
        channel_tasks = (channels + block_channels - 1) // block_channels
        panel_tasks = (panels + task_panels - 1) // task_panels
        row = (block_channels + LANES - 1) // LANES * LANES + GAP
        input_places, panel_step, sum_places = block * row + GAP, block * lanes, task_panels * block_channels * lanes + GAP
        gradient_places = task_panels * panel_step + GAP
        far = x.size + dy.size > FAR
        flat = dw.reshape(-1)
        inputs = scratch[thread]
        gradients = inputs[PLACES * input_places :]
        sums = gradients[PLACES * gradient_places :]
        lines = sums[PLACES * sum_places :]
        while True:
            task = next_task(queue, thread, extent * parts * channel_tasks * panel_tasks)
            if task >= extent * parts * channel_tasks * panel_tasks:
                break
            rest, panel_task = divmod(task, panel_tasks)
            rest, channel_task = divmod(rest, channel_tasks)
            part, kd = divmod(rest, extent)
            channel, out_channel = channel_task * block_channels, panel_task * task_panels * lanes
            count = min(block_channels, channels - channel)
            out_count = min(task_panels * lanes, out_channels - out_channel)
            depth = (count + LANES - 1) // LANES * LANES
            shape = walk[kd, 1], down, wide
            tiles = dy.shape[0] * walk[kd, 1] * down * wide
            first, end = part * tiles // parts, (part + 1) * tiles // parts
            for place in range(PLACES if first == end else 0):
                clear_run(sums, place * sum_places, task_panels * block_channels * lanes)
            for start in range(first, end, block):
                some = min(block, end - start)
                _transform_input(
                    x, start, some, shape, (padding[0], padding[1]), walk[kd, 2], walk[kd, 3], channel, count, depth,
                    inputs, 0, row, input_places, lines,
                )  # fmt: skip
                gradient_step(
                    dy, start, some, shape, walk[kd, 0], out_channel, out_count,
                    gradients, 0, lanes, gradient_places, panel_step, lines,
                )  # fmt: skip
                some_panels = (out_count + lanes - 1) // lanes
                asked, line, (n, plane, i, j) = 0, 0, place_of_tile(start + some, shape)
                for place in range(PLACES):
                    for panel in range(some_panels):
                        while far and asked * PLACES * some_panels < some * TILE * (place * some_panels + panel + 1):
                            below, right = i * TILE - padding[0] + ACROSS - TILE, j * TILE - padding[1] + ACROSS - TILE
                            line_to_read(x, n, walk[kd, 2] + plane * walk[kd, 3], below + line, max(0, right), TILE, channel, count)
                            line_to_read(dy, n, walk[kd, 0] + plane, i * TILE + line, j * TILE, TILE, out_channel, out_count)
                            asked, line = asked + 1, line + 1
                            if line == TILE:
                                line, (n, plane, i, j) = 0, next_place(n, plane, i, j, shape)
                        at = place * sum_places + panel * block_channels * lanes
                        done = 0
                        while done < count:
                            rows = heights[count - done]
                            correlate(
                                rows, start == first, sums, at + done * lanes, lanes, inputs, place * input_places + done, 0, row,
                                gradients, place * gradient_places + panel * panel_step, lanes, 1, some,
                            )  # fmt: skip
                            done += rows
            for done in range(0, out_count, LANES):
                panel, vector = divmod(done, lanes)
                for c in range(count):
                    to = ((part * extent + kd) * 9 * channels + channel + c) * out_channels + out_channel + done
                    weight_step(
                        sums, (panel * block_channels + c) * lanes + vector, sum_places,
                        flat, to, channels * out_channels, out_count - done, lines,
                    )  # fmt: skip

    return weight_gradient_parts
