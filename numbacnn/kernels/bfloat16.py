"""Bfloat16, which NumPy has not: float32 without the lower half of its bits, 8 bits of exponent and 7 of mantissa."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

BF16 = np.dtype([("bfloat16", np.uint16)])
"""The data type of arrays whose elements are the bits of such numbers."""
_NAN = 0x7FFF  # what GPUs make of any NaN


def rounded(values: Any) -> np.ndarray:
    """Numbers, rounded to the nearest bfloat16, halves to even: their bits, of type uint16."""
    values = np.ascontiguousarray(values, np.float32)
    return np.where(np.isnan(values), _NAN, _nearest(values.view(np.uint32))).astype(np.uint16)


def rounded_number(value: Any) -> int:
    """The same of one number, a hundred times as fast."""
    return _NAN if math.isnan(value) else _nearest(int(np.float32(value).view(np.uint32)))


def widened(bits: Any) -> np.ndarray:
    """The float32 that bfloat16 with these bits are."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def _nearest(bits: Any) -> Any:
    """The upper half of a float32's bits, rounded by the lower one."""
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
