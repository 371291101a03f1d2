"""Normalisation: batch, layer, group, instance, and local response. Channels are the last axis; there may be any number of axes
between the batch and them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import ConfigError, ShapeError
from . import checks
from .activation import Elementwise, Scalar
from .base import GATHERED, Buffer, Layer, Parameter, Shape
from .lifting import reshaped


def _or_nothing(arrays: dict, name: str, like: np.ndarray) -> np.ndarray:
    """A parameter or gradient, or an array of size 0 where there is none."""
    return arrays[name] if name in arrays else np.empty(0, like.dtype)


def _affine_parameters(shape: Shape, scale: bool, center: bool) -> dict[str, Parameter]:
    parameters = {}
    if scale:
        parameters["weight"] = Parameter(shape, "ones", decay=False)
    if center:
        parameters["bias"] = Parameter(shape, "zeros", decay=False)
    return parameters


# Batch, group and instance normalisation: statistics over pixels, per group of channels -------------------------------


class _PixelNorm(Layer):
    """What they share: the kernels' view ``(samples, pixels, channels)`` of an array, in which several neighbouring pixels may count as one
    of several times the channels (:func:`numbacnn.kernels.norm.fold`), and the way through the kernels.

    Each says over how many samples of how many pixels its statistics go (:meth:`_extent`) and into how many groups its
    channels fall (:meth:`_group_count`).
    """

    recordable: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.norm:PixelNorm"

    epsilon: float

    def _extent(self, batch: int, x: Shape) -> tuple[int, int]:
        """Sets of statistics, and pixels of each."""
        return batch, math.prod(x[:-1])

    def _group_count(self, channels: int) -> int:
        raise NotImplementedError

    def _statistics(self, x: Shape) -> dict[str, Buffer]:
        shape = (x[-1],)
        return {"mean": Buffer(shape), "rstd": Buffer(shape)}

    def buffers(self, x: Shape) -> dict[str, Buffer]:
        return self._statistics(x)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        samples, pixels, channels = self._folded(batch, x)
        arrays = {} if training else self._statistics(x)
        arrays["affine"] = Buffer((3, samples, channels), per_sample=False)
        arrays["partials"] = Buffer((kernels.statistics.STATISTICS, samples, kernels.norm.chunks(pixels), channels), per_sample=False)
        arrays["totals"] = Buffer((kernels.statistics.TOTALS * channels,), np.float64, per_sample=False)
        if training:
            arrays["slope"] = arrays["offset"] = Buffer((samples, channels), per_sample=False)
        return arrays

    def _folded(self, batch: int, x: Shape) -> tuple[int, int, int]:
        """The shape of a view."""
        samples, pixels = self._extent(batch, x)
        fold = kernels.norm.fold(math.prod(x[:-1]), x[-1])
        return samples, pixels // fold, fold * x[-1]

    def _views(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Arrays of one shape, as the kernels see them; with gaps between the pixels of one, each pixel by itself."""
        batch, *x = arrays[0].shape
        shape = self._folded(batch, tuple(x))
        if not all(array.flags.c_contiguous for array in arrays):
            shape = *self._extent(batch, tuple(x)), x[-1]
        return tuple(reshaped(array, shape) for array in arrays)

    def _find_statistics(self, x: np.ndarray, b: dict, momentum: float, running: tuple[np.ndarray, np.ndarray]) -> None:
        (mean, rstd), partials = self._per_set(b), b.get(GATHERED)
        if partials is None:
            partials = b["partials"]
            kernels.norm.partial_statistics(*self._views(x), partials)
        kernels.statistics.merge_statistics(
            partials, b["totals"], self._group_count(mean.shape[1]), float(self.epsilon), mean, rstd, momentum, *running
        )  # fmt: skip

    @staticmethod
    def _per_set(b: dict) -> tuple[np.ndarray, np.ndarray]:
        """``mean`` and ``rstd`` as ``(samples, channels)``."""
        channels = b["mean"].shape[-1]
        return b["mean"].reshape(-1, channels), b["rstd"].reshape(-1, channels)

    def _spread(self, p: dict, b: dict) -> np.ndarray:
        """Statistics and parameters, as passes over pixels read them."""
        mean, rstd = self._per_set(b)
        kernels.norm.spread(mean, rstd, _or_nothing(p, "weight", mean), _or_nothing(p, "bias", mean), b["affine"])
        return b["affine"]

    def followed_by(self, residual: bool, activation: Elementwise | None) -> FusedNorm:
        """This layer and what comes after it as one, for training: a sum with a second input of the same shape, and an activation."""
        return FusedNorm(self, residual, activation)

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        self.run(x, y, p, b, training, None)

    def forward_again(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict) -> None:
        self.normalise(x, y, p, b, None)

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        self.differentiate(x, dy, dx, p, dp, b, (None,))

    def run(
        self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool, scalar: Scalar | None, addend: np.ndarray | None = None
    ) -> None:
        """``y = scalar(normalised x + addend)``."""
        self.find_statistics(x, p, b, training)
        self.normalise(x, y, p, b, scalar, addend)

    def find_statistics(self, x: np.ndarray, p: dict, b: dict, training: bool) -> None:
        """Fill the arrays of statistics."""
        none = np.empty(0, x.dtype)
        self._find_statistics(x, b, 0.0, (none, none))

    def normalise(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, scalar: Scalar | None, addend: np.ndarray | None = None) -> None:
        """:meth:`run`, once there are statistics."""
        residual = addend is not None
        x, more, y = self._views(x, x if addend is None else addend, y)
        kernels.norm.normalise(scalar)(x, residual, more, y, kernels.streaming.past_caches(y), self._spread(p, b))

    def _fixed(self) -> bool:
        """Whether mean and variance count as constants."""
        return False

    def differentiate(
        self, x: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict, followed: tuple,
        addend: np.ndarray | None = None, daddend: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Gradients, where a sum with an ``addend`` and the scalar function ``followed`` (with its derivative, and its gradient from the
        output)."""
        fixed, affine = self._fixed(), self._spread(p, b)
        x, dy = self._views(x, dy)
        dx, daddend, addend = (None if array is None else self._views(array)[0] for array in (dx, daddend, addend))
        norm, (_, rstd), streaming = kernels.norm, self._per_set(b), kernels.streaming
        dz = self._kept(dx, daddend, addend, followed)
        if dp or not fixed or dz is not None:
            more, kept = x if addend is None else addend, dy if dz is None else dz
            streams = dz is not None and streaming.past_caches(kept)
            norm.partial_gradients(*followed)(
                x, addend is not None, more, dy, dz is not None, kept, streams, affine, b["partials"][:2]
            )  # fmt: skip
        if dp:
            norm.merge_gradients(b["partials"][:2], rstd, _or_nothing(dp, "weight", dy), _or_nothing(dp, "bias", dy))
        if dx is None:
            return
        slope = offset = np.empty((0, 0), dy.dtype)
        if not fixed:
            slope, offset = b["slope"], b["offset"]
            groups, weight = self._group_count(rstd.shape[1]), _or_nothing(p, "weight", dy)
            norm.merge_slopes(b["partials"][:2], x.shape[1], groups, rstd, weight, slope, offset)
        if dz is not None:
            dy, followed = dz, (None,)
        norm.normalise_backward(*followed)(x, dy, dx, streaming.past_caches(dx), affine, slope, offset)

    @staticmethod
    def _kept(dx: np.ndarray | None, daddend: np.ndarray | None, addend: np.ndarray | None, followed: tuple) -> np.ndarray | None:
        """Where the gradient of what the activation was given is kept between the two passes, if not computed twice: in the addend's
        gradient, which it is, or else in ``dx``. Computing it again reads the addend again, and takes longer than reading it unless the
        activation's result alone tells its gradient."""
        if daddend is not None:
            return daddend
        cheap = followed[0] is None or (addend is None and followed[-1] is not None)
        return None if cheap else dx


@dataclasses.dataclass(frozen=True)
class FusedNorm(Layer):
    """A normalisation and what comes after it; made by the planner for training. With ``residual`` it adds a second input of the same
    shape; then comes the elementwise ``activation``, if any. The backward pass computes what lies between them again, so that nobody
    keeps it."""

    base: _PixelNorm
    residual: bool
    activation: Elementwise | None

    recordable: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.norm:FusedNorm"

    @property
    def takes_statistics(self) -> bool:  # type: ignore[override]
        return self.base.takes_statistics

    def behind(self, maker: Layer, x: Any) -> FusedNorm:
        return dataclasses.replace(self, base=self.base.behind(maker, x))  # type: ignore[arg-type]

    @property
    def arity(self) -> int:  # type: ignore[override]
        return 1 + self.residual

    @property
    def in_place(self) -> bool:  # type: ignore[override]
        return self.residual

    def label(self, name: str | None = None) -> str:
        return self.base.label(name)

    def _first(self, x: Any) -> Any:
        """The input that is normalised, or its shape."""
        return x[0] if self.residual else x

    def _addend(self, x: Any) -> Any:
        return x[1] if self.residual else None

    def output_shape(self, x: Any) -> Shape:
        return self.base.output_shape(self._first(x))

    def parameters(self, x: Any) -> dict[str, Parameter]:
        return self.base.parameters(self._first(x))

    def buffers(self, x: Any) -> dict[str, Buffer]:
        return self.base.buffers(self._first(x))

    def scratch(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return self.base.scratch(self._first(x), batch, threads, training)

    def flops(self, x: Any) -> int:
        x = self._first(x)
        return self.base.flops(x) + self.residual * math.prod(x) + (0 if self.activation is None else self.activation.flops(x))

    def forward(self, x: Any, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        with self._explained(self._scalar):
            self.base.run(self._first(x), y, p, b, training, self._scalar, self._addend(x))

    def forward_again(self, x: Any, y: np.ndarray, p: dict, b: dict) -> None:
        with self._explained(self._scalar):
            self.base.normalise(self._first(x), y, p, b, self._scalar, self._addend(x))

    @property
    def _scalar(self) -> Scalar | None:
        return None if self.activation is None else self.activation.scalar()

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: Any, p: dict, dp: dict, b: dict) -> None:
        activation = self.activation
        followed = (None,) if activation is None else (activation.scalar(), activation.derivative(), activation.gradient_from_output())
        with self._explained(activation and (activation.derivative() or activation.scalar())):
            self.base.differentiate(self._first(x), dy, self._first(dx), p, dp, b, followed, self._addend(x), self._addend(dx))

    @staticmethod
    def _explained(scalar: Scalar | None) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if scalar is None else kernels.scalar.explained(scalar)


@dataclasses.dataclass(frozen=True)
class BatchNorm(_PixelNorm):
    """Batch normalisation (S. Ioffe, C. Szegedy, 2015): per channel, ``y = (x - mean) / sqrt(var + epsilon) * weight + bias``.

    In training, mean and variance are those of the batch, over all axes but the last; ``running_mean`` and ``running_var`` follow them
    as ``(1 - momentum) * old + momentum * new``, with the unbiased variance. In inference, the running statistics are used.

    Args:
        momentum: weight of the newest batch in the running statistics (PyTorch's sense), from 0 to 1.
        epsilon: added to the variance.
        center: whether there is a ``bias``.
        scale: whether there is a ``weight``.
        frozen: use the running statistics in training too, and leave them as they are.

    Input ``(..., C)``, output the same. Parameters, all ``(C,)``: ``weight``, ``bias``, and, not trained, ``running_mean``,
    ``running_var``. Raises ShapeError in training when there is only one value per channel.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    center: bool = True
    scale: bool = True
    frozen: bool = False

    stem: ClassVar[str] = "batch_norm"
    reads_views: ClassVar[bool] = True
    foldable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.norm:BatchNorm"
    maker: ClassVar[tuple[Layer, Any] | None] = None  # only layers that :meth:`behind` made for a plan have one, and its input shape(s)

    def __post_init__(self) -> None:
        checks.number(self, "momentum", least=0, most=1)
        checks.number(self, "epsilon", above=0)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        shape = (x[-1],)
        return {
            **_affine_parameters(shape, self.scale, self.center),
            "running_mean": Parameter(shape, "zeros", trainable=False, decay=False),
            "running_var": Parameter(shape, "ones", trainable=False, decay=False),
        }

    def with_fixed_state(self) -> BatchNorm:
        return dataclasses.replace(self, frozen=True)

    @property
    def takes_statistics(self) -> bool:  # type: ignore[override]
        return not self.frozen

    def behind(self, maker: Layer, x: Any) -> BatchNorm:
        """It is no field: where a layer finds its statistics is not part of what it is."""
        twin = copy.copy(self)
        object.__setattr__(twin, "maker", (maker, x))
        return twin

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        arrays = super().scratch(x, batch, threads, training)
        parts = 0 if self.maker is None else self.maker[0].statistics_parts(self.maker[1], batch)
        if parts:
            arrays[GATHERED] = Buffer((kernels.statistics.STATISTICS, 1, parts, x[-1]), per_sample=False)
        return arrays

    def channel_affine(self, p: dict) -> tuple[np.ndarray, np.ndarray]:
        scale = p.get("weight", 1.0) / np.sqrt(p["running_var"].astype(np.float64) + self.epsilon)
        return scale, p.get("bias", 0.0) - p["running_mean"] * scale

    def flops(self, x: Shape) -> int:
        return 2 * math.prod(x)

    def _extent(self, batch: int, x: Shape) -> tuple[int, int]:
        return 1, batch * math.prod(x[:-1])

    def _group_count(self, channels: int) -> int:
        return channels

    def _statistics(self, x: Shape) -> dict[str, Buffer]:
        shape = (x[-1],)
        return {"mean": Buffer(shape, per_sample=False), "rstd": Buffer(shape, per_sample=False)}

    def _fixed(self) -> bool:
        return self.frozen

    def find_statistics(self, x: np.ndarray, p: dict, b: dict, training: bool) -> None:
        running = p["running_mean"], p["running_var"]
        if not training or self.frozen:
            kernels.norm.running_statistics(*running, float(self.epsilon), *self._per_set(b))
        else:
            self.check_trainable((*self._extent(len(x), x.shape[1:]), x.shape[-1]))
            self._find_statistics(x, b, float(self.momentum), running)

    @staticmethod
    def check_trainable(shape: Shape) -> None:
        """ShapeError if arrays ``(1, pixels, channels)`` have one pixel."""
        if shape[1] == 1:
            raise ShapeError(
                f"BatchNorm of {shape[-1]} channels was given one value per channel; training needs more than one value per channel "
                "(a larger batch, or frozen=True)."
            )


class _SampleNorm(_PixelNorm):
    """Statistics of each sample by itself, in training and in inference alike."""

    def output_shape(self, x: Shape) -> Shape:
        groups = self._group_count(x[-1])
        if x[-1] % groups:
            raise ShapeError(f"given shape {tuple(x)}, needs channels that {groups} groups divide.")
        if math.prod(x) == groups:
            raise ShapeError(
                f"given shape {tuple(x)}, needs more than one value per group; with {groups} groups there is nothing to normalise."
            )
        return x

    def flops(self, x: Shape) -> int:
        return 7 * math.prod(x)


@dataclasses.dataclass(frozen=True)
class GroupNorm(_SampleNorm):
    """Group normalisation (Y. Wu, K. He, 2018): ``y = (x - mean) / sqrt(var + epsilon) * weight + bias``, with mean and (biased)
    variance of each sample and each group of ``C / groups`` neighbouring channels, over all axes.

    Args:
        groups: must divide the channels; 1 is one group for all.
        epsilon: added to the variance.
        center: whether there is a ``bias``.
        scale: whether there is a ``weight``.

    Input ``(..., C)``, output the same. Parameters, both ``(C,)``: ``weight``, ``bias``.
    """

    groups: int = 32
    epsilon: float = 1e-5
    center: bool = True
    scale: bool = True

    stem: ClassVar[str] = "group_norm"

    def __post_init__(self) -> None:
        checks.integer(self, "groups", 1)
        checks.number(self, "epsilon", above=0)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return _affine_parameters((x[-1],), self.scale, self.center)

    def _group_count(self, channels: int) -> int:
        return self.groups


@dataclasses.dataclass(frozen=True)
class InstanceNorm(_SampleNorm):
    """Instance normalisation (D. Ulyanov, A. Vedaldi, V. Lempitsky, 2016): mean and (biased) variance of each sample and channel, over
    the axes between them; group normalisation with a group for each channel.

    Args:
        affine: whether there are a ``weight`` and a ``bias``.
        epsilon: added to the variance.

    Input ``(..., C)`` with more than one pixel, output the same. Parameters if ``affine``, both ``(C,)``: ``weight``, ``bias``.
    """

    affine: bool = False
    epsilon: float = 1e-5

    stem: ClassVar[str] = "instance_norm"

    def __post_init__(self) -> None:
        checks.number(self, "epsilon", above=0)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return _affine_parameters((x[-1],), self.affine, self.affine)

    def _group_count(self, channels: int) -> int:
        return channels


# Layer normalisation -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerNorm(Layer):
    """Layer normalisation (J. Ba, J. Kiros, G. Hinton, 2016): ``y = (x - mean) / sqrt(var + epsilon) * weight + bias``, with mean and
    (biased) variance over the normalised axes.

    Args:
        axes: ``"channels"`` for the last axis, each pixel by itself; ``"all"`` for all axes but the batch.
        epsilon: added to the variance.
        center: whether there is a ``bias``.
        scale: whether there is a ``weight``.

    Input ``(..., C)``, output the same. Parameters, of the shape of the normalised axes: ``weight``, ``bias``.
    """

    axes: str = "channels"
    epsilon: float = 1e-5
    center: bool = True
    scale: bool = True

    stem: ClassVar[str] = "layer_norm"
    recordable: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.norm:LayerNorm"

    def __post_init__(self) -> None:
        if self.axes not in ("channels", "all"):
            raise ConfigError(f"LayerNorm: axes is {self.axes!r}; it takes 'channels' or 'all'.")
        checks.number(self, "epsilon", above=0)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return _affine_parameters(self._normalised(x), self.scale, self.center)

    def buffers(self, x: Shape) -> dict[str, Buffer]:
        return self._statistics(x)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if not training:
            return self._statistics(x)
        width = math.prod(self._normalised(x))
        rows = batch * (math.prod(x) // width)
        return {"partials": Buffer((2, kernels.norm.chunks(rows), width), per_sample=False)}

    def flops(self, x: Shape) -> int:
        return 7 * math.prod(x)

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        weight, bias = (_or_nothing(p, name, x).reshape(-1) for name in ("weight", "bias"))
        mean, rstd = b["mean"].reshape(-1), b["rstd"].reshape(-1)
        kernels.norm.layer_forward(self._rows(x), self._rows(y), weight, bias, float(self.epsilon), mean, rstd)

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        norm, x, dy = kernels.norm, self._rows(x), self._rows(dy)
        mean, rstd = b["mean"].reshape(-1), b["rstd"].reshape(-1)
        if dp:
            norm.layer_partial_gradients(x, dy, mean, rstd, b["partials"])
            norm.layer_merge_gradients(b["partials"], *(_or_nothing(dp, name, x).reshape(-1) for name in ("weight", "bias")))
        if dx is not None:
            norm.layer_backward(x, dy, self._rows(dx), _or_nothing(p, "weight", x).reshape(-1), mean, rstd)

    def _normalised(self, x: Shape) -> Shape:
        return tuple(x) if self.axes == "all" else (x[-1],)

    def _statistics(self, x: Shape) -> dict[str, Buffer]:
        shape = x[: len(x) - len(self._normalised(x))]
        return {"mean": Buffer(shape), "rstd": Buffer(shape)}

    def _rows(self, array: np.ndarray) -> np.ndarray:
        """The array as rows that are normalised each by itself."""
        return array.reshape(-1, math.prod(self._normalised(array.shape[1:])))


# Local response normalisation ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """Local response normalisation over neighbouring channels (A. Krizhevsky, I. Sutskever, G. Hinton, 2012), with PyTorch's numbers:

    ``y[c] = x[c] / (k + alpha / size * sum of x[j] ** 2) ** beta``, ``j`` from ``c - size // 2`` to ``c + (size - 1) // 2``.

    Args:
        size: channels that a sum goes over; outside there are zeros.
        alpha: its weight, which is divided by ``size``.
        beta: the exponent.
        k: added to the sum, above 0.

    Input ``(..., C)``, output the same.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    stem: ClassVar[str] = "local_response_norm"
    recordable: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.norm:LocalResponseNorm"

    def __post_init__(self) -> None:
        checks.integer(self, "size", 1)
        for name in ("alpha", "beta"):
            checks.number(self, name, least=0)
        checks.number(self, "k", above=0)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return {"lines": Buffer((threads, 3, kernels.norm.response_line(x[-1], self.size)), per_sample=False)}

    def flops(self, x: Shape) -> int:
        return (self.size + 5) * math.prod(x)

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        kernels.norm.response_forward(*map(self._pixels, (x, y)), *self._numbers(), b["lines"])

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.norm.response_backward(*map(self._pixels, (x, dy, dx)), *self._numbers(), b["lines"])

    def _numbers(self) -> tuple[int, float, float, float]:
        return self.size, float(self.alpha), float(self.beta), float(self.k)

    @staticmethod
    def _pixels(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, array.shape[-1])
