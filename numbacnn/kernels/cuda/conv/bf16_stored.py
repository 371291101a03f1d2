"""Products of arrays that hold bfloat16: tiles come to shared memory by asynchronous copies, as they are.

A copy takes eight channels. The tables of ``gather.py`` have chunks of four; here every second one is looked up.
"""

from __future__ import annotations

import functools
from typing import Any

from ..driver import cuda, float32, int32, uint32
from ..launch import Kernel, kernel
from ..ptx import cp_async, cp_async_cached, cp_async_commit, cp_async_wait
from .fragments import ACROSS, LEFT, THREADS, in_lines, in_rows, place_of_warp, products, products_of_lines, stage, tall
from .gather import CHUNK, DEPTH
from .tile import (
    NO_ENDING,
    ROWS,
    finish,
    finish_convolution,
    finish_elements,
    locate,
    locate_line,
    taps_of_line,
    tile_place,
    tiles_of_part,
)  # fmt: skip

COPIED = 8  # numbers
ENTRIES = COPIED // CHUNK  # of tables, for a copy
STAGES = 4  # tiles in shared memory: one is multiplied, the others are under way; a power of 2
PENDING = STAGES - 2
CHUNKS = DEPTH // CHUNK
COPIES = DEPTH // COPIED  # of a row
LINES = THREADS // COPIES  # rows that the block copies at once
LEFT_COPIES = ROWS // LINES
LOCATED = 2 * DEPTH  # pixels whose places are known: of one tile, and of the next
RESIDENT = 2  # blocks


def shared_bytes(columns: int) -> int:
    """Dynamic shared memory of the kernels for that many columns: tiles of pairs, at last the sums."""
    return max(STAGES * stage(columns), finish_elements(columns, THREADS)) * 4


@functools.cache
def convolution(kind: Any, columns: int, transposed: bool, gathers: bool) -> Kernel:
    """As :func:`~.tf32.convolution`, where channels and filters of a group are multiples of 8."""
    words, per_stage = columns // 2, stage(columns)
    per_line = columns // COPIED
    weight_copies = columns // LINES
    count_of_sums = tall(columns) * ACROSS * 4
    place, add_products = place_of_warp(columns), products(columns, transposed)
    end = finish_convolution(kind, columns, THREADS, tall(columns), ACROSS, gathers)

    @kernel(threads=THREADS, blocks=RESIDENT)
    def bf16_stored_convolution(
        x, w, y, scale, shift, addend, statistics, plane_size, pixels, chunks, rows, per_image, image, target_image, group, filters, stride,
        tiles, column_blocks,
    ):  # fmt: skip
        tile = cuda.shared.array(0, uint32, 16)
        buffer = cuda.shared.array(0, float32, 16)  # the same memory
        origins = cuda.shared.array(ROWS, int32)
        insides = cuda.shared.array(ROWS, int32)
        targets = cuda.shared.array(ROWS, int32)
        thread, group_number = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
        block_m, first_n = tile_place(columns, column_blocks)
        if thread < int32(ROWS):
            locate(block_m * int32(ROWS) + thread, rows, pixels, per_image, image, target_image, origins, insides, targets, thread)
        cuda.syncthreads()

        # What this thread copies: a chunk of every 64th pixel, and of some lines, or every 64th row, of weights
        chunk, line = thread % int32(COPIES), thread // int32(COPIES)
        count = (tiles + int32(1)) * int32(CHUNKS)
        my_origins = cuda.local.array(LEFT_COPIES, int32)
        my_insides = cuda.local.array(LEFT_COPIES, int32)
        for i in range(LEFT_COPIES):
            my_origins[i] = origins[line + int32(i * LINES)] + group_number * group
            my_insides[i] = insides[line + int32(i * LINES)]
        column_chunk = thread % int32(per_line)
        weight_column = first_n + column_chunk * int32(COPIED)
        k = thread // int32(per_line) * int32(weight_copies)
        # Looked up before they are needed, here and below: the first chunk's shift, bits and weights
        left_entry = chunk * int32(ENTRIES)
        right_entry = int32(2) * count + (left_entry if transposed else k // int32(CHUNK))
        shift_k, need, weights = int32(chunks[left_entry]), int32(chunks[count + left_entry]), int32(chunks[right_entry])

        warp_m, warp_n = place()
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(count_of_sums):
            sums[i] = float32(0)

        for step in range(tiles + int32(STAGES - 1)):
            if step >= int32(STAGES - 1):
                cp_async_wait(PENDING)
                cuda.syncthreads()
            if step < tiles:
                base = (step & int32(STAGES - 1)) * int32(per_stage)
                for i in range(LEFT_COPIES):
                    there = my_insides[i] & need == need
                    from_there = my_origins[i] + shift_k if there else int32(0)
                    cp_async_cached(tile, base + in_rows(line + int32(i * LINES), chunk), x, from_there, there)
                base += int32(LEFT)
                for i in range(weight_copies):
                    if transposed:
                        n = first_n + line + int32(i * LINES)
                        there = weights >= int32(0) and n < filters
                        from_there = weights + group_number * group + n * stride
                        at = base + in_rows(line + int32(i * LINES), chunk)
                    else:
                        there = weights >= int32(0) and weight_column < filters
                        from_there = weights + (k % int32(CHUNK) + int32(i)) * stride + group_number * filters + weight_column
                        at = base + in_lines(k + int32(i), column_chunk, int32(words))
                    cp_async(tile, at, w, from_there if there else int32(0), there)
                following = (step + int32(1)) * int32(CHUNKS)
                shift_k, need = int32(chunks[following + left_entry]), int32(chunks[count + following + left_entry])
                weights = int32(chunks[following + right_entry])
            cp_async_commit()
            if step >= int32(STAGES - 1):
                add_products(tile, ((step + int32(1)) & int32(STAGES - 1)) * int32(per_stage), warp_m, warp_n, sums)
        end(
            sums, warp_m, warp_n, block_m, first_n, group_number, rows, filters, buffer, targets, y, scale, shift, addend, statistics,
            plane_size,
        )  # fmt: skip

    return bf16_stored_convolution


@functools.cache
def weight_gradient(columns: int) -> Kernel:
    """As :func:`~.tf32.weight_gradient`, where channels and filters of a group are multiples of 8."""
    left_words, words, per_stage = ROWS // 2, columns // 2, stage(columns)
    left_per_line, per_line, per_row = ROWS // COPIED, columns // COPIED, columns // CHUNK
    left_copies, copies = DEPTH * left_per_line // THREADS, DEPTH * per_line // THREADS
    count_of_sums = tall(columns) * ACROSS * 4
    place, add_products = place_of_warp(columns), products_of_lines(columns)
    finished = finish(NO_ENDING, columns, THREADS, tall(columns), ACROSS)

    @kernel(threads=THREADS, blocks=RESIDENT)
    def bf16_stored_weight_gradient(
        x, dy, dw, pixels, chunks, rows, per_image, image, target_image, group, filters, stride, lines, column_blocks, part, part_elements
    ):
        tile = cuda.shared.array(0, uint32, 16)
        buffer = cuda.shared.array(0, float32, 16)  # the same memory
        origins = cuda.shared.array(LOCATED, int32)
        insides = cuda.shared.array(LOCATED, int32)
        sources = cuda.shared.array(LOCATED, int32)
        targets = cuda.shared.array(ROWS, int32)
        thread, group_number = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
        block_m, first_n = tile_place(columns, column_blocks)
        first_m, number = block_m * int32(ROWS), int32(cuda.blockIdx.z)
        first, tiles = tiles_of_part(rows, part, number)
        if thread < int32(ROWS):
            locate_line(first_m + thread, lines, number * part_elements, stride, targets, thread)
        if thread < int32(DEPTH):
            m = first * int32(DEPTH) + thread
            locate(m, rows, pixels, per_image, image, target_image, origins, insides, sources, thread)

        # What this thread copies: a chunk of some pixels of the input, and of some of the gradient
        left_chunk, left_k = thread % int32(left_per_line), thread // int32(left_per_line) * int32(left_copies)
        shift_k, need = taps_of_line(first_m + left_chunk * int32(COPIED), lines, chunks, group_number * group)
        chunk, k = thread % int32(per_line), thread // int32(per_line) * int32(copies)
        gradient_column = first_n + chunk * int32(COPIED)
        from_column = group_number * filters + gradient_column if gradient_column < filters else int32(-1)

        warp_m, warp_n = place()
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(count_of_sums):
            sums[i] = float32(0)

        for step in range(tiles + int32(STAGES - 1)):
            cp_async_wait(PENDING)
            cuda.syncthreads()
            if step < tiles:
                located = (step & int32(1)) * int32(DEPTH)
                base = (step & int32(STAGES - 1)) * int32(per_stage)
                for i in range(left_copies):
                    line = left_k + int32(i)
                    there = insides[located + line] & need == need
                    from_there = origins[located + line] + shift_k if there else int32(0)
                    cp_async_cached(tile, base + in_lines(line, left_chunk, int32(left_words)), x, from_there, there)
                base += int32(LEFT)
                for i in range(copies):
                    line = k + int32(i)
                    source = sources[located + line]
                    there = source >= int32(0) and from_column >= int32(0)
                    cp_async(tile, base + in_lines(line, chunk, int32(words)), dy, source + from_column if there else int32(0), there)
                if thread < int32(DEPTH):
                    m = (first + step + int32(1)) * int32(DEPTH) + thread
                    following = int32(DEPTH) - located + thread
                    locate(m, rows, pixels, per_image, image, target_image, origins, insides, sources, following)
            cp_async_commit()
            if step >= int32(STAGES - 1):
                add_products(tile, ((step + int32(1)) & int32(STAGES - 1)) * int32(per_stage), warp_m, warp_n, sums)
        column = first_n + thread % int32(per_row) * int32(CHUNK)
        channel = group_number * filters + column
        finished(sums, warp_m, warp_n, channel, column < filters, channel, buffer, targets, dw, dw, dw, dw)

    return bf16_stored_weight_gradient
