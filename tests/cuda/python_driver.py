"""NVIDIA's driver in Python: what takes the place of ``cuda.bindings.driver`` where there is no GPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import inspect
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from numbacnn.kernels.cuda import no_gpu, runtime

MOST_SHARED = 227 << 10  # bytes that a block may have on an H100
WITHOUT_CONTEXT = {
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuGetErrorString",
}
NO_BITS = 8  # an ELF section that is not in the file
SIZED = 4  # the form of an entry of .nv.info that has its size with it,
PARAMETER = (SIZED, 0x17)  # and form and attribute of one that tells of a parameter


class Driver:
    """The functions of ``cuda.bindings.driver`` that the device calls, on the host's memory, with streams and events of the simulator.
    ``alive`` counts what was made and not given back.

    Kernels are loaded, as they are compiled for a GPU, and do nothing; what the driver would refuse, or a GPU would stumble over, is an
    AssertionError: grids and shared memory that are too large, a thread without a context, pointers to memory that is not there any more,
    also of graphs that are launched again, and what a capture forbids."""

    def __init__(self, real: Any, copies: str = "late"):
        self._real, self.copies = real, copies
        self._entered = threading.local()
        self._lock = threading.RLock()
        self.blocks: dict[int, Any] = {}
        self.streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self.captures: dict[Any, list[Callable[[Any], None]]] = {}
        self.pending: list[list[int]] = []
        self.alive = {"stream": 0, "event": 0, "memory": 0, "host memory": 0}
        self.launched: dict[str, int] = {}  # how often each kernel, in graphs or not
        self.full = False  # has no memory left
        self.broken = False  # launches fail

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cu") and name[2].isupper():
            own = getattr(self, f"_{name}", None)
            if own is None:
                raise AssertionError(f"nobody expected {name}")
            parameters = inspect.signature(getattr(self._real, name)).parameters
            assert list(inspect.signature(own).parameters) == list(parameters), name
            return functools.partial(self._called, name, own)
        return getattr(self._real, name)

    def _called(self, name: str, function: Callable, *arguments: Any) -> tuple:
        assert name in WITHOUT_CONTEXT or hasattr(self._entered, "context"), f"{name} in a thread without a context"
        found = function(*arguments)
        if isinstance(found, self._real.CUresult):
            return (found,)
        values = found if isinstance(found, tuple) else () if found is None else (found,)
        return (self._real.CUresult.CUDA_SUCCESS, *values)

    def _cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    def _cuDevicePrimaryCtxRetain(self, dev: int) -> str:
        return "context"

    def _cuCtxSetCurrent(self, ctx: str) -> None:
        assert ctx == "context"
        self._entered.context = ctx

    def _cuCtxSynchronize(self) -> None:
        for stream in list(self.streams):
            stream.synchronize()

    def _cuDeviceGetAttribute(self, attrib: Any, dev: int) -> int:
        return {"MAJOR": 9, "MINOR": 0, "COUNT": 132}[attrib.name.rpartition("_")[2]]

    def _cuDeviceGetName(self, length: int, dev: int) -> bytes:
        return b"a driver in Python\0".ljust(length)

    def _cuGetErrorString(self, error: Any) -> bytes:
        return b"an error"

    def _cuMemGetInfo(self) -> tuple[int, int]:
        return 1 << 37, 1 << 37

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
        self._cuCtxSynchronize()  # as the driver does
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
        assert hStream not in self.captures
        self._copied(dstDevice, srcHost, ByteCount, hStream)

    def _cuMemcpyDtoHAsync(self, dstHost: int, srcDevice: int, ByteCount: int, hStream: Any) -> None:
        assert hStream not in self.captures
        self._copied(dstHost, srcDevice, ByteCount, hStream)

    def _cuMemcpyDtoDAsync(self, dstDevice: int, srcDevice: int, ByteCount: int, hStream: Any) -> None:
        copied = functools.partial(self._copied, dstDevice, srcDevice, ByteCount)
        self._on_device(hStream, copied, (dstDevice, ByteCount), (srcDevice, ByteCount))

    def _cuMemsetD8Async(self, dstDevice: int, uc: int, N: int, hStream: Any) -> None:
        self._on_device(hStream, lambda stream: stream.do(functools.partial(ctypes.memset, dstDevice, uc, N)), (dstDevice, N))

    def _on_device(self, stream: Any, work: Callable[[Any], None], *used: tuple[int, int]) -> None:
        """Do it, or capture it; ``used`` are addresses and so many bytes."""

        def checked(stream: Any) -> None:
            for address, nbytes in used:
                found = any(start <= address <= address + nbytes <= start + len(block) for start, block in self.blocks.items())
                assert found, f"{nbytes} bytes at {address:#x} are no memory"
            work(stream)

        if stream in self.captures:
            self.captures[stream].append(checked)
        else:
            checked(stream)

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
        assert hStream not in self.captures
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

    # Kernels and graphs

    def _cuModuleLoadData(self, image: bytes) -> bytes:
        assert not self.captures, "a kernel is loaded while something is captured"
        return image

    def _cuModuleGetFunction(self, hmod: bytes, name: bytes) -> LoadedKernel:
        return LoadedKernel(hmod, name.decode())

    def _cuFuncSetAttribute(self, hfunc: LoadedKernel, attrib: Any, value: int) -> None:
        assert attrib.name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        assert value + hfunc.static <= MOST_SHARED, f"{hfunc.name} asks for {value} bytes of shared memory"
        hfunc.dynamic = value

    def _cuLaunchKernel(
        self, f: LoadedKernel, gridDimX: int, gridDimY: int, gridDimZ: int, blockDimX: int, blockDimY: int, blockDimZ: int,
        sharedMemBytes: int, hStream: Any, kernelParams: int, extra: int,
    ) -> Any:  # fmt: skip
        if self.broken:
            return self._real.CUresult.CUDA_ERROR_LAUNCH_FAILED
        assert 0 < gridDimX < 2**31, f.name
        assert 0 < gridDimY < 2**16, f.name
        assert 0 < gridDimZ < 2**16, f.name
        assert 0 < blockDimX * blockDimY * blockDimZ <= 1024, f.name
        assert extra == 0
        pointers = f.pointers(kernelParams)

        def launched(_: Any) -> None:
            assert sharedMemBytes <= f.dynamic, f"{f.name}: {sharedMemBytes} bytes of dynamic shared memory, {f.dynamic} are allowed"
            self.launched[f.name] = self.launched.get(f.name, 0) + 1

        self._on_device(hStream, launched, *((pointer, 0) for pointer in pointers))
        return None

    def _cuStreamBeginCapture(self, hStream: Any, mode: Any) -> None:
        assert mode == self._real.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        self.captures[hStream] = []

    def _cuStreamEndCapture(self, hStream: Any) -> list:
        return self.captures.pop(hStream)

    def _cuGraphInstantiate(self, hGraph: list, flags: int) -> list:
        return list(hGraph)

    def _cuGraphLaunch(self, hGraphExec: list, hStream: Any) -> None:
        assert hStream not in self.captures
        assert hGraphExec, "nothing, or a graph that was given up"
        for work in hGraphExec:
            work(hStream)

    def _cuGraphExecDestroy(self, hGraphExec: list) -> None:
        hGraphExec.clear()

    def _cuGraphDestroy(self, hGraph: list) -> None:
        hGraph.clear()


class LoadedKernel:
    """A kernel of a cubin, an ELF file: ``static`` bytes of shared memory, and the largest number of ``dynamic`` ones that a launch may ask
    for, 48 KiB with the static ones until somebody asks for another one."""

    def __init__(self, cubin: bytes, name: str):
        self.name = name
        sections = dict(_sections(cubin))
        assert f".text.{name}" in sections
        self.static = len(sections.get(f".nv.shared.{name}", b""))
        self.dynamic = max(0, (48 << 10) - self.static)
        self._sizes = dict(_parameters(sections[f".nv.info.{name}"]))

    def pointers(self, table: int) -> list[int]:
        """Arguments of eight bytes, of a table of the addresses of all arguments."""
        addresses = (ctypes.c_void_p * len(self._sizes)).from_address(table)
        return [ctypes.c_uint64.from_address(addresses[k]).value for k, size in self._sizes.items() if size == 8]


def _sections(cubin: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents; those that are all zeros, such as shared memory, have none in the file."""
    (table,), (step, count, names) = struct.unpack_from("<Q", cubin, 0x28), struct.unpack_from("<3H", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + k * step) for k in range(count)]
    for name, kind, _, _, start, size in headers:
        at = headers[names][4] + name
        yield cubin[at : cubin.index(b"\0", at)].decode(), bytes(size) if kind == NO_BITS else cubin[start : start + size]


def _parameters(info: bytes) -> Iterator[tuple[int, int]]:
    """Number and size of each parameter."""
    at = 0
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        if (form, attribute) == PARAMETER:
            yield struct.unpack_from("<H", info, at + 8)[0], struct.unpack_from("<I", info, at + 12)[0] >> 18
        at += 4 + (value if form == SIZED else 0)


@contextlib.contextmanager
def driving(copies: str = "late") -> Iterator[Driver]:
    """Within, the device is one of a driver in Python."""
    found = Driver(importlib.import_module("cuda.bindings.driver"), copies)
    with mock.patch("cuda.bindings.driver", found), runtime.pretended(runtime.Device(0)):
        yield found
