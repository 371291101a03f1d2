"""What the kernels for bfloat16 share: tiles of pairs in shared memory, and how eight warps multiply them.

Tiles have 32 numbers of depth. Of the left operand 128 rows lie one after the other, or, for the gradient of weights, 128 columns of each
line of the depth; so do ``columns`` rows or columns of the right one, behind it. *Chunks* of 16 bytes are spread over the banks: a warp
writes and reads eight of them at a time.
"""

from __future__ import annotations

import functools
from typing import Any

from ..driver import cuda, device_function, int32, uint32
from ..ptx import ldmatrix, ldmatrix_transposed, mma_bf16
from .gather import DEPTH
from .tile import ROWS

THREADS = 256  # eight warps, each with 32 columns
WORDS = DEPTH // 2  # of a row: pairs of numbers
LEFT = ROWS * WORDS  # of the left operand
ACROSS = 4  # times 8 columns of a warp
RIGHT_FRAGMENTS = 2 * ACROSS


def tall(columns: int) -> int:
    """Times 16 rows of a warp."""
    return columns // 32


def stage(columns: int) -> int:
    """Words of both tiles."""
    return (ROWS + columns) * WORDS


@device_function
def in_rows(row, chunk):
    """The place of a chunk of a row of 64 bytes: two rows share 32 banks."""
    return row * int32(WORDS) + ((chunk ^ ((row >> int32(1)) & int32(3))) << int32(2))


@device_function
def in_lines(k, chunk, words):
    """The place of a chunk of line ``k`` of a tile whose lines, of ``words``, run across the depth: the same columns of eight lines are in
    other banks."""
    return k * words + ((chunk ^ (k & int32(7))) << int32(2))


@functools.cache
def place_of_warp(columns: int) -> Any:
    """The device function that gives the first row and the first column of this thread's warp."""
    rows_of_warps, rows = ROWS // (16 * tall(columns)), 16 * tall(columns)

    @device_function
    def place():
        warp = int32(cuda.threadIdx.x) >> int32(5)
        return warp % int32(rows_of_warps) * int32(rows), warp // int32(rows_of_warps) * int32(8 * ACROSS)

    return place


@functools.cache
def products(columns: int, transposed: bool) -> Any:
    """The device function ``(tile, base, warp_m, warp_n, sums)`` that adds up the products of the tiles from word ``base`` on. The right
    one has rows where it is ``transposed``, and lines otherwise."""
    high, words = tall(columns), columns // 2

    @device_function
    def add_products(tile, base, warp_m, warp_n, sums):
        lane = int32(cuda.threadIdx.x) & int32(31)
        half = lane >> int32(4)
        b = cuda.local.array(RIGHT_FRAGMENTS, uint32)
        for part in range(2):
            for j in range(ACROSS // 2):
                if transposed:
                    n = warp_n + int32(16 * j) + (lane & int32(7)) + (half << int32(3))
                    chunk = int32(2 * part) + ((lane >> int32(3)) & int32(1))
                    found = ldmatrix(tile, base + int32(LEFT) + in_rows(n, chunk))
                else:
                    k, chunk = int32(16 * part) + (lane & int32(15)), (warp_n >> int32(3)) + int32(2 * j) + half
                    found = ldmatrix_transposed(tile, base + int32(LEFT) + in_lines(k, chunk, int32(words)))
                b[4 * j], b[4 * j + 1], b[4 * j + 2], b[4 * j + 3] = found
            at = base + in_rows(warp_m + (lane & int32(15)), int32(2 * part) + half)
            for i in range(high):
                _multiply(ldmatrix(tile, at + int32(i * 16 * WORDS)), b, sums, i)

    return add_products


@functools.cache
def products_of_lines(columns: int) -> Any:
    """The same where both tiles have lines."""
    high, left_words, words = tall(columns), ROWS // 2, columns // 2

    @device_function
    def add_products(tile, base, warp_m, warp_n, sums):
        lane = int32(cuda.threadIdx.x) & int32(31)
        half, eighth = lane >> int32(4), (lane >> int32(3)) & int32(1)
        b = cuda.local.array(RIGHT_FRAGMENTS, uint32)
        for part in range(2):
            k = int32(16 * part) + (lane & int32(15))
            for j in range(ACROSS // 2):
                at = base + int32(LEFT) + in_lines(k, (warp_n >> int32(3)) + int32(2 * j) + half, int32(words))
                b[4 * j], b[4 * j + 1], b[4 * j + 2], b[4 * j + 3] = ldmatrix_transposed(tile, at)
            k = int32(16 * part) + (lane & int32(7)) + (half << int32(3))
            for i in range(high):
                at = base + in_lines(k, (warp_m >> int32(3)) + int32(2 * i) + eighth, int32(left_words))
                _multiply(ldmatrix_transposed(tile, at), b, sums, i)

    return add_products


@device_function
def _multiply(a, b, sums, i):
    for j in range(ACROSS):
        c = (i * ACROSS + j) * 4
        found = mma_bf16(a, (b[2 * j], b[2 * j + 1]), (sums[c], sums[c + 1], sums[c + 2], sums[c + 3]))
        sums[c], sums[c + 1], sums[c + 2], sums[c + 3] = found
