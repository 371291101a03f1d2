"""What stands in for a GPU: the simulator, where kernels run as Python, and the blueprint, where nothing runs (compare ``runtime.py``)."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .driver import Capability, cuda

if TYPE_CHECKING:
    from .runtime import Memory

COPIES = os.environ.get("NUMBACNN_SIMULATED_COPIES", "late")
"""``"late"`` or ``"early"``: when the simulator makes copies on streams of their own, see :class:`Simulator`."""


def _host_bytes(nbytes: int) -> tuple[np.ndarray, Callable[[], None]]:
    """Bytes of the host, and what gives them back."""
    return np.zeros(nbytes, np.uint8), lambda: None


class Simulator:
    """Stands in for a device while kernels run as Python.

    A stream does its work as soon as it can or, what a device may do as well, only when the host waits for it: with ``copies`` ``"late"``
    the device's own stream is the soon one and those of copies are late, with ``"early"`` it is the other way round. Where a wait is
    missing, one of the two reads what is not there yet, or overwrites what is still to be read."""

    simulated = True
    name = "the simulator"
    order = None  # what somebody borrows is done
    capability: Capability = (9, 0)
    multiprocessors = 2

    def __init__(self, copies: str = COPIES):
        assert copies in ("late", "early")
        self._copies = copies
        self.lock = threading.RLock()
        self.stream = SimulatedStream(self.lock, at_once=copies == "late")

    def memory(self) -> tuple[int, int]:
        return 1 << 34, 1 << 34

    def host_bytes(self, nbytes: int) -> tuple[np.ndarray, Callable[[], None]]:
        return _host_bytes(nbytes)

    def new_stream(self) -> SimulatedStream:
        return SimulatedStream(self.lock, at_once=self._copies == "early")

    def upload(self, memory: Memory, offset: int, source: np.ndarray, stream: SimulatedStream | None = None) -> None:
        there = self._bytes(memory, offset, source.nbytes)
        (stream or self.stream).do(functools.partial(np.copyto, there, source.reshape(-1).view(np.uint8)))

    def download(self, memory: Memory, offset: int, target: np.ndarray, stream: SimulatedStream | None = None) -> None:
        there = self._bytes(memory, offset, target.nbytes)
        (stream or self.stream).do(functools.partial(np.copyto, target.reshape(-1).view(np.uint8), there))

    def copy(self, source: Memory, source_offset: int, target: Memory, offset: int, nbytes: int) -> None:
        copied, there = self._bytes(source, source_offset, nbytes), self._bytes(target, offset, nbytes)
        self.stream.do(functools.partial(np.copyto, there, copied))

    def clear(self, memory: Memory, offset: int, nbytes: int) -> None:
        self.stream.do(functools.partial(self._bytes(memory, offset, nbytes).fill, 0))

    @staticmethod
    def _bytes(memory: Memory, offset: int, nbytes: int) -> np.ndarray:
        assert memory.host is not None
        return memory.host[offset : offset + nbytes]

    def synchronize(self) -> None:
        self.stream.synchronize()

    finish = synchronize

    def event(self) -> SimulatedEvent:
        return self.stream.mark(timed=True)

    def elapsed(self, start: SimulatedEvent, stop: SimulatedEvent) -> float:
        stop.synchronize()
        return 1e3 * (stop.time - start.time)

    def launch(self, function: Any, grid: Sequence[int], threads: int, shared: int, arguments: Sequence[Any]) -> None:
        """Run a kernel."""
        self.stream.do(functools.partial(cuda.launch, function, grid, threads, shared, arguments))

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


class SimulatedStream:
    """As :class:`.runtime.Stream`. Its work is done ``at_once``, as soon as no event holds it up, or when the host waits for it."""

    def __init__(self, lock: Any, at_once: bool):
        self._lock, self._at_once = lock, at_once
        self._waiting: deque[Callable[[], Any] | SimulatedEvent] = deque()  # an event is to be waited for
        self.done = 0  # so many pieces of work

    def do(self, work: Callable[[], Any] | SimulatedEvent) -> None:
        """Add work."""
        with self._lock:
            self._waiting.append(work)
            if self._at_once:
                self.go_on()

    def mark(self, timed: bool = False) -> SimulatedEvent:
        with self._lock:
            event = SimulatedEvent(self, self.done + len(self._waiting) + 1)
            self.do(event.happen)
            return event

    def wait(self, event: SimulatedEvent) -> None:
        self.do(event)

    def synchronize(self) -> None:
        self.advance(self.done + len(self._waiting))

    def advance(self, count: int) -> None:
        """Do what is missing of the first so many pieces of work, and what other streams have to do before."""
        with self._lock:
            while self.done < count:
                work = self._waiting[0]
                if isinstance(work, SimulatedEvent):
                    work.synchronize()
                if self.done < count and work is self._waiting[0]:  # which waking this stream may have done
                    self._next()

    def go_on(self) -> None:
        """Work until an event that has not happened."""
        while self._waiting:
            work = self._waiting[0]
            if isinstance(work, SimulatedEvent) and not work.reached:
                work.stalled.add(self)
                return
            self._next()

    def _next(self) -> None:
        self.done += 1
        work = self._waiting.popleft()
        if not isinstance(work, SimulatedEvent):
            work()


class SimulatedEvent:
    """As :class:`.runtime.Event`: the end of a stream's first ``count`` pieces of work. ``stalled`` streams wait for it to go on."""

    def __init__(self, stream: SimulatedStream, count: int):
        self._stream, self._count = stream, count
        self.stalled: set[SimulatedStream] = set()
        self.time = 0.0

    def happen(self) -> None:
        """The stream has come so far."""
        self.time = time.perf_counter()
        stalled, self.stalled = self.stalled, set()
        for stream in stalled:
            stream.go_on()

    @property
    def reached(self) -> bool:
        return self._stream.done >= self._count

    def synchronize(self) -> None:
        self._stream.advance(self._count)


class Blueprint:
    """Stands in for a device that is not there, to find out what would be compiled for it: memory is never touched, nothing runs, and
    ``wanted`` collects each kernel and kinds of arguments that would be launched."""

    simulated = False
    name = "no device"
    multiprocessors = 132

    def __init__(self, capability: Capability):
        self.capability = capability
        self.wanted: dict[tuple[Any, tuple], None] = {}
        self._next = 1 << 32
        self.stream = _Idle()

    def allocate(self, nbytes: int) -> int:
        self._next += -(-nbytes // 512) * 512
        return self._next

    def memory(self) -> tuple[int, int]:
        return 1 << 37, 1 << 37

    def host_bytes(self, nbytes: int) -> tuple[np.ndarray, Callable[[], None]]:
        return _host_bytes(nbytes)

    def new_stream(self) -> _Idle:
        return self.stream

    def want(self, kernel: Any, kinds: tuple) -> None:
        """Note a kernel for arguments of these kinds."""
        self.wanted[kernel, kinds] = None

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def _nothing(self, *_: Any) -> None:
        """What a device that is not there does."""

    free = upload = download = copy = clear = synchronize = launch = _nothing


class _Idle:
    """The stream of a device that is not there, and any event in it."""

    reached = True

    def mark(self, timed: bool = False) -> _Idle:
        return self

    def wait(self, event: _Idle) -> None:
        """There is nothing to wait for."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""
