"""Loops over arrays of any layout: axes merged as far as their strides allow, and cut into tasks.

A *geometry* is an int64 table: row 0 holds the lengths of :data:`AXES` axes (ones in front), each further row the strides of
one operand in elements; 0 repeats the operand along that axis. The last two axes are a plane of rows and columns; the axes before them
number the planes. A *plan* is ``(rows per task, columns per task, tasks, tasks per take)``; it follows from lengths alone, so that
the number of threads never changes a result. Kernels take each operand as the 1-D run of memory that it spans (:func:`memory`),
so that one compiled kernel serves all layouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import ShapeError
from ..simd import splat
from .channels import VECTORS, WIDTH, read
from .jit import inline

AXES = 8
TASK_ELEMENTS = 16 * 1024  # per take of the work queue: enough to hide its cost, little enough to balance

Axis = tuple[int, tuple[int, ...]]
"""Length, and one stride per operand."""


# Shapes to tables ----------------------------------------------------------------------------------------------------


def memory(array: np.ndarray) -> np.ndarray:
    """The elements from the first to the last of ``array``, as a dense 1-D view. Strides must not be negative."""
    last = sum((length - 1) * step for length, step in zip(array.shape, element_strides(array)))
    return np.lib.stride_tricks.as_strided(array, (last + 1,), (array.itemsize,))


def element_strides(array: np.ndarray) -> tuple[int, ...]:
    return tuple(step // array.itemsize for step in array.strides)


def broadcast_strides(array: np.ndarray, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of ``array`` seen in ``shape``: 0 along axes where it has length 1."""
    return tuple(0 if length == 1 else step for length, step in zip(array.shape, element_strides(array)))


def axes_of(shape: Sequence[int], *strides: Sequence[int]) -> list[Axis]:
    return [(length, steps) for length, *steps in zip(shape, *strides)]  # type: ignore[misc]


def merge(axes: Iterable[Axis]) -> list[Axis]:
    """The same elements in the same order over as few axes as possible."""
    merged: list[Axis] = []
    for length, steps in axes:
        if length == 1:
            continue
        if merged and all(outer == inner * length for outer, inner in zip(merged[-1][1], steps)):
            merged[-1] = (merged[-1][0] * length, steps)
        else:
            merged.append((length, steps))
    return merged


def with_lanes(axes: list[Axis], operands: int) -> list[Axis]:
    """``axes``, with one of length 1 behind unless every operand is dense or repeated along the last: what tiles need."""
    if axes and all(step in (0, 1) for step in axes[-1][1]):
        return axes
    return [*axes, (1, (1,) * operands)]


def geometry(axes: list[Axis], operands: int) -> np.ndarray:
    """The table of ``axes``; ShapeError if there are more than :data:`AXES`."""
    if len(axes) > AXES:
        raise ShapeError(f"an array with {len(axes)} axes that cannot be merged was given; kernels take at most {AXES}.")
    table = np.zeros((1 + operands, AXES), np.int64)
    table[0] = 1
    for column, (length, steps) in zip(range(AXES - len(axes), AXES), axes):
        table[:, column] = (length, *steps)
    return table


def plan(table: np.ndarray, cost: int = 1) -> np.ndarray:
    """How to cut the elements of a geometry into tasks, where each costs as much as reading ``cost`` elements."""
    *planes, rows, columns = (int(length) for length in table[0])
    budget = max(1, TASK_ELEMENTS // cost)
    column_block = min(columns, -(-budget // WIDTH) * WIDTH)
    row_block = min(rows, max(1, budget // column_block))
    tasks = math.prod(planes) * -(-rows // row_block) * -(-columns // column_block)
    return np.array([row_block, column_block, tasks, max(1, budget // (row_block * column_block))], np.int64)


# In kernels ----------------------------------------------------------------------------------------------------------


@inline
def offset_of(table, operand, index, axes):
    """Offset in elements of the ``index``-th place of the first ``axes`` axes."""
    offset = 0
    for axis in range(axes - 1, -1, -1):
        length = table[0, axis]
        if length > 1:
            offset += index % length * table[operand, axis]
            index //= length
    return offset


@inline
def block_of(table, plan, task):
    """``(plane, first row, end of rows, first column, end of columns)`` of a task."""
    rows, columns = table[0, AXES - 2], table[0, AXES - 1]
    row_block, column_block = plan[0], plan[1]
    column_blocks = -(-columns // column_block)
    row_blocks = -(-rows // row_block)
    column = task % column_blocks * column_block
    row = task // column_blocks % row_blocks * row_block
    plane = task // (column_blocks * row_blocks)
    return plane, row, min(row + row_block, rows), column, min(column + column_block, columns)


@inline
def columns_at(array, offset, step, count):
    """The next ``count`` columns, at most :data:`WIDTH`, of an operand whose column stride is 1 or 0."""
    if step == 0:
        return splat(array, array[offset], 1, VECTORS)
    return read(array, offset, count)
