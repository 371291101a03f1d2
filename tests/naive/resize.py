"""Slow, obvious references of numbacnn.kernels.resize: one axis after the other, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np


def nearest_taps(inputs, outputs, step):
    """``[(output, input, weight), ...]``."""
    return [(i, min(math.floor(i * step + 1e-9), inputs - 1), 1.0) for i in range(outputs)]


def linear_taps(inputs, outputs, step, align_corners):
    """``[(output, input, weight), ...]``."""
    taps = []
    for i in range(outputs):
        at = i * (inputs - 1) / max(outputs - 1, 1) if align_corners else (i + 0.5) * step - 0.5
        at = min(max(at, 0), inputs - 1)
        for j in range(inputs):
            if abs(at - j) < 1:
                taps.append((i, j, 1 - abs(at - j)))
    return taps


def gather(x, taps, sizes):
    """``x`` ``(N, spatial..., C)`` resized to ``sizes`` by the taps of each spatial axis."""
    for axis, (entries, outputs) in enumerate(zip(taps, sizes), 1):
        x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
        y = np.zeros((outputs, *x.shape[1:]))
        for i, j, weight in entries:
            y[i] += weight * x[j]
        x = np.moveaxis(y, 0, axis)
    return x
