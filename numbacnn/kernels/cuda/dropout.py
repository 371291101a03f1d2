"""Dropout of elements, of channels and of samples on the device: the random bits are those of :mod:`numbacnn.kernels.dropout`.

A block works on a stretch of one seed's elements, so that a thread computes the seed once for several of them.
"""

from __future__ import annotations

import math

from ..dropout import BLOCK, GOLDEN, HALF, LOW_HALF, MIX1, MIX2, RESOLUTION, SHIFT1, SHIFT2, SHIFT3
from .driver import cuda, device_function, float32, int32, int64, uint32, uint64
from .launch import THREADS, blocks_for, kernel
from .memory import DeviceArray

STRETCH = 2048  # elements of a block; divides BLOCK
assert BLOCK % STRETCH == 0


@device_function
def _mixed(z):
    """One step of splitmix64 (Steele, Lea & Flood 2014) from state ``z``."""
    z = z + GOLDEN
    z = (z ^ (z >> SHIFT1)) * MIX1
    z = (z ^ (z >> SHIFT2)) * MIX2
    return z ^ (z >> SHIFT3)


@device_function
def _seed(random, place):
    """64 bits for the stream ``(key, step)`` and a place in it."""
    return _mixed(_mixed(_mixed(random[0]) + random[1]) + uint64(place))


@device_function
def _scrambled(z):
    """A bijection of 32 bits in which every bit depends on every other (multiply and xor-shift; Wellons 2018, lowbias32)."""
    z = uint32((z ^ (z >> uint32(16))) * uint32(0x7FEB352D))
    z = uint32((z ^ (z >> uint32(15))) * uint32(0x846CA68B))
    return uint32(z ^ (z >> uint32(16)))


@device_function
def _kept(index, low, high, threshold):
    """Whether to keep the element of that index below the seed, whose halves are given."""
    z = _scrambled(uint32(uint32(index) + low))
    z = _scrambled(uint32(z ^ high))
    return (z >> uint32(8)) >= uint32(threshold)


@kernel
def _elements(x, y, random, first, per_sample, count, threshold, factor):
    before = int64(first[0]) * int64(per_sample)  # elements of the whole batch before these
    start = (before // int64(STRETCH) + int64(cuda.blockIdx.x)) * int64(STRETCH)
    seed = _seed(random, start // int64(BLOCK))
    low, high = uint32(seed & LOW_HALF), uint32(seed >> HALF)
    origin, index = int32(start - before), int32(start % int64(BLOCK))
    for step in range(int32(cuda.threadIdx.x), int32(STRETCH), int32(THREADS)):
        at = origin + step
        if at >= 0 and at < count:
            y[at] = x[at] * factor if _kept(index + step, low, high, threshold) else float32(0)


def elements(x: DeviceArray, y: DeviceArray, random: DeviceArray, first: DeviceArray, rate: float) -> None:
    """``y = x / (1 - rate)`` with probability ``1 - rate``, else 0, for each element; batch first. They may be the same array.

    ``random`` is uint64 ``(key, step)``. The samples are those of a larger batch from number ``first[0]`` on."""
    grid = blocks_for(x.size, STRETCH) + 1  # as the first block may begin before the first element
    _elements(grid, x, y, random, first, math.prod(x.shape[1:]), x.size, *_constants(rate))


@kernel
def _groups(x, y, random, first, stretches, per_sample, channels, by_channel, threshold, factor):
    sample, thread = int32(cuda.blockIdx.x) // stretches, int32(cuda.threadIdx.x)
    seed = _seed(random, int64(first[0]) + int64(sample))
    low, high = uint32(seed & LOW_HALF), uint32(seed >> HALF)
    start = (int32(cuda.blockIdx.x) - sample * stretches) * int32(STRETCH)
    base, channel, turn = sample * per_sample, (start + thread) % channels * by_channel, int32(THREADS) % channels * by_channel
    for place in range(start + thread, min(start + int32(STRETCH), per_sample), int32(THREADS)):
        at = base + place
        y[at] = x[at] * factor if _kept(channel, low, high, threshold) else float32(0)
        channel += turn
        if channel >= channels:
            channel -= channels


def groups(x: DeviceArray, y: DeviceArray, random: DeviceArray, first: DeviceArray, rate: float, by_channel: bool) -> None:
    """As :func:`elements`, but all positions of a channel (the last axis) of a sample share their fate, and without ``by_channel`` all of
    a sample."""
    per_sample = math.prod(x.shape[1:])
    stretches, channels = blocks_for(per_sample, STRETCH), x.shape[-1] if x.ndim > 1 else 1
    _groups(x.shape[0] * stretches, x, y, random, first, stretches, per_sample, channels, by_channel, *_constants(rate))


def _constants(rate: float) -> tuple[int, float]:
    """What the hash of an element must reach for it to stay, and what it is then multiplied by."""
    return math.ceil(rate * RESOLUTION), 1.0 / (1.0 - rate)
