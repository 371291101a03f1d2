"""Squeeze-and-excitation's factors in one launch: the means of all channels, and the two dense layers behind them.

Everything is so small that a launch for each part would take longer than the part; so one thread computes all of an image's factors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ..simd import load, stride, zeros
from .channels import VECTORS, WIDTH, read, write
from .conv.ending import ending, resolved
from .dense import add_channels, begin
from .jit import inline, kernel
from .tasks import next_task


def _rounded(channels: int) -> int:
    return -(-channels // WIDTH) * WIDTH


@functools.cache
def _layer(activation):
    """The function that computes a dense layer with ``activation`` (see :func:`numbacnn.kernels.conv.ending.ending`)."""
    finish = ending(activation)

    @inline
    def layer(x, w, bias, low, high, sums, y, to):
        """``y[to:] = finish(x @ w + bias)`` for one row ``x``; ``sums`` has room for whole panels."""
        channels, columns = w.shape
        begin(sums, 1, bias, 0, columns, False)
        add_channels(sums, x, 1, channels, w, 0, columns, columns, 0)
        for column in range(0, columns, WIDTH):
            write(finish(load(sums, column, 0, 1, VECTORS), low, high), y, to + column, columns - column)

    return layer


@inline
def _means(sums, n, share, means):
    """``means (C,)``: image ``n``'s sums, added up, times ``share``."""
    stretches, channels = sums.shape[1], sums.shape[2]
    for channel in range(0, channels, WIDTH):
        count = channels - channel
        at = n * stretches * channels + channel
        total = zeros(sums, 1, VECTORS)
        for _ in range(stretches):
            total = total + read(sums, at, count)
            at += channels
        write(total * share, means, channel, count)


@functools.cache
def excitation(first, second):
    """The kernel ``excite`` whose dense layers have the activations ``first`` and ``second``."""
    reduce, expand = _layer(first), _layer(second)

    @kernel(parallel=True, views=("y",))
    def excite(sums, share, w, bias, low, high, w2, bias2, low2, high2, y, scratch, queue, thread):
        """``y = finish2(finish(mean @ w + bias) @ w2 + bias2)`` with ``mean (N, C) = share * sums over the stretches of sums
        (N, stretches, C)``; ``w (C, units)``, ``w2 (units, CO)``, ``y (N, CO)``, ``scratch (threads, scratch_elements)``."""
        channels, units = w.shape
        hidden_at = -(-channels // WIDTH) * WIDTH
        room_at = hidden_at + -(-units // WIDTH) * WIDTH
        means = scratch[thread]
        hidden, room = means[hidden_at:], means[room_at:]
        while True:
            n = next_task(queue, thread, y.shape[0])
            if n >= y.shape[0]:
                break
            _means(sums, n, share, means)
            reduce(means, w, bias, low, high, room, hidden, 0)
            expand(hidden, w2, bias2, low2, high2, room, y, n * stride(y, 0))

    return excite


def scratch_elements(channels: int, units: int, outputs: int) -> int:
    """Scratch elements per thread that :func:`factors` needs."""
    return _rounded(channels) + _rounded(units) + max(_rounded(units), _rounded(outputs))


Layer = tuple[np.ndarray, np.ndarray, Callable | None]
"""Weights ``(C, units)``, bias and scalar function (None for none) of a dense layer."""


def factors(sums: np.ndarray, share: float, reduce: Layer, expand: Layer, y: np.ndarray, scratch: np.ndarray) -> None:
    """``y (N, CO)``: what the dense layers ``reduce`` and ``expand`` make of ``share`` times the sums over the stretches of ``sums
    (N, stretches, C)``."""
    first, low, high = resolved(reduce[2])
    second, low2, high2 = resolved(expand[2])
    excitation(first, second)(sums, share, *reduce[:2], low, high, *expand[:2], low2, high2, y, scratch, alone=len(y) == 1)
