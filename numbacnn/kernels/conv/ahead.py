"""Asking for what comes from memory while something else is computed: a convolution that first copies or transforms what it reads would
wait for it, and then memory for the convolution."""

from __future__ import annotations

from ...simd import prefetch_for_writing, prefetch_later, stride
from ..jit import inline
from ..streaming import CACHE_LINE


@inline
def place_of(array, n, plane, row, column):
    """Where a pixel of ``array (N, D, H, W, C)`` begins."""
    return n * stride(array, 0) + plane * stride(array, 1) + row * stride(array, 2) + column * stride(array, 3)


def _asking(ask):
    """The functions that ask, by ``ask``, for ``count`` channels, from the place ``at`` on, and for those from ``channel`` on of ``size x
    size`` pixels, as far as they exist."""

    @inline
    def ask_for_channels(array, at, count):
        for place in range(at, at + count, CACHE_LINE // array.itemsize):
            ask(array, place, 0, 1)

    @inline
    def ask_for_lines(array, n, plane, row, column, size, channel, count):
        if n < array.shape[0]:
            for line in range(max(0, row), min(row + size, array.shape[2])):
                at = place_of(array, n, plane, line, column) + channel
                for _ in range(min(size, array.shape[3] - column)):
                    ask_for_channels(array, at, count)
                    at += stride(array, 3)

    return ask_for_channels, ask_for_lines


channels_to_read, lines_to_read = _asking(prefetch_later)
_, lines_to_write = _asking(prefetch_for_writing)
