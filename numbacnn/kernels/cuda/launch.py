"""``@kernel`` for the device: compiled once per kind of arguments, kept on disk, launched or recorded."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import from_dtype, types

from ...errors import ConfigError, DeviceError
from ...frames import with_room
from ...paths import cache_folder
from ..bfloat16 import BF16
from ..disk_cache import DIGEST_BYTES
from ..fingerprint import UnknownValueError, fingerprint
from ..jit import Build
from . import driver, simulator
from .ptx import Bf16Pointer
from .runtime import Blueprint, Memory, device

THREADS = 256  # of a block, unless a kernel says otherwise

Grid = int | tuple[int, ...]

_local = threading.local()


@contextlib.contextmanager
def record() -> Iterator[list[Callable[[], None]]]:
    """Within the block, launches and copies on the device by this thread are not done but collected, ready to go."""
    outer = getattr(_local, "steps", None)
    _local.steps = []
    try:
        yield _local.steps
    finally:
        _local.steps = outer


def perform(step: Callable[[], None]) -> None:
    """Do it, or record it."""
    steps = getattr(_local, "steps", None)
    if steps is None:
        step()
    else:
        steps.append(step)


@dataclasses.dataclass(frozen=True, eq=False)
class Copy:
    """A copy on the device."""

    source: Memory
    source_offset: int
    target: Memory
    offset: int
    nbytes: int

    def __call__(self) -> None:
        device().copy(self.source, self.source_offset, self.target, self.offset, self.nbytes)


@dataclasses.dataclass(frozen=True, eq=False)
class Clear:
    """Zeros for some bytes."""

    memory: Memory
    offset: int
    nbytes: int

    def __call__(self) -> None:
        device().clear(self.memory, self.offset, self.nbytes)


class Launch:
    """A kernel with its grid and its arguments: arrays as pointers, whole numbers as int32, other numbers as float32."""

    def __init__(self, kernel: Kernel, grid: Grid, arguments: Sequence[Any], shared: int):
        self.kernel, self.shared = kernel, shared
        self.grid = (*((grid,) if isinstance(grid, int) else grid), 1, 1)[:3]
        self.arguments = tuple(arguments)  # which keeps their memory
        if device().simulated:
            self._values: Any = [_simulated(argument) for argument in arguments]
            self._function: Any = kernel.function
        else:
            self._function = kernel.loaded(tuple(map(kind_of, arguments)), shared)
            self._cells = [_cell(argument) for argument in arguments]
            addresses = [ctypes.addressof(cell) for cell in self._cells]
            self._table = (ctypes.c_void_p * len(addresses))(*addresses)
            self._values = ctypes.addressof(self._table)

    def __call__(self) -> None:
        if 0 not in self.grid:
            try:
                device().launch(self._function, self.grid, self.kernel.threads, self.shared, self._values)
            except DeviceError as error:  # of this launch, or of what was asked for before
                what = f"{self.kernel.function.__name__}, {self.grid} blocks of {self.kernel.threads} threads"
                raise DeviceError(f"{error} It was asked to launch {what} and {self.shared} bytes of shared memory.") from error


def kind_of(argument: Any) -> Any:
    """The Numba type of an argument."""
    if hasattr(argument, "pointer"):
        return Bf16Pointer() if argument.dtype == BF16 else types.CPointer(from_dtype(argument.dtype))
    if isinstance(argument, (bool, int, np.integer)):
        return types.int32
    return types.float32


def _cell(argument: Any) -> Any:
    if hasattr(argument, "pointer"):
        _check_count(argument.size)
        return ctypes.c_uint64(argument.pointer)
    if isinstance(argument, (bool, int, np.integer)):
        _check_count(int(argument))
        return ctypes.c_int32(int(argument))
    return ctypes.c_float(argument)


def _check_count(number: int) -> None:
    """Raises ConfigError for a number that is no int32."""
    if not -(2**31) <= number < 2**31:
        raise ConfigError(f"The GPU's kernels count up to 2**31 - 1; {number} elements are more. Use a smaller batch.")


def _simulated(argument: Any) -> Any:
    if hasattr(argument, "pointer"):
        return (simulator.Bf16Pointer if argument.dtype == BF16 else simulator.Pointer)(argument.host)
    return int(argument) if isinstance(argument, (bool, int, np.integer)) else np.float32(argument)


class Kernel:
    """A function that each thread of a grid of blocks runs. ``kernel(grid, *arguments)`` launches or records it.

    ``threads`` is the size of a block, one row of threads. ``blocks`` is how many of them shall fit a multiprocessor at once: that
    limits registers."""

    def __init__(self, function: Callable, threads: int, blocks: int):
        self.function, self.threads, self.blocks = function, threads, blocks
        functools.update_wrapper(self, function)
        self._loaded: dict[tuple, Any] = {}
        self._shared: dict[tuple, int] = {}  # bytes of dynamic shared memory that it was allowed
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return Kernel, (self.function, self.threads, self.blocks)

    def __call__(self, grid: Grid, *arguments: Any, shared: int = 0) -> None:
        perform(Launch(self, grid, arguments, shared))

    def loaded(self, kinds: tuple, shared: int) -> Any:
        """The kernel on the device, for arguments of these kinds."""
        if isinstance(device(), Blueprint):
            device().want(self, kinds)
            return None
        with self._lock:
            if kinds not in self._loaded:
                self._loaded[kinds] = device().load(self.machine_code(kinds, device().capability))
            if shared > self._shared.get(kinds, 0):  # never less than a launch takes that was recorded before
                device().allow_shared(self._loaded[kinds], shared)
                self._shared[kinds] = shared
            return self._loaded[kinds]

    def ptx(self, kinds: tuple, capability: driver.Capability) -> tuple[str, str]:
        """Its entry point and PTX."""
        return with_room(driver.to_ptx, self.function, kinds, capability, self.threads, self.blocks)

    def machine_code(self, kinds: tuple, capability: driver.Capability) -> driver.MachineCode:
        """From the disk cache, or compiled."""
        path = self._file(kinds, capability)
        found = _kept(path)
        if found is None:
            found = driver.to_machine_code(*self.ptx(kinds, capability), capability)
            _keep(path, found)
        return found

    def _file(self, kinds: tuple, capability: driver.Capability) -> Path | None:
        """Where the disk cache has it; None where nobody can say what it is made of, or there is no place for files."""
        try:
            key = "|".join((fingerprint(self.function), str(kinds), str((capability, self.threads, self.blocks)), _environment()))
            digest = hashlib.sha256(key.encode()).hexdigest()[:32]
            return cache_folder() / "cuda" / f"{self.function.__name__}-{digest}.ncu"
        except (UnknownValueError, ConfigError):
            return None


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A kernel for one kind of arguments, which somebody is going to launch (compare :class:`numbacnn.kernels.jit.Wanted`)."""

    kernel: Kernel
    kinds: tuple
    capability: driver.Capability

    @property
    def key(self) -> str:
        """What names it in every process: its file in the disk cache."""
        path = self._path
        return f"{self.kernel.function.__qualname__} {self.kinds}" if path is None else path.name

    @property
    def keepable(self) -> bool:
        """Whether the disk cache can have it: somebody can say what it is made of."""
        return self._path is not None

    @property
    def kept(self) -> bool:
        """Whether the disk cache has it."""
        return _kept(self._path) is not None

    def build(self) -> Build:
        """Compile it, or find it in the disk cache."""
        found, start = self.kept, time.perf_counter()
        self.kernel.machine_code(self.kinds, self.capability)
        return Build(self.kernel.function.__qualname__, found, time.perf_counter() - start)

    @property
    def _path(self) -> Path | None:
        return self.kernel._file(self.kinds, self.capability)


def kernel(function: Callable | None = None, *, threads: int = THREADS, blocks: int = 1) -> Any:
    """Make a :class:`Kernel` of a function."""
    if function is None:
        return functools.partial(kernel, threads=threads, blocks=blocks)
    return Kernel(function, threads, blocks)


def blocks_for(elements: int, per_block: int = THREADS) -> int:
    """How many blocks have a thread for every element."""
    return -(-elements // per_block)


@functools.cache
def _environment() -> str:
    """What machine code depends on besides the kernel's own sources."""
    packages = ("numba", "numba-cuda", "nvidia-nvjitlink", "nvidia-nvvm")
    versions = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(package))
    folder = Path(__file__).parent
    sources = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("driver.py", "launch.py", "ptx.py")]
    return "|".join((*versions, *sources))


def _kept(path: Path | None) -> driver.MachineCode | None:
    """What :func:`_keep` has written, None where nothing is or it is damaged."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
        if content[:DIGEST_BYTES] != hashlib.sha256(content[DIGEST_BYTES:]).digest():
            return None
        return driver.MachineCode(*pickle.loads(content[DIGEST_BYTES:]))
    except Exception:  # no file, or not one of ours
        return None


def _keep(path: Path | None, code: driver.MachineCode) -> None:
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            content = pickle.dumps(dataclasses.astuple(code))
            file.write(hashlib.sha256(content).digest() + content)
        os.replace(temporary, path)
