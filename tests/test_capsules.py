"""Capsules of numbacnn_architectures: layers beside NumPy, the margin loss, and CapsNet with its decoder."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numbacnn_architectures.capsules import CapsuleLength, CapsuleRouting, LongestCapsule, Margin, Squash

import numbacnn as nc
from numbacnn.cli.train import chosen, make_loss
from numbacnn.data.sources import open_dataset
from numbacnn.errors import ConfigError, DataError, ShapeError
from numbacnn.plugin import registry
from numbacnn.testing import Trial
from tests.naive import capsules as naive

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ((5, 3), {"capsules": 3, "width": 4}),
        ((2, 3, 2, 4), {"capsules": 10, "iterations": 1}),
        ((70, 8), {"capsules": 2, "width": 17, "iterations": 5}),
    ],
    ids=str,
)
def test_routing(shape, fields):
    layer = CapsuleRouting(**fields)
    for dtype, tolerance in (("float64", 1e-14), ("float32", 1e-5)):
        trial = Trial(layer, [shape], 3, dtype)
        x = trial.x[0].reshape(3, -1, shape[-1])
        np.testing.assert_allclose(trial.forward()[0], naive.route(x, trial.p["weight"], layer.iterations), rtol=0, atol=tolerance)


def test_squash_and_lengths():
    x = RNG.normal(size=(3, 4, 5))
    x[0, 1] = 0
    squashed, sizes = (Trial(layer, [(4, 5)], 3) for layer in (Squash(), CapsuleLength()))
    squashed.x, sizes.x = [x], [x]
    with np.errstate(all="raise"):
        y, lengths = squashed.forward()[0], sizes.forward()[0]
    np.testing.assert_allclose(y, naive.squash(x), rtol=0, atol=1e-15)
    np.testing.assert_allclose(lengths, np.linalg.norm(x, axis=-1), rtol=1e-15)
    for trial in (squashed, sizes):
        ((dx,), _) = trial.backward()
        assert not dx[0, 1].any()


def test_the_longest_capsule_stays():
    x = np.array([[[1.0, 0.0], [0.0, -2.0], [1.0, 1.0]]])
    trial = Trial(LongestCapsule(), [(3, 2)], 1)
    trial.x = [x]
    np.testing.assert_array_equal(trial.forward()[0], [[[0, 0], [0, -2], [0, 0]]])


# The loss ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"present": 0.7, "absent": 0.3, "absent_weight": 1.0}], ids=str)
def test_margin_loss(options):
    lengths, labels = RNG.random((6, 4)), RNG.integers(0, 4, 6)
    loss = Margin(**options)
    value, gradient = loss.value_and_gradient(lengths, labels)
    assert value == pytest.approx(naive.margin(lengths, labels, **options), rel=1e-14)
    for at in np.ndindex(lengths.shape):
        step = np.zeros_like(lengths)
        step[at] = 1e-6
        slope = (loss(lengths + step, labels) - loss(lengths - step, labels)) / 2e-6
        assert gradient[at] == pytest.approx(slope, abs=1e-8)


def test_labels_that_cannot_be():
    with pytest.raises(ShapeError, match=re.escape("Margin got labels of shape (2, 4); for outputs of shape (2, 4) it takes (2,).")):
        Margin()(np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(DataError, match="Margin got the label 4"):
        Margin()(np.zeros((2, 4)), np.array([0, 4]))
    with pytest.raises(ConfigError, match="present is -1"):
        Margin(present=-1)


# The network -------------------------------------------------------------------------------------------------------------

SMALL = {"input_shape": (20, 20, 1), "width": 16, "kinds": 4, "capsule_width": 8}


def test_the_paper_s_network():
    model = nc.create("capsnet")
    assert model.graph.outputs[0].shape == (10,)
    assert model.parameters["head.capsules.weight"].shape == (6 * 6 * 32, 8, 16, 10)
    convolutions = 81 * 256 + 256 + 81 * 256 * 256 + 256
    assert model.summary().parameters == convolutions + 1152 * 8 * 16 * 10
    lengths = model.predict(RNG.random((2, 28, 28, 1), np.float32))
    assert (lengths >= 0).all()
    assert (lengths < 1).all()


def test_a_decoder_learns_beside_the_capsules():
    digits = open_dataset("digits", input_shape=(20, 20, 1))
    images, labels = digits.batch(np.arange(32))
    model = nc.create("capsnet", **SMALL, reconstruct=(20, 20, 1), seed=1)
    assert model.output_names == ("scores", "reconstruction")
    losses = ["margin", "mean_squared_error"]
    trainer = nc.Trainer(model, losses, optimizer=nc.Adam(3e-3), loss_weights=[1, 0.0005 * 400])
    before = nc.Trainer(model, losses).losses[1](model.predict(images)["reconstruction"], images)
    steps = [trainer.step(images, (labels, images)) for _ in range(15)]
    assert steps[-1] < 0.7 * steps[0]
    assert trainer.losses[1](model.predict(images)["reconstruction"], images) < 0.7 * before


@pytest.mark.parametrize("layer", [CapsuleRouting(2), CapsuleLength(), LongestCapsule()], ids=repr)
def test_shapes_that_cannot_be(layer):
    with pytest.raises(ShapeError, match="needs capsules of some length"):
        layer(nc.Input((3,)))


def test_fields_that_cannot_be():
    with pytest.raises(ConfigError, match="iterations is 0"):
        CapsuleRouting(10, iterations=0)
    with pytest.raises(ConfigError, match="dropout"):
        nc.create("capsnet", dropout=0.5)


def test_the_command_line_trains_it_by_its_own_loss():
    nothing = dict.fromkeys(("rate", "momentum", "weight_decay", "optimizer", "schedule", "batch_size", "label_smoothing"))
    recipe = chosen(nothing, registry.find("architecture", "capsnet").spec.recipe)
    assert make_loss(recipe, None) == "margin"
    assert nc.Trainer(nc.create("capsnet", **SMALL), make_loss(recipe, None)).losses == [Margin()]
    with pytest.raises(ConfigError, match="--label-smoothing was given; this architecture is trained with the loss 'margin'"):
        make_loss(recipe, 0.1)
