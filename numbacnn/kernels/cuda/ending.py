"""How a layer that mixes channels ends: what happens to a finished sum on its way to memory.

``y = scalar(sum * scale[channel] + shift[channel] + addend)``, each part only where there is one: a folded batch norm, a bias, a residual,
an elementwise activation. What is written may count towards the statistics of the batch norm that reads it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from . import scalar as scalars
from .driver import cuda, device_function, int32
from .launch import blocks_for, kernel
from .memory import DeviceArray
from .statistics import STATISTICS


@dataclasses.dataclass(frozen=True, eq=False)
class Ending:
    """``scale`` and ``shift`` have a number for each output channel, ``addend`` has the shape of the output, ``scalar`` is a Python
    function of one number. ``statistics (4, 1, parts, channels)`` is to be filled with parts of the output's statistics (see
    :mod:`.statistics`): for passes that gather as many parts, in their ``statistics_parts``."""

    scale: DeviceArray | None = None
    shift: DeviceArray | None = None
    addend: DeviceArray | None = None
    scalar: Callable[[Any], Any] | None = None
    statistics: DeviceArray | None = None

    @property
    def kind(self) -> tuple[bool, bool, bool, Callable[[Any], Any] | None]:
        """What kernels are specialised on: an argument of :func:`ended`."""
        return self.scale is not None, self.shift is not None, self.addend is not None, self.scalar

    def arguments(self, y: DeviceArray) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """``(scale, shift, addend)`` for a kernel; ``y``, which is never read, stands for those that are not there."""
        return tuple(y if array is None else array for array in (self.scale, self.shift, self.addend))  # type: ignore[return-value]

    def gathered(self, y: DeviceArray) -> tuple[DeviceArray, int]:
        """``(statistics, elements of each of its four planes)`` for a kernel, with ``y`` likewise."""
        return (y, 0) if self.statistics is None else (self.statistics, self.statistics.size // STATISTICS)


@functools.cache
def ended(kind: tuple[bool, bool, bool, Callable[[Any], Any] | None]) -> Callable:
    """The device function ``(sum, scale, shift, addend, channel, at)`` that gives element number ``at`` of the output."""
    has_scale, has_shift, has_addend, function = kind
    last = scalars.compiled(function) if function is not None else _same

    @device_function
    def ending(value, scale, shift, addend, channel, at):
        if has_scale:
            value = value * scale[channel]
        if has_shift:
            value = value + shift[channel]
        if has_addend:
            value = value + addend[at]
        return last(value)

    return ending


@device_function
def _same(value):
    return value


@kernel
def _fold_bias(bias, scale, shift, folded, count):
    at = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
    if at < count:
        folded[at] = bias[at] * scale[at] + shift[at]


def fold_bias(bias: DeviceArray, scale: DeviceArray, shift: DeviceArray, folded: DeviceArray) -> None:
    """``folded = bias * scale + shift``."""
    _fold_bias(blocks_for(bias.size), bias, scale, shift, folded, bias.size)
