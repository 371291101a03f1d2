"""A pointwise convolution inside of the depthwise one that reads it gives the same bits as by itself, and only joins where it may."""

from __future__ import annotations

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph import passes
from numbacnn.kernels import jit
from numbacnn.kernels.channels import WIDTH
from numbacnn.kernels.conv.depthwise import HELD
from numbacnn.kernels.conv.depthwise_launch import depthwise_blocks
from numbacnn.kernels.conv.launch import Residue
from numbacnn.kernels.conv.window import Window
from numbacnn.layers.expansion import ExpandedDepthwise
from numbacnn.simd import LANES


def block(size, stride, padding, activation, channels=20, expanded=100, image=(29, 31), squeeze=False):
    """An inverted residual block whose normalisations and biases do something."""
    x = nc.Input((*image, channels))
    h = nc.Activation(activation)(nc.BatchNorm()(nc.Conv2D(expanded, 1)(x)))
    h = nc.DepthwiseConv2D(size, stride=stride, padding=padding, bias=False)(h)
    h = nc.Activation(activation)(nc.BatchNorm()(h))
    if squeeze:
        gate = nc.Dense(expanded, activation="sigmoid")(nc.Dense(5, activation=activation)(nc.GlobalAveragePool2D()(h)))
        h = nc.Multiply()([h, nc.Reshape((1, 1, expanded))(gate)])
    model = nc.Model(x, nc.Conv2D(7, 1)(h))
    rng = np.random.default_rng(0)
    for name in sorted(model.parameters):
        values = model.parameters[name]
        values[...] = rng.uniform(0.5, 1.5, values.shape) if "running_var" in name else rng.normal(size=values.shape) / 3
    return model


def joined(model):
    nodes, _ = passes.for_inference(model.graph.nodes, model.graph.outputs)
    return any(isinstance(node.layer, ExpandedDepthwise) for node in nodes)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "activation", "squeeze"),
    [
        (3, 1, "same", "relu6", False),
        (3, 2, "same", "relu6", False),
        (4, (1, 2), ((2, 0), (3, 1)), "relu6", False),
        (5, 2, 2, "silu", True),
    ],
    ids=["3x3", "stride 2", "uneven", "squeeze"],
)
def test_same_bits_as_two_layers(size, stride, padding, activation, squeeze, monkeypatch):
    images = np.random.default_rng(1).normal(size=(3, 29, 31, 20)).astype("float32")
    before, found = jit.num_threads(), []
    for threads in {1, before}:
        jit.set_num_threads(threads)
        model = block(size, stride, padding, activation, squeeze=squeeze)
        assert joined(model)
        found.append(model.predict(images))
    jit.set_num_threads(before)
    monkeypatch.setattr(passes, "fuse_expansions", lambda nodes, outputs: nodes)
    model = block(size, stride, padding, activation, squeeze=squeeze)
    assert not joined(model)
    expected = model.predict(images)
    assert np.ptp(expected) > 0.1
    for y in found:
        np.testing.assert_array_equal(y, expected)


def test_channels_are_divided_among_threads(monkeypatch):
    images, before = np.random.default_rng(1).normal(size=(1, 14, 15, 24)).astype("float32"), jit.num_threads()
    found = []
    for threads in {1, before}:
        jit.set_num_threads(threads)
        model = block(3, 1, "same", "relu6", channels=24, expanded=330, image=(14, 15))
        assert joined(model)
        found.append(model.predict(images))
    jit.set_num_threads(before)
    monkeypatch.setattr(passes, "fuse_expansions", lambda nodes, outputs: nodes)
    expected = block(3, 1, "same", "relu6", channels=24, expanded=330, image=(14, 15)).predict(images)
    for y in found:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("channels", [1, LANES, WIDTH, HELD, HELD + 1, 5 * HELD - LANES, 9 * HELD])
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_spans_hold_all_channels(channels, threads):
    window = Window((1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1))
    parts = [Residue((0, 0, 0), (1, 14, 14), window, tuple(range(9)))]
    spans = np.array(depthwise_blocks(parts, (1, 1, 1), channels, 1, threads, 24).spans)
    assert (spans[0], spans[-1]) == (0, channels)
    assert not (spans[:-1] % WIDTH).any()
    assert (np.diff(spans) > 0).all()
    assert (np.diff(spans) <= HELD).all()


def test_new_parameters_are_seen():
    model, images = block(3, 1, "same", "relu6"), np.ones((1, 29, 31, 20), "float32")
    before = model.predict(images)
    other = block(3, 1, "same", "relu6")
    for name in model.parameters:
        if "norm" in name and "running" not in name:
            model.parameters[name] = other.parameters[name][...] = 2 * other.parameters[name]
    after = model.predict(images)
    np.testing.assert_array_equal(after, other.predict(images))
    assert not np.array_equal(after, before)


def test_only_packed_weights_stay():
    """Of a model that releases its parameters; plans of all batch sizes share what is packed."""
    model, images = block(3, 1, "same", "relu6"), np.random.default_rng(2).normal(size=(3, 29, 31, 20)).astype("float32")
    wanted = model.predict(images)
    model.release_parameters(3)
    assert {"conv1.weight", "depthwise1.weight"} <= model.store.released
    np.testing.assert_array_equal(model.predict(images), wanted)
    np.testing.assert_allclose(model.predict(images[:1]), wanted[:1], rtol=1e-5, atol=1e-5)


def test_what_others_read_is_kept():
    x = nc.Input((32, 32, 16))
    middle = nc.Conv2D(96, 1)(x)
    y = nc.DepthwiseConv2D(3, padding="same")(middle)
    assert joined(nc.Model(x, y))
    assert not joined(nc.Model(x, [middle, y]))
    assert not joined(nc.Model(x, nc.Add()([middle, y])))


@pytest.mark.parametrize(
    ("channels", "expanded", "image", "pointwise"),
    [
        (16, 16, (32, 32), {}),
        (200, 400, (32, 32), {}),
        (16, 1600, (12, 12), {}),
        (16, 96, (32, 32), {"stride": 2}),
        (16, 96, (32, 32), {"groups": 2}),
    ],
    ids=["small", "many channels", "short lines", "stride", "groups"],
)
def test_others_stay_apart(channels, expanded, image, pointwise):
    x = nc.Input((*image, channels))
    y = nc.DepthwiseConv2D(3, padding="same")(nc.Conv2D(expanded, 1, **pointwise)(x))
    assert not joined(nc.Model(x, y))
