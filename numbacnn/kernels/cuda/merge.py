"""Several arrays into one, element by element, and the way back, on the device (compare :mod:`numbacnn.kernels.merge`).

Operands may have length 1 where the result is longer: they are repeated along that axis, as in NumPy. The gradient of such an operand is a
sum (``sums.py``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from .blocks import UNROLL
from .driver import cuda, device_function, float32, int32
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray
from .strided import ROW_LANES, broadcast_axes, offset_of, row_step, start, walk


@device_function
def add(a, b):
    return a + b


@device_function
def subtract(a, b):
    return a - b


@device_function
def multiply(a, b):
    return a * b


@device_function
def maximum(a, b):
    """NaN wins."""
    return b if a < b or math.isnan(b) else a


@functools.cache
def _alike(operation: Callable) -> Kernel:
    @kernel
    def pairs(a, b, y, count):
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at < count:
            y[at] = operation(a[at], b[at])

    return pairs


@functools.cache
def _repeated(operation: Callable) -> Kernel:
    @kernel
    def pairs(a, b, y, table):
        left = cuda.local.array(UNROLL, float32)
        right = cuda.local.array(UNROLL, float32)
        plane, row, stop, column = start(table)
        a_at, b_at = offset_of(table, int32(0), plane, row, column), offset_of(table, int32(1), plane, row, column)
        y_at, step = offset_of(table, int32(2), plane, row, column), table[ROW_LANES]
        a_step, b_step, y_step = row_step(table, int32(0)), row_step(table, int32(1)), row_step(table, int32(2))
        while row + (UNROLL - 1) * step < stop:
            for k in range(UNROLL):
                left[k] = a[a_at + k * a_step]
                right[k] = b[b_at + k * b_step]
            for k in range(UNROLL):
                y[y_at + k * y_step] = operation(left[k], right[k])
            row, y_at = int32(row + UNROLL * step), int32(y_at + UNROLL * y_step)
            a_at, b_at = int32(a_at + UNROLL * a_step), int32(b_at + UNROLL * b_step)
        while row < stop:
            y[y_at] = operation(a[a_at], b[b_at])
            row, y_at = int32(row + step), int32(y_at + y_step)
            a_at, b_at = int32(a_at + a_step), int32(b_at + b_step)

    return pairs


def pairwise(operation: Callable, a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """``y = operation(a, b)``, one of the functions above; ``a`` and ``b`` have y's shape, or 1 along some axes. ``y`` may be ``a`` or
    ``b``."""
    if a.shape == b.shape == y.shape:
        _alike(operation)(blocks_for(y.size), a, b, y, y.size)
    else:
        plan = walk(broadcast_axes(y.shape, a.shape, b.shape, y.shape))
        _repeated(operation)(plan.blocks, a, b, y, plan.table)


@kernel
def _negate(x, y, count):
    at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
    if at < count:
        y[at] = -x[at]


def negate(x: DeviceArray, y: DeviceArray) -> None:
    """``y = -x``."""
    _negate(blocks_for(x.size), x, y, x.size)


@kernel
def _claim(x, y, given, taken, left, table):
    plane, row, stop, column = start(table)
    x_at, at = offset_of(table, int32(0), plane, row, column), offset_of(table, int32(1), plane, row, column)
    x_step, at_step, step = row_step(table, int32(0)), row_step(table, int32(1)), table[ROW_LANES]
    while row < stop:
        wins, gradient = x[x_at] == y[at], given[at]
        left[at] = float32(0) if wins else gradient
        taken[at] = gradient if wins else float32(0)
        row, x_at, at = int32(row + step), int32(x_at + x_step), int32(at + at_step)


def claim(x: DeviceArray, y: DeviceArray, given: DeviceArray, taken: DeviceArray, left: DeviceArray) -> None:
    """One input's turn in the backward pass of a maximum: where ``x == y`` it takes the gradient ``given``, elsewhere it leaves it.

    ``taken = where(x == y, given, 0)`` and ``left = where(x == y, 0, given)``, which may be ``given``; ``x`` has the shape of the others,
    or 1 along some axes."""
    plan = walk(broadcast_axes(y.shape, x.shape, y.shape))
    _claim(plan.blocks, x, y, given, taken, left, plan.table)
