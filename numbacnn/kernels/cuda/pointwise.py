"""Elementwise functions of whole arrays, forward and backward (compare :mod:`numbacnn.kernels.pointwise`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import scalar
from .driver import cuda, float32, int32
from .launch import Kernel, blocks_for, kernel
from .memory import DeviceArray


@functools.cache
def _forward(function: Callable) -> Kernel:
    f = scalar.compiled(function)

    @kernel
    def elementwise(x, y, count):
        at = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
        if at < count:
            y[at] = f(x[at])

    return elementwise


def forward(function: Callable[[Any], Any], x: DeviceArray, y: DeviceArray) -> None:
    """``y = function(x)``; they may be the same array."""
    _forward(function)(blocks_for(x.size), x, y, x.size)


@functools.cache
def _backward(function: Callable, derivative: Callable | None) -> Kernel:
    slope = scalar.compiled(derivative) if derivative else scalar.derivative(function)

    @kernel
    def elementwise_gradient(dy, x, dx, count):
        at = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
        if at < count:
            dx[at] = dy[at] * slope(x[at])

    return elementwise_gradient


def backward(
    function: Callable[[Any], Any], derivative: Callable[[Any], Any] | None, dy: DeviceArray, x: DeviceArray, dx: DeviceArray
) -> None:
    """``dx = dy * function'(x)``; ``dx`` may be another of them."""
    _backward(function, derivative)(blocks_for(x.size), dy, x, dx, x.size)


@functools.cache
def _backward_from_output(gradient: Callable) -> Kernel:
    g = scalar.compiled(gradient)

    @kernel
    def elementwise_gradient(dy, y, dx, count):
        at = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
        if at < count:
            dx[at] = g(dy[at], y[at])

    return elementwise_gradient


def backward_from_output(gradient: Callable[[Any, Any], Any], dy: DeviceArray, y: DeviceArray, dx: DeviceArray) -> None:
    """``dx = gradient(dy, y)``; ``dx`` may be another of them."""
    _backward_from_output(gradient)(blocks_for(y.size), dy, y, dx, y.size)


@kernel
def _add(x, y, count):
    at = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
    if at < count:
        y[at] += x[at]


def add(x: DeviceArray, y: DeviceArray) -> None:
    """``y += x``."""
    _add(blocks_for(x.size), x, y, x.size)


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
