"""A depthwise convolution with the pointwise one that makes its input, as one layer, made by the planner for inference
(``graph/passes/expansion.py``)."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from .base import Buffer, Layer, Parameter, Shape
from .epilogue import FusedEpilogue, constant_vector


@dataclasses.dataclass(frozen=True)
class ExpandedDepthwise(Layer):
    """``depthwise(expand(x))`` of a pointwise and a depthwise convolution with their normalisations and activations, as at the beginning of
    an inverted residual block (M. Sandler et al., "MobileNetV2", 2018). What lies between them has several times the channels of ``x``, and
    is made line by line in the cache.

    Parameters and arrays have the names of the two layers in front.
    """

    expand: FusedEpilogue
    depthwise: FusedEpilogue

    recordable: ClassVar[bool] = True
    prepared_for_forward: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True

    @property
    def writes_views(self) -> bool:  # type: ignore[override]
        return self.depthwise.writes_views

    def _stages(self, x: Shape) -> dict[str, tuple[FusedEpilogue, Shape]]:
        return {"expand": (self.expand, x), "depthwise": (self.depthwise, self.expand.output_shape(x))}

    def output_shape(self, x: Shape) -> Any:
        return self.depthwise.output_shape(self.expand.output_shape(x))

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return _joined({stage: layer.parameters(shape) for stage, (layer, shape) in self._stages(x).items()})

    def flops(self, x: Shape) -> int:
        return sum(layer.flops(shape) for layer, shape in self._stages(x).values())

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return _joined({stage: layer.prepared(shape, batch, threads, training) for stage, (layer, shape) in self._stages(x).items()})

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return _joined({"depthwise": self.depthwise.scratch(self.expand.output_shape(x), batch, threads, training)})

    def prepare(self, x: Shape, batch: int, p: dict, b: dict, training: bool) -> None:
        for stage, (layer, shape) in self._stages(x).items():
            layer.prepare(shape, batch, _of(p, stage), _of(b, stage), training)

    def packing(self, x: Shape, batch: int) -> tuple[Any, ...]:
        return tuple(layer.packing(shape, batch) for layer, shape in self._stages(x).values())

    def with_packing(self, x: Shape, packing: tuple[Any, ...]) -> ExpandedDepthwise:
        layers = {stage: layer.with_packing(shape, own) for (stage, (layer, shape)), own in zip(self._stages(x).items(), packing)}
        return dataclasses.replace(self, **layers)  # type: ignore[arg-type]

    def forward(self, x: np.ndarray, y: Any, p: dict, b: dict, training: bool) -> None:
        parameters, arrays = _of(p, "depthwise"), _of(b, "depthwise")
        shift, scalar = self.expand.ending(_of(p, "expand"), _of(b, "expand"))
        last_shift, last_scalar = self.depthwise.ending(parameters, arrays)
        y, *sums = y if self.depthwise.summed else (y,)
        expansion = kernels.conv.Expansion(b["expand.packed"], constant_vector(shift, 0, y.shape[-1], y), scalar)
        with contextlib.ExitStack() as stack:
            for function in (scalar, last_scalar):
                if function is not None:
                    stack.enter_context(kernels.scalar.explained(function))
            base: Any = self.depthwise.base
            base.run(x, y, last_shift, None, last_scalar, {**parameters, **arrays}, *sums or (None,), expansion)


def _joined(stages: dict[str, dict]) -> dict:
    return {f"{stage}.{name}": value for stage, values in stages.items() for name, value in values.items()}


def _of(values: dict, stage: str) -> dict:
    return {name.removeprefix(f"{stage}."): value for name, value in values.items() if name.startswith(f"{stage}.")}
