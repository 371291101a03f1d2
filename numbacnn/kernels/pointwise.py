"""Elementwise functions of whole arrays, softmax over the last axis, and the parametric rectifier, forward and backward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import elementary  # noqa: F401  math.exp of Tiles
from ..simd import columns, largest, splat, stride, total, where, zeros
from . import scalar
from .channels import VECTORS, WIDTH, read, write
from .jit import Kernel, inline, kernel
from .tasks import next_task

BLOCK = 8192  # elements per task: two arrays of them fit the first two caches


# y = f(x) ------------------------------------------------------------------------------------------------------------


@functools.cache
def forward(function: Callable[[Any], Any]) -> Kernel:
    """The kernel ``(x, y)`` that fills ``y`` with a scalar ``function`` of ``x``. Arrays ``(lines, elements)`` of dense lines, which may
    be the same."""
    f = scalar.compiled(function)

    @kernel(parallel=True, views=("x", "y"))
    def elementwise(x, y, queue, thread):
        lines, length = x.shape
        per_task, pieces = max(1, BLOCK // length), (length + BLOCK - 1) // BLOCK
        while True:
            task = next_task(queue, thread, -(-lines // per_task) * pieces)
            first, piece = task // pieces * per_task, task % pieces * BLOCK
            if first >= lines:
                break
            for line in range(first, min(first + per_task, lines)):
                x_at, y_at = line * stride(x, 0), line * stride(y, 0)
                stop = min(piece + BLOCK, length)
                for at in range(piece, stop, WIDTH):
                    write(f(read(x, x_at + at, stop - at)), y, y_at + at, stop - at)

    return elementwise


@functools.cache
def backward(function: Callable[[Any], Any], derivative: Callable[[Any], Any] | None = None) -> Kernel:
    """The kernel ``(dy, x, dx)`` with ``dx = dy * f'(x)``. Dense arrays of one axis; ``dx`` may be another of them."""
    slope = scalar.compiled(derivative) if derivative else scalar.derivative(function)

    @inline
    def gradient(dy, x):
        return dy * slope(x)

    return _gradient_kernel(gradient)


@functools.cache
def backward_from_output(gradient: Callable[[Any, Any], Any]) -> Kernel:
    """The kernel ``(dy, y, dx)`` with ``dx = gradient(dy, y)``, a scalar function without branches. Arrays as in
    :func:`backward`."""
    return _gradient_kernel(inline(scalar.rebound(gradient)))


def _gradient_kernel(gradient: Callable[[Any, Any], Any]) -> Kernel:
    @kernel(parallel=True)
    def elementwise_gradient(dy, known, dx, queue, thread):
        while True:
            start = next_task(queue, thread, -(-dy.size // BLOCK)) * BLOCK
            if start >= dy.size:
                break
            stop = min(start + BLOCK, dy.size)
            for at in range(start, stop, WIDTH):
                count = stop - at
                write(gradient(read(dy, at, count), read(known, at, count)), dx, at, count)

    return elementwise_gradient


# Softmax over the last axis: arrays (rows, channels), y and x or dx and dy may be the same ---------------------------


@inline
def _tile(x, at, count, beyond):
    """The next columns of a row of which ``count`` are left, and ``beyond`` after its end."""
    tile = read(x, at, count)
    return tile if count >= WIDTH else where(columns(1, VECTORS) < count, tile, beyond)


@inline
def _row_largest(x, at, channels):
    top = splat(x, -math.inf, 1, VECTORS)
    for c in range(0, channels, WIDTH):
        top = max(top, _tile(x, at + c, channels - c, -math.inf))
    return largest(top)


@kernel(parallel=True)
def softmax(x, y, queue, thread):
    """``y = exp(x - m) / sum(exp(x - m))`` of each row, m its largest element. A row of ``-inf`` alone gives NaN, as it has no limit."""
    rows, channels = x.shape
    per_task = max(1, BLOCK // channels)
    while True:
        first = next_task(queue, thread, -(-rows // per_task)) * per_task
        if first >= rows:
            break
        for row in range(first, min(first + per_task, rows)):
            at = row * channels
            top = _row_largest(x, at, channels)
            sums = zeros(x, 1, VECTORS)
            for c in range(0, channels, WIDTH):
                powers = math.exp(_tile(x, at + c, channels - c, -math.inf) - top)
                sums = sums + powers
                write(powers, y, at + c, channels - c)
            factor = 1.0 / total(sums)
            for c in range(0, channels, WIDTH):
                write(_tile(y, at + c, channels - c, 0.0) * factor, y, at + c, channels - c)


@kernel(parallel=True)
def softmax_backward(dy, y, dx, queue, thread):
    """``dx = y * (dy - sum(dy * y))`` of each row."""
    rows, channels = y.shape
    per_task = max(1, BLOCK // channels)
    while True:
        first = next_task(queue, thread, -(-rows // per_task)) * per_task
        if first >= rows:
            break
        for row in range(first, min(first + per_task, rows)):
            at = row * channels
            sums = zeros(y, 1, VECTORS)
            for c in range(0, channels, WIDTH):
                sums = sums + _tile(dy, at + c, channels - c, 0.0) * _tile(y, at + c, channels - c, 0.0)
            mean = total(sums)
            for c in range(0, channels, WIDTH):
                gradient = _tile(y, at + c, channels - c, 0.0) * (_tile(dy, at + c, channels - c, 0.0) - mean)
                write(gradient, dx, at + c, channels - c)


@kernel(parallel=True)
def log_softmax(x, y, queue, thread):
    """``y = x - m - ln sum(exp(x - m))`` of each row, m its largest element."""
    rows, channels = x.shape
    per_task = max(1, BLOCK // channels)
    while True:
        first = next_task(queue, thread, -(-rows // per_task)) * per_task
        if first >= rows:
            break
        for row in range(first, min(first + per_task, rows)):
            at = row * channels
            top = _row_largest(x, at, channels)
            sums = zeros(x, 1, VECTORS)
            for c in range(0, channels, WIDTH):
                sums = sums + math.exp(_tile(x, at + c, channels - c, -math.inf) - top)
            logarithm = math.log(total(sums))
            for c in range(0, channels, WIDTH):
                write(_tile(x, at + c, channels - c, 0.0) - top - logarithm, y, at + c, channels - c)


@kernel(parallel=True)
def log_softmax_backward(dy, y, dx, queue, thread):
    """``dx = dy - exp(y) * sum(dy)`` of each row."""
    rows, channels = y.shape
    per_task = max(1, BLOCK // channels)
    while True:
        first = next_task(queue, thread, -(-rows // per_task)) * per_task
        if first >= rows:
            break
        for row in range(first, min(first + per_task, rows)):
            at = row * channels
            sums = zeros(y, 1, VECTORS)
            for c in range(0, channels, WIDTH):
                sums = sums + _tile(dy, at + c, channels - c, 0.0)
            whole = total(sums)
            for c in range(0, channels, WIDTH):
                gradient = _tile(dy, at + c, channels - c, 0.0) - math.exp(_tile(y, at + c, channels - c, 0.0)) * whole
                write(gradient, dx, at + c, channels - c)


# PReLU: y = x above 0, weight * x elsewhere; arrays (rows, channels), one weight for each channel or one for all ---------


@inline
def _weights(weight, c, count):
    if weight.size == 1:
        return splat(weight, weight[0], 1, VECTORS)
    return _tile(weight, c, count, 0.0)


@kernel(parallel=True)
def prelu(x, weight, y, queue, thread):
    """``y = x`` above 0, ``weight * x`` elsewhere."""
    rows, channels = x.shape
    per_task = max(1, BLOCK // channels)
    while True:
        first = next_task(queue, thread, -(-rows // per_task)) * per_task
        if first >= rows:
            break
        for row in range(first, min(first + per_task, rows)):
            for c in range(0, channels, WIDTH):
                at = row * channels + c
                value = _tile(x, at, channels - c, 0.0)
                write(where(value > 0.0, value, _weights(weight, c, channels - c) * value), y, at, channels - c)


@kernel(parallel=True)
def prelu_backward(dy, x, weight, dx, queue, thread):
    """``dx = dy`` where x is above 0, ``weight * dy`` elsewhere."""
    rows, channels = x.shape
    per_task = max(1, BLOCK // channels)
    while True:
        first = next_task(queue, thread, -(-rows // per_task)) * per_task
        if first >= rows:
            break
        for row in range(first, min(first + per_task, rows)):
            for c in range(0, channels, WIDTH):
                at = row * channels + c
                gradient = _tile(dy, at, channels - c, 0.0)
                below = _weights(weight, c, channels - c) * gradient
                write(where(_tile(x, at, channels - c, 0.0) > 0.0, gradient, below), dx, at, channels - c)


SUM_ROWS = 512  # rows that one task of a sum over rows adds up


def prelu_weight_gradient(dy: np.ndarray, x: np.ndarray, partial: np.ndarray, dweight: np.ndarray) -> None:
    """``dweight = sum(dy * min(x, 0))`` over the rows, and over the channels where all share one weight.

    ``partial`` is scratch of shape ``(ceil(rows / SUM_ROWS), channels)``; the order of addition follows from the shapes alone.
    """
    _prelu_partials(dy, x, partial)
    _prelu_total(partial, dweight)


@kernel(parallel=True)
def _prelu_partials(dy, x, partial, queue, thread):
    rows, channels = x.shape
    while True:
        part = next_task(queue, thread, -(-rows // SUM_ROWS))
        if part * SUM_ROWS >= rows:
            break
        for c in range(0, channels, WIDTH):
            sums = zeros(x, 1, VECTORS)
            for row in range(part * SUM_ROWS, min((part + 1) * SUM_ROWS, rows)):
                at = row * channels + c
                value = _tile(x, at, channels - c, 0.0)
                sums = sums + where(value > 0.0, 0.0, value * _tile(dy, at, channels - c, 0.0))
            write(sums, partial, part * channels + c, channels - c)


@kernel
def _prelu_total(partial, dweight):
    dweight[:] = 0.0
    for part in range(partial.shape[0]):
        for c in range(partial.shape[1]):
            dweight[c if dweight.size > 1 else 0] += partial[part, c]
