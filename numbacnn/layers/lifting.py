"""Arrays in the shapes that kernels take. All of these are views, also of arrays with gaps between their pixels: a copy would be
lost, or out of date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np


@overload
def lifted(array: np.ndarray, spatial: Sequence[int] | None = None) -> np.ndarray: ...


@overload
def lifted(array: None, spatial: Sequence[int] | None = None) -> None: ...


def lifted(array: np.ndarray | None, spatial: Sequence[int] | None = None) -> np.ndarray | None:
    """``(N, ..., C)`` with up to three spatial axes as ``(N, D, H, W, C)``, ones in front; a view. ``spatial`` are the lengths of the
    axes, where the array's shape doesn't say them. No array stays none."""
    if array is None:
        return None
    spatial = array.shape[1:-1] if spatial is None else tuple(spatial)
    return reshaped(array, (array.shape[0], *(1,) * (3 - len(spatial)), *spatial, array.shape[-1]))


def lines(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays of one shape as ``(lines, elements)``: one line where all are dense, otherwise a line for each pixel."""
    dense = all(array.flags.c_contiguous for array in arrays)
    return [reshaped(array, (1, -1) if dense else (-1, array.shape[-1])) for array in arrays]


def reshaped(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A view of ``array`` in another shape; ValueError where its strides allow none."""
    result = array.reshape(shape)
    if array.size and not np.may_share_memory(result, array):
        raise ValueError(f"an array of shape {array.shape} and strides {array.strides} was given, which has no view of shape {shape}.")
    return result
