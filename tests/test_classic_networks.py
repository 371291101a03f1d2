"""VGG, AlexNet, SqueezeNet, GoogLeNet and Inception-v3: what the table tests of every architecture don't see."""

import numpy as np
import pytest
from numbacnn_architectures.inception import auxiliary_head

import numbacnn as nc
from numbacnn.weights import files, names
from tests import zoo

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


@pytest.mark.parametrize(
    ("name", "least", "options"),
    [
        ("vgg11", 32, {"width": 8}),
        ("alexnet", 63, {"width": 8}),
        ("alexnet_original", 67, {"width": 12}),
        ("squeezenet1_1", 17, {"width": 8}),
        ("googlenet", 15, {"width": 0.1}),
        ("inception_v3", 75, {"width": 0.1}),
        ("inception_v3", 299, {"width": 0.03, "auxiliary": True}),
    ],
)
def test_the_smallest_images(name, least, options):
    """As the docstrings have it."""
    model = nc.create(name, input_shape=(least, least, 3), classes=4, **options)
    found = model.predict(RNG.normal(size=(1, least, least, 3)))
    assert (found["logits"] if "auxiliary" in options else found).shape == (1, 4)
    with pytest.raises(nc.ShapeError):
        nc.create(name, input_shape=(least - 1, least, 3), **options)


# Auxiliary classifiers -----------------------------------------------------------------------------------------------

AUXILIARY = {
    "googlenet": ({"input_shape": (33, 33, 3), "width": 0.125}, ("auxiliary1", "auxiliary2")),
    "inception_v3": ({"input_shape": (299, 299, 3), "width": 0.03}, ("auxiliary",)),
}


@pytest.mark.parametrize("name", AUXILIARY)
def test_auxiliary_classifiers_are_outputs_by_name(name):
    options, auxiliaries = AUXILIARY[name]
    model = nc.create(name, auxiliary=True, classes=5, **options)
    found = model.predict(RNG.normal(size=(1, *options["input_shape"])))
    assert {key: array.shape for key, array in found.items()} == dict.fromkeys(("logits", *auxiliaries), (1, 5))


@pytest.mark.parametrize("name", AUXILIARY)
def test_parameters_fit_with_and_without_the_auxiliary_classifiers(name, tmp_path):
    """In our names and in torchvision's: what a model without them doesn't have is left out, what one with them lacks is missing."""
    options, auxiliaries = AUXILIARY[name]
    plain = nc.create(name, classes=5, **options)
    whole = nc.create(name, auxiliary=True, classes=5, seed=1, **options)
    added = [key for key in whole.parameters if key.split(".")[0] in auxiliaries]
    assert added
    assert [*plain.parameters] == [key for key in whole.parameters if key not in added]
    whole.save(tmp_path / "ours.safetensors")
    whole.export(tmp_path / "theirs.safetensors")
    for file in ("ours.safetensors", "theirs.safetensors"):
        plain = nc.create(name, classes=5, **options)
        assert plain.load_weights(tmp_path / file).complete
        for key, array in plain.parameters.items():
            np.testing.assert_array_equal(array, whole.parameters[key])
    plain.export(tmp_path / "plain.safetensors")
    with pytest.raises(nc.WeightsError, match=f"{len(added)} missing"):
        whole.load_weights(tmp_path / "plain.safetensors")
    assert len(whole.load_weights(tmp_path / "plain.safetensors", strict=False).missing) == len(added)


def test_only_names_of_auxiliary_classifiers_may_be_in_a_checkpoint_without_a_place():
    model = nc.create("googlenet", classes=5, input_shape=(33, 33, 3), width=0.125)
    given = {place.name: place.exported(model.parameters[key]) for key, place in names.places(model, "torchvision").items()}
    assert model.load_weights({**given, "aux1.anything": np.zeros(3)}).complete
    with pytest.raises(nc.WeightsError, match=r"1 unexpected: 'aux\.fc1'"):
        model.load_weights({**given, "aux.fc1": np.zeros(3)})


def test_several_classifiers_learn_together():
    """The loss is the weighted sum of theirs, for the same labels; what the network is evaluated by is the first."""
    model = nc.create("googlenet", auxiliary=True, classes=4, input_shape=(33, 33, 3), width=0.125, dropout=0.0, auxiliary_dropout=0.0)
    images, labels = RNG.normal(size=(8, 33, 33, 3)).astype(np.float32), np.arange(8) % 4
    trainer = nc.Trainer(model, optimizer=nc.Adam(3e-3), loss_weights=(1, 0.3, 0.3))
    apart = [nc.Trainer(model, loss_weights=weights).evaluate((images, labels))["loss"] for weights in np.eye(3).tolist()]
    before = trainer.evaluate((images, labels))
    assert before["loss"] == pytest.approx(apart[0] + 0.3 * apart[1] + 0.3 * apart[2], rel=1e-5)
    history = trainer.fit((images, labels), validation=(images, labels), epochs=25, batch_size=8, shuffle=False, progress=False)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    logits = model.predict(images)["logits"]
    assert trainer.evaluate((images, labels))["accuracy"] == np.mean(logits.argmax(axis=1) == labels)


def test_features_have_no_auxiliary_classifiers():
    with pytest.raises(nc.ConfigError, match="features=True and auxiliary=True"):
        nc.create("googlenet", features=True, auxiliary=True)
    with pytest.raises(nc.ConfigError, match="vgg11 was given auxiliary=True; it takes"):
        nc.create("vgg11", auxiliary=True)


@pytest.mark.oracle
def test_the_auxiliary_classifier_of_inception_is_torchvisions():
    """By itself: the whole network at its size takes a while."""
    torch = pytest.importorskip("torch")
    theirs = zoo.randomised(zoo.tv("inception_v3", aux_logits=True, init_weights=False)())
    whole = nc.create("inception_v3", auxiliary=True)
    assert whole.load_weights({key: array.numpy() for key, array in theirs.state_dict().items()}).complete
    assert sum(whole.store.view(key).size for key, spec in whole.store.specs.items() if spec.trainable) == zoo.learned(theirs)
    x = nc.Input((17, 17, 768))
    with nc.scope("auxiliary"):
        ours = nc.Model(x, auxiliary_head(x, 1000))
    for key in ours.parameters:
        ours.parameters[key] = whole.parameters[key]
    batch = zoo.images(x.shape)
    with torch.no_grad():
        wanted = theirs.AuxLogits(zoo.channels_first(batch)).numpy()
    assert zoo.relative(ours.predict(batch), wanted) < 1e-4


@pytest.mark.oracle
@pytest.mark.whole_zoo
def test_inception_with_its_auxiliary_classifier_has_torchvisions_gradients():
    peer = zoo.Peer(
        "torchvision",
        zoo.tv("inception_v3", aux_logits=True, init_weights=False),
        options={"auxiliary": True},
        calm={"dropout": 0.0},
        outputs=tuple,
        loss_weights=(1.0, 0.4),
    )
    assert max(zoo.gradients_apart("inception_v3", peer, 299, batch=3)) < 1e-6
