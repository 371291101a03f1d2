"""A layer of somebody's own with an epilogue: what the planner hands to it, and that the results stay what they are without."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.layers.base import Buffer
from numbacnn.layers.epilogue import Fusable
from numbacnn.simd import LANES
from numbacnn.testing import check_layer


@dataclasses.dataclass(frozen=True)
class Mix(Fusable):
    """``y = x @ weight + bias``, in NumPy."""

    units: int = 4
    bias: bool = True
    activation: Any = None
    initializer: Any = "he_normal"
    bias_initializer: Any = "normal"

    stem = "mix"
    recordable = False

    def output_shape(self, x):
        return (*x[:-1], self.units)

    def parameters(self, x):
        return self._weight_and_bias((x[-1], self.units), self.units)

    def prepared(self, x, batch, threads, training):
        return {"packed": Buffer((x[-1], self.units), per_sample=False)}

    def pack(self, x, batch, p, b, scale):
        b["packed"][...] = p["weight"] * (1 if scale is None else scale)

    def run(self, x, y, shift, addend, scalar, b):
        result = x @ b["packed"] + (0 if shift is None else shift) + (0 if addend is None else addend)
        y[...] = result if scalar is None else np.vectorize(scalar)(result)

    def backward(self, x, y, dy, dx, p, dp, b):
        rows = dy.reshape(-1, self.units)
        if "weight" in dp:
            dp["weight"][...] = x.reshape(-1, x.shape[-1]).T @ rows
        if "bias" in dp:
            dp["bias"][...] = rows.sum(0)
        if dx is not None:
            dx[...] = dy @ p["weight"].T


def test_it_is_right():
    check_layer(Mix(), (3, 5))
    check_layer(Mix(activation="relu", bias=False), (5,))


@pytest.mark.parametrize("bias", [True, False])
def test_all_that_follows_is_fused(bias):
    x, z = nc.Input((3, 5)), nc.Input((3, 4))
    h = nc.BatchNorm()(Mix(bias=bias)(x))
    model = nc.Model([x, z], nc.Activation("relu")(h + z), dtype="float64", seed=3)
    generator = np.random.default_rng(0)
    for name in ("running_mean", "running_var", "weight", "bias"):
        model.parameters[f"batch_norm1.{name}"] = generator.uniform(0.5, 2, 4)
    inputs = [generator.standard_normal((6, *shape)) for shape in ((3, 5), (3, 4))]
    p = {name: np.array(array) for name, array in model.parameters.items()}
    norm = (inputs[0] @ p["mix1.weight"] + p.get("mix1.bias", 0) - p["batch_norm1.running_mean"]) / np.sqrt(
        p["batch_norm1.running_var"] + 1e-5
    )
    expected = np.maximum(norm * p["batch_norm1.weight"] + p["batch_norm1.bias"] + inputs[1], 0)
    for batch in (6, 4, 6):
        np.testing.assert_allclose(model.predict([array[:batch] for array in inputs]), expected[:batch], rtol=1e-12)
    assert not np.allclose(model.predict([2 * inputs[0], inputs[1]]), expected)
    (run,) = model._inference_plan(6).plan.forward
    assert run.node.label() == "Mix layer 'mix1'"


def test_a_long_activation_reaches_every_channel():
    """It comes after the sums, several vectors of channels at a time, then single ones, then a part of one."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((9, 5 * LANES + 5)).astype("float32"), np.float32(0.5)
    x = nc.Input((5, 3, 9))
    model = nc.Model(x, nc.Conv2D(weight.shape[1], 1, activation="silu")(x, name="conv"))
    model.parameters["conv.weight"][...], model.parameters["conv.bias"][...] = weight, bias
    images = rng.standard_normal((2, 5, 3, 9)).astype("float32")
    sums = images @ weight + bias
    np.testing.assert_allclose(model.predict(images), sums / (1 + np.exp(-sums)), rtol=1e-5, atol=1e-5)
