"""A model around one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..layers.base import Layer, Shape
from .trial import Trial


def model_around(layer: Layer, shapes: tuple[Shape, ...], dtype: str, scaled: bool = False, seed: int = 0) -> Any:
    from ..graph.tensor import Input
    from ..model import Model

    inputs = [Input(shape, dtype=layer.input_dtype) for shape in shapes]
    tensors: list[Any] = inputs
    if scaled and layer.input_dtype is None:
        from ..layers.shape import Scale

        tensors = [Scale()(tensor) for tensor in inputs]
    outputs = layer(*tensors, name="layer")
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    return Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0], seed=seed, dtype=dtype)


def set_parameters(model: Any, trial: Trial) -> None:
    for name, array in trial.p.items():
        model.parameters[f"layer.{name}"] = array


def predictions(model: Any, x: Sequence[np.ndarray]) -> list[np.ndarray]:
    result = model.predict(list(x) if len(x) > 1 else x[0])
    return [np.array(array) for array in (result if isinstance(result, (list, tuple)) else [result])]
