"""Weight gradient of convolutions whose groups have no more output channels than one vector, or than two and few weights, or few input
channels.

All that a few lines of output need of ``x`` and ``dy`` is copied to scratch once and meets all kernel lines there, in tiles that are as
wide as the output channels, or a panel of them. There are few weights, so a task has sums of all of them over its part of the output: parts
follow from the shape, and :func:`numbacnn.kernels.conv.direct.add_parts` adds them up.
"""

from __future__ import annotations

import functools

from ...simd import LANES, load, store, zeros
from ..channels import access
from ..jit import inline, kernel
from ..tasks import next_task
from .direct import pack_line
from .tiles import CORRELATIONS, inside


@functools.cache
def narrow_weight_gradient(vectors):
    """The kernel ``narrow_weight_gradient`` for tiles of so many vectors of output channels."""
    correlate, (_, write), lanes = CORRELATIONS[vectors], access(vectors), vectors * LANES

    @inline
    def add_kernel_line(
        own, at, line_step, pixel_step, further, taps, count, sums, sums_at, gradients, dy_at, outputs, lines, columns, heights
    ):  # fmt: skip
        """Add what ``taps`` times ``count`` weights get from ``lines x columns`` pixels to ``sums[sums_at:]``; ``further``: between inputs
        of neighbouring taps."""
        dense = further == count
        for tap in range(1 if dense else taps):
            span = count * taps if dense else count
            done = 0
            while done < span:
                rows = heights[span - done]
                correlate(
                    rows, False, sums, sums_at + (tap * count + done) * lanes, lanes,
                    own, at + tap * further + done, line_step, pixel_step, gradients, dy_at, outputs, lines, columns,
                )  # fmt: skip
                done += rows

    @kernel(parallel=True, views=("x", "dy"))
    def narrow_weight_gradient(
        x, dy, parts, heights, groups, geometry, block_rows, block_columns, block_channels, scratch, queue, thread
    ):  # fmt: skip
        """``parts (P, taps, C / groups, CO)``, whose sum is ``dw`` as of :func:`numbacnn.kernels.conv.direct.weight_gradient`; the first
        one is made of the first ``1 / P`` of the blocks of ``block_rows x block_columns`` pixels, and so on.

        A task owns, of one part, the weights of one slice of the kernel, of one block of input channels, and of one panel of output
        channels.
        """
        strides, padding, dilation, extent = geometry[0], geometry[1], geometry[2], geometry[3]
        planes, height, width, all_outputs = dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4] // groups
        channels = x.shape[4] // groups
        channel_tasks, panel_tasks = -(-channels // block_channels), -(-all_outputs // lanes)
        tasks = parts.shape[0] * groups * extent[0] * channel_tasks * panel_tasks
        row_blocks, column_blocks = -(-height // block_rows), -(-width // block_columns)
        blocks = dy.shape[0] * planes * row_blocks * column_blocks
        lines = (block_rows - 1) * strides[1] + (extent[1] - 1) * dilation[1] + 1
        columns = (block_columns - 1) * strides[2] + (extent[2] - 1) * dilation[2] + 1
        dy_at = lines * columns * block_channels
        sums_at = dy_at + block_rows * block_columns * min(lanes, all_outputs)
        taps = extent[1] * extent[2]
        flat = parts.reshape(-1)
        own = scratch[thread]
        gradients, sums = own[dy_at:], own[sums_at:]
        while True:
            task = next_task(queue, thread, tasks)
            if task >= tasks:
                break
            rest, panel = divmod(task, panel_tasks)
            rest, channel_task = divmod(rest, channel_tasks)
            rest, kd = divmod(rest, extent[0])
            part, group = divmod(rest, groups)
            channel = channel_task * block_channels
            count = min(block_channels, channels - channel)
            out_channel = group * all_outputs + panel * lanes
            outputs = min(lanes, all_outputs - panel * lanes)
            line_step = columns * count
            for k in range(taps * count):
                store(zeros(sums, 1, vectors), sums, k * lanes, 0)
            for block in range(part * blocks // parts.shape[0], (part + 1) * blocks // parts.shape[0]):
                rest, column_block = divmod(block, column_blocks)
                rest, row_block = divmod(rest, row_blocks)
                n, plane = divmod(rest, planes)
                row, column = row_block * block_rows, column_block * block_columns
                rows, across = min(block_rows, height - row), min(block_columns, width - column)
                x_plane = plane * strides[0] - padding[0] + kd * dilation[0]
                if not 0 <= x_plane < x.shape[1]:
                    continue
                x_row = row * strides[1] - padding[1]
                for line in range((rows - 1) * strides[1] + (extent[1] - 1) * dilation[1] + 1):
                    pack_line(
                        x, n, x_plane, x_row + line, column * strides[2] - padding[2], columns, group * channels + channel, count,
                        own, line * line_step,
                    )  # fmt: skip
                for r in range(rows):
                    pack_line(dy, n, plane, row + r, column, across, out_channel, outputs, gradients, r * across * outputs)
                for kh in range(extent[1]):
                    first, last = inside(x_row + kh * dilation[1], strides[1], rows, x.shape[2])
                    if first < last:
                        add_kernel_line(
                            own, (first * strides[1] + kh * dilation[1]) * line_step, line_step * strides[1], strides[2] * count,
                            dilation[2] * count, extent[2], count, sums, kh * extent[2] * count * lanes,
                            gradients, first * across * outputs, outputs, last - first, across, heights,
                        )  # fmt: skip
            to = ((part * extent[0] + kd) * taps * channels + channel) * dy.shape[4] + out_channel
            for tap in range(taps):
                for c in range(count):
                    at = to + (tap * channels + c) * dy.shape[4]
                    write(load(sums, (tap * count + c) * lanes, 0, 1, vectors), flat, at, outputs)

    return narrow_weight_gradient
