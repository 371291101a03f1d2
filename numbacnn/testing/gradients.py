"""Gradients beside central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..layers.base import Layer, Shape
from .comparing import assert_close, assert_finite, by_name, named
from .models import model_around, set_parameters
from .trial import Sampler, Trial, distinct, shapes_of

STEP = 1e-6  # of central differences, in float64: their error is near 1e-9 for functions of order one


def gradient_check(
    layer: Layer,
    input_shape: Any,
    batch: int = 2,
    seed: int = 0,
    tolerance: float = 1e-6,
    sample: Sampler = distinct,
    elements: int = 100,
    projections: int = 3,
) -> None:
    """Compare a layer's ``backward`` with central differences of its ``forward``, in float64.

    The function is ``sum(dy * y)`` with random ``dy``; its slope along random directions, and along each element of arrays of
    at most ``elements`` elements, must agree within ``tolerance * max(1, |slope|)``. Runs the layer directly, then within a model.
    Raises AssertionError."""
    with named("gradient_check", layer, input_shape):
        check_direct_gradients(layer, shapes_of(input_shape), batch, seed, tolerance, sample, elements, projections)
        check_model_gradients(layer, shapes_of(input_shape), batch, seed, tolerance, sample, projections)


def check_direct_gradients(
    layer: Layer, shapes: tuple[Shape, ...], batch: int, seed: int, tolerance: float, sample: Sampler, elements: int, projections: int
) -> None:
    trial = Trial(layer, shapes, batch, "float64", seed, sample=sample)
    trial.forward()
    gradients = by_name(*trial.backward())
    assert_finite(gradients, "backward")
    learned = trial.x if layer.input_dtype is None else []
    arrays = [*learned, *(trial.p[name] for name, spec in trial.specs.items() if spec.trainable)]

    def loss() -> float:
        return sum(float(np.vdot(y, dy)) for y, dy in zip(trial.forward(), trial.dy))

    generator = np.random.default_rng(seed + 1)
    for array, (name, gradient) in zip(arrays, gradients.items()):
        _compare_slopes(loss, array, gradient, name, tolerance, generator, elements, projections)


def _compare_slopes(
    loss: Callable[[], float], array: np.ndarray, gradient: np.ndarray, name: str, tolerance: float,
    generator: np.random.Generator, elements: int, projections: int,
) -> None:  # fmt: skip
    if 0 < array.size <= elements:
        slopes = np.empty(array.shape)
        for at in np.ndindex(array.shape):
            direction = np.zeros(array.shape)
            direction[at] = 1
            slopes[at] = _slope(loss, array, direction)
        assert_close(gradient, slopes, tolerance, f"{name}, element by element, against central differences")
    for _ in range(projections):
        direction = generator.standard_normal(array.shape)
        expected = np.array([_slope(loss, array, direction)])
        given = np.array([np.vdot(gradient, direction)])
        assert_close(given, expected, tolerance, f"{name}, along a random direction, against central differences")


def _slope(loss: Callable[[], float], array: np.ndarray, direction: np.ndarray) -> float:
    origin = array.copy()
    array[...] = origin + STEP * direction
    above = loss()
    array[...] = origin - STEP * direction
    below = loss()
    array[...] = origin
    return (above - below) / (2 * STEP)


def check_model_gradients(
    layer: Layer, shapes: tuple[Shape, ...], batch: int, seed: int, tolerance: float, sample: Sampler, projections: int
) -> None:
    """Gradients of a model made of a Scale per input that is learned from, in whose place the layer may work, and the layer."""
    trial = Trial(layer, shapes, batch, "float64", seed, sample=sample)
    model = model_around(layer, shapes, "float64", scaled=True)
    set_parameters(model, trial)
    plan = model.training_plan(batch)
    for slot, x in zip(plan.inputs, trial.x):
        slot[...] = x
    plan.set_step(3)

    def loss() -> float:
        plan.forward()
        return sum(float(np.vdot(y, dy)) for y, dy in zip(plan.outputs, trial.dy))

    state = {name: np.array(array) for name, array in model.parameters.items()}
    loss()
    for slot, dy in zip(plan.output_gradients, trial.dy):
        slot[...] = dy
    plan.backward()
    gradients = {name: np.array(array) for name, array in plan.gradients.items()}
    generator = np.random.default_rng(seed + 1)
    for name, gradient in gradients.items():
        for _ in range(projections):
            direction = generator.standard_normal(gradient.shape)
            values = []
            for sign in (1, -1):
                for other, array in state.items():
                    model.parameters[other] = array + (sign * STEP * direction if other == name else 0)
                values.append(loss())
            given, expected = np.vdot(gradient, direction), (values[0] - values[1]) / (2 * STEP)
            assert_close(np.array([given]), np.array([expected]), tolerance, f"gradient of {name} in a model, against central differences")
