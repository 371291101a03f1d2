"""Normalisation on the device (compare :mod:`numbacnn.layers.norm`)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from typing import Any

from ...kernels import scalar as scalars
from ...kernels.cuda import layer_norm, norm, response, statistics
from ..base import GATHERED, Buffer, Layer, Shape
from .twin import Twin, on_cuda, rows


class PixelNorm(Twin):
    """Group and instance normalisation: statistics of each sample, over pixels, per group of channels."""

    def extent(self, batch: int, x: Shape) -> tuple[int, int]:
        """Sets of statistics, and pixels of each."""
        return self.layer._extent(batch, x)

    def view(self, array: Any) -> Any:
        """An array as ``(samples, pixels, channels)``."""
        return array.reshape(*self.extent(array.shape[0], array.shape[1:]), array.shape[-1])

    def _computes_statistics(self, training: bool) -> bool:
        return True

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        samples, pixels = self.extent(batch, x)
        arrays = {} if training or not self._computes_statistics(training) else self.layer.buffers(x)
        if training or self._computes_statistics(training):
            arrays = {**arrays, "partials": Buffer(statistics.statistics_shape(samples, pixels, x[-1]), per_sample=False)}
        if training and self._computes_statistics(training):
            arrays["slope"] = arrays["offset"] = Buffer((samples, x[-1]), per_sample=False)
        return arrays

    def repeatable(self, x: Shape) -> bool:
        return True

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        self.run(x, y, p, b, training)

    def forward_again(self, x: Any, y: Any, p: dict, b: dict) -> None:
        self.normalise(x, y, p, b, True)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        self.differentiate(x, dy, dx, p, dp, b, (None,))

    def run(self, x: Any, y: Any, p: dict, b: dict, training: bool, scalar: Any = None, addend: Any = None) -> None:
        """``y = scalar(normalised x + addend)``."""
        if self._computes_statistics(training):
            self.find_statistics(self.view(x), p, b)
        self.normalise(x, y, p, b, training, scalar, addend)

    def find_statistics(self, x: Any, p: dict, b: dict, momentum: float = 0.0, running: Any = None) -> None:
        """Fill ``mean`` and ``rstd``; ``x`` as kernels see it."""
        partials = b.get(GATHERED)
        if partials is None:
            partials = b["partials"]
            statistics.partial_statistics(x, partials)
        groups, epsilon = self.layer._group_count(x.shape[-1]), self.layer.epsilon
        statistics.merge_statistics(partials, x.shape[1], groups, epsilon, *self.statistics(p, b, True), momentum, running)

    def statistics(self, p: dict, b: dict, training: bool) -> tuple[Any, Any]:
        """``mean`` and ``rstd`` as ``(samples, channels)``."""
        return rows(b["mean"]), rows(b["rstd"])

    def normalise(self, x: Any, y: Any, p: dict, b: dict, training: bool, scalar: Any = None, addend: Any = None) -> None:
        """:meth:`run`, once there are statistics."""
        addend = None if addend is None else self.view(addend)
        statistics = self.statistics(p, b, training)
        norm.normalise(scalar, self.view(x), addend, self.view(y), *statistics, p.get("weight"), p.get("bias"))

    def differentiate(
        self, x: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict, followed: tuple, addend: Any = None, daddend: Any = None
    ) -> None:
        """Gradients, where a sum with an ``addend`` and the scalar function ``followed`` (with its derivative, and its gradient from the
        output)."""
        x, dy, dx, addend, daddend = (None if array is None else self.view(array) for array in (x, dy, dx, addend, daddend))
        mean, rstd = self.statistics(p, b, True)
        weight, bias, fixed = p.get("weight"), p.get("bias"), not self._computes_statistics(True)
        dz = self.layer._kept(dx, daddend, addend, followed)
        partials = b["partials"][:2]
        if dp or dz is not None or (dx is not None and not fixed):
            norm.partial_gradients(followed, x, addend, dy, dz, mean, rstd, weight, bias, partials)
        slopes = self._merge(partials, x.shape[1], rstd, weight, dp, b, dx is not None and not fixed)
        if dx is None:
            return
        if dz is not None:
            dy, followed = dz, (None,)
        norm.normalise_backward(followed, x, dy, dx, mean, rstd, weight, bias, slopes)

    def _merge(self, partials: Any, pixels: int, rstd: Any, weight: Any, dp: dict, b: dict, slopes_wanted: bool) -> Any:
        """Gradients of the parameters, and, where wanted, what tells the gradient of the input."""
        if dp:
            norm.merge_gradients(partials, rstd, dp.get("weight"), dp.get("bias"))
        if not slopes_wanted:
            return None
        norm.merge_slopes(partials, pixels, self.layer._group_count(partials.shape[-1]), rstd, weight, b["slope"], b["offset"])
        return b["slope"], b["offset"]


@dataclasses.dataclass(frozen=True)
class BatchNorm(PixelNorm):
    """Statistics of the whole batch; where running statistics are used instead, what follows from them is prepared. ``maker`` is the layer
    before with its input shape(s), where that gathers the statistics."""

    maker: tuple[Layer, Any] | None = None

    @property
    def takes_statistics(self) -> bool:  # type: ignore[override]
        return self._computes_statistics(True)

    def behind(self, maker: Layer, x: Any) -> BatchNorm:
        return dataclasses.replace(self, maker=(maker, x))

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        arrays = super().scratch(x, batch, threads, training)
        parts = 0 if self.maker is None else self.maker[0].statistics_parts(self.maker[1], batch)
        if parts:
            arrays[GATHERED] = Buffer((statistics.STATISTICS, 1, parts, x[-1]), per_sample=False)
        return arrays

    def _computes_statistics(self, training: bool) -> bool:
        return training and not self.layer.frozen

    def buffers(self, x: Shape) -> dict[str, Buffer]:
        return {} if self.layer.frozen else self.layer.buffers(x)

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return {} if self._computes_statistics(training) else {"running_rstd": Buffer((x[-1],), per_sample=False)}

    def prepare(self, x: Shape, batch: int, p: dict, b: dict, training: bool) -> None:
        statistics.running_rstd(p["running_var"], self.layer.epsilon, b["running_rstd"])

    def find_statistics(self, x: Any, p: dict, b: dict, momentum: float = 0.0, running: Any = None) -> None:
        self.layer.check_trainable(x.shape)
        super().find_statistics(x, p, b, float(self.layer.momentum), (p["running_mean"], p["running_var"]))

    def statistics(self, p: dict, b: dict, training: bool) -> tuple[Any, Any]:
        if self._computes_statistics(training):
            return super().statistics(p, b, training)
        return rows(p["running_mean"]), rows(b["running_rstd"])

    def _merge(self, partials: Any, pixels: int, rstd: Any, weight: Any, dp: dict, b: dict, slopes_wanted: bool) -> Any:
        if not slopes_wanted:
            return super()._merge(partials, pixels, rstd, weight, dp, b, False)
        slopes = b["slope"], b["offset"]
        norm.merge_batch_slopes(partials, pixels, rstd, weight, *slopes, dp.get("weight"), dp.get("bias"))
        return slopes


@dataclasses.dataclass(frozen=True)
class FusedNorm(Twin):
    """A normalisation and what comes after it, for training. ``maker`` as of :class:`BatchNorm`."""

    maker: tuple[Layer, Any] | None = None

    @property
    def takes_statistics(self) -> bool:  # type: ignore[override]
        return self._base.takes_statistics

    def behind(self, maker: Layer, x: Any) -> FusedNorm:
        return dataclasses.replace(self, maker=(maker, x))

    @functools.cached_property
    def _base(self) -> PixelNorm:
        base: Any = on_cuda(self.layer.base)
        return base if self.maker is None else base.behind(*self.maker)

    def buffers(self, x: Any) -> dict[str, Buffer]:
        return self._base.buffers(self.layer._first(x))

    def scratch(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return self._base.scratch(self.layer._first(x), batch, threads, training)

    def prepared(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return self._base.prepared(self.layer._first(x), batch, threads, training)

    def prepare(self, x: Any, batch: int, p: dict, b: dict, training: bool) -> None:
        self._base.prepare(self.layer._first(x), batch, p, b, training)

    def repeatable(self, x: Any) -> bool:
        return True

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        with self._explained():
            self._base.run(self.layer._first(x), y, p, b, training, self._scalar, self.layer._addend(x))

    def forward_again(self, x: Any, y: Any, p: dict, b: dict) -> None:
        with self._explained():
            self._base.normalise(self.layer._first(x), y, p, b, True, self._scalar, self.layer._addend(x))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        layer, activation = self.layer, self.layer.activation
        followed = (None,) if activation is None else (activation.scalar(), activation.derivative(), activation.gradient_from_output())
        with self._explained():
            self._base.differentiate(layer._first(x), dy, layer._first(dx), p, dp, b, followed, layer._addend(x), layer._addend(dx))

    @property
    def _scalar(self) -> Any:
        return None if self.layer.activation is None else self.layer.activation.scalar()

    def _explained(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self._scalar is None else scalars.explained(self._scalar)


class LayerNorm(Twin):
    """Statistics of each row."""

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        width = math.prod(self.layer._normalised(x))
        shapes = layer_norm.scratch(batch * math.prod(x) // width, width, training)
        arrays = {name: Buffer(shape, per_sample=False) for name, shape in shapes.items()}
        return arrays if training else {**arrays, **self.layer.buffers(x)}

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        rows = self.layer._rows
        layer_norm.forward(rows(x), rows(y), p.get("weight"), p.get("bias"), self.layer.epsilon, b["mean"], b["rstd"], b)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dp or dx is not None:
            rows = self.layer._rows
            dx = None if dx is None else rows(dx)
            layer_norm.backward(
                rows(x), rows(dy), dx, p.get("weight"), b["mean"], b["rstd"], b, dp.get("weight"), dp.get("bias")
            )  # fmt: skip


class LocalResponseNorm(Twin):
    """Numbers over a power of those around them."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        response.forward(rows(x), rows(y), *self.layer._numbers())

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            response.backward(rows(x), rows(dy), rows(dx), *self.layer._numbers())
