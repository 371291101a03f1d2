"""Residual and dense networks: what the tables of the zoo cannot say (sizes in papers, options that don't fit, other checkpoints)."""

import re

import numpy as np
import pytest
from numbacnn_architectures.regnet import block_widths

import numbacnn as nc
from numbacnn.errors import ConfigError, ShapeError
from numbacnn.weights import names


def learned(model: nc.Model) -> int:
    return sum(model.store.view(name).size for name, spec in model.store.specs.items() if spec.trainable)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_those_for_cifar_have_as_many_parameters_as_in_the_paper(depth, millions):
    """K. He et al. 2016, table 6."""
    assert round(learned(nc.create(f"resnet{depth}")) / 1e6, 1 if depth == 110 else 2) == millions


def test_shortcuts_without_parameters_keep_pixels_between_channels_of_zeros():
    """A block whose branch gives nothing is its shortcut."""
    model = nc.create("resnet20", input_shape=(9, 9, 3), width=4, features=True)
    for name, array in model.parameters.items():
        if re.fullmatch(r"stage2\.block\d\.norm2\.(weight|bias)", name):
            array[...] = 0
    found = model.predict(np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype(np.float32))
    wanted = np.zeros((2, 5, 5, 8), np.float32)
    wanted[..., 2:6] = found["stage1"][:, ::2, ::2]
    np.testing.assert_array_equal(found["stage2"], wanted)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"depth": 21}, "given depth=21; it takes 6 n + 2"),
        ("resnet20", {"depth": "20"}, "given depth='20'; it takes 6 n + 2"),
        ("resnet18", {"groups": 2}, "Blocks of two convolutions have one group; given groups=2, group_width=64."),
        ("resnet20", {"groups": 2}, "resnet20 was given groups=2; it takes classes, depth,"),
        ("regnet_y_400mf", {"ratio": 1.0}, "slope=27.89, ratio=1.0, group_width=8; it takes a depth"),
        ("r3d_18", {"input_shape": (112, 112, 3)}, "given inputs of shape (112, 112, 3); it takes (frames, height, width, channels)."),
        ("resnet1d", {"input_shape": (28, 28, 1)}, "given inputs of shape (28, 28, 1); it takes (length, channels)."),
    ],
)
def test_options_that_do_not_fit(name, options, message):
    with pytest.raises((ConfigError, ShapeError), match=re.escape(message)):
        nc.create(name, **options)


def test_weights_of_the_usual_checkpoints_for_cifar_fit():
    """They differ from torchvision's large networks by the name of the last layer."""
    model = nc.create("resnet20", width=4)
    ours = np.arange(16 * 10, dtype=np.float32).reshape(16, 10)
    report = model.load_weights({"linear.weight": ours.T, "layer1.0.bn1.num_batches_tracked": np.array(3)}, strict=False)
    assert report.assigned == ("linear.weight",)
    np.testing.assert_array_equal(model.parameters["head.logits.weight"], ours)


def test_files_of_dense_networks_have_names_of_their_own():
    """torchvision publishes ``norm.1`` and ``conv.1`` for what it calls ``norm1`` and ``conv1``."""
    small = {"input_shape": (32, 32, 3), "classes": 5, "width": 4, "growth": 2, "depths": (2, 1)}
    model = nc.create("densenet121", seed=1, **small)
    theirs = {place.name: place.exported(model.store.view(name)) for name, place in names.places(model, "torchvision_files").items()}
    assert theirs["features.denseblock1.denselayer2.norm.1.running_mean"].shape == (4 + 2,)
    assert theirs["features.denseblock1.denselayer2.conv.2.weight"].shape == (2, 8, 3, 3)
    assert theirs["features.transition1.conv.weight"].shape == (4, 8, 1, 1)
    other = nc.create("densenet121", seed=2, **small)
    assert other.load_weights(theirs).complete
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(other.parameters[name], array)


@pytest.mark.parametrize(
    ("numbers", "widths", "depths"),
    [
        ((16, 48, 27.89, 2.09, 8), (48, 104, 208, 440), (1, 3, 6, 6)),
        ((14, 56, 38.84, 2.4, 16), (64, 128, 320, 768), (1, 3, 8, 2)),
        ((17, 192, 76.82, 2.19, 56), (168, 448, 896, 2016), (2, 4, 10, 1)),
    ],
)
def test_widths_of_regnet_are_those_of_the_paper(numbers, widths, depths):
    """RegNetY-400MF, 800MF and 8GF of I. Radosavovic et al. 2020, figure 16."""
    assert block_widths(*numbers) == [width for width, depth in zip(widths, depths) for _ in range(depth)]
