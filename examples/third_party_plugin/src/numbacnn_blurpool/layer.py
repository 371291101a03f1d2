"""BlurPool2D: blur, then take every second pixel."""

import dataclasses
import functools
from math import comb

import numpy as np

from numbacnn.errors import ConfigError, ShapeError
from numbacnn.layers.base import Layer


@dataclasses.dataclass(frozen=True)
class BlurPool2D(Layer):
    """Anti-aliased downsampling (R. Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019).

    Each channel is filtered with the binomial kernel of ``size`` x ``size`` (size 3: 1 2 1, divided by its sum) and sampled at every
    ``stride``-th pixel; the border repeats outwards. ``(H, W, C)`` gives ``(ceil(H / stride), ceil(W / stride), C)``.
    Raises ConfigError for a size below 2 or a stride below 1, ShapeError for an input that is no image.
    """

    size: int = 3
    stride: int = 2

    backward_reads = ()
    recordable = True
    stem = "blurpool"

    def __post_init__(self):
        if not isinstance(self.size, int) or self.size < 2:
            raise ConfigError(f"BlurPool2D was given size={self.size!r}; it must be a whole number of at least 2.")
        if not isinstance(self.stride, int) or self.stride < 1:
            raise ConfigError(f"BlurPool2D was given stride={self.stride!r}; it must be a whole number of at least 1.")

    def output_shape(self, x):
        if len(x) != 3:
            raise ShapeError(f"it needs an input of shape (height, width, channels), not {x}.")
        height, width, channels = x
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1, channels

    def forward(self, x, y, p, b, training):
        from . import kernels

        kernels.forward(x, y, binomial(self.size, x.dtype), self.stride)

    def backward(self, x, y, dy, dx, p, dp, b):
        from . import kernels

        if dx is not None:
            kernels.backward(dy, dx, binomial(self.size, dy.dtype), self.stride)

    def flops(self, x):
        height, width, channels = self.output_shape(x)
        return 2 * self.size**2 * height * width * channels

    def window(self, x):
        before = (self.size - 1) // 2
        return (self.size, self.size), (self.stride, self.stride), (before, before)


@functools.cache
def binomial(size, dtype):
    """Binomial coefficients of ``size`` taps, divided by their sum."""
    return np.array([comb(size - 1, k) for k in range(size)], dtype) / dtype.type(2 ** (size - 1))
