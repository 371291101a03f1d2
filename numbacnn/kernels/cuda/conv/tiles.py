"""Tiles of matrix products: what a block of threads computes, how its threads share that, and how many blocks a product is cut into.

A block multiplies ``rows x depth`` by ``depth x columns`` numbers at a time, which lie in shared memory with the depth as the slow axis. A
warp has ``lane_rows x lane_columns`` threads side by side; a thread computes ``thread_rows x thread_columns`` numbers, in pieces of at most
4 x 4: the pieces of a warp's threads lie next to each other, so that one instruction of a warp reads or writes neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ..driver import cuda, device_function, float32, int32
from ..launch import THREADS
from ..ptx import load2, load4

WARP = 32
VECTOR = 4  # numbers that one instruction loads or stores
PADDING = 4  # of the lines in shared memory, so that threads that write along the depth meet different banks
MULTIPROCESSORS = 132  # of the GPUs that the cost of tiles is meant for: results must not depend on the GPU
PRODUCTS = 128  # that a multiprocessor adds up per cycle,
BYTES = 2400  # that all of them together write or read per cycle, and
ROUND_TRIP = 4000  # cycles of another launch: roughly
OVERHEAD = 48  # depth whose products take as long as a block's start and end
LEAST_DEPTH = 64  # of a part of a sum


@dataclasses.dataclass(frozen=True)
class Tile:
    """The size of a block's tile and of a thread's share of it; ``blocks`` of them are resident on a multiprocessor, and ``rate`` is the
    part of all arithmetic units that they keep busy, roughly."""

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int
    lane_columns: int
    blocks: int
    rate: float

    @property
    def lane_rows(self) -> int:
        return WARP // self.lane_columns

    @property
    def row_line(self) -> int:
        """Elements from one line of the left operand in shared memory to the next one."""
        return self.rows + PADDING

    @property
    def column_line(self) -> int:
        """The same of the right operand."""
        return self.columns + PADDING


TILES = (
    Tile(128, 128, 8, 8, 8, 8, 2, 0.8),
    Tile(128, 64, 8, 8, 4, 8, 2, 0.7),
    Tile(64, 64, 16, 4, 4, 8, 3, 0.55),
    Tile(128, 32, 16, 4, 4, 8, 3, 0.5),
    Tile(128, 8, 16, 2, 2, 4, 3, 0.2),
    Tile(16, 128, 16, 2, 4, 8, 3, 0.35),
)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A product cut into tiles, and its sums into ``parts`` of ``length`` terms each (the last one may be shorter)."""

    tile: Tile
    parts: int
    length: int


@functools.lru_cache(4096)
def cut(rows: int, columns: int, depth: int, copies: int, wide: bool) -> Cut:
    """The fastest way, by a rough estimate, to compute ``copies`` products of ``rows x depth`` by ``depth x columns`` numbers. ``wide``:
    all that is loaded and stored may be so by fours, without which the first tile needs too many registers."""
    ways = itertools.product(TILES if wide else TILES[1:], _parts(depth))
    tile, parts = min(ways, key=lambda way: _cycles(way[0], way[1], rows, columns, depth, copies))
    length = max(1, -(-depth // (parts * tile.depth))) * tile.depth
    return Cut(tile, max(1, -(-depth // length)), length)


def _parts(depth: int) -> Iterator[int]:
    """Numbers of parts that a sum of ``depth`` terms may be cut into."""
    yield 1
    most = depth // LEAST_DEPTH
    parts = 2
    while parts <= most and parts <= 1024:
        yield parts
        parts += max(1, parts // 4)


def _cycles(tile: Tile, parts: int, rows: int, columns: int, depth: int, copies: int) -> float:
    blocks = -(-rows // tile.rows) * -(-columns // tile.columns) * copies * parts
    waves = -(-blocks // (MULTIPROCESSORS * tile.blocks))
    busy = tile.blocks if waves > 1 else -(-blocks // MULTIPROCESSORS)
    cycles = waves * busy * tile.rows * tile.columns * (depth / parts + OVERHEAD) / (PRODUCTS * tile.rate)
    if parts > 1:
        cycles += ROUND_TRIP + 2 * 4 * parts * rows * columns * copies / BYTES
    return cycles


@functools.cache
def products(tile: Tile) -> Callable:
    """The device function ``(left, left_at, right, right_at, sums)``, by which a thread adds ``depth`` terms to its ``sums``, which are
    ``thread_rows x thread_columns``: operands in shared memory, from a line's first element that the thread needs on."""
    depth, rows, columns, row_line, column_line = tile.depth, tile.thread_rows, tile.thread_columns, tile.row_line, tile.column_line
    take_left, take_right = _taken(rows, tile.lane_rows), _taken(columns, tile.lane_columns)

    @device_function
    def outer_product(left, left_at, right, right_at, sums):
        a = cuda.local.array(rows, float32)
        b = cuda.local.array(columns, float32)
        take_left(left, left_at, a)
        take_right(right, right_at, b)
        for i in range(rows):
            for j in range(columns):
                sums[i * columns + j] += a[i] * b[j]

    @device_function
    def add_products(left, left_at, right, right_at, sums):
        for k in range(0, depth, 2):  # four of them, so that loads of the next one meet products of the last one
            at, to = int32(left_at + k * row_line), int32(right_at + k * column_line)
            outer_product(left, at, right, to, sums)
            outer_product(left, int32(at + row_line), right, int32(to + column_line), sums)

    return add_products


def _taken(count: int, lanes: int) -> Callable:
    """The device function ``(line, at, values)`` that reads a thread's ``count`` numbers of a line: pieces of 4, or one of 2."""
    step = VECTOR * lanes

    @device_function
    def take_pieces(line, at, values):
        for piece in range(count // 4):
            four = load4(line, int32(at + piece * step))
            values[4 * piece] = four[0]
            values[4 * piece + 1] = four[1]
            values[4 * piece + 2] = four[2]
            values[4 * piece + 3] = four[3]

    @device_function
    def take_two(line, at, values):
        two = load2(line, at)
        values[0] = two[0]
        values[1] = two[1]

    return take_two if count == 2 else take_pieces


@functools.cache
def places(tile: Tile) -> tuple[Callable, Callable, Any, Any]:
    """Device functions of a thread's number that give the first row and the first column of its share, and two that give, of a number of a
    row and of a column of the share, how far from the first one it is."""
    lane_columns, lane_rows = tile.lane_columns, tile.lane_rows
    across = tile.columns // (tile.thread_columns * lane_columns)  # warps
    rows, columns = tile.thread_rows * lane_rows, tile.thread_columns * lane_columns
    height, width = min(VECTOR, tile.thread_rows), min(VECTOR, tile.thread_columns)
    down, right = height * lane_rows, width * lane_columns

    @device_function
    def first_row(thread):
        return int32(thread // WARP // across * rows + thread % WARP // lane_columns * height)

    @device_function
    def first_column(thread):
        return int32(thread // WARP % across * columns + thread % lane_columns * width)

    @device_function
    def row_of(i):
        return i // height * down + i % height

    @device_function
    def column_of(j):
        return j // width * right + j % width

    return first_row, first_column, row_of, column_of


def loads(elements: int) -> int:
    """How often each thread of a block must load one of so many."""
    return -(-elements // THREADS)


def one_after_the_other(step: Callable, count: int) -> Callable:
    """The device function ``(*arguments)`` that calls ``step(0, *arguments)`` to ``step(count - 1, *arguments)``. Where ``step`` is much
    code, compilers leave a loop a loop, and what that indexes is in memory then, not in registers."""
    last = _with_number(step, count - 1)
    for number in range(count - 2, -1, -1):
        last = _in_turn(_with_number(step, number), last)
    return last


def _with_number(step: Callable, number: int) -> Callable:
    @device_function
    def numbered(*arguments):
        step(number, *arguments)

    return numbered


def _in_turn(first: Callable, second: Callable) -> Callable:
    @device_function
    def both(*arguments):
        first(*arguments)
        second(*arguments)

    return both
