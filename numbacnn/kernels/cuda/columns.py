"""Sums over the rows of matrices, always in the same order: of channels over pixels, of partial sums over their parts.

The threads of a block are lanes: threads with one ``thread % lanes`` share a column, neighbouring ones have neighbouring columns.
"""

from __future__ import annotations

import numpy as np

from .driver import cuda, device_function, float32, int32
from .indexing import divisor, quotient
from .launch import THREADS, check_counted, kernel
from .memory import DeviceArray, empty

HALF = THREADS // 2
LANES = 32
MERGE_LANES = 8  # few, so that many threads share the many parts of a column
BLOCKS = 1024  # that a sum is cut into, where there is enough of it
ROWS_OF_A_THREAD = 16  # at least, where rows are cut into parts


def lanes_for(columns: int, most: int = LANES) -> int:
    """Lanes for so many columns: a power of two, as few threads shall be idle."""
    return min(most, 1 << (columns - 1).bit_length())


def parts_for(blocks: int, units: int) -> int:
    """Into how many parts a sum of ``units`` is cut, for each of which there are ``blocks``: by the shapes alone, never by the device."""
    return max(1, min(BLOCKS // blocks, units))


@device_function
def lane_sum(shared, thread, lanes, value):
    """For the first thread of each lane, the sum of a number of all of its threads. ``shared`` has a cell for each thread of the block, all
    of which take part."""
    shared[thread] = value
    cuda.syncthreads()
    width = int32(HALF)
    while width >= lanes:
        if thread < width:
            shared[thread] += shared[thread + width]
        cuda.syncthreads()
        width = int32(width >> 1)
    found = shared[thread]
    cuda.syncthreads()
    return found


@kernel
def _column_sums(x, rows, columns, bits, parts, by_parts, of_parts, span, factor, sums):
    """A block for each part, of ``span`` rows, of each group of rows, and a column for each of its ``2 ** bits`` lanes."""
    shared = cuda.shared.array(THREADS, float32)
    thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
    group = quotient(block, by_parts, of_parts)
    start = int32((block - group * parts) * span)
    lanes, step = int32(1 << bits), int32(THREADS >> bits)
    column = int32((int32(cuda.blockIdx.y) << bits) + (thread & (lanes - 1)))
    total = float32(0)
    if column < columns:
        row, last = int32(start + (thread >> bits)), min(rows, int32(start + span))
        at, far = int32((group * rows + row) * columns + column), int32(step * columns)
        while row + 3 * step < last:  # four loads under way
            total += (x[at] + x[at + far]) + (x[at + 2 * far] + x[at + 3 * far])
            row = int32(row + 4 * step)
            at = int32(at + 4 * far)
        while row < last:
            total += x[at]
            row = int32(row + step)
            at = int32(at + far)
    total = lane_sum(shared, thread, lanes, total)
    if thread < lanes and column < columns:
        sums[block * columns + column] = total * factor


def column_sums(x: DeviceArray, groups: int, sums: DeviceArray, factor: float = 1.0) -> None:
    """``sums[g, c] = factor * sum over r of x[g, r, c]``, for ``x`` as ``(groups, rows, columns)``."""
    check_counted(x)
    columns = sums.size // groups
    rows = x.size // sums.size
    lanes = lanes_for(columns)
    wide = -(-columns // lanes)
    parts = parts_for(groups * wide, rows * lanes // (ROWS_OF_A_THREAD * THREADS))
    if parts == 1:
        _launch(x, groups, 1, rows, columns, lanes, float(factor), sums)
        return
    partials = empty((groups * parts, columns), np.float32)
    _launch(x, groups, parts, rows, columns, lanes, 1.0, partials)
    _launch(partials, groups, 1, parts, columns, lanes_for(columns, MERGE_LANES), float(factor), sums)


def _launch(x: DeviceArray, groups: int, parts: int, rows: int, columns: int, lanes: int, factor: float, sums: DeviceArray) -> None:
    span, bits = -(-rows // parts), lanes.bit_length() - 1
    _column_sums((groups * parts, -(-columns // lanes)), x, rows, columns, bits, *divisor(parts), span, factor, sums)
