"""Slow, obvious pooling: one window after the other, on arrays ``(N, spatial..., C)``.

A window is one list of pixel indices per axis.
"""

from __future__ import annotations

import itertools

import numpy as np


def sliding_windows(size, kernel, stride, padding=(0, 0), dilation=1, ceil_mode=False):
    """The windows along one axis as lists of indices inside the input, and their sizes with padding counted."""
    before, after = padding
    windows, sizes = [], []
    extent = dilation * (kernel - 1) + 1
    start = -before
    while start < size and start + extent - stride < size + after if ceil_mode else start + extent <= size + after:
        taps = [start + dilation * tap for tap in range(kernel)]
        windows.append([tap for tap in taps if 0 <= tap < size])
        sizes.append(sum(tap < size + after for tap in taps))
        start += stride
    return windows, sizes


def adaptive_windows(size, places):
    """Indices of each window along one axis."""
    return [list(range(int(np.floor(i * size / places)), int(np.ceil((i + 1) * size / places)))) for i in range(places)]


def _each_window(windows):
    """Output place and index of the window's pixels, over all axes."""
    for place in itertools.product(*(range(len(axis)) for axis in windows)):
        yield place, np.ix_(*(axis[i] for axis, i in zip(windows, place)))


def _output(x, windows):
    return np.zeros((x.shape[0], *map(len, windows), x.shape[-1]), x.dtype)


def max_forward(x, windows):
    y = _output(x, windows)
    axes = tuple(range(len(windows)))
    for n in range(x.shape[0]):
        for place, pixels in _each_window(windows):
            y[(n, *place)] = x[n][pixels].max(axis=axes)
    return y


def max_backward(x, dy, windows):
    """The gradient goes to the first largest element of each window, or to the last one that is not a number."""
    dx = np.zeros_like(x)
    for n in range(x.shape[0]):
        for place, _ in _each_window(windows):
            indices = list(itertools.product(*(axis[i] for axis, i in zip(windows, place))))
            for c in range(x.shape[-1]):
                best = indices[0]
                for index in indices:
                    if x[n][index][c] > x[n][best][c] or np.isnan(x[n][index][c]):
                        best = index
                dx[(n, *best, c)] += dy[(n, *place, c)]
    return dx


def average_forward(x, windows, sizes=None):
    """``sizes``: per axis, what each window counts as; by default its pixels."""
    y = _output(x, windows)
    sizes = sizes or [list(map(len, axis)) for axis in windows]
    axes = tuple(range(len(windows)))
    for n in range(x.shape[0]):
        for place, pixels in _each_window(windows):
            y[(n, *place)] = x[n][pixels].sum(axis=axes) / np.prod([axis[i] for axis, i in zip(sizes, place)])
    return y


def average_backward(x, dy, windows, sizes=None):
    dx = np.zeros_like(x)
    sizes = sizes or [list(map(len, axis)) for axis in windows]
    for n in range(x.shape[0]):
        for place, pixels in _each_window(windows):
            dx[n][pixels] += dy[(n, *place)] / np.prod([axis[i] for axis, i in zip(sizes, place)])
    return dx


def lp_forward(x, windows, p):
    y = _output(x, windows)
    axes = tuple(range(len(windows)))
    for n in range(x.shape[0]):
        for place, pixels in _each_window(windows):
            y[(n, *place)] = (np.abs(x[n][pixels]) ** p).sum(axis=axes) ** (1 / p)
    return y


def lp_backward(x, dy, windows, p):
    dx = np.zeros_like(x)
    y = lp_forward(x, windows, p)
    for n in range(x.shape[0]):
        for place, pixels in _each_window(windows):
            values, norm = x[n][pixels], y[(n, *place)]
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.sign(values) * np.abs(values) ** (p - 1) * norm ** (1 - p)
            dx[n][pixels] += np.where(values == 0, 0, slope * dy[(n, *place)])
    return dx
