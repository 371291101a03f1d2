"""Sums of products that many blocks compute part by part, and that are added up in one order, and ended, afterwards."""

from __future__ import annotations

import functools
from typing import Any

from .blocks import cut_for_sums, place
from .driver import cuda, device_function, float32, int32
from .ending import Ending, ended
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray
from .reduce import column_sum
from .statistics import keep_statistics

SHARES = 4  # sums that the parts of one element are first added up to
ELEMENTS = THREADS // SHARES  # of a block


@device_function
def _share(sums, share, parts, size, at):
    """The sum of every fourth part of an element."""
    found = float32(0)
    for part in range(share, parts, SHARES):
        found += sums[int32(part * size + at)]
    return found


@functools.cache
def _add_parts(kind: tuple) -> Kernel:
    finished = ended(kind)

    @kernel
    def add_parts(sums, parts, size, channels, scale, shift, addend, total):
        shared = cuda.shared.array(THREADS, float32)
        thread = int32(cuda.threadIdx.x)
        share, at = int32(thread // ELEMENTS), int32(int32(cuda.blockIdx.x) * ELEMENTS + thread % ELEMENTS)
        found = _share(sums, share, parts, size, at) if at < size else float32(0)
        shared[thread] = found
        cuda.syncthreads()
        if share == 0 and at < size:
            for other in range(1, SHARES):
                found += shared[other * ELEMENTS + thread]
            total[at] = finished(found, scale, shift, addend, int32(at % channels), at)

    return add_parts


@functools.cache
def _add_parts_and_gather(kind: tuple) -> Kernel:
    finished = ended(kind)

    @kernel
    def add_parts_and_gather(
        sums, parts, size, scale, shift, addend, total, statistics, plane_size, pixels, channels, lanes, rows, slices, chunk, chunks
    ):  # fmt: skip
        """With the same bits as the other one. A thread writes pixels of a channel, and reads them again for squares about their mean."""
        shared = cuda.shared.array(THREADS, float32)
        thread = int32(cuda.threadIdx.x)
        _, number, row, channel = place(channels, lanes, slices, chunks)
        first = int32(number * chunk)
        stop = int32(min(pixels, first + chunk))
        begin = int32(first + row) if row < rows and channel < channels else stop
        plain = float32(0)
        for pixel in range(begin, stop, rows):
            at = int32(pixel * channels + channel)
            found = _share(sums, int32(0), parts, size, at)
            for other in range(1, SHARES):
                found += _share(sums, other, parts, size, at)
            value = finished(found, scale, shift, addend, channel, at)
            total[at] = value
            plain += value
        mean = column_sum(shared, thread, row, rows, lanes, plain) / float32(stop - first)
        plain, squares = float32(0), float32(0)
        for pixel in range(begin, stop, rows):
            away = total[int32(pixel * channels + channel)] - mean
            plain += away
            squares += away * away
        plain = column_sum(shared, thread, row, rows, lanes, plain)
        squares = column_sum(shared, thread, row, rows, lanes, squares)
        if row == 0 and channel < channels:
            keep_statistics(statistics, plane_size, int32(number * channels + channel), stop - first, mean, plain, squares)

    return add_parts_and_gather


def add_parts(sums: Any, parts: int, total: DeviceArray, ending: Ending | None = None) -> None:
    """``total``: the sum of ``parts`` arrays of its size, which ``sums`` has one after the other, with that ``ending``. Statistics of it
    are gathered in as many parts as :func:`statistics_parts` says."""
    ending = Ending() if ending is None else ending
    channels = total.shape[-1]
    if ending.statistics is None:
        blocks = blocks_for(total.size, ELEMENTS)
        _add_parts(ending.kind)(blocks, sums, parts, total.size, channels, *ending.arguments(total), total)
        return
    cut = cut_for_sums(1, total.size // channels, channels)
    _add_parts_and_gather(ending.kind)(
        cut.blocks, sums, parts, total.size, *ending.arguments(total), total, *ending.gathered(total), *cut.sizes
    )  # fmt: skip


def statistics_parts(pixels: int, channels: int) -> int:
    """Parts of the statistics of an array ``(pixels, channels)`` that :func:`add_parts` gathers."""
    return cut_for_sums(1, pixels, channels).chunks
