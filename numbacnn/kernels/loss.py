"""Losses: the mean loss of a batch and its gradient with respect to the outputs, in one pass.

Rows are samples (or pixels of a dense map), columns are classes. Rows are cut into blocks whose number does not depend on the
number of threads; each block leaves its sum in ``partials``, and these are added up in order. ``total`` gets the loss and the
number that the sum was divided by. Loss and gradient are multiplied by ``scale``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import elementary  # noqa: F401  math.exp and others on Tiles
from ..simd import LANES, largest, load, where, zeros
from ..simd import total as sum_of
from .channels import access
from .jit import inline, kernel
from .tasks import next_task

_read, _write = access(1)
SERIAL = 1 << 14  # elements that one thread works through sooner than several threads start


@inline
def _largest(array, row):
    """The largest element of a row."""
    columns = array.shape[1]
    whole = columns - columns % LANES
    top = array[row, 0]
    if whole:
        tops = load(array, row * columns, 0, 1, 1)
        for k in range(LANES, whole, LANES):
            tops = max(tops, load(array, row * columns + k, 0, 1, 1))
        top = largest(tops)
    for k in range(whole, columns):
        top = max(top, array[row, k])
    return top


@inline
def _total_of(partials, divisor, scale, total):
    """Add up the blocks in order. Without anything to average over the loss is zero."""
    loss = 0.0
    for block in range(partials.shape[0]):
        loss += partials[block]
    total[0] = loss / divisor * scale if divisor != 0.0 else 0.0
    total[1] = divisor


@kernel
def _finish(partials, divisor, scale, total):
    _total_of(partials, divisor, scale, total)


# Softmax cross-entropy -----------------------------------------------------------------------------------------------


@inline
def _exponentials(outputs, row, top, gradient):
    """Leave ``exp(z - top)`` of a row in ``gradient`` and give the sum."""
    columns = outputs.shape[1]
    first = row * columns
    sums = zeros(outputs, 1, 1)
    for k in range(0, columns, LANES):
        _write(math.exp(_read(outputs, first + k, columns - k) - top), gradient, first + k, columns - k)
        sums = sums + _read(gradient, first + k, columns - k)
    return sum_of(sums)


@inline
def _clear(array, row):
    for k in range(array.shape[1]):
        array[row, k] = 0.0


@inline
def _labelled_row(outputs, row, label, class_weights, weight_sum, smoothing, factor, gradient):
    """Loss of one row whose target is a class; the gradient is multiplied by ``factor``."""
    columns = outputs.shape[1]
    first = row * columns
    top = _largest(outputs, row)
    exponentials = _exponentials(outputs, row, top, gradient)
    log_sum = math.log(np.float64(exponentials))
    spread = smoothing / columns
    on_label = (1.0 - smoothing) * class_weights[label]
    loss = on_label * (log_sum - (np.float64(outputs[row, label]) - np.float64(top)))
    from_softmax = (on_label + spread * weight_sum) / np.float64(exponentials) * factor
    smooth = zeros(outputs, 1, 1)
    for k in range(0, columns, LANES):
        slope = _read(gradient, first + k, columns - k) * from_softmax
        if spread > 0.0:
            weights = _read(class_weights, k, columns - k) * spread
            smooth = smooth + weights * (log_sum - (_read(outputs, first + k, columns - k) - top))
            slope = slope - weights * factor
        _write(slope, gradient, first + k, columns - k)
    gradient[row, label] -= on_label * factor
    return loss + np.float64(sum_of(smooth))


@inline
def _labelled_block(block, rows, outputs, labels, class_weights, weight_sum, smoothing, ignored, factor, gradient, partials):
    loss = 0.0
    for row in range(block * rows, min((block + 1) * rows, outputs.shape[0])):
        if labels[row] == ignored:
            _clear(gradient, row)
        else:
            loss += _labelled_row(outputs, row, labels[row], class_weights, weight_sum, smoothing, factor, gradient)
    partials[block] = loss


@inline
def _weight_of(labels, class_weights, ignored):
    found = 0.0
    for row in range(labels.shape[0]):
        if labels[row] != ignored:
            found += class_weights[labels[row]]
    return found


def softmax_cross_entropy(
    outputs: np.ndarray,
    labels: np.ndarray,
    class_weights: np.ndarray,
    smoothing: float,
    ignored: int,
    scale: float,
    gradient: np.ndarray,
    partials: np.ndarray,
    total: np.ndarray,
) -> None:
    """``labels`` are int64 classes; rows labelled ``ignored`` count for nothing. The mean is weighted by ``class_weights``,
    which have the type of the outputs."""
    _softmax_cross_entropy(outputs, labels, class_weights, smoothing, ignored, scale, gradient, partials)
    _finish_weighted(partials, labels, class_weights, ignored, scale, total)


@kernel
def _finish_weighted(partials, labels, class_weights, ignored, scale, total):
    _total_of(partials, _weight_of(labels, class_weights, ignored), scale, total)


@kernel(parallel=True, serial=SERIAL)
def _softmax_cross_entropy(outputs, labels, class_weights, smoothing, ignored, scale, gradient, partials, queue, thread):
    blocks = partials.shape[0]
    rows = (outputs.shape[0] + blocks - 1) // blocks
    weight_sum = 0.0
    for k in range(class_weights.shape[0]):
        weight_sum += class_weights[k]
    divisor = _weight_of(labels, class_weights, ignored)
    factor = scale / divisor if divisor != 0.0 else 0.0
    while True:
        block = next_task(queue, thread, blocks)
        if block >= blocks:
            break
        _labelled_block(block, rows, outputs, labels, class_weights, weight_sum, smoothing, ignored, factor, gradient, partials)


@inline
def _soft_row(outputs, row, targets, class_weights, smoothing, factor, gradient):
    """Loss of one row whose target is a distribution over the classes."""
    columns = outputs.shape[1]
    first = row * columns
    top = _largest(outputs, row)
    exponentials = _exponentials(outputs, row, top, gradient)
    log_sum = math.log(np.float64(exponentials))
    spread = smoothing / columns
    losses, weight_sums = zeros(outputs, 1, 1), zeros(outputs, 1, 1)
    for k in range(0, columns, LANES):
        weights = _read(class_weights, k, columns - k) * (_read(targets, first + k, columns - k) * (1.0 - smoothing) + spread)
        losses = losses + weights * (log_sum - (_read(outputs, first + k, columns - k) - top))
        weight_sums = weight_sums + weights
    from_softmax = np.float64(sum_of(weight_sums)) / np.float64(exponentials) * factor
    for k in range(0, columns, LANES):
        weights = _read(class_weights, k, columns - k) * (_read(targets, first + k, columns - k) * (1.0 - smoothing) + spread)
        _write(_read(gradient, first + k, columns - k) * from_softmax - weights * factor, gradient, first + k, columns - k)
    return np.float64(sum_of(losses))


@inline
def _soft_block(block, rows, outputs, targets, class_weights, smoothing, factor, gradient, partials):
    loss = 0.0
    for row in range(block * rows, min((block + 1) * rows, outputs.shape[0])):
        loss += _soft_row(outputs, row, targets, class_weights, smoothing, factor, gradient)
    partials[block] = loss


def softmax_cross_entropy_soft(
    outputs: np.ndarray,
    targets: np.ndarray,
    class_weights: np.ndarray,
    smoothing: float,
    scale: float,
    gradient: np.ndarray,
    partials: np.ndarray,
    total: np.ndarray,
) -> None:
    """``targets`` are shaped like the outputs; the mean is over the rows."""
    _softmax_cross_entropy_soft(outputs, targets, class_weights, smoothing, scale, gradient, partials)
    _finish(partials, float(len(outputs)), scale, total)


@kernel(parallel=True, serial=SERIAL)
def _softmax_cross_entropy_soft(outputs, targets, class_weights, smoothing, scale, gradient, partials, queue, thread):
    blocks = partials.shape[0]
    rows = (outputs.shape[0] + blocks - 1) // blocks
    factor = scale / outputs.shape[0]
    while True:
        block = next_task(queue, thread, blocks)
        if block >= blocks:
            break
        _soft_block(block, rows, outputs, targets, class_weights, smoothing, factor, gradient, partials)


# Multi-class hinge ---------------------------------------------------------------------------------------------------


@inline
def _hinge_row(outputs, row, label, weight, margin, squared, factor, gradient):
    """``weight * sum over j != label of max(0, s_j - s_label + margin)``, or of its square."""
    columns = outputs.shape[1]
    first = row * columns
    shift = margin - np.float64(outputs[row, label])
    for k in range(0, columns, LANES):
        _write(max(_read(outputs, first + k, columns - k) + shift, 0.0), gradient, first + k, columns - k)
    gradient[row, label] = 0.0
    losses, slopes = zeros(outputs, 1, 1), zeros(outputs, 1, 1)
    for k in range(0, columns, LANES):
        excess = _read(gradient, first + k, columns - k)
        losses = losses + (excess * excess if squared else excess)
        slope = excess * (2.0 * weight * factor) if squared else where(excess > 0.0, weight * factor, excess)
        slopes = slopes + slope
        _write(slope, gradient, first + k, columns - k)
    gradient[row, label] = -sum_of(slopes)
    return np.float64(sum_of(losses)) * weight


@inline
def _hinge_block(block, rows, outputs, labels, class_weights, margin, squared, factor, gradient, partials):
    loss = 0.0
    for row in range(block * rows, min((block + 1) * rows, outputs.shape[0])):
        loss += _hinge_row(outputs, row, labels[row], np.float64(class_weights[labels[row]]), margin, squared, factor, gradient)
    partials[block] = loss


def multi_class_hinge(
    outputs: np.ndarray,
    labels: np.ndarray,
    class_weights: np.ndarray,
    margin: float,
    squared: bool,
    divisor: float,
    scale: float,
    gradient: np.ndarray,
    partials: np.ndarray,
    total: np.ndarray,
) -> None:
    """``labels`` are int64 classes; ``divisor`` is what the sum over all rows is divided by."""
    _multi_class_hinge(outputs, labels, class_weights, margin, squared, divisor, scale, gradient, partials)
    _finish(partials, divisor, scale, total)


@kernel(parallel=True, serial=SERIAL)
def _multi_class_hinge(outputs, labels, class_weights, margin, squared, divisor, scale, gradient, partials, queue, thread):
    blocks = partials.shape[0]
    rows = (outputs.shape[0] + blocks - 1) // blocks
    factor = scale / divisor
    while True:
        block = next_task(queue, thread, blocks)
        if block >= blocks:
            break
        _hinge_block(block, rows, outputs, labels, class_weights, margin, squared, factor, gradient, partials)


# Losses of single numbers --------------------------------------------------------------------------------------------


def _pointwise(value: Callable, slope: Callable) -> Callable:
    """What launches the mean of ``value(output, target, constant)`` over all elements; ``slope`` is its derivative with
    respect to the output. Element ``i`` gets ``constants[i % period]``, of the type of the outputs; ``constants`` goes on
    periodically for ``LANES`` numbers more."""
    value, slope = inline(value), inline(slope)

    @inline
    def run_block(block, size, outputs, targets, constants, period, factor, gradient, partials):
        losses = zeros(outputs, 1, 1)
        stop = min((block + 1) * size, outputs.size)
        for at in range(block * size, stop, LANES):
            count = stop - at
            x, t = _read(outputs, at, count), _read(targets, at, count)
            c = load(constants, at % period, 0, 1, 1)
            loss = value(x, t, c)
            if count < LANES:  # the columns that are not there have a loss as well: drop them
                _write(loss, gradient, at, count)
                loss = _read(gradient, at, count)
            losses = losses + loss
            _write(slope(x, t, c) * factor, gradient, at, count)
        partials[block] = sum_of(losses)

    @kernel(parallel=True, serial=SERIAL)
    def pointwise(outputs, targets, constants, period, scale, gradient, partials, queue, thread):
        blocks = partials.shape[0]
        size = (outputs.size + blocks - 1) // blocks
        factor = scale / outputs.size
        while True:
            block = next_task(queue, thread, blocks)
            if block >= blocks:
                break
            run_block(block, size, outputs, targets, constants, period, factor, gradient, partials)

    def launch(outputs, targets, constants, period, scale, gradient, partials, total):
        pointwise(outputs, targets, constants, period, scale, gradient, partials)
        _finish(partials, float(outputs.size), scale, total)

    return launch


def _squared_error(x, t, c):
    return (x - t) * (x - t)


def _squared_error_slope(x, t, c):
    return (x - t) * 2.0


def _absolute_error(x, t, c):
    return abs(x - t)


def _absolute_error_slope(x, t, c):
    d = x - t
    return where(d > 0.0, 1.0, where(d < 0.0, -1.0, d))


def _huber(x, t, delta):
    d = abs(x - t)
    return where(d < delta, d * d * 0.5, (d - delta * 0.5) * delta)


def _huber_slope(x, t, delta):
    return max(min(x - t, delta), -delta)


def _logistic(x, t, positive_weight):
    """``-(w t log sigmoid(x) + (1 - t) log sigmoid(-x))``, without overflow."""
    return (1.0 - t) * x + ((positive_weight - 1.0) * t + 1.0) * (math.log1p(math.exp(-abs(x))) + max(-x, 0.0))


def _logistic_slope(x, t, positive_weight):
    small = math.exp(-abs(x))
    off = where(x > 0.0, small, 1.0) / (small + 1.0)  # 1 - sigmoid(x)
    return (1.0 - t) - ((positive_weight - 1.0) * t + 1.0) * off


mean_squared_error = _pointwise(_squared_error, _squared_error_slope)
mean_absolute_error = _pointwise(_absolute_error, _absolute_error_slope)
huber = _pointwise(_huber, _huber_slope)
binary_cross_entropy = _pointwise(_logistic, _logistic_slope)
