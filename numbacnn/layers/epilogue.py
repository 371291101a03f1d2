"""Layers that compute what follows them while they write their output: batch norm, a residual sum, an activation.

In inference the planner (``graph/passes/fuse.py``) asks a ``fusable`` layer by ``layer.with_epilogue(activation, residual, scale_shift)``
for another layer, which has the same parameters and computes

    ``y = activation(layer(x) * fold_scale + fold_shift + residual)``

``activation`` is an elementwise layer or None; with ``residual`` the new layer has a second input of the output's shape; with
``scale_shift`` its parameters include the vectors ``fold_scale`` and ``fold_shift``, one number per output channel, which the planner
computes from the batch norm that it left out. In training, and for the layer by itself, nothing is fused: the planner replaces the field
``activation`` by None and runs the activation as a layer of its own.

A layer that derives from :class:`Fusable` gets all that from two methods, :meth:`Fusable.pack` and :meth:`Fusable.run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from .activation import resolve
from .base import Buffer, Layer, Methods, Parameter, Shape
from .lifting import reshaped


class Fusable(Layer):
    """Base of layers that end in an epilogue, such as convolutions and Dense.

    A subclass has a field ``activation``, a field ``bias`` that says whether there is a parameter ``bias`` of one number per output
    channel, ``initializer`` and ``bias_initializer``; and it defines :meth:`pack` and :meth:`run` beside ``output_shape``,
    ``parameters``, ``prepared``, ``scratch`` and ``backward``.
    """

    fusable: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)

    bias: bool
    activation: Any
    initializer: Any
    bias_initializer: Any

    def __post_init__(self) -> None:
        if not isinstance(self.activation, str):  # a class is kept as the layer that it makes, so that it is compared and saved
            object.__setattr__(self, "activation", resolve(self.activation))

    def pack(self, x: Shape, batch: int, p: dict, b: dict, scale: np.ndarray | None) -> None:
        """Fill the arrays of ``prepared`` from the weights, each output channel's multiplied by its entry of ``scale`` (None: by 1)."""
        raise NotImplementedError(f"{type(self).__name__} does not define pack")

    def run(self, x: np.ndarray, y: np.ndarray, shift: np.ndarray | None, addend: np.ndarray | None, scalar: Any, b: dict) -> None:
        """``y = scalar(what the packed weights give + shift + addend)``.

        ``shift`` has a number per output channel, ``addend`` the shape of ``y``, ``scalar`` is a Python function of one number, which
        :func:`numbacnn.kernels.scalar.compiled` makes a helper for kernels of; each may be None for nothing. ``b`` has all of the layer's
        arrays by name, its parameters too: where weights are read as they are, not packed, the entry ``fold_scale``, if there is one, is
        what they would have been multiplied by."""
        raise NotImplementedError(f"{type(self).__name__} does not define run")

    def takes_prologue(self, x: Shape) -> bool:
        """Whether :meth:`run` takes ``prologue=``, a :class:`numbacnn.kernels.conv.Prologue`, for an input of shape ``x``."""
        return False

    def takes_expansion(self, x: Shape) -> bool:
        """Whether :meth:`run` takes ``expansion=``, a :class:`numbacnn.kernels.conv.Expansion` that makes its input, of shape ``x``."""
        return False

    def makes_expansion(self, x: Shape) -> bool:
        """Whether a layer that takes one is faster with this layer, on an input of shape ``x``, as its expansion."""
        return False

    def summed_stretches(self, x: Shape) -> int:
        """For an input of shape ``x``: into how many parts an output falls whose sums per channel :meth:`run` takes ``sums=``, an array
        ``(N, parts, channels)``, for. 0: it takes none."""
        return 0

    def with_epilogue(self, activation: Layer | None, residual: bool, scale_shift: bool) -> Layer:
        return FusedEpilogue(self, activation, residual, scale_shift)

    def with_prologue(self, activation: Layer | None, normalised: bool, gated: bool) -> Layer:
        return FusedEpilogue(self, None, False, False).with_prologue(activation, normalised, gated)

    def with_sums(self) -> Layer:
        return FusedEpilogue(self, None, False, False).with_sums()

    def prepare(self, x: Shape, batch: int, p: dict, b: dict, training: bool) -> None:
        self.pack(x, batch, p, b, None)

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        self.run(x, y, p.get("bias"), None, None, {**p, **b})

    def _weight_and_bias(self, weight: Shape, channels: int) -> dict[str, Parameter]:
        """The parameters of most such layers."""
        parameters = {"weight": Parameter(weight, self.initializer)}
        if self.bias:
            parameters["bias"] = Parameter((channels,), self.bias_initializer, decay=False)
        return parameters


def constant_vector(given: np.ndarray | None, fill: float, length: int, like: np.ndarray) -> np.ndarray:
    """``given``, or a constant vector."""
    return np.full(length, fill, like.dtype) if given is None else given


@dataclasses.dataclass(frozen=True)
class FusedEpilogue(Layer):
    """A :class:`Fusable` layer with what comes before and after it; made by the planner for inference.

    After: ``folded`` normalisation, ``residual`` (the last input) and the activation ``epilogue``. Before: normalisation (``normalised``,
    by the vectors ``before_scale`` and ``before_shift``) or a factor per image and channel (``gated``, the second input), and the
    activation ``prologue``. If it is ``summed``, a second output has the sums per channel of parts of the first one."""

    base: Fusable
    epilogue: Layer | None
    residual: bool
    folded: bool
    prologue: Layer | None = None
    normalised: bool = False
    gated: bool = False
    summed: bool = False

    prepared_for_forward: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.epilogue:FusedEpilogue"

    def with_prologue(self, activation: Layer | None, normalised: bool, gated: bool) -> Layer:
        return dataclasses.replace(self, prologue=activation, normalised=normalised, gated=gated)

    def takes_prologue(self, x: Shape) -> bool:
        return self.base.takes_prologue(x)

    def summed_stretches(self, x: Shape) -> int:
        return self.base.summed_stretches(x)

    def with_sums(self) -> Layer:
        return dataclasses.replace(self, summed=True)

    @property
    def arity(self) -> int:  # type: ignore[override]
        return 1 + self.gated + self.residual

    @property
    def recordable(self) -> bool:  # type: ignore[override]
        return self.base.recordable

    @property
    def reads_views(self) -> bool:  # type: ignore[override]
        return self.base.reads_views

    @property
    def writes_views(self) -> bool:  # type: ignore[override]
        return self.base.writes_views

    def label(self, name: str | None = None) -> str:
        return self.base.label(name)

    def _shape(self, x: Any) -> Shape:
        return x if self.arity == 1 else x[0]

    def output_shape(self, x: Any) -> Any:
        shape = self.base.output_shape(self._shape(x))
        return [shape, (self.summed_stretches(self._shape(x)), shape[-1])] if self.summed else shape

    def parameters(self, x: Any) -> dict[str, Parameter]:
        return self.base.parameters(self._shape(x))

    def flops(self, x: Any) -> int:
        return self.base.flops(self._shape(x))

    def inference_methods(self, x: Any, batch: int, threads: int, dtype: Any) -> Methods | None:
        found = self.base.inference_methods(self._shape(x), batch, threads, dtype)
        if found is None:
            return None
        layers: dict[str, Layer] = {name: dataclasses.replace(self, base=layer) for name, layer in found.layers.items()}  # type: ignore[arg-type]
        return dataclasses.replace(found, layers=layers)

    def prepared(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        buffers = self.base.prepared(self._shape(x), batch, threads, training)
        if self.folded and self.base.bias:
            buffers["shift"] = Buffer((self.base.output_shape(self._shape(x))[-1],), per_sample=False)
        return buffers

    def packing(self, x: Any, batch: int) -> Any:
        return self.base.packing(self._shape(x), batch)

    def with_packing(self, x: Any, packing: Any) -> Layer:
        return dataclasses.replace(self, base=self.base.with_packing(self._shape(x), packing))  # type: ignore[arg-type]

    def scratch(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return self.base.scratch(self._shape(x), batch, threads, training)

    def prepare(self, x: Any, batch: int, p: dict, b: dict, training: bool) -> None:
        self.base.pack(self._shape(x), batch, p, b, p["fold_scale"] if self.folded else None)
        if "shift" in b:
            kernels.conv.fold_bias(p["bias"], p["fold_scale"], p["fold_shift"], b["shift"])

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        x, *others = (x,) if self.arity == 1 else x
        y, *sums = y if self.summed else (y,)
        addend = others[-1] if self.residual else None
        shift, scalar = self.ending(p, b)
        more = {"prologue": self._before(x, others, p)} if self.normalised or self.gated else {}
        if sums:
            more["sums"] = sums[0]
        with contextlib.nullcontext() if scalar is None else kernels.scalar.explained(scalar):
            self.base.run(x, y, shift, addend, scalar, {**p, **b}, **more)

    def ending(self, p: dict, b: dict) -> tuple[np.ndarray | None, Any]:
        """What :meth:`Fusable.run` takes as ``shift`` and ``scalar``, from parameters and arrays by name."""
        scalar = None if self.epilogue is None else self.epilogue.scalar()  # type: ignore[attr-defined]
        return b.get("shift", p.get("fold_shift", p.get("bias"))), scalar

    def _before(self, x: np.ndarray, others: list[np.ndarray], p: dict) -> Any:
        channels = x.shape[-1]
        gain = reshaped(others[0], (-1, channels)) if self.gated else p["before_scale"].reshape(1, channels)
        offset = p["before_shift"] if self.normalised else constant_vector(None, 0, channels, x)
        return kernels.conv.Prologue(gain, offset, None if self.prologue is None else self.prologue.scalar())  # type: ignore[attr-defined]
