"""Sums that many blocks compute part by part, and that are added up in one order afterwards."""

from __future__ import annotations

import functools
from typing import Any

from .driver import cuda, float32, int32
from .ending import Ending, ended
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray

SHARES = 4  # threads that add up the parts of one element
ELEMENTS = THREADS // SHARES  # of a block
CHANNELS = 32  # of a block that sums over rows, and
LINES = THREADS // CHANNELS  # rows that it reads at a time
LEAST_ROWS = 256  # of a part
BLOCKS = 1024  # that sum over rows: enough for any GPU


@functools.cache
def _add_parts(kind: tuple) -> Kernel:
    finished = ended(kind)

    @kernel
    def add_parts(sums, parts, size, channels, scale, shift, addend, total):
        shared = cuda.shared.array(THREADS, float32)
        thread = int32(cuda.threadIdx.x)
        share, at = int32(thread // ELEMENTS), int32(int32(cuda.blockIdx.x) * ELEMENTS + thread % ELEMENTS)
        found = float32(0)
        if at < size:
            for part in range(share, parts, SHARES):
                found += sums[int32(part * size + at)]
        shared[thread] = found
        cuda.syncthreads()
        if share == 0 and at < size:
            for other in range(1, SHARES):
                found += shared[other * ELEMENTS + thread]
            total[at] = finished(found, scale, shift, addend, int32(at % channels), at)

    return add_parts


def add_parts(sums: Any, parts: int, total: DeviceArray, ending: Ending | None = None) -> None:
    """``total``: the sum of ``parts`` arrays of its size, which ``sums`` has one after the other, with that ``ending``."""
    ending = Ending() if ending is None else ending
    blocks = blocks_for(total.size, ELEMENTS)
    _add_parts(ending.kind)(blocks, sums, parts, total.size, total.shape[-1], *ending.arguments(total), total)


@kernel
def _sum_rows(x, rows, channels, length, sums):
    """A block adds up ``length`` rows of some channels."""
    shared = cuda.shared.array(THREADS, float32)
    thread, part = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
    channel = int32(int32(cuda.blockIdx.x) * CHANNELS + thread % CHANNELS)
    found = float32(0)
    if channel < channels:
        for row in range(int32(part * length) + thread // CHANNELS, min(rows, int32((part + 1) * length)), LINES):
            found += x[int32(row * channels + channel)]
    shared[thread] = found
    cuda.syncthreads()
    if thread < CHANNELS and channel < channels:
        for line in range(1, LINES):
            found += shared[line * CHANNELS + thread]
        sums[part * channels + channel] = found


def _row_parts(rows: int, channels: int) -> tuple[int, int]:
    """Into how many parts ``rows`` are cut, and the rows of one."""
    most = max(1, BLOCKS // -(-channels // CHANNELS))
    length = max(LEAST_ROWS, -(-rows // most))
    return -(-rows // length), length


def channel_sum_elements(rows: int, channels: int) -> int:
    """Elements of scratch that :func:`channel_sums` needs."""
    parts, _ = _row_parts(rows, channels)
    return parts * channels if parts > 1 else 0


def channel_sums(x: DeviceArray, sums: DeviceArray, scratch: Any) -> None:
    """``sums (C,)``: the sum over all rows of ``x (..., C)``; ``scratch`` as of :func:`channel_sum_elements`, or None for no elements."""
    channels = x.shape[-1]
    rows = x.size // channels
    parts, length = _row_parts(rows, channels)
    grid = -(-channels // CHANNELS), parts
    _sum_rows(grid, x, rows, channels, length, sums if parts == 1 else scratch)
    if parts > 1:
        add_parts(scratch, parts, sums)
