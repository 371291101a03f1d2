"""LeNet-5 and the textbook network: parameters, names, shapes, options, and that they learn."""

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.data.loader import Loader
from numbacnn.data.sources import open_dataset
from numbacnn.errors import ConfigError, NumbacnnError, ShapeError

RNG = np.random.default_rng(0)


def count(model: nc.Model) -> int:
    return sum(array.size for array in model.parameters.values())


def test_the_architectures_are_registered():
    assert {"lenet5", "cnn"} <= set(nc.list_architectures())


@pytest.mark.parametrize(
    ("name", "input_shape", "classes", "parameters"),
    [
        ("lenet5", (28, 28, 1), 10, 61_706),
        ("lenet5", (32, 32, 3), 100, 6 * 76 + 16 * 151 + 120 * 577 + 84 * 121 + 100 * 85),
        ("cnn", (28, 28, 1), 10, 220_234),
        ("cnn", (32, 32, 3), 10, 32 * 28 + 64 * 289 + 64 * 4097 + 650),
        ("cnn", (7, 5, 2), 3, 32 * 19 + 64 * 289 + 64 * 65 + 3 * 65),
    ],
)
def test_parameter_counts(name, input_shape, classes, parameters):
    model = nc.create(name, input_shape=input_shape, classes=classes)
    assert count(model) == parameters
    assert model.name == name


def test_names_are_recognised():
    lenet5 = nc.create("lenet5")
    layers = ["conv1", "conv2", "dense1", "dense2", "dense3"]
    assert sorted(lenet5.parameters) == sorted(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))
    assert lenet5.parameters["conv2.weight"].shape == (5, 5, 6, 16)
    assert lenet5.parameters["dense1.weight"].shape == (400, 120)
    assert set(nc.create("cnn").parameters) == {
        f"{layer}.{part}" for layer in ("conv1", "conv2", "dense1", "dense2") for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("name", "input_shape"), [("lenet5", (12, 13, 1)), ("lenet5", (28, 28, 1)), ("cnn", (4, 4, 3)), ("cnn", (9, 8, 3))]
)
def test_predictions(name, input_shape):
    model = nc.create(name, input_shape=input_shape, classes=7, seed=3)
    logits = model.predict(RNG.random((3, *input_shape), np.float32))
    assert logits.shape == (3, 7)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def test_the_seed_makes_the_parameters():
    weights = [nc.create("lenet5", seed=seed).parameters["conv1.weight"].copy() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_options():
    classic = nc.create("lenet5", activation="tanh", pooling="average", dtype="float64")
    assert count(classic) == 61_706
    assert classic.dtype == np.float64
    layers = [type(node.layer).__name__ for node in classic.graph.nodes]
    assert layers.count("AveragePool2D") == 2


@pytest.mark.parametrize(("name", "before"), [("lenet5", ["dense2", "dense3"]), ("cnn", ["dense1", "dense2"])])
def test_dropout_stands_before_dense_layers_and_changes_no_names(name, before):
    model = nc.create(name, dropout=0.5)
    nodes = model.graph.nodes
    places = [k for k, node in enumerate(nodes) if isinstance(node.layer, nc.Dropout)]
    assert [nodes[k].layer.rate for k in places] == [0.5, 0.5]
    assert [nodes[k + 1].name for k in places] == before
    assert [*model.parameters] == [*nc.create(name).parameters]


def test_features_are_the_outputs_of_the_poolings():
    found = nc.create("lenet5", features=True).predict(RNG.random((2, 28, 28, 1), np.float32))
    assert {key: array.shape for key, array in found.items()} == {"stage1": (2, 14, 14, 6), "stage2": (2, 5, 5, 16)}
    found = nc.create("cnn", features=True).predict(RNG.random((2, 28, 28, 1), np.float32))
    assert {key: array.shape for key, array in found.items()} == {"stage1": (2, 14, 14, 32), "stage2": (2, 7, 7, 64)}


def test_mistakes():
    with pytest.raises(ConfigError, match="'max' or 'average', not 'min'"):
        nc.create("lenet5", pooling="min")
    with pytest.raises(ConfigError, match="options"):
        nc.create("lenet5", depth=3)
    with pytest.raises(NumbacnnError, match="Did you mean 'lenet5'"):
        nc.create("lenet")


@pytest.mark.parametrize(
    ("name", "input_shape", "layer"), [("lenet5", (8, 8, 1), "conv2"), ("lenet5", (11, 11, 1), "pool2"), ("cnn", (3, 9, 1), "pool2")]
)
def test_images_that_are_too_small(name, input_shape, layer):
    with pytest.raises(ShapeError, match=layer):
        nc.create(name, input_shape=input_shape)


@pytest.mark.parametrize("name", ["lenet5", "cnn"])
def test_a_few_steps_reduce_the_loss(name):
    digits = open_dataset("digits", input_shape=(28, 28, 1))
    model = nc.create(name, seed=1)
    trainer = nc.Trainer(model, optimizer=nc.Adam(2e-3))
    losses = [trainer.step(images, labels) for images, labels in Loader(digits, 32, drop_last=True).epoch(0)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
