"""Rows of a table by their numbers on the device, and the way back (compare :mod:`numbacnn.kernels.embedding`).

Backward sorts the places by the row that they read, by a radix sort that keeps their order (N. Satish, M. Harris, M. Garland, "Designing
efficient sorting algorithms for manycore GPUs", IPDPS 2009): a block counts the digits of its keys, a scan over all blocks says where each
of its digits goes, and the block moves its keys there. Then each row of the gradient is summed up in the order of the places, without
atomic additions; rows that many places read go through sums of ``RUN`` places each, which different blocks compute.
"""

from __future__ import annotations

import math

from .driver import cuda, device_function, float32, int32
from .launch import THREADS, blocks_for, kernel
from .memory import DeviceArray
from .reduce import team_for

DIGIT_BITS = 4  # of a key, per pass of the sort
DIGITS = 1 << DIGIT_BITS
COUNTERS = DIGITS * THREADS
SEGMENT = 16  # threads whose counts of a digit one thread adds up
SEGMENTS = THREADS // SEGMENT  # of a digit
EACH = 8  # keys of a thread
KEYS = THREADS * EACH  # of a block
RUN = 64  # places that are summed up beforehand where all of them read one row
assert SEGMENTS * DIGITS == THREADS


# Forward -------------------------------------------------------------------------------------------------------------


@kernel
def _rows(table, vocabulary, width, ids, places, team, y):
    """A team of threads for each place."""
    thread = int32(cuda.threadIdx.x)
    place = int32(cuda.blockIdx.x) * (int32(THREADS) // team) + thread // team
    if place < places:
        row = ids[place]
        there = row >= 0 and row < vocabulary
        for c in range(thread % team, width, team):
            y[place * width + c] = table[int32(row) * width + c] if there else float32(math.nan)


def rows(table: DeviceArray, ids: DeviceArray, y: DeviceArray) -> None:
    """``y[p] = table[ids[p]]``, of ``table (V, W)`` and int64 ids; a row of NaN for an id that the table lacks."""
    vocabulary, width = table.shape
    team = team_for(width, 1)
    _rows(blocks_for(ids.size, THREADS // team), table, vocabulary, width, ids, ids.size, team, y)


# Sorting -------------------------------------------------------------------------------------------------------------


@kernel
def _begin(ids, vocabulary, places, keys, order):
    """The key of each place; one behind all others for an id that the table lacks."""
    at = int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x)
    if at < places:
        row = ids[at]
        keys[at] = int32(row) if row >= 0 and row < vocabulary else vocabulary
        order[at] = at


@device_function
def _count(keys, places, shift, thread, counters):
    """Fill ``counters (DIGITS, THREADS)`` with how often a digit is among the keys of each thread, which are neighbours."""
    for digit in range(DIGITS):
        counters[digit * int32(THREADS) + thread] = int32(0)
    first = int32(cuda.blockIdx.x) * int32(KEYS) + thread * int32(EACH)
    for at in range(first, min(first + int32(EACH), places)):
        counters[((keys[at] >> shift) & int32(DIGITS - 1)) * int32(THREADS) + thread] += int32(1)
    cuda.syncthreads()


@device_function
def _scan_digits(counters, segments, thread):
    """Each thread's count of a digit becomes that of the threads before it. Every thread scans ``SEGMENT`` neighbours of one digit, and
    returns the sum of all before their end. ``segments (THREADS,)`` is scratch."""
    first, found = thread * int32(SEGMENT), int32(0)
    for at in range(first, first + int32(SEGMENT)):
        found += counters[at]
    segments[thread] = found
    cuda.syncthreads()
    before = int32(0)
    for segment in range(thread - thread % int32(SEGMENTS), thread):
        before += segments[segment]
    for at in range(first, first + int32(SEGMENT)):
        found = counters[at]
        counters[at] = before
        before += found
    cuda.syncthreads()
    return before


@kernel
def _histogram(keys, places, shift, totals):
    """``totals (DIGITS, blocks)``: how often a digit is among the keys of each block."""
    counters, segments = cuda.shared.array(COUNTERS, int32), cuda.shared.array(THREADS, int32)
    thread = int32(cuda.threadIdx.x)
    _count(keys, places, shift, thread, counters)
    found = _scan_digits(counters, segments, thread)
    if thread % int32(SEGMENTS) == SEGMENTS - 1:
        totals[thread // int32(SEGMENTS) * int32(cuda.gridDim.x) + int32(cuda.blockIdx.x)] = found


@kernel
def _scan(totals, count):
    """Each number becomes the sum of those before it: one block, whose threads take neighbours."""
    sums = cuda.shared.array(THREADS, int32)
    thread = int32(cuda.threadIdx.x)
    each = (count + int32(THREADS) - 1) // int32(THREADS)
    first, stop = min(thread * each, count), min((thread + 1) * each, count)
    own = int32(0)
    for at in range(first, stop):
        own += totals[at]
    sums[thread] = own
    cuda.syncthreads()
    width = int32(1)
    while width < THREADS:
        further = sums[thread - width] if thread >= width else int32(0)
        cuda.syncthreads()
        sums[thread] += further
        cuda.syncthreads()
        width *= int32(2)
    before = sums[thread] - own
    for at in range(first, stop):
        found = totals[at]
        totals[at] = before
        before += found


@kernel
def _move(keys, order, places, shift, offsets, keys_sorted, order_sorted):
    """Bring keys, and the places that they are of, in the order of a digit."""
    counters, segments = cuda.shared.array(COUNTERS, int32), cuda.shared.array(THREADS, int32)
    thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
    _count(keys, places, shift, thread, counters)
    _scan_digits(counters, segments, thread)
    first = block * int32(KEYS) + thread * int32(EACH)
    for at in range(first, min(first + int32(EACH), places)):
        digit = (keys[at] >> shift) & int32(DIGITS - 1)
        counter = digit * int32(THREADS) + thread
        target = offsets[digit * int32(cuda.gridDim.x) + block] + counters[counter]
        counters[counter] += int32(1)
        keys_sorted[target] = keys[at]
        order_sorted[target] = order[at]


@kernel
def _find_starts(keys, places, starts, vocabulary):
    """``starts[v]``: how many keys are smaller than v."""
    v = int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x)
    if v <= vocabulary:
        first, last = int32(0), places
        while first < last:
            middle = (first + last) // int32(2)
            if keys[middle] < v:
                first = middle + int32(1)
            else:
                last = middle
        starts[v] = first


def _sorted(ids: DeviceArray, vocabulary: int, keys: DeviceArray, order: DeviceArray, totals: DeviceArray) -> tuple[DeviceArray, ...]:
    """Keys and places in the order of the keys."""
    places, blocks = ids.size, len(totals) // DIGITS
    halves = [(keys[k : k + 1].reshape(-1), order[k : k + 1].reshape(-1)) for k in (0, 1)]
    _begin(blocks_for(places), ids, vocabulary, places, *halves[0])
    for shift in range(0, vocabulary.bit_length(), DIGIT_BITS):
        _histogram(blocks, halves[0][0], places, shift, totals)
        _scan(1, totals, len(totals))
        _move(blocks, *halves[0], places, shift, totals, *halves[1])
        halves.reverse()
    return halves[0]


# Backward ------------------------------------------------------------------------------------------------------------


@kernel
def _run_sums(dy, width, keys, order, runs, skipped, sums):
    """``sums[r]``: the sum over the places of run r, where all of them read one row."""
    at = int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x)
    run = at // width
    first = run * int32(RUN)
    if run < runs and keys[first] == keys[first + int32(RUN - 1)] and keys[first] != skipped:
        found = float32(0)
        for k in range(first, first + int32(RUN)):
            found += dy[order[k] * width + at - run * width]
        sums[at] = found


@kernel
def _row_sums(dy, width, order, starts, sums, vocabulary, skipped, team, gradient):
    """A team of threads for each row."""
    thread = int32(cuda.threadIdx.x)
    v = int32(cuda.blockIdx.x) * (int32(THREADS) // team) + thread // team
    if v < vocabulary:
        start = starts[v]
        stop = start if v == skipped else starts[v + 1]
        for c in range(thread % team, width, team):
            k, found = start, float32(0)
            while k < stop:
                if k % int32(RUN) == 0 and k + int32(RUN) <= stop:
                    found += sums[k // int32(RUN) * width + c]
                    k += int32(RUN)
                else:
                    found += dy[order[k] * width + c]
                    k += int32(1)
            gradient[v * width + c] = found


def scratch_shapes(places: int, vocabulary: int, width: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types of the scratch arrays of :func:`row_sums`."""
    return {
        "keys": ((2, places), "int32"),
        "order": ((2, places), "int32"),
        "totals": ((DIGITS * blocks_for(places, KEYS),), "int32"),
        "starts": ((vocabulary + 1,), "int32"),
        "sums": ((max(1, places // RUN), width), "float32"),
    }


def row_sums(dy: DeviceArray, ids: DeviceArray, skipped: int, gradient: DeviceArray, b: dict[str, DeviceArray]) -> None:
    """``gradient[v]``: the sum of ``dy[p]`` over the places p with id v; zeros for ``v == skipped``. ``b`` are the scratch arrays."""
    vocabulary, width = gradient.shape
    places, runs, team = ids.size, ids.size // RUN, team_for(width, 1)
    keys, order = _sorted(ids, vocabulary, b["keys"], b["order"], b["totals"])
    _find_starts(blocks_for(vocabulary + 1), keys, places, b["starts"], vocabulary)
    _run_sums(blocks_for(runs * width), dy, width, keys, order, runs, skipped, b["sums"])
    _row_sums(
        blocks_for(vocabulary, THREADS // team), dy, width, order, b["starts"], b["sums"], vocabulary, skipped, team, gradient
    )  # fmt: skip
