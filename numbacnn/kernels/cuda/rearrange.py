"""Moving elements between views on the device (compare :mod:`numbacnn.kernels.rearrange`): one copy between views of any strides, in which
neighbouring threads write neighbours; a transposition goes through shared memory, so that they also read neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ShapeError
from ..strided import Axis, axes_of, merge
from .blocks import UNROLL
from .driver import cuda, float32, int32
from .indexing import quotient
from .launch import THREADS, kernel
from .strided import COLUMN_BLOCKS, COLUMNS, ROW_BLOCKS, ROW_LANES, ROWS, View, offset_of, row_step, start, tiles, walk

TILE = 32
LINES = THREADS // TILE  # of a tile that are moved at a time
PITCH = TILE + 1  # of a tile in shared memory: its columns lie in different banks
CELLS = TILE * PITCH
SHORTEST = 8  # axes that a transposition by tiles pays for


def copy(source: View, target: View) -> None:
    """``target[...] = source`` for views of one shape that do not overlap."""
    if source.shape != target.shape:
        raise ShapeError(f"a view of shape {source.shape} was to be copied into one of shape {target.shape}; they must agree.")
    if not target.size:
        return
    axes = merge(sorted(axes_of(target.shape, source.strides, target.strides), key=lambda axis: -axis[1][1]))
    across = _source_axis(axes)
    if across is None:
        plan = walk(axes or [(1, (1, 1))])
        _copy(plan.blocks, source.elements, target.elements, plan.table)
    else:
        plan = tiles([*axes[:across], *axes[across + 1 : -1]], axes[across], axes[-1], TILE)
        _transpose(plan.blocks, source.elements, target.elements, plan.table)


def _source_axis(axes: Sequence[Axis]) -> int | None:
    """The number of the axis along which the source is dense, where that is another one than the target's and both are long."""
    if not axes or axes[-1][1] == (1, 1) or axes[-1][1][1] != 1 or axes[-1][0] < SHORTEST:
        return None
    found = [k for k, (length, steps) in enumerate(axes[:-1]) if steps[0] == 1 and length >= SHORTEST]
    return found[0] if found else None


@kernel
def _copy(source, target, table):
    v = cuda.local.array(UNROLL, float32)
    plane, row, stop, column = start(table)
    source_at, target_at = offset_of(table, int32(0), plane, row, column), offset_of(table, int32(1), plane, row, column)
    source_step, target_step, step = row_step(table, int32(0)), row_step(table, int32(1)), table[ROW_LANES]
    while row + (UNROLL - 1) * step < stop:
        for k in range(UNROLL):
            v[k] = source[source_at + k * source_step]
        for k in range(UNROLL):
            target[target_at + k * target_step] = v[k]
        row = int32(row + UNROLL * step)
        source_at, target_at = int32(source_at + UNROLL * source_step), int32(target_at + UNROLL * target_step)
    while row < stop:
        target[target_at] = source[source_at]
        row, source_at, target_at = int32(row + step), int32(source_at + source_step), int32(target_at + target_step)


@kernel
def _transpose(source, target, table):
    """Rows are neighbours in the source, columns in the target."""
    tile = cuda.shared.array(CELLS, float32)
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    line = quotient(thread, TILE)
    lane = int32(thread - line * TILE)
    piece = quotient(block, table[COLUMN_BLOCKS])
    plane = quotient(piece, table[ROW_BLOCKS])
    column, row = int32((block - piece * table[COLUMN_BLOCKS]) * TILE), int32((piece - plane * table[ROW_BLOCKS]) * TILE)
    rows, columns = table[ROWS], table[COLUMNS]
    for k in range(0, TILE, LINES):
        c, r = int32(column + line + k), int32(row + lane)
        if c < columns and r < rows:
            tile[(line + k) * PITCH + lane] = source[offset_of(table, int32(0), plane, r, c)]
    cuda.syncthreads()
    for k in range(0, TILE, LINES):
        c, r = int32(column + lane), int32(row + line + k)
        if c < columns and r < rows:
            target[offset_of(table, int32(1), plane, r, c)] = tile[lane * PITCH + line + k]
