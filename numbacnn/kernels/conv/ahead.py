"""Asking for what comes from memory while something else is computed: a convolution that first copies or transforms what it reads would
wait for it, and then memory for the convolution."""

from __future__ import annotations

from ...simd import prefetch_for_writing, prefetch_later, stride
from ..jit import inline
from ..streaming import CACHE_LINE

ELEMENTS = CACHE_LINE // 4
"""Of a line in float32. A constant: a division takes longer than what it is for. Every other line of float64 is asked for."""


@inline
def place_of(array, n, plane, row, column):
    """Where a pixel of ``array (N, D, H, W, C)`` begins."""
    return n * stride(array, 0) + plane * stride(array, 1) + row * stride(array, 2) + column * stride(array, 3)


def _asking(ask):
    """The functions that ask, by ``ask``, for ``count`` channels from the place ``at`` on, and for those from ``channel`` on of up to
    ``pixels`` of a line, as far as they exist."""

    @inline
    def ask_for_channels(array, at, count):
        for place in range(at, at + count, ELEMENTS):
            ask(array, place, 0, 1)

    @inline
    def ask_for_line(array, n, plane, line, column, pixels, channel, count):
        if n < array.shape[0] and 0 <= line < array.shape[2]:
            at, step = place_of(array, n, plane, line, column) + channel, stride(array, 3)
            there = min(pixels, array.shape[3] - column)
            if step == count:
                ask_for_channels(array, at, there * count)
            else:
                for pixel in range(there):
                    ask_for_channels(array, at + pixel * step, count)

    return ask_for_channels, ask_for_line


channels_to_read, line_to_read = _asking(prefetch_later)
_, line_to_write = _asking(prefetch_for_writing)
