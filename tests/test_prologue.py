"""What comes before a pointwise convolution, in its prologue: against NumPy, and where it must stay outside."""

from __future__ import annotations

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph import passes
from numbacnn.kernels import conv
from numbacnn.layers.activation import ReLU6, SiLU


def layers_of(model):
    nodes, _ = passes.for_inference(model.graph.nodes, model.graph.outputs)
    return [node.layer for node in nodes]


def with_statistics(model, rng):
    """The model with batch norms that do something."""
    for name in model.parameters:
        if ".running_" in name or "norm" in name:
            model.parameters[name][...] = rng.uniform(0.5, 1.5, model.parameters[name].shape)
    return model


def pointwise(x, weight, bias, stride):
    return x[:, ::stride, ::stride] @ weight[0, 0] + bias


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "clamp"), [("relu", (0, np.inf)), ("relu6", (0, 6)), (None, (-np.inf, np.inf))])
@pytest.mark.parametrize(("size", "channels", "filters", "stride"), [((5, 7), 5, 7, 1), ((1, 1), 16, 33, 1), ((6, 5), 40, 20, 2)])
def test_normalisation_before_a_convolution(size, channels, filters, stride, activation, clamp, dtype):
    x = nc.Input((*size, channels))
    h = nc.BatchNorm()(x, name="norm")
    h = h if activation is None else nc.Activation(activation)(h)
    y = nc.Conv2D(filters, 1, stride=stride)(h, name="conv")
    rng = np.random.default_rng(0)
    model = with_statistics(nc.Model(x, y, dtype=dtype), rng)
    (layer,) = layers_of(model)
    assert layer.normalised
    assert (layer.prologue is None) == (activation is None)
    p = model.parameters
    for batch in (1, 3):
        images = rng.normal(size=(batch, *size, channels)).astype(dtype)
        normalised = (images - p["norm.running_mean"]) / np.sqrt(p["norm.running_var"] + 1e-5) * p["norm.weight"] + p["norm.bias"]
        expected = pointwise(np.clip(normalised, *clamp), p["conv.weight"], p["conv.bias"], stride)
        np.testing.assert_allclose(model.predict(images), expected, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-5)


@pytest.mark.parametrize("shape", [(9,), (1, 1, 9)])
@pytest.mark.parametrize("gate_first", [False, True])
def test_factors_before_a_convolution(shape, gate_first):
    x, gate, residual = nc.Input((4, 5, 9)), nc.Input(shape), nc.Input((4, 5, 21))
    product = nc.Multiply()([gate, x] if gate_first else [x, gate])
    y = nc.Activation("relu")(nc.Add()([nc.BatchNorm()(nc.Conv2D(21, 1, bias=False)(product, name="conv")), residual]))
    model = nc.Model([x, gate, residual], y)
    (layer,) = layers_of(model)
    assert layer.gated
    assert layer.residual
    rng = np.random.default_rng(0)
    images, factors, more = (rng.normal(size=(3, *s)).astype(np.float32) for s in ((4, 5, 9), shape, (4, 5, 21)))
    product = images * factors.reshape(3, 1, 1, 9)
    expected = np.maximum(pointwise(product, model.parameters["conv.weight"], 0, 1) / np.sqrt(1 + 1e-5) + more, 0)
    np.testing.assert_allclose(model.predict((images, factors, more)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "convolution",
    [nc.Conv2D(4, 3), nc.Conv2D(4, 1, padding=1), nc.Conv2D(4, 1, groups=2), nc.DepthwiseConv2D(1)],
    ids=["3x3", "padded", "grouped", "depthwise"],
)
def test_other_convolutions_take_no_prologue(convolution):
    x = nc.Input((4, 4, 4))
    model = nc.Model(x, convolution(nc.BatchNorm()(x)))
    assert len(layers_of(model)) == 2


def test_what_others_read_stays():
    x = nc.Input((4, 4, 4))
    h = nc.BatchNorm()(x)
    assert len(layers_of(nc.Model(x, [nc.Conv2D(3, 1)(h), h]))) == 2
    assert len(layers_of(nc.Model(x, [nc.Conv2D(3, 1)(h), nc.Conv2D(5, 1)(h)]))) == 3
    assert len(layers_of(nc.Model(x, nc.Conv2D(3, 1)(nc.Activation("silu")(h))))) == 3


def test_a_changed_batch_norm_counts():
    x = nc.Input((2, 2, 3))
    model = nc.Model(x, nc.Conv2D(2, 1)(nc.BatchNorm()(x, name="norm")))
    images = np.ones((1, 2, 2, 3), np.float32)
    before = model.predict(images)
    model.parameters["norm.running_mean"][...] = 1
    assert not np.allclose(before, model.predict(images))


def test_clamps():
    assert conv.is_clamp(ReLU6().scalar())
    assert not conv.is_clamp(SiLU().scalar())
