"""Products of numbers that are rounded to bfloat16: tiles of float32, or of bfloat16 that asynchronous copies cannot take, come to
registers while the tile before is multiplied, are rounded, and go to shared memory."""

from __future__ import annotations

import functools
from typing import Any

from ..driver import cuda, device_function, float32, int32, uint32
from ..launch import Kernel, kernel
from ..ptx import load4, store2, to_bf16x2
from .fragments import ACROSS, LEFT, THREADS, WORDS, in_lines, in_rows, place_of_warp, products, products_of_lines, stage, tall
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

CHUNKS = DEPTH // CHUNK
LINES = THREADS // CHUNKS  # rows of the left operand that the block copies at once
LEFT_COPIES = ROWS // LINES
LEFT_STAGED = LEFT_COPIES * CHUNK
LOCATED = 2 * DEPTH  # pixels whose places are known: of one tile, and of the next


def shared_bytes(columns: int) -> int:
    """Dynamic shared memory of the kernels for that many columns: first two tiles of pairs, at last the sums."""
    return max(2 * stage(columns), finish_elements(columns, THREADS)) * 4


@device_function
def rounded(staged, at, there):
    """Four numbers as two pairs; zeros where not ``there``."""
    first, second = to_bf16x2(staged[at], staged[at + int32(1)]), to_bf16x2(staged[at + int32(2)], staged[at + int32(3)])
    return (first, second) if there else (uint32(0), uint32(0))


@device_function
def half_of(chunk):
    """Where in 16 bytes a chunk of four numbers is."""
    return (chunk & int32(1)) << int32(1)


@functools.cache
def convolution(kind: Any, columns: int, transposed: bool, gathers: bool) -> Kernel:
    """As :func:`~.tf32.convolution`."""
    words, per_stage = columns // 2, stage(columns)
    per_line = columns // CHUNK
    copies = columns // 32  # of weights
    staged = copies * CHUNK
    count_of_sums = tall(columns) * ACROSS * 4
    place, add_products = place_of_warp(columns), products(columns, transposed)
    end = finish_convolution(kind, columns, THREADS, tall(columns), ACROSS, gathers)

    @kernel(threads=THREADS, blocks=128 // columns)
    def bf16_convolution(
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

        # What this thread copies: a chunk of every 32nd pixel, and of some lines of weights
        chunk, line = thread % int32(CHUNKS), thread // int32(CHUNKS)
        column_chunk = thread % int32(per_line)
        column = first_n + column_chunk * int32(CHUNK)
        k = thread // int32(per_line) * int32(copies)
        count = (tiles + int32(1)) * int32(CHUNKS)
        weights_at = int32(2) * count + (chunk if transposed else k >> int32(2))
        from_group = group_number * group
        shift_k, need, weights = from_group + chunks[chunk], chunks[count + chunk], chunks[weights_at]
        left = in_rows(line, chunk >> int32(1)) + half_of(chunk)
        left_staged = cuda.local.array(LEFT_STAGED, float32)
        right_staged = cuda.local.array(staged, float32)

        warp_m, warp_n = place()
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(count_of_sums):
            sums[i] = float32(0)

        for step in range(tiles + int32(1)):
            there_left, there_right = int32(0), int32(0)
            if step < tiles:
                for i in range(LEFT_COPIES):
                    there = insides[line + int32(i * LINES)] & need == need
                    there_left |= int32(1 << i) if there else int32(0)
                    found = load4(x, origins[line + int32(i * LINES)] + shift_k if there else int32(0))
                    for e in range(4):
                        left_staged[i * 4 + e] = found[e]
                for i in range(copies):
                    if transposed:
                        n = first_n + line + int32(i * LINES)
                        there = weights >= int32(0) and n < filters
                        from_there = weights + from_group + n * stride
                    else:
                        there = weights >= int32(0) and column < filters
                        from_there = weights + ((k & int32(3)) + int32(i)) * stride + group_number * filters + column
                    there_right |= int32(1 << i) if there else int32(0)
                    found = load4(w, from_there if there else int32(0))
                    for e in range(4):
                        right_staged[i * 4 + e] = found[e]
                following = (step + int32(1)) * int32(CHUNKS)
                shift_k, need = from_group + int32(chunks[following + chunk]), int32(chunks[count + following + chunk])
                weights = int32(chunks[weights_at + following])
            if step > int32(0):
                add_products(tile, ((step + int32(1)) & int32(1)) * int32(per_stage), warp_m, warp_n, sums)
            if step < tiles:
                base = (step & int32(1)) * int32(per_stage)
                for i in range(LEFT_COPIES):
                    pairs = rounded(left_staged, int32(4 * i), there_left & int32(1 << i) != int32(0))
                    store2(tile, base + left + int32(i * LINES * WORDS), pairs)
                for i in range(copies):
                    pairs = rounded(right_staged, int32(4 * i), there_right & int32(1 << i) != int32(0))
                    in_line = in_lines(k + int32(i), column_chunk >> int32(1), int32(words)) + half_of(column_chunk)
                    at = left + int32(i * LINES * WORDS) if transposed else in_line
                    store2(tile, base + int32(LEFT) + at, pairs)
            cuda.syncthreads()
        end(
            sums, warp_m, warp_n, block_m, first_n, group_number, rows, filters, buffer, targets, y, scale, shift, addend, statistics,
            plane_size,
        )  # fmt: skip

    return bf16_convolution


@functools.cache
def weight_gradient(columns: int) -> Kernel:
    """As :func:`~.tf32.weight_gradient`."""
    left_words, words, per_stage = ROWS // 2, columns // 2, stage(columns)
    left_per_line, per_line = ROWS // CHUNK, columns // CHUNK
    copies = columns // 32
    staged = copies * CHUNK
    count_of_sums = tall(columns) * ACROSS * 4
    place, add_products = place_of_warp(columns), products_of_lines(columns)
    finished = finish(NO_ENDING, columns, THREADS, tall(columns), ACROSS)

    @kernel(threads=THREADS, blocks=128 // columns)
    def bf16_weight_gradient(
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
        cuda.syncthreads()

        # What this thread copies: a chunk of four pixels of the input, and of some of the gradient
        left_chunk, left_k = thread % int32(left_per_line), thread // int32(left_per_line) * int32(LEFT_COPIES)
        shift_k, need = taps_of_line(first_m + left_chunk * int32(CHUNK), lines, chunks, group_number * group)
        chunk, k = thread % int32(per_line), thread // int32(per_line) * int32(copies)
        column = first_n + chunk * int32(CHUNK)
        channel = group_number * filters + column
        left_staged = cuda.local.array(LEFT_STAGED, float32)
        right_staged = cuda.local.array(staged, float32)

        warp_m, warp_n = place()
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(count_of_sums):
            sums[i] = float32(0)

        for step in range(tiles + int32(1)):
            there_left, there_right = int32(0), int32(0)
            if step < tiles:
                located = (step & int32(1)) * int32(DEPTH)
                for i in range(LEFT_COPIES):
                    at = located + left_k + int32(i)
                    there = insides[at] & need == need
                    there_left |= int32(1 << i) if there else int32(0)
                    found = load4(x, origins[at] + shift_k if there else int32(0))
                    for e in range(4):
                        left_staged[i * 4 + e] = found[e]
                for i in range(copies):
                    source = sources[located + k + int32(i)]
                    there = source >= int32(0) and column < filters
                    there_right |= int32(1 << i) if there else int32(0)
                    found = load4(dy, source + channel if there else int32(0))
                    for e in range(4):
                        right_staged[i * 4 + e] = found[e]
                if thread < int32(DEPTH):
                    m = (first + step + int32(1)) * int32(DEPTH) + thread
                    following = int32(DEPTH) - located + thread
                    locate(m, rows, pixels, per_image, image, target_image, origins, insides, sources, following)
            if step > int32(0):
                add_products(tile, ((step + int32(1)) & int32(1)) * int32(per_stage), warp_m, warp_n, sums)
            if step < tiles:
                base = (step & int32(1)) * int32(per_stage)
                for i in range(LEFT_COPIES):
                    pairs = rounded(left_staged, int32(4 * i), there_left & int32(1 << i) != int32(0))
                    at = in_lines(left_k + int32(i), left_chunk >> int32(1), int32(left_words)) + half_of(left_chunk)
                    store2(tile, base + at, pairs)
                for i in range(copies):
                    pairs = rounded(right_staged, int32(4 * i), there_right & int32(1 << i) != int32(0))
                    at = in_lines(k + int32(i), chunk >> int32(1), int32(words)) + half_of(chunk)
                    store2(tile, base + int32(LEFT) + at, pairs)
            cuda.syncthreads()
        finished(sums, warp_m, warp_n, channel, column < filters, channel, buffer, targets, dw, dw, dw, dw)

    return bf16_weight_gradient
