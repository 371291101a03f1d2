"""Neighbouring pixels of few channels as one pixel of many.

Of a vector of output channels, a convolution with few of them computes the rest for nothing. But in memory, ``g`` neighbouring pixels of
``CO`` channels are one pixel of ``g CO`` channels, and a convolution makes those with kernel lines of ``K + (g - 1) s`` taps and stride
``g s`` in place of ``K`` and ``s``: so many products of a vector instead of ``g K``. Each pixel's weights are zero at the taps that only
others have; the sums and their order stay the same (but an input that is not finite spoils all ``g`` pixels).

The gradient of the weights of such a convolution has, for each tap, the gradient that each of the ``g`` pixels gives it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ...simd import LANES
from ..channels import WIDTH
from ..jit import kernel
from .window import Triple, Window

WORTH = 0.85  # of the products that there are otherwise, at most


@dataclasses.dataclass(frozen=True)
class Folding:
    """A convolution into ``places`` with ``outputs`` channels, ``pixels`` of the output being one."""

    pixels: int
    window: Window
    places: Triple
    outputs: int

    @property
    def apart(self) -> Window:
        """The window with all its taps, for outputs whose pixels do not follow each other: weights are packed with these."""
        stride = (*self.window.stride[:2], self.window.stride[2] // self.pixels)
        return dataclasses.replace(self.window, stride=stride)

    def of(self, array: np.ndarray) -> np.ndarray | None:
        """``(N, D, H, W, C)`` with its pixels folded; None where they do not follow each other."""
        if array.strides[3] != array.shape[4] * array.itemsize:  # what one channel's stride is says nothing
            return None
        shape = *array.shape[:3], array.shape[3] // self.pixels, array.shape[4] * self.pixels
        strides = *array.strides[:3], array.strides[3] * self.pixels, array.itemsize
        return np.lib.stride_tricks.as_strided(array, shape, strides)


def folding(window: Window, places: Triple, outputs: int, folds: bool = True) -> Folding:
    """How many pixels of a convolution to fold; one where that saves little, or it does not ``fold``."""
    taps, stride = window.extent[2], window.stride[2]

    def products(pixels: int) -> float:
        return (taps + (pixels - 1) * stride) / (pixels * taps)

    most = LANES // outputs if folds and window.groups == window.dilation[2] == 1 else 1
    pixels = min((n for n in range(1, most + 1) if places[2] % n == 0), key=products, default=1)
    if products(pixels) > WORTH:
        return Folding(1, window, places, outputs)
    extent = (*window.extent[:2], taps + (pixels - 1) * stride)
    folded = dataclasses.replace(window, extent=extent, stride=(*window.stride[:2], pixels * stride))
    return Folding(pixels, folded, (*places[:2], places[2] // pixels), pixels * outputs)


@kernel
def pack_folded(w, taps, line, pixels, step, transposed, scale, packed):
    """Pack ``w (taps, C, CO)``, the numbers of whose taps are ``taps``, ``line`` for each line of the kernel, as one panel
    ``[line][line + (pixels - 1) * step][C][WIDTH]``; ``transposed``: of CO inputs and C outputs. ``scale`` multiplies the outputs."""
    inputs, outputs = (w.shape[2], w.shape[1]) if transposed else (w.shape[1], w.shape[2])
    packed[:] = 0
    at = 0
    for first in range(0, taps.size, line):
        for place in range(line + (pixels - 1) * step):
            for c in range(inputs):
                for pixel in range(pixels):
                    tap = place - pixel * step
                    if 0 <= tap < line:
                        for o in range(outputs):
                            weight = w[taps[first + tap], o, c] if transposed else w[taps[first + tap], c, o]
                            packed[at + pixel * outputs + o] = weight * scale[o]
                at += WIDTH


@kernel
def repeat(bias, repeated):
    """``bias`` for each of the folded pixels."""
    for c in range(repeated.size):
        repeated[c] = bias[c % bias.size]


@kernel
def unfold_gradient(folded, line, pixels, step, dw):
    """``dw (taps, C, CO)`` of the gradient ``folded (lines, line + (pixels - 1) * step, C, pixels, CO)``."""
    for tap in range(dw.shape[0]):
        at, place = divmod(tap, line)
        for c in range(dw.shape[1]):
            for o in range(dw.shape[2]):
                dw[tap, c, o] = folded[at, place, c, 0, o]
                for pixel in range(1, pixels):
                    dw[tap, c, o] += folded[at, place + pixel * step, c, pixel, o]
