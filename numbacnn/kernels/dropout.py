"""Dropout of elements, of channels and of samples. The same kernels serve forward and backward.

Nothing is stored between the passes: whether an element is kept is a hash of the random stream's key, the step and the element's
place, so that it is the same in both passes, with any number of threads, and on every machine.
"""

from __future__ import annotations

import numpy as np

from ..simd import columns, where
from .channels import VECTORS, WIDTH, read, write
from .jit import inline, kernel
from .tasks import next_task

BLOCK = 8192  # elements per task; the hash depends on it
RESOLUTION = 2.0**24  # probabilities are multiples of its inverse

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFT1, SHIFT2, SHIFT3, HALF = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
LOW_HALF = np.uint64(0xFFFFFFFF)


@inline
def _mixed(z):
    """One step of splitmix64 (Steele, Lea & Flood 2014) from state ``z``."""
    z = z + GOLDEN
    z = (z ^ (z >> SHIFT1)) * MIX1
    z = (z ^ (z >> SHIFT2)) * MIX2
    return z ^ (z >> SHIFT3)


@inline
def _seed(random, place):
    """64 bits for the stream ``(key, step)`` and a place in it."""
    return _mixed(_mixed(_mixed(random[0]) + random[1]) + np.uint64(place))


@inline
def _scrambled(z):
    """A bijection of 32 bits in which every bit depends on every other (multiply and xor-shift; Wellons 2018, lowbias32)."""
    z = (z ^ (z >> 16)) * 0x7FEB352D
    z = (z ^ (z >> 15)) * 0x846CA68B
    return z ^ (z >> 16)


@inline
def _kept(index, seed, threshold):
    """Mask of the elements to keep, from the Tile of their indices below the seed."""
    z = _scrambled(index + (seed & LOW_HALF))
    z = _scrambled(z ^ (seed >> HALF))
    return (z >> 8) >= threshold


@kernel(parallel=True)
def elements(x, y, random, first, rate, queue, thread):
    """``y = x / (1 - rate)`` with probability ``1 - rate``, else 0, for each element of dense arrays ``(samples, elements)``.

    ``random`` is uint64 ``(key, step)``. The samples are those of a larger batch from number ``first[0]`` on, and meet the fate that
    they have there. Backward is the same of ``dy``.
    """
    before = first[0] * x.shape[1]
    threshold = int(np.ceil(rate * RESOLUTION))
    factor = 1.0 / (1.0 - rate)
    while True:
        block = before // BLOCK + next_task(queue, thread, -(-(x.size + before % BLOCK) // BLOCK))
        origin = block * BLOCK - before
        if origin >= x.size:
            break
        stop = min(origin + BLOCK, x.size)
        seed = _seed(random, block)
        for at in range(max(origin, 0), stop, WIDTH):
            kept = _kept(columns(1, VECTORS) + (at - origin), seed, threshold)
            write(where(kept, read(x, at, stop - at) * factor, 0.0), y, at, stop - at)


@kernel(parallel=True)
def groups(x, y, random, first, rate, by_channel, queue, thread):
    """As :func:`elements` for arrays ``(samples, positions, channels)``: all positions of a channel of a sample share their fate,
    and without ``by_channel`` all of a sample."""
    samples, positions, channels = x.shape
    threshold = int(np.ceil(rate * RESOLUTION))
    factor = 1.0 / (1.0 - rate)
    per_task = max(1, BLOCK // channels)
    tasks = -(-positions // per_task)
    while True:
        task = next_task(queue, thread, samples * tasks)
        sample = task // tasks
        if sample >= samples:
            break
        begin = task % tasks * per_task
        seed = _seed(random, first[0] + sample)
        for c in range(0, channels, WIDTH):
            kept = _kept((columns(1, VECTORS) + c) * int(by_channel), seed, threshold)
            for position in range(begin, min(begin + per_task, positions)):
                at = (sample * positions + position) * channels + c
                write(where(kept, read(x, at, channels - c) * factor, 0.0), y, at, channels - c)
