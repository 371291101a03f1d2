"""What a convolution gathers of its output while it writes it, so that the batch norm behind it need not read it for its statistics.

Each block leaves what :func:`~..statistics.merge_statistics` puts together, of its tile's rows for each of its channels: how many there
are, a shift, the sum of what they differ from it by, and the sum of the squares of that. It goes over its numbers twice: the shift is their
mean, up to rounding, so that nothing cancels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..driver import cuda, device_function, float32, int32
from .tiles import WARP, Tile, places


@device_function
def note(value, k, shifts, plain, squares):
    """Add to the ``k``-th of a thread's sums what a number differs from the shift by, and the square of that."""
    away = value - shifts[k]
    plain[k] += away
    squares[k] += away * away


@device_function
def column_total(cells, column, columns, lines):
    """The sum of a column of ``cells``, ``lines`` by ``columns``."""
    total = float32(0)
    for line in range(lines):
        total += cells[line * columns + column]
    return total


@functools.cache
def totals(tile: Tile) -> Callable:
    """The device function ``(cells, thread, column, values)`` that gives, to the thread of each column's number, the sum of what all
    threads have in ``values`` for it; ``column`` is the first one of the thread's own. ``cells`` are :func:`cells_for` the tile, in shared
    memory."""
    _, _, _, column_of = places(tile)
    columns, thread_columns, lines = tile.columns, tile.thread_columns, tile.rows // tile.thread_rows
    lane_columns, lane_rows, across = tile.lane_columns, tile.lane_rows, columns // (thread_columns * tile.lane_columns)

    @device_function
    def total(cells, thread, column, values):
        line = int32(thread // WARP // across * lane_rows + thread % WARP // lane_columns)
        for j in range(thread_columns):
            cells[line * columns + column + column_of(j)] = values[j]
        cuda.syncthreads()
        found = column_total(cells, thread, columns, lines) if thread < columns else float32(0)
        cuda.syncthreads()
        return found

    return total


def cells_for(tile: Tile) -> int:
    """Numbers that threads of a tile exchange at a time."""
    return tile.rows // tile.thread_rows * tile.columns
