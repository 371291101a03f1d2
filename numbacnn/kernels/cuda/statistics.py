"""Means and variances on the device, in two steps (compare :mod:`numbacnn.kernels.norm`, whose formulas these are).

Arrays are ``(samples, pixels, channels)``; each sample and group of channels has a mean and a variance. A pass over the array leaves
partial sums of chunks of the pixels, and a small kernel puts them together in float64: the order of addition follows from the shapes. Sums
go about a shift that is not far from the chunk's mean, so that a large mean costs no digits. The convolution before a batch norm can leave
such sums, too, while it writes the array (see :mod:`.conv.statistics`).
"""

from __future__ import annotations

import functools
import math

from .blocks import UNROLL, cut_for_sums, place
from .driver import cuda, device_function, float32, float64, int32
from .indexing import quotient
from .launch import THREADS, blocks_for, kernel
from .memory import DeviceArray
from .reduce import MERGE_LANES, add_rows, column_sum

SHIFT_PIXELS = 4  # of each row of threads: their mean is the shift
GROUP_LANES = 32  # channels of a group that are merged side by side
MERGED = 16  # chunks that a thread merges, where blocks have lanes to spare
STATISTICS = 4  # numbers of a chunk and channel


@device_function
def keep_statistics(partials, plane, at, count, shift, plain, squares):
    """Write those of one chunk and channel: how many numbers there are, a shift, and sums of what they differ from it by and of the squares
    of that."""
    partials[at] = float32(count)
    partials[plane + at] = shift
    partials[2 * plane + at] = plain
    partials[3 * plane + at] = squares


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
        keep_statistics(partials, plane, to, stop - first, shift, plain, squares)


def partial_statistics(x: DeviceArray, partials: DeviceArray) -> None:
    """``partials[:, n, k, c]`` = number of pixels, shift, sum of ``x - shift`` and sum of ``(x - shift) ** 2`` of chunk ``k`` of ``x``
    ``(samples, pixels, channels)``; how many chunks there are, :func:`statistics_shape` says."""
    cut = cut_for_sums(*x.shape)
    _partial_statistics(cut.blocks, x, partials, partials.size // STATISTICS, *cut.sizes)


def statistics_shape(samples: int, pixels: int, channels: int) -> tuple[int, int, int, int]:
    """Shape of the partial sums of :func:`partial_statistics`; those of :func:`partial_gradients` are the first half."""
    return STATISTICS, samples, cut_for_sums(samples, pixels, channels).chunks, channels


@device_function
def merge_place(lanes, members, width, span, tiles):
    """Of a block that merges some groups of channels: ``(sample, first channel, row, lane, lane where the thread's group begins)``."""
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    sample, row = quotient(block, tiles), quotient(thread, lanes)
    lane = int32(thread - row * lanes)
    return sample, int32((block - sample * tiles) * span), row, lane, int32(quotient(lane, members) * members)


@device_function
def lane_total(sums, thread, row, rows, lanes, begin, members, value):
    """The sum over the rows of ``members`` lanes from ``begin`` on."""
    add_rows(sums, thread, row, rows, lanes, value)
    found = float64(0)
    for k in range(members):
        found += sums[begin + k]
    cuda.syncthreads()
    return found


@kernel
def _merge_statistics(
    partials, plane, pixels, channels, chunks, width, lanes, rows, members, span, tiles,
    epsilon, mean, rstd, moves, momentum, running_mean, running_var,
):  # fmt: skip
    """A block puts together the groups of ``span`` channels. Sums go about a pivot, the group's first shift. Chunks may be empty, but for
    the first."""
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    sample, first, row, lane, begin = merge_place(lanes, members, width, span, tiles)
    last = int32(min(first + span, channels))
    start = int32(sample * chunks * channels)
    pivot = float64(partials[plane + start + min(first + begin, channels - 1)])
    plain, squares = float64(0), float64(0)
    if row < rows:
        channel = int32(first + lane)
        while channel < last:
            part = row
            while part < chunks:
                at = int32(start + part * channels + channel)
                count = float64(partials[at])
                distance, rest = float64(partials[plane + at]) - pivot, float64(partials[2 * plane + at])
                plain += count * distance + rest
                squares += float64(partials[3 * plane + at]) + distance * (count * distance + rest + rest)
                part = int32(part + rows)
            channel = int32(channel + lanes)
    count = float64(pixels) * float64(width)
    distance = lane_total(sums, thread, row, rows, lanes, begin, members, plain) / count
    squares = max(lane_total(sums, thread, row, rows, lanes, begin, members, squares) - distance * distance * count, float64(0))
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
def merge_cut(channels: int, groups: int, chunks: int) -> tuple[int, tuple[int, ...]]:
    """Blocks for each sample, and ``(width, lanes, rows, members, span, tiles)`` for merging: a block has several groups of few channels
    side by side, fewer of them the more chunks there are, or walks along those of a large one."""
    width = channels // groups
    side_by_side = max(1, min(MERGE_LANES, THREADS * MERGED // chunks) // width)
    lanes = side_by_side * width if width <= MERGE_LANES else min(width, GROUP_LANES)
    span = max(lanes, width)
    tiles = -(-channels // span)
    return tiles, (width, lanes, THREADS // lanes, min(width, lanes), span, tiles)


def merge_statistics(
    partials: DeviceArray, pixels: int, groups: int, epsilon: float, mean: DeviceArray, rstd: DeviceArray,
    momentum: float = 0.0, running: tuple[DeviceArray, DeviceArray] | None = None,
) -> None:  # fmt: skip
    """``mean`` and ``rstd`` (1 / sqrt(variance + epsilon)), both ``(samples, channels)``, from the partial sums ``(4, samples, chunks,
    channels)`` of all ``pixels``, as :func:`partial_statistics` leaves them, however they fall into chunks. ``running`` mean and
    variance, if given (then there are one sample and a group for each channel), move towards the mean and the unbiased variance:
    ``(1 - momentum) * old + momentum * new``."""
    _, samples, chunks, channels = partials.shape
    tiles, tile = merge_cut(channels, groups, chunks)
    _merge_statistics(
        samples * tiles, partials, partials.size // STATISTICS, pixels, channels, chunks, *tile,
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
