"""The activations, written out in NumPy float64."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[float])


def linear(x):
    return x


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.minimum(np.maximum(x, 0), 6)


def leaky_relu(x, alpha=0.01):
    return np.where(x > 0, x, alpha * x)


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def selu(x):
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def hard_sigmoid(x):
    return relu6(x + 3) / 6


def hard_swish(x):
    return x * relu6(x + 3) / 6


def tanh(x):
    return np.tanh(x)


def softplus(x):
    return np.logaddexp(x, 0)


def mish(x):
    return x * np.tanh(softplus(x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_backward(dy, y):
    return y * (dy - (dy * y).sum(-1, keepdims=True))


def log_softmax(x):
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def log_softmax_backward(dy, y):
    return dy - np.exp(y) * dy.sum(-1, keepdims=True)


def prelu(x, weight):
    return np.where(x > 0, x, weight * x)


def prelu_backward(dy, x, weight):
    return np.where(x > 0, dy, weight * dy)


def prelu_weight_gradient(dy, x, shared):
    terms = np.where(x > 0, 0, x * dy).reshape(-1, x.shape[-1]).sum(0)
    return terms.sum(keepdims=True) if shared else terms
