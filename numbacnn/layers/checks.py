"""Checks of fields: one rule of what counts as a number, NumPy's included, and one form of words for what does not."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from ..errors import ConfigError


def is_integer(value: Any, least: int | None = None) -> bool:
    """Whether ``value`` is a whole number, Python's or NumPy's, of at least ``least``. A bool is none."""
    whole = type(value) is int or (isinstance(value, numbers.Integral) and not isinstance(value, bool))
    return whole and (least is None or int(value) >= least)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite real number, Python's or NumPy's. A bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> Any:
    """Lists as tuples and NumPy's numbers as Python's, so that equal configurations compare, hash and print alike."""
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


def settle(owner: Any, *fields: str) -> None:
    """Make fields of a frozen dataclass :func:`plain`."""
    for field in fields:
        object.__setattr__(owner, field, plain(getattr(owner, field)))


def integer(owner: Any, field: str, least: int | None = None) -> None:
    """Make a field of a frozen dataclass an int; ConfigError unless it holds a whole number of at least ``least``."""
    value = getattr(owner, field)
    if not is_integer(value, least):
        bound = "" if least is None else f" of at least {least}"
        raise ConfigError(f"{type(owner).__name__}: {field} is {value!r}; it takes an integer{bound}.")
    settle(owner, field)


def number(
    owner: Any, field: str, *, least: float = -math.inf, most: float = math.inf, above: float = -math.inf, below: float = math.inf
) -> None:
    """Make a field of a frozen dataclass a Python number; ConfigError unless it holds a finite one within the bounds, of which ``above``
    and ``below`` are themselves outside."""
    value = getattr(owner, field)
    if not is_number(value) or not (least <= value <= most and above < value < below):
        bounds = [
            f"{words} {bound:g}"
            for words, bound in (("of at least", least), ("above", above), ("of at most", most), ("below", below))
            if math.isfinite(bound)
        ]
        raise ConfigError(f"{type(owner).__name__}: {field} is {value!r}; it takes a finite number{' and'.join(' ' + b for b in bounds)}.")
    settle(owner, field)
