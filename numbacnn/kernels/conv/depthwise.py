"""Depthwise convolution: every channel with a kernel of its own. SIMD lanes run over channels, tile rows over neighbouring pixels.

Arrays are ``(N, D, H, W, C)`` views with dense channels and ``w (taps, C)``.
"""

from __future__ import annotations

import functools

from numba import prange

from ...simd import LANES, fma, load, load_part, outer, row_sum, store, store_part, stride, take, zeros
from ..channels import VECTORS, WIDTH, channel_span
from ..jit import inline, kernel
from ..statistics import gather
from .ending import ending, untouched
from .tiles import LADDER, accumulate, clear_run, copy_run, inside

HEIGHTS = (7, 4, 1)
"""Pixels of a tile, neighbours in a line: most maps are a multiple of seven wide."""
HELD_VECTORS = 4
HELD = HELD_VECTORS * LANES
"""Channels of a block, which lie together in patches and packed weights."""
EXPANSION_LADDER = (*LADDER[:3], 1)
"""Heights of tiles of a convolution that makes the input: lines are long enough to be cut into these."""
GRADIENT_TOGETHER = 8  # lines that the weight gradient takes before the next channels


@inline
def _pack_columns(x, n, d, h, column, count, step, channel, held, weights, shift, floor, ceiling, heights, target, at, part):
    """Copy ``count`` columns of one input line (zeros outside of it), ``held`` channels each, to ``target[at + column * HELD]``: those
    with one remainder modulo ``step`` next to each other, remainders ``part`` elements apart."""
    exists = 0 <= d < x.shape[1] and 0 <= h < x.shape[2]
    source = n * stride(x, 0) + d * stride(x, 1) + h * stride(x, 2) + channel
    far = step * stride(x, 3)
    for remainder in range(min(step, count)):
        places = (count - remainder + step - 1) // step
        first, last = inside(column + remainder, step, places, x.shape[3] if exists else 0)
        to = at + remainder * part
        clear_run(target, to, first * HELD)
        near = source + (column + remainder) * stride(x, 3)
        for c in range(first, last):
            if held == HELD:
                store(load(x, near + c * far, 0, 1, HELD_VECTORS), target, to + c * HELD, 0)
            else:
                copy_run(x, near + c * far, target, to + c * HELD, held)
        clear_run(target, to + last * HELD, (places - last) * HELD)


@functools.cache
def _expansion(rows, finish):
    """The function that writes a panel of ``rows`` pixels of a pointwise convolution's output, :data:`HELD` elements apart."""

    @inline
    def expand(x, x_at, x_step, depth, w, w_at, bias, channel, count, low, high, y, y_at):
        total = load(bias, channel, 0, rows, VECTORS) if count >= WIDTH else load_part(bias, channel, 0, count, rows, VECTORS)
        for _ in range(depth // 4):
            total = outer(total, x, x_at, x_step, w, w_at)
            total = outer(total, x, x_at + 1, x_step, w, w_at + WIDTH)
            total = outer(total, x, x_at + 2, x_step, w, w_at + 2 * WIDTH)
            total = outer(total, x, x_at + 3, x_step, w, w_at + 3 * WIDTH)
            x_at += 4
            w_at += 4 * WIDTH
        for _ in range(depth % 4):
            total = outer(total, x, x_at, x_step, w, w_at)
            x_at += 1
            w_at += WIDTH
        store(finish(total, low, high), y, y_at, HELD)

    return expand


@functools.cache
def _expanded_columns(activation, later):
    """The function that fills columns as :func:`_pack_columns` does, with what a pointwise convolution makes of ``x``:
    ``clamp(x @ weights + shift, floor, ceiling)``, or ``activation`` in place of the clamp, by packed ``weights`` and in tiles of
    ``heights``. An activation that comes ``later`` does so when the columns are done, as in :mod:`.tiles`."""
    finish = ending(activation)
    expansions = [_expansion(rows, untouched if later else finish) for rows in EXPANSION_LADDER]
    highest, high, low, single = expansions
    height, second, third, _ = EXPANSION_LADDER

    @inline
    def expand(x, n, d, h, column, count, step, channel, held, weights, shift, floor, ceiling, heights, target, at, part):
        exists = 0 <= d < x.shape[1] and 0 <= h < x.shape[2]
        source = n * stride(x, 0) + d * stride(x, 1) + h * stride(x, 2)
        far, depth = step * stride(x, 3), x.shape[4]
        for remainder in range(min(step, count)):
            places = (count - remainder + step - 1) // step
            first, last = inside(column + remainder, step, places, x.shape[3] if exists else 0)
            to, done = at + remainder * part, first
            clear_run(target, to, first * HELD)
            near = source + (column + remainder) * stride(x, 3)
            while done < last:
                rows, x_at = heights[last - done], near + done * far
                for panel in range(0, held, WIDTH):
                    c, w_at, y_at = channel + panel, (channel + panel) * depth, to + done * HELD + panel
                    if rows == height:
                        highest(x, x_at, far, depth, weights, w_at, shift, c, held - panel, floor, ceiling, target, y_at)
                    elif rows == second:
                        high(x, x_at, far, depth, weights, w_at, shift, c, held - panel, floor, ceiling, target, y_at)
                    elif rows == third:
                        low(x, x_at, far, depth, weights, w_at, shift, c, held - panel, floor, ceiling, target, y_at)
                    else:
                        single(x, x_at, far, depth, weights, w_at, shift, c, held - panel, floor, ceiling, target, y_at)
                done += rows
            if later:
                for place in range(to + first * HELD, to + last * HELD, HELD):
                    store(finish(load(target, place, 0, 1, HELD_VECTORS), floor, ceiling), target, place, 0)
            clear_run(target, to + last * HELD, (places - last) * HELD)

    return expand


@inline
def _sum_pixels(y, at, step, pixels, count, sums, to):
    """``sums[to:]``: the sums over ``pixels``, ``step`` apart, of a vector of ``count`` channels (or more)."""
    whole = count >= LANES
    four, total = zeros(y, 4, 1), zeros(y, 1, 1)
    for _ in range(pixels // 4):
        four = four + (load(y, at, step, 4, 1) if whole else load_part(y, at, step, count, 4, 1))
        at += 4 * step
    for _ in range(pixels % 4):
        total = total + (load(y, at, 0, 1, 1) if whole else load_part(y, at, 0, count, 1, 1))
        at += step
    total = total + row_sum(four)
    if whole:
        store(total, sums, to, 0)
    else:
        store_part(total, sums, to, 0, count)


@functools.cache
def depthwise(height, activation, before):
    """The kernel ``convolve`` with tiles of ``height`` pixels; ``activation`` as of :func:`numbacnn.kernels.conv.ending.ending`.
    ``before``: None, or the activation of a pointwise convolution that makes the input line by line, and whether that one comes
    ``later`` (see :func:`numbacnn.kernels.conv.tiles.strips`)."""
    finish, fill = ending(activation), _pack_columns if before is None else _expanded_columns(*before)

    @inline
    def tile(
        patch, at, offsets, lengths, w, w_at, bias, channel, count, residual, addend, addend_at, addend_step, low, high, y, y_at, y_step
    ):  # fmt: skip
        """A vector of ``count`` channels (or more) of ``height`` pixels. Taps of a run share what they read, which stays in registers."""
        whole = count >= LANES
        total = load(bias, channel, 0, height, 1) if whole else load_part(bias, channel, 0, count, height, 1)
        for run in range(lengths.size):
            p, length = at + offsets[run], lengths[run]
            if length == 3:
                total = fma(load(patch, p, HELD, height, 1), load(w, w_at, 0, height, 1), total)
                total = fma(load(patch, p + HELD, HELD, height, 1), load(w, w_at + HELD, 0, height, 1), total)
                total = fma(load(patch, p + 2 * HELD, HELD, height, 1), load(w, w_at + 2 * HELD, 0, height, 1), total)
            elif length == 2:
                total = fma(load(patch, p, HELD, height, 1), load(w, w_at, 0, height, 1), total)
                total = fma(load(patch, p + HELD, HELD, height, 1), load(w, w_at + HELD, 0, height, 1), total)
            else:
                total = fma(load(patch, p, HELD, height, 1), load(w, w_at, 0, height, 1), total)
            w_at += length * HELD
        if residual:
            if whole:
                total = total + load(addend, addend_at, addend_step, height, 1)
            else:
                total = total + load_part(addend, addend_at, addend_step, count, height, 1)
        total = finish(total, low, high)
        if whole:
            store(total, y, y_at, y_step)
        else:
            store_part(total, y, y_at, y_step, count)

    @kernel(parallel=True, views=("x", "addend", "y", "gathered"))
    def convolve(
        x, weights, shift, floor, ceiling, heights, w, bias, residual, addend, low, high, y, sums,
        gathered, piece_rows, offsets, lengths, geometry, block_rows, block_columns, scratch, queue, threads,
    ):  # fmt: skip
        """``y = finish(depthwise conv(x, w) + bias + addend)``; ``w (blocks, taps, HELD)`` from :func:`pack_taps`, taps in the order of
        the runs; other arguments as of :func:`numbacnn.kernels.conv.direct.convolution`. ``sums (N, D * H * column tasks, C)``, if it is
        not empty, gets the sums over the pixels of each stretch of ``block_columns`` of each line of ``y``; ``gathered (STATISTICS, N, D,
        pieces, C)`` likewise gets the statistics of pieces of ``piece_rows`` such stretches, of which a task has whole ones.

        A task walks down the lines of a block of channels, and keeps a ring of as many input lines as a line of the output needs, in
        the first-level cache: ``[kd][line modulo ring][remainder][column][HELD]``, with columns sorted by their remainder modulo the
        stride, so that a tile's inputs are neighbours. ``offsets (ring, runs)``: where each run of ``lengths`` taps starts, by the place
        of the first line in the ring. A line's last task, and a task's last tile, may overlap the one before and write the same again.
        ``weights .. heights`` as of :func:`_expanded_columns`; of no meaning where there is no convolution ``before``.
        """
        queue[0] = 0
        strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
        planes, height_, width, channels = y.shape[1], y.shape[2], y.shape[3], y.shape[4]
        blocks = -(-channels // HELD)
        row_tasks, column_tasks = -(-height_ // block_rows), -(-width // block_columns)
        ring, taps = offsets.shape[0], extent[0] * extent[1] * extent[2]
        columns = (block_columns - 1) * strides[2] + (extent[2] - 1) * dilation[2] + 1
        part = -(-columns // strides[2]) * HELD
        line_step = min(strides[2], columns) * part
        y_step, addend_step = stride(y, 3), stride(addend, 3)
        for thread in prange(threads):
            own = scratch[thread]
            while True:
                task = take(queue, 1)
                if task >= y.shape[0] * planes * row_tasks * column_tasks * blocks:
                    break
                task, block = divmod(task, blocks)
                task, column_task = divmod(task, column_tasks)
                task, row_task = divmod(task, row_tasks)
                n, plane = divmod(task, planes)
                channel = block * HELD
                held = min(HELD, channels - channel)
                row, column = row_task * block_rows, min(column_task * block_columns, width - block_columns)
                repeated = column_task * block_columns - column  # the first pixels of a line that overlap the task before
                known = 0
                for r in range(min(block_rows, height_ - row)):
                    first = r * strides[1]
                    for line in range(max(known, first), first + ring):
                        for kd in range(extent[0]):
                            fill(
                                x, n, plane * strides[0] - padding[0] + kd * dilation[0], row * strides[1] - padding[1] + line,
                                column * strides[2] - padding[2], columns, strides[2], channel, held,
                                weights, shift, floor, ceiling, heights, own, (kd * ring + line % ring) * line_step, part,
                            )  # fmt: skip
                    known = first + ring
                    starts = offsets[first % ring]
                    to = n * stride(y, 0) + plane * stride(y, 1) + (row + r) * stride(y, 2) + column * y_step + channel
                    more = (
                        n * stride(addend, 0) + plane * stride(addend, 1) + (row + r) * stride(addend, 2) + column * addend_step + channel
                    )
                    for at in range(0, held, LANES):
                        for done in range(0, block_columns, height):
                            c = min(done, block_columns - height)
                            tile(
                                own, c * HELD + at, starts, lengths, w, block * taps * HELD + at,
                                bias, channel + at, held - at, residual, addend, more + c * addend_step + at, addend_step, low, high,
                                y, to + c * y_step + at, y_step,
                            )  # fmt: skip
                        if sums.size > 0:
                            stretch = ((n * planes + plane) * height_ + row + r) * column_tasks + column_task
                            _sum_pixels(
                                y, to + repeated * y_step + at, y_step, block_columns - repeated, held - at,
                                sums, stretch * channels + channel + at,
                            )  # fmt: skip
                    if gathered.size > 0 and ((r + 1) % piece_rows == 0 or row + r + 1 == height_):
                        lines = r % piece_rows + 1
                        gather(
                            y, to - channel - (lines - 1) * stride(y, 2) + repeated * y_step, lines, stride(y, 2),
                            block_columns - repeated, y_step, channel, channel + held,
                            gathered, n, plane, (row + r) // piece_rows * column_tasks + column_task,
                        )  # fmt: skip

    return convolve


@kernel(parallel=True)
def pack_taps(w, taps, scale, packed, queue, threads):
    """``packed (blocks, taps, HELD)``: ``w (all taps, C)[taps[t]] * scale (C,)``, zeros behind the last channel."""
    queue[0] = 0
    channels = w.shape[1]
    for _ in prange(threads):
        while True:
            block = take(queue, 1)
            if block >= packed.shape[0]:
                break
            for t in range(taps.size):
                for c in range(HELD):
                    channel = block * HELD + c
                    packed[block, t, c] = w[taps[t], channel] * scale[channel] if channel < channels else 0


@functools.cache
def _line_products(whole):
    """The function that adds the products of one line of pixels to the sums of three taps; ``whole``: of a whole tile of channels."""

    @inline
    def read(array, at, count):
        return load(array, at, 0, 1, VECTORS) if whole else load_part(array, at, 0, count, 1, VECTORS)

    @inline
    def add(x, x_at, x_step, dy, dy_at, dy_step, first, last, offset, count, total):
        for pixel in range(first, last):
            total = fma(read(x, x_at + pixel * x_step + offset, count), read(dy, dy_at + pixel * dy_step, count), total)
        return total

    @inline
    def products(x, x_at, x_step, dy, dy_at, dy_step, ranges, offsets, count, a, b, c):
        """``a += sum of x[x_at + pixel * x_step + offsets[0]] * dy[dy_at + pixel * dy_step]`` over the pixels in ``ranges[0]``; so
        ``b`` and ``c``."""
        (a_first, a_last), (b_first, b_last), (c_first, c_last) = ranges
        first = max(a_first, b_first, c_first)
        last = max(first, min(a_last, b_last, c_last))
        a = add(x, x_at, x_step, dy, dy_at, dy_step, a_first, min(first, a_last), offsets[0], count, a)
        b = add(x, x_at, x_step, dy, dy_at, dy_step, b_first, min(first, b_last), offsets[1], count, b)
        c = add(x, x_at, x_step, dy, dy_at, dy_step, c_first, min(first, c_last), offsets[2], count, c)
        for pixel in range(first, last):
            near, d = x_at + pixel * x_step, read(dy, dy_at + pixel * dy_step, count)
            a = fma(read(x, near + offsets[0], count), d, a)
            b = fma(read(x, near + offsets[1], count), d, b)
            c = fma(read(x, near + offsets[2], count), d, c)
        a = add(x, x_at, x_step, dy, dy_at, dy_step, max(last, a_first), a_last, offsets[0], count, a)
        b = add(x, x_at, x_step, dy, dy_at, dy_step, max(last, b_first), b_last, offsets[1], count, b)
        c = add(x, x_at, x_step, dy, dy_at, dy_step, max(last, c_first), c_last, offsets[2], count, c)
        return a, b, c

    return products


_whole_lines, _partial_lines = _line_products(True), _line_products(False)


@kernel(parallel=True, views=("x", "dy"))
def depthwise_weight_gradient(x, dy, dw, geometry, queue, threads):
    """``dw (parts, taps, C)``: the weight gradient of each part of the output's lines. A task owns one part and a span of channels, and
    takes all of these through some lines before the next ones. Three neighbouring taps share what is read of ``dy``; where there are fewer
    left, the last one is computed again."""
    queue[0] = 0
    strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
    planes, height, width, channels = dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4]
    lines, parts, taps = dy.shape[0] * planes * height, dw.shape[0], dw.shape[1]
    span = channel_span(channels, parts, threads)
    spans = (channels + span - 1) // span
    x_step, dy_step = strides[2] * stride(x, 3), stride(dy, 3)
    flat = dw.reshape(-1)
    for _ in prange(threads):
        while True:
            task = take(queue, 1)
            if task >= parts * spans:
                break
            part, span_at = divmod(task, spans)
            first_channel, last_channel = span_at * span, min(channels, (span_at + 1) * span)
            begin, end = part * lines // parts, (part + 1) * lines // parts
            for start in range(begin, end, GRADIENT_TOGETHER):
                for channel in range(first_channel, last_channel, WIDTH):
                    count = min(WIDTH, last_channel - channel)
                    for k in range(extent[0] * extent[1]):
                        kd, kh = divmod(k, extent[1])
                        for kw in range(0, extent[2], 3):
                            second, third = min(kw + 1, extent[2] - 1), min(kw + 2, extent[2] - 1)
                            columns = kw * dilation[2] - padding[2], second * dilation[2] - padding[2], third * dilation[2] - padding[2]
                            ranges = (
                                inside(columns[0], strides[2], width, x.shape[3]),
                                inside(columns[1], strides[2], width, x.shape[3]),
                                inside(columns[2], strides[2], width, x.shape[3]),
                            )
                            offsets = columns[0] * stride(x, 3), columns[1] * stride(x, 3), columns[2] * stride(x, 3)
                            a = zeros(x, 1, VECTORS)
                            b, c = a, a
                            for line in range(start, min(end, start + GRADIENT_TOGETHER)):
                                rest, row = divmod(line, height)
                                n, plane = divmod(rest, planes)
                                depth = plane * strides[0] - padding[0] + kd * dilation[0]
                                x_line = row * strides[1] - padding[1] + kh * dilation[1]
                                if not (0 <= depth < x.shape[1] and 0 <= x_line < x.shape[2]):
                                    continue
                                x_at = n * stride(x, 0) + depth * stride(x, 1) + x_line * stride(x, 2) + channel
                                dy_at = n * stride(dy, 0) + plane * stride(dy, 1) + row * stride(dy, 2) + channel
                                if count == WIDTH:
                                    a, b, c = _whole_lines(x, x_at, x_step, dy, dy_at, dy_step, ranges, offsets, count, a, b, c)
                                else:
                                    a, b, c = _partial_lines(x, x_at, x_step, dy, dy_at, dy_step, ranges, offsets, count, a, b, c)
                            to = (part * taps + k * extent[2]) * channels + channel
                            accumulate(a, flat, to + kw * channels, count, start == begin)
                            if second > kw:
                                accumulate(b, flat, to + second * channels, count, start == begin)
                            if third > second:
                                accumulate(c, flat, to + third * channels, count, start == begin)
