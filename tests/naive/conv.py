"""Convolution as its definition reads: one output at a time, over every tap."""

from __future__ import annotations

import itertools

import numpy as np


def convolve(x, weight, bias, stride, padding, dilation, groups):
    """``x (N, ..., C)``, ``weight (kernel..., C / groups, CO)``, ``padding`` pairs; gives ``(N, ..., CO)``."""
    kernel = weight.shape[:-2]
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    places = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded.shape[1:-1], kernel, stride, dilation)]
    inputs, outputs = weight.shape[-2], weight.shape[-1] // groups
    y = np.zeros((x.shape[0], *places, weight.shape[-1]), x.dtype)
    for place in itertools.product(*map(range, places)):
        for tap in itertools.product(*map(range, kernel)):
            pixel = padded[(slice(None), *(i * s + k * d for i, s, k, d in zip(place, stride, tap, dilation)))]
            for g in range(groups):
                y[(slice(None), *place, slice(g * outputs, (g + 1) * outputs))] += (
                    pixel[:, g * inputs : (g + 1) * inputs] @ weight[(*tap, slice(None), slice(g * outputs, (g + 1) * outputs))]
                )
    return y if bias is None else y + bias


def gradients(x, weight, dy, stride, padding, dilation, groups):
    """Gradients of ``sum(convolve(x, weight) * dy)`` with respect to ``x``, ``weight`` and the bias."""
    kernel = weight.shape[:-2]
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    dx, dw = np.zeros_like(padded), np.zeros_like(weight)
    inputs, outputs = weight.shape[-2], weight.shape[-1] // groups
    for place in itertools.product(*map(range, dy.shape[1:-1])):
        for tap in itertools.product(*map(range, kernel)):
            at = (slice(None), *(i * s + k * d for i, s, k, d in zip(place, stride, tap, dilation)))
            for g in range(groups):
                channels, filters = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
                gradient = dy[(slice(None), *place, filters)]
                dx[(*at, channels)] += gradient @ weight[(*tap, slice(None), filters)].T
                dw[(*tap, slice(None), filters)] += padded[(*at, channels)].T @ gradient
    inner = (slice(None), *(slice(before, before + n) for n, (before, _) in zip(x.shape[1:-1], padding)), slice(None))
    return dx[inner], dw, dy.reshape(-1, dy.shape[-1]).sum(0)
