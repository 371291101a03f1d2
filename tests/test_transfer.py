"""Transfer learning: another head, a body under one's own head, rates by layer, unfreezing step by step."""

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError


def network(classes=5, seed=3):
    x = nc.Input((8, 8, 3))
    h = x
    for stage in ("stage1", "stage2"):
        with nc.scope(stage):
            h = nc.Conv2D(6, 3, stride=2, padding=1, bias=False)(h)
            h = nc.Activation("relu")(nc.BatchNorm()(h))
    with nc.scope("head"):
        y = nc.Softmax()(nc.Dense(classes)(nc.GlobalAveragePool2D()(h), name="logits"))
    return nc.Model(x, y, seed=seed)


IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def test_replace_head():
    model = network()
    model.classes = ("a", "b", "c", "d", "e")
    model.predict(IMAGES)
    model.freeze("stage1", "head")
    before = {name: array.copy() for name, array in model.parameters.items()}
    model.replace_head(2)
    assert model.predict(IMAGES).shape == (4, 2)
    assert list(model.parameters) == list(before)
    assert model.classes is None
    assert [node.name for node in model.graph.nodes][-1] == "head.softmax1"
    for name, array in model.parameters.items():
        if name.startswith("head."):
            assert array.shape[-1] == 2
            assert name not in model.store.frozen
        else:
            np.testing.assert_array_equal(array, before[name])
    assert model.store.frozen == {name for name in before if name.startswith("stage1.")}


def test_a_head_of_the_same_size_is_fresh():
    model = network()
    model.parameters["head.logits.weight"][...] = 7
    model.replace_head(5)
    assert abs(model.parameters["head.logits.weight"]).max() < 5


def test_every_output_gets_a_head():
    x = nc.Input((6, 6, 2))
    h = nc.Conv2D(4, 3)(x)
    model = nc.Model(x, {"main": nc.Dense(9)(nc.Flatten()(h)), "map": nc.Conv2D(9, 1)(h)})
    model.replace_head(3)
    found = model.predict(np.zeros((1, 6, 6, 2)))
    assert {name: array.shape for name, array in found.items()} == {"main": (1, 3), "map": (1, 4, 4, 3)}


def test_heads_that_cannot_be_replaced():
    x = nc.Input((6, 6, 2))
    normed = nc.Model(x, nc.BatchNorm()(nc.Conv2D(4, 3)(x), name="norm"))
    with pytest.raises(ConfigError, match="BatchNorm layer 'norm', which has no number of classes"):
        normed.replace_head(3)
    for end in (lambda h: nc.Add()(h, h), lambda h: h):
        model = nc.Model(x, end(nc.Activation("relu")(x)))
        with pytest.raises(ConfigError, match="no head to replace"):
            model.replace_head(3)


def test_a_body_under_a_head_of_ones_own():
    body = nc.create("resnet18", input_shape=(32, 32, 3), width=8, features=True)
    h = nc.GlobalAveragePool2D()(body.outputs["stage3"])
    model = nc.Model(body.inputs, nc.Dense(3)(h, name="logits"), start=body, seed=9)
    assert "stage4.block1.conv1.weight" not in model.parameters
    for name, array in model.parameters.items():
        if not name.startswith("logits."):
            np.testing.assert_array_equal(array, body.parameters[name])
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    wanted = body.predict(images)["stage3"].mean((1, 2)) @ model.parameters["logits.weight"]
    np.testing.assert_allclose(model.predict(images), wanted, rtol=1e-4, atol=1e-5)
