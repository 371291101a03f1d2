"""Slow, obvious losses. Each gives the mean loss and its gradient with respect to the outputs, in float64."""

from __future__ import annotations

import numpy as np


def softmax_cross_entropy(outputs, labels, label_smoothing=0.0, class_weights=None, ignore_index=None):
    classes = outputs.shape[-1]
    z = outputs.reshape(-1, classes).astype(np.float64)
    weights = np.ones(classes) if class_weights is None else np.asarray(class_weights, np.float64)
    soft = labels.ndim == outputs.ndim
    flat = labels.reshape(-1, classes) if soft else labels.reshape(-1)
    loss, divisor, gradient = 0.0, 0.0, np.zeros_like(z)
    for row in range(len(z)):
        if not soft and flat[row] == ignore_index:
            continue
        target = np.asarray(flat[row], np.float64) if soft else np.eye(classes)[flat[row]]
        target = weights * ((1 - label_smoothing) * target + label_smoothing / classes)
        log_softmax = z[row] - z[row].max() - np.log(np.exp(z[row] - z[row].max()).sum())
        loss -= (target * log_softmax).sum()
        gradient[row] = np.exp(log_softmax) * target.sum() - target
        divisor += 1.0 if soft else weights[flat[row]]
    if divisor == 0:
        return 0.0, np.zeros(outputs.shape)
    return loss / divisor, (gradient / divisor).reshape(outputs.shape)


def multi_class_hinge(outputs, labels, margin=1.0, squared=False, class_weights=None, average_classes=False):
    classes = outputs.shape[-1]
    s = outputs.reshape(-1, classes).astype(np.float64)
    weights = np.ones(classes) if class_weights is None else np.asarray(class_weights, np.float64)
    loss, gradient = 0.0, np.zeros_like(s)
    for row, y in enumerate(labels.reshape(-1)):
        for j in range(classes):
            excess = max(0.0, s[row, j] - s[row, y] + margin)
            if j == y or excess == 0:
                continue
            loss += weights[y] * (excess**2 if squared else excess)
            slope = weights[y] * (2 * excess if squared else 1.0)
            gradient[row, j] += slope
            gradient[row, y] -= slope
    divisor = len(s) * (classes if average_classes else 1)
    return loss / divisor, (gradient / divisor).reshape(outputs.shape)


def binary_cross_entropy(outputs, targets, positive_weight=1.0):
    x, t = outputs.astype(np.float64), targets.astype(np.float64)
    p = 1 / (1 + np.exp(-x))
    w = np.broadcast_to(np.asarray(positive_weight, np.float64), x.shape)
    loss = -(w * t * np.log(p) + (1 - t) * np.log(1 - p))
    return loss.mean(), (-(w * t * (1 - p)) + (1 - t) * p) / x.size


def mean_squared_error(outputs, targets):
    d = outputs.astype(np.float64) - targets
    return (d**2).mean(), 2 * d / d.size


def mean_absolute_error(outputs, targets):
    d = outputs.astype(np.float64) - targets
    return np.abs(d).mean(), np.sign(d) / d.size


def huber(outputs, targets, delta=1.0):
    d = outputs.astype(np.float64) - targets
    near = np.abs(d) < delta
    loss = np.where(near, d**2 / 2, delta * (np.abs(d) - delta / 2))
    return loss.mean(), np.where(near, d, delta * np.sign(d)) / d.size
