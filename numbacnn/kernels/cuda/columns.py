"""Sums over the rows of matrices, always in the same order: of channels over pixels, of partial sums over their parts.

The threads of a block are lanes: threads with one ``thread % lanes`` share a column, neighbouring ones have neighbouring columns. What
other kernels leave part by part is added up here, too, unless more happens to it: an ending (:mod:`.parts`), or what normalisation makes
of sums.
"""

from __future__ import annotations

import functools
from typing import Any

from .driver import cuda, float32, float64, int32
from .indexing import quotient
from .launch import THREADS, Kernel, kernel
from .memory import DeviceArray
from .reduce import MERGE_LANES, column_sum

LANES = 32
BLOCKS = 1024  # that a sum is cut into, where there is enough of it
ROWS_OF_A_THREAD = 16  # at least, where rows are cut into parts
MOST_IN_GRID = 65535  # blocks along the second axis of a grid


def lanes_for(columns: int, most: int = LANES) -> int:
    """Lanes for so many columns: a power of two, as few threads shall be idle."""
    return min(most, 1 << (columns - 1).bit_length())


def parts_for(blocks: int, units: int) -> int:
    """Into how many parts a sum of ``units`` is cut, for each of which there are ``blocks``: by the shapes alone, never by the device."""
    return max(1, min(BLOCKS // blocks, units))


def cut(groups: int, rows: int, columns: int) -> tuple[int, int]:
    """Lanes, and the parts that the rows of each group are cut into."""
    lanes = lanes_for(columns)
    return lanes, parts_for(groups * -(-columns // lanes), rows * lanes // (ROWS_OF_A_THREAD * THREADS))


@functools.cache
def _column_sums(number: Any) -> Kernel:
    """The kernel that adds up in numbers of that type."""

    @kernel
    def column_sums(x, rows, columns, bits, parts, span, factor, sums):
        """A block for each part, of ``span`` rows, of each group of rows, and a column for each of its ``2 ** bits`` lanes."""
        shared = cuda.shared.array(THREADS, number)
        thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        group = quotient(block, parts)
        start = int32((block - group * parts) * span)
        lanes, step = int32(1 << bits), int32(THREADS >> bits)
        row_thread, column = int32(thread >> bits), int32((int32(cuda.blockIdx.y) << bits) + (thread & (lanes - 1)))
        total = number(0)
        if column < columns:
            row, last = int32(start + row_thread), min(rows, int32(start + span))
            at, far = int32((group * rows + row) * columns + column), int32(step * columns)
            while row + 3 * step < last:  # four loads under way
                total += (number(x[at]) + number(x[at + far])) + (number(x[at + 2 * far]) + number(x[at + 3 * far]))
                row = int32(row + 4 * step)
                at = int32(at + 4 * far)
            while row < last:
                total += number(x[at])
                row = int32(row + step)
                at = int32(at + far)
        total = column_sum(shared, thread, row_thread, step, lanes, total)
        if row_thread == 0 and column < columns:
            sums[block * columns + column] = float32(total * number(factor))

    return column_sums


def column_sum_elements(groups: int, rows: int, columns: int) -> int:
    """Elements of scratch that :func:`column_sums` needs."""
    _, parts = cut(groups, rows, columns)
    return groups * parts * columns if parts > 1 else 0


def column_sums(x: DeviceArray, groups: int, sums: DeviceArray, scratch: DeviceArray | None, factor: float = 1.0) -> None:
    """``sums[g, c] = factor * sum over r of x[g, r, c]``, for ``x`` as ``(groups, rows, columns)``. ``scratch`` as of
    :func:`column_sum_elements`, or None for no elements."""
    columns, rows = sums.size // groups, x.size // sums.size
    lanes, parts = cut(groups, rows, columns)
    if parts == 1:
        _launch(float32, x, groups, 1, rows, columns, lanes, factor, sums)
        return
    assert scratch is not None
    partials = scratch[: groups * parts * columns]
    _launch(float32, x, groups, parts, rows, columns, lanes, 1.0, partials)
    sum_parts(partials, sums, factor, groups)


def sum_parts(partials: DeviceArray, sums: DeviceArray, factor: float = 1.0, groups: int = 1) -> None:
    """The same for few rows, such as those that many blocks have left, in one launch and in float64."""
    columns = sums.size // groups
    _launch(float64, partials, groups, 1, partials.size // sums.size, columns, lanes_for(columns, MERGE_LANES), factor, sums)


def _launch(
    number: Any, x: DeviceArray, groups: int, parts: int, rows: int, columns: int, lanes: int, factor: float, sums: DeviceArray
) -> None:
    while -(-columns // lanes) > MOST_IN_GRID and lanes < THREADS:
        lanes *= 2
    span, bits = -(-rows // parts), lanes.bit_length() - 1
    _column_sums(number)((groups * parts, -(-columns // lanes)), x, rows, columns, bits, parts, span, float(factor), sums)
