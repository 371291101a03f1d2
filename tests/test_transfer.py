"""Transfer learning: another head, a body under one's own head, rates by layer, unfreezing step by step."""

import numpy as np
import pytest
from click.testing import CliRunner

import numbacnn as nc
from numbacnn.cli.main import main
from numbacnn.data.dataset import Normalised
from numbacnn.errors import ConfigError, DataError
from numbacnn.weights.preprocessing import Preprocessing


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


def test_a_trainer_from_before_says_so():
    model = network()
    trainer = nc.Trainer(model)
    trainer.step(IMAGES, np.arange(4))
    model.replace_head(5)
    with pytest.raises(ConfigError, match="make a new Trainer"):
        trainer.step(IMAGES, np.arange(4))


# Rates by group, and unfreezing --------------------------------------------------------------------------------------


def test_rates_fall_towards_the_inputs():
    model, twin = network(), network()
    labels = np.arange(4)
    gradients = nc.Trainer(twin).gradients(IMAGES, labels)
    before = {name: array.copy() for name, array in model.parameters.items()}
    trainer = nc.Trainer(model, optimizer=nc.SGD(0.1, groups=nc.layer_groups(model, decay=0.25)))
    trainer.step(IMAGES, labels)
    rates = {"head": 0.1, "stage2": 0.025, "stage1": 0.00625}
    for name, spec in model.store.specs.items():
        if spec.trainable:
            wanted = -rates[name.partition(".")[0]] * gradients[name]
            np.testing.assert_allclose(model.parameters[name] - before[name], wanted, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("decay", [0, -0.5, 1.5, "0.5", True, float("nan")])
def test_decays_that_cannot_be(decay):
    with pytest.raises(ConfigError, match="layer_groups was given decay"):
        nc.layer_groups(network(), decay=decay)


class Frozen(nc.Callback):
    """Notes which groups are trained in each epoch."""

    def __init__(self):
        self.trained = []

    def on_step_end(self, trainer, step, loss):
        store = trainer.model.store
        self.trained.append({name.partition(".")[0] for name in store.specs if name not in store.frozen})


def test_layers_join_from_the_top():
    model, seen = network(), Frozen()
    trainer = nc.Trainer(model, callbacks=[nc.ProgressiveUnfreezing(every=2), seen])
    trainer.fit((IMAGES, np.arange(4)), epochs=6, batch_size=4)
    one, two, three = {"head"}, {"head", "stage2"}, {"head", "stage2", "stage1"}
    assert seen.trained == [one, one, two, two, three, three]


def test_groups_of_ones_own():
    model, seen = network(), Frozen()
    unfreezing = nc.ProgressiveUnfreezing(groups=("stage2.conv1", "head"))
    nc.Trainer(model, callbacks=[unfreezing, seen]).fit((IMAGES, np.arange(4)), epochs=3, batch_size=4)
    assert seen.trained == [{"head"}, {"head", "stage2"}, {"head", "stage2"}]
    with pytest.raises(nc.UnknownNameError, match="Did you mean 'stage2'"):
        nc.Trainer(model, callbacks=[nc.ProgressiveUnfreezing(groups=("stage22",))]).fit((IMAGES, np.arange(4)), batch_size=4)
    for options in ({"every": 0}, {"groups": "head"}, {"groups": ()}):
        with pytest.raises(ConfigError, match="ProgressiveUnfreezing was given"):
            nc.ProgressiveUnfreezing(**options)


def test_a_resumed_run_unfreezes_as_one_that_never_stopped(tmp_path):
    data = (IMAGES, np.arange(4))

    def run(folder, epochs, resume=False):
        model = network()
        trainer = nc.Trainer(model, optimizer=nc.SGD(0.05, momentum=0.9), schedule="constant", callbacks=[nc.ProgressiveUnfreezing()])
        trainer.fit(data, epochs=epochs, batch_size=2, checkpoint=tmp_path / folder, resume=resume)
        return model

    once = run("once", 4)
    run("twice", 2)
    twice = run("twice", 4, resume=True)
    assert twice.store.frozen == once.store.frozen == set()
    for name, array in once.parameters.items():
        np.testing.assert_array_equal(twice.parameters[name], array)


# Images as the weights know them -------------------------------------------------------------------------------------


class Seen(nc.Model):
    """Notes what it is shown."""

    def predict(self, images, batch_size=None):
        self.shown = np.array(images)
        return super().predict(images, batch_size)


def shown(source, preprocessing, channels=3):
    x = nc.Input((4, 4, channels))
    model = Seen(x, nc.Dense(2)(nc.Flatten()(x)))
    model.preprocessing = preprocessing
    nc.Trainer(model).evaluate(source)
    return model.shown


def test_pixels_are_scaled_as_the_weights_want_them():
    scaling = Preprocessing(4, (4, 4), mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 2.0))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    wanted = (pixels / np.float32(255) - np.float32(scaling.mean)) / np.float32(scaling.std)
    labels = np.array([0, 1, 0])
    np.testing.assert_allclose(shown((pixels, labels), scaling), wanted, rtol=1e-6)
    np.testing.assert_allclose(shown(nc.ArrayDataset(pixels, labels), scaling), wanted, rtol=1e-6)
    np.testing.assert_allclose(shown((pixels, labels), None), pixels / np.float32(255))
    numbers = wanted.astype(np.float32)
    np.testing.assert_array_equal(shown((numbers, labels), scaling), numbers)
    once = Normalised(nc.ArrayDataset(pixels, labels), scaling.mean, scaling.std)
    np.testing.assert_allclose(shown(once, scaling), wanted, rtol=1e-6)


def test_grey_images_for_a_network_of_colours():
    scaling = Preprocessing(4, (4, 4), mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 2.0))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    wanted = (pixels / np.float32(255) - np.float32(scaling.mean)) / np.float32(scaling.std)
    np.testing.assert_allclose(shown((pixels, np.array([0, 1, 0])), scaling), wanted, rtol=1e-6)
    with pytest.raises(DataError, match="have 3 channels; a mean of 1"):
        Normalised(nc.ArrayDataset(np.zeros((1, 2, 2, 3)), [0]), (0.5,), (1.0,))


def test_train_from_weights_on_the_command_line(tmp_path):
    """What is not frozen moves, from where the file has it."""
    nc.create("resnet20", input_shape=(32, 32, 1), classes=10, seed=5).save(tmp_path / "start.safetensors")
    options = {"--weights": tmp_path / "start.safetensors", "--output": tmp_path / "run", "--freeze-until": "head", "--epochs": 1}
    done = CliRunner().invoke(main, ["train", "resnet20", "digits", *(str(part) for option in options.items() for part in option)])
    assert done.exit_code == 0, done.output
    before, after = nc.load(tmp_path / "start.safetensors"), nc.load(tmp_path / "run" / "model.safetensors")
    changed = {name for name in before.parameters if (before.parameters[name] != after.parameters[name]).any()}
    assert changed == {"head.logits.weight", "head.logits.bias"}


# Another number of channels ------------------------------------------------------------------------------------------


def resnet(channels):
    return nc.create("resnet18", input_shape=(32, 32, channels), width=8, seed=1)


@pytest.mark.parametrize("library", ["numbacnn", "torchvision"])
def test_grey_images_from_weights_for_colour(library, tmp_path):
    """A grey network sees a grey image as the coloured one sees it in all three channels."""
    coloured, grey = resnet(3), resnet(1)
    coloured.export(tmp_path / "weights.safetensors", library)
    with pytest.raises(nc.WeightsError, match=r"of the wrong shape"):
        grey.load_weights(tmp_path / "weights.safetensors")
    assert grey.load_weights(tmp_path / "weights.safetensors", adapt_input=True).complete
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    np.testing.assert_allclose(grey.predict(images), coloured.predict(images.repeat(3, -1)), rtol=1e-4, atol=1e-4)


def test_more_channels_than_three():
    coloured, many = resnet(3), resnet(7)
    many.load_weights(coloured.parameters, adapt_input=True)
    found, given = (model.parameters["stem.conv.weight"] for model in (many, coloured))
    np.testing.assert_allclose(found[..., 4, :], given[..., 1, :] * 3 / 7, rtol=1e-6)
    np.testing.assert_allclose(found[..., 6, :], given[..., 0, :] * 3 / 7, rtol=1e-6)
    with pytest.raises(nc.WeightsError, match="of the wrong shape"):  # nothing but the channels is adapted
        many.load_weights({**coloured.parameters, "stem.conv.weight": np.zeros((5, 5, 3, 8))}, adapt_input=True)
