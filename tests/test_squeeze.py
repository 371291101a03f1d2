"""Squeeze-and-excitation's factors in inference: sums from the convolution, both dense layers in one launch, and what must stay apart."""

from __future__ import annotations

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph import passes
from numbacnn.kernels import jit
from numbacnn.layers.squeeze import Excitation

DEPTHWISE = nc.DepthwiseConv2D(3, padding=1, activation="relu")
GROUPED = nc.Conv2D(8, 3, groups=2, activation="relu")


def layers_of(model):
    nodes, _ = passes.for_inference(model.graph.nodes, model.graph.outputs)
    return [node.layer for node in nodes]


def squeezed(convolution, size, channels, dtype="float32", keepdims=False, bias=True):
    """What a convolution gives, and that times its factors."""
    x = nc.Input((*size, channels))
    h = convolution(x, name="convolution")
    pool = {1: nc.GlobalAveragePool1D, 2: nc.GlobalAveragePool2D}[len(size)](keepdims)
    factors = nc.Dense(5, bias=bias, activation="relu")(pool(h), name="reduce")
    factors = nc.Dense(h.shape[-1], bias=bias, activation="sigmoid")(factors, name="expand")
    model = nc.Model(x, [h, nc.Multiply()(h, factors)], dtype=dtype)
    rng = np.random.default_rng(0)
    for name, array in model.parameters.items():
        array[...] = rng.normal(size=array.shape) * (1 if name.endswith("bias") else array[..., 0].size ** -0.5)
    return model


def expected(model, h):
    p = model.parameters
    bias = [p.get(f"{name}.bias", 0) for name in ("reduce", "expand")]
    hidden = np.maximum(h.mean(tuple(range(1, h.ndim - 1))) @ p["reduce.weight"] + bias[0], 0)
    factors = 1 / (1 + np.exp(-(hidden @ p["expand.weight"] + bias[1])))
    return h * factors.reshape(len(h), *(1,) * (h.ndim - 2), -1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("convolution", "size", "channels", "summed", "options"),
    [
        (DEPTHWISE, (6, 5), 9, True, {}),
        (DEPTHWISE, (2, 300), 37, True, {"keepdims": True}),  # lines in two stretches that overlap, channels in two blocks
        (nc.DepthwiseConv1D(3, stride=2, activation="relu"), (30,), 8, True, {"bias": False}),
        (nc.DepthwiseConv2D(3, multiplier=2, activation="relu"), (6, 5), 9, False, {}),
        (GROUPED, (6, 5), 4, False, {"keepdims": True}),
    ],
    ids=["depthwise", "wide", "1d", "multiplier", "grouped"],
)
def test_factors(convolution, size, channels, summed, options, dtype):
    model = squeezed(convolution, size, channels, dtype, **options)
    first, excitation, _ = layers_of(model)
    assert getattr(first, "summed", False) == summed
    assert isinstance(excitation, Excitation)
    rng = np.random.default_rng(1)
    for batch in (1, 3):
        h, y = model.predict(rng.normal(size=(batch, *size, channels)).astype(dtype))
        np.testing.assert_allclose(y, expected(model, h), rtol=1e-5 if dtype == "float32" else 1e-12)


def test_same_bits_whatever_the_number_of_threads():
    x = np.random.default_rng(0).normal(size=(3, 28, 15, 40)).astype(np.float32)
    before, results = jit.num_threads(), []
    for threads in {1, before}:
        jit.set_num_threads(threads)
        results.append(squeezed(DEPTHWISE, (28, 15), 40).predict(x)[1])
    jit.set_num_threads(before)
    np.testing.assert_array_equal(results[0], results[-1])


def test_the_names_of_parameters_stay():
    """A changed weight counts, and one convolution's sums serve whoever reads them first."""
    model = squeezed(DEPTHWISE, (4, 4), 3)
    images = np.ones((1, 4, 4, 3), np.float32)
    before = model.predict(images)[1]
    model.parameters["expand.bias"][...] += 1
    h, after = model.predict(images)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, expected(model, h), rtol=1e-5)


def test_two_heads_behind_one_convolution():
    x = nc.Input((4, 4, 3))
    h = DEPTHWISE(x)
    factors = [nc.Dense(3, activation="sigmoid")(nc.Dense(2)(nc.GlobalAveragePool2D()(h))) for _ in range(2)]
    model = nc.Model(x, [h, *factors])
    assert [getattr(layer, "pool", None) is None for layer in layers_of(model)] == [True, True, False]
    h, *factors = model.predict(np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32))
    p = model.parameters
    for k, given in enumerate(factors):
        hidden = h.mean((1, 2)) @ p[f"dense{2 * k + 1}.weight"] + p[f"dense{2 * k + 1}.bias"]
        sums = hidden @ p[f"dense{2 * k + 2}.weight"] + p[f"dense{2 * k + 2}.bias"]
        np.testing.assert_allclose(given, 1 / (1 + np.exp(-sums)), rtol=1e-5)


def test_what_stays_apart():
    x = nc.Input((4, 4, 3))
    pooled = nc.GlobalAveragePool2D()(x)
    hidden = nc.Dense(2)(pooled)
    y = nc.Dense(3)(hidden)
    assert [type(layer) for layer in layers_of(nc.Model(x, y))] == [Excitation]
    assert len(layers_of(nc.Model(x, [y, hidden]))) == 3
    assert len(layers_of(nc.Model(x, [y, pooled]))) == 3
    assert len(layers_of(nc.Model(x, nc.Dense(3)(nc.Dense(2)(nc.GlobalMaxPool2D()(x)))))) == 3
    assert len(layers_of(nc.Model(x, nc.Dense(3)(nc.Dense(100_000)(pooled))))) == 3
