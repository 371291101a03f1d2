"""Moving elements between arrays of any layout: what Permute, ZeroPad, Crop, Concatenate, Split, DepthToSpace... are made of.

All of them are one kernel, :func:`copy`, between strided views; their backward passes are the same copy the other way.
"""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from .channels import WIDTH, read, write
from .jit import inline, kernel
from .strided import AXES, axes_of, block_of, element_strides, geometry, memory, merge, offset_of, plan
from .tasks import next_task

STRIP = 16  # columns of a transposed block: as many cache lines stay open at once
FEW_COLUMNS = 4  # of a transposed block that is walked along its rows instead


def copy(source: np.ndarray, target: np.ndarray) -> None:
    """``target[...] = source`` for views of one shape, of any strides that are not negative; they must not overlap."""
    if source.shape != target.shape:
        raise ShapeError(f"a view of shape {source.shape} was to be copied into one of shape {target.shape}; they must agree.")
    _launch(memory(source), element_strides(source), memory(target), target)


def clear(target: np.ndarray) -> None:
    """``target[...] = 0`` for a view of any strides that are not negative."""
    _launch(np.zeros(1, target.dtype), (0,) * target.ndim, memory(target), target)


def _launch(source: np.ndarray, source_strides: tuple[int, ...], destination: np.ndarray, target: np.ndarray) -> None:
    if target.size == 0:
        return
    axes = axes_of(target.shape, source_strides, element_strides(target))
    axes = merge(sorted(axes, key=lambda axis: -axis[1][1]))
    if axes and axes[-1][1][0] > 1:  # a transposition: walk the two contiguous axes together
        axes.insert(-1, axes.pop(min(range(len(axes)), key=lambda k: (axes[k][1][0], -k))))
    table = geometry(axes, 2)
    _copy(source, destination, table, plan(table))


@kernel(parallel=True)
def _copy(source, target, table, plan, queue, thread):
    tasks, grain = plan[2], plan[3]
    while True:
        first = next_task(queue, thread, -(-tasks // grain)) * grain
        if first >= tasks:
            break
        for task in range(first, min(first + grain, tasks)):
            _copy_block(source, target, table, plan, task)


@inline
def _copy_block(source, target, table, plan, task):
    plane, row_start, row_stop, start, stop = block_of(table, plan, task)
    source_row, source_column = table[1, AXES - 2], table[1, AXES - 1]
    target_row, target_column = table[2, AXES - 2], table[2, AXES - 1]
    source_at = offset_of(table, 1, plane, AXES - 2)
    target_at = offset_of(table, 2, plane, AXES - 2)
    if source_column <= 1 and target_column == 1:
        for row in range(row_start, row_stop):
            source_row_at = source_at + row * source_row + start * source_column
            _copy_run(source, source_row_at, source_column, target, target_at + row * target_row + start, stop - start)
    elif stop - start <= FEW_COLUMNS:
        for column in range(start, stop):
            from_at, to_at = source_at + column * source_column, target_at + column * target_column
            for row in range(row_start, row_stop):
                target[to_at + row * target_row] = source[from_at + row * source_row]
    else:
        for strip in range(start, stop, STRIP):
            for row in range(row_start, row_stop):
                from_at, to_at = source_at + row * source_row, target_at + row * target_row
                for column in range(strip, min(strip + STRIP, stop)):
                    target[to_at + column * target_column] = source[from_at + column * source_column]


@inline
def _copy_run(source, source_at, step, target, target_at, count):
    """Neighbours in both arrays, or, where ``step`` is 0, one element again and again."""
    if step == 0:
        for column in range(count):
            target[target_at + column] = source[source_at]
        return
    for column in range(0, count, WIDTH):
        write(read(source, source_at + column, count - column), target, target_at + column, count - column)
