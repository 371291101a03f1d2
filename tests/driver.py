"""Runs one layer on NumPy arrays, with buffers of its own: for tests of layers without a graph."""

from __future__ import annotations

import numpy as np

from numbacnn.kernels.jit import num_threads


class Driver:
    """A layer, its parameters for input shape ``x.shape[1:]``, and the arrays that it asks for, filled with garbage."""

    def __init__(self, layer, x, **parameters):
        self.layer, self.x = layer, np.ascontiguousarray(x)
        self.shape = self.x.shape[1:]
        self.p = {}
        for name, parameter in layer.parameters(self.shape).items():
            given = parameters.get(name, 1.0 if parameter.initializer == "ones" else 0.0)
            self.p[name] = np.array(np.broadcast_to(given, parameter.shape), x.dtype)

    def _arrays(self, buffers):
        batch = len(self.x)
        return {
            name: np.full((batch, *buffer.shape) if buffer.per_sample else buffer.shape, 77, buffer.dtype or self.x.dtype)
            for name, buffer in buffers.items()
        }

    def forward(self, training=True):
        layer = self.layer
        self.b = self._arrays(layer.buffers(self.shape)) if training else {}
        self.b |= self._arrays(layer.scratch(self.shape, len(self.x), num_threads(), training))
        self.b |= self._arrays(layer.prepared(self.shape, len(self.x), num_threads(), training))
        layer.prepare(self.shape, len(self.x), self.p, self.b, training)
        self.y = np.full((len(self.x), *layer.output_shape(self.shape)), np.nan, self.x.dtype)
        layer.forward(self.x, self.y, self.p, self.b, training)
        return self.y

    def backward(self, dy):
        """Gradients of the input and of the trainable parameters."""
        layer = self.layer
        self.b |= self._arrays(layer.scratch(self.shape, len(self.x), num_threads(), True))
        dx = np.full_like(self.x, np.nan)
        trainable = {name for name, parameter in layer.parameters(self.shape).items() if parameter.trainable}
        dp = {name: np.full_like(array, np.nan) for name, array in self.p.items() if name in trainable}
        reads = layer.backward_reads
        dy = np.ascontiguousarray(dy, self.x.dtype)
        layer.backward(self.x if "x" in reads else None, self.y if "y" in reads else None, dy, dx, self.p, dp, self.b)
        return dx, dp


def numeric_gradient(function, array, step=1e-5):
    """Central differences of a function of nothing that reads ``array``, by each of its elements."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = function()
        array[index] = value - step
        below = function()
        array[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


def check_gradients(driver, tolerance=1e-7):
    """Backward of a float64 driver against central differences of a random weighting of its output."""
    weights = np.random.default_rng(5).standard_normal(driver.forward().shape)
    dx, dp = driver.backward(weights)

    def value():
        return float((driver.forward() * weights).sum())

    np.testing.assert_allclose(dx, numeric_gradient(value, driver.x), rtol=tolerance, atol=tolerance)
    for name, gradient in dp.items():
        np.testing.assert_allclose(gradient, numeric_gradient(value, driver.p[name]), rtol=tolerance, atol=tolerance, err_msg=name)
