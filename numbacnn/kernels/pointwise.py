"""Elementwise functions of whole arrays, softmax over the last axis, and the parametric rectifier, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import prange

from ..simd import LANES, load, load_part, store, store_part, take
from . import scalar
from .jit import Kernel, inline, kernel

BLOCK = 8192  # elements per task: two arrays of them fit the first two caches
VECTORS = 2
WIDTH = VECTORS * LANES


# y = f(x) ------------------------------------------------------------------------------------------------------------


@functools.cache
def forward(function: Callable[[Any], Any]) -> Kernel:
    """The kernel ``(x, y)`` that fills ``y`` with a scalar ``function`` of ``x``. Dense arrays of one axis, which may be the same."""
    f = scalar.compiled(function)

    @kernel(parallel=True)
    def elementwise(x, y, queue, threads):
        queue[0] = 0
        for _ in prange(threads):
            while True:
                start = take(queue, 0, BLOCK)
                if start >= x.size:
                    break
                stop = min(start + BLOCK, x.size)
                for at in range(start, stop, WIDTH):
                    count = min(stop - at, WIDTH)
                    if count == WIDTH:
                        store(f(load(x, at, 0, 1, VECTORS)), y, at, 0)
                    else:
                        store_part(f(load_part(x, at, 0, count, 1, VECTORS)), y, at, 0, count)

    return elementwise


@functools.cache
def backward(function: Callable[[Any], Any], derivative: Callable[[Any], Any] | None = None) -> Kernel:
    """The kernel ``(dy, x, dx)`` with ``dx = dy * f'(x)``. Arrays as in :func:`forward`."""
    slope = scalar.compiled(derivative) if derivative else scalar.derivative(function)

    @inline
    def gradient(dy, x):
        return dy * slope(x)

    return _gradient_kernel(gradient)


@functools.cache
def backward_from_output(gradient: Callable[[Any, Any], Any]) -> Kernel:
    """The kernel ``(dy, y, dx)`` with ``dx = gradient(dy, y)``, a scalar function without branches. Arrays as in :func:`forward`."""
    return _gradient_kernel(inline(scalar.rebound(gradient)))


def _gradient_kernel(gradient: Callable[[Any, Any], Any]) -> Kernel:
    @kernel(parallel=True)
    def elementwise_gradient(dy, known, dx, queue, threads):
        queue[0] = 0
        for _ in prange(threads):
            while True:
                start = take(queue, 0, BLOCK)
                if start >= dy.size:
                    break
                stop = min(start + BLOCK, dy.size)
                for at in range(start, stop, WIDTH):
                    count = min(stop - at, WIDTH)
                    if count == WIDTH:
                        store(gradient(load(dy, at, 0, 1, VECTORS), load(known, at, 0, 1, VECTORS)), dx, at, 0)
                    else:
                        part = load_part(dy, at, 0, count, 1, VECTORS)
                        store_part(gradient(part, load_part(known, at, 0, count, 1, VECTORS)), dx, at, 0, count)

    return elementwise_gradient
