"""Networks whose products run on tensor cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError

from .test_layers import compiled, no_device, simulated  # noqa: F401

ERRORS = {"tf32": 3e-3, "bf16": 2e-2}  # of the largest value: some steps of rounding of each factor


def network() -> nc.Model:
    """A convolution that tensor cores cannot take, for its input's channels, one and a Dense layer that they can, and a separable one."""
    x = nc.Input((5, 4, 3))
    h = nc.Conv2D(8, 3, padding="same", activation="relu")(x)
    h = nc.Conv2D(12, 3, padding="same")(h)
    h = nc.SeparableConv2D(8, 3)(nc.Activation("relu")(nc.BatchNorm()(h)))
    return nc.Model(x, nc.Dense(4)(nc.Flatten()(h)), seed=4)


@simulated
@pytest.mark.parametrize("precision", ERRORS)
def test_results_differ_as_far_as_rounding_goes(precision: str) -> None:
    images = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)
    labels = np.array([1, 3])
    model = network()
    expected, gradients = model.predict(images), nc.Trainer(model).gradients(images, labels)
    model.to("cuda", precision)
    found, on_gpu = model.predict(images), nc.Trainer(model).gradients(images, labels)
    for got, wanted in [(found, expected), *[(on_gpu[name], gradients[name]) for name in gradients]]:
        scale = max(1e-2, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=ERRORS[precision] * scale)
    assert np.abs(found - expected).max() > 1e-6 * np.abs(expected).max()  # it was not float32
    np.testing.assert_allclose(model.to("cuda").predict(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@compiled
@pytest.mark.parametrize("precision", ERRORS)
def test_tensor_cores_are_used_where_they_can_be(precision: str, no_device: Any) -> None:  # noqa: F811
    no_device.wanted.clear()
    model = network().to("cuda", precision)
    model.training_plan(2, True, device="cuda")
    on_tensor_cores = [kernel for kernel, _ in no_device.wanted if f".{precision}" in kernel.function.__module__]
    assert len(on_tensor_cores) >= 3  # one for each pass


@compiled
def test_precisions_that_there_are_not(no_device: Any) -> None:  # noqa: F811
    model = network()
    with pytest.raises(ConfigError, match="'fp8' was given as a precision; it is one of 'float32', 'tf32', 'bf16'"):
        model.to("cuda", "fp8")
    with pytest.raises(ConfigError, match="was given for the CPU"):
        model.to("cpu", "bf16")
    assert (model.device, model.precision) == ("cpu", "float32")
