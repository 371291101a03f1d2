"""Every registered optimizer on the GPU, against the CPU's, over several steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numbacnn.errors import DeviceError
from numbacnn.graph.devices import Cuda
from numbacnn.graph.parameters import ParameterStore
from numbacnn.layers.base import Parameter
from numbacnn.plugin import registry
from numbacnn.training.cuda import DeviceUpdater
from numbacnn.training.optimizers import SGD, Optimizer, Updater

from .test_layers import compiled, no_device, simulated  # noqa: F401

SPECS = {  # a parameter of several tasks, small ones with gaps between them, one that does not decay, one that is not learned
    "conv1.weight": Parameter((3, 3, 1, 7), "he_normal"),
    "conv1.bias": Parameter((7,), "he_normal", decay=False),
    "norm1.running_mean": Parameter((7,), trainable=False),
    "dense1.weight": Parameter((30, 101), "he_normal"),
    "dense1.bias": Parameter((1,), "ones", decay=False),
}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "decoupled": True},
        {"momentum": 0.9, "dampening": 0.3, "l1": 0.05},
    ],
    "adam": [{}, {"betas": (0.8, 0.95), "epsilon": 1e-3, "weight_decay": 0.1}],
    "adamw": [{}, {"weight_decay": 0.2, "decay_all": True}],
    "rmsprop": [{}, {"alpha": 0.9, "momentum": 0.5}, {"centered": True}, {"centered": True, "momentum": 0.9, "l1": 0.01}],
    "adagrad": [{}, {"rate_decay": 0.1, "initial_sum": 0.2, "weight_decay": 0.1}],
}
COMMON = [
    {"clip_value": 0.5},
    {"clip_norm": 1.0},
    {"clip_value": 0.8, "clip_norm": 3.0, "weight_decay": 0.1},
    {"groups": (("dense1.*", {"rate": 0.3, "weight_decay": 0.2}), ("*", {"rate_factor": 0.1, "l1": 0.02}))},
]
CASES = [(name, {"rate": 0.1} | options) for name, entries in OPTIONS.items() for options in entries]
CASES += [(name, {"rate": 0.1} | options) for name in ("sgd", "adam") for options in COMMON]


def gradients_of(store: ParameterStore, step: int) -> np.ndarray:
    """Flat, with zeros for frozen parameters and between parameters, as plans leave them."""
    flat, rng = np.zeros_like(store.trainable), np.random.default_rng(step)
    for name, spec in store.specs.items():
        if spec.trainable and name not in store.frozen:
            store.view(name, flat)[...] = rng.standard_normal(spec.shape)
    return flat


def on_cpu(optimizer: Optimizer, store: ParameterStore, steps: int) -> Updater:
    updater, gradients = Updater(optimizer, store), np.zeros_like(store.trainable)
    bound = updater.bind(gradients)
    for step in range(steps):
        gradients[...] = gradients_of(store, step)
        updater.apply(bound, 1.0 - 0.1 * step)
    return updater


def send(pairs: list[tuple[np.ndarray, Any]]) -> None:
    for values, there in pairs:
        there.upload(values)


def on_gpu(optimizer: Optimizer, store: ParameterStore, steps: int) -> DeviceUpdater:
    from numbacnn.graph.cuda import DeviceParameters

    device = Cuda()
    parameters = DeviceParameters(store, device)
    updater, gradients = DeviceUpdater(optimizer, parameters), device.zeros(store.trainable.shape, np.float32)
    with device.record() as bound:
        updater.bind(gradients)
    for step in range(steps):
        parameters.update()
        gradients.upload(gradients_of(store, step))
        send(updater.begin(1.0 - 0.1 * step))
        device.run(bound)
        updater.done()
    return updater


def test_the_table_has_every_optimizer() -> None:
    assert set(OPTIONS) == set(registry.names("optimizer"))


@simulated
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_same_as_on_the_cpu(name: str, options: dict[str, Any]) -> None:
    optimizer = registry.load("optimizer", name)(**options)
    stores = [ParameterStore(SPECS, 0, np.float32) for _ in range(2)]
    for store in stores:
        store.frozen = {"conv1.bias"}
    before = stores[0].trainable.copy()
    expected, found = on_cpu(optimizer, stores[0], 4), on_gpu(optimizer, stores[1], 4)
    changed = np.abs(stores[0].trainable - before).max()
    np.testing.assert_allclose(stores[1].trainable, stores[0].trainable, rtol=0, atol=2e-5 * changed)
    np.testing.assert_array_equal(stores[1].view("conv1.bias"), ParameterStore(SPECS, 0, np.float32).view("conv1.bias"))
    assert found.steps == expected.steps == 4
    states = found.arrays()
    for slot, array in expected.arrays().items():
        np.testing.assert_allclose(states[slot], array, rtol=2e-5, atol=1e-6 * np.abs(array).max())


@simulated
@pytest.mark.parametrize("options", [{}, {"clip_value": 0.5}, {"clip_norm": 0.5}], ids=str)
def test_gradients_that_are_not_numbers_are_not_hidden(options: dict[str, float]) -> None:
    store = ParameterStore({"weight": Parameter((40,), "he_normal")}, 0, np.float32)
    from numbacnn.graph.cuda import DeviceParameters

    parameters, device = DeviceParameters(store, Cuda()), Cuda()
    updater, gradients = DeviceUpdater(SGD(0.1, **options), parameters), device.zeros(store.trainable.shape, np.float32)
    parameters.update()
    gradients.upload(np.where(np.arange(store.trainable.size) == 3, np.nan, 1).astype(np.float32))
    with device.record() as bound:
        updater.bind(gradients)
    send(updater.begin(1.0))
    device.run(bound)
    updater.done()
    assert np.isnan(store.trainable[3])


@simulated
def test_an_optimizer_that_does_something_else_is_refused() -> None:
    from numbacnn.graph.cuda import DeviceParameters

    class Backwards(SGD):
        def update(self, *arguments: np.ndarray) -> None:
            raise NotImplementedError

    store = ParameterStore(SPECS, 0, np.float32)
    with pytest.raises(DeviceError, match="The optimizer Backwards, of tests, has no kernels for the GPU"):
        DeviceUpdater(Backwards(0.1), DeviceParameters(store, Cuda()))


@compiled
@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_compile_without_spills(name: str, no_device: Any, capabilities: tuple) -> None:  # noqa: F811
    no_device.wanted.clear()
    on_gpu(registry.load("optimizer", name)(clip_norm=1.0), ParameterStore(SPECS, 0, np.float32), 1)
    assert len(no_device.wanted) == 3
    for kernel, kinds in no_device.wanted:
        for capability in capabilities:
            assert kernel.machine_code(kinds, capability).spilled == 0
