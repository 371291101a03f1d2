"""Embedding on the GPU: ids beyond one block of the sort, rows that many places read, ids that the table lacks."""

from __future__ import annotations

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import DataError

from .test_layers import simulated


def gradients_of(model: nc.Model, ids: np.ndarray, slopes: np.ndarray, device: str) -> np.ndarray:
    plan = model.training_plan(len(ids), device=device)
    plan.device.upload(ids, plan.inputs[0])
    plan.forward()
    plan.device.upload(slopes, plan.output_gradients[0])
    plan.backward()
    return plan.device.copies([plan.gradients["embedding1.weight"]])[0]


@simulated
@pytest.mark.parametrize("padding", [None, 299])
def test_gradient_with_several_blocks_and_digits(padding: int | None) -> None:
    """2,500 places are two blocks of the sort, 300 rows three digits, and one id in three is the same, or, in turn, a few."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 300, (2, 1250))
    ids[rng.random(ids.shape) < 0.3] = 299
    ids[0, :400] %= 3
    model = nc.Sequential([nc.Embedding(300, 3, padding_index=padding)]).build((1250,))
    slopes = rng.standard_normal((2, 1250, 3)).astype(np.float32)
    expected = gradients_of(model, ids, slopes, "cpu")
    model.to("cuda")
    found = gradients_of(model, ids, slopes, "cuda")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected[299] == 0).all() == (padding == 299)
    np.testing.assert_array_equal(gradients_of(model, ids, slopes, "cuda"), found)


@simulated
def test_ids_that_the_table_lacks_are_refused_before_they_reach_the_device() -> None:
    model = nc.Sequential([nc.Embedding(5, 2), nc.Flatten()]).build((4,)).to("cuda")
    ids = np.zeros((3, 4), np.int32)
    ids[2, -1] = 5
    trainer = nc.Trainer(model, "mean_squared_error")
    targets = np.zeros((3, 8), np.float32)
    for run in (lambda: model.predict(ids), lambda: trainer.step(ids, targets), lambda: trainer.gradients(ids, targets)):
        with pytest.raises(DataError, match=r"embedding1.*the id 5, which the vocabulary lacks"):
            run()
    ids[2, -1] = 4
    assert np.isfinite(model.predict(ids)).all()
