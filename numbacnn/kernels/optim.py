"""Optimizers: one pass over all parameters.

Parameters and gradients are flat arrays; ``state`` holds the optimizer's arrays one after another, each as long as the
parameters. ``tasks`` cuts the arrays into pieces ``(start, stop, group)``, and ``groups`` says ``(rate, weight decay, L1)`` of
each group. ``numbers`` is what changes from step to step: the schedule's factor, the factor from clipping the norm, the largest
gradient after clipping by value, whether weight decay is decoupled, and from ``OWN`` on the numbers of the one optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import elementary  # noqa: F401  math.sqrt on Tiles
from ..simd import LANES, where, zeros
from ..simd import total as sum_of
from .channels import access
from .jit import inline, kernel
from .tasks import next_task

FACTOR, NORM_FACTOR, LARGEST, DECOUPLED, OWN = 0, 1, 2, 3, 4
RATE, WEIGHT_DECAY, L1 = 0, 1, 2
VECTORS = 4
WIDTH = VECTORS * LANES
_read, _write = access(VECTORS)
SERIAL = 1 << 17  # elements of the largest array that one thread works through sooner than several threads start


@inline
def _gradient(gradients, at, count, p, numbers, decay, l1):
    """The gradient after clipping, with coupled weight decay and L1 added."""
    g = max(min(_read(gradients, at, count), numbers[LARGEST]), -numbers[LARGEST])
    return g * numbers[NORM_FACTOR] + p * decay + where(p > 0.0, l1, where(p < 0.0, -l1, p))


def _optimizer(update: Callable) -> Any:
    """The kernel that applies ``update(state, size, at, count, p, g, rate, numbers)``, which gives the new parameters of a
    Tile ``p`` and its gradient ``g`` and leaves its state, to all tasks."""
    update = inline(update)

    @inline
    def run(task, parameters, gradients, state, tasks, groups, numbers):
        group = tasks[task, 2]
        rate = groups[group, RATE] * numbers[FACTOR]
        decay = groups[group, WEIGHT_DECAY]
        coupled = 0.0 if numbers[DECOUPLED] else decay
        keep = 1.0 - rate * decay if numbers[DECOUPLED] else 1.0
        stop = tasks[task, 1]
        for at in range(tasks[task, 0], stop, WIDTH):
            count = stop - at
            p = _read(parameters, at, count)
            g = _gradient(gradients, at, count, p, numbers, coupled, groups[group, L1])
            _write(update(state, parameters.size, at, count, p * keep, g, rate, numbers), parameters, at, count)

    @kernel(parallel=True, serial=SERIAL)
    def step(parameters, gradients, state, tasks, groups, numbers, queue, thread):
        while True:
            task = next_task(queue, thread, tasks.shape[0])
            if task >= tasks.shape[0]:
                break
            run(task, parameters, gradients, state, tasks, groups, numbers)

    return step


def _sgd(state, size, at, count, p, g, rate, numbers):
    """Own numbers: momentum, the gradient's share in the velocity, whether Nesterov's."""
    momentum = numbers[OWN]
    if momentum != 0.0:
        velocity = _read(state, at, count) * momentum + g * numbers[OWN + 1]
        _write(velocity, state, at, count)
        g = g + velocity * momentum if numbers[OWN + 2] else velocity
    return p - g * rate


def _adam(state, size, at, count, p, g, rate, numbers):
    """Own numbers: beta1, beta2, 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t), epsilon."""
    beta1, beta2 = numbers[OWN], numbers[OWN + 1]
    mean = _read(state, at, count) * beta1 + g * (1.0 - beta1)
    square = _read(state, size + at, count) * beta2 + g * g * (1.0 - beta2)
    _write(mean, state, at, count)
    _write(square, state, size + at, count)
    return p - mean * (rate * numbers[OWN + 2]) / (math.sqrt(square) * numbers[OWN + 3] + numbers[OWN + 4])


def _rmsprop(state, size, at, count, p, g, rate, numbers):
    """Own numbers: decay of the mean square, epsilon, momentum, whether centred, which of the state's arrays is the velocity."""
    alpha, momentum, velocity = numbers[OWN], numbers[OWN + 2], int(numbers[OWN + 4]) * size
    square = _read(state, at, count) * alpha + g * g * (1.0 - alpha)
    _write(square, state, at, count)
    variance = square
    if numbers[OWN + 3]:
        mean = _read(state, size + at, count) * alpha + g * (1.0 - alpha)
        _write(mean, state, size + at, count)
        variance = max(square - mean * mean, 0.0)
    change = g / (math.sqrt(variance) + numbers[OWN + 1])
    if momentum != 0.0:
        change = _read(state, velocity + at, count) * momentum + change
        _write(change, state, velocity + at, count)
    return p - change * rate


def _adagrad(state, size, at, count, p, g, rate, numbers):
    """Own numbers: 1 / (1 + (t - 1) * rate decay), epsilon."""
    square = _read(state, at, count) + g * g
    _write(square, state, at, count)
    return p - g * (rate * numbers[OWN]) / (math.sqrt(square) + numbers[OWN + 1])


sgd = _optimizer(_sgd)
adam = _optimizer(_adam)
rmsprop = _optimizer(_rmsprop)
adagrad = _optimizer(_adagrad)


@inline
def _square_sum(task, gradients, tasks, largest):
    sums = zeros(gradients, 1, VECTORS)
    stop = tasks[task, 1]
    for at in range(tasks[task, 0], stop, WIDTH):
        g = max(min(_read(gradients, at, stop - at), largest), -largest)
        sums = sums + g * g
    return sum_of(sums)


def clip_norm(gradients: np.ndarray, tasks: np.ndarray, norm: float, partials: np.ndarray, numbers: np.ndarray) -> None:
    """Leave in ``numbers`` the factor that brings the norm of all gradients, clipped by value, down to ``norm``. ``partials``
    has a cell for each task; these are added up in order."""
    _square_sums(gradients, tasks, partials, numbers)
    _norm_factor(norm, partials, numbers)


@kernel(parallel=True, serial=SERIAL)
def _square_sums(gradients, tasks, partials, numbers, queue, thread):
    largest = numbers[LARGEST]
    while True:
        task = next_task(queue, thread, tasks.shape[0])
        if task >= tasks.shape[0]:
            break
        partials[task] = _square_sum(task, gradients, tasks, largest)


@kernel
def _norm_factor(norm, partials, numbers):
    square = 0.0
    for task in range(partials.shape[0]):
        square += partials[task]
    numbers[NORM_FACTOR] = min(norm / (math.sqrt(square) + 1e-6), 1.0)
