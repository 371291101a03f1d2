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

SHORT = {"abs", "max", "min", "where"}
"""What scalar functions may call that takes an instruction or two."""


def is_clamp(scalar: Callable) -> bool:
    """Whether a scalar function is a clamp."""
    return scalar in CLAMPS


def resolved(scalar: Callable | None) -> tuple[Callable | None, float, float]:
    """What kernels are made for, and the numbers that they take: an inlined function or None, ``low`` and ``high``."""
    if scalar in CLAMPS:
        return (None, *CLAMPS[scalar])
    return (compiled(scalar), *EVERYTHING)  # type: ignore[arg-type]


def is_long(scalar: Callable | None) -> bool:
    """Whether a scalar function calls others, such as exp, and needs many registers."""
    return scalar not in CLAMPS and not SHORT.issuperset(scalar.__code__.co_names)  # type: ignore[union-attr]


@inline
def untouched(tile, low, high):
    """An ending for what is activated later."""
    return tile


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
