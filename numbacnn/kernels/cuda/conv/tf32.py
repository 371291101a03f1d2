"""Products of tf32: tiles of float32 come to shared memory by asynchronous copies, and are rounded on their way to the tensor cores.

A tile's depth of 32 is taken in two halves. Within a half, lane ``t`` of four multiplies numbers ``4t .. 4t + 3``: two products of depth 8,
in another order than the fragments have them, but in one and the same for both operands. So it takes its four numbers at once where they
are neighbours.
"""

from __future__ import annotations

import functools
from typing import Any

from ..driver import cuda, device_function, float32, int32, uint32
from ..launch import Kernel, kernel
from ..ptx import cp_async, cp_async_cached, cp_async_commit, cp_async_wait, load4, mma_tf32, to_tf32
from .gather import CHUNK, DEPTH
from .tile import NO_ENDING, ROWS, finish, finish_convolution, lane_place, locate, locate_line, taps_of_line, tile_place, tiles_of_part

THREADS = 128  # four warps, two by two
STAGES = 3  # tiles in shared memory: one is multiplied, the others are under way
PENDING = STAGES - 2
CHUNKS = DEPTH // CHUNK
LINES = THREADS // CHUNKS  # rows of the left operand that the block copies at once
LEFT_COPIES = ROWS // LINES
LEFT = ROWS * DEPTH  # elements
LOCATED = 2 * DEPTH  # pixels whose places are known: of one tile, and of the next


def shared_bytes(columns: int) -> int:
    """Dynamic shared memory of the kernels for that many columns."""
    return STAGES * (ROWS + columns) * DEPTH * 4


@device_function
def in_lines(k, chunk, length):
    """The place of a chunk of line ``k`` of a tile whose lines run across the depth: what a warp reads at once, numbers of every fourth
    line, is in other banks."""
    return k * length + ((chunk ^ (((k >> int32(2)) & int32(3)) << int32(1))) << int32(2))


@device_function
def multiply(a, b, sums, j, across, part):
    """Add products of depth 8: each lane has two numbers of rows ``8 i + g`` in ``a[16 * part + i]`` and ``a[16 * part + 8 + i]``, and two
    of the ``j``-th of ``across`` times 8 columns in ``b[2 * part]`` and behind it."""
    for i in range(4):
        upper, lower = 16 * part + 2 * i, 16 * part + 2 * i + 1
        c = (i * across + j) * 4
        fragment = (a[upper], a[lower], a[upper + 8], a[lower + 8])
        found = mma_tf32(fragment, (b[2 * part], b[2 * part + 1]), (sums[c], sums[c + 1], sums[c + 2], sums[c + 3]))
        sums[c], sums[c + 1], sums[c + 2], sums[c + 3] = found


@functools.cache
def convolution(kind: Any, columns: int, transposed: bool, gathers: bool) -> Kernel:
    """``y[m, n] = ending(sum over k of x[m, k] w[k, n])`` for blocks of 128 pixels and ``columns`` filters, 128 or 64. In memory the
    filters of a tap's channel are neighbours, or, ``transposed``, the channels of its filter. If it ``gathers``, each block of pixels
    leaves its part of the statistics of ``y`` (see ``statistics.py``).

    Grid: ``(blocks of pixels * blocks of filters, groups)``."""
    across = columns // 16  # of 8 columns each, that a warp has
    stage = (ROWS + columns) * DEPTH
    per_line = columns // CHUNK
    quads = columns // 64  # of lines of weights, that a thread copies
    weight_copies = columns // LINES
    kept = 1 if transposed else quads
    count_of_sums = 16 * across
    resident = 2 if columns == 128 else 3
    end = finish_convolution(kind, columns, THREADS, 4, across, gathers)

    @kernel(threads=THREADS, blocks=resident)
    def tf32_convolution(
        x, w, y, scale, shift, addend, statistics, plane_size, pixels, chunks, rows, per_image, image, target_image, group, filters, stride,
        tiles, column_blocks,
    ):  # fmt: skip
        tile = cuda.shared.array(0, float32, 16)
        origins = cuda.shared.array(ROWS, int32)
        insides = cuda.shared.array(ROWS, int32)
        targets = cuda.shared.array(ROWS, int32)
        thread, group_number = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
        block_m, first_n = tile_place(columns, column_blocks)
        locate(block_m * int32(ROWS) + thread, rows, pixels, per_image, image, target_image, origins, insides, targets, thread)
        cuda.syncthreads()

        # What this thread copies: a chunk of every 16th pixel, and of some lines of weights
        chunk, line = thread % int32(CHUNKS), thread // int32(CHUNKS)
        count = (tiles + int32(1)) * int32(CHUNKS)
        my_origins = cuda.local.array(LEFT_COPIES, int32)
        my_insides = cuda.local.array(LEFT_COPIES, int32)
        for i in range(LEFT_COPIES):
            my_origins[i] = origins[line + int32(i * LINES)] + group_number * group
            my_insides[i] = insides[line + int32(i * LINES)]
        left = line * int32(DEPTH) + ((chunk ^ ((line & int32(1)) << int32(2))) << int32(2))
        column_chunk = thread % int32(per_line)
        column = first_n + column_chunk * int32(CHUNK)
        quad = thread // int32(per_line) * int32(quads)
        # Looked up before they are needed, here and below: the first chunk's shift, bits and weights
        shift_k, need = int32(chunks[chunk]), int32(chunks[count + chunk])
        weights = cuda.local.array(kept, int32)
        weights_at = int32(2) * count + (chunk if transposed else quad)
        for i in range(kept):
            weights[i] = chunks[weights_at + int32(i)]

        # What it multiplies
        warp, g, t = lane_place()
        odd = (g & int32(1)) << int32(2)
        warp_m, warp_n = (warp & int32(1)) * int32(64), (warp >> int32(1)) * int32(columns // 2)
        a = cuda.local.array(32, uint32)
        b = cuda.local.array(4, uint32)
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(4):
            for j in range(4 * across):
                sums[i * 4 * across + j] = float32(0)

        writing, reading = int32(0), int32(0)
        for step in range(tiles + int32(STAGES - 1)):
            if step >= int32(STAGES - 1):
                cp_async_wait(PENDING)
                cuda.syncthreads()
            if step < tiles:
                base = writing * int32(stage)
                for i in range(LEFT_COPIES):
                    there = my_insides[i] & need == need
                    cp_async_cached(tile, base + left + int32(i * LINES * DEPTH), x, my_origins[i] + shift_k if there else int32(0), there)
                base += int32(LEFT)
                if transposed:
                    for i in range(weight_copies):
                        n = first_n + line + int32(i * LINES)
                        there = weights[0] >= int32(0) and n < filters
                        from_there = weights[0] + group_number * group + n * stride if there else int32(0)
                        cp_async(tile, base + left + int32(i * LINES * DEPTH), w, from_there, there)
                else:
                    for i in range(quads):
                        there = weights[i] >= int32(0) and column < filters
                        from_there = weights[i] + group_number * filters + column if there else int32(0)
                        at = base + in_lines(int32(4) * (quad + int32(i)), column_chunk, int32(columns))
                        for e in range(4):
                            cp_async(tile, at + int32(e * columns), w, from_there + int32(e) * stride if there else int32(0), there)
                following = (step + int32(1)) * int32(CHUNKS)
                shift_k, need = int32(chunks[following + chunk]), int32(chunks[count + following + chunk])
                for i in range(kept):
                    weights[i] = chunks[weights_at + following + int32(i)]
                writing = int32(0) if writing == int32(STAGES - 1) else writing + int32(1)
            cp_async_commit()
            if step >= int32(STAGES - 1):
                base = reading * int32(stage)
                for half in range(2):
                    in_line = ((int32(half * 4) + t) ^ odd) << int32(2)
                    at = base + (warp_m + g) * int32(DEPTH) + in_line
                    for i in range(8):
                        found = load4(tile, at + int32(i * 8 * DEPTH))
                        for e in range(4):
                            a[e * 8 + i] = to_tf32(found[e])
                    across_lines = base + int32(LEFT) + (int32(half * 16) + t * int32(4)) * int32(columns) + warp_n + (g & int32(3))
                    along_lines = base + int32(LEFT) + (warp_n + g) * int32(DEPTH) + in_line
                    for j in range(across):
                        if transposed:
                            found = load4(tile, along_lines + int32(j * 8 * DEPTH))
                            for e in range(4):
                                b[e] = to_tf32(found[e])
                        else:
                            at = across_lines + (((int32(2 * j) + (g >> int32(2))) ^ (t << int32(1))) << int32(2))
                            for e in range(4):
                                b[e] = to_tf32(tile[at + int32(e * columns)])
                        multiply(a, b, sums, j, across, 0)
                        multiply(a, b, sums, j, across, 1)
                reading = int32(0) if reading == int32(STAGES - 1) else reading + int32(1)
        end(
            sums, warp_m, warp_n, block_m, first_n, group_number, rows, filters, tile, targets, y, scale, shift, addend, statistics,
            plane_size,
        )  # fmt: skip

    return tf32_convolution


@functools.cache
def weight_gradient(columns: int) -> Kernel:
    """``dw[m, n] = sum over k of x[k, m] dy[k, n]`` for blocks of 128 channels of taps and ``columns`` filters. ``k`` are pixels, of
    which a block takes ``part`` tiles of 32; ``dw`` has ``part_elements`` for each part.

    Grid: ``(blocks of lines * blocks of filters, groups, parts)``."""
    across = columns // 16
    stage = (ROWS + columns) * DEPTH
    left_per_line, per_line = ROWS // CHUNK, columns // CHUNK
    left_copies, copies = DEPTH * left_per_line // THREADS, DEPTH * per_line // THREADS
    count_of_sums = 16 * across
    resident = 2 if columns == 128 else 3
    finished = finish(NO_ENDING, columns, THREADS, 4, across)

    @kernel(threads=THREADS, blocks=resident)
    def tf32_weight_gradient(
        x, dy, dw, pixels, chunks, rows, per_image, image, target_image, group, filters, stride, lines, column_blocks, part, part_elements
    ):
        tile = cuda.shared.array(0, float32, 16)
        origins = cuda.shared.array(LOCATED, int32)
        insides = cuda.shared.array(LOCATED, int32)
        sources = cuda.shared.array(LOCATED, int32)
        targets = cuda.shared.array(ROWS, int32)
        thread, group_number = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
        block_m, first_n = tile_place(columns, column_blocks)
        first_m, number = block_m * int32(ROWS), int32(cuda.blockIdx.z)
        first, tiles = tiles_of_part(rows, part, number)
        locate_line(first_m + thread, lines, number * part_elements, stride, targets, thread)
        if thread < int32(DEPTH):
            m = first * int32(DEPTH) + thread
            locate(m, rows, pixels, per_image, image, target_image, origins, insides, sources, thread)

        # What this thread copies: a chunk of some pixels of the input, and of some of the gradient
        left_chunk, left_k = thread % int32(left_per_line), thread // int32(left_per_line) * int32(left_copies)
        shift_k, need = taps_of_line(first_m + left_chunk * int32(CHUNK), lines, chunks, group_number * group)
        chunk, k = thread % int32(per_line), thread // int32(per_line) * int32(copies)
        column = first_n + chunk * int32(CHUNK)
        channel = group_number * filters + column

        # What it multiplies
        warp, g, t = lane_place()
        warp_m, warp_n = (warp & int32(1)) * int32(64), (warp >> int32(1)) * int32(columns // 2)
        a = cuda.local.array(16, uint32)
        b = cuda.local.array(2, uint32)
        sums = cuda.local.array(count_of_sums, float32)
        for i in range(4):
            for j in range(4 * across):
                sums[i * 4 * across + j] = float32(0)

        writing, reading = int32(0), int32(0)
        for step in range(tiles + int32(STAGES - 1)):
            cp_async_wait(PENDING)
            cuda.syncthreads()
            if step < tiles:
                located = (step & int32(1)) * int32(DEPTH)
                base = writing * int32(stage)
                for i in range(left_copies):
                    line = left_k + int32(i)
                    there = insides[located + line] & need == need
                    from_there = origins[located + line] + shift_k if there else int32(0)
                    cp_async_cached(tile, base + in_lines(line, left_chunk, int32(ROWS)), x, from_there, there)
                base += int32(LEFT)
                for i in range(copies):
                    line = k + int32(i)
                    source = sources[located + line]
                    there = source >= int32(0) and column < filters
                    cp_async(tile, base + in_lines(line, chunk, int32(columns)), dy, source + channel if there else int32(0), there)
                if thread < int32(DEPTH):
                    m = (first + step + int32(1)) * int32(DEPTH) + thread
                    following = int32(DEPTH) - located + thread
                    locate(m, rows, pixels, per_image, image, target_image, origins, insides, sources, following)
                writing = int32(0) if writing == int32(STAGES - 1) else writing + int32(1)
            cp_async_commit()
            if step >= int32(STAGES - 1):
                base = reading * int32(stage)
                for part_of_depth in range(4):
                    line = t * int32(4) + int32(part_of_depth // 2 * 16 + part_of_depth % 2 * 2)
                    at = base + line * int32(ROWS) + warp_m + (g & int32(3))
                    for i in range(8):
                        in_line = at + (((int32(2 * i) + (g >> int32(2))) ^ (t << int32(1))) << int32(2))
                        a[i], a[8 + i] = to_tf32(tile[in_line]), to_tf32(tile[in_line + int32(ROWS)])
                    at = base + int32(LEFT) + line * int32(columns) + warp_n + (g & int32(3))
                    for j in range(across):
                        in_line = at + (((int32(2 * j) + (g >> int32(2))) ^ (t << int32(1))) << int32(2))
                        b[0], b[1] = to_tf32(tile[in_line]), to_tf32(tile[in_line + int32(columns)])
                        multiply(a, b, sums, j, across, 0)
                reading = int32(0) if reading == int32(STAGES - 1) else reading + int32(1)
        finished(sums, warp_m, warp_n, channel, column < filters, channel, tile, targets, dw, dw, dw, dw)

    return tf32_weight_gradient
