"""The scalar functions of the built-in activations, and their gradients where the result alone gives them.

A gradient takes ``dy`` and ``y``. Functions with a number are made once per number, so that equal layers share their kernels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from ..elementary import logistic_denominator
from ..simd import where

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # the fixed point of Klambauer et al. 2017
SQRT_HALF, SQRT_TWO_OVER_PI = math.sqrt(0.5), math.sqrt(2.0 / math.pi)


def identity(x):
    return x


def relu(x):
    return max(x, 0.0)


def relu_gradient(dy, y):
    return where(y > 0.0, dy, 0.0)


def relu6(x):
    return min(max(x, 0.0), 6.0)


def relu6_gradient(dy, y):
    return where((y > 0.0) & (y < 6.0), dy, 0.0)


OF_BOUNDS = (relu_gradient, relu6_gradient)  # which ask whether ``y`` lies between bounds; ``x`` does too then, and may take its place


@functools.cache
def leaky_relu(alpha: float) -> Callable:
    return lambda x: where(x > 0.0, x, alpha * x)


@functools.cache
def leaky_relu_gradient(alpha: float) -> Callable:
    return lambda dy, y: where(y > 0.0, dy, alpha * dy)


@functools.cache
def elu(alpha: float, scale: float = 1.0) -> Callable:
    return lambda x: where(x > 0.0, scale * x, scale * alpha * math.expm1(x))


@functools.cache
def elu_gradient(alpha: float, scale: float = 1.0) -> Callable:
    return lambda dy, y: dy * where(y > 0.0, scale, y + scale * alpha)


def gelu(x):
    return 0.5 * x * (1.0 + math.erf(x * SQRT_HALF))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + math.tanh(SQRT_TWO_OVER_PI * (x + 0.044715 * x * x * x)))


def silu(x):
    return x / logistic_denominator(x)


def silu_derivative(x):
    s = 1.0 / logistic_denominator(x)
    return s * (1.0 + x * (1.0 - s))


def hard_swish(x):
    return x * (min(max(x + 3.0, 0.0), 6.0) * (1.0 / 6.0))


def hard_sigmoid(x):
    return min(max(x * (1.0 / 6.0) + 0.5, 0.0), 1.0)


def hard_sigmoid_gradient(dy, y):
    return where((y > 0.0) & (y < 1.0), dy * (1.0 / 6.0), 0.0)


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def softplus_gradient(dy, y):
    return dy * -math.expm1(-y)


def mish(x):
    return x * math.tanh(max(x, 0.0) + math.log1p(math.exp(-abs(x))))


def sigmoid(x):
    return 1.0 / logistic_denominator(x)


def sigmoid_gradient(dy, y):
    return dy * (y * (1.0 - y))


def tanh(x):
    return math.tanh(x)


def tanh_gradient(dy, y):
    return dy * (1.0 - y * y)
