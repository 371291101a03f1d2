"""Optimizers on the device: one pass over all parameters (compare :mod:`numbacnn.kernels.optim`, whose arrays these are, in float32)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..optim import DECOUPLED, FACTOR, LARGEST, NORM_FACTOR, OWN
from .driver import cuda, device_function, float32, float64, int32
from .launch import THREADS, kernel
from .memory import DeviceArray, empty
from .reduce import block_sum

HEALTHY = 16  # entry behind the numbers: 0 where the loss is not finite, and nothing is to be changed
TASK = 1 << 11  # elements that a block updates
TASK_STRIDE = 3


@kernel(threads=1)
def _judge(totals, outputs, numbers):
    whole = totals[0]
    for k in range(1, outputs):
        whole += totals[2 * k]
    if whole - whole != float64(0):  # infinite or NaN
        numbers[HEALTHY] = float32(0)


def judge(totals: DeviceArray, numbers: DeviceArray) -> None:
    """Note in ``numbers`` where the sum of the losses, the first column of ``totals``, is not finite."""
    _judge(1, totals, totals.shape[0], numbers)


@device_function
def _clipped(g, largest):
    """A gradient between ``-largest`` and ``largest``; what is not a number stays so."""
    if g > largest:
        return largest
    return -largest if g < -largest else g


def _optimizer(change: Any) -> Any:
    """The kernel that applies ``change(state, size, at, p, g, rate, numbers)``, which gives the new value of a parameter ``p`` from its
    gradient and leaves its state, to all tasks: a block for each."""
    change = device_function(change)
    nothing, one = float32(0), float32(1)

    @kernel
    def step(parameters, size, gradients, state, tasks, groups, numbers):
        if numbers[HEALTHY] != nothing:
            task = int32(cuda.blockIdx.x) * int32(TASK_STRIDE)
            group = tasks[task + 2] * int32(TASK_STRIDE)
            rate = groups[group] * numbers[FACTOR]
            decay, l1 = groups[group + 1], groups[group + 2]
            coupled, keep = decay, one
            if numbers[DECOUPLED] != nothing:
                coupled, keep = nothing, one - rate * decay
            largest = numbers[LARGEST]
            for at in range(tasks[task] + int32(cuda.threadIdx.x), tasks[task + 1], int32(THREADS)):
                p = parameters[at]
                g = _clipped(gradients[at], largest) * numbers[NORM_FACTOR] + p * coupled
                if p > nothing:
                    g += l1
                elif p < nothing:
                    g -= l1
                parameters[at] = change(state, size, at, p * keep, g, rate, numbers)

    return step


def _sgd(state, size, at, p, g, rate, numbers):
    momentum = numbers[OWN]
    if momentum != float32(0):
        velocity = state[at] * momentum + g * numbers[OWN + 1]
        state[at] = velocity
        g = g + velocity * momentum if numbers[OWN + 2] != float32(0) else velocity
    return p - g * rate


def _adam(state, size, at, p, g, rate, numbers):
    one = float32(1)
    mean = state[at] * numbers[OWN] + g * (one - numbers[OWN])
    square = state[size + at] * numbers[OWN + 1] + g * g * (one - numbers[OWN + 1])
    state[at] = mean
    state[size + at] = square
    return p - mean * (rate * numbers[OWN + 2]) / (math.sqrt(square) * numbers[OWN + 3] + numbers[OWN + 4])


def _rmsprop(state, size, at, p, g, rate, numbers):
    one, alpha = float32(1), numbers[OWN]
    velocity = int32(numbers[OWN + 4]) * size
    square = state[at] * alpha + g * g * (one - alpha)
    state[at] = square
    variance = square
    if numbers[OWN + 3] != float32(0):
        mean = state[size + at] * alpha + g * (one - alpha)
        state[size + at] = mean
        variance = max(square - mean * mean, float32(0))
    change = g / (math.sqrt(variance) + numbers[OWN + 1])
    if numbers[OWN + 2] != float32(0):
        change = state[velocity + at] * numbers[OWN + 2] + change
        state[velocity + at] = change
    return p - change * rate


def _adagrad(state, size, at, p, g, rate, numbers):
    square = state[at] + g * g
    state[at] = square
    return p - g * (rate * numbers[OWN]) / (math.sqrt(square) + numbers[OWN + 1])


def _twin(change: Any) -> Any:
    """The optimizer as trainers call it."""
    step = _optimizer(change)

    def update(
        parameters: DeviceArray, gradients: DeviceArray, state: DeviceArray, tasks: DeviceArray, groups: DeviceArray, numbers: DeviceArray
    ) -> None:
        step(len(tasks), parameters, parameters.size, gradients, state, tasks, groups, numbers)

    return update


sgd = _twin(_sgd)
adam = _twin(_adam)
rmsprop = _twin(_rmsprop)
adagrad = _twin(_adagrad)


# Clipping of the norm ------------------------------------------------------------------------------------------------


@kernel
def _square_sums(gradients, tasks, numbers, partials):
    """A block for each task leaves the sum of the squares of its gradients, clipped by value."""
    sums = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    task = int32(cuda.blockIdx.x) * int32(TASK_STRIDE)
    largest, found = numbers[LARGEST], float32(0)
    for at in range(tasks[task] + thread, tasks[task + 1], int32(THREADS)):
        g = _clipped(gradients[at], largest)
        found += g * g
    whole = block_sum(sums, thread, found)
    if thread == 0:
        partials[int32(cuda.blockIdx.x)] = whole


@kernel
def _norm_factor(partials, count, norm, numbers):
    sums = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    found = float32(0)
    for at in range(thread, count, int32(THREADS)):
        found += partials[at]
    whole = block_sum(sums, thread, found)
    if thread == 0:
        numbers[NORM_FACTOR] = min(norm / (math.sqrt(whole) + float32(1e-6)), float32(1))


def clip_norm(gradients: DeviceArray, tasks: DeviceArray, norm: float, numbers: DeviceArray) -> None:
    """Leave in ``numbers`` the factor that brings the norm of all gradients, clipped by value, down to ``norm``."""
    partials = empty((len(tasks),), np.float32)
    _square_sums(len(tasks), gradients, tasks, numbers, partials)
    _norm_factor(1, partials, len(tasks), norm, numbers)
