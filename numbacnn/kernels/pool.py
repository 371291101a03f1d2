"""Pooling, forward and backward: max, average and Lp over any windows.

All kernels take dense arrays ``(N, D, H, W, C)``, with ones in front where there are fewer axes. Which input pixels a
window holds comes in tables, so that sliding, adaptive and global pooling are the same code:

``windows[axis, place]``  ``(start, stop, step, count)``: the pixels ``range(start, stop, step)`` along that axis, clipped to
                          the input, and what the window counts as in an average (padding may count).
``covers[axis, pixel]``   ``(first, stop)``: the places whose windows may hold that pixel.

A task is a stretch of one row, and a span of channels, of the array that is written: every element is written by one
task, and backward gathers from all windows that hold a pixel instead of scattering.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from .. import elementary  # noqa: F401  (teaches math.exp and math.log to take tiles)
from ..simd import splat, square_root, take, where, zeros
from .channels import VECTORS, WIDTH, read, write
from .jit import inline, kernel

STRETCH = 32  # pixels of a row in one task
FEW = 64  # with fewer stretches than this, channels are split finely


@inline
def _partition(shape):
    """Stretches per row, channels per span, spans, and the number of tasks that fill an array of ``shape``."""
    samples, depth, height, width, channels = shape
    stretches = (width + STRETCH - 1) // STRETCH
    lines = samples * depth * height * stretches
    span = WIDTH if lines < FEW else 8 * WIDTH
    spans = (channels + span - 1) // span
    return stretches, span, spans, lines * spans


@inline
def _place(task, shape, stretches, span, spans):
    """Sample, slice, row, first and last pixel, first and last channel of a task."""
    _, depth, height, width, channels = shape
    line, part = divmod(task, spans)
    line, stretch = divmod(line, stretches)
    line, h = divmod(line, height)
    n, d = divmod(line, depth)
    first, channel = stretch * STRETCH, part * span
    return n, d, h, first, min(first + STRETCH, width), channel, min(channel + span, channels)


# Max -----------------------------------------------------------------------------------------------------------------


@inline
def _window_max(x, n, windows, d, h, w, c):
    _, depth, height, width, channels = x.shape
    best = splat(x, -np.inf, 1, VECTORS)
    for i in range(windows[0, d, 0], windows[0, d, 1], windows[0, d, 2]):
        for j in range(windows[1, h, 0], windows[1, h, 1], windows[1, h, 2]):
            row = ((n * depth + i) * height + j) * width
            for k in range(windows[2, w, 0], windows[2, w, 1], windows[2, w, 2]):
                best = max(best, read(x, (row + k) * channels + c, channels - c))
    return best


@inline
def _window_argmax(x, argmax, n, windows, d, h, w, c):
    """The maxima, and the pixel of the sample where each was first met; not a number beats every number."""
    _, depth, height, width, channels = x.shape
    best = splat(x, -np.inf, 1, VECTORS)
    first = (windows[0, d, 0] * height + windows[1, h, 0]) * width + windows[2, w, 0]
    pixel = splat(argmax, first, 1, VECTORS)
    sample = n * depth * height * width
    for i in range(windows[0, d, 0], windows[0, d, 1], windows[0, d, 2]):
        for j in range(windows[1, h, 0], windows[1, h, 1], windows[1, h, 2]):
            row = (i * height + j) * width
            for k in range(windows[2, w, 0], windows[2, w, 1], windows[2, w, 2]):
                value = read(x, (sample + row + k) * channels + c, channels - c)
                better = (value > best) | (value != value)  # noqa: PLR0124 (true of what is not a number)
                best = where(better, value, best)
                pixel = where(better, row + k, pixel)
    return best, pixel


@kernel(parallel=True)
def max_forward(x, y, argmax, windows, queue, threads):
    """``y`` = maximum of each window; ``argmax`` (int32, as ``y``, or of size 0 where it is not wanted) = pixel of the
    sample ``(d * H + h) * W + w`` that it came from."""
    stretches, span, spans, tasks = _partition(y.shape)
    _, depth, height, width, channels = y.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            n, d, h, first, last, channel, end = _place(task, y.shape, stretches, span, spans)
            row = ((n * depth + d) * height + h) * width
            for w in range(first, last):
                for c in range(channel, end, WIDTH):
                    at = (row + w) * channels + c
                    if argmax.size == 0:
                        write(_window_max(x, n, windows, d, h, w, c), y, at, channels - c)
                    else:
                        best, pixel = _window_argmax(x, argmax, n, windows, d, h, w, c)
                        write(best, y, at, channels - c)
                        write(pixel, argmax, at, channels - c)


@kernel(parallel=True)
def max_backward(dy, argmax, dx, covers, queue, threads):
    """``dx`` = sum of ``dy`` over the windows whose maximum the pixel is."""
    stretches, span, spans, tasks = _partition(dx.shape)
    _, depth, height, width, channels = dx.shape
    _, places_d, places_h, places_w, _ = dy.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            n, d, h, first, last, channel, end = _place(task, dx.shape, stretches, span, spans)
            for w in range(first, last):
                pixel = (d * height + h) * width + w
                for c in range(channel, end, WIDTH):
                    sums = zeros(dx, 1, VECTORS)
                    for i in range(covers[0, d, 0], covers[0, d, 1]):
                        for j in range(covers[1, h, 0], covers[1, h, 1]):
                            row = ((n * places_d + i) * places_h + j) * places_w
                            for k in range(covers[2, w, 0], covers[2, w, 1]):
                                at = (row + k) * channels + c
                                chosen = read(argmax, at, channels - c) == pixel
                                sums = sums + where(chosen, read(dy, at, channels - c), 0.0)
                    write(sums, dx, (n * depth * height * width + pixel) * channels + c, channels - c)


# Average -------------------------------------------------------------------------------------------------------------


@inline
def _window_sum(x, n, windows, d, h, w, c):
    """Sum over a window, line by line: rounding errors grow with its side, not with its area."""
    _, depth, height, width, channels = x.shape
    total = zeros(x, 1, VECTORS)
    for i in range(windows[0, d, 0], windows[0, d, 1]):
        for j in range(windows[1, h, 0], windows[1, h, 1]):
            row = ((n * depth + i) * height + j) * width
            line = zeros(x, 1, VECTORS)
            for k in range(windows[2, w, 0], windows[2, w, 1]):
                line = line + read(x, (row + k) * channels + c, channels - c)
            total = total + line
    return total


@kernel(parallel=True)
def average_forward(x, y, windows, queue, threads):
    """``y`` = sum of each window / its count."""
    stretches, span, spans, tasks = _partition(y.shape)
    _, depth, height, width, channels = y.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            n, d, h, first, last, channel, end = _place(task, y.shape, stretches, span, spans)
            row = ((n * depth + d) * height + h) * width
            for w in range(first, last):
                count = windows[0, d, 3] * windows[1, h, 3] * windows[2, w, 3]
                for c in range(channel, end, WIDTH):
                    mean = _window_sum(x, n, windows, d, h, w, c) / count
                    write(mean, y, (row + w) * channels + c, channels - c)


@kernel(parallel=True)
def average_backward(dy, dx, windows, covers, queue, threads):
    """``dx`` = sum of ``dy`` / count over the windows that hold the pixel."""
    stretches, span, spans, tasks = _partition(dx.shape)
    _, depth, height, width, channels = dx.shape
    _, places_d, places_h, places_w, _ = dy.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            n, d, h, first, last, channel, end = _place(task, dx.shape, stretches, span, spans)
            pixels = ((n * depth + d) * height + h) * width
            for w in range(first, last):
                for c in range(channel, end, WIDTH):
                    sums = zeros(dx, 1, VECTORS)
                    for i in range(covers[0, d, 0], covers[0, d, 1]):
                        for j in range(covers[1, h, 0], covers[1, h, 1]):
                            row = ((n * places_d + i) * places_h + j) * places_w
                            for k in range(covers[2, w, 0], covers[2, w, 1]):
                                count = windows[0, i, 3] * windows[1, j, 3] * windows[2, k, 3]
                                sums = sums + read(dy, (row + k) * channels + c, channels - c) * (1.0 / count)
                    write(sums, dx, (pixels + w) * channels + c, channels - c)


# Lp ------------------------------------------------------------------------------------------------------------------


@inline
def _power(value, exponent):
    """``value ** exponent`` of values that are not negative."""
    if exponent == 1.0:
        return value
    if exponent == 2.0:
        return value * value
    if exponent == 0.5:
        return square_root(value)
    return math.exp(exponent * math.log(value))


@inline
def _ratio_power(ratio, p):
    if p == 1.0:
        return ratio * 0.0 + 1.0
    return _power(ratio, p - 1.0)


@kernel(parallel=True)
def lp_forward(x, y, windows, p, queue, threads):
    """``y`` = (sum of ``|x| ** p`` over each window) ** (1 / p)."""
    stretches, span, spans, tasks = _partition(y.shape)
    _, depth, height, width, channels = y.shape
    _, pixels_d, pixels_h, pixels_w, _ = x.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            n, d, h, first, last, channel, end = _place(task, y.shape, stretches, span, spans)
            places = ((n * depth + d) * height + h) * width
            for w in range(first, last):
                for c in range(channel, end, WIDTH):
                    sums = zeros(x, 1, VECTORS)
                    for i in range(windows[0, d, 0], windows[0, d, 1]):
                        for j in range(windows[1, h, 0], windows[1, h, 1]):
                            row = ((n * pixels_d + i) * pixels_h + j) * pixels_w
                            for k in range(windows[2, w, 0], windows[2, w, 1]):
                                sums = sums + _power(abs(read(x, (row + k) * channels + c, channels - c)), p)
                    write(_power(sums, 1.0 / p), y, (places + w) * channels + c, channels - c)


@kernel(parallel=True)
def lp_backward(x, y, dy, dx, covers, p, queue, threads):
    """``dx`` = sum of ``dy * sign(x) * (|x| / y) ** (p - 1)`` over the windows that hold the pixel; 0 where ``x`` is 0."""
    stretches, span, spans, tasks = _partition(dx.shape)
    _, depth, height, width, channels = dx.shape
    _, places_d, places_h, places_w, _ = dy.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            n, d, h, first, last, channel, end = _place(task, dx.shape, stretches, span, spans)
            pixels = ((n * depth + d) * height + h) * width
            for w in range(first, last):
                for c in range(channel, end, WIDTH):
                    at = (pixels + w) * channels + c
                    value = read(x, at, channels - c)
                    size = where(value == 0.0, 1.0, abs(value))
                    sums = zeros(dx, 1, VECTORS)
                    for i in range(covers[0, d, 0], covers[0, d, 1]):
                        for j in range(covers[1, h, 0], covers[1, h, 1]):
                            row = ((n * places_d + i) * places_h + j) * places_w
                            for k in range(covers[2, w, 0], covers[2, w, 1]):
                                near = (row + k) * channels + c
                                norm = read(y, near, channels - c)
                                ratio = size / where(norm == 0.0, 1.0, norm)
                                sums = sums + read(dy, near, channels - c) * _ratio_power(ratio, p)
                    slope = where(value > 0.0, sums, where(value < 0.0, -sums, where(value == 0.0, 0.0, value)))
                    write(slope, dx, at, channels - c)
