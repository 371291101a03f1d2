"""Scalar Python functions inside kernels: one function of a number serves numbers, Tiles and dual numbers alike.

A scalar function is plain Python. It may use arithmetic, ``abs``, ``max``, ``min``, :func:`numbacnn.simd.where`, functions of :mod:`math`
(or NumPy's of the same name), other such functions, and numbers of an enclosing function.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import math
import threading
import types as python_types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

from .. import dual, simd
from ..errors import ConfigError
from ..simd import JIT_DISABLED, apply
from ..simd_python import shim
from .jit import inline

Scalar = Callable[[Any], Any]


@functools.cache
def compiled(function: Scalar) -> Scalar:
    """A helper for kernels that computes ``function`` of a number, or of each element of a Tile.

    A function that a Tile cannot go through, because it branches with ``if``, is called element by element.
    """
    body = inline(rebound(function))

    @inline
    def of(x):
        return apply(body, x)

    return of


@functools.cache
def derivative(function: Scalar) -> Scalar:
    """A helper for kernels that computes the derivative of ``function`` at a number, or at each element of a Tile.

    The function is evaluated on dual numbers (Griewank & Walther, Evaluating Derivatives, chapter 3). At a kink the branch that is
    taken there counts.
    """
    body = inline(rebound(function))

    @inline
    def slope(x):
        return dual.slope(body(dual.dual(x, 1.0)))

    @inline
    def of(x):
        return apply(slope, x)

    return of


@contextlib.contextmanager
def explained(function: Scalar) -> Iterator[None]:
    """Turns Numba's report on a scalar function that cannot be compiled into a ConfigError of one sentence."""
    try:
        yield
    except NumbaError as error:
        text = _source(function)
        lines = [line.strip() for line in str(error).splitlines()]
        why = next((line for line in lines if line.startswith(_REASONS)), lines[0])
        raise ConfigError(
            f"The scalar function `{text}` cannot be compiled: {why} "
            "It may use arithmetic, abs, max, min, nc.where, functions of math, and numbers."
        ) from error


def _source(function: Callable) -> str:
    try:
        return " ".join(inspect.getsource(function).split())
    except (OSError, TypeError):  # typed at a prompt
        return function.__name__


_REASONS = ("No implementation of function", "Untyped global name", "Unknown attribute", "NameError", "Use of unsupported", "Unsupported")


# From NumPy's names to the ones that kernels know --------------------------------------------------------------------

_OWN = {f"numbacnn.{name}" for name in ("simd", "simd_python", "dual")}  # functions that kernels know already
if not JIT_DISABLED:  # plain Python calls what it is written as
    _OWN.add("numbacnn.elementary")
_known: Any = shim if JIT_DISABLED else python_types.SimpleNamespace(**vars(math), max=max, min=min)
_RENAMED = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "maximum": "max",
    "minimum": "min",
}  # fmt: skip
_SAME = (
    "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "fabs", "floor", "sin", "cos", "tan", "sinh", "cosh", "tanh", "pi", "e",
    "inf", "nan",
)  # fmt: skip
_FROM_NUMPY: dict[str, Any] = {"abs": abs, "absolute": abs, "where": simd.where, "power": pow}
_FROM_NUMPY |= {name: getattr(_known, _RENAMED.get(name, name)) for name in (*_RENAMED, *_SAME)}

_numpy = python_types.ModuleType("numbacnn.kernels.scalar_numpy", "What a scalar function finds when it says numpy.")
_numpy.__dict__.update(_FROM_NUMPY, __file__=__file__)


def rebound(function: Callable) -> Callable:
    """The same function, in which NumPy's elementwise functions are those of :mod:`math`, and plain Python functions that it calls
    are helpers for kernels."""
    outside = {name: function.__globals__[name] for name in _globals(function.__code__) if name in function.__globals__}
    changed = {name: _replacement(value) for name, value in outside.items()}
    closure = tuple(python_types.CellType(_replacement(value)) for value in _closed_over(function))
    same = all(changed[name] is value for name, value in outside.items())
    if same and all(new.cell_contents is old.cell_contents for new, old in zip(closure, function.__closure__ or ())):
        return function
    twin = python_types.FunctionType(function.__code__, function.__globals__ | changed, function.__name__, function.__defaults__, closure)
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    return twin


def _closed_over(function: Any) -> Iterator[Any]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield cell.cell_contents
        except ValueError:
            raise ConfigError(f"The scalar function `{_source(function)}` uses {name!r}, which has no value yet.") from None


def _globals(code: python_types.CodeType) -> set[str]:
    """Names of the module-level things that code uses; ``co_names`` has those of attributes too."""
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals(constant) for constant in code.co_consts if isinstance(constant, python_types.CodeType)))


def _replacement(value: Any) -> Any:
    if value is np:
        return _numpy
    if isinstance(value, np.ufunc) or value is np.where:
        return _FROM_NUMPY.get(value.__name__, value)
    if isinstance(value, python_types.FunctionType) and value.__module__ not in _OWN:
        return _helper(value)
    return value


_making = threading.RLock()
_under_way: set[Callable] = set()  # functions whose helpers this thread is making


@functools.cache
def _helper(function: Callable) -> Callable:
    with _making:
        if function in _under_way:
            raise ConfigError(f"The scalar function `{_source(function)}` calls itself; kernels cannot compile that.")
        _under_way.add(function)
        try:
            return inline(rebound(function))
        finally:
            _under_way.remove(function)
