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


def test_the_original_alexnet_has_the_parameters_and_shapes_of_the_paper():
    """Section 3.5 and figure 2: maps of 55 x 55 x 96 and so on before each pooling, 60 million parameters. Without
    the groups there were 62,378,344."""
    model = nc.create("alexnet_original")
    assert sum(array.size for array in model.parameters.values()) == 60_965_224
    shapes = {node.name: node.outputs[0].shape for node in model.graph.nodes}
    assert [shapes[name] for name in ("stem.conv", "stage1.conv", "stage2.conv1", "stage2.conv2", "stage2.conv3")] == [
        (55, 55, 96),
        (27, 27, 256),
        (13, 13, 384),
        (13, 13, 384),
        (13, 13, 256),
    ]
    assert shapes["head.flatten"] == (6 * 6 * 256,)
    assert model.parameters["stage1.conv.weight"].shape == (5, 5, 48, 256)
    assert list(shapes)[:4] == ["stem.conv", "stem.activation", "stem.norm", "stem.pool"]


def test_the_original_alexnet_divides_by_the_energy_of_five_channels():
    """Section 3.3, with k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    model = nc.create("alexnet_original", input_shape=(67, 67, 3), width=12)
    layer = next(node.layer for node in model.graph.nodes if node.name == "stem.norm")
    x = nc.Input((1, 1, 12))
    a = RNG.normal(scale=60, size=12).astype(np.float32)
    found = nc.Model(x, layer(x)).predict(a.reshape(1, 1, 1, 12)).ravel()
    energies = [sum(float(a[j]) ** 2 for j in range(max(0, i - 2), min(11, i + 2) + 1)) for i in range(12)]
    np.testing.assert_allclose(found, a / (2 + 1e-4 * np.array(energies)) ** 0.75, rtol=1e-5)


def test_the_original_alexnet_has_no_names_elsewhere(tmp_path):
    model = nc.create("alexnet_original", input_shape=(67, 67, 3), width=12, hidden=8)
    with pytest.raises(nc.UnknownNameError, match="torchvision"):
        model.export(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(("name", "least"), [("vgg11", 32), ("alexnet", 63), ("alexnet_original", 67), ("squeezenet1_1", 17)])
def test_the_smallest_images(name, least):
    """As the docstrings have it."""
    options = {"width": 12} if name == "alexnet_original" else {"width": 8}
    model = nc.create(name, input_shape=(least, least, 3), classes=4, **options)
    assert model.predict(RNG.normal(size=(1, least, least, 3))).shape == (1, 4)
    with pytest.raises(nc.ShapeError):
        nc.create(name, input_shape=(least - 1, least, 3), **options)
