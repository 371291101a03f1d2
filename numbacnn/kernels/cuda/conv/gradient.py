"""The weight gradient of a convolution: an implicit matrix product whose depth are the places of ``dy``.

Rows are taps and, within them, input channels; columns are output channels. A block adds up one part of the places; ``parts`` of them
become a sum afterwards, in one order.
"""

from __future__ import annotations

import functools

from ..driver import cuda, float32, int32
from ..launch import THREADS, Kernel, kernel
from ..ptx import load4, store4
from .tiles import VECTOR, Tile, loads, places, products

FAR = 1 << 29  # beyond all places


@functools.cache
def weight_gradient(tile: Tile, wide_x: bool, wide_dy: bool) -> Kernel:
    """The kernel for a tile. ``wide``: the array's channels in a group are a multiple of 4, and it starts at a multiple of 16 bytes."""
    rows, columns, depth, row_line, column_line = tile.rows, tile.columns, tile.depth, tile.row_line, tile.column_line
    thread_rows, thread_columns = tile.thread_rows, tile.thread_columns
    count, left_size, right_size = thread_rows * thread_columns, 2 * depth * row_line, 2 * depth * column_line
    first_row, first_column, row_of, column_of = places(tile)
    add_products = products(tile)
    zero, two_depths, three_depths, four_depths = float32(0), 2 * depth, 3 * depth, 4 * depth

    # A thread loads, of every x_step-th place, `x_run` neighbouring channels of x, and of every dy_step-th `dy_run` of dy
    x_run, dy_run = VECTOR if wide_x else 1, VECTOR if wide_dy else 1
    x_runs, dy_runs = rows // x_run, columns // dy_run
    x_step, dy_step = THREADS // x_runs, THREADS // dy_runs
    x_loads, dy_loads = loads(depth * x_runs), loads(depth * dy_runs)
    x_busy, dy_busy = min(THREADS, depth * x_runs), min(THREADS, depth * dy_runs)
    x_taken, dy_taken = x_loads * x_run, dy_loads * dy_run

    @kernel(threads=THREADS, blocks=tile.blocks)
    def add_up(
        x, dy, dw, groups, parts, row_tiles, column_tiles, part_length, part_size, channels, own_columns, own_rows, all_places,
        plane_places, row_places, column_places, ahead_d, ahead_h, ahead_w, ahead_n, planes, height, width, extent_h, extent_w,
        stride_d, stride_h, stride_w, dilation_d, dilation_h, dilation_w, padding_d, padding_h, padding_w,
    ):  # fmt: skip
        left = cuda.shared.array(left_size, float32, 16)
        right = cuda.shared.array(right_size, float32, 16)
        ahead = cuda.shared.array(four_depths, int32)  # image and places of dy that come next
        origins = cuda.shared.array(two_depths, int32)  # of the places at hand and those that come next: elements of x from the first one,
        place_d = cuda.shared.array(two_depths, int32)  # and where that is, but for padding
        place_h = cuda.shared.array(two_depths, int32)
        place_w = cuda.shared.array(two_depths, int32)
        ends = cuda.shared.array(3, int32)  # kept for the end
        from_x = cuda.local.array(x_taken, float32)
        from_dy = cuda.local.array(dy_taken, float32)
        sums = cuda.local.array(count, float32)
        for i in range(count):
            sums[i] = zero

        thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        column_tile, block = int32(block % column_tiles), int32(block // column_tiles)
        row_tile, block = int32(block % row_tiles), int32(block // row_tiles)
        part, group = int32(block % parts), int32(block // parts)
        start = int32(part * part_length)
        length = int32(min(all_places - start, part_length))
        if thread == 0:
            ends[0] = int32(row_tile * rows)
            ends[1] = int32(column_tile * columns)
            ends[2] = int32(part * part_size + group * own_columns)
        if thread < depth:
            place = int32(start + thread)
            ahead[three_depths + thread], place = int32(place % column_places), int32(place // column_places)
            ahead[two_depths + thread], place = int32(place % row_places), int32(place // row_places)
            ahead[depth + thread], ahead[thread] = int32(place % plane_places), int32(place // plane_places)

        own_row = int32(row_tile * rows + thread % x_runs * x_run)
        tap, channel = int32(own_row // channels), int32(own_row % channels)
        d = int32(tap // (extent_h * extent_w) * dilation_d - padding_d)
        h = int32(tap // extent_w % extent_h * dilation_h - padding_h)
        v = int32(tap % extent_w * dilation_w - padding_w)
        offset = int32(((d * height + h) * width + v) * (groups * channels) + group * channels + channel)
        x_place = int32(thread // x_runs) if thread < x_busy else int32(0)
        if own_row >= own_rows or thread >= x_busy:
            d = int32(-FAR)
        own_column = int32(column_tile * columns + thread % dy_runs * dy_run)
        dy_row = int32(thread // dy_runs) if own_column < own_columns and thread < dy_busy else int32(FAR)
        dy_at = int32((start + thread // dy_runs) * (groups * own_columns) + group * own_columns + own_column)

        # Three stages, one step apart: where places lie; loads; products. Of all in shared memory one half is written, the other read
        half, remaining = int32(0), length
        while remaining > -two_depths:
            if thread < depth and remaining > 0:
                at = int32(depth - half + thread)
                n, z, u, t = ahead[thread], ahead[depth + thread], ahead[two_depths + thread], ahead[three_depths + thread]
                place_d[at] = int32(z * stride_d) if thread < remaining else int32(-FAR)
                place_h[at] = int32(u * stride_h)
                place_w[at] = int32(t * stride_w)
                origins[at] = int32((((n * planes + z * stride_d) * height + u * stride_h) * width + t * stride_w) * (groups * channels))
                n, z, u, t = int32(n + ahead_n), int32(z + ahead_d), int32(u + ahead_h), int32(t + ahead_w)
                if t >= column_places:
                    u, t = int32(u + 1), int32(t - column_places)
                if u >= row_places:
                    z, u = int32(z + 1), int32(u - row_places)
                if z >= plane_places:
                    n, z = int32(n + 1), int32(z - plane_places)
                ahead[thread] = n
                ahead[depth + thread] = z
                ahead[two_depths + thread] = u
                ahead[three_depths + thread] = t
            loading = remaining < length and remaining > -depth
            if loading:
                for i in range(x_loads):
                    at = int32(half + x_place + i * x_step)
                    z, u, t = place_d[at] + d, place_h[at] + h, place_w[at] + v
                    if 0 <= z < planes and 0 <= u < height and 0 <= t < width:
                        if wide_x:
                            four = load4(x, int32(origins[at] + offset))
                            from_x[i * x_run], from_x[i * x_run + 1], from_x[i * x_run + 2], from_x[i * x_run + 3] = four
                        else:
                            from_x[i] = x[origins[at] + offset]
                    else:
                        for k in range(x_run):
                            from_x[i * x_run + k] = zero
                for i in range(dy_loads):
                    if dy_row + i * dy_step < remaining + depth:
                        at = int32(dy_at + i * dy_step * (groups * own_columns))
                        if wide_dy:
                            four = load4(dy, at)
                            from_dy[i * dy_run], from_dy[i * dy_run + 1], from_dy[i * dy_run + 2], from_dy[i * dy_run + 3] = four
                        else:
                            from_dy[i] = dy[at]
                    else:
                        for k in range(dy_run):
                            from_dy[i * dy_run + k] = zero
                dy_at = int32(dy_at + depth * (groups * own_columns))
            if remaining < length - depth:
                read = int32(depth - half)
                add_products(
                    left, int32(read * row_line + first_row(thread)), right, int32(read * column_line + first_column(thread)), sums
                )
            if loading and thread < x_busy:
                for i in range(x_loads):
                    at = int32((half + x_place + i * x_step) * row_line + thread % x_runs * x_run)
                    if wide_x:
                        store4(left, at, (from_x[i * x_run], from_x[i * x_run + 1], from_x[i * x_run + 2], from_x[i * x_run + 3]))
                    else:
                        left[at] = from_x[i]
            if loading and thread < dy_busy:
                for i in range(dy_loads):
                    at = int32((half + thread // dy_runs + i * dy_step) * column_line + thread % dy_runs * dy_run)
                    if wide_dy:
                        store4(right, at, (from_dy[i * dy_run], from_dy[i * dy_run + 1], from_dy[i * dy_run + 2], from_dy[i * dy_run + 3]))
                    else:
                        right[at] = from_dy[i]
            cuda.syncthreads()
            half, remaining = int32(depth - half), int32(remaining - depth)

        row, column, to = int32(ends[0] + first_row(thread)), int32(ends[1] + first_column(thread)), ends[2]
        for i in range(thread_rows):
            own = int32(row + row_of(i))
            if own < own_rows:
                for j in range(thread_columns):
                    c = int32(column + column_of(j))
                    if c < own_columns:
                        dw[to + own * (groups * own_columns) + c] = sums[i * thread_columns + j]

    return add_up
