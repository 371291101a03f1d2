"""Upsample: spatial axes at another size, nearest or linear."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import ConfigError, ShapeError
from . import checks
from .base import Layer, Shape
from .lifting import lifted

MODES = ("nearest", "linear", "bilinear", "trilinear")


@dataclasses.dataclass(frozen=True)
class Upsample(Layer):
    """One to three spatial axes ``scale`` times as long (rounded down), or of the given ``size``; each a number, or one per axis.

    ``mode`` is ``"nearest"`` or ``"bilinear"``, which interpolates linearly along every axis (``"linear"`` and ``"trilinear"``
    mean the same). With ``align_corners`` the centres of the corner pixels keep their place, without it their outer
    edges. Both conventions, and the position of nearest pixels, are those of :func:`torch.nn.functional.interpolate`.
    """

    scale: float | tuple[float, ...] | None = None
    mode: str = "nearest"
    align_corners: bool = False
    size: int | tuple[int, ...] | None = None

    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.resize:Upsample"
    stem: ClassVar[str] = "upsample"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode of Upsample is {self.mode!r}; it takes {', '.join(map(repr, MODES))}.")
        if self.scale is not None and self.size is not None:
            raise ConfigError(f"Upsample was given scale {self.scale!r} and size {self.size!r}; it takes one of them.")
        if self.align_corners and self.mode == "nearest":
            raise ConfigError('align_corners of Upsample is for linear interpolation; mode is "nearest".')
        checks.settle(self, "scale", "size")
        _check_entries("scale", self.scale, lambda entry: checks.is_number(entry) and entry > 0, "positive numbers")
        _check_entries("size", self.size, lambda entry: checks.is_integer(entry, 1), "positive integers")

    def _per_axis(self, x: Shape) -> tuple[str, tuple[float, ...]]:
        """Which of the two is given (a scale of 2 if none is), and its value for each spatial axis of ``x``."""
        axes = len(x) - 1
        if not 1 <= axes <= 3:
            raise ShapeError(f"given shape {tuple(x)}, needs one to three spatial axes and the channels.")
        field, value = ("scale", 2 if self.scale is None else self.scale) if self.size is None else ("size", self.size)
        values = value if isinstance(value, tuple) else (value,) * axes
        if len(values) != axes:
            raise ShapeError(f"given shape {tuple(x)} with {axes} spatial axes, needs as many entries of {field}, not {len(values)}.")
        return field, values

    def output_shape(self, x: Shape) -> Shape:
        field, values = self._per_axis(x)
        spatial = tuple(math.floor(n * value) if field == "scale" else int(value) for n, value in zip(x, values))
        if not all(spatial):
            raise ShapeError(
                f"given shape {tuple(x)}, needs axes of which scale {self.scale!r} leaves something: the output would be {spatial}."
            )
        return (*spatial, x[-1])

    def flops(self, x: Shape) -> int:
        reads = 0 if self.mode == "nearest" else 2 ** (len(x) - 1)
        return 2 * reads * math.prod(self.output_shape(x))

    def window(self, x: Shape) -> tuple[Any, Any, Any]:
        """A place sees the input pixel that it falls on (nearest), or the two around its centre (linear). Where exactly they lie
        depends on the place, by less than a pixel, which the extent covers."""
        extents, steps, padding = [], [], []
        field, values = self._per_axis(x)
        for n, places, value in zip(x, self.output_shape(x), values):
            step = 1 / Fraction(value).limit_denominator(1000) if field == "scale" else Fraction(n, places)
            if self.align_corners:
                step = Fraction(n - 1, max(places - 1, 1))
            shift = Fraction(0) if self.mode == "nearest" or self.align_corners else (step - 1) / 2
            slack = 1 - Fraction(1, (step.denominator * (2 if shift else 1)))
            extents.append((1 if self.mode == "nearest" else 2) + slack)
            steps.append(step)
            padding.append(slack - shift)
        return tuple(extents), tuple(steps), tuple(padding)

    def taps(self, x: Shape) -> list[Any]:
        """One table per axis of ``(D, H, W)``."""
        resize = kernels.resize
        field, values = self._per_axis(x)
        taps = [resize.nearest_taps(1, 1, 1.0)] * (4 - len(x))
        for inputs, outputs, value in zip(x, self.output_shape(x), values):
            step = 1 / value if field == "scale" else inputs / outputs
            if self.mode == "nearest":
                taps.append(resize.nearest_taps(inputs, outputs, step))
            else:
                taps.append(resize.linear_taps(inputs, outputs, step, self.align_corners))
        return taps

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        kernels.resize.gather(lifted(x), lifted(y), self.taps(x.shape[1:]))

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.resize.gather(lifted(dy), lifted(dx), [axis.transposed() for axis in self.taps(dx.shape[1:])])


def _check_entries(field: str, value: Any, good: Callable[[Any], bool], what: str) -> None:
    entries = value if isinstance(value, tuple) else (value,)
    if value is not None and not (entries and all(map(good, entries))):
        raise ConfigError(f"{field} of Upsample is {value!r}; it takes {what}, one or one per spatial axis.")
