"""The GPU at work: memory, copies, streams, launches and captured graphs, through NVIDIA's driver; ``no_gpu.py`` has what stands in for it.

Work runs in order on one stream of one device, ``stream``, in the device's primary context, which PyTorch and CuPy use too. Copies that are
to be made meanwhile have streams of their own (:meth:`Device.new_stream`), and wait for each other where they are told to.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import DeviceError
from .driver import INSTALL, SIMULATED, Capability, MachineCode
from .no_gpu import Blueprint, Simulator

__all__ = ["Blueprint", "Device", "HostMemory", "Memory", "Replay", "Simulator", "device", "pretended", "problem"]


class Memory:
    """Bytes on the device, from address ``pointer`` on; simulated, ``host`` holds them."""

    def __init__(self, nbytes: int):
        self.nbytes, self.pointer, self.host = nbytes, 0, None
        if SIMULATED:
            self.host = np.zeros(max(nbytes, 1), np.uint8)
            self.pointer = self.host.ctypes.data
        else:
            self._device = device()  # by the time that it is given back, there may be another one
            self.pointer = self._device.allocate(max(nbytes, 1))

    def __del__(self) -> None:
        if self.pointer and self.host is None:
            with contextlib.suppress(Exception):  # at the end of the process there may be no context any more
                self._device.free(self.pointer)


class HostMemory:
    """Page-locked bytes of the host, ``array``, between which and the device copies go on while the host does other work. They are zeros at
    first. What copies from or to them is done before they are given up: that is up to whoever holds them."""

    def __init__(self, nbytes: int):
        self.array, self._release = device().host_bytes(max(nbytes, 1))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # see Memory
            self._release()


def problem() -> str | None:
    """Why no GPU can be used, and what would help, in one sentence; None where one can."""
    if SIMULATED:
        return None
    try:
        from cuda.bindings import driver as api
    except ImportError:
        return f"No GPU can be used: NVIDIA's package cuda-bindings is not installed; {INSTALL}."
    try:
        (error,) = api.cuInit(0)
    except Exception:  # the class differs between versions of cuda-bindings
        return "No GPU can be used: there is no NVIDIA driver on this machine; install the driver of the GPU."
    if error == api.CUresult.CUDA_ERROR_NO_DEVICE:
        return "No GPU can be used: the NVIDIA driver finds none on this machine (nvidia-smi lists those that it finds)."
    if error != api.CUresult.CUDA_SUCCESS:
        return f"No GPU can be used: the NVIDIA driver does not start ({error.name}); nvidia-smi may tell more."
    error, installed = api.cuDriverGetVersion()
    needed = getattr(api, "CUDA_VERSION", 0)
    if installed // 1000 < needed // 1000:
        return (
            f"No GPU can be used: the NVIDIA driver is for CUDA {installed // 1000}.{installed % 1000 // 10}, the packages are for CUDA "
            f"{needed // 1000}; install a newer driver, or pip install 'numba-cuda[cu{installed // 1000}]'."
        )
    return None


_instead: Any = None


def device() -> Any:
    """The first GPU that the driver finds, the simulator, or what :func:`pretended` has put in their place. Raises DeviceError where there
    is none."""
    return _instead if _instead is not None else _first()


@contextlib.contextmanager
def pretended(stand_in: Any) -> Iterator[Any]:
    """Within the block, in all threads, something else is the device."""
    global _instead
    outer, _instead = _instead, stand_in
    try:
        yield stand_in
    finally:
        _instead = outer


@functools.cache
def _first() -> Any:
    if SIMULATED:
        return Simulator()
    found = problem()
    if found:
        raise DeviceError(found)
    return Device(0)


class Device:
    """A GPU, by its number among those that the driver finds."""

    simulated = False

    def __init__(self, number: int):
        from cuda.bindings import driver as api

        self._api = api
        self.number = number
        self._handle = self._done(api.cuDeviceGet(number))
        self._context = self._done(api.cuDevicePrimaryCtxRetain(self._handle))
        self._local = threading.local()
        self.stream = self.new_stream()
        self.capability: Capability = (self.attribute("COMPUTE_CAPABILITY_MAJOR"), self.attribute("COMPUTE_CAPABILITY_MINOR"))
        self.multiprocessors = self.attribute("MULTIPROCESSOR_COUNT")
        name = self._done(api.cuDeviceGetName(96, self._handle))
        self.name = name.split(b"\0")[0].decode()  # what follows are blanks

    @property
    def order(self) -> int:
        """The stream, as other libraries take it that wait for what is under way."""
        return int(self.stream.handle)

    def attribute(self, name: str) -> int:
        """A number that the driver knows of the device."""
        kind = self._api.CUdevice_attribute
        return self._done(self._api.cuDeviceGetAttribute(getattr(kind, f"CU_DEVICE_ATTRIBUTE_{name}"), self._handle))

    def _enter(self) -> None:
        """Make the device's context that of this thread."""
        if not getattr(self._local, "entered", False):
            self._done(self._api.cuCtxSetCurrent(self._context))
            self._local.entered = True

    def _done(self, result: tuple) -> Any:
        """What a call of the driver gave. Raises DeviceError where it failed."""
        error, *values = result
        if error != self._api.CUresult.CUDA_SUCCESS:
            _, text = self._api.cuGetErrorString(error)
            raise DeviceError(f"The GPU refused: {error.name}, {(text or b'').decode()}.")
        return values[0] if len(values) == 1 else tuple(values)

    # Memory ----------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        self._enter()
        result = self._api.cuMemAlloc(nbytes)
        if result[0] == self._api.CUresult.CUDA_ERROR_OUT_OF_MEMORY and gc.collect():  # which may have held some
            result = self._api.cuMemAlloc(nbytes)
        if result[0] == self._api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            free, total = self.memory()
            raise DeviceError(
                f"The GPU has no room for {nbytes / 2**20:,.0f} MiB more: {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free. "
                "A smaller batch, recompute='blocks' or accumulate=2 need less."
            )
        return int(self._done(result))

    def free(self, pointer: int) -> None:
        self._enter()
        self._done(self._api.cuMemFree(pointer))

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and bytes in all."""
        self._enter()
        return self._done(self._api.cuMemGetInfo())

    def host_bytes(self, nbytes: int) -> tuple[np.ndarray, Callable[[], None]]:
        """Page-locked bytes of the host, and what gives them back."""
        self._enter()
        result = self._api.cuMemHostAlloc(nbytes, self._api.CU_MEMHOSTALLOC_PORTABLE)
        if result[0] == self._api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceError(f"The host has no {nbytes / 2**20:,.0f} MiB more of page-locked memory for batches on their way to the GPU.")
        pointer = int(self._done(result))
        found = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))
        found[:] = 0
        return found, functools.partial(self._free_host, pointer)

    def _free_host(self, pointer: int) -> None:
        self._enter()
        self._done(self._api.cuMemFreeHost(pointer))

    def upload(self, memory: Memory, offset: int, source: np.ndarray, stream: Stream | None = None) -> None:
        """Copy a dense array of the host, on the device's own stream or on another one. Page-locked memory must stay as it is until the
        stream has come so far."""
        self._enter()
        if source.nbytes:
            stream = stream or self.stream
            self._done(self._api.cuMemcpyHtoDAsync(memory.pointer + offset, source.ctypes.data, source.nbytes, stream.handle))

    def download(self, memory: Memory, offset: int, target: np.ndarray, stream: Stream | None = None) -> None:
        """Copy into a dense array of the host, which holds it when the stream has come so far."""
        self._enter()
        if target.nbytes:
            stream = stream or self.stream
            self._done(self._api.cuMemcpyDtoHAsync(target.ctypes.data, memory.pointer + offset, target.nbytes, stream.handle))

    def copy(self, source: Memory, source_offset: int, target: Memory, offset: int, nbytes: int) -> None:
        """Copy on the device."""
        self._enter()
        if nbytes:  # a graph takes no copy of nothing
            self._done(self._api.cuMemcpyDtoDAsync(target.pointer + offset, source.pointer + source_offset, nbytes, self._ordered))

    def clear(self, memory: Memory, offset: int, nbytes: int) -> None:
        """Fill with zeros."""
        self._enter()
        if nbytes:
            self._done(self._api.cuMemsetD8Async(memory.pointer + offset, 0, nbytes, self._ordered))

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it on its own stream."""
        self.stream.synchronize()

    def finish(self) -> None:
        """Wait until the device has done all that anybody in this process has asked of it, on whatever stream."""
        self._enter()
        self._done(self._api.cuCtxSynchronize())

    def new_stream(self) -> Stream:
        """A further stream."""
        return Stream(self)

    # Launches --------------------------------------------------------------------------------------------------------

    def load(self, code: MachineCode) -> Any:
        """A kernel that can be launched."""
        self._enter()
        module = self._done(self._api.cuModuleLoadData(code.cubin))
        return self._done(self._api.cuModuleGetFunction(module, code.name.encode()))

    def allow_shared(self, function: Any, nbytes: int) -> None:
        """Let a kernel have that much dynamic shared memory. Without asking it has 48 KiB, less what it has of static shared memory."""
        self._enter()
        attribute = self._api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._done(self._api.cuFuncSetAttribute(function, attribute, nbytes))

    def launch(self, function: Any, grid: Sequence[int], threads: int, shared: int, parameters: int) -> None:
        """Launch a kernel; ``parameters`` is the address of an array of the addresses of its arguments."""
        self._enter()
        self._done(self._api.cuLaunchKernel(function, *grid, threads, 1, 1, shared, self._ordered, parameters, 0))

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """What ``work`` launches and copies on the device, as one graph that can be launched again and again.

        It is captured on a stream of its own, so that what other threads do meanwhile does not come into it; and in relaxed mode, as the
        garbage collector may free memory at any time, which other modes forbid."""
        self._enter()
        api = self._api
        stream = self._done(api.cuStreamCreate(api.CUstream_flags.CU_STREAM_NON_BLOCKING.value))
        try:
            self._done(api.cuStreamBeginCapture(stream, api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
            self._local.capturing = stream
            try:
                work()
            finally:
                self._local.capturing = None
                graph = self._done(api.cuStreamEndCapture(stream))
        finally:
            api.cuStreamDestroy(stream)
        return _Graph(self, self._done(api.cuGraphInstantiate(graph, 0)), graph)

    @property
    def _ordered(self) -> Any:
        """The stream on which this thread works: that of all work, or the one on which it captures some."""
        capturing = getattr(self._local, "capturing", None)
        return self.stream.handle if capturing is None else capturing

    # Time ------------------------------------------------------------------------------------------------------------

    def event(self) -> Event:
        """A mark in the stream, for :meth:`elapsed`."""
        return self.stream.mark(timed=True)

    def elapsed(self, start: Event, stop: Event) -> float:
        """Milliseconds between two marks; waits for the second."""
        stop.synchronize()
        return float(self._done(self._api.cuEventElapsedTime(start.handle, stop.handle)))


class Stream:
    """Work of a device that is done in its order. What is on several streams is done at the same time, but for what is told to wait."""

    def __init__(self, owner: Device):
        self._owner = owner
        owner._enter()
        self.handle = owner._done(owner._api.cuStreamCreate(owner._api.CUstream_flags.CU_STREAM_NON_BLOCKING.value))

    def mark(self, timed: bool = False) -> Event:
        """An event that happens when all work so far is done."""
        return Event(self._owner, self.handle, timed)

    def wait(self, event: Event) -> None:
        """Let the work that follows be done after the event."""
        self._owner._enter()
        self._owner._done(self._owner._api.cuStreamWaitEvent(self.handle, event.handle, 0))

    def synchronize(self) -> None:
        """Wait on the host until all work so far is done."""
        self._owner._enter()
        self._owner._done(self._owner._api.cuStreamSynchronize(self.handle))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # see Memory; work that is under way is done all the same
            if self is not self._owner.stream:  # for which graphs wait when they are given up, maybe later
                self._owner._enter()
                self._owner._api.cuStreamDestroy(self.handle)


class Event:
    """A mark in a stream. Those that are ``timed`` cost a little more."""

    def __init__(self, owner: Device, stream: Any, timed: bool):
        self._owner, api = owner, owner._api
        owner._enter()
        self.handle = owner._done(api.cuEventCreate(0 if timed else api.CUevent_flags.CU_EVENT_DISABLE_TIMING.value))
        owner._done(api.cuEventRecord(self.handle, stream))

    @property
    def reached(self) -> bool:
        """Whether all work before it is done."""
        self._owner._enter()
        result = self._owner._api.cuEventQuery(self.handle)
        if result[0] == self._owner._api.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self._owner._done(result)
        return True

    def synchronize(self) -> None:
        """Wait on the host until all work before it is done."""
        self._owner._enter()
        self._owner._done(self._owner._api.cuEventSynchronize(self.handle))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._owner._enter()
            self._owner._api.cuEventDestroy(self.handle)


class Replay:
    """Steps, calls with their arguments, that launch and copy on the device: from the second time on one graph does it all."""

    def __init__(self, steps: Sequence[tuple[Callable, tuple]]):
        self._steps = steps
        self._graph: Callable[[], None] | None = None

    def __call__(self) -> None:
        if not self._steps:
            return
        if self._graph is None:
            self._run()  # loads what has to be loaded, which a capture must not
            self._graph = device().captured(self._run)
        else:
            self._graph()

    def _run(self) -> None:
        for step, arguments in self._steps:
            step(*arguments)


class _Graph:
    """A captured graph."""

    def __init__(self, owner: Device, executable: Any, graph: Any):
        self._owner, self._executable, self._graph = owner, executable, graph

    def __call__(self) -> None:
        self._owner._enter()
        self._owner._done(self._owner._api.cuGraphLaunch(self._executable, self._owner.stream.handle))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._owner.synchronize()  # it may be under way
            self._owner._api.cuGraphExecDestroy(self._executable)
            self._owner._api.cuGraphDestroy(self._graph)
