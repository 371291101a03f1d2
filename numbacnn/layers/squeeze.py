"""Squeeze-and-excitation's factors as one layer, made by the planner for inference (``graph/passes/squeeze.py``)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from .base import Buffer, Layer, Parameter, Shape
from .dense import Dense
from .epilogue import FusedEpilogue, constant_vector
from .lifting import reshaped


@dataclasses.dataclass(frozen=True)
class Excitation(Layer):
    """Global average pooling, and the dense layers ``reduce`` and ``expand`` with their activations (J. Hu et al., "Squeeze-and-Excitation
    Networks", 2018): of ``x``, which ``pool`` takes the means of, or of the sums ``(parts, C)`` of parts of ``places`` places in all.

    Its parameters have the names of the two layers in front.
    """

    reduce: Dense | FusedEpilogue
    expand: Dense | FusedEpilogue
    shape: Shape
    pool: Layer | None = None
    places: int = 1

    recordable: ClassVar[bool] = True

    @property
    def reads_views(self) -> bool:  # type: ignore[override]
        return self.pool is not None and self.pool.reads_views

    def output_shape(self, x: Shape) -> Shape:
        return self.shape

    def _units(self) -> tuple[int, int]:
        reduce, expand = map(_dense, (self.reduce, self.expand))
        return reduce.units, expand.units

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        units, _ = self._units()
        layers = {"reduce": (self.reduce, x[-1]), "expand": (self.expand, units)}
        return {f"{name}.{local}": spec for name, (layer, n) in layers.items() for local, spec in layer.parameters((n,)).items()}

    def flops(self, x: Shape) -> int:
        units, _ = self._units()
        pooling = 0 if self.pool is None else self.pool.flops(x)
        return pooling + self.reduce.flops((x[-1],)) + self.expand.flops((units,))

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        room = Buffer((threads, kernels.squeeze.scratch_elements(x[-1], *self._units())), per_sample=False)
        return {"scratch": room} if self.pool is None else {"scratch": room, "means": Buffer(self.pool.output_shape(x))}

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        channels = x.shape[-1]
        if self.pool is not None:
            self.pool.forward(x, b["means"], {}, {}, training)
            x = b["means"].reshape(-1, 1, channels)
        layers = [_excite_layer(layer, name, p, y) for name, layer in (("reduce", self.reduce), ("expand", self.expand))]
        kernels.squeeze.factors(x, 1.0 / self.places, *layers, reshaped(y, (-1, y.shape[-1])), b["scratch"])


def _dense(layer: Any) -> Dense:
    return getattr(layer, "base", layer)


def _excite_layer(layer: Any, name: str, p: dict, y: np.ndarray) -> tuple:
    """Weights, bias and scalar function of a dense layer, as the kernel takes them."""
    activation = getattr(layer, "epilogue", None)
    bias = constant_vector(p.get(f"{name}.bias"), 0, _dense(layer).units, y)
    return p[f"{name}.weight"], bias, None if activation is None else activation.scalar()
