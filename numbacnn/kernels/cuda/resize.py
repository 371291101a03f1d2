"""Weighted sums of a few pixels along each axis, on the device: resizing and average pooling, forward and, with transposed tables, backward
(compare :mod:`numbacnn.kernels.resize`, whose taps these are)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from ..resize import Taps
from .driver import cuda, float32, int32
from .indexing import divisors, located, read_inside
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray, on_device

RUN = 4  # neighbouring pixels of a thread
MOST_UNROLLED = 16  # pixels of a sum whose loads are all under way at once


@functools.cache
def _gather_few(deep: int, high: int, wide: int, weighted: bool, uneven: bool) -> Kernel:
    """Sums of at most that many pixels along each axis; ``uneven``: some have fewer."""
    held = RUN * wide

    @kernel
    def gather(
        x, y, sources, weights, runs, channels, by_c, of_c, wide_runs, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d, places_w,
        depth, height, width, at_h, at_w,
    ):  # fmt: skip
        at = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
        if at < runs:
            sample, d, h, run, channel = located(
                at, channels, by_c, of_c, wide_runs, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d
            )  # fmt: skip
            first = int32(run * RUN)
            sums, columns, shares = cuda.local.array(RUN, float32), cuda.local.array(held, int32), cuda.local.array(held, float32)
            for k in range(RUN):
                sums[k] = float32(0)
            for k in range(held):
                entry = int32(at_w + min(first + k // wide, places_w - 1) * wide + k % wide)
                columns[k] = sources[entry]
                if weighted:
                    shares[k] = weights[entry]
            for i in range(deep):
                plane = sources[d * deep + i]
                for j in range(high):
                    line = sources[at_h + h * high + j]
                    share = weights[d * deep + i] * weights[at_h + h * high + j] if weighted else float32(1)
                    near = int32(((sample * depth + plane) * height + line) * width)
                    for k in range(held):
                        inside = plane >= 0 and line >= 0 and columns[k] >= 0 if uneven else True
                        value = read_inside(x, int32((near + columns[k]) * channels + channel), inside)
                        sums[k // wide] += value * (share * shares[k]) if weighted else value
            to = int32((((sample * places_d + d) * places_h + h) * places_w + first) * channels + channel)
            for k in range(RUN):
                if first + k < places_w:
                    y[to] = sums[k]
                to = int32(to + channels)

    return gather


@kernel
def _gather_many(
    x, y, sources, weights, count, channels, by_c, of_c, places_w, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d, depth, height,
    width, deep, high, wide, at_h, at_w,
):  # fmt: skip
    """Sums of any number of pixels, line by line: rounding errors grow with the sides of what is summed, not with its area."""
    at = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    if at < count:
        sample, d, h, w, channel = located(
            at, channels, by_c, of_c, places_w, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d
        )  # fmt: skip
        total = float32(0)
        for i in range(deep):
            plane = sources[d * deep + i]
            for j in range(high if plane >= 0 else int32(0)):
                line, sums = sources[at_h + h * high + j], float32(0)
                near = int32(((sample * depth + plane) * height + line) * width)
                for k in range(wide if line >= 0 else int32(0)):
                    column = sources[at_w + w * wide + k]
                    value = read_inside(x, int32((near + column) * channels + channel), column >= 0)
                    sums += value * weights[at_w + w * wide + k]
                total += sums * (weights[d * deep + i] * weights[at_h + h * high + j])
        y[at] = total


def gather(x: DeviceArray, y: DeviceArray, taps: Sequence[Taps]) -> None:
    """Fill ``y`` ``(N, D_out, H_out, W_out, C)`` from ``x`` ``(N, D, H, W, C)`` by the taps of the three axes."""
    channels, places = x.shape[-1], [axis.outputs for axis in taps]
    tables = [_padded(axis) for axis in taps]
    most = [sources.shape[1] for sources, _ in tables]
    sources = on_device(np.concatenate([sources.ravel() for sources, _ in tables]))
    weights = on_device(np.concatenate([weights.ravel() for _, weights in tables]))
    sizes = [axis.inputs for axis in taps]
    starts = tables[0][0].size, tables[0][0].size + tables[1][0].size
    if math.prod(most) > MOST_UNROLLED:
        _gather_many(
            blocks_for(y.size), x, y, sources, weights, y.size, *divisors(channels, *reversed(places)), *sizes, *most, *starts
        )  # fmt: skip
        return
    weighted = any((axis.weight != 1).any() for axis in taps)
    uneven = any((sources < 0).any() for sources, _ in tables)
    wide_runs = -(-places[2] // RUN)
    runs = y.size // places[2] * wide_runs
    _gather_few(*most, weighted, uneven)(
        blocks_for(runs), x, y, sources, weights, runs, *divisors(channels, wide_runs, places[1], places[0]), places[2], *sizes, *starts
    )  # fmt: skip


def _padded(axis: Taps) -> tuple[np.ndarray, np.ndarray]:
    """Sources and weights as ``(outputs, most taps of one)``; what is not there has source -1 and weight 0."""
    counts = np.bincount(axis.target, minlength=axis.outputs)
    number = np.arange(axis.target.size) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = axis.outputs, max(1, int(counts.max()))
    sources, weights = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    sources[axis.target, number], weights[axis.target, number] = axis.source, axis.weight
    return sources, weights
