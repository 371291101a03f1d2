"""Depthwise convolution: every channel with a kernel of its own. SIMD lanes run over channels, tile rows over neighbouring pixels.

Arrays are ``(N, D, H, W, C)`` views with dense channels and ``w (taps, C)``.
"""

from __future__ import annotations

import functools

from ...simd import (
    LANES,
    VECTOR_BITS,
    fma,
    load,
    load_part,
    moved,
    outer_of,
    prefetch,
    prefetch_for_writing,
    row_sum,
    rows_of,
    store,
    store_part,
    stride,
    zeros,
)
from ..channels import VECTORS, WIDTH, access, channel_span
from ..jit import inline, kernel
from ..statistics import gather
from ..tasks import next_task
from .ending import ending, untouched
from .tiles import LADDER, clear_run, copy_run, inside

HEIGHTS = (14, 7, 4, 1) if VECTOR_BITS == 512 else (7, 4, 1)
"""Pixels of a tile, neighbours in a line: most maps are a multiple of seven wide, and AVX-512 has registers for twice as many."""
HELD_VECTORS = 4
HELD = HELD_VECTORS * LANES
"""Channels of a block, which lie together in patches and packed weights."""
FETCHED = 256 * 1024
"""Elements of an input from which on it lies beyond the second-level cache: then the next lines of input and output are prefetched."""
EXPANSION_LADDER = (*LADDER[:3], 1)
"""Heights of tiles of a convolution that makes the input: lines are long enough to be cut into these."""
MOST_TAPS = 7  # of a tile of the weight gradient, in a line
GRADIENT_AHEAD = 16  # pixels further on, inputs and gradients are prefetched
MOST_LINES = 3  # of the kernel in a tile of the weight gradient, and
GRADIENT_SUMS = 26 if VECTOR_BITS == 512 else 12
"""vectors of it, for the 32 registers of AVX-512 or the 16 of AVX2: the other ones hold what is multiplied."""


@inline
def _steps(length, step):
    """How many places, ``step`` apart, lie in ``length``: a division would take as long as some pixels."""
    if step == 1:
        return length
    return (length + 1) >> 1 if step == 2 else (length + step - 1) // step


@inline
def _places(column, count, remainder, step, size):
    """How many of the ``count`` columns from ``column`` on have a ``remainder``, and the first and behind-last of them in ``0 .. size``."""
    start, places = column + remainder, _steps(count - remainder, step)
    first = min(places, _steps(max(0, -start), step))
    return places, first, max(first, min(places, _steps(max(0, size - start), step)))


@inline
def _copy_part(source, source_at, target, target_at, count):
    """Copy ``count`` neighbouring elements, and zeros behind them up to a whole vector: a load of the target would wait for a store of a
    part of it."""
    done = 0
    while done + LANES <= count:
        store(load(source, source_at + done, 0, 1, 1), target, target_at + done, 0)
        done += LANES
    if done < count:
        store(load_part(source, source_at + done, 0, count - done, 1, 1), target, target_at + done, 0)


def _copying(vectors):
    """The function that copies so many vectors of each of the columns ``first .. last``, and asks for what lies ``ahead`` of them."""

    @inline
    def copy(x, near, far, ahead, first, last, target, to):
        for c in range(first, last):
            if ahead > 0:
                prefetch(x, near + c * far + ahead, LANES, vectors)
            store(load(x, near + c * far, 0, 1, vectors), target, to + c * HELD, 0)

    return copy


_copy_blocks, _copy_panels = _copying(HELD_VECTORS), _copying(VECTORS)


@inline
def _pack_columns(x, n, d, h, column, count, step, channel, held, ahead, weights, shift, floor, ceiling, heights, target, at, part):
    """Copy ``count`` columns of one input line (zeros outside of it), ``held`` channels each, to ``target[at + column * HELD]``: those
    with one remainder modulo ``step`` next to each other, remainders ``part`` elements apart. What lies ``ahead`` of them is prefetched,
    unless that is zero."""
    exists = 0 <= d < x.shape[1] and 0 <= h < x.shape[2]
    source = n * stride(x, 0) + d * stride(x, 1) + h * stride(x, 2) + channel
    far = step * stride(x, 3)
    for remainder in range(min(step, count)):
        places, first, last = _places(column, count, remainder, step, x.shape[3] if exists else 0)
        to = at + remainder * part
        clear_run(target, to, first * HELD)
        near = source + (column + remainder) * stride(x, 3)
        if held == HELD:
            _copy_blocks(x, near, far, ahead, first, last, target, to)
        elif held == WIDTH:
            _copy_panels(x, near, far, ahead, first, last, target, to)
        else:
            for c in range(first, last):
                for vector in range(0, held if ahead > 0 else 0, LANES):
                    prefetch(x, near + c * far + ahead + vector, 0, 1)
                _copy_part(x, near + c * far, target, to + c * HELD, held)
        clear_run(target, to + last * HELD, (places - last) * HELD)


@functools.cache
def _expansion(rows, vectors, finish):
    """The function that writes ``vectors`` of a panel of ``rows`` pixels of a pointwise convolution, :data:`HELD` elements apart."""
    width = vectors * LANES

    @inline
    def expand(x, x_at, x_step, depth, w, w_at, bias, channel, count, low, high, y, y_at):
        total = load(bias, channel, 0, rows, vectors) if count >= width else load_part(bias, channel, 0, count, rows, vectors)
        pixels = rows_of(x, x_at, x_step, rows, depth)
        for _ in range(depth // 4):
            total = outer_of(total, pixels, 0, w, w_at)
            total = outer_of(total, pixels, 1, w, w_at + WIDTH)
            total = outer_of(total, pixels, 2, w, w_at + 2 * WIDTH)
            total = outer_of(total, pixels, 3, w, w_at + 3 * WIDTH)
            pixels = moved(pixels, 4)
            w_at += 4 * WIDTH
        for _ in range(depth % 4):
            total = outer_of(total, pixels, 0, w, w_at)
            pixels = moved(pixels, 1)
            w_at += WIDTH
        store(finish(total, low, high), y, y_at, HELD)

    return expand


def _expansions(vectors, finish):
    """The function that calls the one for a number of rows, its first argument."""
    highest, high, low, single = (_expansion(rows, vectors, finish) for rows in EXPANSION_LADDER)
    height, second, third, _ = EXPANSION_LADDER

    @inline
    def expand(rows, *arguments):
        if rows == height:
            highest(*arguments)
        elif rows == second:
            high(*arguments)
        elif rows == third:
            low(*arguments)
        else:
            single(*arguments)

    return expand


@functools.cache
def _expanded_columns(activation, later):
    """The function that fills columns as :func:`_pack_columns` does, with what a pointwise convolution makes of ``x``:
    ``clamp(x @ weights + shift, floor, ceiling)``, or ``activation`` in place of the clamp, by packed ``weights`` and in tiles of
    ``heights``. An activation that comes ``later`` does so when the columns are done, as in :mod:`.tiles`."""
    finish = ending(activation)
    panel_finish = untouched if later else finish
    wide, narrow = _expansions(VECTORS, panel_finish), _expansions(1, panel_finish)

    @inline
    def expand(x, n, d, h, column, count, step, channel, held, ahead, weights, shift, floor, ceiling, heights, target, at, part):
        exists = 0 <= d < x.shape[1] and 0 <= h < x.shape[2]
        source = n * stride(x, 0) + d * stride(x, 1) + h * stride(x, 2)
        far, depth = step * stride(x, 3), x.shape[4]
        for remainder in range(min(step, count)):
            places, first, last = _places(column, count, remainder, step, x.shape[3] if exists else 0)
            to, done = at + remainder * part, first
            clear_run(target, to, first * HELD)
            near = source + (column + remainder) * stride(x, 3)
            while done < last:
                rows, x_at = heights[last - done], near + done * far
                for panel in range(0, held, WIDTH):
                    c, w_at, y_at = channel + panel, (channel + panel) * depth, to + done * HELD + panel
                    if held - panel > LANES:
                        wide(rows, x, x_at, far, depth, weights, w_at, shift, c, held - panel, floor, ceiling, target, y_at)
                    else:
                        narrow(rows, x, x_at, far, depth, weights, w_at, shift, c, held - panel, floor, ceiling, target, y_at)
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
        patch, at, offsets, lengths, runs, w, w_at, bias, channel, count, residual, addend, addend_at, addend_step, low, high,
        y, y_at, y_step,
    ):  # fmt: skip
        """A vector of ``count`` channels (or more) of ``height`` pixels. Taps of a run share what they read, which stays in registers."""
        whole = count >= LANES
        total = load(bias, channel, 0, height, 1) if whole else load_part(bias, channel, 0, count, height, 1)
        for run in range(runs):
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
        gathered, piece_rows, offsets, lengths, phases, geometry, block_rows, block_columns, spans, scratch, queue, thread,
    ):  # fmt: skip
        """``y = finish(depthwise conv(x, w) + bias + addend)``; other arguments as of
        :func:`numbacnn.kernels.conv.direct.convolution`. ``sums (N, D * H * column tasks, C)``, if it is not empty, gets the sums over the
        pixels of each stretch of ``block_columns`` of each line of ``y``; ``gathered (STATISTICS, N, D, pieces, C)`` likewise gets the
        statistics of pieces of ``piece_rows`` such stretches, of which a task has whole ones.

        ``phases``: convolutions of the same ``x``, whose outputs are those lines and columns of ``y`` with one remainder each modulo
        ``geometry[2, 1:]``. Of each: its remainders, its lines and columns, its runs, where its weights ``(blocks, taps, HELD)`` from
        :func:`pack_taps` start, taps in the order of the runs, and its taps. Sums and statistics are those of a single one.

        A task walks down the lines of the channels from one of ``spans`` to the next, at most :data:`HELD` (spans begin with panels of the
        convolution ``before``), and keeps a ring of as many input lines as a line of the output needs, in the first-level cache:
        ``[kd][line modulo ring][remainder][column][HELD]``, with columns sorted by their remainder modulo the stride, so that a tile's
        inputs are neighbours. ``offsets (phases, ring, runs)``: where each run of ``lengths (phases, runs)`` taps starts, by the place of
        the first line in the ring. ``geometry``: strides; padding; distances of outputs; planes, lines and columns of input around an
        output; distances of these planes. A line's last task, and a task's last tile, may overlap the one before and write the same again.
        ``weights .. heights`` as of :func:`_expanded_columns`; of no meaning where there is no convolution ``before``.
        """
        strides, padding, spread, extent, far_planes = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4, 0]
        planes, channels = y.shape[1], y.shape[4]
        height_, width = phases[0, 2], phases[0, 3]
        blocks = spans.size - 1
        row_tasks, column_tasks = -(-height_ // block_rows), -(-width // block_columns)
        ring = offsets.shape[1]
        turn = strides[1] % ring
        y_ahead = spread[1] * stride(y, 2)
        ahead = stride(x, 2) if x.size >= FETCHED else 0
        columns = (block_columns - 1) * strides[2] + extent[2]
        part = -(-columns // strides[2]) * HELD
        line_step = min(strides[2], columns) * part
        y_step, addend_step = spread[2] * stride(y, 3), spread[2] * stride(addend, 3)
        own = scratch[thread]
        while True:
            task = next_task(queue, thread, y.shape[0] * planes * row_tasks * column_tasks * blocks)
            if task >= y.shape[0] * planes * row_tasks * column_tasks * blocks:
                break
            task, block = divmod(task, blocks)
            task, column_task = divmod(task, column_tasks)
            task, row_task = divmod(task, row_tasks)
            n, plane = divmod(task, planes)
            channel, held = spans[block], spans[block + 1] - spans[block]
            row, column = row_task * block_rows, min(column_task * block_columns, width - block_columns)
            repeated = column_task * block_columns - column  # the first pixels of a line that overlap the task before
            known, slot, oldest = 0, 0, 0
            for r in range(min(block_rows, height_ - row)):
                first = r * strides[1]
                if known < first:  # lines that no output is made of
                    slot, known = oldest, first
                for line in range(known, first + ring):
                    for kd in range(extent[0]):
                        fill(
                            x, n, plane * strides[0] - padding[0] + kd * far_planes, row * strides[1] - padding[1] + line,
                            column * strides[2] - padding[2], columns, strides[2], channel, held, ahead,
                            weights, shift, floor, ceiling, heights, own, (kd * ring + slot) * line_step, part,
                        )  # fmt: skip
                    slot = slot + 1 if slot + 1 < ring else 0
                known = first + ring
                for phase in range(phases.shape[0]):
                    if row + r >= phases[phase, 2]:
                        continue
                    pixels = min(block_columns, phases[phase, 3] - column)
                    y_row, y_column = (row + r) * spread[1] + phases[phase, 0], column * spread[2] + phases[phase, 1]
                    to = n * stride(y, 0) + plane * stride(y, 1) + y_row * stride(y, 2) + y_column * stride(y, 3) + channel
                    more = n * stride(addend, 0) + plane * stride(addend, 1) + y_row * stride(addend, 2)
                    more += y_column * stride(addend, 3) + channel
                    starts, of_runs, runs = offsets[phase, oldest], lengths[phase], phases[phase, 4]
                    for at in range(0, held, LANES):
                        packed_block, w_at = divmod(channel + at, HELD)
                        w_at += phases[phase, 5] + packed_block * phases[phase, 6] * HELD
                        for done in range(0, pixels, height):
                            c = min(done, pixels - height)
                            if ahead > 0:  # a store waits for its line, too
                                prefetch_for_writing(y, to + c * y_step + at + y_ahead, y_step, height)
                            tile(
                                own, c * HELD + at, starts, of_runs, runs, w, w_at,
                                bias, channel + at, held - at, residual, addend, more + c * addend_step + at, addend_step, low, high,
                                y, to + c * y_step + at, y_step,
                            )  # fmt: skip
                        if sums.size > 0:
                            stretch = ((n * planes + plane) * height_ + row + r) * column_tasks + column_task
                            _sum_pixels(
                                y, to + repeated * y_step + at, y_step, pixels - repeated, held - at,
                                sums, stretch * channels + channel + at,
                            )  # fmt: skip
                    if gathered.size > 0 and ((r + 1) % piece_rows == 0 or row + r + 1 == height_):
                        lines = r % piece_rows + 1
                        gather(
                            y, to - channel - (lines - 1) * stride(y, 2) + repeated * y_step, lines, stride(y, 2),
                            pixels - repeated, y_step, channel, channel + held,
                            gathered, n, plane, (row + r) // piece_rows * column_tasks + column_task,
                        )  # fmt: skip
                oldest += turn if oldest + turn < ring else turn - ring

    return convolve


@kernel(parallel=True)
def pack_taps(w, taps, scale, packed, queue, thread):
    """``packed (blocks, taps, HELD)``: ``w (all taps, C)[taps[t]] * scale (C,)``, zeros behind the last channel."""
    channels = w.shape[1]
    while True:
        block = next_task(queue, thread, packed.shape[0])
        if block >= packed.shape[0]:
            break
        for t in range(taps.size):
            for c in range(HELD):
                channel = block * HELD + c
                packed[block, t, c] = w[taps[t], channel] * scale[channel] if channel < channels else 0


# Weight gradient -----------------------------------------------------------------------------------------------------


def gradient_tile(extent):
    """How the sums of the weight gradient of a kernel of ``extent`` are cut to fit the registers: taps of a line and lines that share what
    is read of ``dy``, and vectors of channels."""
    taps = -(-extent[2] // -(-extent[2] // MOST_TAPS))
    vectors = VECTORS if MOST_LINES * taps * VECTORS <= GRADIENT_SUMS else 1
    return taps, min(MOST_LINES, max(1, GRADIENT_SUMS // taps), extent[1]), vectors


@functools.cache
def _line_products(taps, lines, vectors, whole):
    """The function that adds, for ``lines`` lines of a kernel with ``taps`` taps each, the products of one line of pixels to sums;
    ``whole``: of whole vectors."""
    width = vectors * LANES

    @inline
    def add(x, p, x_line, x_step, tap_step, dy, dy_at, dy_step, pixels, count, sums, to, sums_step):
        """``sums[to + line * sums_step + tap * width] += x[p + line * x_line + pixel * x_step + tap * tap_step] * dy[dy_at + pixel *
        dy_step]`` over the pixels, of ``count`` channels (or more)."""
        q, r = p + x_line, p + 2 * x_line
        first = load(sums, to, width, taps, vectors)
        second = load(sums, to + sums_step, width, taps, vectors) if lines > 1 else first
        third = load(sums, to + 2 * sums_step, width, taps, vectors) if lines > 2 else first
        for _ in range(pixels):
            if whole:
                prefetch(x, r + GRADIENT_AHEAD * x_step, LANES, vectors)
                prefetch(dy, dy_at + GRADIENT_AHEAD * dy_step, LANES, vectors)
                d = load(dy, dy_at, 0, taps, vectors)
                first = fma(load(x, p, tap_step, taps, vectors), d, first)
                if lines > 1:
                    second = fma(load(x, q, tap_step, taps, vectors), d, second)
                if lines > 2:
                    third = fma(load(x, r, tap_step, taps, vectors), d, third)
            else:
                d = load_part(dy, dy_at, 0, count, taps, vectors)
                first = fma(load_part(x, p, tap_step, count, taps, vectors), d, first)
                if lines > 1:
                    second = fma(load_part(x, q, tap_step, count, taps, vectors), d, second)
                if lines > 2:
                    third = fma(load_part(x, r, tap_step, count, taps, vectors), d, third)
            p += x_step
            q += x_step
            r += x_step
            dy_at += dy_step
        store(first, sums, to, width)
        if lines > 1:
            store(second, sums, to + sums_step, width)
        if lines > 2:
            store(third, sums, to + 2 * sums_step, width)

    return add


@functools.cache
def _products(taps, lines, vectors):
    """The function of :func:`_line_products` for parts of vectors, too."""
    full, part = _line_products(taps, lines, vectors, True), _line_products(taps, lines, vectors, False)

    @inline
    def products(x, x_at, x_line, x_step, tap_step, dy, dy_at, dy_step, pixels, count, sums, to, sums_step):
        if count >= vectors * LANES:
            full(x, x_at, x_line, x_step, tap_step, dy, dy_at, dy_step, pixels, count, sums, to, sums_step)
        else:
            part(x, x_at, x_line, x_step, tap_step, dy, dy_at, dy_step, pixels, count, sums, to, sums_step)

    return products


@inline
def _shift(column, reach, step, size):
    """How many taps, ``step`` apart from ``column`` on, the first of which is not inside of a line of ``size`` while it starts with it, or
    minus how many of those at its end are not: ``reach`` lies between the first and the last one."""
    if column < 0:
        return (step - 1 - column) // step
    return -max(0, (column + reach - size + step) // step)


@functools.cache
def depthwise_weight_gradient(taps, lines, vectors):
    """The kernel ``gradient`` with tiles as of :func:`gradient_tile`."""
    width = vectors * LANES
    several, one, (read, _) = _products(taps, lines, vectors), _products(taps, 1, vectors), access(vectors)

    @inline
    def add_rows(
        high, x, x_at, x_line, x_row, x_column, column, steps, size, dy, dy_at, dy_row, dy_column, rows, first, last, length, count,
        sums, to, sums_step,
    ):  # fmt: skip
        """Add the products of ``rows`` of ``length`` pixels to the sums of ``high`` lines of the kernel. In ``first .. last`` all taps lie
        inside of the line of ``size``. At other pixels tiles are shifted until they do, and what is then too much goes to sums in front
        of or behind those of the line; ``to`` is behind the ones in front."""
        step, tap_step = steps[0], steps[1]
        for row in range(rows):
            p, q = x_at + row * x_row + (column + first * step) * x_column, dy_at + row * dy_row + first * dy_column
            if high == lines:
                several(
                    x, p, x_line, step * x_column, tap_step * x_column, dy, q, dy_column, last - first, count, sums, to, sums_step
                )  # fmt: skip
            else:
                one(x, p, x_line, step * x_column, tap_step * x_column, dy, q, dy_column, last - first, count, sums, to, sums_step)
        for edge in range(first + length - last):
            pixel = edge if edge < first else edge - first + last
            start = column + pixel * step
            shift = _shift(start, (taps - 1) * tap_step, tap_step, size)
            if not -taps < shift < taps:
                continue
            p, q = x_at + (start + shift * tap_step) * x_column, dy_at + pixel * dy_column
            if high == lines:
                several(x, p, x_line, x_row, tap_step * x_column, dy, q, dy_row, rows, count, sums, to + shift * width, sums_step)
            else:
                one(x, p, x_line, x_row, tap_step * x_column, dy, q, dy_row, rows, count, sums, to + shift * width, sums_step)

    @inline
    def add_tap(x, x_at, column, steps, x_column, size, dy, dy_at, dy_column, length, count, sums, to):
        """Add the products of a line of ``length`` pixels tap by tap, where the line of ``size`` is shorter than a tile."""
        for pixel in range(length):
            d = read(dy, dy_at + pixel * dy_column, count)
            for tap in range(taps):
                at = column + pixel * steps[0] + tap * steps[1]
                if 0 <= at < size:
                    total = fma(read(x, x_at + at * x_column, count), d, load(sums, to + tap * width, 0, 1, vectors))
                    store(total, sums, to + tap * width, 0)

    @kernel(parallel=True, views=("x", "dy"))
    def gradient(x, dy, dw, geometry, together, scratch, queue, threads, thread):
        """``dw (parts, taps, C)``: the weight gradient of each part of the output's lines.

        A task owns one part and a span of channels, and takes all of these through at most ``together`` lines before the next ones come.
        Taps of a tile, which is some lines of the kernel high, share what is read of ``dy``. ``scratch``: sums, ``[panel][kernel
        line][group of taps][three times the taps][vectors * LANES]``, of which those in the middle are wanted; the last group may overlap
        the one before."""
        strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
        planes, height, length, channels = dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4]
        count, parts = dy.shape[0] * planes * height, dw.shape[0]
        span = channel_span(channels, parts, threads)
        spans = (channels + span - 1) // span
        groups, kernel_lines = -(-extent[2] // taps), extent[0] * extent[1]
        sums_step = groups * 3 * taps * width
        steps, is_long = (strides[2], dilation[2]), x.shape[3] >= taps * dilation[2]
        flat = dw.reshape(-1)
        sums = scratch[thread]
        while True:
            task = next_task(queue, thread, parts * spans)
            if task >= parts * spans:
                break
            part, span_at = divmod(task, spans)
            first_channel, last_channel = span_at * span, min(channels, (span_at + 1) * span)
            clear_run(sums, 0, -(-(last_channel - first_channel) // width) * kernel_lines * sums_step)
            line, end = part * count // parts, (part + 1) * count // parts
            while line < end:
                image, row = divmod(line, height)
                n, plane = divmod(image, planes)
                last_row = min(row + together, height, row + end - line)
                line += last_row - row
                for panel in range(-(-(last_channel - first_channel) // width) * groups):
                    group, channel = panel % groups, first_channel + panel // groups * width
                    held, tap = min(width, last_channel - channel), min(group * taps, extent[2] - taps)
                    column = tap * dilation[2] - padding[2]
                    first = min(length, inside(column, strides[2], length, x.shape[3])[0])
                    last = max(first, inside(column + (taps - 1) * dilation[2], strides[2], length, x.shape[3])[1])
                    for k in range(kernel_lines):
                        kd, kh = divmod(k, extent[1])
                        depth = plane * strides[0] - padding[0] + kd * dilation[0]
                        if not 0 <= depth < x.shape[1]:
                            continue
                        to = (panel // groups * kernel_lines + k) * sums_step + (group * 3 + 1) * taps * width
                        at = n * stride(x, 0) + depth * stride(x, 1) + channel
                        dy_at = n * stride(dy, 0) + plane * stride(dy, 1) + channel
                        begin = kh * dilation[1] - padding[1]
                        low, high = inside(begin, strides[1], height, x.shape[2])
                        low, high = max(low, row), min(high, last_row)
                        top = kh - kh % lines
                        if is_long and top + lines <= extent[1]:
                            # rows of which the kernel's lines from the top on are all inside of x
                            most = inside(begin + (top - kh) * dilation[1], strides[1], height, x.shape[2])[0]
                            least = inside(begin + (top - kh + lines - 1) * dilation[1], strides[1], height, x.shape[2])[1]
                            most = min(max(most, row), last_row)
                            least = max(most, min(least, last_row))
                            if kh == top and most < least:
                                add_rows(
                                    lines, x, at + (begin + most * strides[1]) * stride(x, 2), dilation[1] * stride(x, 2),
                                    strides[1] * stride(x, 2), stride(x, 3), column, steps, x.shape[3], dy,
                                    dy_at + most * stride(dy, 2), stride(dy, 2), stride(dy, 3), least - most, first, last, length,
                                    held, sums, to, sums_step,
                                )  # fmt: skip
                        else:
                            most, least = high, high
                        for r in range(low, high):
                            if most <= r < least:
                                continue
                            x_at = at + (begin + r * strides[1]) * stride(x, 2)
                            if is_long:
                                add_rows(
                                    0, x, x_at, 0, 0, stride(x, 3), column, steps, x.shape[3], dy, dy_at + r * stride(dy, 2), 0,
                                    stride(dy, 3), 1, first, last, length, held, sums, to, sums_step,
                                )  # fmt: skip
                            else:
                                add_tap(
                                    x, x_at, column, steps, stride(x, 3), x.shape[3], dy, dy_at + r * stride(dy, 2), stride(dy, 3),
                                    length, held, sums, to,
                                )  # fmt: skip
            for channel in range(first_channel, last_channel, width):
                held, panel = min(width, last_channel - channel), (channel - first_channel) // width
                for k in range(kernel_lines):
                    for tap in range(groups * taps):
                        group, j = divmod(tap, taps)
                        to = (part * dw.shape[1] + k * extent[2] + min(group * taps, extent[2] - taps) + j) * channels + channel
                        from_ = (panel * kernel_lines + k) * sums_step + ((group * 3 + 1) * taps + j) * width
                        copy_run(sums, from_, flat, to, held)

    return gradient
