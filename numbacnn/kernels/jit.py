"""``@kernel``: the one place that sets Numba's flags, keeps compiled code on disk, and launches threads.

A kernel is a function that fills arrays it is given. ``@kernel`` compiles it once per *kind* of arguments (data type,
number of axes, dense or strided), never per shape, and keeps the machine code in a folder of numbacnn's own:

- one file per kernel and kind of arguments, written atomically, so that processes never disturb each other;
- its name is a hash of everything that the code is made of: the function, all kernels and constants that it reaches,
  the source of ``simd.py``, Numba, Python and the CPU. An edit anywhere recompiles exactly what it touches, and a
  kernel made by a factory (with numbers or other kernels in its closure) is found by the next process;
- a folder that cannot be written, or a damaged file, costs compilation, never an error.

``@inline`` marks a helper that kernels call.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import itertools
import numbers
import os
import pickle
import platform
import sys
import tempfile
import threading
import time
import types as python_types
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core import config as numba_config
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.cpu_options import ParallelOptions
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic
from numba.np.ufunc import parallel

from .. import simd  # noqa: F401  before simd_python, which starts from it
from ..errors import ConfigError
from ..paths import cache_folder
from ..simd_python import plain
from .linking import attach_environments, linked_later, packed_entry_name

FASTMATH = {"contract", "nsz"}  # fused multiply-add, and no care for the sign of zero; NaN and infinity stay exact
FLAGS: dict[str, Any] = dict(_nrt=False, nogil=True, error_model="numpy", fastmath=FASTMATH, no_cfunc_wrapper=True)
PARALLEL = ParallelOptions(
    dict(comprehension=False, reduction=False, inplace_binop=False, setitem=False, numpy=False, stencil=False, fusion=False, prange=True)
)  # only explicit prange loops: cheaper to compile, and nothing is parallel by accident. (Numba empties a dict at the first compilation.)

# Numba numbers functions from 1 on in each process, and names machine code by that. Cache files come from many processes: two closures
# of one factory would get one name, and one would silently run in place of the other. So each process numbers from elsewhere.


def _number_functions_from_elsewhere() -> None:
    FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "little"))


_number_functions_from_elsewhere()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_from_elsewhere)

SPINS = "1000"  # some 20 microseconds, about as long as the pause between two launches
SERIAL_ELEMENTS = 8192  # unless a kernel says otherwise, a launch whose arrays are at most that large runs in the caller's thread
JIT_DISABLED = bool(numba_config.DISABLE_JIT)


# Fingerprints: what a kernel is made of ------------------------------------------------------------------------------


@functools.cache
def _file_digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


class UnknownValueError(Exception):
    """A function reaches a value of which nobody can say whether it is the same in the next process."""


def fingerprint(value: Any) -> str:
    """Hash of a function's code and of all that it reaches: constants, closures, other functions (kernels too), what it reads from
    modules, and whole source files of modules with intrinsics or overloads. Raises :class:`UnknownValueError`."""
    digest = _Digest()
    digest.value(value)
    return digest.hexdigest()


class _Digest:
    """Feeds a hash with values, each as its kind, its length and its content, so that no two sequences of values look alike."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._functions: dict[int, int] = {}  # those that were met, by identity: the how-manieth each was
        self.hexdigest = self._hash.hexdigest

    def _item(self, kind: str, content: bytes | str = b"") -> None:
        content = content.encode() if isinstance(content, str) else content
        self._hash.update(f"{kind} {len(content)} ".encode() + content)

    def _items(self, kind: str, values: Collection[Any]) -> None:
        self._item(kind, str(len(values)))
        for value in values:
            self.value(value)

    def value(self, value: Any, attributes: Collection[str] = ()) -> None:
        """Feed a value; of a module those of its ``attributes`` that it has."""
        kind = type(value).__name__
        if isinstance(value, Kernel):
            value = value.dispatcher
        elif hasattr(value, "py_func") and not isinstance(value, Dispatcher):  # a helper that is compiled for another device
            value = value.py_func
        if isinstance(value, Dispatcher):
            self.value(value.targetoptions)
            self._function(value.py_func)
        elif isinstance(value, python_types.FunctionType):  # Numba calls it for its overloads, which its file has
            self._function(value)
            self._source(value.__module__)
        elif isinstance(value, python_types.CodeType):
            self._code(value)
        elif isinstance(value, python_types.ModuleType):
            self._module(value, attributes)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._item(kind, str((value.dtype, value.shape, value.flags.c_contiguous, value.flags.f_contiguous)))
            self._item("elements", value.tobytes())
        elif isinstance(value, np.generic) and not value.dtype.hasobject:
            self._item(kind, str(value.dtype))
            self._item("elements", value.tobytes())
        elif isinstance(value, (tuple, list)):
            self._items(f"{type(value).__qualname__} {getattr(value, '_fields', '')}", value)
        elif isinstance(value, ParallelOptions):
            self._item(kind, value.encode())
        elif isinstance(value, enum.Enum):
            self._items(type(value).__qualname__, (value.name, value.value))
        elif isinstance(value, dict):
            self._items(kind, list(itertools.chain.from_iterable(value.items())))
        elif isinstance(value, (set, frozenset)):
            self._items(kind, sorted(fingerprint(item) for item in value))
        elif type(value) in _PLAIN or isinstance(value, (np.dtype, types.Type)):
            self._item(kind, repr(value) if type(value) in _PLAIN else str(value))
        elif isinstance(value, (type, python_types.BuiltinFunctionType, np.ufunc, _Intrinsic)):
            self._item(kind, f"{getattr(value, '__module__', None)}.{value.__name__}")
            self._source(getattr(value, "__module__", None))
        else:
            raise UnknownValueError(f"{value!r} of type {type(value).__name__}")

    def _function(self, function: Any) -> None:
        if id(function) in self._functions:
            self._item("again", str(self._functions[id(function)]))
            return
        self._functions[id(function)] = len(self._functions)
        code = function.__code__
        self._code(code)
        self.value(function.__defaults__)
        self.value(function.__kwdefaults__)
        read, attributes = _names(code)
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            self._item("cell", name)
            with contextlib.suppress(ValueError):  # an empty one
                self.value(cell.cell_contents, attributes)
        for name in read:
            if name in function.__globals__:
                self._item("global", name)
                self.value(function.__globals__[name], attributes)

    def _code(self, code: python_types.CodeType) -> None:
        self._item("code", code.co_code)
        shape = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags)
        self._item("shape", repr((*shape, code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount)))
        self._items("constants", code.co_consts)

    def _module(self, module: python_types.ModuleType, attributes: Collection[str]) -> None:
        self._item("module", module.__name__)
        if not _versioned(module):
            self._source(module.__name__)
            for name in attributes:
                if hasattr(module, name):
                    self._item("attribute", name)
                    self.value(getattr(module, name), attributes)

    def _source(self, module_name: str | None) -> None:
        """The whole source of a module stands for what cannot be looked into."""
        module = sys.modules.get(module_name or "")
        path = getattr(module, "__file__", None)
        if module is not None and path and path.endswith(".py") and not _versioned(module):
            self._item("source", _file_digest(path))


_PLAIN = {int, float, complex, str, bytes, bool, type(None), type(...)}


def _versioned(module: python_types.ModuleType) -> bool:
    """Whether the module belongs to what :func:`_environment` gives the version of."""
    return module.__name__.partition(".")[0] in sys.stdlib_module_names | {"numba", "numpy", "llvmlite"}


@functools.cache
def _names(code: python_types.CodeType) -> tuple[list[str], list[str]]:
    """Names of the globals and of the attributes that code reads, in alphabetical order."""
    read, attributes = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, python_types.CodeType):
            within = _names(constant)
            read.update(within[0])
            attributes.update(within[1])
    return sorted(read), sorted(attributes)


_OWN_SOURCES = ("simd.py", "elementary.py", "dual.py", "kernels/jit.py", "kernels/linking.py")


@functools.cache
def _environment() -> str:
    """What machine code depends on besides the kernel's own sources."""
    folder = Path(__file__).parents[1]
    parts = [numba.__version__, llvmlite.__version__, np.__version__, platform.python_version(), sys.platform]
    parts += [str(bool(numba_config.BOUNDSCHECK)), str(numba_config.OPT), str(sorted(FASTMATH))]
    parts += [_file_digest(str(folder / name)).hex() for name in _OWN_SOURCES]
    return "|".join(parts)


# The disk cache ------------------------------------------------------------------------------------------------------


DIGEST_BYTES = hashlib.sha256().digest_size  # in front of each file, of what follows


class DiskCache(_Cache):
    """Numba's cache protocol over one file per kernel and signature. What has no fingerprint is compiled in each process."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._enabled = True

    @functools.cached_property
    def _fingerprint(self) -> str | None:
        try:
            return fingerprint(self._dispatcher)
        except UnknownValueError:
            return None

    @property
    def cache_path(self) -> str:
        return str(cache_folder() / "kernels")

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Nothing is kept in memory."""

    def file(self, signature: Any) -> Path:
        """The file of a signature, the same in every process. Raises ConfigError where there is no place for files."""
        codegen = self._dispatcher.targetctx.codegen()
        key = "|".join((str(self._fingerprint), str(signature), str(codegen.magic_tuple()), _environment()))
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        name = "".join(c if c.isalnum() or c == "_" else "." for c in self._dispatcher.py_func.__qualname__.replace(".<locals>", ""))
        return Path(self.cache_path) / f"{name}-{digest}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """What is in the file: machine code. Numba's own cache also loads all that Numba can compile first (``target_context.refresh()``, a
        third of a second and 36 MiB), and keeps LLVM's form of the code, some MiB each, for functions that it is linked into."""
        if not self._enabled or self._fingerprint is None:
            return None
        try:
            content = self._content(self.file(sig))
            if content is None:
                return None
            found = CompileResult._rebuild(target_context, *pickle.loads(content))
            found.library._shared_module = None  # kernels are only called from Python
            return found
        except Exception:  # no folder, a foreign file: compile, and write over it
            return None

    @staticmethod
    def _content(path: Path) -> bytes | None:
        """What :meth:`save_overload` has written, None where nothing is or it is damaged: machine code with a wrong bit would run."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        return content[DIGEST_BYTES:] if content[:DIGEST_BYTES] == hashlib.sha256(content[DIGEST_BYTES:]).digest() else None

    def holds(self, sig: Any) -> bool:
        """Whether a process that asks for this signature finds it."""
        return self._fingerprint is not None and self._content(self.file(sig)) is not None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        if not self._enabled or self._fingerprint is None or data.library.has_dynamic_globals:
            return
        with contextlib.suppress(OSError, ConfigError):
            path = self.file(sig)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    content = numba.core.serialize.dumps(data._reduce())
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise


# Threads -------------------------------------------------------------------------------------------------------------

_thread_count: int | None = None
_start_lock, _launch_lock, _no_guard = threading.Lock(), threading.RLock(), contextlib.nullcontext()
_local = threading.local()


def set_num_threads(count: int) -> None:
    """Number of threads of all launches from now on, at least 1 and at most ``NUMBA_NUM_THREADS``. Raises ConfigError for anything else."""
    global _thread_count
    whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
    if not whole or not 1 <= count <= numba_config.NUMBA_NUM_THREADS:
        raise ConfigError(
            f"{count!r} threads were asked for; this machine allows a whole number from 1 to {numba_config.NUMBA_NUM_THREADS}."
        )
    _start_threads()  # before Numba does, which would let them spin
    numba.set_num_threads(int(count))  # threads that are not to work must not wait for work either: they would take the CPU
    _thread_count = int(count)


def num_threads() -> int:
    """Number of threads that a launch uses; within :func:`record` that of the recording."""
    return getattr(_local, "threads", None) or _thread_count or numba_config.NUMBA_NUM_THREADS


@functools.cache
def _start_threads() -> None:
    """Load Numba's threads, with the GNU OpenMP runtime's told to fall asleep soon while they wait.

    It spins for milliseconds otherwise. Where another process keeps a core busy, a thread then spins on the very core that the thread it
    waits for needs, and a launch takes a time slice of the operating system: a step of LeNet-5 took 200 ms instead of 8."""
    with _start_lock:
        spins = os.environ.get("GOMP_SPINCOUNT")
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        try:
            parallel._launch_threads()
        finally:
            if spins is None:
                os.environ.pop("GOMP_SPINCOUNT", None)


def threading_layer() -> str:
    """Name of Numba's threading layer, ``"none"`` where kernels are not compiled. Loads it if nothing has yet."""
    if JIT_DISABLED:
        return "none"
    _start_threads()
    return numba.threading_layer()


def launch_guard() -> contextlib.AbstractContextManager:
    """Hold this around launches of parallel kernels. It comes before the lock of a plan: what runs within a launch, such as a layer that
    calls another model, may take that of another plan."""
    return _no_guard if JIT_DISABLED or _launches_are_safe() else _launch_lock


def _launches_are_safe() -> bool:
    """Whether several Python threads may launch at once; two launches of the workqueue layer abort the process."""
    try:
        return numba.threading_layer() in ("omp", "tbb")
    except ValueError:  # none is loaded before the first launch
        return False


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
    def kept(self) -> bool:
        """Whether the disk cache has it."""
        return self.kernel.dispatcher._cache.holds(self._signature)

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
    _start_threads()
    outer = getattr(_local, "wanted", None)
    _local.wanted = {}
    try:
        yield _local.wanted
    finally:
        _local.wanted = outer


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


class Kernel:
    """A compiled function. Calling it runs it on NumPy arrays and numbers, or, inside :func:`record`, notes the call.

    A ``parallel`` kernel's last two parameters, ``queue`` (an int64 cell for :func:`numbacnn.simd.take`) and ``threads``,
    are supplied here; callers leave them out. A launch whose arrays have at most ``serial`` elements runs in the caller's thread: waking
    others would take longer than the work. Array parameters named in ``views`` are compiled for any strides, so that dense and
    strided arrays share one compilation.
    """

    def __init__(self, function: Callable, parallel: bool, views: tuple[str, ...] = (), serial: int = SERIAL_ELEMENTS):
        self.function: Any = function
        self.parallel, self.serial = parallel, serial
        names = list(inspect.signature(function).parameters)
        self._views = frozenset(k for k, name in enumerate(names) if name in views)
        self._workspace = frozenset(k for k, name in enumerate(names) if name in ("scratch", "queue"))
        functools.update_wrapper(self, function)
        options = dict(FLAGS, parallel=PARALLEL) if parallel else FLAGS
        dispatcher: Any = plain(function) if JIT_DISABLED else numba.njit(**options)(function)
        if not JIT_DISABLED:
            dispatcher._cache = DiskCache(dispatcher)
        self.dispatcher = dispatcher
        self._entries: dict[tuple, Callable] = {}

    def bind(self, *arguments: Any, alone: bool = False) -> Step:
        """The compiled function for arguments like these, and the arguments to call it with. ``alone``: it runs in the caller's thread."""
        if self.parallel:
            arguments += (np.zeros(1, np.int64), num_threads())
        if JIT_DISABLED:
            return self.dispatcher, arguments
        kinds = tuple(_kind(argument, k in self._views) for k, argument in enumerate(arguments))
        wanted = getattr(_local, "wanted", None)
        if wanted is not None:
            wanted[Wanted(self, kinds)] = None
            return _nothing, arguments
        entry = self._entries.get(kinds)
        if entry is None:
            entry = self._entries[kinds] = self.build(tuple(map(_numba_type, kinds)))[0]
        if not self.parallel:
            return entry, arguments
        return Limited(entry, 1 if alone else self._threads(arguments)), arguments

    def _threads(self, arguments: tuple) -> int:
        """Threads to work on a launch: none but the caller's where all arrays are small, since a launch has to wait for each of them."""
        sizes = [a.size for k, a in enumerate(arguments) if isinstance(a, np.ndarray) and k not in self._workspace]
        return num_threads() if max(sizes, default=0) > self.serial else 1

    def build(self, signature: tuple) -> tuple[Callable, Build]:
        """The compiled function for Numba types, from the disk cache if it is there."""
        if self.parallel:
            _start_threads()
        with linked_later(self.function.__qualname__, INLINED):
            new, started = signature not in self.dispatcher.overloads, time.perf_counter()
            entry = self.dispatcher.compile(signature)
        overload = self.dispatcher.overloads[signature]
        attach_environments(overload.library)
        packed_entries[entry] = overload.library.get_pointer_to_function(packed_entry_name(overload.fndesc))
        build = Build(self.function.__qualname__, bool(self.dispatcher._cache_hits[signature]), time.perf_counter() - started)
        if new:  # else another thread was faster
            for listed in _build_lists:
                listed.append(build)
        return entry, build

    def __call__(self, *arguments: Any, alone: bool = False) -> None:
        step = self.bind(*arguments, alone=alone)
        steps = getattr(_local, "steps", None)
        if steps is not None:
            steps.append(step)
            return
        with launch_guard():
            step[0](*step[1])


class Limited:
    """A compiled function that is run by so many threads: Numba's own number is one per Python thread, ours one per process."""

    __slots__ = ("entry", "threads")

    def __init__(self, entry: Callable, threads: int):
        self.entry, self.threads = entry, threads

    def __call__(self, *arguments: Any) -> None:
        run([(self, arguments)])


def run(steps: Sequence[Step]) -> None:
    """Run launches one after the other. The number of threads is set where it changes: small networks feel each time."""
    current = before = 0 if JIT_DISABLED else numba_threads()
    try:
        for function, arguments in steps:
            if type(function) is Limited:
                if function.threads != current:
                    current = function.threads
                    set_numba_threads(current)
                function.entry(*arguments)
            else:
                if current != before:
                    current = before
                    set_numba_threads(before)
                function(*arguments)
    finally:
        if current != before:
            set_numba_threads(before)


def numba_threads() -> int:
    """As :func:`numba.get_num_threads`, which checks each time whether threads were started."""
    _start_threads()
    return parallel._get_num_threads()


def set_numba_threads(count: int) -> None:
    """As :func:`numba.set_num_threads`, without its checks of a number that comes from here."""
    parallel._set_num_threads(count)


def threads_setter() -> int:
    """The address of the C function behind :func:`set_numba_threads`."""
    _start_threads()
    return ctypes.cast(parallel._set_num_threads, ctypes.c_void_p).value or 0


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
