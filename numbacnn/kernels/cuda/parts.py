"""Sums of products that many blocks compute part by part, and that are added up in one order, and ended, afterwards."""

from __future__ import annotations

import functools
from typing import Any

from .driver import cuda, float32, int32
from .ending import Ending, ended
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray

SHARES = 4  # threads that add up the parts of one element
ELEMENTS = THREADS // SHARES  # of a block


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
