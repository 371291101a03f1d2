"""Sums over some axes of an array, or of a product of two, on the device: the gradients of operands that were repeated.

The result's axes are kept, the others are summed. A block has a part of the terms of some neighbouring elements of the result. Where the
last axis is kept, neighbouring threads have neighbouring elements, and rows of threads share the terms; where it is summed, neighbouring
threads share the terms of one element. Parts, and with them the order of addition, follow from the shapes alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from ...errors import ShapeError
from ..strided import AXES as MOST_AXES
from ..strided import merge
from .blocks import BLOCKS, LANES, SUMMED, lanes_for
from .columns import sum_parts
from .driver import cuda, float32, int32
from .indexing import quotient
from .launch import THREADS, Kernel, kernel
from .memory import DeviceArray, on_device
from .reduce import column_sum, team_for
from .strided import broadcast_axes

PLANES, COLUMNS, ROW_THREADS, LANE_THREADS, SLICES, CHUNK, CHUNKS, TERMS, KEPT_AXES, SUMMED_AXES, ACROSS, A_COLUMN, B_COLUMN = range(13)
AXES = 13  # where, for each axis, there are its length and the strides of both factors: those kept, but the last, then those summed
LENGTH, A_STRIDE, B_STRIDE, AXIS = range(4)
EACH = 8  # neighbouring terms for each thread of a team

Shape = Sequence[int]


@functools.cache
def _plan(shape: tuple[int, ...], factor: tuple[int, ...], result: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """The table for a kernel, and whether the terms lie along several axes. ``ACROSS`` is 1 where the last axis is kept."""
    axes = merge(broadcast_axes(shape, shape, factor, result))
    if len(axes) > MOST_AXES:
        raise ShapeError(f"an array with {len(axes)} axes that cannot be merged was given; kernels take at most {MOST_AXES}.")
    kept = [axis for axis in axes if axis[1][2] != 0] or [(1, (0, 0, 1))]
    summed = [axis for axis in axes if axis[1][2] == 0]
    across = axes[-1][1][2] != 0
    *outer, (columns, (a_column, b_column, _)) = kept
    planes, terms = (math.prod(length for length, _ in part) for part in (outer, summed))
    lanes = lanes_for(columns, LANES) if across else THREADS // team_for(summed[-1][0], EACH)
    rows = THREADS // lanes
    slices = -(-columns // lanes)
    chunk = max(-(-terms // max(1, BLOCKS // (planes * slices))), rows * SUMMED)
    numbers = [planes, columns, rows, lanes, slices, chunk, -(-terms // chunk), terms, len(outer), len(summed), across, a_column, b_column]
    for length, (a_step, b_step, _) in (*outer, *summed):
        numbers += [length, a_step, b_step]
    return np.array(numbers, np.int32), len(summed) > 1


@functools.cache
def _sums(multiplies: bool, several: bool) -> Kernel:
    @kernel
    def sums(a, b, y, table, factor):
        """``y[part, element]``: the sum of a part of the terms, times ``factor``."""
        shared = cuda.shared.array(THREADS, float32)
        block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
        rows, lanes = table[ROW_THREADS], table[LANE_THREADS]
        row = quotient(thread, lanes)
        lane = int32(thread - row * lanes)
        if not table[ACROSS]:
            lane = quotient(thread, rows)
            row = int32(thread - lane * rows)
        piece = quotient(block, table[SLICES])
        column = int32((block - piece * table[SLICES]) * lanes + lane)
        plane = quotient(piece, table[CHUNKS])
        part = int32(piece - plane * table[CHUNKS])
        a_at, b_at = int32(column * table[A_COLUMN]), int32(column * table[B_COLUMN])
        rest, axis = plane, int32(AXES + (table[KEPT_AXES] - 1) * AXIS)
        while axis >= AXES:
            before = quotient(rest, table[axis + LENGTH])
            place = int32(rest - before * table[axis + LENGTH])
            a_at, b_at = int32(a_at + place * table[axis + A_STRIDE]), int32(b_at + place * table[axis + B_STRIDE])
            rest, axis = before, int32(axis - AXIS)
        stop = int32(min(table[TERMS], (part + 1) * table[CHUNK]))
        term = int32(part * table[CHUNK] + row) if row < rows and column < table[COLUMNS] else stop
        first = int32(AXES + table[KEPT_AXES] * AXIS)
        last = int32(first + (table[SUMMED_AXES] - 1) * AXIS)
        a_step, b_step = table[last + A_STRIDE], table[last + B_STRIDE]
        found = float32(0)
        while term < stop:
            if several:
                a_term, b_term, rest, axis = a_at, b_at, term, last
                while axis >= first:
                    before = quotient(rest, table[axis + LENGTH])
                    place = int32(rest - before * table[axis + LENGTH])
                    a_term, b_term = int32(a_term + place * table[axis + A_STRIDE]), int32(b_term + place * table[axis + B_STRIDE])
                    rest, axis = before, int32(axis - AXIS)
            else:
                a_term, b_term = int32(a_at + term * a_step), int32(b_at + term * b_step)
            found += a[a_term] * b[b_term] if multiplies else a[a_term]
            term = int32(term + rows)
        whole = column_sum(shared, row * lanes + lane, row, rows, lanes, found)
        if row == 0 and column < table[COLUMNS]:
            y[(part * table[PLANES] + plane) * table[COLUMNS] + column] = whole * factor

    return sums


def partials_size(shape: Shape, factor: Shape | None, result: Shape) -> int:
    """Elements of the scratch array of :func:`sum_product`, for the shapes of ``a``, ``b`` and ``y``."""
    if tuple(shape) == tuple(result):
        return 0
    table, _ = _plan(tuple(shape), tuple(factor or shape), tuple(result))
    return int(table[CHUNKS]) * math.prod(result) if table[CHUNKS] > 1 else 0


def sum_product(a: DeviceArray, b: DeviceArray | None, y: DeviceArray, partials: DeviceArray | None, factor: float = 1.0) -> None:
    """``y = factor * sum(a * b)`` over the axes along which ``y`` has length 1, and a's is longer; ``b`` has a's shape, or 1 along some
    axes, or is None for 1. ``partials`` has :func:`partials_size` elements at least."""
    table, several = _plan(a.shape, a.shape if b is None else b.shape, y.shape)
    parts = int(table[CHUNKS])
    blocks = int(table[PLANES] * table[SLICES] * table[CHUNKS])
    run, there = _sums(b is not None, several), on_device(table)
    if parts == 1:
        run(blocks, a, a if b is None else b, y, there, float(factor))
        return
    assert partials is not None
    found = partials[: parts * y.size].reshape(parts, y.size)
    run(blocks, a, a if b is None else b, found, there, 1.0)
    sum_parts(found, y, factor)
