"""Comparisons that say what differs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


@contextlib.contextmanager
def named(check: str, layer: Any, shape: Any) -> Iterator[None]:
    """Puts the check, the layer and the shape in front of what goes wrong."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"check {check!r} fails for {layer!r} on input shape {shape}: {error}") from error
    except Exception as error:
        raise AssertionError(f"check {check!r} fails for {layer!r} on input shape {shape}: {type(error).__name__}: {error}") from error


def require(holds: Any, sentence: str) -> None:
    """As ``assert``, which ``python -O`` leaves out."""
    if not holds:
        raise AssertionError(sentence)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, bit for bit but for the sign of zero."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))


def assert_same(a: np.ndarray, b: np.ndarray, what: str) -> None:
    if same(a, b):
        return
    require(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    different = (a != b) & ~(np.isnan(a) & np.isnan(b))
    at = tuple(int(k) for k in np.argwhere(different)[0])
    raise AssertionError(f"{what}: {int(different.sum())} of {a.size} elements differ, first at {at}: {a[at]!r} and {b[at]!r}")


def assert_close(a: np.ndarray, b: np.ndarray, tolerance: float, what: str) -> None:
    """``|a - b| <= tolerance * max(1, max |b|)`` everywhere, NaN in neither."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    require(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    if not a.size:
        return
    error = np.abs(a - b)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), a.shape)
    limit = tolerance * max(1.0, float(np.max(np.abs(b))))
    at = tuple(int(k) for k in worst)
    require(error[worst] <= limit, f"{what}: {a[worst]:.9g} against {b[worst]:.9g} at {at}, allowed difference {limit:.2g}")


def assert_finite(arrays: Mapping[str, np.ndarray], method: str) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            at = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
            raise AssertionError(
                f"{method} leaves {array[at]} in {name} at {at}: not every element is overwritten, or the result is not finite"
            )


def by_name(dx: Sequence[np.ndarray | None], dp: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those that there are, by name."""
    names = ["dx"] if len(dx) == 1 else [f"dx[{k}]" for k in range(len(dx))]
    of_inputs = {name: array for name, array in zip(names, dx) if array is not None}
    return {**of_inputs, **{f"dp[{name!r}]": array for name, array in dp.items()}}
