"""Packed weights: shared by plans, brought up to date together, and, on request, all that a model keeps of its parameters."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import numbacnn as nc
from numbacnn import arrays, kernels
from numbacnn.errors import ConfigError
from numbacnn.kernels import jit

IMAGES = np.random.default_rng(0).standard_normal((9, 12, 12, 16)).astype(np.float32)
ROWS = kernels.dense.MOST_ROWS


def network(seed=0):
    """Winograd's method, folded batch norms, an unfolded one, depthwise and separable layers, and one in NumPy."""
    x = nc.Input((12, 12, 16))
    h = nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(32, 3, padding="same", bias=False)(x)))
    h = nc.BatchNorm()(nc.DepthwiseConv2D(3, padding="same")(h))
    h = nc.Add()(h, nc.SeparableConv2D(32, 3, padding="same", activation="relu")(h))
    h = nc.PReLU()(nc.Conv2DTranspose(24, 3, padding="same")(nc.LayerNorm()(h)))
    h = nc.GlobalAveragePool2D()(nc.MaxPool2D(2)(h))
    return nc.Model(x, nc.Dense(7)(h), seed=seed)


def test_plans_share_what_is_packed():
    model = network()
    before = [model.predict(IMAGES[:size]) for size in (3, 4)]
    first, second = (model._inference_plan(size) for size in (3, 4))
    packed = [{id(entry): entry for entry in plan.weights.entries if entry.arrays} for plan in (first, second)]
    assert packed[0].keys() == packed[1].keys()
    assert len(packed[0]) == 5
    model.parameters["conv1.weight"] *= 2
    after = [model.predict(IMAGES[:size]) for size in (3, 4)]
    for old, new in zip(before, after):
        assert abs(old - new).max() > 0
    np.testing.assert_array_equal(after[0], after[1][:3])


def test_other_ways_of_packing_are_not_shared():
    model = network()
    small = model._inference_plan(2)
    model.exact = True
    exact = model._inference_plan(2)
    tiles = [[entry.packing for entry in plan.weights.entries if entry.node.name == "conv1"] for plan in (small, exact)]
    assert tiles[0] != tiles[1] == [0]


def test_nobody_packs_while_others_compute():
    """A caller that finds changed parameters waits for those that compute with the packed weights of before."""
    model = network()
    plans = [model._inference_plan(size) for size in (2, 3)]
    result = np.empty((3, 7), np.float32)
    with plans[0].weights:
        model.parameters["dense1.bias"] = model.parameters["dense1.bias"] + 1
        caller = threading.Thread(target=plans[1].forward, args=([IMAGES[:3]], [result]))
        caller.start()
        caller.join(0.2)
        assert caller.is_alive()
    caller.join(60)
    assert not caller.is_alive()
    np.testing.assert_array_equal(result, model.predict(IMAGES[:3]))


@pytest.mark.parametrize("size", [9, 2])
def test_predictions_stay_when_parameters_are_released(size):
    model = network()
    wanted = {count: model.predict(IMAGES[:count]) for count in (1, 2, 5, 9)}
    needed = model.memory(size, training=False)
    model.release_parameters(size)
    np.testing.assert_array_equal(model.predict(IMAGES[:size]), wanted[size])
    for count, outputs in wanted.items():
        np.testing.assert_allclose(model.predict(IMAGES[:count]), outputs, rtol=1e-4, atol=1e-5)
    assert model.memory(size, training=False) < needed
    model.release_parameters(size)  # nothing is left to do
    assert "conv1" in str(model.summary())
    assert {"conv1.weight", "batch_norm1.weight", "dense1.weight"} <= model.store.released
    assert not {"prelu1.weight", "layer_norm1.weight", "dense1.bias"} & model.store.released


def test_nothing_else_can_be_done_with_released_parameters(tmp_path):
    model = network()
    trainer = nc.Trainer(model)
    model.release_parameters()
    labels = np.zeros(len(IMAGES), int)
    uses = {
        "train": lambda: trainer.step(IMAGES, labels),
        "save": lambda: model.save(tmp_path / "model.safetensors"),
        "load": lambda: model.load_weights(dict(network().parameters)),
        "read": lambda: model.parameters["dense1.bias"],
        "change": lambda: model.parameters.update({"dense1.bias": np.zeros(7)}),
        "grow": lambda: model.replace_head(3),
        "start": lambda: nc.Model(model.inputs[0], model.outputs[0], start=model),
        "measure": lambda: model.optimize(IMAGES, 0.5),
    }
    wanted = model.predict(IMAGES)
    for use, call in uses.items():
        with pytest.raises(ConfigError, match=r"Model\.release_parameters"):
            call()
        np.testing.assert_array_equal(model.predict(IMAGES), wanted, err_msg=use)
    model.exact = True
    with pytest.raises(ConfigError, match="packed in another way"):
        model.predict(IMAGES)


def test_parameters_that_somebody_holds_are_not_released():
    model = network()
    held = model.parameters["dense1.weight"]
    before = held.copy()
    with pytest.raises(ConfigError, match="held"):
        model.release_parameters(2)
    np.testing.assert_array_equal(held, before)
    del held
    model.release_parameters(2)


@pytest.mark.skipif(jit.JIT_DISABLED, reason="millions of weights take too long without compiled code")
@pytest.mark.parametrize(("first", "second"), [(ROWS, 2 * ROWS + 1), (2 * ROWS + 1, 1)])
def test_dense_layers_keep_the_packing_they_have(first, second):
    """Weights that are read in place are kept, and read in place by batches of any size; those that are packed stay packed."""
    model = nc.Sequential([nc.Dense(2048), nc.BatchNorm()]).build((2048,))
    rows = np.random.default_rng(1).standard_normal((2 * ROWS + 1, 2048)).astype(np.float32)
    wanted = model.predict(rows[:second])
    model.release_parameters(first)
    assert ("dense1.weight" in model.store.released) == (first > ROWS)
    np.testing.assert_allclose(model.predict(rows[:second]), wanted, rtol=1e-4, atol=1e-4)
    assert kernels.dense.scratch_shape(1 << 17, 2048, 2)[1] > 0, "any number of rows"


def resident_bytes():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes single pages back")
def test_memory_goes_back_to_the_system():
    large = arrays.zeros((3 << 20,), np.float32)
    large.fill(1)
    before = resident_bytes()
    arrays.discard(large[1000:-1000])
    assert before - resident_bytes() > 11 << 20
    assert large[:1000].all()
    assert large[-1000:].all()
    arrays.discard(np.ones(1 << 20))  # is not ours: stays as it is
