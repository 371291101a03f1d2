"""``@kernel``: the one place that sets Numba's flags, and binds arguments to compiled code.

A kernel is a function that fills arrays it is given. ``@kernel`` compiles it once per *kind* of arguments (data type,
number of axes, dense or strided), never per shape, and keeps the machine code on disk (:mod:`numbacnn.kernels.disk_cache`).
Threads share the launch of a ``parallel`` kernel (:mod:`numbacnn.kernels.team`).

``@inline`` marks a helper that kernels call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import numbers
import sys
import threading
import time
import types as python_types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import config as numba_config

from .. import simd  # noqa: F401  before simd_python, which starts from it
from ..errors import ConfigError
from ..frames import with_room
from ..paths import kernel_folder, writable
from ..simd_python import plain
from . import compiling
from .disk_cache import DiskCache
from .linking import attach_environments, linked_later, packed_entry_name

FASTMATH = {"contract", "nsz"}  # fused multiply-add, and no care for the sign of zero; NaN and infinity stay exact
FLAGS: dict[str, Any] = dict(_nrt=False, nogil=True, error_model="numpy", fastmath=FASTMATH, no_cfunc_wrapper=True)

SERIAL_ELEMENTS = 4096  # unless a kernel says otherwise, a launch whose arrays are at most that large runs in the caller's thread
QUEUE_STEP = 16  # int64 cells of a queue for each thread: two cache lines, since cores fetch them in pairs
ANNOUNCED = 6  # kernels that take long enough for somebody at a terminal to wonder
JIT_DISABLED = bool(numba_config.DISABLE_JIT)


# Threads -------------------------------------------------------------------------------------------------------------

_thread_count: int | None = None
_local = threading.local()


def set_num_threads(count: int) -> None:
    """Number of threads of all launches from now on, at least 1 and at most ``NUMBA_NUM_THREADS``. Raises ConfigError for anything else."""
    global _thread_count
    whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
    if not whole or not 1 <= count <= numba_config.NUMBA_NUM_THREADS:
        raise ConfigError(
            f"{count!r} threads were asked for; this machine allows a whole number from 1 to {numba_config.NUMBA_NUM_THREADS}."
        )
    _thread_count = int(count)


def num_threads() -> int:
    """Number of threads that a launch uses; within :func:`record` that of the recording."""
    return getattr(_local, "threads", None) or _thread_count or numba_config.NUMBA_NUM_THREADS


# Kernels -------------------------------------------------------------------------------------------------------------

Step = tuple[Callable, tuple]
"""A launch that is ready to go: ``function(*arguments)``."""


@contextlib.contextmanager
def record(threads: int | None = None) -> Iterator[list[Step]]:
    """Within the block, calls of kernels in this thread are not run but collected (compiled, arguments bound).

    ``threads`` is their number of threads, for scratch memory that was allocated for as many; None takes the current one."""
    outer = getattr(_local, "steps", None), getattr(_local, "threads", None)
    _local.steps, _local.threads = [], threads
    try:
        yield _local.steps
    finally:
        _local.steps, _local.threads = outer


@dataclasses.dataclass(frozen=True)
class Build:
    """That a kernel was compiled for a kind of arguments, or ``found`` in the disk cache, and the seconds that it took."""

    name: str
    found: bool
    seconds: float


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A kernel for one kind of arguments, which somebody is going to launch."""

    kernel: Kernel
    kinds: tuple

    @property
    def key(self) -> str:
        """What names it in every process: its file in the disk cache."""
        return self.kernel.dispatcher._cache.file(self._signature).name

    @property
    def keepable(self) -> bool:
        """Whether the disk cache can have it: somebody can say what it is made of."""
        return self.kernel.dispatcher._cache.fingerprinted

    @property
    def kept(self) -> bool:
        """Whether the disk cache has it."""
        return self.kernel.dispatcher._cache.holds(self._signature)

    @property
    def known(self) -> bool:
        """Whether this process has it, or the disk cache something of its name."""
        dispatcher = self.kernel.dispatcher
        return self._signature in dispatcher.overloads or dispatcher._cache.may_hold(self._signature)

    def build(self) -> Build:
        """Compile it, or load it from the disk cache."""
        return self.kernel.build(self._signature)[1]

    @property
    def _signature(self) -> tuple:
        return tuple(map(_numba_type, self.kinds))


@contextlib.contextmanager
def postponed() -> Iterator[dict[Wanted, None]]:
    """Within the block, calls of kernels in this thread neither compile nor run anything, but note what would be compiled, each kind of
    arguments once. Arrays stay as they are; plans that are made here are of no use afterwards."""
    outer = getattr(_local, "wanted", None)
    _local.wanted = {}
    try:
        yield _local.wanted
    finally:
        _local.wanted = outer


@contextlib.contextmanager
def rehearsed(rehearsal: Callable[[], object]) -> Iterator[None]:
    """Within the block, the first kernel in this thread that has to be compiled has all others compiled, too, by several processes: those
    that ``rehearsal`` calls, which is run as in :func:`postponed`. Raises ConfigError as :func:`.compiling.process_limit`."""
    outer = getattr(_local, "rehearsal", None)
    _local.rehearsal = rehearsal, compiling.process_limit()
    try:
        yield
    finally:
        _local.rehearsal = outer


def _prepare(wanted: Wanted) -> None:
    """Before a kernel is compiled or loaded: what :func:`rehearsed` says."""
    planned = getattr(_local, "rehearsal", None)
    if planned is None or wanted.known or not _kept_for_others():
        return
    rehearsal, processes = planned
    _local.rehearsal = None
    with postponed() as noted, record():
        rehearsal()
    missing = [each for each in noted if not each.kept]
    if len(missing) >= ANNOUNCED and sys.stderr is not None and sys.stderr.isatty():
        print(f"numbacnn compiles {len(missing)} kernels, which it keeps in {kernel_folder()} for next time.", file=sys.stderr)
    compiling.build_all(missing, min(processes, compiling.worthwhile(len(missing))), _tell)


def _kept_for_others() -> bool:
    """Whether what another process compiles is found here."""
    try:
        return writable(kernel_folder())
    except ConfigError:  # there is no place for files
        return False


def _tell(build: Build) -> None:
    """Enter a build in the lists that :func:`builds` gave, unless it is there."""
    for listed in _build_lists:
        if build not in listed:
            listed.append(build)


@contextlib.contextmanager
def builds() -> Iterator[list[Build]]:
    """Within the block, all kernels that are compiled or loaded, in any thread, in the order in which they are done."""
    found: list[Build] = []
    _build_lists.append(found)
    try:
        yield found
    finally:
        _build_lists[:] = [other for other in _build_lists if other is not found]


_build_lists: list[list[Build]] = []


packed_entries: dict[Callable, int] = {}
"""Of compiled functions, the addresses of their entries for :mod:`numbacnn.kernels.program`."""


def _nothing(*_: Any) -> None:
    """A launch that is postponed."""


SUPPLIED = ("queue", "threads", "thread")  # what a parallel kernel's last parameters may be, in this order


class Kernel:
    """A compiled function. Calling it runs it on NumPy arrays and numbers, or, inside :func:`record`, notes the call.

    A ``parallel`` kernel is run by several threads at once. Its last parameters are some of ``queue``, int64 cells that are 0 at first
    (see :func:`numbacnn.kernels.tasks.next_task`); ``threads``, how many there are; and ``thread``, the number of this one. They are
    supplied here; callers leave them out. A launch whose arrays have at most ``serial`` elements runs in the caller's thread: others would
    find nothing left to do. Array parameters named in ``views`` are compiled for any strides, so that dense and strided arrays share one
    compilation.
    """

    def __init__(self, function: Callable, parallel: bool, views: tuple[str, ...] = (), serial: int = SERIAL_ELEMENTS):
        self.function: Any = function
        self.parallel, self.serial = parallel, serial
        names = list(inspect.signature(function).parameters)
        self._views = frozenset(k for k, name in enumerate(names) if name in views)
        self._workspace = frozenset(k for k, name in enumerate(names) if name in ("scratch", "queue"))
        self._supplied = [name for name in names if name in SUPPLIED]
        in_order = [name for name in SUPPLIED if name in self._supplied]
        if bool(in_order) != parallel or names[len(names) - len(in_order) :] != in_order:
            raise TypeError(f"kernel {function.__qualname__}: a kernel that is parallel, and no other, ends with some of {SUPPLIED}.")
        functools.update_wrapper(self, function)
        self._made_of = function, parallel, views, serial
        dispatcher: Any = plain(function) if JIT_DISABLED else numba.njit(**FLAGS)(function)
        if not JIT_DISABLED:
            dispatcher._cache = DiskCache(dispatcher)
        self.dispatcher = dispatcher
        self._entries: dict[tuple, Callable] = {}

    def __reduce__(self) -> tuple:
        return Kernel, self._made_of

    def bind(self, *arguments: Any, alone: bool = False) -> Step:
        """The compiled function for arguments like these, and the arguments to call it with. ``alone``: it runs in the caller's thread."""
        shared = None
        if self.parallel:
            threads = 1 if alone else self._threads(arguments)
            queue = np.zeros(threads * QUEUE_STEP, np.int64)
            supplied = {"queue": queue, "threads": threads, "thread": 0}
            arguments += tuple(supplied[name] for name in self._supplied)
            shared = functools.partial(Shared, threads=threads, queue=queue, numbered=self._supplied[-1] == "thread")
        if JIT_DISABLED:
            return (shared(self.dispatcher) if shared else self.dispatcher), arguments
        kinds = tuple(_kind(argument, k in self._views) for k, argument in enumerate(arguments))
        wanted = getattr(_local, "wanted", None)
        if wanted is not None:
            wanted[Wanted(self, kinds)] = None
            return _nothing, arguments
        entry = self._entries.get(kinds)
        if entry is None:
            _prepare(Wanted(self, kinds))
            entry = self._entries[kinds] = self.build(tuple(map(_numba_type, kinds)))[0]
        return (shared(entry) if shared else entry), arguments

    def _threads(self, arguments: tuple) -> int:
        """Threads to work on a launch: none but the caller's where all arrays are small, and few where they are not much larger, since a
        launch has to wait for each of them."""
        sizes = [a.size for k, a in enumerate(arguments) if isinstance(a, np.ndarray) and k not in self._workspace]
        return min(num_threads(), max(1, 2 * max(sizes, default=0) // (self.serial + 1)))

    def build(self, signature: tuple) -> tuple[Callable, Build]:
        """The compiled function for Numba types, from the disk cache if it is there."""
        with linked_later(self.function.__qualname__, INLINED):
            new, started = signature not in self.dispatcher.overloads, time.perf_counter()
            entry = with_room(self.dispatcher.compile, signature)
        overload = self.dispatcher.overloads[signature]
        attach_environments(overload.library)
        packed_entries[entry] = overload.library.get_pointer_to_function(packed_entry_name(overload.fndesc))
        build = Build(self.function.__qualname__, bool(self.dispatcher._cache_hits[signature]), time.perf_counter() - started)
        if new:  # else another thread was faster
            _tell(build)
        return entry, build

    def __call__(self, *arguments: Any, alone: bool = False) -> None:
        step = self.bind(*arguments, alone=alone)
        steps = getattr(_local, "steps", None)
        if steps is not None:
            steps.append(step)
            return
        step[0](*step[1])


class Shared:
    """A parallel kernel's compiled function ``entry``, for so many ``threads``. ``numbered``: its last argument is a thread's number."""

    __slots__ = ("entry", "numbered", "queue", "threads")

    def __init__(self, entry: Callable, threads: int, queue: np.ndarray, numbered: bool):
        self.entry, self.threads, self.queue, self.numbered = entry, threads, queue, numbered

    def __call__(self, *arguments: Any) -> None:
        if self.threads == 1 or JIT_DISABLED:
            self.in_turn(arguments)
        else:
            from .program import Program  # which is made of kernels

            Program([(self, arguments)]).run()

    def in_turn(self, arguments: tuple) -> None:
        """Do all threads' parts in this one."""
        self.queue[:] = 0
        for thread in range(self.threads):
            self.entry(*arguments[:-1], thread) if self.numbered else self.entry(*arguments)


def run(steps: Sequence[Step]) -> None:
    """Run launches one after the other."""
    for function, arguments in steps:
        function(*arguments)


def _kind(argument: Any, view: bool = False) -> Any:
    if isinstance(argument, np.ndarray):
        return argument.dtype, argument.ndim, argument.flags.c_contiguous and not view
    if isinstance(argument, (bool, np.bool_)):
        return bool
    if isinstance(argument, (int, np.integer)):
        return int
    if isinstance(argument, (float, np.floating)):
        return float
    raise TypeError(f"a kernel takes NumPy arrays and numbers, not {type(argument).__name__}")


def _numba_type(kind: Any) -> Any:
    if isinstance(kind, tuple):
        dtype, axes, dense = kind
        return types.Array(numba.from_dtype(dtype), axes, "C" if dense else "A")
    return {bool: types.boolean, int: types.int64, float: types.float64}[kind]


def kernel(function: Callable | None = None, *, parallel: bool = False, views: tuple[str, ...] = (), serial: int = SERIAL_ELEMENTS) -> Any:
    """Decorator: compile ``function`` as a kernel (see :class:`Kernel`)."""
    if function is None:
        return functools.partial(kernel, parallel=parallel, views=views, serial=serial)
    return Kernel(function, parallel, views, serial)


INLINED = "[inline]"  # how the qualified name of a function ends that only kernels call


def inline(function: Callable) -> Any:
    """Decorator: a helper that kernels call."""
    return plain(function) if JIT_DISABLED else numba.njit(**FLAGS, forceinline=True)(_renamed(function, function.__qualname__ + INLINED))


def outline(function: Callable) -> Any:
    """Decorator: a helper that stays a function of its own within a kernel. A call takes some ten nanoseconds per array; LLVM takes half as
    long for two functions as for one of twice the size."""
    return plain(function) if JIT_DISABLED else numba.njit(**FLAGS)(_renamed(function, function.__qualname__ + INLINED))


def _renamed(function: Any, name: str) -> Callable:
    """The same function by another qualified name, which machine code is named after."""
    twin = python_types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    functools.update_wrapper(twin, function)
    twin.__kwdefaults__, twin.__qualname__ = function.__kwdefaults__, name
    return twin
