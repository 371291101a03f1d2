"""Scalar Python functions on the device: the ones that :mod:`numbacnn.kernels.scalar` compiles for the CPU, and their derivatives."""

from __future__ import annotations

import functools
import types as python_types
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import dual
from ...simd_python import plain
from .. import scalar
from .driver import SIMULATED, device_function

Scalar = Callable[[Any], Any]


@functools.cache
def compiled(function: Callable) -> Callable:
    """A device function that computes a scalar ``function``."""
    return plain(function) if SIMULATED else _helper(scalar.rebound(function))


@functools.cache
def derivative(function: Scalar) -> Scalar:
    """A device function that computes the derivative of ``function``, by dual numbers."""
    body, make, slope_of, one = compiled(function), dual.dual, dual.slope, np.float32(1)

    @device_function
    def of(x):
        return slope_of(body(make(x, one)))

    return of


def _helper(function: Callable) -> Callable:
    return device_function(_narrowed(function))


def _narrowed(function: Any) -> Any:
    """The same function, whose floating-point constants have float32's precision: beside them Python's numbers would make double
    precision of everything, which GPUs are slow at."""
    code = function.__code__
    code = code.replace(co_consts=tuple(map(_replacement, code.co_consts)))
    outside = {name: _replacement(function.__globals__[name]) for name in code.co_names if name in function.__globals__}
    closure = tuple(python_types.CellType(_replacement(cell.cell_contents)) for cell in function.__closure__ or ())
    twin = python_types.FunctionType(code, function.__globals__ | outside, function.__name__, function.__defaults__, closure)
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    return twin


def _replacement(value: Any) -> Any:
    if isinstance(value, float):
        return np.float32(value)
    if hasattr(value, "py_func"):  # a helper of the CPU's kernels
        return _helper(value.py_func)
    return value
