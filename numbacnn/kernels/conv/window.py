"""Sliding windows over three spatial axes."""

from __future__ import annotations

import dataclasses
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


def lift(values: Sequence[int], fill: int) -> Triple:
    """One, two or three numbers as three, ``fill`` in front."""
    return (fill,) * (3 - len(values)) + tuple(values)  # type: ignore[return-value]
