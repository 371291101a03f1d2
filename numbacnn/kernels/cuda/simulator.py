"""Kernels run as Python: what stands in for :mod:`numba.cuda` where ``NUMBA_ENABLE_CUDASIM=1``.

Numba's own simulator has a thread of the operating system for each thread of a block; here they are greenlets, which take turns at
``syncthreads``, so that a launch takes a hundredth of the time and the suite can run every layer. Pointers check their bounds. The
threads of a block run in the order of ``ORDER``; a kernel whose results depend on it lacks a barrier. All warps of a block must come to
the same barriers and exchanges, one after the other.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..bfloat16 import rounded_number, widened

ORDER = os.environ.get("NUMBACNN_SIMULATED_ORDER", "forward")
"""``"forward"``, ``"backward"`` or ``"shuffled"``."""

WARP = 32  # threads that run together


class Place(NamedTuple):
    """Three numbers of a thread, a block, or a size."""

    x: int = 0
    y: int = 0
    z: int = 0


class Pointer:
    """Memory of one type from an address on, as kernels see it."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array

    def __getitem__(self, at: Any) -> Any:
        return self.array[self._checked(at)]

    def __setitem__(self, at: Any, value: Any) -> None:
        self.array[self._checked(at)] = value

    def _checked(self, at: Any) -> int:
        if not 0 <= at < len(self.array):
            raise IndexError(f"a kernel reached for element {at} of {len(self.array)}")
        return int(at)


class Bf16Pointer(Pointer):
    """The same to bfloat16, whose bits are in ``array``: kernels see float32."""

    __slots__ = ()

    def __getitem__(self, at: Any) -> Any:
        return widened(super().__getitem__(at))[()]

    def __setitem__(self, at: Any, value: Any) -> None:
        super().__setitem__(at, rounded_number(value))


class _Arrays:
    """``cuda.shared`` or ``cuda.local``."""

    def __init__(self, make: Callable[..., np.ndarray]):
        self.array = make


class Cuda:
    """The names that kernels use of :mod:`numba.cuda`. They speak of the thread that runs at present."""

    def __init__(self) -> None:
        self.threadIdx = self.blockIdx = Place()
        self.blockDim = self.gridDim = Place(1, 1, 1)
        self.shared = _Arrays(self._shared)
        self.local = _Arrays(lambda shape, dtype: np.full(shape, _poison(dtype), dtype))
        self._block: _Block | None = None
        self._lock = threading.Lock()

    @property
    def laneid(self) -> int:
        """Number of the thread within its warp."""
        return self.threadIdx.x % WARP

    def jit(self, function: Callable | None = None, **_: Any) -> Any:
        """Kernels and helpers are what they are."""
        return function if function is not None else (lambda function: function)

    def syncthreads(self) -> None:
        """Let all threads of the block come here before any goes on."""
        assert self._block is not None
        self._block.wait("syncthreads")

    def syncwarp(self) -> None:
        """As :meth:`syncthreads`, which all warps must reach: of use where they all do."""
        self.syncthreads()

    def exchange(self, value: Any, combined: Callable[[list], Sequence]) -> Any:
        """This thread's entry of what ``combined`` makes of a value of each thread of its warp."""
        assert self._block is not None
        return self._block.exchange(value, combined)

    @property
    def copies(self) -> list[list]:
        """Asynchronous copies of this thread that are under way: groups, the last of which is not complete."""
        assert self._block is not None
        return self._block.copies[self.threadIdx.x]

    def _shared(self, shape: Any, dtype: Any, alignment: int = 4) -> np.ndarray:
        assert self._block is not None
        return self._block.shared_array(shape, dtype)

    def launch(self, function: Callable, grid: Sequence[int], threads: int, shared: int, arguments: Sequence[Any]) -> None:
        """Run a kernel, block after block."""
        with self._lock, np.errstate(all="ignore"):
            self.gridDim, self.blockDim = Place(*grid), Place(threads, 1, 1)
            for z, y, x in itertools.product(*map(range, reversed(self.gridDim))):
                self.blockIdx = Place(x, y, z)
                self._block = _Block(self, function, threads, shared, arguments)
                self._block.run()


class _Exchange:
    """Values of a warp's threads, and what they become."""

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self.results: Sequence | None = None


class _Block:
    """A block at work."""

    def __init__(self, cuda: Cuda, function: Callable, threads: int, shared: int, arguments: Sequence[Any]):
        self._cuda, self._function, self._threads, self._arguments = cuda, function, threads, arguments
        self._dynamic = shared
        self._arrays: list[np.ndarray] = []
        self._asked = [0] * threads  # for how many shared arrays each thread has asked: they ask in one order
        self._waiting = [""] * threads  # for what each thread waits
        self._exchanges: dict[int, _Exchange] = {}  # of each warp, the one that some of its threads have yet to come to
        self.copies: list[list[list]] = [[[]] for _ in range(threads)]

    def run(self) -> None:
        """All threads, from one barrier to the next."""
        if not _waits(self._function):
            for number in _ordered(range(self._threads)):
                self._cuda.threadIdx = Place(number)
                self._function(*self._arguments)
            return
        from greenlet import getcurrent

        self._main = getcurrent()
        running = [(number, _greenlet(self._main)) for number in range(self._threads)]
        work: tuple = self._function, self._arguments
        while running:
            waiting = []
            for number, thread in _ordered(running):
                self._cuda.threadIdx = Place(number)
                if thread.switch(*work) is FINISHED:
                    _idle().append(thread)
                else:
                    waiting.append((number, thread))
            running, work = sorted(waiting), ()
            if len({self._waiting[number] for number, _ in running}) > 1:
                raise RuntimeError("some threads of a block wait at a barrier, some for what their warp exchanges")

    def wait(self, what: str) -> None:
        """Let the others run."""
        self._waiting[self._cuda.threadIdx.x] = what
        self._main.switch()

    def exchange(self, value: Any, combined: Callable[[list], Sequence]) -> Any:
        """See :meth:`Cuda.exchange`."""
        warp, lane = divmod(self._cuda.threadIdx.x, WARP)
        here = self._exchanges.setdefault(warp, _Exchange())
        here.values[lane] = value
        if len(here.values) == WARP:
            del self._exchanges[warp]
        self.wait("exchange")
        if len(here.values) < WARP:
            raise RuntimeError("only some threads of a warp take part in an exchange")
        if here.results is None:
            here.results = combined([here.values[i] for i in range(WARP)])
        return here.results[lane]

    def shared_array(self, shape: Any, dtype: Any, alignment: int = 4) -> np.ndarray:
        """The next array that all threads of the block share; with shape 0, the dynamic one."""
        number = self._cuda.threadIdx.x
        at = self._asked[number]
        self._asked[number] += 1
        if at == len(self._arrays):
            count = self._dynamic // np.dtype(dtype).itemsize if shape == 0 else shape
            self._arrays.append(np.full(count, _poison(dtype), dtype))
        return self._arrays[at]


FINISHED = object()  # what a greenlet says that has done a thread's part

_local = threading.local()


def _idle() -> list:
    """Greenlets of this thread of the operating system that have finished. They are used again: the system maps memory for the frames of a
    new one, which takes as long as a small kernel."""
    if not hasattr(_local, "idle"):
        _local.idle = []
    return _local.idle


def _greenlet(parent: Any) -> Any:
    """One that does what it is given when it is switched to, in the caller's context, of which NumPy's errstate is a part."""
    from greenlet import greenlet

    found = _idle().pop() if _idle() else greenlet(_work)
    found.parent, found.gr_context = parent, contextvars.copy_context()
    return found


def _work(*work: Any) -> None:
    """What a greenlet does: a thread's part of one block after another."""
    from greenlet import getcurrent

    while True:
        function, arguments = work
        function(*arguments)
        del work, function, arguments  # which may be large
        work = getcurrent().parent.switch(FINISHED)


def _poison(dtype: Any) -> Any:
    """What uninitialised memory holds, so that reading it shows."""
    return np.nan if np.dtype(dtype).kind == "f" else 77


def _ordered(entries: Sequence[Any]) -> list[Any]:
    found = list(entries)
    if ORDER == "backward":
        found.reverse()
    elif ORDER == "shuffled":
        np.random.default_rng(len(found)).shuffle(found)
    return found


@functools.cache
def _waits(function: Callable) -> bool:
    """Whether a kernel, or a helper that it calls, has barriers."""
    seen: set[int] = set()
    waiting: list[Any] = [function]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or not hasattr(each, "__code__"):
            continue
        seen.add(id(each))
        if not {"syncthreads", "syncwarp", "exchange"}.isdisjoint(each.__code__.co_names):
            return True
        waiting += [each.__globals__[name] for name in each.__code__.co_names if name in each.__globals__]
        waiting += [cell.cell_contents for cell in each.__closure__ or ()]
    return False
