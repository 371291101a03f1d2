"""Slow, obvious optimizers, one parameter at a time, in float64. ``state`` is a dict that each fills as it goes."""

from __future__ import annotations

import numpy as np


def clipped(gradients, clip_norm=None, clip_value=None):
    if clip_value is not None:
        gradients = {name: np.clip(g, -clip_value, clip_value) for name, g in gradients.items()}
    if clip_norm is not None:
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        gradients = {name: g * min(1.0, clip_norm / (norm + 1e-6)) for name, g in gradients.items()}
    return gradients


def decayed(p, g, rate, weight_decay, l1, decoupled):
    g = g + l1 * np.sign(p)
    return (p * (1 - rate * weight_decay), g) if decoupled else (p, g + weight_decay * p)


def sgd(p, g, state, step, rate, momentum=0.0, nesterov=False, dampening=0.0):
    if momentum == 0:
        return p - rate * g
    state["v"] = g if step == 1 else momentum * state["v"] + (1 - dampening) * g
    return p - rate * (g + momentum * state["v"] if nesterov else state["v"])


def adam(p, g, state, step, rate, betas=(0.9, 0.999), epsilon=1e-8):
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g**2
    return p - rate * state["m"] / (1 - betas[0] ** step) / (np.sqrt(state["v"] / (1 - betas[1] ** step)) + epsilon)


def rmsprop(p, g, state, step, rate, alpha=0.99, momentum=0.0, centered=False, epsilon=1e-8):
    state["s"] = alpha * state.get("s", 0) + (1 - alpha) * g**2
    state["m"] = alpha * state.get("m", 0) + (1 - alpha) * g
    variance = state["s"] - state["m"] ** 2 if centered else state["s"]
    change = g / (np.sqrt(variance) + epsilon)
    if momentum:
        change = state["b"] = momentum * state.get("b", 0) + change
    return p - rate * change


def adagrad(p, g, state, step, rate, rate_decay=0.0, initial_sum=0.0, epsilon=1e-10):
    state["s"] = state.get("s", initial_sum) + g**2
    return p - rate / (1 + (step - 1) * rate_decay) * g / (np.sqrt(state["s"]) + epsilon)
