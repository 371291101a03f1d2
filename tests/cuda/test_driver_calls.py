"""What a :class:`~numbacnn.kernels.cuda.runtime.Device` asks NVIDIA's driver for, with a driver in Python in its place."""

from __future__ import annotations

import ctypes
import functools
import gc
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from numbacnn.errors import DeviceError
from numbacnn.kernels.cuda import no_gpu, runtime, staging
from numbacnn.kernels.cuda.memory import empty, on_device

from .test_layers import compiled

pytestmark = compiled


class Driver:
    """The functions of ``cuda.bindings.driver`` that the device calls, on the host's memory, with streams and events of the simulator.
    ``alive`` counts what was made and not given back."""

    def __init__(self, real: Any, copies: str):
        self._real, self.copies = real, copies
        self._lock = threading.RLock()
        self.blocks: dict[int, Any] = {}
        self.streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self.pending: list[list[int]] = []
        self.alive = {"stream": 0, "event": 0, "memory": 0, "host memory": 0}
        self.full = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cu") and name[2].isupper():
            own = getattr(self, f"_{name}", None)
            if own is None:
                raise AssertionError(f"nobody expected {name}")
            parameters = inspect.signature(getattr(self._real, name)).parameters
            assert list(inspect.signature(own).parameters) == list(parameters), name
            return functools.partial(self._called, own)
        return getattr(self._real, name)

    def _called(self, function: Callable, *arguments: Any) -> tuple:
        found = function(*arguments)
        if isinstance(found, self._real.CUresult):
            return (found,)
        return (self._real.CUresult.CUDA_SUCCESS, *(() if found is None else (found,)))

    def _cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    def _cuDevicePrimaryCtxRetain(self, dev: int) -> str:
        return "context"

    def _cuCtxSetCurrent(self, ctx: str) -> None:
        assert ctx == "context"

    def _cuDeviceGetAttribute(self, attrib: Any, dev: int) -> int:
        return 9

    def _cuDeviceGetName(self, length: int, dev: int) -> bytes:
        return b"a driver in Python\0"

    def _cuGetErrorString(self, error: Any) -> bytes:
        return b"an error"

    def _cuMemGetInfo(self) -> Any:
        return self._real.CUresult.CUDA_ERROR_UNKNOWN

    # Memory

    def _allocated(self, nbytes: int, kind: str) -> Any:
        if self.full:
            return self._real.CUresult.CUDA_ERROR_OUT_OF_MEMORY
        block = (ctypes.c_uint8 * nbytes)(*[7] * min(nbytes, 1000))
        self.blocks[ctypes.addressof(block)] = block
        self.alive[kind] += 1
        return ctypes.addressof(block)

    def _cuMemAlloc(self, bytesize: int) -> Any:
        return self._allocated(bytesize, "memory")

    def _cuMemFree(self, dptr: int) -> None:
        for stream in list(self.streams):  # as the driver does
            stream.synchronize()
        del self.blocks[dptr]
        self.alive["memory"] -= 1

    def _cuMemHostAlloc(self, bytesize: int, Flags: int) -> Any:
        assert Flags == self._real.CU_MEMHOSTALLOC_PORTABLE
        return self._allocated(bytesize, "host memory")

    def _cuMemFreeHost(self, p: int) -> None:
        end = p + len(self.blocks[p])
        assert not any(p <= address < end for addresses in self.pending for address in addresses), "a copy needs it"
        del self.blocks[p]
        self.alive["host memory"] -= 1

    def _copied(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        pending = [target, source]
        self.pending.append(pending)

        def copy() -> None:
            ctypes.memmove(target, source, nbytes)
            self.pending.remove(pending)

        stream.do(copy)

    def _cuMemcpyHtoDAsync(self, dstDevice: int, srcHost: int, ByteCount: int, hStream: Any) -> None:
        self._copied(dstDevice, srcHost, ByteCount, hStream)

    def _cuMemcpyDtoHAsync(self, dstHost: int, srcDevice: int, ByteCount: int, hStream: Any) -> None:
        self._copied(dstHost, srcDevice, ByteCount, hStream)

    def _cuMemcpyDtoDAsync(self, dstDevice: int, srcDevice: int, ByteCount: int, hStream: Any) -> None:
        self._copied(dstDevice, srcDevice, ByteCount, hStream)

    def _cuMemsetD8Async(self, dstDevice: int, uc: int, N: int, hStream: Any) -> None:
        hStream.do(functools.partial(ctypes.memset, dstDevice, uc, N))

    # Streams and events

    def _cuStreamCreate(self, Flags: int) -> Any:
        assert Flags == self._real.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        first, self.alive["stream"] = self.alive["stream"] == 0, self.alive["stream"] + 1
        stream = no_gpu.SimulatedStream(self._lock, at_once=first == (self.copies == "late"))
        self.streams.add(stream)
        return stream

    def _cuStreamDestroy(self, hStream: Any) -> None:
        self.alive["stream"] -= 1

    def _cuStreamSynchronize(self, hStream: Any) -> None:
        hStream.synchronize()

    def _cuStreamWaitEvent(self, hStream: Any, hEvent: list, Flags: int) -> None:
        hStream.wait(hEvent[0])

    def _cuEventCreate(self, Flags: int) -> list:
        self.alive["event"] += 1
        return [None, Flags]

    def _cuEventRecord(self, hEvent: list, hStream: Any) -> None:
        hEvent[0] = hStream.mark()

    def _cuEventQuery(self, hEvent: list) -> Any:
        return None if hEvent[0].reached else self._real.CUresult.CUDA_ERROR_NOT_READY

    def _cuEventSynchronize(self, hEvent: list) -> None:
        hEvent[0].synchronize()

    def _cuEventElapsedTime(self, hStart: list, hEnd: list) -> float:
        assert hStart[1] == hEnd[1] == 0, "events that are to be timed"
        return 1e3 * (hEnd[0].time - hStart[0].time)

    def _cuEventDestroy(self, hEvent: list) -> None:
        self.alive["event"] -= 1


@pytest.fixture(params=["late", "early"])
def driver(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    bindings = pytest.importorskip("cuda.bindings")
    found = Driver(pytest.importorskip("cuda.bindings.driver"), request.param)
    monkeypatch.setattr(bindings, "driver", found)
    with runtime.pretended(runtime.Device(0)):
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
