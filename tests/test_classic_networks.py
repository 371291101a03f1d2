"""VGG, AlexNet, SqueezeNet, GoogLeNet and Inception-v3: what the table tests of every architecture don't see."""

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.weights import files, names

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_dense_layers_of_vgg_are_convolutions_in_timm(name, tmp_path):
    model = nc.create(name, input_shape=(32, 32, 3), width=2, hidden=6, classes=5)
    model.export(tmp_path / "timm.safetensors", "timm")
    written = files.read_weights(tmp_path / "timm.safetensors")
    assert {key: array.shape for key, array in written.items() if "features" not in key} == {
        "pre_logits.fc1.weight": (6, 16, 7, 7),
        "pre_logits.fc1.bias": (6,),
        "pre_logits.fc2.weight": (6, 6, 1, 1),
        "pre_logits.fc2.bias": (6,),
        "head.fc.weight": (5, 6),
        "head.fc.bias": (5,),
    }
    ours = model.parameters["head.dense1.weight"].reshape(7, 7, 16, 6)
    np.testing.assert_array_equal(written["pre_logits.fc1.weight"], ours.transpose(3, 2, 0, 1))
    again = nc.create(name, input_shape=(32, 32, 3), width=2, hidden=6, classes=5, seed=1)
    assert again.load_weights(tmp_path / "timm.safetensors").convention == "timm"
    for key in model.parameters:
        np.testing.assert_array_equal(again.parameters[key], model.parameters[key])


def test_layers_of_vgg_have_pytorchs_numbers():
    places = names.places(nc.create("vgg11_bn", input_shape=(32, 32, 3), width=2, hidden=6), "torchvision")
    assert places["stage1.norm1.running_var"].name == "features.1.running_var"
    assert places["stage3.conv2.weight"].name == "features.11.weight"
