"""Layers that leave out parts of their input at random in training, and pass it on unchanged otherwise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from .. import kernels
from . import checks
from .base import Layer, Shape
from .lifting import lines


class _Dropping(Layer):
    """What they share: what is kept grows by ``1 / (1 - rate)``, so that the expectation stays; nothing is stored for backward."""

    rate: float

    backward_reads: ClassVar[tuple[str, ...]] = ()
    in_place: ClassVar[bool] = True
    random: ClassVar[bool] = True
    inference_identity: ClassVar[bool] = True
    recordable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.number(self, "rate", least=0, below=1)

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        if training:
            self._drop(x, y, b["random"], b["first"])
        else:
            kernels.pointwise.forward(kernels.activations.identity)(*lines(x, y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            self._drop(dy, dx, b["random"], b["first"])

    def _drop(self, x: Any, y: Any, *random: Any) -> None:
        raise NotImplementedError

    def flops(self, x: Shape) -> int:
        return math.prod(x)


@dataclasses.dataclass(frozen=True)
class Dropout(_Dropping):
    """Leaves out each element with probability ``rate`` (Srivastava et al. 2014)."""

    rate: float = 0.5

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.dropout:Dropout"
    stem: ClassVar[str] = "dropout"

    def _drop(self, x: Any, y: Any, *random: Any) -> None:
        shape = (x.shape[0], math.prod(x.shape[1:]))
        kernels.dropout.elements(x.reshape(shape), y.reshape(shape), *random, float(self.rate))


@dataclasses.dataclass(frozen=True)
class SpatialDropout(_Dropping):
    """Leaves out each channel of a sample, at all its positions, with probability ``rate`` (Tompson et al. 2015)."""

    rate: float = 0.5

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.dropout:SpatialDropout"
    stem: ClassVar[str] = "spatial_dropout"

    def _drop(self, x: Any, y: Any, *random: Any) -> None:
        shape = (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
        kernels.dropout.groups(x.reshape(shape), y.reshape(shape), *random, float(self.rate), True)


@dataclasses.dataclass(frozen=True)
class StochasticDepth(_Dropping):
    """Leaves out whole samples with probability ``rate``: before the sum of a residual block, it skips the block for them
    (Huang et al. 2016)."""

    rate: float = 0.2

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.dropout:StochasticDepth"
    stem: ClassVar[str] = "stochastic_depth"

    def _drop(self, x: Any, y: Any, *random: Any) -> None:
        channels = x.shape[-1] if x.ndim > 1 else 1
        shape = (x.shape[0], math.prod(x.shape[1:-1]), channels)
        kernels.dropout.groups(x.reshape(shape), y.reshape(shape), *random, float(self.rate), False)
