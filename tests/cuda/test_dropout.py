"""Dropout on the GPU draws the CPU's bits, whatever the sizes and the place of a micro-batch in its batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbacnn as nc

from .test_layers import simulated

SHAPES = [(4500,), (2, 350, 3), (8, 300)]  # several blocks and seeds, fewer channels than a block has threads, and more


def trained(layer: Any, shape: tuple[int, ...], first: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Output and gradient of a batch of two that begins with sample ``first`` of a larger one."""
    model = nc.Sequential([nc.Activation("linear"), layer]).build(shape, seed=5)
    plan = model.training_plan(2, True, device=device)
    plan.set_step(7, first)
    x = np.random.default_rng(0).uniform(1, 2, (2, *shape)).astype(np.float32)
    plan.device.upload(x, plan.inputs[0])
    plan.forward()
    (y,) = plan.device.copies(plan.outputs)
    plan.device.upload(x, plan.output_gradients[0])
    plan.backward()
    return y, plan.device.copies(plan.input_gradients)[0]


@simulated
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layer", [nc.Dropout(0.3), nc.SpatialDropout(0.4), nc.StochasticDepth(0.5)], ids=str)
def test_same_bits_as_on_the_cpu(layer: Any, shape: tuple[int, ...], first: int) -> None:
    expected, found = trained(layer, shape, first, "cpu"), trained(layer, shape, first, "cuda")
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
