"""Every architecture: that it trains, saves and loads, and, beside PyTorch, that it is the network of its name."""

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.weights import names
from numbacnn.weights.files import read_weights
from tests import zoo

PEERS = zoo.family_tables("PEERS")
REDUCED = zoo.family_tables("REDUCED")
TRAINING = zoo.family_tables("TRAINING")
LOSSES = zoo.family_tables("LOSSES")
HEADS = zoo.family_tables("HEADS")
FIRST = zoo.first_of_each_family()


def test_the_tables_name_every_architecture():
    assert {*REDUCED} == set(nc.list_architectures())


@pytest.mark.parametrize("name", REDUCED)
def test_it_overfits_eight_images_and_keeps_its_bits(name, tmp_path):
    """A few steps on eight images tell them apart far better than chance, where the loss starts."""
    model = nc.create(name, classes=8, seed=1, **REDUCED[name])
    (x,) = model.graph.inputs
    images = zoo.images(x.shape, 8) if x.dtype is None else zoo.whole_numbers(50, x.shape, 8)
    labels = np.arange(8)
    rate, steps = TRAINING.get(name, (3e-3, 12))
    trainer = nc.Trainer(model, LOSSES.get(name, "softmax_cross_entropy"), optimizer=nc.Adam(rate))
    losses = [trainer.step(images, labels) for _ in range(steps)]
    assert min(losses[-3:]) < 0.5 * losses[0]
    model.save(tmp_path / "model.safetensors")
    loaded = nc.load(tmp_path / "model.safetensors")
    assert loaded.architecture == name
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))


@pytest.mark.parametrize("name", REDUCED)
def test_features_are_the_stages(name):
    """With ``features=True`` a model gives named stages, which hold the body's parameters and no head."""
    whole = nc.create(name, classes=8, **REDUCED[name])
    body = nc.create(name, features=True, **REDUCED[name])
    assert set(body.parameters) == {key for key in whole.parameters if not key.startswith(HEADS.get(name, "head."))}
    (x,) = body.graph.inputs
    found = body.predict(np.zeros((1, *x.shape), x.dtype or np.float32))
    assert tuple(found) == body.output_names
    places = [array.shape[1] for array in found.values() if array.ndim > 2]
    assert places == sorted(places, reverse=True)


@pytest.mark.oracle
@pytest.mark.parametrize("name", FIRST)
def test_the_first_of_each_family_has_its_peers_logits(name):
    check_logits(name)


@pytest.mark.oracle
@pytest.mark.whole_zoo
@pytest.mark.parametrize("name", [name for name in PEERS if name not in FIRST])
def test_all_others_have_their_peers_logits(name):
    check_logits(name)


@pytest.mark.oracle
@pytest.mark.parametrize("name", FIRST)
def test_the_first_of_each_family_has_its_peers_gradients(name):
    for peer in PEERS[name]:
        assert max(zoo.gradients_apart(name, peer, peer.small, batch=2)) < 1e-6


@pytest.mark.oracle
@pytest.mark.parametrize("name", FIRST)
def test_the_first_of_each_family_is_exported_as_torchvision_has_it(name, tmp_path):
    """Arrays by the same names, of the same shapes."""
    for peer in PEERS[name]:
        if peer.library == "torchvision":
            model = nc.create(name, **peer.options)
            model.export(tmp_path / "theirs.safetensors", "torchvision")
            theirs = {key: tuple(array.shape) for key, array in peer.make().state_dict().items() if not names.IGNORED.fullmatch(key)}
            assert {key: array.shape for key, array in read_weights(tmp_path / "theirs.safetensors").items()} == theirs


def check_logits(name):
    """At the usual size and at an odd one, by the names and numbers of parameters of each peer."""
    for peer in PEERS[name]:
        for size in (peer.size, peer.odd):
            model, apart = zoo.logits_apart(name, peer, size)
            assert apart < 1e-4
        assert sum(model.store.view(key).size for key, spec in model.store.specs.items() if spec.trainable) == zoo.learned(peer.make())
