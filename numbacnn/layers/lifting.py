"""Layers of one, two and three spatial axes run on kernels that always take three."""

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
    return array.reshape(array.shape[0], *(1,) * (3 - len(spatial)), *spatial, array.shape[-1])
