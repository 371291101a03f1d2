"""Products of bfloat16: tiles of float32 come to registers while the tile before is multiplied, are rounded, and go to shared memory."""

from __future__ import annotations

import functools
from typing import Any

from ..driver import cuda, device_function, float32, int32, uint32
from ..launch import Kernel, kernel
from ..ptx import ldmatrix, ldmatrix_transposed, load4, mma_bf16, store2, to_bf16x2
from .gather import CHUNK, DEPTH, NEVER
from .tile import NO_ENDING, ROWS, finish, locate

THREADS = 256  # eight warps, each with 32 columns
CHUNKS = DEPTH // CHUNK
LINES = THREADS // CHUNKS  # rows of the left operand that the block copies at once
LEFT_COPIES = ROWS // LINES
LEFT_STAGED = LEFT_COPIES * CHUNK
WORDS = DEPTH // 2  # of a row: pairs of numbers
LEFT = ROWS * WORDS
LOCATED = 2 * DEPTH  # pixels whose places are known: of one tile, and of the next
ACROSS = 4  # times 8 columns of a warp
RIGHT_FRAGMENTS = 2 * ACROSS


def shared_bytes(columns: int) -> int:
    """Dynamic shared memory of the kernels for that many columns: first two tiles of pairs, at last the sums."""
    return max(2 * (ROWS + columns) * WORDS, ROWS * columns) * 4


@device_function
def rounded(staged, at, there):
    """Four numbers as two pairs; zeros where not ``there``."""
    first, second = to_bf16x2(staged[at], staged[at + int32(1)]), to_bf16x2(staged[at + int32(2)], staged[at + int32(3)])
    return (first, second) if there else (uint32(0), uint32(0))


@device_function
def in_lines(k, chunk, words):
    """The place of a chunk of line ``k`` of a tile whose lines run across the depth: the same columns of eight lines are in other banks."""
    return k * words + (((chunk >> int32(1)) ^ (k & int32(7))) << int32(2)) + ((chunk & int32(1)) << int32(1))


@functools.cache
def convolution(kind: Any, columns: int, transposed: bool) -> Kernel:
    """As :func:`~.tf32.convolution`."""
    tall = columns // 32  # times 16 rows of a warp
    rows_of_warps = ROWS // (16 * tall)
    stage = (ROWS + columns) * WORDS
    per_line = columns // CHUNK
    words = columns // 2  # of a line of weights
    copies = columns // 32  # of weights
    staged = copies * CHUNK
    count_of_sums = tall * ACROSS * 4
    finished = finish(kind, columns, THREADS, tall, ACROSS)

    @kernel(threads=THREADS, blocks=128 // columns)
    def bf16_convolution(
        x, w, y, scale, shift, addend, pixels, chunks, rows, per_image, image, target_image, group, filters, stride, tiles, column_blocks
    ):
        tile = cuda.shared.array(0, uint32, 16)
        buffer = cuda.shared.array(0, float32, 16)  # the same memory
        origins = cuda.shared.array(ROWS, int32)
        insides = cuda.shared.array(ROWS, int32)
        targets = cuda.shared.array(ROWS, int32)
        thread, block, group_number = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x), int32(cuda.blockIdx.y)
        block_m = block // column_blocks
        first_n = (block - block_m * column_blocks) * int32(columns)
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
        # Pairs of rows share 32 banks, and so do lines of weights: exclusive or spreads chunks of 16 bytes over them
        left = (
            line * int32(WORDS) + (((chunk >> int32(1)) ^ ((line >> int32(1)) & int32(3))) << int32(2)) + ((chunk & int32(1)) << int32(1))
        )
        left_staged = cuda.local.array(LEFT_STAGED, float32)
        right_staged = cuda.local.array(staged, float32)

        # What it multiplies
        lane, warp = thread & int32(31), thread >> int32(5)
        warp_m, warp_n = warp % int32(rows_of_warps) * int32(16 * tall), warp // int32(rows_of_warps) * int32(8 * ACROSS)
        half = lane >> int32(4)
        spread = (lane >> int32(1)) & int32(3)
        b = cuda.local.array(RIGHT_FRAGMENTS, uint32)
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(tall):
            for j in range(4 * ACROSS):
                sums[i * 4 * ACROSS + j] = float32(0)

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
                base = ((step + int32(1)) & int32(1)) * int32(stage)
                for part in range(2):
                    for j in range(ACROSS // 2):
                        if transposed:
                            n = warp_n + int32(16 * j) + (lane & int32(7)) + (half << int32(3))
                            in_line = ((int32(2 * part) + ((lane >> int32(3)) & int32(1))) ^ spread) << int32(2)
                            found = ldmatrix(tile, base + int32(LEFT) + n * int32(WORDS) + in_line)
                        else:
                            in_line = (((warp_n >> int32(3)) + int32(2 * j) + half) ^ (lane & int32(7))) << int32(2)
                            at = base + int32(LEFT) + (int32(16 * part) + (lane & int32(15))) * int32(words) + in_line
                            found = ldmatrix_transposed(tile, at)
                        b[4 * j], b[4 * j + 1], b[4 * j + 2], b[4 * j + 3] = found
                    at = base + (warp_m + (lane & int32(15))) * int32(WORDS) + (((int32(2 * part) + half) ^ spread) << int32(2))
                    for i in range(tall):
                        a = ldmatrix(tile, at + int32(i * 16 * WORDS))
                        for j in range(ACROSS):
                            c = (i * ACROSS + j) * 4
                            found = mma_bf16(a, (b[2 * j], b[2 * j + 1]), (sums[c], sums[c + 1], sums[c + 2], sums[c + 3]))
                            sums[c], sums[c + 1], sums[c + 2], sums[c + 3] = found
            if step < tiles:
                base = (step & int32(1)) * int32(stage)
                for i in range(LEFT_COPIES):
                    pairs = rounded(left_staged, int32(4 * i), there_left & int32(1 << i) != int32(0))
                    store2(tile, base + left + int32(i * LINES * WORDS), pairs)
                for i in range(copies):
                    pairs = rounded(right_staged, int32(4 * i), there_right & int32(1 << i) != int32(0))
                    at = left + int32(i * LINES * WORDS) if transposed else in_lines(k + int32(i), column_chunk, int32(words))
                    store2(tile, base + int32(LEFT) + at, pairs)
            cuda.syncthreads()
        channel = group_number * filters + column
        finished(sums, warp_m, warp_n, channel, column < filters, channel, buffer, targets, y, scale, shift, addend)

    return bf16_convolution


@functools.cache
def weight_gradient(columns: int) -> Kernel:
    """As :func:`~.tf32.weight_gradient`."""
    tall = columns // 32
    rows_of_warps = ROWS // (16 * tall)
    stage = (ROWS + columns) * WORDS
    left_per_line, per_line = ROWS // CHUNK, columns // CHUNK
    left_words, words = ROWS // 2, columns // 2
    copies = columns // 32
    staged = copies * CHUNK
    count_of_sums = tall * ACROSS * 4
    finished = finish(NO_ENDING, columns, THREADS, tall, ACROSS)

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
        thread, block, group_number = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x), int32(cuda.blockIdx.y)
        block_m = block // column_blocks
        first_n = (block - block_m * column_blocks) * int32(columns)
        first_m, number = block_m * int32(ROWS), int32(cuda.blockIdx.z)
        first, tiles = number * part, min(part, (rows + int32(DEPTH - 1)) // int32(DEPTH) - number * part)
        if thread < int32(ROWS):
            line = first_m + thread
            targets[thread] = number * part_elements + line * stride if line < lines else int32(-1)
        if thread < int32(DEPTH):
            m = first * int32(DEPTH) + thread
            locate(m, rows, pixels, per_image, image, target_image, origins, insides, sources, thread)
        cuda.syncthreads()

        # What this thread copies: a chunk of four pixels of the input, and of some of the gradient
        left_chunk, left_k = thread % int32(left_per_line), thread // int32(left_per_line) * int32(LEFT_COPIES)
        shift_k, need = int32(0), int32(NEVER)
        if first_m + left_chunk * int32(CHUNK) < lines:
            at = block_m * int32(left_per_line) + left_chunk
            shift_k, need = group_number * group + chunks[at], chunks[lines // int32(CHUNK) + at]
        chunk, k = thread % int32(per_line), thread // int32(per_line) * int32(copies)
        column = first_n + chunk * int32(CHUNK)
        channel = group_number * filters + column
        left_staged = cuda.local.array(LEFT_STAGED, float32)
        right_staged = cuda.local.array(staged, float32)

        # What it multiplies
        lane, warp = thread & int32(31), thread >> int32(5)
        warp_m, warp_n = warp % int32(rows_of_warps) * int32(16 * tall), warp // int32(rows_of_warps) * int32(8 * ACROSS)
        half, eighth = lane >> int32(4), (lane >> int32(3)) & int32(1)
        b = cuda.local.array(RIGHT_FRAGMENTS, uint32)
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(tall):
            for j in range(4 * ACROSS):
                sums[i * 4 * ACROSS + j] = float32(0)

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
                base = ((step + int32(1)) & int32(1)) * int32(stage)
                for part_of_depth in range(2):
                    line = int32(16 * part_of_depth) + (lane & int32(15))
                    at = base + int32(LEFT) + line * int32(words)
                    for j in range(ACROSS // 2):
                        in_line = (((warp_n >> int32(3)) + int32(2 * j) + half) ^ (lane & int32(7))) << int32(2)
                        b[4 * j], b[4 * j + 1], b[4 * j + 2], b[4 * j + 3] = ldmatrix_transposed(tile, at + in_line)
                    line = int32(16 * part_of_depth) + (lane & int32(7)) + (half << int32(3))
                    at = base + line * int32(left_words)
                    for i in range(tall):
                        in_line = (((warp_m >> int32(3)) + int32(2 * i) + eighth) ^ (lane & int32(7))) << int32(2)
                        a = ldmatrix_transposed(tile, at + in_line)
                        for j in range(ACROSS):
                            c = (i * ACROSS + j) * 4
                            found = mma_bf16(a, (b[2 * j], b[2 * j + 1]), (sums[c], sums[c + 1], sums[c + 2], sums[c + 3]))
                            sums[c], sums[c + 1], sums[c + 2], sums[c + 3] = found
            if step < tiles:
                base = (step & int32(1)) * int32(stage)
                for i in range(LEFT_COPIES):
                    pairs = rounded(left_staged, int32(4 * i), there_left & int32(1 << i) != int32(0))
                    store2(tile, base + in_lines(left_k + int32(i), left_chunk, int32(left_words)), pairs)
                for i in range(copies):
                    pairs = rounded(right_staged, int32(4 * i), there_right & int32(1 << i) != int32(0))
                    store2(tile, base + int32(LEFT) + in_lines(k + int32(i), chunk, int32(words)), pairs)
            cuda.syncthreads()
        finished(sums, warp_m, warp_n, channel, column < filters, channel, buffer, targets, dw, dw, dw, dw)

    return bf16_weight_gradient
