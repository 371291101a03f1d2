"""Several arrays into one, element by element, and the way back: Add, Subtract, Multiply, Maximum, Scale.

Operands may have length 1 where the result is longer: they are repeated along that axis, as in NumPy. The gradient of such an operand is
a sum, :func:`sum_product`: every element of it is summed up by one task in an order that follows from the shapes alone.
"""

from __future__ import annotations

import math

import numpy as np

from ..simd import splat, total, where, zeros
from .channels import VECTORS, WIDTH, write
from .jit import inline, kernel
from .strided import (
    AXES,
    axes_of,
    block_of,
    broadcast_strides,
    columns_at,
    geometry,
    memory,
    merge,
    offset_of,
    plan,
    with_lanes,
)  # fmt: skip
from .tasks import next_task

ADD, SUBTRACT, MULTIPLY, MAXIMUM = range(4)  # one compiled kernel serves them all
FLUSH = 64  # terms that are added up before they join the total: keeps float32 sums accurate


# Element by element --------------------------------------------------------------------------------------------------


def add(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """``y = a + b``; ``a`` and ``b`` have y's shape, or 1 along some axes. ``y`` may be ``a`` or ``b``."""
    _launch_pairwise(ADD, a, b, y)


def subtract(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """``y = a - b``, as :func:`add`."""
    _launch_pairwise(SUBTRACT, a, b, y)


def multiply(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """``y = a * b``, as :func:`add`."""
    _launch_pairwise(MULTIPLY, a, b, y)


def maximum(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """``y = max(a, b)``, as :func:`add`; NaN wins."""
    _launch_pairwise(MAXIMUM, a, b, y)


def claim(x: np.ndarray, y: np.ndarray, given: np.ndarray, taken: np.ndarray, left: np.ndarray) -> None:
    """One input's turn in the backward pass of a maximum: where ``x == y`` it takes the gradient ``given``, elsewhere it leaves it.

    ``taken = where(x == y, given, 0)`` and then ``left = where(x == y, 0, given)``; ``left`` may be ``given``, and may
    be ``taken`` if that isn't wanted.
    """
    operands = (x, y, given, taken, left)
    table = _table(left.shape, operands)
    _claim(*map(memory, operands), table, plan(table))


def _table(shape: tuple[int, ...], operands: tuple[np.ndarray, ...]) -> np.ndarray:
    axes = merge(axes_of(shape, *(broadcast_strides(operand, shape) for operand in operands)))
    return geometry(with_lanes(axes, len(operands)), len(operands))


def _launch_pairwise(operation: int, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    table = _table(y.shape, (a, b, y))
    _pairwise(operation, memory(a), memory(b), memory(y), table, plan(table))


@kernel(parallel=True)
def _pairwise(operation, a, b, y, table, plan, queue, thread):
    tasks, grain = plan[2], plan[3]
    while True:
        first = next_task(queue, thread, -(-tasks // grain)) * grain
        if first >= tasks:
            break
        for task in range(first, min(first + grain, tasks)):
            _pairwise_block(operation, a, b, y, table, plan, task)


@inline
def _pairwise_block(operation, a, b, y, table, plan, task):
    plane, row_start, row_stop, start, stop = block_of(table, plan, task)
    a_step, b_step = table[1, AXES - 1], table[2, AXES - 1]
    a_at = offset_of(table, 1, plane, AXES - 2)
    b_at = offset_of(table, 2, plane, AXES - 2)
    y_at = offset_of(table, 3, plane, AXES - 2)
    for row in range(row_start, row_stop):
        a_row, b_row, y_row = a_at + row * table[1, AXES - 2], b_at + row * table[2, AXES - 2], y_at + row * table[3, AXES - 2]
        for column in range(start, stop, WIDTH):
            count = stop - column
            left = columns_at(a, a_row + column * a_step, a_step, count)
            right = columns_at(b, b_row + column * b_step, b_step, count)
            write(_pair(operation, left, right), y, y_row + column, count)


@inline
def _pair(operation, left, right):
    if operation == ADD:
        return left + right
    if operation == SUBTRACT:
        return left - right
    if operation == MULTIPLY:
        return left * right
    return max(left, right)


@kernel(parallel=True)
def _claim(x, y, given, taken, left, table, plan, queue, thread):
    tasks, grain = plan[2], plan[3]
    while True:
        first = next_task(queue, thread, -(-tasks // grain)) * grain
        if first >= tasks:
            break
        for task in range(first, min(first + grain, tasks)):
            _claim_block(x, y, given, taken, left, table, plan, task)


@inline
def _claim_block(x, y, given, taken, left, table, plan, task):
    plane, row_start, row_stop, start, stop = block_of(table, plan, task)
    x_step = table[1, AXES - 1]
    x_at = offset_of(table, 1, plane, AXES - 2)
    y_at = offset_of(table, 2, plane, AXES - 2)
    given_at = offset_of(table, 3, plane, AXES - 2)
    taken_at = offset_of(table, 4, plane, AXES - 2)
    left_at = offset_of(table, 5, plane, AXES - 2)
    nothing = splat(y, 0, 1, VECTORS)
    for row in range(row_start, row_stop):
        for column in range(start, stop, WIDTH):
            count = stop - column
            here = columns_at(x, x_at + row * table[1, AXES - 2] + column * x_step, x_step, count)
            wins = here == columns_at(y, y_at + row * table[2, AXES - 2] + column, 1, count)
            gradient = columns_at(given, given_at + row * table[3, AXES - 2] + column, 1, count)
            write(where(wins, gradient, nothing), taken, taken_at + row * table[4, AXES - 2] + column, count)
            write(where(wins, nothing, gradient), left, left_at + row * table[5, AXES - 2] + column, count)


# Sums over repeated axes ---------------------------------------------------------------------------------------------


def sum_product(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """``y = sum(a * b)`` over the axes along which ``y`` has length 1; ``b`` has a's shape, or 1 along some axes."""
    if y.shape == a.shape:
        multiply(a, b, y)
        return
    axes = merge(axes_of(a.shape, broadcast_strides(a, a.shape), broadcast_strides(b, a.shape), broadcast_strides(y, a.shape)))
    axes = with_lanes(axes, 3)
    kept = [axis for axis in axes if axis[1][2] != 0]
    summed = [(length, steps[:2]) for length, steps in axes if steps[2] == 0]
    lanes_kept = axes[-1][1][2] != 0
    kept_table, summed_table = geometry(kept, 3), geometry(summed, 2)
    cost = math.prod(length for length, _ in summed)
    runs = cost // int(summed_table[0, AXES - 1])
    _sum_product(memory(a), memory(b), memory(y), kept_table, summed_table, runs, lanes_kept, plan(kept_table, cost))


@kernel(parallel=True)
def _sum_product(a, b, y, kept, summed, runs, lanes_kept, plan, queue, thread):
    tasks, grain = plan[2], plan[3]
    while True:
        first = next_task(queue, thread, -(-tasks // grain)) * grain
        if first >= tasks:
            break
        for task in range(first, min(first + grain, tasks)):
            _sum_block(a, b, y, kept, summed, runs, lanes_kept, plan, task)


@inline
def _sum_block(a, b, y, kept, summed, runs, lanes_kept, plan, task):
    plane, row_start, row_stop, start, stop = block_of(kept, plan, task)
    a_step, b_step, y_step = kept[1, AXES - 1], kept[2, AXES - 1], kept[3, AXES - 1]
    a_at = offset_of(kept, 1, plane, AXES - 2)
    b_at = offset_of(kept, 2, plane, AXES - 2)
    y_at = offset_of(kept, 3, plane, AXES - 2)
    for row in range(row_start, row_stop):
        a_row, b_row, y_row = a_at + row * kept[1, AXES - 2], b_at + row * kept[2, AXES - 2], y_at + row * kept[3, AXES - 2]
        if lanes_kept:
            for column in range(start, stop, WIDTH):
                count = stop - column
                sums = _sum_columns(a, b, a_row + column * a_step, b_row + column * b_step, a_step, b_step, summed, runs, count)
                write(sums, y, y_row + column, count)
        else:
            for column in range(start, stop):
                y[y_row + column * y_step] = _sum_lanes(a, b, a_row + column * a_step, b_row + column * b_step, summed, runs)


@inline
def _sum_columns(a, b, a_at, b_at, a_step, b_step, summed, runs, count):
    """A tile of sums: each lane adds up its own column."""
    length, a_next, b_next = summed[0, AXES - 1], summed[1, AXES - 1], summed[2, AXES - 1]
    sums = zeros(a, 1, VECTORS)
    for run in range(runs):
        a_run = a_at + offset_of(summed, 1, run, AXES - 1)
        b_run = b_at + offset_of(summed, 2, run, AXES - 1)
        for first in range(0, length, FLUSH):
            part = zeros(a, 1, VECTORS)
            for k in range(first, min(first + FLUSH, length)):
                part = part + columns_at(a, a_run + k * a_next, a_step, count) * columns_at(b, b_run + k * b_next, b_step, count)
            sums = sums + part
    return sums


@inline
def _sum_lanes(a, b, a_at, b_at, summed, runs):
    """One sum: the lanes run along the summed axis and are added up at the end."""
    length, a_step, b_step = summed[0, AXES - 1], summed[1, AXES - 1], summed[2, AXES - 1]
    whole = length - length % WIDTH
    sums = zeros(a, 1, VECTORS)
    rest = 0.0
    for run in range(runs):
        a_run = a_at + offset_of(summed, 1, run, AXES - 1)
        b_run = b_at + offset_of(summed, 2, run, AXES - 1)
        for first in range(0, whole, FLUSH * WIDTH):
            part = zeros(a, 1, VECTORS)
            for k in range(first, min(first + FLUSH * WIDTH, whole), WIDTH):
                part = part + columns_at(a, a_run + k * a_step, a_step, WIDTH) * columns_at(b, b_run + k * b_step, b_step, WIDTH)
            sums = sums + part
        for k in range(whole, length):
            rest += a[a_run + k * a_step] * b[b_run + k * b_step]
    return rest + total(sums)
