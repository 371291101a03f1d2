"""Direct convolution of channels-last tensors: forward pass, data gradient and weight gradient by register tiles.

Everything is a 3-D convolution of ``(N, D, H, W, C)`` views; 1-D and 2-D ones have ones in front. A task copies the patch of input that its
output pixels need into scratch of its thread, zeros for padding included, so that the inner loops read straight lines whatever padding,
stride and layout. Pointwise layers (1x1, Dense) read the input where it lies.

The data gradient is the same kernel: ``dx`` is a convolution of ``dy`` with flipped weights, and for stride ``s`` there is one such
convolution for each residue of the position modulo ``s`` (:func:`numbacnn.kernels.conv.launch.residues`). A transposed convolution is
a data gradient.
"""

from __future__ import annotations

import functools

from ...simd import LANES, clamp, fma, load, memory, store, stride, transpose, zeros
from ..channels import VECTORS, WIDTH, read, write
from ..jit import inline, kernel
from ..statistics import gather
from ..tasks import in_shares, next_task, shares_of
from .ahead import channels_to_read, place_of
from .pairs import interleaved
from .tiles import MAX_ROWS, accumulate, clear_run, copy_run, correlations, inside, strips

FAR = 2_000_000  # elements that a weight gradient reads, from which on they come from memory
SUM_BLOCK = 512  # pixels that are summed before they are added to the total
FEW_WEIGHTS = 64 * 1024  # elements, that no next ones are fetched of: a second-level cache keeps them
FETCHED_CHANNELS = 768  # at most, of pixels that come next: with more, they would push those at hand out of the first-level cache


@inline
def pack_line(x, n, d, h, column, count, channel, channels, target, at):
    """Copy columns ``column .. column + count`` of one input line (zeros outside of it), ``channels`` channels each."""
    size = x.shape[3]
    inside = 0 <= d < x.shape[1] and 0 <= h < x.shape[2]
    before = min(count, max(0, -column)) if inside else count
    after = max(0, min(count - before, column + count - size)) if inside else 0
    middle = count - before - after
    clear_run(target, at, before * channels)
    if middle > 0:
        pixel = stride(x, 3)
        source = n * stride(x, 0) + d * stride(x, 1) + h * stride(x, 2) + (column + before) * pixel + channel
        if pixel == channels:
            copy_run(x, source, target, at + before * channels, middle * channels)
        else:
            for i in range(middle):
                copy_run(x, source + i * pixel, target, at + (before + i) * channels, channels)
    clear_run(target, at + (before + middle) * channels, after * channels)


@inline
def _pack_normalised(x, source, pixels, channels, gain, row, offset, floor, ceiling, patch, to):
    """Copy neighbouring pixels to ``patch[to:]`` as ``clamp(x * gain + offset, floor, ceiling)``."""
    for _ in range(pixels):
        for channel in range(0, channels, WIDTH):
            count = min(WIDTH, channels - channel)
            value = fma(read(x, source + channel, count), read(gain, row * channels + channel, count), read(offset, channel, count))
            write(clamp(value, floor, ceiling), patch, to + channel, count)
        source += stride(x, 3)
        to += channels


@functools.cache
def convolution(kind, adjacent, activation, later):
    """The kernel ``convolve``.

    ``kind`` of panels, ``adjacent`` and ``later``: see :func:`numbacnn.kernels.conv.tiles.strips`; ``activation``: see
    :func:`numbacnn.kernels.conv.ending.ending`.
    """
    strip = strips(kind, adjacent, activation, later)

    @kernel(parallel=True, views=("x", "addend", "y", "gathered"))
    def convolve(
        x, packed, prologue, gain, offset, floor, ceiling, w, bias, residual, addend, low, high, y, offsets, length, heights,
        groups, geometry, block_rows, block_columns, one_line, task_panels, pass_panels, gathered, piece_rows, piece_columns,
        scratch, queue, thread,
    ):  # fmt: skip
        """``y = finish(conv(x, w) + bias + addend)``, the addend only where ``residual``; if ``prologue`` (of a pointwise convolution that
        is ``packed``), of ``clamp(x * gain + offset, floor, ceiling)`` in place of ``x``, ``gain`` having a row for all images or for each.

        ``x (N, D, H, W, C)`` and ``y (N, OD, OH, OW, CO)`` are views with dense channels. ``packed``: inputs go through patches; otherwise
        (pointwise) they are read in place. ``w`` are packed panels of that ``kind``
        ``[group][panel][len(offsets) * length][WIDTH]``; ``offsets`` where each run of ``length`` inputs starts, relative to a pixel's
        first; ``heights`` of tiles (:func:`tile_heights`); ``geometry`` int64 rows strides, padding (in front), dilation and kernel extent
        (places) along depth, height, width; a task makes ``block_rows x block_columns`` pixels (of patches and ``y`` all of whose lines
        follow each other, if ``one_line``) of ``task_panels`` panels, ``pass_panels`` at a time; ``gathered (STATISTICS, N, OD, pieces,
        CO)``, if it is not empty, gets the statistics of ``y`` by pieces of ``piece_rows x piece_columns`` pixels, of which a task has
        whole ones; ``scratch (threads, elements)`` holds the patch.
        """
        planes, height, width, out_channels = y.shape[1], y.shape[2], y.shape[3], y.shape[4] // groups
        strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
        channels = x.shape[4] // groups
        panels = -(-out_channels // WIDTH)
        panel_step = offsets.size * length * WIDTH
        panel_tasks = -(-panels // task_panels)
        row_tasks = -(-height // block_rows)
        column_tasks = -(-width // block_columns)
        pixel_tasks = y.shape[0] * planes * row_tasks * column_tasks
        lines = (block_rows - 1) * strides[1] + (extent[1] - 1) * dilation[1] + 1
        columns = (block_columns - 1) * strides[2] + (extent[2] - 1) * dilation[2] + 1
        flat_kernel = extent[0] == 1 and not one_line
        line_runs = offsets.size // max(1, extent[1])
        y_step, addend_step = stride(y, 3), stride(addend, 3)
        line_pieces = -(-width // piece_columns)
        many_weights = w.size > FEW_WEIGHTS
        shares = min(shares_of(queue), pixel_tasks) if x.size > w.size else 1  # whatever is more is divided
        own = scratch[thread]
        while True:
            task = next_task(queue, thread, groups * panel_tasks * pixel_tasks)
            if task >= groups * panel_tasks * pixel_tasks:
                break
            way, pixel_task = in_shares(task, shares, pixel_tasks, groups * panel_tasks)
            group, panel_task = divmod(way, panel_tasks)
            n, rest = divmod(pixel_task, planes * row_tasks * column_tasks)
            plane, rest = divmod(rest, row_tasks * column_tasks)
            row_task, column_task = divmod(rest, column_tasks)
            row, column = row_task * block_rows, column_task * block_columns
            row_count = min(block_rows, height - row)
            column_count = min(block_columns, width - column)
            inputs = own if packed else memory(x)
            if packed:
                line_step = columns * channels
                top = row * strides[1] - padding[1]
                needed = (row_count - 1) * strides[1] + (extent[1] - 1) * dilation[1] + 1
                first_line, last_line = (max(0, -top), min(needed, x.shape[2] - top)) if flat_kernel else (0, needed)
                if prologue:
                    for r in range(row_count):
                        source = n * stride(x, 0) + plane * stride(x, 1) + (row + r) * stride(x, 2) + column * stride(x, 3)
                        _pack_normalised(
                            x, source, column_count, channels, gain, min(n, gain.shape[0] - 1), offset, floor, ceiling,
                            own, r * line_step,
                        )  # fmt: skip
                for kd in range(0 if prologue else extent[0]):
                    for line in range(first_line, last_line):
                        pack_line(
                            x, n, plane * strides[0] - padding[0] + kd * dilation[0], row * strides[1] - padding[1] + line,
                            column * strides[2] - padding[2], columns, group * channels, channels,
                            own, (kd * lines + line) * line_step,
                        )  # fmt: skip
                first_pixel = 0
                row_step = strides[1] * line_step
                pixel_step = strides[2] * channels
            else:
                first_pixel = n * stride(x, 0) + plane * stride(x, 1) + row * stride(x, 2) + column * stride(x, 3) + group * channels
                row_step = stride(x, 2)
                pixel_step = stride(x, 3)
            line_count, line_length = (1, row_count * column_count) if one_line else (row_count, column_count)
            x_fetch = 0 if packed or length > FETCHED_CHANNELS or line_length <= MAX_ROWS else 2 * WIDTH
            first_channel = group * out_channels
            last_panel = min(panels, (panel_task + 1) * task_panels)
            last_channel = first_channel + min(out_channels, last_panel * WIDTH)
            next_task_w = w.size
            if many_weights:
                next_way, _ = in_shares(task + 1, shares, pixel_tasks, groups * panel_tasks)
                next_group, next_panel_task = divmod(next_way, panel_tasks)
                next_task_w = (next_group * panels + next_panel_task * task_panels) * panel_step
            to = n * stride(y, 0) + plane * stride(y, 1) + row * stride(y, 2) + column * y_step
            more = n * stride(addend, 0) + plane * stride(addend, 1) + row * stride(addend, 2) + column * addend_step
            for panel in range(panel_task * task_panels, last_panel, pass_panels):
                channel = first_channel + panel * WIDTH
                end = min(last_channel, channel + pass_panels * WIDTH)
                w_at = (group * panels + panel) * panel_step
                following = w_at + pass_panels * panel_step if panel + pass_panels < last_panel else next_task_w
                w_ahead, w_fetch = w_at, 0
                if many_weights and following < w.size and following != w_at:  # all of it, over all tiles
                    w_ahead, w_fetch = following, 4 * WIDTH // (line_count * (line_length // MAX_ROWS + 1)) + 1
                for r in range(line_count):
                    runs, w_from = offsets, w_at
                    if packed and flat_kernel:
                        kh_from, kh_to = inside((row + r) * strides[1] - padding[1], dilation[1], extent[1], x.shape[2])
                        runs, w_from = offsets[kh_from * line_runs : kh_to * line_runs], w_at + kh_from * line_runs * length * WIDTH
                    done = 0
                    while done < line_length:
                        rows = heights[line_length - done]
                        from_pixel = first_pixel + r * row_step + done * pixel_step
                        to_pixel = to + r * stride(y, 2) + done * y_step + channel
                        addend_pixel = more + r * stride(addend, 2) + done * addend_step + channel
                        strip(
                            rows, inputs, from_pixel, pixel_step, x_fetch, runs, length, w, w_from, panel_step, w_ahead, w_fetch,
                            bias, channel, end, residual, addend, addend_pixel, addend_step, low, high, y, to_pixel, y_step,
                        )  # fmt: skip
                        done += rows
                        w_ahead += pass_panels * (panel_step // (4 * WIDTH)) * w_fetch
                if gathered.size > 0:
                    for r in range(0, row_count, piece_rows):
                        for c in range(0, column_count, piece_columns):
                            gather(
                                y, to + r * stride(y, 2) + c * y_step, min(piece_rows, row_count - r), stride(y, 2),
                                min(piece_columns, column_count - c), y_step, channel, end,
                                gathered, n, plane, (row + r) // piece_rows * line_pieces + (column + c) // piece_columns,
                            )  # fmt: skip

    return convolve


@inline
def _pack_transposed(w, tap, row, rows, column, columns, scale, scale_at, packed, to):
    """Write ``columns`` columns of ``rows`` (at most a vector) weights as rows of a panel, each multiplied by its ``scale``."""
    at = (tap * w.shape[1] + row) * w.shape[2] + column
    done = 0
    if rows == LANES:
        factors = load(scale, scale_at, 0, LANES, 1)
        while done + LANES <= columns:
            store(transpose(load(w, at + done, w.shape[2], LANES, 1)) * factors, packed, to + done * WIDTH, WIDTH)
            done += LANES
    while done < columns:
        for lane in range(LANES):
            packed[to + done * WIDTH + lane] = w[tap, row + lane, column + done] * scale[scale_at + lane] if lane < rows else 0
        done += 1


@kernel(parallel=True)
def pack_weights(w, taps, groups, transposed, paired, scale, packed, queue, thread):
    """Pack ``w (taps, C / groups, CO)`` into panels ``[group][panel][depth][WIDTH]``, taps in the order of the array ``taps``.

    Not ``transposed``: depth runs over (tap, input channel) and panels over output channels; transposed, as the data gradient needs it,
    depth runs over (tap, output channel) and panels over input channels. ``scale`` multiplies the channels that panels run over.
    ``paired``: elements of each two rows of a panel take turns.
    """
    inputs, outputs = w.shape[1], w.shape[2] // groups
    across = inputs if transposed else outputs
    along = outputs if transposed else inputs
    panels = -(-across // WIDTH)
    while True:
        task = next_task(queue, thread, groups * panels)
        if task >= groups * panels:
            break
        group, panel = divmod(task, panels)
        count = min(WIDTH, across - panel * WIDTH)
        for t in range(taps.size):
            at = (task * taps.size + t) * along * WIDTH
            if transposed:
                for vector in range(VECTORS):
                    first = panel * WIDTH + vector * LANES
                    _pack_transposed(
                        w, taps[t], first, max(0, min(LANES, across - first)), group * outputs, along,
                        scale, group * inputs + first, packed, at + vector * LANES,
                    )  # fmt: skip
            else:
                channel = group * outputs + panel * WIDTH
                factors = read(scale, channel, count)
                for k in range(along):
                    source_at = (taps[t] * inputs + k) * w.shape[2] + channel
                    store(read(w, source_at, count) * factors, packed, at + k * WIDTH, 0)
        if paired:
            depth = taps.size * along
            for at in range(task * depth * WIDTH, (task + 1) * depth * WIDTH, 2 * WIDTH):
                store(interleaved(load(packed, at, WIDTH, 2, VECTORS)), packed, at, 0)


@inline
def _met(step, padding, dilation, extent, places, size):
    """First and behind-last of the taps along an axis that meet an input at any of the ``places``; both 0 where none does."""
    met_from, met_to = extent, 0
    for tap in range(extent):
        first, last = inside(tap * dilation - padding, step, places, size)
        if first < last:
            met_from, met_to = min(met_from, tap), tap + 1
    return min(met_from, met_to), met_to


@inline
def _clear_tap(dw, at, rows, count):
    """Zeros in ``count`` columns of ``rows`` rows of weights."""
    for _ in range(rows):
        clear_run(dw, at, count)
        at += dw.shape[2]


@inline
def _pack_panels(x, source, pixels, count, panels, at, panel_step):
    """Copy ``count`` channels of a line of pixels into panels ``panel_step`` apart, in the order in which they lie in memory."""
    whole = count // WIDTH * WIDTH
    for c in range(pixels):
        to = at + c * WIDTH
        for done in range(0, whole, WIDTH):
            store(load(x, source + done, 0, 1, VECTORS), panels, to, 0)
            to += panel_step
        if whole < count:
            store(read(x, source + whole, count - whole), panels, to, 0)
        source += stride(x, 3)


@kernel(parallel=True, views=("x", "dy"))
def weight_gradient(
    x, dy, dw, heights, groups, geometry, panelled, block_rows, block_columns, block_channels, task_panels, scratch, queue, thread
):  # fmt: skip
    """``dw (taps, C / groups, CO)`` of a convolution of ``x (N, D, H, W, C)`` that gave ``y``, from ``dy (N, OD, OH, OW, CO)``.

    A task owns the weights of one kernel line (depth and height of the kernel), one block of input channels and some panels of output
    channels, and walks over all pixels in one order: no partial sums, and the same bits for any number of threads. It takes
    ``block_rows`` lines of pixels at a time, of whichever images, and leaves out those that meet nothing but padding. ``panelled``: of a
    pointwise convolution without stride or padding, whose inputs are copied into panels, as ``dy`` is, so that a panel of each fits the
    first-level cache.
    """
    strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
    planes, height, width, out_channels = dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4] // groups
    channels = x.shape[4] // groups
    panels = -(-out_channels // WIDTH)
    panel_tasks = -(-panels // task_panels)
    channel_tasks = -(-channels // block_channels)
    kernel_lines = extent[0] * extent[1]
    columns = (block_columns - 1) * strides[2] + (extent[2] - 1) * dilation[2] + 1
    panel_step = (block_rows * block_columns + 1) * WIDTH  # one more, so that panels do not compete for the same places of a cache
    dy_at = -(-block_channels // WIDTH) * panel_step if panelled else block_rows * columns * block_channels
    sums_at = dy_at + task_panels * panel_step
    taps_from, taps_to = _met(strides[2], padding[2], dilation[2], extent[2], width, x.shape[3])
    far = panelled and x.size + dy.size > FAR
    flat = dw.reshape(-1)
    own = scratch[thread]
    gradients = own[dy_at:]
    sums = own[sums_at:]
    while True:
        task = next_task(queue, thread, groups * kernel_lines * channel_tasks * panel_tasks)
        if task >= groups * kernel_lines * channel_tasks * panel_tasks:
            break
        group, rest = divmod(task, kernel_lines * channel_tasks * panel_tasks)
        kernel_line, rest = divmod(rest, channel_tasks * panel_tasks)
        channel_task, panel_task = divmod(rest, panel_tasks)
        kd, kh = divmod(kernel_line, extent[1])
        channel = channel_task * block_channels
        count = min(block_channels, channels - channel)
        out_channel = group * out_channels + panel_task * task_panels * WIDTH
        out_count = min(task_panels * WIDTH, out_channels - panel_task * task_panels * WIDTH)
        x_line, x_step = columns * count, strides[2] * count
        plane_from, plane_to = inside(kd * dilation[0] - padding[0], strides[0], planes, x.shape[1])
        row_from, row_to = inside(kh * dilation[1] - padding[1], strides[1], height, x.shape[2])
        lines = dy.shape[0] * (plane_to - plane_from) * (row_to - row_from)
        tap = kernel_line * extent[2]
        for kw in range(extent[2]):
            if lines == 0 or not taps_from <= kw < taps_to:
                _clear_tap(dw, ((tap + kw) * channels + channel) * dw.shape[2] + out_channel, count, out_count)
        first = True
        for start in range(0, lines, block_rows):
            line_count = min(block_rows, lines - start)
            for column in range(0, width, block_columns):
                column_count = min(block_columns, width - column)
                if panelled:
                    x_line, x_step = column_count * WIDTH, WIDTH
                for r in range(line_count):
                    rest, row = divmod(start + r, row_to - row_from)
                    n, plane = divmod(rest, plane_to - plane_from)
                    plane, row = plane + plane_from, row + row_from
                    if panelled:
                        source = n * stride(x, 0) + plane * stride(x, 1) + row * stride(x, 2) + column * stride(x, 3) + channel
                        _pack_panels(x, source, column_count, count, own, r * column_count * WIDTH, panel_step)
                    else:
                        pack_line(
                            x, n, plane * strides[0] - padding[0] + kd * dilation[0], row * strides[1] - padding[1] + kh * dilation[1],
                            column * strides[2] - padding[2], columns, group * channels + channel, count, own, r * x_line,
                        )  # fmt: skip
                    source = n * stride(dy, 0) + plane * stride(dy, 1) + row * stride(dy, 2) + column * stride(dy, 3) + out_channel
                    _pack_panels(dy, source, column_count, out_count, gradients, r * column_count * WIDTH, panel_step)
                next_start, next_column = (start, column + block_columns) if column + block_columns < width else (start + block_rows, 0)
                next_columns = min(block_columns, width - next_column)
                ahead = min(block_rows, lines - next_start) * next_columns if far else 0
                asked, asked_each = 0, -(-ahead // (-(-out_count // WIDTH) * -(-count // MAX_ROWS)))
                x_next, dy_next = 0, 0
                for done_channels in range(0, out_count, WIDTH):
                    for kw in range(taps_from, taps_to if dilation[2] != 1 else taps_from + 1):
                        span = count if dilation[2] != 1 else count * (taps_to - taps_from)
                        done = 0
                        while done < span:
                            x_at, left = kw * dilation[2] * count + done, span - done
                            if panelled:
                                panel, behind = divmod(done, WIDTH)
                                x_at, left = panel * panel_step + behind, min(left, WIDTH - behind)
                            rows = heights[left]
                            for pixel in range(asked, min(ahead, asked + asked_each)):
                                r, c = divmod(pixel, next_columns)
                                if c == 0:
                                    rest, row = divmod(next_start + r, row_to - row_from)
                                    n, plane = divmod(rest, plane_to - plane_from)
                                    x_next = place_of(x, n, plane + plane_from, row + row_from, next_column) + channel
                                    dy_next = place_of(dy, n, plane + plane_from, row + row_from, next_column) + out_channel
                                channels_to_read(x, x_next, count)
                                channels_to_read(dy, dy_next, out_count)
                                x_next += stride(x, 3)
                                dy_next += stride(dy, 3)
                            asked += asked_each
                            further, ci = divmod(done, count)
                            at = ((tap + kw + further) * channels + channel + ci) * dw.shape[2] + out_channel + done_channels
                            whole = ci + rows <= count and done_channels + WIDTH <= out_count
                            correlations(
                                rows, first or not whole, flat if whole else sums, at if whole else 0, dw.shape[2] if whole else WIDTH,
                                own, x_at, x_line, x_step,
                                gradients, done_channels // WIDTH * panel_step, WIDTH, line_count, column_count,
                            )  # fmt: skip
                            for i in range(0 if whole else rows):
                                at = ((tap + kw + further) * channels + channel + ci) * dw.shape[2] + out_channel + done_channels
                                accumulate(load(sums, i * WIDTH, 0, 1, VECTORS), dw, at, out_count - done_channels, first)
                                ci += 1
                                if ci == count:
                                    further, ci = further + 1, 0
                            done += rows
                first = False


@kernel(parallel=True)
def add_parts(parts, total, queue, thread):
    """``total`` of ``parts (parts, *total.shape)``."""
    source, target = parts.reshape(-1), total.reshape(-1)
    while True:
        at = next_task(queue, thread, -(-total.size // WIDTH)) * WIDTH
        if at >= total.size:
            break
        count = min(WIDTH, total.size - at)
        value = zeros(total, 1, VECTORS)
        for part in range(parts.shape[0]):
            value = value + read(source, part * total.size + at, count)
        write(value, target, at, count)


@kernel(parallel=True)
def channel_sums(x, sums, queue, thread):
    """``sums (C,)`` of ``x (pixels, C)``. A task sums one panel of channels, in blocks of pixels, so that rounding errors stay small."""
    pixels, channels = x.shape
    while True:
        channel = next_task(queue, thread, -(-channels // WIDTH)) * WIDTH
        if channel >= channels:
            break
        count = min(WIDTH, channels - channel)
        total = zeros(x, 1, VECTORS)
        for start in range(0, pixels, SUM_BLOCK):
            block = zeros(x, 1, VECTORS)
            for pixel in range(start, min(pixels, start + SUM_BLOCK)):
                block = block + read(x, pixel * channels + channel, count)
            total = total + block
        write(total, sums, channel, count)


@kernel
def fold_bias(bias, scale, shift, folded):
    """``folded = bias * scale + shift``."""
    for c in range(folded.size):
        folded[c] = bias[c] * scale[c] + shift[c]
