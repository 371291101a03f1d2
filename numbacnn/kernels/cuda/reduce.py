"""Sums and maxima over the threads of a block, always in the same order."""

from __future__ import annotations

from .driver import cuda, device_function, int32
from .launch import THREADS


@device_function
def group_sum(shared, thread, size, value):
    """The sum of a number of each thread over groups of ``size`` neighbours, a power of two, for all of a group. ``shared`` has a cell for
    each thread of the block; every one of them takes part."""
    shared[thread] = value
    cuda.syncthreads()
    first = thread - thread % size
    width = size // int32(2)
    while width > 0:
        if thread - first < width:
            shared[thread] += shared[thread + width]
        cuda.syncthreads()
        width //= int32(2)
    found = shared[first]
    cuda.syncthreads()
    return found


@device_function
def group_largest(shared, thread, size, value):
    """The largest number of each group, likewise."""
    shared[thread] = value
    cuda.syncthreads()
    first = thread - thread % size
    width = size // int32(2)
    while width > 0:
        if thread - first < width:
            shared[thread] = max(shared[thread], shared[thread + width])
        cuda.syncthreads()
        width //= int32(2)
    found = shared[first]
    cuda.syncthreads()
    return found


@device_function
def block_sum(shared, thread, value):
    """The sum of a number of each thread of a block, for all of them. ``shared`` has a cell for each thread; every one takes part."""
    return group_sum(shared, thread, int32(THREADS), value)


@device_function
def block_largest(shared, thread, value):
    """The largest number of all threads, likewise."""
    return group_largest(shared, thread, int32(THREADS), value)


def group_size(elements: int, each: int = 4) -> int:
    """How many threads work on a row of so many elements: a power of two up to the size of a block, with about ``each`` for every one."""
    return min(THREADS, 1 << max(0, -(-elements // each) - 1).bit_length())
