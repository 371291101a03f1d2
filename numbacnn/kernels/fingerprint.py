"""Fingerprints: what a kernel is made of, as a hash."""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
import hashlib
import importlib
import itertools
import sys
import types as python_types
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher

INTRINSIC = "_Intrinsic"  # Numba's class of intrinsics, and another one of numba-cuda's


@functools.cache
def file_digest(path: str) -> bytes:
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

    def __init__(self, within: tuple[int, ...] = (), known: dict[int, str] | None = None) -> None:
        self._hash = hashlib.sha256()
        self._within = within  # functions that are being looked into, by identity
        self._known = {} if known is None else known  # hashes of others
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
        if isinstance(getattr(value, "dispatcher", None), Dispatcher):  # a kernel
            value = value.dispatcher
        elif hasattr(value, "py_func") and not isinstance(value, Dispatcher) and kind != INTRINSIC:
            value = value.py_func  # of a helper that is compiled for another device
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
        elif isinstance(value, enum.Enum):
            self._items(type(value).__qualname__, (value.name, value.value))
        elif isinstance(value, dict):
            self._items(kind, list(itertools.chain.from_iterable(value.items())))
        elif isinstance(value, (set, frozenset)):
            self._items(kind, sorted(fingerprint(item) for item in value))
        elif type(value) in _PLAIN or isinstance(value, (np.dtype, types.Type)):
            self._item(kind, repr(value) if type(value) in _PLAIN else str(value))
        elif isinstance(value, (type, python_types.BuiltinFunctionType, np.ufunc)) or kind == INTRINSIC:
            self._item(kind, f"{getattr(value, '__module__', None)}.{value.__name__}")
            self._source(getattr(value, "__module__", None))
        else:
            raise UnknownValueError(f"{value!r} of type {type(value).__name__}")

    def _function(self, function: Any) -> None:
        """Feed a function's own hash, which is the same whether two others reach one function or equal ones."""
        at = id(function)
        if at in self._within:
            self._item("recursion", str(self._within[::-1].index(at)))
            return
        if at not in self._known:
            digest = _Digest((*self._within, at), self._known)
            digest._content(function)
            self._known[at] = digest.hexdigest()
        self._item("function", self._known[at])

    def _content(self, function: Any) -> None:
        """Feed what a function is made of."""
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
        if module_name and module_name not in sys.modules:  # the function comes from another process
            with contextlib.suppress(ImportError):
                importlib.import_module(module_name)
        module = sys.modules.get(module_name or "")
        path = getattr(module, "__file__", None)
        if module is not None and path and path.endswith(".py") and not _versioned(module):
            self._item("source", file_digest(path))


_PLAIN = {int, float, complex, str, bytes, bool, type(None), type(...)}


def _versioned(module: python_types.ModuleType) -> bool:
    """Whether the module belongs to what :mod:`numbacnn.kernels.disk_cache` names the version of."""
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
