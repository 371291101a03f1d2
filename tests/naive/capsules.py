"""Slow, obvious references of numbacnn_architectures.capsule_kernels."""

from __future__ import annotations

import numpy as np


def squash(s):
    """Each vector along the last axis, made shorter than one."""
    length = np.sqrt((s * s).sum(axis=-1, keepdims=True))
    return s * length / (1 + length**2)


def route(x, weight, iterations):
    """``x (N, I, D)`` and ``weight (I, D, O, J)`` to ``(N, J, O)``, capsule by capsule."""
    count, _, width, capsules = weight.shape
    y = np.empty((len(x), capsules, width))
    for n, sample in enumerate(x):
        votes = np.array([[sample[i] @ weight[i, :, :, j] for j in range(capsules)] for i in range(count)])
        logits = np.zeros((count, capsules))
        for _ in range(iterations):
            powers = np.exp(logits)
            couplings = powers / powers.sum(axis=1, keepdims=True)
            for j in range(capsules):
                y[n, j] = squash(sum(couplings[i, j] * votes[i, j] for i in range(count)))
            logits += np.array([[votes[i, j] @ y[n, j] for j in range(capsules)] for i in range(count)])
    return y


def margin(lengths, labels, present=0.9, absent=0.1, absent_weight=0.5):
    """The margin loss of lengths ``(N, K)``, class by class."""
    total = 0.0
    for sample, label in zip(lengths, labels):
        for k, length in enumerate(sample):
            total += max(0.0, present - length) ** 2 if k == label else absent_weight * max(0.0, length - absent) ** 2
    return total / len(lengths)
