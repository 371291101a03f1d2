"""Depthwise convolution: every channel with a kernel of its own. SIMD lanes run over channels, tile rows over neighbouring pixels.

Arrays are ``(N, D, H, W, C)`` views with dense channels and ``w (taps, C)``. Nothing is copied: at the borders, taps that fall outside are
left out.
"""

from __future__ import annotations

import functools

from numba import prange

from ...simd import LANES, fma, load, load_part, row_sum, store, store_part, stride, take, zeros
from ..jit import inline, kernel
from .ending import ending

ROWS = 6
"""Pixels per tile: with as many inputs on the way, they fit 16 registers."""
GRADIENT_VECTORS = 2
GRADIENT_WIDTH = GRADIENT_VECTORS * LANES
"""Channels per task of the weight gradient: a cache line or more."""


@inline
def _inside(start, step, taps, size):
    """First and behind-last of the taps ``start + k * step`` that lie in ``0 .. size``."""
    first = max(0, -(start // step)) if start < 0 else 0
    last = min(taps, -((start - size) // step)) if start < size else 0
    return first, max(first, last)


@functools.cache
def depthwise(activation):
    """The kernel ``convolve``; ``activation`` as of :func:`numbacnn.kernels.conv.ending.ending`."""
    finish = ending(activation)

    def tile_of(rows):
        @inline
        def tile(
            x, x_at, x_step, x_tap, w, w_at, channels, bias, residual, addend, addend_at, addend_step, low, high,
            y, y_at, y_step, channel, count, extent, first, last,
        ):  # fmt: skip
            """One channel block of ``rows`` pixels with the taps from ``first`` to behind ``last`` in each axis."""
            total = load_part(bias, channel, 0, count, rows, 1)
            for kd in range(first[0], last[0]):
                for kh in range(first[1], last[1]):
                    for kw in range(first[2], last[2]):
                        at = x_at + kd * x_tap[0] + kh * x_tap[1] + kw * x_tap[2]
                        weight_at = w_at + ((kd * extent[1] + kh) * extent[2] + kw) * channels
                        if count >= LANES:
                            total = fma(load(x, at, x_step, rows, 1), load(w, weight_at, 0, rows, 1), total)
                        else:
                            total = fma(load_part(x, at, x_step, count, rows, 1), load_part(w, weight_at, 0, count, rows, 1), total)
            if residual:
                total = total + load_part(addend, addend_at, addend_step, count, rows, 1)
            total = finish(total, low, high)
            if count >= LANES:
                store(total, y, y_at, y_step)
            else:
                store_part(total, y, y_at, y_step, count)

        return tile

    tall, flat = tile_of(ROWS), tile_of(1)

    @kernel(parallel=True, views=("x", "addend", "y"))
    def convolve(x, w, bias, residual, addend, low, high, y, geometry, block_rows, queue, threads):
        """``y = finish(depthwise conv(x, w) + bias + addend)``; arguments as of :func:`numbacnn.kernels.conv.direct.convolution`."""
        queue[0] = 0
        strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
        planes, height, width, channels = y.shape[1], y.shape[2], y.shape[3], y.shape[4]
        row_tasks = -(-height // block_rows)
        x_step = strides[2] * stride(x, 3)
        x_tap = (dilation[0] * stride(x, 1), dilation[1] * stride(x, 2), dilation[2] * stride(x, 3))
        reach = (extent[2] - 1) * dilation[2]
        inner_from = min(width, -(-padding[2] // strides[2])) if padding[2] > 0 else 0
        inner_to = max(inner_from, min(width, (x.shape[3] - 1 - reach + padding[2]) // strides[2] + 1))
        addend_step = stride(addend, 3)
        y_step = stride(y, 3)
        for _ in prange(threads):
            while True:
                task = take(queue, 1)
                if task >= y.shape[0] * planes * row_tasks:
                    break
                n, rest = divmod(task, planes * row_tasks)
                plane, row_task = divmod(rest, row_tasks)
                depth = plane * strides[0] - padding[0]
                d_first, d_last = _inside(depth, dilation[0], extent[0], x.shape[1])
                for row in range(row_task * block_rows, min(height, (row_task + 1) * block_rows)):
                    line = row * strides[1] - padding[1]
                    h_first, h_last = _inside(line, dilation[1], extent[1], x.shape[2])
                    y_row = n * stride(y, 0) + plane * stride(y, 1) + row * stride(y, 2)
                    addend_row = n * stride(addend, 0) + plane * stride(addend, 1) + row * stride(addend, 2)
                    x_row = n * stride(x, 0) + depth * stride(x, 1) + line * stride(x, 2) - padding[2] * stride(x, 3)
                    column = 0
                    while column < width:
                        is_inner = inner_from <= column < inner_to
                        x_pixel = x_row + column * x_step
                        y_pixel = y_row + column * y_step
                        addend_pixel = addend_row + column * addend_step
                        if is_inner and column + ROWS <= inner_to:
                            for channel in range(0, channels, LANES):
                                tall(
                                    x, x_pixel + channel, x_step, x_tap, w, channel, channels,
                                    bias, residual, addend, addend_pixel + channel, addend_step, low, high,
                                    y, y_pixel + channel, y_step, channel, min(LANES, channels - channel), extent,
                                    (d_first, h_first, 0), (d_last, h_last, extent[2]),
                                )  # fmt: skip
                            column += ROWS
                        else:
                            w_first, w_last = _inside(column * strides[2] - padding[2], dilation[2], extent[2], x.shape[3])
                            for channel in range(0, channels, LANES):
                                flat(
                                    x, x_pixel + channel, x_step, x_tap, w, channel, channels,
                                    bias, residual, addend, addend_pixel + channel, addend_step, low, high,
                                    y, y_pixel + channel, y_step, channel, min(LANES, channels - channel), extent,
                                    (d_first, h_first, w_first), (d_last, h_last, w_last),
                                )  # fmt: skip
                            column += 1

    return convolve


@kernel(parallel=True)
def pack_taps(w, taps, scale, packed, queue, threads):
    """``packed[t] = w[taps[t]] * scale``, arrays ``(taps, C)`` and ``(C,)``."""
    queue[0] = 0
    channels = w.shape[1]
    for _ in prange(threads):
        while True:
            task = take(queue, 1)
            if task >= taps.size:
                break
            for channel in range(channels):
                packed[task, channel] = w[taps[task], channel] * scale[channel]


@kernel(parallel=True, views=("x", "dy"))
def depthwise_weight_gradient(x, dy, dw, geometry, queue, threads):
    """``dw (taps, C)``. A task owns all taps of a block of channels and walks over the output line by line."""
    queue[0] = 0
    strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
    planes, height, width, channels = dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4]
    x_step = strides[2] * stride(x, 3)
    dy_step = stride(dy, 3)
    for _ in prange(threads):
        while True:
            channel = take(queue, GRADIENT_WIDTH)
            if channel >= channels:
                break
            count = min(GRADIENT_WIDTH, channels - channel)
            for tap in range(extent[0] * extent[1] * extent[2]):
                store_part(zeros(x, 1, GRADIENT_VECTORS), dw, tap * channels + channel, 0, count)
            for n in range(dy.shape[0]):
                for plane in range(planes):
                    for row in range(height):
                        dy_row = n * stride(dy, 0) + plane * stride(dy, 1) + row * stride(dy, 2) + channel
                        for kd in range(extent[0]):
                            depth = plane * strides[0] - padding[0] + kd * dilation[0]
                            if not 0 <= depth < x.shape[1]:
                                continue
                            for kh in range(extent[1]):
                                line = row * strides[1] - padding[1] + kh * dilation[1]
                                if not 0 <= line < x.shape[2]:
                                    continue
                                x_row = n * stride(x, 0) + depth * stride(x, 1) + line * stride(x, 2) + channel
                                for kw in range(extent[2]):
                                    offset = kw * dilation[2] - padding[2]
                                    first, last = _inside(offset, strides[2], width, x.shape[3])
                                    x_at = x_row + offset * stride(x, 3) + first * x_step
                                    dy_at = dy_row + first * dy_step
                                    to = ((kd * extent[1] + kh) * extent[2] + kw) * channels + channel
                                    _add_products(x, x_at, x_step, dy, dy_at, dy_step, last - first, dw, to, count)


@inline
def _add_products(x, x_at, x_step, dy, dy_at, dy_step, pixels, dw, to, count):
    """``dw += sum over pixels of x * dy`` for ``count`` channels."""
    tall = zeros(x, 4, GRADIENT_VECTORS)
    one = zeros(x, 1, GRADIENT_VECTORS)
    if count == GRADIENT_WIDTH:
        for _ in range(pixels // 4):
            tall = fma(load(x, x_at, x_step, 4, GRADIENT_VECTORS), load(dy, dy_at, dy_step, 4, GRADIENT_VECTORS), tall)
            x_at += 4 * x_step
            dy_at += 4 * dy_step
        for _ in range(pixels % 4):
            one = fma(load(x, x_at, x_step, 1, GRADIENT_VECTORS), load(dy, dy_at, dy_step, 1, GRADIENT_VECTORS), one)
            x_at += x_step
            dy_at += dy_step
    else:
        for _ in range(pixels):
            one = fma(load_part(x, x_at, 0, count, 1, GRADIENT_VECTORS), load_part(dy, dy_at, 0, count, 1, GRADIENT_VECTORS), one)
            x_at += x_step
            dy_at += dy_step
    total = row_sum(tall) + one + load_part(dw, to, 0, count, 1, GRADIENT_VECTORS)
    store_part(total, dw, to, 0, count)
