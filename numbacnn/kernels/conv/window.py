"""Sliding windows over three spatial axes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

Triple = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Window:
    """A sliding window over (depth, height, width); ``padding`` is that in front and may be negative."""

    extent: Triple
    stride: Triple
    dilation: Triple
    padding: Triple
    groups: int = 1

    @property
    def taps(self) -> int:
        return math.prod(self.extent)


POINTWISE = Window((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0))
"""Of a matrix product over the channels."""
NOTHING = Window((0, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0))
"""Of a sum without terms."""


def met(window: Window, size: Triple, places: Triple) -> tuple[Window, tuple[int, ...]]:
    """The part of a window whose taps meet any of ``size`` inputs at any of ``places``, and the numbers of these taps. The rest of it meets
    nothing but padding, as on the last maps of a network for large images that is given small ones."""
    axes = [_met(*axis) for axis in zip(window.extent, window.stride, window.dilation, window.padding, size, places)]
    if not all(axes):
        return dataclasses.replace(NOTHING, groups=window.groups), ()
    _, height, width = window.extent
    taps = tuple((d * height + h) * width + w for d, h, w in itertools.product(*axes))
    extent = tuple(len(axis) for axis in axes)
    padding = tuple(p - d * axis[0] for p, d, axis in zip(window.padding, window.dilation, axes))
    return dataclasses.replace(window, extent=extent, padding=padding), taps  # type: ignore[arg-type]


def _met(extent: int, stride: int, dilation: int, padding: int, size: int, places: int) -> range:
    """The taps along an axis from the first to the last one that meets an input."""
    met = [k for k in range(extent) if _meets(k * dilation - padding, stride, size, places)]
    return range(met[0], met[-1] + 1) if met else range(0)


def _meets(offset: int, stride: int, size: int, places: int) -> bool:
    """Whether ``offset + stride * place`` is within ``0 .. size`` for any of the places."""
    first = max(0, -(offset // stride))
    return first < places and 0 <= offset + stride * first < size


def lift(values: Sequence[int], fill: int) -> Triple:
    """One, two or three numbers as three, ``fill`` in front."""
    return (fill,) * (3 - len(values)) + tuple(values)  # type: ignore[return-value]
