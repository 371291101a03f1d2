"""Resizing: every output pixel is a weighted sum of a few input pixels, axis by axis.

Which pixels and weights is worked out once, in tables of *taps* per axis. The backward pass is the same kernel with transposed tables, so
that each input pixel gathers its gradient from the outputs that read it: no two threads ever write to one place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..simd import stride, zeros
from .channels import VECTORS, WIDTH, read, write
from .jit import inline, kernel
from .strided import TASK_ELEMENTS
from .tasks import next_task


@dataclasses.dataclass(frozen=True)
class Taps:
    """How one axis is resized: entry ``k`` adds ``weight[k]`` times input ``source[k]`` to output ``target[k]``; sorted by output."""

    inputs: int
    outputs: int
    target: np.ndarray
    source: np.ndarray
    weight: np.ndarray

    def transposed(self) -> Taps:
        order = np.argsort(self.source, kind="stable")
        return Taps(self.outputs, self.inputs, self.source[order], self.target[order], self.weight[order])


def nearest_taps(inputs: int, outputs: int, step: float) -> Taps:
    """Output ``i`` is input ``floor(i * step)``, as PyTorch's ``interpolate(mode="nearest")``."""
    target = np.arange(outputs)
    exact = target * inputs // outputs if step == inputs / outputs else np.floor(target * step).astype(np.int64)
    return Taps(inputs, outputs, target, np.minimum(exact, inputs - 1), np.ones(outputs))


def linear_taps(inputs: int, outputs: int, step: float, align_corners: bool) -> Taps:
    """Output ``i`` lies between the two inputs around ``i * (inputs - 1) / (outputs - 1)`` with ``align_corners`` (the centres of the
    corner pixels meet), else around ``(i + 0.5) * step - 0.5`` (their outer edges meet), held within the axis."""
    target = np.arange(outputs)
    if align_corners:
        at = target * ((inputs - 1) / (outputs - 1)) if outputs > 1 else np.zeros(1)
    else:
        at = np.maximum((target + 0.5) * step - 0.5, 0.0)
    low = np.minimum(np.floor(at).astype(np.int64), inputs - 1)
    high = np.minimum(low + 1, inputs - 1)
    fraction = np.where(high > low, at - low, 0.0)
    pairs = np.stack([1.0 - fraction, fraction], axis=1).ravel()
    used = pairs != 0
    return Taps(inputs, outputs, np.repeat(target, 2)[used], np.stack([low, high], axis=1).ravel()[used], pairs[used])


def gather(x: np.ndarray, y: np.ndarray, taps: Sequence[Taps]) -> None:
    """Fill ``y`` ``(N, D_out, H_out, W_out, C)`` from ``x`` ``(N, D, H, W, C)`` by the taps of the three axes."""
    starts, first = [], 0
    for axis in taps:
        counts = np.bincount(axis.target, minlength=axis.outputs)
        starts.append(first + np.concatenate([[0], np.cumsum(counts)]))
        first += len(axis.target)
    source = np.concatenate([axis.source for axis in taps]).astype(np.int64)
    weight = np.concatenate([axis.weight for axis in taps]).astype(x.dtype)
    grain = max(1, TASK_ELEMENTS // (y.shape[3] * y.shape[4]))
    _gather(x, y, np.concatenate(starts).astype(np.int64), source, weight, grain)


@kernel(parallel=True, views=("x", "y"))
def _gather(x, y, starts, source, weight, grain, queue, thread):
    lines = y.shape[0] * y.shape[1] * y.shape[2]
    while True:
        first = next_task(queue, thread, -(-lines // grain)) * grain
        if first >= lines:
            break
        for line in range(first, min(first + grain, lines)):
            _gather_line(x, y, starts, source, weight, line)


@inline
def _gather_line(x, y, starts, source, weight, line):
    depth, height, width, channels = y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    row = line % height
    plane = line // height % depth
    image = line // (height * depth)
    in_image = image * stride(x, 0)
    out_line = image * stride(y, 0) + plane * stride(y, 1) + row * stride(y, 2)
    row_at = depth + 1 + row
    columns = depth + height + 2
    for column in range(width):
        for channel in range(0, channels, WIDTH):
            count = channels - channel
            sums = zeros(x, 1, VECTORS)
            for i in range(starts[plane], starts[plane + 1]):
                for j in range(starts[row_at], starts[row_at + 1]):
                    in_line = in_image + source[i] * stride(x, 1) + source[j] * stride(x, 2) + channel
                    share = weight[i] * weight[j]
                    for k in range(starts[columns + column], starts[columns + column + 1]):
                        pixel = read(x, in_line + source[k] * stride(x, 3), count)
                        sums = sums + pixel * (share * weight[k])
            write(sums, y, out_line + column * stride(y, 3) + channel, count)
