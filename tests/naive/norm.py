"""Slow, obvious normalisation in float64, on arrays ``(N, ..., C)``."""

from __future__ import annotations

import numpy as np


def normalise(x, axes, epsilon):
    """``x`` minus its mean over ``axes``, over the root of its biased variance + epsilon."""
    x = x.astype("float64")
    mean = x.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + epsilon)


def normalise_backward(x, gradient, axes, epsilon):
    """Gradient of ``x`` from that of ``normalise(x)``."""
    x, gradient = x.astype("float64"), gradient.astype("float64")
    normal = normalise(x, axes, epsilon)
    rstd = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)
    return rstd * (gradient - gradient.mean(axis=axes, keepdims=True) - normal * (gradient * normal).mean(axis=axes, keepdims=True))


def batch_norm(x, weight, bias, epsilon):
    return normalise(x, tuple(range(x.ndim - 1)), epsilon) * weight + bias


def batch_norm_backward(x, dy, weight, epsilon):
    """Gradients of ``x``, weight and bias."""
    axes = tuple(range(x.ndim - 1))
    return normalise_backward(x, dy * weight, axes, epsilon), (dy * normalise(x, axes, epsilon)).sum(axis=axes), dy.sum(axis=axes)


def running_statistics(x, momentum, mean, var):
    """Running mean and variance after the batch ``x``."""
    rows = x.reshape(-1, x.shape[-1]).astype("float64")
    return (1 - momentum) * mean + momentum * rows.mean(axis=0), (1 - momentum) * var + momentum * rows.var(axis=0, ddof=1)


def _grouped(x, groups):
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _group_axes(x):
    """Axes of an array ``(N, ..., groups, channels of a group)`` that statistics go over."""
    return (*range(1, x.ndim - 1), x.ndim)


def group_norm(x, groups, weight, bias, epsilon):
    return normalise(_grouped(x, groups), _group_axes(x), epsilon).reshape(x.shape) * weight + bias


def group_norm_backward(x, dy, groups, weight, epsilon):
    """Gradients of ``x``, weight and bias."""
    over = tuple(range(x.ndim - 1))
    normal = normalise(_grouped(x, groups), _group_axes(x), epsilon).reshape(x.shape)
    dx = normalise_backward(_grouped(x, groups), _grouped(dy * weight, groups), _group_axes(x), epsilon)
    return dx.reshape(x.shape), (dy * normal).sum(axis=over), dy.sum(axis=over)


def layer_norm(x, axes, weight, bias, epsilon):
    return normalise(x, axes, epsilon) * weight + bias


def layer_norm_backward(x, dy, axes, weight, epsilon):
    """Gradients of ``x``, weight and bias."""
    over = tuple(axis for axis in range(x.ndim) if axis not in [a % x.ndim for a in axes])
    return normalise_backward(x, dy * weight, axes, epsilon), (dy * normalise(x, axes, epsilon)).sum(axis=over), dy.sum(axis=over)


def response_base(x, size, alpha, k):
    """``k + alpha / size`` times the sum of squares over the channels ``c - size // 2`` to ``c + (size - 1) // 2``."""
    channels = x.shape[-1]
    base = np.full(x.shape, float(k))
    for c in range(channels):
        for j in range(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1)):
            base[..., c] += alpha / size * x[..., j].astype("float64") ** 2
    return base


def local_response_norm(x, size, alpha, beta, k):
    return x / response_base(x, size, alpha, k) ** beta


def local_response_norm_backward(x, dy, size, alpha, beta, k):
    channels = x.shape[-1]
    base = response_base(x, size, alpha, k)
    dx = dy * base**-beta
    for c in range(channels):
        for j in range(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1)):
            dx[..., j] -= 2 * alpha * beta / size * x[..., j] * dy[..., c] * x[..., c] * base[..., c] ** (-beta - 1)
    return dx
