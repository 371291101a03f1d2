"""Pooling, forward and backward: max, average and Lp over any windows.

All kernels take dense arrays ``(N, D, H, W, C)``, with ones in front where there are fewer axes; ``x`` and ``y`` of a forward pass may have
gaps between their pixels. Which input pixels a window holds comes in tables, so that sliding, adaptive and global pooling are the same
code:

``windows[axis, place]``  ``(start, taps, step)``: the pixels ``start + step * (0, 1, ... taps - 1)`` along that axis, clipped to the
                          input;
``covers[axis, pixel]``   ``(first, places)``: the places, from the first on, whose windows may hold that pixel; for average and Lp, whose
                          backward passes add up all of these, they do hold it: windows have step 1;
``shares[axis, place]``   1 / what the window counts as in an average (padding may count). Shares of the axes are multiplied.

A task is a stretch of one row, and a span of channels, of the array that is written: every element is written by one
task, and backward gathers from all windows that hold a pixel instead of scattering, unless each pixel is in one window.

Channels that do not fill a vector are read and written as whole vectors where the array goes on (:func:`_behind`) and where what is too
much is the place of pixels that the same task writes next (:func:`_room`): cut accesses cost several times as much.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from .. import elementary  # noqa: F401  (teaches math.exp and math.log to take tiles)
from ..simd import LANES, splat, square_root, stride, where, zeros
from .channels import VECTORS, WIDTH, access, read, write
from .jit import inline, kernel
from .tasks import next_task

STRETCH = 32  # pixels of a row in one task
TWO_BY_TWO = 1, 2, 2  # taps of the windows that most networks have
FEW = 64  # with fewer stretches than this, channels are split finely


@inline
def _partition(shape):
    """Stretches per row, channels per span, spans, and the number of tasks that fill an array of ``shape``."""
    samples, depth, height, width, channels = shape
    stretches = (width + STRETCH - 1) // STRETCH
    lines = samples * depth * height * stretches
    span = 2 * WIDTH if lines < FEW else 8 * WIDTH
    spans = (channels + span - 1) // span
    return stretches, span, spans, lines * spans


@inline
def _place(task, shape, stretches, span, spans):
    """Sample, slice, row, first and last pixel, first and last channel of a task."""
    _, depth, height, width, channels = shape
    line, part = divmod(task, spans)
    line, stretch = divmod(line, stretches)
    line, h = divmod(line, height)
    n, d = divmod(line, depth)
    first, channel = stretch * STRETCH, part * span
    return n, d, h, first, min(first + STRETCH, width), channel, min(channel + span, channels)


@inline
def _lines(windows, d, h, strides):
    """What all windows of a row of places have in common: offset of their first line in a sample; taps and steps along depth and height.
    Looked up once per row: tables are read again after each store, which might have changed them for all that LLVM knows."""
    first = windows[0, d, 0] * strides[0] + windows[1, h, 0] * strides[1]
    return first, windows[0, d, 1], windows[1, h, 1], windows[0, d, 2] * strides[0], windows[1, h, 2] * strides[1]


@inline
def _window(windows, lines, w, strides):
    """Offset of a window's first tap in its sample; taps along each axis, and the way between them. ``strides`` are the ways between
    neighbours along each axis."""
    taps = lines[1], lines[2], windows[2, w, 1]
    steps = lines[3], lines[4], windows[2, w, 2] * strides[2]
    return lines[0] + windows[2, w, 0] * strides[2], taps, steps


@inline
def _next(near, row, column, taps, steps):
    """Offset of a window's next tap, and how many rows of the slice and taps of the row are to come. One loop over all taps begins sooner
    than one within another within a third, which small windows spend most of their time on."""
    near += steps[2]
    column -= 1
    if column == 0:
        near += steps[1] - taps[2] * steps[2]
        column = taps[2]
        row -= 1
        if row == 0:
            near += steps[0] - taps[1] * steps[1]
            row = taps[1]
    return near, row, column


@inline
def _in_elements(x):
    return stride(x, 1), stride(x, 2), stride(x, 3)


@inline
def _pixel(y, n, d, h, w):
    """Offset of a pixel in elements."""
    return n * stride(y, 0) + d * stride(y, 1) + h * stride(y, 2) + w * stride(y, 3)


@inline
def _behind(x):
    """Offset behind an array's last element: what lies before it may be read, though it may be no channel of a pixel."""
    samples, depth, height, width, channels = x.shape
    return _pixel(x, samples - 1, depth - 1, height - 1, width - 1) + channels


@inline
def _room(count, pixels, y, span):
    """Elements that may be written where ``count`` channels of a pixel belong, ``pixels`` of a line from this one on being written by the
    task in their order: all of them, where all channels are in one span of a task and nothing lies between pixels."""
    channels = y.shape[4]
    return count + (pixels - 1) * channels if span >= channels and stride(y, 3) == channels else count


@inline
def _cover(covers, d, h, w, shape):
    """Offset in places of the first window that may hold a pixel; windows along each axis, and places between them."""
    _, _, height, width, _ = shape
    first = (covers[0, d, 0] * height + covers[1, h, 0]) * width + covers[2, w, 0]
    return first, (covers[0, d, 1], covers[1, h, 1], covers[2, w, 1]), (height * width, width, 1)


# Max -----------------------------------------------------------------------------------------------------------------


@functools.cache
def _window_max(vectors):
    """The function that writes the maxima of a window, of at most so many vectors of channels."""
    read, write = access(vectors)

    @inline
    def maximum(x, end, at, taps, steps, y, to, room):
        best = splat(x, -np.inf, 1, vectors)
        near, row, column = at, taps[1], taps[2]
        for _ in range(taps[0] * taps[1] * taps[2]):
            best = max(read(x, near, end - near), best)
            near, row, column = _next(near, row, column, taps, steps)
        write(best, y, to, room)

    return maximum


_wide_max, _max, _narrow_max = _window_max(2 * VECTORS), _window_max(VECTORS), _window_max(1)


@inline
def _pixel_max(x, end, at, taps, steps, y, to, count, room):
    """``count`` channels of a pixel. Wide tiles have as many maxima under way as it takes to wait for none."""
    done = 0
    while done + 2 * WIDTH <= count:
        _wide_max(x, end, at + done, taps, steps, y, to + done, 2 * WIDTH)
        done += 2 * WIDTH
    while done + LANES < count:
        _max(x, end, at + done, taps, steps, y, to + done, room - done)
        done += WIDTH
    if done < count:
        _narrow_max(x, end, at + done, taps, steps, y, to + done, room - done)


@functools.cache
def _window_argmax(vectors):
    """The function that writes the maxima of a window, of at most so many vectors of channels, and the number of the tap where each was
    first met. What is not a number beats every number, and the last of them counts, as in PyTorch."""
    read, write = access(vectors)

    @inline
    def met(best, chosen, value, tap):
        better = (value > best) | (value != value)  # noqa: PLR0124 (true of what is not a number)
        return where(better, value, best), where(better, tap, chosen)

    @inline
    def maximum(x, end, at, taps, steps, y, to, room, argmax, place, places):
        best, chosen = splat(x, -np.inf, 1, vectors), splat(argmax, 0, 1, vectors)
        if taps == TWO_BY_TWO:  # without a loop, in half the time
            second, third = at + steps[2], at + steps[1]
            fourth = third + steps[2]
            best = read(x, at, end - at)
            best, chosen = met(best, chosen, read(x, second, end - second), 1)
            best, chosen = met(best, chosen, read(x, third, end - third), 2)
            best, chosen = met(best, chosen, read(x, fourth, end - fourth), 3)
        else:
            near, row, column = at, taps[1], taps[2]
            for tap in range(taps[0] * taps[1] * taps[2]):
                best, chosen = met(best, chosen, read(x, near, end - near), tap)
                near, row, column = _next(near, row, column, taps, steps)
        write(best, y, to, room)
        write(chosen, argmax, place, places)

    return maximum


_argmax, _narrow_argmax = _window_argmax(VECTORS), _window_argmax(1)


@kernel(parallel=True, views=("x", "y"))
def max_forward(x, y, argmax, windows, queue, thread):
    """``y`` = maximum of each window; ``argmax`` (whole numbers, as ``y``, or of size 0 where it is not wanted) = the number of the
    window's tap that it came from, the last axis being counted first."""
    stretches, span, spans, tasks = _partition(y.shape)
    _, depth, height, width, channels = y.shape
    behind = _behind(x)
    while True:
        task = next_task(queue, thread, tasks)
        if task >= tasks:
            break
        n, d, h, first, last, channel, end = _place(task, y.shape, stretches, span, spans)
        row = ((n * depth + d) * height + h) * width
        lines = _lines(windows, d, h, _in_elements(x))
        for w in range(first, last):
            tap, taps, steps = _window(windows, lines, w, _in_elements(x))
            at, to = n * stride(x, 0) + tap, _pixel(y, n, d, h, w)
            if argmax.size == 0:
                room = _room(end - channel, last - w, y, span)
                _pixel_max(x, behind, at + channel, taps, steps, y, to + channel, end - channel, room)
                continue
            place = (row + w) * channels
            for c in range(channel, end, WIDTH):
                room, places = _room(end - c, last - w, y, span), _room(end - c, last - w, argmax, span)
                if end - c > LANES:
                    _argmax(x, behind, at + c, taps, steps, y, to + c, room, argmax, place + c, places)
                else:
                    _narrow_argmax(x, behind, at + c, taps, steps, y, to + c, room, argmax, place + c, places)


@inline
def _tap_of(windows, axis, place, pixel):
    """The tap with which a window meets a pixel along an axis, or -1."""
    tap, step = pixel - windows[axis, place, 0], windows[axis, place, 2]
    if step > 1:
        if tap % step:
            return -1
        tap //= step
    return tap if tap < windows[axis, place, 1] else -1


@functools.cache
def _gather(vectors):
    """The function that writes the gradient of a pixel, of at most so many vectors of channels."""
    read, write = access(vectors)

    @inline
    def gather(dy, argmax, at, windows, covers, d, h, w, dx, to, room):
        _, _, height, width, channels = dy.shape
        sums = zeros(dx, 1, vectors)
        for i in range(covers[0, d, 0], covers[0, d, 0] + covers[0, d, 1]):
            tap_d = _tap_of(windows, 0, i, d)
            for j in range(covers[1, h, 0], covers[1, h, 0] + covers[1, h, 1]):
                tap_h = _tap_of(windows, 1, j, h)
                for k in range(covers[2, w, 0], covers[2, w, 0] + covers[2, w, 1]):
                    tap_w = _tap_of(windows, 2, k, w)
                    if min(tap_d, tap_h, tap_w) < 0:
                        continue
                    tap = (tap_d * windows[1, j, 1] + tap_h) * windows[2, k, 1] + tap_w
                    near = at + ((i * height + j) * width + k) * channels
                    sums = sums + where(read(argmax, near, dy.size - near) == tap, read(dy, near, dy.size - near), 0.0)
        write(sums, dx, to, room)

    return gather


_gather_panel, _gather_vector = _gather(VECTORS), _gather(1)


@kernel(parallel=True)
def max_backward(dy, argmax, dx, windows, covers, queue, thread):
    """``dx`` = sum of ``dy`` over the windows whose maximum the pixel is."""
    stretches, span, spans, tasks = _partition(dx.shape)
    _, depth, height, width, channels = dx.shape
    _, places_d, places_h, places_w, _ = dy.shape
    while True:
        task = next_task(queue, thread, tasks)
        if task >= tasks:
            break
        n, d, h, first, last, channel, end = _place(task, dx.shape, stretches, span, spans)
        sample = n * places_d * places_h * places_w * channels
        row = ((n * depth + d) * height + h) * width
        for w in range(first, last):
            to = (row + w) * channels
            for c in range(channel, end, WIDTH):
                room = _room(end - c, last - w, dx, span)
                if end - c > LANES:
                    _gather_panel(dy, argmax, sample + c, windows, covers, d, h, w, dx, to + c, room)
                else:
                    _gather_vector(dy, argmax, sample + c, windows, covers, d, h, w, dx, to + c, room)


@functools.cache
def _scatter(vectors):
    """The function that writes the gradients of a window's pixels, of at most so many vectors of channels; ``room`` for the first one of
    each line, ``used`` by each."""
    read, write = access(vectors)

    @inline
    def scatter(dy, argmax, at, dx, to, taps, steps, room, used):
        chosen, gradient = read(argmax, at, dy.size - at), read(dy, at, dy.size - at)
        if taps == TWO_BY_TWO:
            below = to + steps[1]
            write(where(chosen == 0, gradient, 0.0), dx, to, room)
            write(where(chosen == 1, gradient, 0.0), dx, to + steps[2], room - used)
            write(where(chosen == 2, gradient, 0.0), dx, below, room)
            write(where(chosen == 3, gradient, 0.0), dx, below + steps[2], room - used)
            return
        near, row, column = to, taps[1], taps[2]
        for tap in range(taps[0] * taps[1] * taps[2]):
            write(where(chosen == tap, gradient, 0.0), dx, near, room - (taps[2] - column) * used)
            near, row, column = _next(near, row, column, taps, steps)

    return scatter


_scatter_panel, _scatter_vector = _scatter(VECTORS), _scatter(1)


@kernel(parallel=True)
def max_backward_apart(dy, argmax, dx, windows, queue, thread):
    """:func:`max_backward` where each pixel is in exactly one window: what is written is read once."""
    stretches, span, spans, tasks = _partition(dy.shape)
    _, depth, height, width, channels = dy.shape
    while True:
        task = next_task(queue, thread, tasks)
        if task >= tasks:
            break
        n, d, h, first, last, channel, end = _place(task, dy.shape, stretches, span, spans)
        row = ((n * depth + d) * height + h) * width
        line_end = min(windows[2, last - 1, 0] + windows[2, last - 1, 1], dx.shape[3])
        lines = _lines(windows, d, h, _in_elements(dx))
        for w in range(first, last):
            tap, taps, steps = _window(windows, lines, w, _in_elements(dx))
            at, to = (row + w) * channels, n * stride(dx, 0) + tap
            pixels = line_end - windows[2, w, 0] if windows[2, w, 2] == 1 else 1
            for c in range(channel, end, WIDTH):
                count = end - c
                room = _room(count, pixels if c == 0 else 1, dx, span)  # later panels follow on the first one of the next pixels
                used = channels if room > count else 0
                if count > LANES:
                    _scatter_panel(dy, argmax, at + c, dx, to + c, taps, steps, room, used)
                else:
                    _scatter_vector(dy, argmax, at + c, dx, to + c, taps, steps, room, used)


# Average -------------------------------------------------------------------------------------------------------------


@inline
def _window_sum(x, at, taps, steps, count):
    """Sum over a window, line by line: rounding errors grow with its side, not with its area."""
    total = zeros(x, 1, VECTORS)
    for i in range(taps[0]):
        for j in range(taps[1]):
            near = at + i * steps[0] + j * steps[1]
            line = zeros(x, 1, VECTORS)
            for _k in range(taps[2]):
                line = line + read(x, near, count)
                near += steps[2]
            total = total + line
    return total


@kernel(parallel=True, views=("x", "y"))
def average_forward(x, y, windows, shares, queue, thread):
    """``y`` = sum of each window times its share."""
    stretches, span, spans, tasks = _partition(y.shape)
    channels = y.shape[4]
    while True:
        task = next_task(queue, thread, tasks)
        if task >= tasks:
            break
        n, d, h, first, last, channel, end = _place(task, y.shape, stretches, span, spans)
        lines = _lines(windows, d, h, _in_elements(x))
        for w in range(first, last):
            tap, taps, steps = _window(windows, lines, w, _in_elements(x))
            share = shares[0, d] * shares[1, h] * shares[2, w]
            for c in range(channel, end, WIDTH):
                total = _window_sum(x, n * stride(x, 0) + tap + c, taps, steps, channels - c)
                write(total * share, y, _pixel(y, n, d, h, w) + c, channels - c)


@inline
def _shared(dy, at, count, covers, shares, d, h, w):
    """Sum of ``dy`` times share over the windows that hold a pixel, the first of which is at ``at``."""
    _, places, steps = _cover(covers, d, h, w, dy.shape)
    first_d, first_h, first_w = covers[0, d, 0], covers[1, h, 0], covers[2, w, 0]
    sums = zeros(dy, 1, VECTORS)
    for i in range(places[0]):
        for j in range(places[1]):
            near = at + (i * steps[0] + j * steps[1]) * dy.shape[4]
            plane = shares[0, first_d + i] * shares[1, first_h + j]
            for k in range(places[2]):
                sums = sums + read(dy, near, count) * (plane * shares[2, first_w + k])
                near += dy.shape[4]
    return sums


@functools.cache
def _passing_on(vectors):
    """The function that passes on the gradient of the only window that holds a pixel, of at most so many vectors of channels."""
    read, write = access(vectors)

    @inline
    def pass_on(dy, at, share, dx, to, count, adds):
        value = read(dy, at, count) * share
        write(value + read(dx, to, count) if adds else value, dx, to, count)

    return pass_on


_wide_pass_on, _pass_on = _passing_on(2 * VECTORS), _passing_on(VECTORS)


@inline
def _pixel_pass_on(dy, at, share, dx, to, count, adds):
    """``count`` channels of a pixel."""
    done = 0
    while done + 2 * WIDTH <= count:
        _wide_pass_on(dy, at + done, share, dx, to + done, 2 * WIDTH, adds)
        done += 2 * WIDTH
    while done < count:
        _pass_on(dy, at + done, share, dx, to + done, count - done, adds)
        done += WIDTH


@kernel(parallel=True)
def average_backward(dy, dx, adds, covers, shares, queue, thread):
    """``dx`` = sum of ``dy`` times share over the windows that hold the pixel, or that more where ``adds``."""
    stretches, span, spans, tasks = _partition(dx.shape)
    _, depth, height, width, channels = dx.shape
    _, places_d, places_h, places_w, _ = dy.shape
    while True:
        task = next_task(queue, thread, tasks)
        if task >= tasks:
            break
        n, d, h, first, last, channel, end = _place(task, dx.shape, stretches, span, spans)
        pixels, sample = ((n * depth + d) * height + h) * width, n * places_d * places_h * places_w
        for w in range(first, last):
            place, places, _steps = _cover(covers, d, h, w, dy.shape)
            at, to = (sample + place) * channels, (pixels + w) * channels
            if places[0] * places[1] * places[2] == 1:
                share = shares[0, covers[0, d, 0]] * shares[1, covers[1, h, 0]] * shares[2, covers[2, w, 0]]
                _pixel_pass_on(dy, at + channel, share, dx, to + channel, end - channel, adds)
                continue
            for c in range(channel, end, WIDTH):
                sums = _shared(dy, at + c, channels - c, covers, shares, d, h, w)
                write(sums + read(dx, to + c, channels - c) if adds else sums, dx, to + c, channels - c)


# Lp ------------------------------------------------------------------------------------------------------------------


@inline
def _power(value, exponent):
    """``value ** exponent`` of values that are not negative."""
    if exponent == 1.0:
        return value
    if exponent == 2.0:
        return value * value
    if exponent == 0.5:
        return square_root(value)
    return math.exp(exponent * math.log(value))


@inline
def _ratio_power(ratio, p):
    if p == 1.0:
        return ratio * 0.0 + 1.0
    return _power(ratio, p - 1.0)


@kernel(parallel=True, views=("x", "y"))
def lp_forward(x, y, windows, p, queue, thread):
    """``y`` = (sum of ``|x| ** p`` over each window) ** (1 / p)."""
    stretches, span, spans, tasks = _partition(y.shape)
    channels = y.shape[4]
    while True:
        task = next_task(queue, thread, tasks)
        if task >= tasks:
            break
        n, d, h, first, last, channel, end = _place(task, y.shape, stretches, span, spans)
        lines = _lines(windows, d, h, _in_elements(x))
        for w in range(first, last):
            tap, taps, steps = _window(windows, lines, w, _in_elements(x))
            for c in range(channel, end, WIDTH):
                at, count = n * stride(x, 0) + tap + c, channels - c
                sums = zeros(x, 1, VECTORS)
                for i in range(taps[0]):
                    for j in range(taps[1]):
                        near = at + i * steps[0] + j * steps[1]
                        for _k in range(taps[2]):
                            sums = sums + _power(abs(read(x, near, count)), p)
                            near += steps[2]
                write(_power(sums, 1.0 / p), y, _pixel(y, n, d, h, w) + c, count)


@kernel(parallel=True)
def lp_backward(x, y, dy, dx, covers, p, queue, thread):
    """``dx`` = sum of ``dy * sign(x) * (|x| / y) ** (p - 1)`` over the windows that hold the pixel; 0 where ``x`` is 0."""
    stretches, span, spans, tasks = _partition(dx.shape)
    _, depth, height, width, channels = dx.shape
    _, places_d, places_h, places_w, _ = dy.shape
    while True:
        task = next_task(queue, thread, tasks)
        if task >= tasks:
            break
        n, d, h, first, last, channel, end = _place(task, dx.shape, stretches, span, spans)
        pixels, sample = ((n * depth + d) * height + h) * width, n * places_d * places_h * places_w
        for w in range(first, last):
            place, places, steps = _cover(covers, d, h, w, dy.shape)
            for c in range(channel, end, WIDTH):
                at, to, count = (sample + place) * channels + c, (pixels + w) * channels + c, channels - c
                value = read(x, to, count)
                size = where(value == 0.0, 1.0, abs(value))
                sums = zeros(dx, 1, VECTORS)
                for i in range(places[0]):
                    for j in range(places[1]):
                        near = at + (i * steps[0] + j * steps[1]) * channels
                        for _k in range(places[2]):
                            norm = read(y, near, count)
                            ratio = size / where(norm == 0.0, 1.0, norm)
                            sums = sums + read(dy, near, count) * _ratio_power(ratio, p)
                            near += channels
                slope = where(value > 0.0, sums, where(value < 0.0, -sums, where(value == 0.0, 0.0, value)))
                write(slope, dx, to, count)
