"""Sums and maxima over the threads of a block, always in the same order."""

from __future__ import annotations

from .driver import cuda, device_function, int32
from .launch import THREADS

HALF = THREADS // 2


@device_function
def block_sum(shared, thread, value):
    """The sum of a number of each thread, for all of them. ``shared`` has a cell for each thread; every thread of the block takes part."""
    shared[thread] = value
    cuda.syncthreads()
    width = int32(HALF)
    while width > 0:
        if thread < width:
            shared[thread] += shared[thread + width]
        cuda.syncthreads()
        width //= 2
    found = shared[0]
    cuda.syncthreads()
    return found


@device_function
def block_largest(shared, thread, value):
    """The largest number of all threads, likewise."""
    shared[thread] = value
    cuda.syncthreads()
    width = int32(HALF)
    while width > 0:
        if thread < width:
            shared[thread] = max(shared[thread], shared[thread + width])
        cuda.syncthreads()
        width //= 2
    found = shared[0]
    cuda.syncthreads()
    return found
