"""Loops over arrays of any layout on the device (compare :mod:`numbacnn.kernels.strided`, whose axes these are).

The last axis are columns, the one before them rows, and those before number the planes. A thread has one column of one plane, and some of
its rows; neighbouring threads have neighbouring columns, then rows, then planes, so that none is idle where axes are short.

Kernels get a walk as a table of whole numbers: the entries that are named here, lengths of :data:`OUTER` axes, and for each operand its
strides along rows, columns and these axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ...errors import ShapeError
from ..strided import Axis, axes_of, merge
from .blocks import BLOCKS, UNROLL, lanes_for
from .driver import cuda, device_function, int32
from .indexing import quotient
from .launch import THREADS
from .memory import DeviceArray, on_device

OUTER = 6
PLANES, ROWS, COLUMNS, LANES, ROW_LANES, PLANE_LANES, ROW_BLOCKS, COLUMN_BLOCKS, EACH, AXES = range(10)
LENGTHS = 10
OPERANDS = LENGTHS + OUTER  # where the strides begin
ROW_STRIDE, COLUMN_STRIDE, OUTER_STRIDES = 0, 1, 2
OPERAND = OUTER_STRIDES + OUTER  # entries of each
PARALLEL_ROWS = 4  # rows that a block has at least, where there are as many


@dataclasses.dataclass(frozen=True, eq=False)
class Walk:
    """``blocks`` is how many a kernel needs for it."""

    table: DeviceArray
    blocks: int


def walk(axes: Sequence[Axis]) -> Walk:
    """The walk along ``axes`` with a stride for each operand. Raises ShapeError if there are too many axes."""
    axes = merge(axes) or list(axes[-1:])
    alone: Axis = (1, (0,) * len(axes[0][1]))
    *outer, row_axis, column_axis = [alone] * (2 - len(axes)) + axes
    planes, rows, columns = math.prod(length for length, _ in outer), row_axis[0], column_axis[0]
    parallel = 1 if rows == 1 else 2 if rows < PARALLEL_ROWS else PARALLEL_ROWS
    lanes = lanes_for(columns, THREADS // parallel)
    row_lanes = min(rows, THREADS // lanes)
    plane_lanes = min(planes, THREADS // (lanes * row_lanes))
    column_blocks, plane_blocks = -(-columns // lanes), -(-planes // plane_lanes)
    least = column_blocks * plane_blocks * -(-rows // row_lanes)
    each = min(max(least // (4 * BLOCKS), 1), 4) * UNROLL
    row_blocks = -(-rows // (row_lanes * each))
    return _walk((lanes, row_lanes, plane_lanes, row_blocks, column_blocks, each), outer, row_axis, column_axis, plane_blocks)


def tiles(outer: Sequence[Axis], row_axis: Axis, column_axis: Axis, side: int) -> Walk:
    """A walk of which each block has ``side`` rows and columns of a plane."""
    row_blocks, column_blocks = -(-row_axis[0] // side), -(-column_axis[0] // side)
    planes = math.prod(length for length, _ in outer)
    return _walk((side, side, 1, row_blocks, column_blocks, 1), outer, row_axis, column_axis, planes)


def _walk(numbers: tuple[int, ...], outer: Sequence[Axis], row_axis: Axis, column_axis: Axis, plane_blocks: int) -> Walk:
    """``numbers`` are the entries from LANES to EACH."""
    if len(outer) > OUTER:
        raise ShapeError(f"an array with {len(outer) + 2} axes that cannot be merged was given; kernels take at most {OUTER + 2}.")
    operands = len(column_axis[1])
    table = np.zeros(OPERANDS + operands * OPERAND, np.int32)
    table[:LENGTHS] = math.prod(length for length, _ in outer), row_axis[0], column_axis[0], *numbers, len(outer)
    strides = table[OPERANDS:].reshape(operands, OPERAND)
    strides[:, ROW_STRIDE], strides[:, COLUMN_STRIDE] = row_axis[1], column_axis[1]
    for k, (length, steps) in enumerate(outer):
        table[LENGTHS + k] = length
        strides[:, OUTER_STRIDES + k] = steps
    row_blocks, column_blocks = numbers[3:5]
    return Walk(on_device(table), plane_blocks * row_blocks * column_blocks)


@device_function
def start(table):
    """``(plane, row, end of the rows, column)`` of this thread, whose rows are ``table[ROW_LANES]`` apart; without work, the end is the
    first row."""
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    lanes, row_lanes = table[LANES], table[ROW_LANES]
    piece, number = quotient(block, table[COLUMN_BLOCKS]), quotient(thread, lanes)
    column = int32((block - piece * table[COLUMN_BLOCKS]) * lanes + thread - number * lanes)
    plane_block, plane_lane = quotient(piece, table[ROW_BLOCKS]), quotient(number, row_lanes)
    plane = int32(plane_block * table[PLANE_LANES] + plane_lane)
    first = int32((piece - plane_block * table[ROW_BLOCKS]) * row_lanes * table[EACH])
    row = int32(first + number - plane_lane * row_lanes)
    stop = int32(min(table[ROWS], first + row_lanes * table[EACH]))
    if column >= table[COLUMNS] or plane_lane >= table[PLANE_LANES] or plane >= table[PLANES]:
        stop = row
    return plane, row, stop, column


@device_function
def outer_offset(table, operand, plane):
    """Offset of an operand in a plane."""
    at, offset = int32(OPERANDS + operand * OPERAND + OUTER_STRIDES), int32(0)
    axis = int32(table[AXES] - 1)
    while axis >= 0:
        before = quotient(plane, table[LENGTHS + axis])
        offset = int32(offset + (plane - before * table[LENGTHS + axis]) * table[at + axis])
        plane = before
        axis = int32(axis - 1)
    return offset


@device_function
def offset_of(table, operand, plane, row, column):
    """Offset of an operand at a place."""
    at = int32(OPERANDS + operand * OPERAND)
    return int32(outer_offset(table, operand, plane) + row * table[at + ROW_STRIDE] + column * table[at + COLUMN_STRIDE])


@device_function
def row_step(table, operand):
    """How far an operand's element is from the one that its thread has before it."""
    return int32(table[OPERANDS + operand * OPERAND + ROW_STRIDE] * table[ROW_LANES])


# Views of dense arrays, told by NumPy ---------------------------------------------------------------------------------


def stand_in(array: DeviceArray) -> np.ndarray:
    """An array of the host of the same shape and strides, for views of it; its memory is not there and must never be read."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), array.shape, strides_of(array.shape, 4))


def broadcast_axes(shape: Sequence[int], *operands: Sequence[int]) -> list[Axis]:
    """The axes of ``shape``, with the strides of dense arrays of other shapes: 0 along axes where these have length 1."""
    return axes_of(shape, *([0 if n == 1 else step for n, step in zip(each, strides_of(each))] for each in operands))


def strides_of(shape: Sequence[int], unit: int = 1) -> tuple[int, ...]:
    """Strides of a dense array."""
    return tuple(unit * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Elements of a dense array: from number ``first`` on, of that shape and strides, in elements."""

    array: DeviceArray
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def elements(self) -> DeviceArray:
        """All of the array from the first one on."""
        return self.array.reshape(-1)[self.first :]

    @property
    def size(self) -> int:
        """How many they are."""
        return math.prod(self.shape)


def view_of(array: DeviceArray, whole: np.ndarray, part: np.ndarray) -> View:
    """The view of ``array`` that ``part`` is of ``whole``, its stand-in."""
    first = (part.ctypes.data - whole.ctypes.data) // whole.itemsize
    return View(array, first, part.shape, tuple(step // whole.itemsize for step in part.strides))


def whole_of(array: DeviceArray) -> View:
    """All of an array."""
    return View(array, 0, array.shape, strides_of(array.shape))


def parts_of(array: DeviceArray, axis: int, lengths: Sequence[int]) -> list[View]:
    """Views of the parts of an array that lie one after the other along ``axis``."""
    strides, views, begin = strides_of(array.shape), [], 0
    for length in lengths:
        views.append(View(array, begin * strides[axis], (*array.shape[:axis], length, *array.shape[axis + 1 :]), strides))
        begin += length
    return views
