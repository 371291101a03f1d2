"""Convolution, its data gradient and transposed convolution: one kernel, an implicit matrix product.

Rows are places of the output, columns its channels, and the depth runs over taps and, within them, input channels. The left operand is
never made: threads read it out of ``x (N, D, H, W, C)`` where it lies, zeros for padding. A data gradient is such a convolution of ``dy``
for each class of places that have one residue modulo the stride (see :func:`numbacnn.kernels.conv.launch.residues`); all classes are one
launch. Which taps a class has, and where they lie in ``x`` and among the weights, is a table in memory.
"""

from __future__ import annotations

import functools

from ..driver import cuda, device_function, float32, int32
from ..ending import ended
from ..launch import THREADS, Kernel, kernel
from ..ptx import as_stored, load4, store4
from ..statistics import keep_statistics
from .statistics import cells_for, note, totals
from .tiles import VECTOR, Tile, loads, one_after_the_other, places, products

CLASS = 10  # numbers of a class in the table: places in all, along three axes, of the first one in x; its element in y; taps; first tap
TAP = 5  # numbers of a tap: elements from the first one in x, places along three axes, element among the weights
OUTSIDE = -(1 << 30)  # a place that is outside of x with every tap


@functools.cache
def convolution(tile: Tile, wide_x: bool, wide_w: bool, wide_y: bool, transposed: bool, kind: tuple, gathers: bool = False) -> Kernel:
    """The kernel for a tile and an ending of that ``kind``. ``wide``: the array's channels in a group are a multiple of 4, and it starts at
    a multiple of 16 bytes. ``transposed``: weights are ``(taps, own columns, groups * channels)``, and wide where ``x`` is; otherwise they
    are ``(taps * channels, groups * own columns)``. If it ``gathers``, each tile of places of a class leaves its part of the statistics of
    ``y`` (see ``statistics.py``)."""
    rows, columns, depth, row_line, column_line = tile.rows, tile.columns, tile.depth, tile.row_line, tile.column_line
    thread_rows, thread_columns = tile.thread_rows, tile.thread_columns
    count, left_size, right_size = thread_rows * thread_columns, 2 * depth * row_line, 2 * depth * column_line
    first_row, first_column, row_of, column_of = places(tile)
    add_products, finished, total = products(tile), ended(kind), totals(tile)
    in_left, gathered, numbers_kept = cells_for(tile) <= left_size, thread_columns if gathers else 1, 4 if gathers else 2
    pieces = thread_columns // VECTOR if wide_y else 0
    zero = float32(0)

    # A thread loads, of every x_step-th row, `run` neighbours along the depth
    run = VECTOR if wide_x else 1
    runs = depth // run
    x_step, x_loads, x_busy = THREADS // runs, loads(rows * runs), min(THREADS, rows * runs)
    x_taken = x_loads * run
    # and of the weights likewise of every w_step-th column, or of every w_step-th line of the depth `w_run` columns
    w_run = run if transposed else VECTOR if wide_w else 1
    w_runs = runs if transposed else columns // w_run
    w_step, w_loads, w_busy = THREADS // w_runs, loads(columns * depth // w_run), min(THREADS, columns * depth // w_run)
    w_taken = w_loads * w_run

    @device_function
    def write_row(i, sums, y, scale, shift, addend, targets, row, column, own, there):
        """Row ``i`` of a thread's sums, ended; ``sums`` are what is stored, then, if they are looked at again."""
        target = targets[row + row_of(i)]
        if target >= 0:
            for piece in range(pieces):
                c, k = int32(column + column_of(piece * VECTOR)), i * thread_columns + piece * VECTOR
                if c < there:
                    at, to = int32(target + c), int32(own + c)
                    four = (
                        finished(sums[k], scale, shift, addend, to, at),
                        finished(sums[k + 1], scale, shift, addend, int32(to + 1), int32(at + 1)),
                        finished(sums[k + 2], scale, shift, addend, int32(to + 2), int32(at + 2)),
                        finished(sums[k + 3], scale, shift, addend, int32(to + 3), int32(at + 3)),
                    )
                    store4(y, at, four)
                    if gathers:
                        sums[k], sums[k + 1] = as_stored(y, four[0]), as_stored(y, four[1])
                        sums[k + 2], sums[k + 3] = as_stored(y, four[2]), as_stored(y, four[3])
            for j in range(VECTOR * pieces, thread_columns):
                c, k = int32(column + column_of(j)), i * thread_columns + j
                if c < there:
                    value = finished(sums[k], scale, shift, addend, int32(own + c), int32(target + c))
                    y[target + c] = value
                    if gathers:
                        sums[k] = as_stored(y, value)

    write_rows = one_after_the_other(write_row, thread_rows)

    @kernel(threads=THREADS, blocks=tile.blocks)
    def convolve(
        x, w, y, scale, shift, addend, statistics, plane_size, table, groups, parts, row_tiles, column_tiles, part_length, part_size,
        channels, own_columns, w_line, planes, height, width, stride_d, stride_h, stride_w, y_image, y_plane, y_row, y_pixel, tap_step,
        channel_step,
    ):  # fmt: skip
        left = cuda.shared.array(left_size, float32, 16)
        right = cuda.shared.array(right_size, float32, 16)
        origins = cuda.shared.array(rows, int32)  # of the tile's places: elements of x from the first one
        row_d = cuda.shared.array(rows, int32)
        row_h = cuda.shared.array(rows, int32)
        row_w = cuda.shared.array(rows, int32)
        targets = cuda.shared.array(rows, int32)  # elements of y
        # Kept for the end: the tile's first channel of y, how many there are from it on, rows, and where their statistics go
        ends = cuda.shared.array(numbers_kept, int32)
        from_x = cuda.local.array(x_taken, float32)
        from_w = cuda.local.array(w_taken, float32)
        sums = cuda.local.array(count, float32)
        for i in range(count):
            sums[i] = zero

        thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        column_tile, block = int32(block % column_tiles), int32(block // column_tiles)
        row_tile, block = int32(block % row_tiles), int32(block // row_tiles)
        part, block = int32(block % parts), int32(block // parts)
        group, head = int32(block % groups), int32(block // groups * CLASS)
        from_column = int32(column_tile * columns)

        if thread == 0:
            ends[0] = int32(group * own_columns + from_column)
            ends[1] = int32(own_columns - from_column)
            if gathers:
                ends[2] = int32(max(0, min(rows, table[head] - row_tile * rows)))
                ends[3] = int32((block // groups * row_tiles + row_tile) * (groups * own_columns) + ends[0])
        if thread < rows:
            place = int32(row_tile * rows + thread)
            if place < table[head]:
                image = int32(table[head + 1] * table[head + 2] * table[head + 3])
                n, place = int32(place // image), int32(place % image)
                plane = int32(table[head + 2] * table[head + 3])
                d, place = int32(place // plane), int32(place % plane)
                h, v = int32(place // table[head + 3]), int32(place % table[head + 3])
                to = int32(table[head + 7] + n * y_image + d * y_plane + h * y_row + v * y_pixel)
                targets[thread] = int32(to + group * own_columns + from_column + part * part_size)
                d = int32(d * stride_d + table[head + 4])
                h = int32(h * stride_h + table[head + 5])
                v = int32(v * stride_w + table[head + 6])
                row_d[thread] = d
                row_h[thread] = h
                row_w[thread] = v
                origins[thread] = int32((((n * planes + d) * height + h) * width + v) * (groups * channels) + group * channels)
            else:
                row_d[thread] = int32(OUTSIDE)
                targets[thread] = int32(-1)
        cuda.syncthreads()

        start = int32(part * part_length)
        whole = int32(table[head + 8] * channels)
        steps = int32((min(whole, start + part_length) - start + depth - 1) // depth)
        own_run, own_row = int32(thread % runs * run), int32(thread // runs)
        # Taps are numbers of their entries in the table
        tap, channel = int32(table[head + 9] + (start + own_run) // channels * TAP), int32((start + own_run) % channels)
        behind = int32(table[head + 9] + table[head + 8] * TAP)  # of what follows the last tap
        seen, offset, w_offset = int32(0), int32(0), int32(0)
        moved = True  # to another tap
        if transposed:
            w_first = own_row
            w_at = int32((from_column + own_row) * w_line + group * channels)
            w_lines = int32(own_columns - from_column)  # columns that there are
        else:
            w_first, column = int32(thread // w_runs), int32(thread % w_runs * w_run)
            w_at = int32((start + w_first) * w_line + group * own_columns + from_column + column)
            w_lines = int32(whole - start) if from_column + column < own_columns else int32(0)

        half, step = int32(0), int32(0)  # of the operands in shared memory: one is read, the other written
        while step <= steps:
            if step < steps:
                if moved:
                    seen = int32(0)
                    if tap < behind:
                        offset, w_offset = table[tap], table[tap + 4]
                    if tap < behind and thread < x_busy:
                        for i in range(x_loads):
                            row = own_row + i * x_step
                            d, h, v = row_d[row] + table[tap + 1], row_h[row] + table[tap + 2], row_w[row] + table[tap + 3]
                            if 0 <= d < planes and 0 <= h < height and 0 <= v < width:
                                seen = int32(seen | (1 << i))
                for i in range(x_loads):
                    if seen >> i & 1:
                        at = int32(origins[own_row + i * x_step] + offset + channel)
                        if wide_x:
                            four = load4(x, at)
                            from_x[i * run], from_x[i * run + 1], from_x[i * run + 2], from_x[i * run + 3] = four
                        else:
                            from_x[i] = x[at]
                    else:
                        for k in range(run):
                            from_x[i * run + k] = zero
                for i in range(w_loads):
                    if transposed:
                        there = tap < behind and w_first + i * w_step < w_lines
                        at = int32(w_at + i * w_step * w_line + w_offset + channel)
                    else:
                        there = w_first + i * w_step < w_lines
                        at = int32(w_at + i * w_step * w_line)
                    if there and thread < w_busy:
                        if w_run == VECTOR:
                            four = load4(w, at)
                            from_w[i * w_run], from_w[i * w_run + 1], from_w[i * w_run + 2], from_w[i * w_run + 3] = four
                        else:
                            from_w[i] = w[at]
                    else:
                        for k in range(w_run):
                            from_w[i * w_run + k] = zero
                tap, channel, moved = int32(tap + tap_step), int32(channel + channel_step), tap_step > 0
                if channel >= channels:
                    tap, channel, moved = int32(tap + TAP), int32(channel - channels), True
                if not transposed:
                    w_at, w_lines = int32(w_at + depth * w_line), int32(w_lines - depth)
            if step > 0:
                read = int32(depth - half)
                add_products(
                    left, int32(read * row_line + first_row(thread)), right, int32(read * column_line + first_column(thread)), sums
                )
            if step < steps:
                if thread < x_busy:
                    for i in range(x_loads):
                        for k in range(run):
                            left[(half + own_run + k) * row_line + own_row + i * x_step] = from_x[i * run + k]
                if thread < w_busy:
                    for i in range(w_loads):
                        if transposed:
                            for k in range(run):
                                right[(half + own_run + k) * column_line + w_first + i * w_step] = from_w[i * run + k]
                        elif wide_w:
                            at = int32((half + w_first + i * w_step) * column_line + column)
                            store4(right, at, (from_w[i * w_run], from_w[i * w_run + 1], from_w[i * w_run + 2], from_w[i * w_run + 3]))
                        else:
                            right[(half + w_first + i * w_step) * column_line + column] = from_w[i]
            cuda.syncthreads()
            half, step = int32(depth - half), int32(step + 1)

        row, column, own, there = first_row(thread), first_column(thread), ends[0], ends[1]
        # Of the operands nothing is needed any more: threads exchange sums and means where they were
        cells, means = (left, right) if in_left else (right, left)
        plain = cuda.local.array(gathered, float32)
        squares = cuda.local.array(gathered, float32)
        shifts = cuda.local.array(gathered, float32)
        for j in range(gathered):
            plain[j] = zero
            squares[j] = zero
        write_rows(sums, y, scale, shift, addend, targets, row, column, own, there)
        if gathers:
            for i in range(thread_rows):
                if targets[row + row_of(i)] >= 0:
                    for j in range(thread_columns):
                        plain[j] += sums[i * thread_columns + j]
            mean = total(cells, thread, column, plain) / float32(max(1, ends[2]))
            if thread < columns:
                means[thread] = mean
            cuda.syncthreads()
            for j in range(thread_columns):
                shifts[j] = means[column + column_of(j)]
                plain[j] = zero
            for i in range(thread_rows):
                if targets[row + row_of(i)] >= 0:
                    for j in range(thread_columns):
                        note(sums[i * thread_columns + j], j, shifts, plain, squares)
            all_plain = total(cells, thread, column, plain)
            all_squares = total(cells, thread, column, squares)
            if thread < min(columns, there):
                keep_statistics(statistics, plane_size, int32(ends[3] + thread), ends[2], mean, all_plain, all_squares)

    return convolve
