"""Elementwise functions of whole arrays, forward and backward (compare :mod:`numbacnn.kernels.pointwise`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import scalar
from .driver import cuda, device_function, float32, int32
from .launch import Kernel, blocks_for, kernel
from .memory import DeviceArray, cut_in_fours
from .ptx import load4, store4


@functools.cache
def _forward(function: Callable) -> Kernel:
    f = scalar.compiled(function)

    @kernel
    def elementwise(x, y, fours, count):
        thread = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
        at = int32(thread + 3 * fours)
        if thread < fours:
            a = load4(x, int32(4 * thread))
            store4(y, int32(4 * thread), (f(a[0]), f(a[1]), f(a[2]), f(a[3])))
        elif at < count:
            y[at] = f(x[at])

    return elementwise


def forward(function: Callable[[Any], Any], x: DeviceArray, y: DeviceArray) -> None:
    """``y = function(x)``; they may be the same array."""
    blocks, fours = cut_in_fours(x, y)
    _forward(function)(blocks, x, y, fours, x.size)


@functools.cache
def _backward(function: Callable, derivative: Callable | None) -> Kernel:
    slope = scalar.compiled(derivative) if derivative else scalar.derivative(function)

    @device_function
    def gradient(dy, x):
        return dy * slope(x)

    return _of_two(gradient)


def backward(
    function: Callable[[Any], Any], derivative: Callable[[Any], Any] | None, dy: DeviceArray, x: DeviceArray, dx: DeviceArray
) -> None:
    """``dx = dy * function'(x)``; ``dx`` may be another of them."""
    blocks, fours = cut_in_fours(dy, x, dx)
    _backward(function, derivative)(blocks, dy, x, dx, fours, x.size)


@functools.cache
def _backward_from_output(gradient: Callable) -> Kernel:
    return _of_two(scalar.compiled(gradient))


def backward_from_output(gradient: Callable[[Any, Any], Any], dy: DeviceArray, y: DeviceArray, dx: DeviceArray) -> None:
    """``dx = gradient(dy, y)``; ``dx`` may be another of them."""
    blocks, fours = cut_in_fours(dy, y, dx)
    _backward_from_output(gradient)(blocks, dy, y, dx, fours, y.size)


def _of_two(f: Callable) -> Kernel:
    """``c = f(a, b)``."""

    @kernel
    def elementwise_of_two(a, b, c, fours, count):
        thread = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
        at = int32(thread + 3 * fours)
        if thread < fours:
            p, q = load4(a, int32(4 * thread)), load4(b, int32(4 * thread))
            store4(c, int32(4 * thread), (f(p[0], q[0]), f(p[1], q[1]), f(p[2], q[2]), f(p[3], q[3])))
        elif at < count:
            c[at] = f(a[at], b[at])

    return elementwise_of_two


@device_function
def _sum(a, b):
    return a + b


_add = _of_two(_sum)


def add(x: DeviceArray, y: DeviceArray) -> None:
    """``y += x``."""
    blocks, fours = cut_in_fours(x, y)
    _add(blocks, x, y, y, fours, x.size)


@kernel
def _scale(x, factor, count):
    at = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
    if at < count:
        x[at] *= factor


def scale(x: DeviceArray, factor: float) -> None:
    """``x *= factor``."""
    _scale(blocks_for(x.size), x, factor, x.size)


@kernel
def _copy_where(condition, x, y, count):
    at = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
    if at < count and condition[0] != float32(0):
        y[at] = x[at]


def copy_where(condition: DeviceArray, x: DeviceArray, y: DeviceArray) -> None:
    """``y = x`` where the first number of ``condition`` is not 0, else nothing."""
    _copy_where(blocks_for(x.size), condition, x, y, x.size)


def copy(x: DeviceArray, y: DeviceArray) -> None:
    """``y = x``; nothing where they are the same array."""
    if x.pointer != y.pointer:
        y.copy_from(x)
