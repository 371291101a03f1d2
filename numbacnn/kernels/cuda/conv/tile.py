"""What the kernels for tensor cores share: which pixels a block's tile has, and how its sums come to memory.

A block's tile has 128 rows and 128 or 64 columns; each warp has ``16 * tall`` rows and ``8 * across`` columns of it. The four sums that a
thread holds of the ``i``-th 16 rows and the ``j``-th 8 columns (``ptx.py`` says which) are those from ``sums[(i * across + j) * 4]`` on.
"""

from __future__ import annotations

import functools
from typing import Any

from ..driver import cuda, device_function, float32, int32
from ..ending import Ending, ended
from ..ptx import as_stored, load4, store2, store4
from ..statistics import keep_statistics
from .gather import CHUNK, DEPTH, NEVER
from .statistics import column_total, note

ROWS = 128  # of a tile
NO_ENDING = Ending().kind


@device_function
def tile_place(columns, column_blocks):
    """``(number of the block of rows, first column)`` of this block's tile."""
    block = int32(cuda.blockIdx.x)
    block_m = block // column_blocks
    return block_m, (block - block_m * column_blocks) * int32(columns)


@device_function
def lane_place():
    """``(warp, g, t)`` of this thread (see ``ptx.py``)."""
    thread = int32(cuda.threadIdx.x)
    lane = thread & int32(31)
    return thread >> int32(5), lane >> int32(2), lane & int32(3)


@device_function
def tiles_of_part(rows, part, number):
    """``(number of the first tile of pixels, how many there are)`` of part ``number`` of a gradient of weights."""
    return number * part, min(part, (rows + int32(DEPTH - 1)) // int32(DEPTH) - number * part)


@device_function
def locate_line(m, lines, start, stride, targets, at):
    """Put into a shared array, at ``at``, where line ``m`` of a gradient of weights goes: -1 beyond the last of ``lines``."""
    targets[at] = start + m * stride if m < lines else int32(-1)


@device_function
def taps_of_line(m, lines, chunks, from_group):
    """``(shift, bits)`` of the chunk of four lines from ``m`` on, of a gradient of weights: what it reads of each pixel, if that is there.
    Beyond the last line none is."""
    at = m // int32(CHUNK)
    shift_k, need = int32(0), int32(NEVER)
    if m < lines:
        shift_k, need = from_group + chunks[at], chunks[lines // int32(CHUNK) + at]
    return shift_k, need


@device_function
def locate(m, rows, pixels, per_image, image, target_image, origins, insides, targets, at):
    """Put into three shared arrays, at ``at``, where output pixel ``m`` begins to read, the bits of the taps that are there, and where it
    goes: -1 beyond the last of ``rows`` pixels. ``pixels`` is a table of :func:`~.gather.pixels`, ``image`` and ``target_image`` are the
    elements of an image."""
    origins[at], insides[at], targets[at] = int32(0), int32(0), int32(-1)
    if m < rows:
        number = m // per_image
        place = m - number * per_image
        origins[at] = number * image + pixels[place]
        insides[at] = pixels[per_image + place]
        targets[at] = number * target_image + pixels[int32(2) * per_image + place]


def finish_elements(columns: int, threads: int) -> int:
    """Numbers that the ``buffer`` of what follows has room for."""
    return ROWS * columns + (2 * CHUNK + 1) * threads


@functools.cache
def finish(kind: Any, columns: int, threads: int, tall: int, across: int) -> Any:
    """The device function ``(sums, warp_m, warp_n, column, valid, channel, buffer, targets, y, scale, shift, addend)``: by way of shared
    memory, so that neighbouring threads write neighbouring elements, 16 bytes each, ``y[targets[row] + column]`` gets the sums, ended.

    The warp's rows and columns begin at ``warp_m`` and ``warp_n``. Of each row a thread writes four columns, from the tile's number
    ``4 * (thread % (columns / 4))`` on: those from ``column`` on of the row in ``y``, where ``channel`` begins, if ``valid``. ``targets``
    has the first element of each row in ``y``, or -1."""
    exchange, four_of = _exchange(columns, tall, across), _four_of(kind, columns)
    per_row, rows_at_once = columns // CHUNK, threads * CHUNK // columns

    @device_function
    def finished(sums, warp_m, warp_n, column, valid, channel, buffer, targets, y, scale, shift, addend):
        thread = int32(cuda.threadIdx.x)
        exchange(sums, warp_m, warp_n, buffer)
        if valid:
            chunk = thread % int32(per_row)
            for row in range(thread // int32(per_row), int32(ROWS), int32(rows_at_once)):
                if targets[row] >= int32(0):
                    at = int32(targets[row] + column)
                    store4(y, at, four_of(buffer, row, chunk, channel, at, scale, shift, addend))

    return finished


@functools.cache
def finish_and_gather(kind: Any, columns: int, threads: int, tall: int, across: int) -> Any:
    """As :func:`finish`, and statistics of what is written: the function has ``statistics, plane_size, part_at, rows_there, columns_there``
    as further parameters. It leaves those of the tile's rows (as many as ``rows_there``) and columns from element ``part_at`` of each of
    the four planes on (see :mod:`.statistics`)."""
    exchange, four_of = _exchange(columns, tall, across), _four_of(kind, columns)
    per_row, rows_at_once = columns // CHUNK, threads * CHUNK // columns
    cells = ROWS * columns  # behind the tile: sums of rows_at_once lines, those of squares likewise, and means
    more_cells = cells + CHUNK * threads
    means = more_cells + CHUNK * threads

    @device_function
    def finished(
        sums, warp_m, warp_n, column, valid, channel, buffer, targets, y, scale, shift, addend,
        statistics, plane_size, part_at, rows_there, columns_there,
    ):  # fmt: skip
        thread = int32(cuda.threadIdx.x)
        plain = cuda.local.array(CHUNK, float32)
        squares = cuda.local.array(CHUNK, float32)
        shifts = cuda.local.array(CHUNK, float32)
        exchange(sums, warp_m, warp_n, buffer)
        chunk, line, own = thread % int32(per_row), thread // int32(per_row), thread * int32(CHUNK)
        last = int32(ROWS) if valid else int32(0)
        for k in range(CHUNK):
            plain[k] = float32(0)
            squares[k] = float32(0)
        for row in range(line, last, int32(rows_at_once)):
            if targets[row] >= int32(0):
                at = int32(targets[row] + column)
                four = four_of(buffer, row, chunk, channel, at, scale, shift, addend)
                store4(y, at, four)
                plain[0] += four[0]
                plain[1] += four[1]
                plain[2] += four[2]
                plain[3] += four[3]
        store4(buffer, own + int32(cells), (plain[0], plain[1], plain[2], plain[3]))
        cuda.syncthreads()
        mean = float32(0)
        if thread < int32(columns):
            mean = column_total(buffer, thread + int32(cells), columns, rows_at_once) / float32(rows_there)
            buffer[thread + int32(means)] = mean
        cuda.syncthreads()
        shifts[0], shifts[1], shifts[2], shifts[3] = load4(buffer, chunk * int32(CHUNK) + int32(means))
        for k in range(CHUNK):
            plain[k] = float32(0)
        for row in range(line, last, int32(rows_at_once)):
            if targets[row] >= int32(0):
                four = four_of(buffer, row, chunk, channel, int32(targets[row] + column), scale, shift, addend)
                note(as_stored(y, four[0]), 0, shifts, plain, squares)
                note(as_stored(y, four[1]), 1, shifts, plain, squares)
                note(as_stored(y, four[2]), 2, shifts, plain, squares)
                note(as_stored(y, four[3]), 3, shifts, plain, squares)
        store4(buffer, own + int32(cells), (plain[0], plain[1], plain[2], plain[3]))
        store4(buffer, own + int32(more_cells), (squares[0], squares[1], squares[2], squares[3]))
        cuda.syncthreads()
        if thread < columns_there:
            all_plain = column_total(buffer, thread + int32(cells), columns, rows_at_once)
            all_squares = column_total(buffer, thread + int32(more_cells), columns, rows_at_once)
            keep_statistics(statistics, plane_size, part_at + thread, rows_there, mean, all_plain, all_squares)

    return finished


@functools.cache
def finish_convolution(kind: Any, columns: int, threads: int, tall: int, across: int, gathers: bool) -> Any:
    """The device function ``(sums, warp_m, warp_n, block_m, first_n, group_number, rows, filters, buffer, targets, y, scale, shift, addend,
    statistics, plane_size)`` that ends a convolution's block by :func:`finish`, or, if it ``gathers``, by :func:`finish_and_gather`."""
    finished = (finish_and_gather if gathers else finish)(kind, columns, threads, tall, across)
    per_row = columns // CHUNK

    @device_function
    def end(
        sums,
        warp_m,
        warp_n,
        block_m,
        first_n,
        group_number,
        rows,
        filters,
        buffer,
        targets,
        y,
        scale,
        shift,
        addend,
        statistics,
        plane_size,
    ):
        column = first_n + int32(cuda.threadIdx.x) % int32(per_row) * int32(CHUNK)
        channel = group_number * filters + column
        if gathers:
            part_at = (block_m * int32(cuda.gridDim.y) + group_number) * filters + first_n
            rows_there, columns_there = min(int32(ROWS), rows - block_m * int32(ROWS)), min(int32(columns), filters - first_n)
            finished(
                sums, warp_m, warp_n, channel, column < filters, channel, buffer, targets, y, scale, shift, addend,
                statistics, plane_size, part_at, rows_there, columns_there,
            )  # fmt: skip
        else:
            finished(sums, warp_m, warp_n, channel, column < filters, channel, buffer, targets, y, scale, shift, addend)

    return end


@functools.cache
def _exchange(columns: int, tall: int, across: int) -> Any:
    """The device function ``(sums, warp_m, warp_n, buffer)``: the tile's sums come to shared memory. Rows of equal remainders modulo 4
    share banks: exclusive or of the chunk's number spreads them."""
    lines = 2 * tall

    @device_function
    def exchange(sums, warp_m, warp_n, buffer):
        _, g, t = lane_place()
        cuda.syncthreads()  # nobody reads the buffer any more
        spread = (g & int32(3)) << int32(1)
        for i in range(lines):
            line = (warp_m + g + int32(i * 8)) * int32(columns) + warp_n + ((t & int32(1)) << int32(1))
            for j in range(across):
                c = ((i >> 1) * across + j) * 4 + (i & 1) * 2
                store2(buffer, line + (((int32(2 * j) + (t >> int32(1))) ^ spread) << int32(2)), (sums[c], sums[c + 1]))
        cuda.syncthreads()

    return exchange


@functools.cache
def _four_of(kind: Any, columns: int) -> Any:
    """The device function ``(buffer, row, chunk, channel, at, scale, shift, addend)``: four columns of a row, ended, which are elements of
    ``y`` from ``at`` on."""
    ending = ended(kind)

    @device_function
    def four_of(buffer, row, chunk, channel, at, scale, shift, addend):
        found = load4(buffer, row * int32(columns) + ((chunk ^ ((row & int32(3)) << int32(1))) << int32(2)))
        first = ending(found[0], scale, shift, addend, channel, at)
        second = ending(found[1], scale, shift, addend, channel + int32(1), at + int32(1))
        third = ending(found[2], scale, shift, addend, channel + int32(2), at + int32(2))
        fourth = ending(found[3], scale, shift, addend, channel + int32(3), at + int32(3))
        return first, second, third, fourth

    return four_of
