"""Normalisation on the device, forward and backward (compare :mod:`numbacnn.kernels.norm`, whose formulas these are).

Batch, group and instance normalisation see arrays ``(samples, pixels, channels)``, with statistics of each sample and group of channels;
batch normalisation has one "sample". Layer normalisation sees rows.

A pass with sums leaves partial sums of chunks of the pixels, and a small kernel puts them together in float64: the order of addition
follows from the shapes. Statistics of a chunk are sums about a shift that is not far from its mean, so that a large mean costs no digits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from .. import activations
from . import scalar
from .blocks import BLOCKS, UNROLL, cut_for_elements, cut_for_sums, place, quotient
from .driver import cuda, device_function, float32, float64, int32
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray
from .reduce import MERGE_LANES, add_rows, column_sum, team_for, team_sum

SHIFT_PIXELS = 4  # of each row of threads: their mean is the shift
GROUP_LANES = 32  # channels of a group that are merged side by side
MERGE_ROWS = THREADS // MERGE_LANES

Followed = tuple[Any, ...]
"""What follows a normalisation: ``(None,)`` or ``(function, derivative, gradient from the output)``."""


# Statistics ----------------------------------------------------------------------------------------------------------


@kernel
def _partial_statistics(x, partials, plane, pixels, channels, lanes, rows, slices, chunk, chunks):
    sums = cuda.shared.array(THREADS, float32)
    v = cuda.local.array(UNROLL, float32)
    thread = int32(cuda.threadIdx.x)
    sample, part, row, channel = place(channels, lanes, slices, chunks)
    first = int32(part * chunk)
    stop = int32(min(pixels, first + chunk))
    p = int32(first + row) if row < rows and channel < channels else stop
    at, step = int32((sample * pixels + p) * channels + channel), int32(rows * channels)
    found = float32(0)
    for k in range(SHIFT_PIXELS):
        if p + k * rows < stop:
            found += x[at + k * step]
    shift = column_sum(sums, thread, row, rows, lanes, found) / float32(min(stop - first, SHIFT_PIXELS * rows))
    plain, squares = float32(0), float32(0)
    while p + (UNROLL - 1) * rows < stop:
        for k in range(UNROLL):
            v[k] = x[at + k * step]
        for k in range(UNROLL):
            d = v[k] - shift
            plain += d
            squares += d * d
        p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
    while p < stop:
        d = x[at] - shift
        plain += d
        squares += d * d
        p, at = int32(p + rows), int32(at + step)
    plain = column_sum(sums, thread, row, rows, lanes, plain)
    squares = column_sum(sums, thread, row, rows, lanes, squares)
    if row == 0 and channel < channels:
        to = int32((sample * chunks + part) * channels + channel)
        partials[to] = shift
        partials[plane + to] = plain
        partials[2 * plane + to] = squares


def partial_statistics(x: DeviceArray, partials: DeviceArray) -> None:
    """``partials[:, n, k, c]`` = shift, sum of ``x - shift`` and sum of ``(x - shift) ** 2`` of chunk ``k`` of ``x``
    ``(samples, pixels, channels)``; how many chunks there are, :func:`statistics_shape` says."""
    cut = cut_for_sums(*x.shape)
    _partial_statistics(cut.blocks, x, partials, partials.size // 3, *cut.sizes)


def statistics_shape(samples: int, pixels: int, channels: int) -> tuple[int, int, int, int]:
    """Shape of the partial sums of :func:`partial_statistics`; those of :func:`partial_gradients` are the first two thirds."""
    return 3, samples, cut_for_sums(samples, pixels, channels).chunks, channels


@device_function
def _tile_place(lanes, members, width, span, tiles):
    """Of a block that merges some groups of channels: ``(sample, first channel, row, lane, lane where the thread's group begins)``."""
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    sample, row = quotient(block, tiles), quotient(thread, lanes)
    lane = int32(thread - row * lanes)
    return sample, int32((block - sample * tiles) * span), row, lane, int32(quotient(lane, members) * members)


@device_function
def _lane_total(sums, thread, row, rows, lanes, begin, members, value):
    """The sum over the rows of ``members`` lanes from ``begin`` on."""
    add_rows(sums, thread, row, rows, lanes, value)
    found = float64(0)
    for k in range(members):
        found += sums[begin + k]
    cuda.syncthreads()
    return found


@kernel
def _merge_statistics(
    partials, plane, pixels, channels, chunk, chunks, width, lanes, rows, members, span, tiles,
    epsilon, mean, rstd, moves, momentum, running_mean, running_var,
):  # fmt: skip
    """A block puts together the groups of ``span`` channels. Sums go about a pivot, the group's first shift."""
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    sample, first, row, lane, begin = _tile_place(lanes, members, width, span, tiles)
    last = int32(min(first + span, channels))
    start = int32(sample * chunks * channels)
    pivot = float64(partials[start + min(first + begin, channels - 1)])
    plain, squares = float64(0), float64(0)
    if row < rows:
        channel = int32(first + lane)
        while channel < last:
            part = row
            while part < chunks:
                at = int32(start + part * channels + channel)
                count = float64(min(chunk, pixels - part * chunk))
                distance, rest = float64(partials[at]) - pivot, float64(partials[plane + at])
                plain += count * distance + rest
                squares += float64(partials[2 * plane + at]) + distance * (count * distance + rest + rest)
                part = int32(part + rows)
            channel = int32(channel + lanes)
    count = float64(pixels) * float64(width)
    distance = _lane_total(sums, thread, row, rows, lanes, begin, members, plain) / count
    squares = max(_lane_total(sums, thread, row, rows, lanes, begin, members, squares) - distance * distance * count, float64(0))
    if row == 0:
        channel = int32(first + lane)
        average, factor = float32(pivot + distance), float32(float64(1) / math.sqrt(squares / count + float64(epsilon)))
        while channel < last:
            mean[sample * channels + channel] = average
            rstd[sample * channels + channel] = factor
            if moves:
                weight = float64(momentum)
                rest = float64(1) - weight
                running_mean[channel] = float32(rest * float64(running_mean[channel]) + weight * (pivot + distance))
                running_var[channel] = float32(rest * float64(running_var[channel]) + weight * (squares / (count - float64(1))))
            channel = int32(channel + lanes)


@functools.cache
def _tile(channels: int, groups: int) -> tuple[int, tuple[int, ...]]:
    """Blocks for each sample, and ``(width, lanes, rows, members, span, tiles)`` for merging: a block has several groups of few channels
    side by side, or walks along those of a large one."""
    width = channels // groups
    lanes = MERGE_LANES // width * width if width <= MERGE_LANES else min(width, GROUP_LANES)
    span = max(lanes, width)
    tiles = -(-channels // span)
    return tiles, (width, lanes, THREADS // lanes, min(width, lanes), span, tiles)


def merge_statistics(
    partials: DeviceArray, pixels: int, groups: int, epsilon: float, mean: DeviceArray, rstd: DeviceArray,
    momentum: float = 0.0, running: tuple[DeviceArray, DeviceArray] | None = None,
) -> None:  # fmt: skip
    """``mean`` and ``rstd`` (1 / sqrt(variance + epsilon)), both ``(samples, channels)``, from the partial sums. ``running`` mean and
    variance, if given (then there are one sample and a group for each channel), move towards the mean and the unbiased variance:
    ``(1 - momentum) * old + momentum * new``."""
    _, samples, _, channels = partials.shape
    cut, (tiles, tile) = cut_for_sums(samples, pixels, channels), _tile(channels, groups)
    _merge_statistics(
        samples * tiles, partials, partials.size // 3, pixels, channels, cut.chunk, cut.chunks, *tile,
        float(epsilon), mean, rstd, running is not None, float(momentum), *(running or (mean, rstd)),
    )  # fmt: skip


@kernel
def _running_rstd(running_var, epsilon, rstd, channels):
    at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
    if at < channels:
        rstd[at] = float32(float64(1) / math.sqrt(float64(running_var[at]) + float64(epsilon)))


def running_rstd(running_var: DeviceArray, epsilon: float, rstd: DeviceArray) -> None:
    """``rstd = 1 / sqrt(running_var + epsilon)``."""
    _running_rstd(blocks_for(rstd.size), running_var, float(epsilon), rstd, rstd.size)


# Forward -------------------------------------------------------------------------------------------------------------


@functools.cache
def _normalise(function: Callable | None, residual: bool) -> Kernel:
    finish = _same if function is None else scalar.compiled(function)

    @kernel
    def normalise(
        x, addend, y, mean, rstd, weight, scaled, bias, centered, pixels, channels, lanes, rows, slices, chunk, chunks
    ):  # fmt: skip
        v = cuda.local.array(UNROLL, float32)
        more = cuda.local.array(UNROLL, float32)
        sample, part, row, channel = place(channels, lanes, slices, chunks)
        if row < rows and channel < channels:
            average, factor = mean[sample * channels + channel], rstd[sample * channels + channel]
            if scaled:
                factor *= weight[channel]
            offset = bias[channel] if centered else float32(0)
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32((sample * pixels + p) * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    v[k] = x[at + k * step]
                    if residual:
                        more[k] = addend[at + k * step]
                for k in range(UNROLL):
                    value = (v[k] - average) * factor + offset
                    if residual:
                        value += more[k]
                    y[at + k * step] = finish(value)
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                value = (x[at] - average) * factor + offset
                if residual:
                    value += addend[at]
                y[at] = finish(value)
                p, at = int32(p + rows), int32(at + step)

    return normalise


@device_function
def _same(x):
    return x


def _given(array: DeviceArray | None, instead: DeviceArray) -> tuple[DeviceArray, bool]:
    """A parameter for a kernel, and whether there is one."""
    return (instead, False) if array is None else (array, True)


def normalise(
    function: Callable | None, x: DeviceArray, addend: DeviceArray | None, y: DeviceArray, mean: DeviceArray, rstd: DeviceArray,
    weight: DeviceArray | None, bias: DeviceArray | None,
) -> None:  # fmt: skip
    """``y = function((x - mean) * rstd * weight + bias + addend)`` of ``x`` ``(samples, pixels, channels)``, with ``mean`` and ``rstd``
    ``(samples, channels)``, ``weight`` and ``bias`` ``(channels,)``; what is None is left out. ``y`` may be ``x`` or ``addend``."""
    cut = cut_for_elements(*x.shape)
    _normalise(function, addend is not None)(
        cut.blocks, x, x if addend is None else addend, y, mean, rstd, *_given(weight, mean), *_given(bias, mean), *cut.sizes
    )


# Backward ------------------------------------------------------------------------------------------------------------


@functools.cache
def _before(function: Callable | None, derivative: Callable | None = None, gradient: Callable | None = None) -> Callable:
    """The device function ``(dy, z)``: the gradient of ``z`` from that of ``function(z)``, by ``gradient`` of ``dy`` and the result (or
    ``z`` itself where that serves as well), or by the ``derivative``, or by dual numbers."""
    if function is None:
        return _first
    if gradient is not None:
        f, from_output = _same if gradient in activations.OF_BOUNDS else scalar.compiled(function), scalar.compiled(gradient)

        @device_function
        def by_output(dy, z):
            return from_output(dy, f(z))

        return by_output
    slope = scalar.compiled(derivative) if derivative else scalar.derivative(function)

    @device_function
    def by_slope(dy, z):
        return dy * slope(z)

    return by_slope


@device_function
def _first(dy, z):
    return dy


@functools.cache
def _partial_gradients(followed: Followed, residual: bool, keeps: bool) -> Kernel:
    before = _before(*followed)

    @kernel
    def partial_gradients(
        x, addend, dy, dz, mean, rstd, weight, scaled, bias, centered, partials, plane,
        pixels, channels, lanes, rows, slices, chunk, chunks,
    ):  # fmt: skip
        sums = cuda.shared.array(THREADS, float32)
        v = cuda.local.array(UNROLL, float32)
        more = cuda.local.array(UNROLL, float32)
        given = cuda.local.array(UNROLL, float32)
        thread = int32(cuda.threadIdx.x)
        sample, part, row, channel = place(channels, lanes, slices, chunks)
        plain, weighted = float32(0), float32(0)
        if row < rows and channel < channels:
            average, factor = mean[sample * channels + channel], rstd[sample * channels + channel]
            if scaled:
                factor *= weight[channel]
            offset = bias[channel] if centered else float32(0)
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32((sample * pixels + p) * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    v[k] = x[at + k * step]
                    given[k] = dy[at + k * step]
                    if residual:
                        more[k] = addend[at + k * step]
                for k in range(UNROLL):
                    centred = v[k] - average
                    z = centred * factor + offset
                    if residual:
                        z += more[k]
                    d = before(given[k], z)
                    if keeps:
                        dz[at + k * step] = d
                    plain += d
                    weighted += d * centred
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                centred = x[at] - average
                z = centred * factor + offset
                if residual:
                    z += addend[at]
                d = before(dy[at], z)
                if keeps:
                    dz[at] = d
                plain += d
                weighted += d * centred
                p, at = int32(p + rows), int32(at + step)
        plain = column_sum(sums, thread, row, rows, lanes, plain)
        weighted = column_sum(sums, thread, row, rows, lanes, weighted)
        if row == 0 and channel < channels:
            to = int32((sample * chunks + part) * channels + channel)
            partials[to] = plain
            partials[plane + to] = weighted

    return partial_gradients


def partial_gradients(
    followed: Followed, x: DeviceArray, addend: DeviceArray | None, dy: DeviceArray, dz: DeviceArray | None, mean: DeviceArray,
    rstd: DeviceArray, weight: DeviceArray | None, bias: DeviceArray | None, partials: DeviceArray,
) -> None:  # fmt: skip
    """``partials[:, n, k, c]`` = sums of the gradient ``dz`` and of ``dz * (x - mean)`` over chunk ``k``, where ``dz`` is the gradient of
    what :func:`normalise` gave to its function, from ``dy``, that of the result. It is kept in ``dz`` unless that is None; ``dz`` may be
    ``dy``."""
    cut = cut_for_sums(*x.shape)
    _partial_gradients(followed, addend is not None, dz is not None)(
        cut.blocks, x, x if addend is None else addend, dy, dy if dz is None else dz, mean, rstd,
        *_given(weight, mean), *_given(bias, mean), partials, partials.size // 2, *cut.sizes,
    )  # fmt: skip


@kernel
def _merge_batch_slopes(
    partials, plane, pixels, channels, chunks, rstd, weight, scaled, slope, offset, dweight, weight_wanted, dbias, bias_wanted
):  # fmt: skip
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    row = quotient(thread, MERGE_LANES)
    channel = int32((int32(cuda.blockIdx.x) - row) * MERGE_LANES + thread)
    plain, weighted = float64(0), float64(0)
    if channel < channels:
        part = row
        while part < chunks:
            plain += float64(partials[part * channels + channel])
            weighted += float64(partials[plane + part * channels + channel])
            part = int32(part + MERGE_ROWS)
    plain = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), plain)
    weighted = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), weighted)
    if row == 0 and channel < channels:
        scale = float64(rstd[channel])
        factor = scale / float64(pixels)
        if scaled:
            factor *= float64(weight[channel])
        offset[channel] = float32(-factor * plain)
        slope[channel] = float32(-factor * scale * scale * weighted)
        if weight_wanted:
            dweight[channel] = float32(weighted * scale)
        if bias_wanted:
            dbias[channel] = float32(plain)


def merge_batch_slopes(
    partials: DeviceArray, pixels: int, rstd: DeviceArray, weight: DeviceArray | None, slope: DeviceArray, offset: DeviceArray,
    dweight: DeviceArray | None, dbias: DeviceArray | None,
) -> None:  # fmt: skip
    """What :func:`merge_slopes` and :func:`merge_gradients` find for one sample and a group for each channel, at once."""
    channels = partials.shape[-1]
    _merge_batch_slopes(
        blocks_for(channels, MERGE_LANES), partials, partials.size // 2, pixels, channels, partials.shape[2], rstd, *_given(weight, rstd),
        slope, offset, *_given(dweight, rstd), *_given(dbias, rstd),
    )  # fmt: skip


@kernel
def _merge_slopes(
    partials, plane, pixels, channels, chunks, width, lanes, rows, members, span, tiles, rstd, weight, scaled, slope, offset
):  # fmt: skip
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    sample, first, row, lane, begin = _tile_place(lanes, members, width, span, tiles)
    last = int32(min(first + span, channels))
    plain, weighted = float64(0), float64(0)
    if row < rows:
        channel = int32(first + lane)
        while channel < last:
            factor = float64(weight[channel]) if scaled else float64(1)
            part = row
            while part < chunks:
                at = int32((sample * chunks + part) * channels + channel)
                plain += factor * float64(partials[at])
                weighted += factor * float64(partials[plane + at])
                part = int32(part + rows)
            channel = int32(channel + lanes)
    plain = _lane_total(sums, thread, row, rows, lanes, begin, members, plain)
    weighted = _lane_total(sums, thread, row, rows, lanes, begin, members, weighted)
    if row == 0:
        channel = int32(first + lane)
        while channel < last:
            scale = float64(rstd[sample * channels + channel])
            factor = scale / (float64(pixels) * float64(width))
            offset[sample * channels + channel] = float32(-factor * plain)
            slope[sample * channels + channel] = float32(-factor * scale * scale * weighted)
            channel = int32(channel + lanes)


def merge_slopes(
    partials: DeviceArray, pixels: int, groups: int, rstd: DeviceArray, weight: DeviceArray | None, slope: DeviceArray, offset: DeviceArray
) -> None:
    """``slope`` and ``offset`` ``(samples, channels)``, with which ``dx = rstd * weight * dy + slope * (x - mean) + offset``, from the
    partial sums. With ``g = dy * weight`` and ``n = (x - mean) * rstd``, that is ``rstd * (g - average of g - n * average of g * n)``."""
    _, samples, chunks, channels = partials.shape
    tiles, tile = _tile(channels, groups)
    _merge_slopes(
        samples * tiles, partials, partials.size // 2, pixels, channels, chunks, *tile, rstd, *_given(weight, rstd), slope, offset
    )  # fmt: skip


@kernel
def _merge_gradients(partials, plane, samples, channels, chunks, rstd, by_rstd, dweight, weight_wanted, dbias, bias_wanted):
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    row = quotient(thread, MERGE_LANES)
    channel = int32((int32(cuda.blockIdx.x) - row) * MERGE_LANES + thread)
    plain, weighted = float64(0), float64(0)
    if channel < channels:
        part = row
        while part < samples * chunks:
            at = int32(part * channels + channel)
            factor = float64(rstd[quotient(part, chunks) * channels + channel]) if by_rstd else float64(1)
            plain += float64(partials[at])
            weighted += float64(partials[plane + at]) * factor
            part = int32(part + MERGE_ROWS)
    plain = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), plain)
    weighted = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), weighted)
    if row == 0 and channel < channels:
        if weight_wanted:
            dweight[channel] = float32(weighted)
        if bias_wanted:
            dbias[channel] = float32(plain)


def merge_gradients(partials: DeviceArray, rstd: DeviceArray | None, dweight: DeviceArray | None, dbias: DeviceArray | None) -> None:
    """``dweight`` and ``dbias``, where not None, from the partial sums ``(2, samples, chunks, channels)``, of which the second ones are
    multiplied by ``rstd`` ``(samples, channels)`` unless that is None."""
    _, samples, chunks, channels = partials.shape
    _merge_gradients(
        blocks_for(channels, MERGE_LANES), partials, partials.size // 2, samples, channels, chunks, *_given(rstd, partials),
        *_given(dweight, partials), *_given(dbias, partials),
    )  # fmt: skip


@functools.cache
def _normalise_backward(followed: Followed, fixed: bool) -> Kernel:
    before, reads_x = _before(*followed), not fixed or followed[0] is not None

    @kernel
    def normalise_backward(
        x, dy, dx, mean, rstd, weight, scaled, bias, centered, slope, offset, pixels, channels, lanes, rows, slices, chunk, chunks
    ):  # fmt: skip
        v = cuda.local.array(UNROLL, float32)
        given = cuda.local.array(UNROLL, float32)
        sample, part, row, channel = place(channels, lanes, slices, chunks)
        if row < rows and channel < channels:
            average, factor = mean[sample * channels + channel], rstd[sample * channels + channel]
            if scaled:
                factor *= weight[channel]
            shift = bias[channel] if centered else float32(0)
            tilt = float32(0) if fixed else slope[sample * channels + channel]
            level = float32(0) if fixed else offset[sample * channels + channel]
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32((sample * pixels + p) * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    given[k] = dy[at + k * step]
                    v[k] = x[at + k * step] if reads_x else average
                for k in range(UNROLL):
                    centred = v[k] - average
                    dx[at + k * step] = before(given[k], centred * factor + shift) * factor + (centred * tilt + level)
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                centred = x[at] - average if reads_x else float32(0)
                dx[at] = before(dy[at], centred * factor + shift) * factor + (centred * tilt + level)
                p, at = int32(p + rows), int32(at + step)

    return normalise_backward


def normalise_backward(
    followed: Followed, x: DeviceArray, dy: DeviceArray, dx: DeviceArray, mean: DeviceArray, rstd: DeviceArray,
    weight: DeviceArray | None, bias: DeviceArray | None, slopes: tuple[DeviceArray, DeviceArray] | None,
) -> None:  # fmt: skip
    """``dx``, which may be ``dy``, from the ``slope`` and ``offset`` that :func:`merge_slopes` found; without these the statistics count as
    constants."""
    cut = cut_for_elements(*x.shape)
    _normalise_backward(followed, slopes is None)(
        cut.blocks, x, dy, dx, mean, rstd, *_given(weight, mean), *_given(bias, mean), *(slopes or (mean, mean)), *cut.sizes
    )


# Layer normalisation of rows that a team of threads holds in its registers -----------------------------------------------

HELD = 8  # numbers of a row that a thread holds
LONGEST = HELD * THREADS


@kernel
def _row_forward(x, y, rows, columns, team, weight, scaled, bias, centered, epsilon, mean, rstd):
    sums = cuda.shared.array(THREADS, float32)
    v = cuda.local.array(HELD, float32)
    thread = int32(cuda.threadIdx.x)
    number = quotient(thread, team)
    lane = int32(thread - number * team)
    row = int32(int32(cuda.blockIdx.x) * quotient(THREADS, team) + number)
    limit = columns if row < rows else int32(0)
    first = int32(row * columns)
    at = int32(first + lane)
    shift = x[first] if row < rows else float32(0)
    found = float32(0)
    for k in range(HELD):
        v[k] = x[at + k * team] - shift if lane + k * team < limit else float32(0)
    for k in range(HELD):
        found += v[k]
    rest = team_sum(sums, thread, lane, team, found) / float32(columns)
    found = float32(0)
    for k in range(HELD):
        d = v[k] - rest
        if lane + k * team < limit:
            found += d * d
    variance = team_sum(sums, thread, lane, team, found) / float32(columns)
    average, factor = shift + rest, float32(1) / math.sqrt(variance + epsilon)
    away = average - shift  # the mean as it is kept, so that the backward pass sees the same
    for k in range(HELD):
        c = int32(lane + k * team)
        if c < limit:
            value = (v[k] - away) * factor
            if scaled:
                value *= weight[c]
            if centered:
                value += bias[c]
            y[at + k * team] = value
    if row < rows and lane == 0:
        mean[row] = average
        rstd[row] = factor


@functools.cache
def _rows_per_block(rows: int, columns: int) -> int:
    """Rows that a block sums up."""
    teams = THREADS // team_for(columns, HELD)
    return -(-rows // (BLOCKS * teams)) * teams


@kernel
def _row_backward(
    x, dy, dx, dx_wanted, rows, columns, team, each, weight, scaled, mean, rstd, partials, plane, sums_wanted
):  # fmt: skip
    sums = cuda.shared.array(THREADS, float32)
    normal = cuda.local.array(HELD, float32)
    given = cuda.local.array(HELD, float32)
    gain = cuda.local.array(HELD, float32)
    plain_sums = cuda.local.array(HELD, float32)
    weighted_sums = cuda.local.array(HELD, float32)
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    teams, number = quotient(THREADS, team), quotient(thread, team)
    lane = int32(thread - number * team)
    for k in range(HELD):
        gain[k] = weight[lane + k * team] if scaled and lane + k * team < columns else float32(1)
        plain_sums[k] = float32(0)
        weighted_sums[k] = float32(0)
    begin = int32(block * each)
    end = int32(min(rows, begin + each))
    while begin < end:  # all teams go along, as sums take all threads
        row = int32(begin + number)
        limit = columns if row < end else int32(0)
        at = int32(row * columns + lane)
        average, factor = float32(0), float32(0)
        if row < end:
            average, factor = mean[row], rstd[row]
        for k in range(HELD):
            inside = lane + k * team < limit
            given[k] = dy[at + k * team] if inside else float32(0)
            normal[k] = x[at + k * team] if inside else average
        plain, weighted = float32(0), float32(0)
        for k in range(HELD):
            normal[k] = (normal[k] - average) * factor
            plain_sums[k] += given[k]
            weighted_sums[k] += given[k] * normal[k]
            given[k] *= gain[k]
            plain += given[k]
            weighted += given[k] * normal[k]
        if dx_wanted:
            plain = team_sum(sums, thread, lane, team, plain) / float32(columns)
            weighted = team_sum(sums, thread, lane, team, weighted) / float32(columns)
            for k in range(HELD):
                if lane + k * team < limit:
                    dx[at + k * team] = (given[k] - plain - normal[k] * weighted) * factor
        begin = int32(begin + teams)
    if sums_wanted:
        for k in range(HELD):
            c = int32(lane + k * team)
            plain = column_sum(sums, thread, number, teams, team, plain_sums[k])
            weighted = column_sum(sums, thread, number, teams, team, weighted_sums[k])
            if number == 0 and c < columns:
                partials[block * columns + c] = plain
                partials[plane + block * columns + c] = weighted


# Layer normalisation of longer rows: ``(rows, columns)`` are samples of as many pixels with one channel, but for the parameters, which
# there are for each pixel -------------------------------------------------------------------------------------------------


@kernel
def _place_normalise(x, y, mean, rstd, weight, scaled, bias, centered, pixels, chunk, chunks):
    sample = quotient(cuda.blockIdx.x, chunks)
    first = int32((int32(cuda.blockIdx.x) - sample * chunks) * chunk)
    p, stop = int32(first + int32(cuda.threadIdx.x)), int32(min(pixels, first + chunk))
    average, factor = mean[sample], rstd[sample]
    while p < stop:
        value = (x[sample * pixels + p] - average) * factor
        if scaled:
            value *= weight[p]
        if centered:
            value += bias[p]
        y[sample * pixels + p] = value
        p = int32(p + THREADS)


@kernel
def _place_sums(x, dy, mean, weight, scaled, partials, plane, pixels, chunk, chunks):
    """Partial sums of ``g = dy * weight`` and of ``g * (x - mean)``."""
    sums = cuda.shared.array(THREADS, float32)
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    sample = quotient(block, chunks)
    first = int32((block - sample * chunks) * chunk)
    p, stop = int32(first + thread), int32(min(pixels, first + chunk))
    average, plain, weighted = mean[sample], float32(0), float32(0)
    while p < stop:
        g = dy[sample * pixels + p]
        if scaled:
            g *= weight[p]
        plain += g
        weighted += g * (x[sample * pixels + p] - average)
        p = int32(p + THREADS)
    plain = column_sum(sums, thread, thread, int32(THREADS), int32(1), plain)
    weighted = column_sum(sums, thread, thread, int32(THREADS), int32(1), weighted)
    if thread == 0:
        partials[block] = plain
        partials[plane + block] = weighted


@kernel
def _place_backward(x, dy, dx, mean, rstd, weight, scaled, slope, offset, pixels, chunk, chunks):
    sample = quotient(cuda.blockIdx.x, chunks)
    first = int32((int32(cuda.blockIdx.x) - sample * chunks) * chunk)
    p, stop = int32(first + int32(cuda.threadIdx.x)), int32(min(pixels, first + chunk))
    average, factor, tilt, level = mean[sample], rstd[sample], slope[sample], offset[sample]
    while p < stop:
        g = dy[sample * pixels + p]
        if scaled:
            g *= weight[p]
        dx[sample * pixels + p] = g * factor + ((x[sample * pixels + p] - average) * tilt + level)
        p = int32(p + THREADS)


@kernel
def _place_gradients(x, dy, mean, rstd, partials, plane, pixels, channels, lanes, rows, slices, chunk, chunks):
    """Partial sums over the rows of ``dy`` and of ``dy * (x - mean) * rstd``: here rows are pixels, and columns channels."""
    sums = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    _, part, row, channel = place(channels, lanes, slices, chunks)
    plain, weighted = float32(0), float32(0)
    if row < rows and channel < channels:
        p, stop = int32(part * chunk + row), int32(min(pixels, part * chunk + chunk))
        while p < stop:
            d = dy[p * channels + channel]
            plain += d
            weighted += d * ((x[p * channels + channel] - mean[p]) * rstd[p])
            p = int32(p + rows)
    plain = column_sum(sums, thread, row, rows, lanes, plain)
    weighted = column_sum(sums, thread, row, rows, lanes, weighted)
    if row == 0 and channel < channels:
        partials[part * channels + channel] = plain
        partials[plane + part * channels + channel] = weighted


# Layer normalisation, of rows of any length ------------------------------------------------------------------------------


def layer_scratch(rows: int, columns: int, training: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that :func:`layer_forward` and :func:`layer_backward` work in."""
    if columns <= LONGEST:
        return {"partials": (2, 1, -(-rows // _rows_per_block(rows, columns)), columns)} if training else {}
    shapes: dict[str, tuple[int, ...]] = {"row_partials": statistics_shape(rows, columns, 1)}
    if training:
        shapes["partials"] = (2, 1, cut_for_sums(1, rows, columns).chunks, columns)
        shapes["slope"] = shapes["offset"] = (rows, 1)
    return shapes


def layer_forward(
    x: DeviceArray, y: DeviceArray, weight: DeviceArray | None, bias: DeviceArray | None, epsilon: float, mean: DeviceArray,
    rstd: DeviceArray, b: dict[str, DeviceArray],
) -> None:  # fmt: skip
    """``y = (x - mean) * rstd * weight + bias`` for rows ``(rows, columns)``, with ``mean`` and ``rstd`` ``(rows,)``, which are filled;
    ``weight`` and ``bias`` are ``(columns,)`` or None."""
    rows, columns = x.shape
    parameters = (*_given(weight, mean), *_given(bias, mean))
    if columns <= LONGEST:
        team = team_for(columns, HELD)
        _row_forward(blocks_for(rows, THREADS // team), x, y, rows, columns, team, *parameters, float(epsilon), mean, rstd)
        return
    partials, cut = b["row_partials"], cut_for_elements(rows, columns, 1)
    partial_statistics(x.reshape(rows, columns, 1), partials)
    merge_statistics(partials, columns, 1, epsilon, mean.reshape(rows, 1), rstd.reshape(rows, 1))
    _place_normalise(cut.blocks, x, y, mean, rstd, *parameters, columns, cut.chunk, cut.chunks)


def layer_backward(
    x: DeviceArray, dy: DeviceArray, dx: DeviceArray | None, weight: DeviceArray | None, mean: DeviceArray, rstd: DeviceArray,
    b: dict[str, DeviceArray], dweight: DeviceArray | None, dbias: DeviceArray | None,
) -> None:  # fmt: skip
    """Gradients of :func:`layer_forward`, those that are not None: with ``g = dy * weight`` and ``n = (x - mean) * rstd``,
    ``dx = rstd * (g - average of g - n * average of g * n)``."""
    rows, columns = x.shape
    partials, gain, summed = b["partials"], _given(weight, mean), dweight is not None or dbias is not None
    if columns <= LONGEST:
        each = _rows_per_block(rows, columns)
        _row_backward(
            blocks_for(rows, each), x, dy, *_given(dx, dy), rows, columns, team_for(columns, HELD), each, *gain, mean, rstd,
            partials, partials.size // 2, summed,
        )  # fmt: skip
    elif summed:
        cut = cut_for_sums(1, rows, columns)
        _place_gradients(cut.blocks, x, dy, mean, rstd, partials, partials.size // 2, *cut.sizes)
    if summed:
        merge_gradients(partials, None, dweight, dbias)
    if columns > LONGEST and dx is not None:
        partials, slope, offset = b["row_partials"][:2], b["slope"], b["offset"]
        cut = cut_for_sums(rows, columns, 1)
        _place_sums(cut.blocks, x, dy, mean, *gain, partials, partials.size // 2, columns, cut.chunk, cut.chunks)
        merge_slopes(partials, columns, 1, rstd.reshape(rows, 1), None, slope, offset)
        cut = cut_for_elements(rows, columns, 1)
        _place_backward(cut.blocks, x, dy, dx, mean, rstd, *gain, slope, offset, columns, cut.chunk, cut.chunks)


# Local response normalisation --------------------------------------------------------------------------------------------


@device_function
def _response(x, at, c, channels, size, alpha, k):
    """The base of the power at channel ``c`` of the pixel whose channels begin at ``at``."""
    first, last = int32(max(c - size // 2, 0)), int32(min(c + (size - 1) // 2 + 1, channels))
    squares = float32(0)
    for j in range(first, last):
        value = x[at + j]
        squares += value * value
    return squares * alpha + k


@kernel
def _response_forward(x, y, count, channels, size, alpha, beta, k):
    at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
    if at < count:
        first = int32(quotient(at, channels) * channels)
        y[at] = x[at] * math.exp(math.log(_response(x, first, at - first, channels, size, alpha, k)) * -beta)


def response_forward(x: DeviceArray, y: DeviceArray, size: int, alpha: float, beta: float, k: float) -> None:
    """``y`` = ``x / (k + alpha / size * sum of x ** 2 over the channels c - size // 2 to c + (size - 1) // 2) ** beta``, for pixels
    ``(pixels, channels)``."""
    _response_forward(blocks_for(x.size), x, y, x.size, x.shape[1], size, alpha / size, beta, k)


@kernel
def _response_backward(x, dy, dx, pixels, channels, each, size, alpha, beta, k):
    """A block has ``each`` pixels: what a channel gives to those around it is kept for all of them."""
    terms = cuda.shared.array(0, float32)
    thread, first = int32(cuda.threadIdx.x), int32(int32(cuda.blockIdx.x) * each)
    start, count = int32(first * channels), int32(min(each, pixels - first) * channels)
    at = thread
    while at < count:
        begin = int32(quotient(at, channels) * channels)
        base = _response(x, start + begin, at - begin, channels, size, alpha, k)
        scaled = dy[start + at] * math.exp(math.log(base) * -beta)
        terms[at] = scaled * x[start + at] / base
        dx[start + at] = scaled
        at = int32(at + THREADS)
    cuda.syncthreads()
    at = thread
    while at < count:
        begin = int32(quotient(at, channels) * channels)
        c = int32(at - begin)
        around = float32(0)
        for j in range(int32(max(c - (size - 1) // 2, 0)), int32(min(c + size // 2 + 1, channels))):
            around += terms[begin + j]
        dx[start + at] -= x[start + at] * around * (float32(2) * alpha * beta)
        at = int32(at + THREADS)


def response_backward(x: DeviceArray, dy: DeviceArray, dx: DeviceArray, size: int, alpha: float, beta: float, k: float) -> None:
    """``dx`` = ``dy * r ** -beta - 2 * alpha * beta / size * x * sum of dy * x * r ** (-beta - 1)`` over the channels whose windows
    hold this one, with ``r`` the base of the power in :func:`response_forward`."""
    pixels, channels = x.shape
    each = max(1, RESPONSES // channels)
    _response_backward(
        blocks_for(pixels, each), x, dy, dx, pixels, channels, each, size, alpha / size, beta, k, shared=4 * each * channels
    )  # fmt: skip


RESPONSES = 4 * THREADS  # elements of a block
