"""The dense (fully connected) layer: a matrix product over the last axis."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np

from .. import kernels
from . import checks
from .base import Buffer, Parameter, Shape
from .epilogue import Fusable, constant_vector
from .lifting import reshaped

CHUNK_WEIGHTS = 1 << 20  # that are packed at a time, where there are many more


@dataclasses.dataclass(frozen=True)
class Dense(Fusable):
    """``y = x @ weight + bias`` over the last axis of ``x (..., C)``, giving ``(..., units)``.

    Args:
        units: output channels.
        bias: whether a learned vector is added.
        activation: name, layer or class of layers applied to the output.
        initializer, bias_initializer: names or initializers.

    Parameters: ``weight (C, units)``, ``bias (units,)``.
    """

    units: int
    bias: bool = True
    activation: Any = None
    initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"

    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    prepared_for_forward: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.dense:Dense"
    stem: ClassVar[str] = "dense"

    in_place_weights: ClassVar[bool | None] = None  # settled by :meth:`with_packing`, else by the shape

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer(self, "units", 1)

    def output_shape(self, x: Shape) -> Shape:
        return (*x[:-1], self.units)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return self._weight_and_bias((x[-1], self.units), self.units)

    def torch_order(self, name: str, axes: int) -> Shape:
        return tuple(reversed(range(axes)))

    def flops(self, x: Shape) -> int:
        return 2 * math.prod(x) * self.units

    def _shapes(self, x: Shape, batch: int) -> tuple:
        """What the kernels' passes are made for: a pointwise convolution of one line of pixels."""
        places = (1, 1, batch * math.prod(x[:-1]))
        return kernels.conv.POINTWISE, places, x[-1], places, self.units, 1, True

    def _chunk(self, x: Shape, training: bool) -> int:
        """Input channels that are packed at a time: in training, where weights are packed for one use, as many as stay in a cache."""
        if not training or x[-1] * self.units < 2 * CHUNK_WEIGHTS:
            return x[-1]
        width = kernels.channels.WIDTH
        return max(1, CHUNK_WEIGHTS // self.units // width) * width

    def _chunks(self, x: Shape, batch: int) -> Iterator[tuple[slice, tuple]]:
        """Such channels one after the other, and what the kernels' passes over them are made for."""
        window, size, channels, *rest = self._shapes(x, batch)
        chunk = self._chunk(x, True)
        for start in range(0, channels, chunk):
            end = min(channels, start + chunk)
            yield slice(start, end), (window, size, end - start, *rest)

    def _reads_in_place(self, x: Shape, batch: int, training: bool) -> bool:
        """Whether the weights are read where they lie, not packed."""
        if self.in_place_weights is not None:
            return self.in_place_weights
        return not training and kernels.dense.reads_in_place(batch * math.prod(x[:-1]), x[-1], self.units)

    def packing(self, x: Shape, batch: int) -> str:
        return "in place" if self._reads_in_place(x, batch, False) else "packed"

    def with_packing(self, x: Shape, packing: str) -> Self:
        twin = copy.copy(self)
        object.__setattr__(twin, "in_place_weights", packing == "in place")
        return twin

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if self._reads_in_place(x, batch, training) or self._chunk(x, training) < x[-1]:
            return {}
        return {"packed": Buffer((kernels.conv.Forward(*self._shapes(x, batch)).packed_elements,), per_sample=False)}

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if self._reads_in_place(x, batch, training):
            shape = kernels.dense.scratch_shape(batch * math.prod(x[:-1]), self.units, threads)
            return {"scratch": Buffer(shape, per_sample=False)}
        conv, shapes = kernels.conv, self._shapes(x, batch)
        elements = conv.Forward(*shapes).scratch_elements(threads)
        if not training:
            return {"scratch": Buffer((threads, elements), per_sample=False)}
        _, first = next(self._chunks(x, batch))
        forward, backward = conv.Forward(*first), conv.DataGradient(*first)
        methods = forward, backward, conv.WeightGradient(*shapes)
        buffers = {"scratch": Buffer((threads, max(elements, *(m.scratch_elements(threads) for m in methods))), per_sample=False)}
        buffers["packed_transposed"] = Buffer((backward.packed_elements,), per_sample=False)
        if self._chunk(x, training) < x[-1]:
            buffers["packed_chunk"] = Buffer((forward.packed_elements,), per_sample=False)
        return buffers

    def pack(self, x: Shape, batch: int, p: dict, b: dict, scale: np.ndarray | None) -> None:
        if "packed" in b:
            scale = constant_vector(scale, 1, self.units, p["weight"])
            kernels.conv.Forward(*self._shapes(x, batch)).pack(p["weight"], scale, b["packed"])

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        if "packed_chunk" not in b:
            super().forward(x, y, p, b, training)
            return
        shift, addend = constant_vector(p.get("bias"), 0, self.units, y), None
        for part, shapes in self._chunks(x.shape[1:], len(x)):
            forward = kernels.conv.Forward(*shapes)
            forward.pack(p["weight"][part], constant_vector(None, 1, self.units, y), b["packed_chunk"])
            forward.run(_as_line(x[..., part]), b["packed_chunk"], shift, _as_line(y), b["scratch"], addend)
            shift, addend = constant_vector(None, 0, self.units, y), _as_line(y)

    def run(self, x: np.ndarray, y: np.ndarray, shift: np.ndarray | None, addend: np.ndarray | None, scalar: Any, b: dict) -> None:
        shift = constant_vector(shift, 0, self.units, y)
        if "packed" in b:
            forward, more = kernels.conv.Forward(*self._shapes(x.shape[1:], len(x))), None if addend is None else _as_line(addend)
            forward.run(_as_line(x), b["packed"], shift, _as_line(y), b["scratch"], more, scalar)
        else:
            more = None if addend is None else _as_rows(addend)
            kernels.dense.dense(_as_rows(x), b["weight"], b.get("fold_scale"), shift, _as_rows(y), b["scratch"], more, scalar)

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        conv = kernels.conv
        if "weight" in dp:
            shapes = self._shapes(x.shape[1:], len(x))
            conv.WeightGradient(*shapes).run(_as_line(x), _as_line(dy), dp["weight"], b["scratch"])
        if "bias" in dp:
            conv.channel_sums(dy.reshape(-1, self.units), dp["bias"])
        if dx is not None:
            for part, shapes in self._chunks(x.shape[1:], len(x)):
                gradient, channels = conv.DataGradient(*shapes), shapes[2]
                ones, zeros = constant_vector(None, 1, channels, x), constant_vector(None, 0, channels, x)
                gradient.pack(p["weight"][part], ones, b["packed_transposed"])
                gradient.run(_as_line(dy), b["packed_transposed"], zeros, _as_line(dx[..., part]), b["scratch"])


def _as_line(array: np.ndarray) -> np.ndarray:
    """All places of a batch as one line of pixels."""
    return reshaped(array, (1, 1, 1, -1, array.shape[-1]))


def _as_rows(array: np.ndarray) -> np.ndarray:
    """All places of a batch as rows of a matrix."""
    return reshaped(array, (-1, array.shape[-1]))
