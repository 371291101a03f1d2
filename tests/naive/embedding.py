"""Slow, obvious references of numbacnn.kernels.embedding."""

from __future__ import annotations

import numpy as np


def rows(table, ids):
    """The row of ``table (V, W)`` for each of ``ids``."""
    y = np.empty((*ids.shape, table.shape[1]), table.dtype)
    for place in np.ndindex(ids.shape):
        y[place] = table[ids[place]]
    return y


def row_sums(dy, ids, vocabulary, skipped=None):
    """The gradient of the table: of each row the sum over the places that read it; zeros for the row ``skipped``."""
    gradient = np.zeros((vocabulary, dy.shape[-1]), dy.dtype)
    for place in np.ndindex(ids.shape):
        if ids[place] != skipped:
            gradient[ids[place]] += dy[place]
    return gradient
