"""What takes the place of ``ptx.py`` where kernels run as Python: the same names, parameters and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bfloat16 import rounded, rounded_number, widened
from .driver import cuda
from .simulator import Bf16Pointer, Pointer

COPIED = 16  # bytes of an asynchronous copy
AT_ONCE = False  # whether such copies are made at once and not when they are waited for: a GPU may do either
_LANES = np.arange(32)
_G, _T = _LANES // 4, _LANES % 4
_ACCUMULATOR = np.stack([_G, _G, _G + 8, _G + 8], 1), np.stack([2 * _T, 2 * _T + 1] * 2, 1)  # rows and columns that each lane holds
_TF32_A = np.stack([_G, _G + 8] * 2, 1), np.stack([_T, _T, _T + 4, _T + 4], 1)
_TF32_B = np.stack([_T, _T + 4], 1), np.stack([_G, _G], 1)
_BF16_A = np.repeat(_TF32_A[0], 2, 1), np.stack([2 * _T + i for i in (0, 1, 0, 1, 8, 9, 8, 9)], 1)
_BF16_B = np.stack([2 * _T + i for i in (0, 1, 8, 9)], 1), np.stack([_G] * 4, 1)


def mma_tf32(a: Sequence, b: Sequence, c: Sequence) -> Sequence:
    return cuda.exchange((a, b, c), _products_tf32)


def mma_bf16(a: Sequence, b: Sequence, c: Sequence) -> Sequence:
    return cuda.exchange((a, b, c), _products_bf16)


def _products_tf32(values: Sequence) -> list:
    a, b, c = zip(*values)
    left, right = (np.array(part, np.uint32) & np.uint32(0xFFFFE000) for part in (a, b))
    return _products(left, right, c, _TF32_A, _TF32_B, 8)


def _products_bf16(values: Sequence) -> list:
    a, b, c = zip(*values)
    left, right = (_unpacked(np.array(part, np.uint32)) for part in (a, b))
    return _products(left, right, c, _BF16_A, _BF16_B, 16)


def _products(a: np.ndarray, b: np.ndarray, c: Sequence, places_of_a: tuple, places_of_b: tuple, depth: int) -> list:
    """Of bits of float32."""
    left, right, sums = (np.empty(shape, np.float32) for shape in ((16, depth), (depth, 8), (16, 8)))
    left[places_of_a], right[places_of_b], sums[_ACCUMULATOR] = a.view(np.float32), b.view(np.float32), c
    with np.errstate(all="ignore"):
        return (sums + left @ right)[_ACCUMULATOR].tolist()


def _unpacked(pairs: np.ndarray) -> np.ndarray:
    """The bits of two float32 for each pair, along the last axis."""
    return np.stack([pairs << 16, pairs & 0xFFFF0000], -1).astype(np.uint32).reshape(len(pairs), -1)


def to_tf32(x: Any) -> Any:
    bits = int(np.float32(x).view(np.uint32))
    return bits if np.isnan(x) else (bits + 0x1000) & 0xFFFFE000


def to_bf16x2(low: Any, high: Any) -> Any:
    return rounded_number(high) << 16 | rounded_number(low)


def from_bf16x2(pair: Any) -> tuple:
    return tuple(widened([pair & 0xFFFF, pair >> 16]))


def ldmatrix(tile: np.ndarray, at: Any) -> Sequence:
    return cuda.exchange(_row(tile, at), lambda rows: np.stack(rows).reshape(4, 32).T.tolist())


def ldmatrix_transposed(tile: np.ndarray, at: Any) -> Sequence:
    return cuda.exchange(_row(tile, at), _transposed)


def _row(tile: np.ndarray, at: Any) -> np.ndarray:
    return tile[_vector(tile, at, 4)].view(np.uint32).copy()


def _transposed(rows: Sequence) -> list:
    matrices = np.stack(rows).view(np.uint16).reshape(4, 8, 8).transpose(0, 2, 1)
    return np.ascontiguousarray(matrices).view(np.uint32).reshape(4, 32).T.tolist()


def load2(source: Any, at: Any) -> tuple:
    return _load(source, at, 2)


def load4(source: Any, at: Any) -> tuple:
    return _load(source, at, 4)


def _load(source: Any, at: Any, count: int) -> tuple:
    found = _elements(source)[_vector(source, at, count)]
    return tuple(widened(found) if isinstance(source, Bf16Pointer) else found)


def store2(target: Any, at: Any, values: Sequence) -> None:
    _store(target, at, 2, values)


def store4(target: Any, at: Any, values: Sequence) -> None:
    _store(target, at, 4, values)


def _store(target: Any, at: Any, count: int, values: Sequence) -> None:
    _elements(target)[_vector(target, at, count)] = rounded(values) if isinstance(target, Bf16Pointer) else values


def as_stored(target: Any, value: Any) -> Any:
    return widened(rounded_number(value))[()] if isinstance(target, Bf16Pointer) else value


def cp_async(tile: np.ndarray, at: Any, source: Pointer, offset: Any, valid: Any) -> None:
    origin = _vector(source, offset, COPIED // source.array.itemsize)
    place, values = _vector(tile, at, 4), source.array[origin].view(tile.dtype) if valid else 0
    if AT_ONCE:
        tile[place] = values
    else:
        cuda.copies[-1].append((tile, place, values))


cp_async_cached = cp_async


def cp_async_commit() -> None:
    cuda.copies.append([])


def cp_async_wait(pending: int) -> None:
    """Until then, what is copied isn't there."""
    groups = cuda.copies
    while len(groups) > pending + 1:
        for tile, place, values in groups.pop(0):
            tile[place] = values


def _elements(array: Any) -> np.ndarray:
    return array.array if isinstance(array, Pointer) else array


def _vector(array: Any, at: Any, count: int) -> slice:
    """The place of neighbouring elements, which must be within the array and start at a multiple of their size."""
    elements = _elements(array)
    start = int(at)
    if not 0 <= start <= len(elements) - count:
        raise IndexError(f"a kernel reached for elements {start} to {start + count} of {len(elements)}")
    if start % count:
        raise IndexError(f"a kernel reached for {count} elements from element {start} on, no multiple of {count}")
    return slice(start, start + count)
