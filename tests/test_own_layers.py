"""Layers that no plugin registers: they train, resume and save, and loading says what is missing."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError, PluginError
from numbacnn.plugin import manager
from numbacnn.training.callbacks import LambdaCallback, ModelCheckpoint
from numbacnn.training.trainer import Trainer

SHAPE = (6, 6, 2)
pytestmark = pytest.mark.filterwarnings("ignore:No plugin registers")


def make_model(activation, seed=0):
    x = nc.Input(SHAPE)
    h = nc.Conv2D(3, 3, activation=activation)(x)
    return nc.Model(x, nc.Dense(2, activation=activation)(nc.Flatten()(h)), seed=seed)


def data(count=12):
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, *SHAPE)).astype(np.float32), generator.integers(0, 2, count)


@pytest.fixture
def softsign():
    return nc.activation("softsign_of_mine", lambda x: x / (1.0 + abs(x)))


@pytest.mark.parametrize("layer", ["Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense"])
def test_a_class_becomes_a_layer(layer, softsign):
    arguments = {"Dense": (4,), "DepthwiseConv2D": (3,)}.get(layer, (4, 3))
    made = getattr(nc, layer)(*arguments, activation=softsign)
    assert made.activation == softsign()
    assert getattr(nc, layer)(*arguments, activation="relu").activation == "relu"
    assert getattr(nc, layer)(*arguments).activation is None
    with pytest.raises(ConfigError, match="given as an activation"):
        getattr(nc, layer)(*arguments, activation=3)


def test_a_registered_class_survives_saving(tmp_path):
    from numbacnn.layers.activation import Mish

    model = make_model(Mish)
    model.save(tmp_path / "m.safetensors")
    images = data()[0]
    np.testing.assert_array_equal(nc.load(tmp_path / "m.safetensors").predict(images), model.predict(images))


def test_loading_an_unregistered_class_says_what_to_do(tmp_path, softsign):
    model, path = make_model(softsign), tmp_path / "m.safetensors"
    model.save(path)
    with pytest.raises(PluginError, match=r"'softsign_of_mine' of somebody's own, which no plugin provides.*load_weights\.$"):
        nc.load(path)
    rebuilt = make_model(softsign, seed=1)
    rebuilt.load_weights(path)
    np.testing.assert_array_equal(rebuilt.predict(data()[0]), model.predict(data()[0]))


def test_an_unregistered_class_is_not_taken_for_the_builtin_of_its_name(tmp_path):
    model = make_model(nc.activation("mish", lambda x: x * math.tanh(x)))
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(PluginError, match="'mish' of somebody's own"):
        nc.load(tmp_path / "m.safetensors")


def test_a_class_that_was_registered_afterwards_loads(tmp_path, softsign, monkeypatch):
    model, path = make_model(softsign), tmp_path / "m.safetensors"
    model.save(path)
    info = tmp_path / "site" / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[numbacnn]\nmine = mine_plugin\n")
    (info.parent / "mine_plugin.py").write_text(
        "import numbacnn as nc\nfrom numbacnn.plugin.specs import ActivationSpec\n@nc.hookimpl\ndef numbacnn_activations():\n"
        "    yield ActivationSpec('softsign_of_mine', 'mine_code:Softsign')\n"
    )
    code = types.ModuleType("mine_code")
    code.Softsign = softsign
    monkeypatch.setitem(sys.modules, "mine_code", code)
    monkeypatch.syspath_prepend(str(info.parent))
    manager._manager.cache_clear()
    try:
        np.testing.assert_array_equal(nc.load(path).predict(data()[0]), model.predict(data()[0]))
    finally:
        manager._manager.cache_clear()
        sys.modules.pop("mine_plugin", None)


def test_a_run_with_an_unregistered_class_resumes(tmp_path, softsign):
    class Crash(Exception):
        pass

    def crash(trainer, step, loss):
        if step == 5:
            raise Crash

    def fit(*callbacks, resume=False, folder=None):
        trainer = Trainer(make_model(softsign), callbacks=[*callbacks, ModelCheckpoint(tmp_path / "best.safetensors", "loss")])
        trainer.fit(data(), epochs=3, batch_size=4, checkpoint=folder, resume=resume, progress=False)
        return trainer.model.store.trainable

    with pytest.raises(Crash):
        fit(LambdaCallback(step_end=crash), folder=tmp_path / "run")
    np.testing.assert_array_equal(fit(resume=True, folder=tmp_path / "run"), fit())
    make_model(softsign).load_weights(tmp_path / "best.safetensors")
