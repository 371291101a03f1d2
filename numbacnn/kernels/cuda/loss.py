"""Losses on the device: the mean loss of a batch and its gradient (compare :mod:`numbacnn.kernels.loss`).

Each function takes ``(loss, outputs, targets, gradient, total, scale)``: the configuration, arrays on the device, ``total`` (float64) for
the loss and the number that the sum was divided by, and a factor of loss and gradient. Sums follow a partition by the shapes alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .driver import cuda, float32, float64, int32
from .launch import THREADS, kernel
from .memory import DeviceArray, empty, on_device
from .reduce import block_largest, block_sum


@kernel
def _divisor(labels, rows, class_weights, ignored, total):
    """The sum of the class weights of all labels that count, to ``total[1]``."""
    sums = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    found = float32(0)
    for row in range(thread, rows, int32(THREADS)):
        if labels[row] != ignored:
            found += class_weights[labels[row]]
    whole = block_sum(sums, thread, found)
    if thread == 0:
        total[1] = float64(whole)


@kernel
def _sum_up(partials, count, scale, total):
    """``total[0]``: the sum of the partial losses over the divisor, times ``scale``; 0 where there is nothing to average over."""
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    found = float64(0)
    for at in range(thread, count, int32(THREADS)):
        found += float64(partials[at])
    whole = block_sum(sums, thread, found)
    if thread == 0:
        divisor = total[1]
        total[0] = whole / divisor * float64(scale) if divisor != float64(0) else float64(0)


@kernel
def _labelled(outputs, columns, labels, class_weights, weight_sum, smoothing, ignored, scale, gradient, partials, total):
    """A block for each row, whose target is a class."""
    shared = cuda.shared.array(THREADS, float32)
    thread, row = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
    first, label = row * columns, int32(labels[row])
    if label == ignored:
        for k in range(thread, columns, int32(THREADS)):
            gradient[first + k] = float32(0)
        if thread == 0:
            partials[row] = float32(0)
    else:
        top = float32(-math.inf)
        for k in range(thread, columns, int32(THREADS)):
            top = max(top, outputs[first + k])
        top = block_largest(shared, thread, top)
        exponentials = float32(0)
        for k in range(thread, columns, int32(THREADS)):
            exponentials += math.exp(outputs[first + k] - top)
        exponentials = block_sum(shared, thread, exponentials)
        log_sum = math.log(exponentials)
        factor = scale / float32(total[1]) if total[1] != float64(0) else float32(0)
        spread = smoothing / float32(columns)
        on_label = (float32(1) - smoothing) * class_weights[label]
        from_softmax = (on_label + spread * weight_sum) / exponentials * factor
        smooth = float32(0)
        for k in range(thread, columns, int32(THREADS)):
            z = outputs[first + k] - top
            weight = class_weights[k] * spread
            smooth += weight * (log_sum - z)
            slope = math.exp(z) * from_softmax - weight * factor
            if k == label:
                slope -= on_label * factor
            gradient[first + k] = slope
        smooth = block_sum(shared, thread, smooth)
        if thread == 0:
            partials[row] = on_label * (log_sum - (outputs[first + label] - top)) + smooth


def softmax_cross_entropy(
    loss: Any, outputs: DeviceArray, targets: DeviceArray, gradient: DeviceArray, total: DeviceArray, scale: float
) -> None:
    """Cross-entropy of the softmax; targets are int64 classes."""
    classes = outputs.shape[-1]
    rows = outputs.size // classes
    weights = np.ones(classes, np.float32) if loss.class_weights is None else np.asarray(loss.class_weights, np.float32)
    ignored = -(2**31) if loss.ignore_index is None else int(loss.ignore_index)
    partials, weights_there = empty((rows,), np.float32), on_device(weights)
    _divisor(1, targets, rows, weights_there, ignored, total)
    _labelled(
        rows, outputs, classes, targets, weights_there, float(weights.sum()), float(loss.label_smoothing), ignored, float(scale), gradient,
        partials, total,
    )  # fmt: skip
    _sum_up(1, partials, rows, float(scale), total)
