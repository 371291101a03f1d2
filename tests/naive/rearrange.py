"""Slow, obvious references of numbacnn.kernels.rearrange and of the layers that it serves. Arrays have the batch axis first."""

from __future__ import annotations

import numpy as np


def copy(source):
    return np.array([source[index] for index in np.ndindex(source.shape)]).reshape(source.shape)


def clear(target):
    return np.zeros_like(target)


def permute(x, order):
    y = np.empty((x.shape[0], *(x.shape[1 + axis] for axis in order)), x.dtype)
    for n, *place in np.ndindex(x.shape):
        y[(n, *(place[axis] for axis in order))] = x[(n, *place)]
    return y


def zero_pad(x, pairs, channels=(0, 0)):
    pairs = [*pairs, channels]
    y = np.zeros((x.shape[0], *(n + sum(pair) for n, pair in zip(x.shape[1:], pairs))), x.dtype)
    for n, *place in np.ndindex(x.shape):
        y[(n, *(k + before for k, (before, _) in zip(place, pairs)))] = x[(n, *place)]
    return y


def crop(x, pairs):
    y = np.empty((x.shape[0], *(n - sum(pair) for n, pair in zip(x.shape[1:], pairs)), x.shape[-1]), x.dtype)
    for n, *place, channel in np.ndindex(y.shape):
        y[(n, *place, channel)] = x[(n, *(k + before for k, (before, _) in zip(place, pairs)), channel)]
    return y


def channel_shuffle(x, groups):
    y = np.empty_like(x)
    size = x.shape[-1] // groups
    for group in range(groups):
        for k in range(size):
            y[..., k * groups + group] = x[..., group * size + k]
    return y


def depth_to_space(x, block, order):
    spatial, channels = x.shape[1:-1], x.shape[-1] // block ** (x.ndim - 2)
    y = np.empty((x.shape[0], *(n * block for n in spatial), channels), x.dtype)
    for n, *place, channel in np.ndindex(y.shape):
        within = 0
        for k in place:
            within = within * block + k % block
        deep = within * channels + channel if order == "DCR" else channel * block ** len(spatial) + within
        y[(n, *place, channel)] = x[(n, *(k // block for k in place), deep)]
    return y


def space_to_depth(x, block, order):
    axes, channels = x.ndim - 2, x.shape[-1]
    y = np.empty((x.shape[0], *(n // block for n in x.shape[1:-1]), channels * block**axes), x.dtype)
    for n, *place, channel in np.ndindex(x.shape):
        within = 0
        for k in place:
            within = within * block + k % block
        deep = within * channels + channel if order == "DCR" else channel * block**axes + within
        y[(n, *(k // block for k in place), deep)] = x[(n, *place, channel)]
    return y
