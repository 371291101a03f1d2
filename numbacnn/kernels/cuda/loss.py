"""Losses on the device: the mean loss of a batch and its gradient (compare :mod:`numbacnn.kernels.loss`).

Each function takes ``(loss, outputs, targets, gradient, total, scale)``: the configuration, arrays on the device, ``total`` (float64) for
the loss and the number that the sum was divided by, and a factor of loss and gradient. A team of neighbouring threads works on a row, the
outputs for one sample or pixel; each block leaves the sum of its rows in ``partials``, and these are added up in order. Which block adds
what follows from the shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .driver import cuda, device_function, float32, float64, int32
from .launch import THREADS, blocks_for, kernel
from .memory import DeviceArray, empty, on_device
from .reduce import block_sum, team_for, team_largest, team_sum

BLOCKS = 1024  # at most so many leave a sum
EACH = 4  # outputs of a row that a thread works on, about


def blocks_of_sums(elements: int, per_block: int = THREADS) -> int:
    """Blocks of a kernel that leaves a sum for each."""
    return max(1, min(BLOCKS, blocks_for(elements, per_block)))


# What sums are divided by --------------------------------------------------------------------------------------------


@device_function
def _counts(label, columns, ignored):
    """Whether a label is one of the classes, and not that which counts for nothing."""
    return label >= 0 and label < columns and label != ignored


@kernel
def _weigh_labels(labels, rows, columns, class_weights, ignored, partials):
    """Each block's sum of the class weights of labels that count."""
    sums = cuda.shared.array(THREADS, float64)
    thread, stride = int32(cuda.threadIdx.x), int32(cuda.gridDim.x) * int32(THREADS)
    found = float64(0)
    for row in range(int32(cuda.blockIdx.x) * int32(THREADS) + thread, rows, stride):
        if _counts(labels[row], columns, ignored):
            found += float64(class_weights[labels[row]])
    whole = block_sum(sums, thread, found)
    if thread == 0:
        partials[int32(cuda.blockIdx.x)] = whole


@kernel
def _add_up(partials, count, result):
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    found = float64(0)
    for at in range(thread, count, int32(THREADS)):
        found += partials[at]
    whole = block_sum(sums, thread, found)
    if thread == 0:
        result[0] = whole


def constant(divisor: float) -> DeviceArray:
    """A divisor that is known, for :func:`finish`."""
    return on_device(np.array([divisor], np.float64))


def _weight_of(labels: DeviceArray, class_weights: DeviceArray, ignored: int) -> DeviceArray:
    """The sum of the class weights of all labels that count, on the device."""
    blocks, found = blocks_of_sums(labels.size), empty((1,), np.float64)
    partials = empty((blocks,), np.float64)
    _weigh_labels(blocks, labels, labels.size, class_weights.size, class_weights, ignored, partials)
    _add_up(1, partials, blocks, found)
    return found


@kernel
def _mean(partials, count, divisor, scale, total):
    """``total``: the sum of the partial losses over the divisor, times ``scale``, or 0 where there is nothing to average over; and the
    divisor."""
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    found = float64(0)
    for at in range(thread, count, int32(THREADS)):
        found += float64(partials[at])
    whole = block_sum(sums, thread, found)
    if thread == 0:
        total[0] = whole / divisor[0] * float64(scale) if divisor[0] != float64(0) else float64(0)
        total[1] = divisor[0]


def finish(partials: DeviceArray, divisor: DeviceArray, scale: float, total: DeviceArray) -> None:
    """``total`` from the sums that the blocks of a loss have left, and what they are to be divided by."""
    _mean(1, partials, partials.size, divisor, float(scale), total)


@device_function
def factor_of(scale, divisor):
    """What the slope of a row's loss is multiplied by."""
    return scale / float32(divisor[0]) if divisor[0] != float64(0) else float32(0)


# Softmax cross-entropy -----------------------------------------------------------------------------------------------


@device_function
def _largest(outputs, first, lane, columns, team, shared, thread):
    """The largest output of the row of a thread's team, which begins at ``first``."""
    top = float32(-math.inf)
    for k in range(lane, columns, team):
        top = max(top, outputs[first + k])
    return team_largest(shared, thread, lane, team, top)


@device_function
def _exponentials(outputs, first, lane, columns, team, top, shared, thread):
    """The sum of ``exp(z - top)`` over a row."""
    found = float32(0)
    for k in range(lane, columns, team):
        found += math.exp(outputs[first + k] - top)
    return team_sum(shared, thread, lane, team, found)


@kernel
def _labelled(
    outputs, rows, columns, team, labels, class_weights, weight_sum, smoothing, ignored, divisor, scale, gradient, partials
):  # fmt: skip
    """Rows whose target is a class. Teams without a row left, or with one that does not count, go along with the others of their block,
    for which barriers are there: as ``stop`` is 0 for them, they read nothing."""
    shared = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    lane, per_block = thread % team, int32(THREADS) // team
    factor, spread, loss = factor_of(scale, divisor), smoothing / float32(columns), float32(0)
    for start in range(int32(cuda.blockIdx.x) * per_block, rows, int32(cuda.gridDim.x) * per_block):
        row = start + thread // team
        label, first, stop = int32(0), row * columns, int32(0)
        if row < rows:
            if _counts(labels[row], columns, ignored):
                label, stop = int32(labels[row]), columns
            else:
                for k in range(lane, columns, team):
                    gradient[first + k] = float32(0)
        top = _largest(outputs, first, lane, stop, team, shared, thread)
        exponentials = _exponentials(outputs, first, lane, stop, team, top, shared, thread)
        log_sum = math.log(exponentials) if stop > 0 else float32(0)
        on_label = (float32(1) - smoothing) * class_weights[label]
        from_softmax = (on_label + spread * weight_sum) / exponentials * factor
        for k in range(lane, stop, team):
            z, weight = outputs[first + k] - top, class_weights[k] * spread
            slope = math.exp(z) * from_softmax - weight * factor
            if k == label:
                weight += on_label
                slope -= on_label * factor
            if weight != float32(0):
                loss += weight * (log_sum - z)
            gradient[first + k] = slope
    whole = block_sum(shared, thread, loss)
    if thread == 0:
        partials[int32(cuda.blockIdx.x)] = whole


@kernel
def _distributed(outputs, rows, columns, team, targets, class_weights, smoothing, divisor, scale, gradient, partials):
    """Rows whose target is a distribution over the classes."""
    shared = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    lane, per_block = thread % team, int32(THREADS) // team
    keep, spread = float32(1) - smoothing, smoothing / float32(columns)
    factor, loss = factor_of(scale, divisor), float32(0)
    for start in range(int32(cuda.blockIdx.x) * per_block, rows, int32(cuda.gridDim.x) * per_block):
        row = start + thread // team
        first, stop = row * columns, columns if row < rows else int32(0)
        top = _largest(outputs, first, lane, stop, team, shared, thread)
        exponentials = _exponentials(outputs, first, lane, stop, team, top, shared, thread)
        log_sum, weights = math.log(exponentials) if stop > 0 else float32(0), float32(0)
        for k in range(lane, stop, team):
            weight = class_weights[k] * (targets[first + k] * keep + spread)
            weights += weight
            loss += weight * (log_sum - (outputs[first + k] - top))
        from_softmax = team_sum(shared, thread, lane, team, weights) / exponentials * factor
        for k in range(lane, stop, team):
            weight = class_weights[k] * (targets[first + k] * keep + spread)
            gradient[first + k] = math.exp(outputs[first + k] - top) * from_softmax - weight * factor
    whole = block_sum(shared, thread, loss)
    if thread == 0:
        partials[int32(cuda.blockIdx.x)] = whole


def softmax_cross_entropy(
    loss: Any, outputs: DeviceArray, targets: DeviceArray, gradient: DeviceArray, total: DeviceArray, scale: float
) -> None:
    """Cross-entropy of the softmax; targets are int64 classes, or distributions shaped like the outputs."""
    classes = outputs.shape[-1]
    rows, team = outputs.size // classes, team_for(classes, EACH)
    weights = loss.weights(classes, np.float32)
    blocks, smoothing = blocks_of_sums(rows, THREADS // team), float(loss.label_smoothing)
    weights_there, partials = on_device(weights), empty((blocks,), np.float32)
    if targets.ndim == outputs.ndim:
        divisor = constant(rows)
        _distributed(
            blocks, outputs, rows, classes, team, targets, weights_there, smoothing, divisor, float(scale), gradient, partials
        )  # fmt: skip
    else:
        ignored = loss.ignore_index if loss.ignore_index in range(classes) else -1  # which no label is
        plain = loss.class_weights is None and loss.ignore_index is None
        divisor = constant(rows) if plain else _weight_of(targets, weights_there, ignored)
        _labelled(
            blocks, outputs, rows, classes, team, targets, weights_there, float(weights.sum()), smoothing, ignored, divisor, float(scale),
            gradient, partials,
        )  # fmt: skip
    finish(partials, divisor, scale, total)


# Multi-class hinge ---------------------------------------------------------------------------------------------------


@kernel
def _hinge(outputs, rows, columns, team, labels, class_weights, margin, squared, divisor, scale, gradient, partials):
    """``weight * sum over j != label of max(0, s_j - s_label + margin)`` of each row, or of the squares."""
    shared = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    lane, per_block = thread % team, int32(THREADS) // team
    factor, nothing, loss = factor_of(scale, divisor), float32(0), float32(0)
    for start in range(int32(cuda.blockIdx.x) * per_block, rows, int32(cuda.gridDim.x) * per_block):
        row = start + thread // team
        first, label, stop = row * columns, int32(0), int32(0)
        shift, weight, slopes = nothing, nothing, nothing
        if row < rows:
            label, stop = int32(labels[row]), columns
            shift, weight = margin - outputs[first + label], class_weights[label]
        for k in range(lane, stop, team):
            excess = outputs[first + k] + shift
            if k != label and not excess <= nothing:  # as it is where it is not a number
                loss += weight * (excess * excess if squared != 0 else excess)
                slope = weight * factor * (float32(2) * excess if squared != 0 else float32(1))
                slopes += slope
                gradient[first + k] = slope
            else:
                gradient[first + k] = nothing
        slopes = team_sum(shared, thread, lane, team, slopes)
        if row < rows and lane == label % team:  # who wrote the zero there
            gradient[first + label] = -slopes
    whole = block_sum(shared, thread, loss)
    if thread == 0:
        partials[int32(cuda.blockIdx.x)] = whole


def multi_class_hinge(
    loss: Any, outputs: DeviceArray, targets: DeviceArray, gradient: DeviceArray, total: DeviceArray, scale: float
) -> None:
    """Multi-class hinge; targets are int64 classes."""
    classes = outputs.shape[-1]
    rows, team = outputs.size // classes, team_for(classes, EACH)
    blocks = blocks_of_sums(rows, THREADS // team)
    weights, partials = on_device(loss.weights(classes, np.float32)), empty((blocks,), np.float32)
    divisor = constant(rows * (classes if loss.average_classes else 1))
    _hinge(
        blocks, outputs, rows, classes, team, targets, weights, float(loss.margin), loss.squared, divisor, float(scale), gradient, partials
    )  # fmt: skip
    finish(partials, divisor, scale, total)


# Losses of single numbers --------------------------------------------------------------------------------------------


def _elementwise(value: Callable, slope: Callable) -> Any:
    """The mean of ``value(output, target, constant)`` over all elements; ``slope`` is its derivative with respect to the output. Constants
    belong to the last axis, or one to all elements."""
    value, slope = device_function(value), device_function(slope)

    @kernel
    def elementwise_loss(outputs, targets, count, constants, period, divisor, scale, gradient, partials):
        shared = cuda.shared.array(THREADS, float32)
        thread, stride = int32(cuda.threadIdx.x), int32(cuda.gridDim.x) * int32(THREADS)
        begin, loss, factor = int32(cuda.blockIdx.x) * int32(THREADS) + thread, float32(0), factor_of(scale, divisor)
        column, step = begin % period, stride % period
        for at in range(begin, count, stride):
            x, t, c = outputs[at], targets[at], constants[column]
            loss += value(x, t, c)
            gradient[at] = slope(x, t, c) * factor
            column += step
            if column >= period:
                column -= period
        whole = block_sum(shared, thread, loss)
        if thread == 0:
            partials[int32(cuda.blockIdx.x)] = whole

    def run(
        constants: Sequence[float], outputs: DeviceArray, targets: DeviceArray, gradient: DeviceArray, total: DeviceArray, scale: float
    ) -> None:
        count, blocks, divisor = outputs.size, blocks_of_sums(outputs.size, 4 * THREADS), constant(outputs.size)
        there, partials = on_device(np.array(constants, np.float32)), empty((blocks,), np.float32)
        elementwise_loss(blocks, outputs, targets, count, there, len(constants), divisor, float(scale), gradient, partials)
        finish(partials, divisor, scale, total)

    return run


def _squared_error(x, t, c):
    return (x - t) * (x - t)


def _squared_error_slope(x, t, c):
    return (x - t) * float32(2)


def _absolute_error(x, t, c):
    return abs(x - t)


def _absolute_error_slope(x, t, c):
    d = x - t
    if d > float32(0):
        return float32(1)
    return float32(-1) if d < float32(0) else d


def _huber(x, t, delta):
    d, half = abs(x - t), float32(0.5)
    return d * d * half if d < delta else (d - delta * half) * delta


def _huber_slope(x, t, delta):
    return max(min(x - t, delta), -delta)


def _logistic(x, t, positive_weight):
    """``-(w t log sigmoid(x) + (1 - t) log sigmoid(-x))``, without overflow."""
    one = float32(1)
    return (one - t) * x + ((positive_weight - one) * t + one) * (math.log1p(math.exp(-abs(x))) + max(-x, float32(0)))


def _logistic_slope(x, t, positive_weight):
    one, small = float32(1), math.exp(-abs(x))
    off = (small if x > float32(0) else one) / (small + one)  # 1 - sigmoid(x)
    return (one - t) - ((positive_weight - one) * t + one) * off


_squared = _elementwise(_squared_error, _squared_error_slope)
_absolute = _elementwise(_absolute_error, _absolute_error_slope)
_bounded = _elementwise(_huber, _huber_slope)
_binary = _elementwise(_logistic, _logistic_slope)


def mean_squared_error(loss: Any, *arrays: Any) -> None:
    """``(output - target)^2``."""
    _squared((0.0,), *arrays)


def mean_absolute_error(loss: Any, *arrays: Any) -> None:
    """``|output - target|``."""
    _absolute((0.0,), *arrays)


def huber(loss: Any, *arrays: Any) -> None:
    """Half the squared error up to ``delta``, beyond it a linear one."""
    _bounded((loss.delta,), *arrays)


def binary_cross_entropy(loss: Any, *arrays: Any) -> None:
    """Cross-entropy of the sigmoid."""
    _binary(loss.weights(arrays[0].shape[-1], np.float32), *arrays)
