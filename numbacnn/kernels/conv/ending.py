"""How an epilogue ends: with a clamp, which serves several activations in one compiled kernel, or with an activation's own function."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from ...simd import clamp
from .. import activations
from ..jit import inline
from ..scalar import compiled

EVERYTHING = (-math.inf, math.inf)
CLAMPS = {None: EVERYTHING, activations.identity: EVERYTHING, activations.relu: (0.0, math.inf), activations.relu6: (0.0, 6.0)}
"""Scalar functions that are clamps, and to what."""


def is_clamp(scalar: Callable) -> bool:
    """Whether a scalar function is a clamp."""
    return scalar in CLAMPS


def resolved(scalar: Callable | None) -> tuple[Callable | None, float, float]:
    """What kernels are made for, and the numbers that they take: an inlined function or None, ``low`` and ``high``."""
    if scalar in CLAMPS:
        return (None, *CLAMPS[scalar])
    return (compiled(scalar), *EVERYTHING)  # type: ignore[arg-type]


@functools.cache
def ending(activation: Callable | None) -> Callable:
    """The inlined function ``(tile, low, high)``: ``activation``, or for None a clamp to ``low .. high``."""

    @inline
    def clamped(tile, low, high):
        return clamp(tile, low, high)

    @inline
    def activated(tile, low, high):
        return activation(tile)

    return clamped if activation is None else activated
