"""Pooling on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...kernels.conv.window import lift
from ...kernels.cuda import pool, resize
from ...kernels.cuda.columns import column_sum_elements, column_sums
from ...kernels.resize import Taps
from ..base import Buffer, Shape
from .twin import Twin


class _Pool(Twin):
    """What the twins share: windows as the kernels take them."""

    def _pooling(self, x: Shape) -> pool.Pooling:
        windows, covers, _ = self.layer.tables(x)
        return pool.Pooling(windows, covers, lift(x[:-1], 1), lift(self.layer.places(x), 1))


class MaxPool(_Pool):
    """The twin of all layers that take a maximum."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        pool.max_forward(self._pooling(x.shape[1:]), x, y, b["argmax"] if training else None)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            pool.max_backward(self._pooling(dx.shape[1:]), dy, b["argmax"], dx)


class AveragePool(_Pool):
    """The twin of all layers that take a mean: a sum of pixels with weights that are products of one for each axis."""

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        elements = column_sum_elements(batch, math.prod(x[:-1]), x[-1]) if self._pooling(x).everything else 0
        return {"parts": Buffer((elements,), per_sample=False)} if elements else {}

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        shape = x.shape[1:]
        if self._pooling(shape).everything:
            _, _, shares = self.layer.tables(shape)
            column_sums(x, len(x), y, b.get("parts"), float(np.prod(shares[:, 0])))
        else:
            resize.gather(x, y, self._taps(shape))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            resize.gather(dy, dx, [axis.transposed() for axis in self._taps(dx.shape[1:])])

    def _taps(self, x: Shape) -> list[Taps]:
        windows, _, shares = self.layer.tables(x)
        axes = zip(windows, shares, lift(x[:-1], 1), lift(self.layer.places(x), 1))
        return [_taps_of(window[:places], share[:places], size) for window, share, size, places in axes]


def _taps_of(windows: np.ndarray, shares: np.ndarray, size: int) -> Taps:
    """The pixels of the windows along an axis, with their weights."""
    starts, counts, steps = windows.T
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    source = np.repeat(starts, counts) + np.repeat(steps, counts) * number
    return Taps(size, len(windows), np.repeat(np.arange(len(windows)), counts), source, np.repeat(shares, counts))


class LpPool(_Pool):
    """The twin of LpPool1D, LpPool2D and LpPool3D."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        pool.lp_forward(self._pooling(x.shape[1:]), x, y, float(self.layer.p))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            pool.lp_backward(self._pooling(dx.shape[1:]), x, y, dy, dx, float(self.layer.p))
