"""What a :class:`~numbacnn.kernels.cuda.runtime.Device` asks NVIDIA's driver for, with a driver in Python in its place."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import DeviceError
from numbacnn.kernels.cuda import runtime, staging
from numbacnn.kernels.cuda.driver import cuda, float32
from numbacnn.kernels.cuda.launch import Launch, kernel
from numbacnn.kernels.cuda.memory import empty, on_device

from .python_driver import Driver, driving
from .test_layers import BATCH, CASES, compiled, model_of, samples, trained

pytestmark = compiled


@pytest.fixture(params=["late", "early"])
def driver(request: Any) -> Iterator[Driver]:
    pytest.importorskip("cuda.bindings.driver")
    with driving(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def launching() -> Iterator[Driver]:
    pytest.importorskip("cuda.bindings.driver")
    with driving() as found:
        yield found


def test_arrays_there_and_back(driver: Driver) -> None:
    """What goes through rooms arrives, whatever is done first, and all that was made is given back."""
    feed, drain, found = staging.Feed(), staging.Drain(), []
    given = [np.random.default_rng(size).random((size, 3)) for size in (4, 4, 4, 900, 1)]
    for array in given:
        values = array.copy()
        sent = feed.send([values, np.arange(len(values))], ["float32", "int64"])
        values[...] = -1
        sent.arrive()
        there = [empty(array.shape, array.dtype) for array in sent.arrays]
        for each, arrived in zip(there, sent.arrays):
            each.copy_from(arrived)
        sent.release()
        found.append(drain.fetch(there))
        for each in there:
            each.clear()
    for fetched, array in zip(found, given):
        values, numbers = fetched.collect()
        np.testing.assert_array_equal(values, array.astype(np.float32))
        np.testing.assert_array_equal(numbers, np.arange(len(array)))
    del feed, drain, found, sent, there, each, arrived, fetched, values, numbers
    gc.collect()
    assert driver.alive == {"stream": 1, "event": 0, "memory": 0, "host memory": 0}


def test_memory_in_use_is_not_given_back(driver: Driver) -> None:
    """A feed that ends waits for what it has sent, and a batch that nobody has taken is no harm."""
    feed = staging.Feed()
    feed.send([np.ones(100)], ["float32"])
    array = on_device(np.zeros(3, np.float32))
    feed.deliver([np.arange(3)], [array])
    assert driver.copies == "early" or driver.pending
    del feed
    gc.collect()
    assert driver.alive["host memory"] == 0
    np.testing.assert_array_equal(array.download(), np.arange(3))


def test_events(driver: Driver) -> None:
    device = runtime.device()
    start = device.event()
    event = device.stream.mark()
    assert device.elapsed(start, device.event()) >= 0
    assert event.reached
    del start, event
    gc.collect()
    assert driver.alive["event"] == 0


def test_no_page_locked_memory_is_left(driver: Driver) -> None:
    driver.full = True
    with pytest.raises(DeviceError, match="The host has no 2 MiB more of page-locked memory"):
        runtime.HostMemory(2 << 20)


def assert_launchable(model: nc.Model, inputs: list[np.ndarray]) -> None:
    """Plans of the model run and are replayed without anything that the driver refuses; what they compute does not matter."""
    given: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
    slopes = [np.zeros((len(inputs[0]), *tensor.shape), np.float32) for tensor in model.graph.outputs]
    for _ in range(3):  # at first, recorded, from the graph
        model.predict(given)
        trained(model, inputs, slopes, "cuda")


@pytest.mark.parametrize("name", CASES)
def test_layers_launch_what_a_gpu_can(name: str, launching: Driver) -> None:
    case = CASES[name][0]
    model = model_of(name, case).to("cuda")
    assert_launchable(model, samples(model, case, np.random.default_rng(7)))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_networks_launch_what_a_gpu_can(precision: str, launching: Driver) -> None:
    x = nc.Input((6, 6, 16))
    h = nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(64, 3, padding="same", bias=False)(x)))
    model = nc.Model(x, nc.Conv2D(32, 3)(h)).to("cuda", precision)
    assert_launchable(model, [np.zeros((BATCH, 6, 6, 16), np.float32)])
    assert any(precision in name for name in launching.launched)


def test_sums_of_very_many_columns(launching: Driver) -> None:
    x = nc.Input((600_000,))
    assert_launchable(nc.Model(x, nc.PReLU()(x)).to("cuda"), [np.zeros((BATCH, 600_000), np.float32)])


@kernel(threads=32)
def _with_tables(x):
    """``x[0]`` from both kinds of shared memory."""
    fixed, flexible = cuda.shared.array(512, float32), cuda.shared.array(0, float32)
    fixed[cuda.threadIdx.x] = x[0]
    cuda.syncthreads()
    flexible[0] = fixed[31]
    x[0] = flexible[0]


def test_shared_memory_is_asked_for(launching: Driver) -> None:
    """As soon as there is more than 48 KiB of it with what is the kernel's own; and what a launch was promised is not taken back."""
    x = on_device(np.zeros(1, np.float32))
    small, large, less = (Launch(_with_tables, 1, (x,), nbytes) for nbytes in (16, 48 << 10, 47 << 10))
    for launch in (small, large, less, large):
        launch()


def test_an_error_tells_of_its_launch(driver: Driver) -> None:
    driver.broken = True
    with pytest.raises(DeviceError, match=r"LAUNCH_FAILED.*launch _with_tables, \(7, 1, 1\) blocks of 32 threads and 16 bytes"):
        _with_tables(7, on_device(np.zeros(1, np.float32)), shared=16)
