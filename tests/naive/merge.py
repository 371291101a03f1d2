"""Slow, obvious references of numbacnn.kernels.merge and numbacnn.layers.merge. Arrays have the batch axis first."""

from __future__ import annotations

import numpy as np


def add(a, b):
    return a + b


def subtract(a, b):
    return a - b


def multiply(a, b):
    return a * b


def maximum(a, b):
    return np.maximum(a, b)


def claim(x, y, given):
    """``(taken, left)``."""
    wins = x == y
    return np.where(wins, given, 0), np.where(wins, 0, given)


def sum_product(a, b, shape):
    """``a * b`` summed over the axes along which ``shape`` has length 1."""
    result = np.zeros(shape, np.float64)
    product = np.asarray(a, np.float64) * b
    for index in np.ndindex(product.shape):
        result[tuple(0 if n == 1 else k for k, n in zip(index, shape))] += product[index]
    return result


def aligned(array, axes):
    return array.reshape(len(array), *(1,) * (axes - array.ndim), *array.shape[1:])


def merge(operation, inputs):
    """``operation`` over all inputs, element by element: a function of a list of numbers."""
    axes = max(array.ndim for array in inputs)
    inputs = [aligned(array, axes) for array in inputs]
    shape = np.broadcast_shapes(*(array.shape for array in inputs))
    inputs = [np.broadcast_to(array, shape) for array in inputs]
    return np.array([operation([array[index] for array in inputs]) for index in np.ndindex(shape)]).reshape(shape)


def maximum_gradients(inputs, dy):
    """The gradient of each input: each element of ``dy`` goes to the first input that holds the largest value there."""
    gradients = [np.zeros(array.shape) for array in inputs]
    for index in np.ndindex(dy.shape):
        places = [tuple(min(k, n - 1) for k, n in zip(index, aligned(array, dy.ndim).shape)) for array in inputs]
        values = [aligned(array, dy.ndim)[place] for array, place in zip(inputs, places)]
        first = values.index(max(values))
        aligned(gradients[first], dy.ndim)[places[first]] += dy[index]
    return gradients


def concatenate(inputs, axis):
    return np.concatenate(inputs, axis=axis + 1 if axis >= 0 else axis)
