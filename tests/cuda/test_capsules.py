"""Capsules on the GPU beyond one chunk, one tile, one turn of samples, and one block."""

from __future__ import annotations

import numpy as np
import pytest
from numbacnn_architectures.capsules import CapsuleLength, CapsuleRouting, LongestCapsule, Squash

import numbacnn as nc

from . import test_layers
from .test_layers import assert_close, simulated, trained

CASES = [
    (CapsuleRouting(3, width=5, iterations=3), (40, 9), 17),
    (CapsuleRouting(29, width=10, iterations=2), (33, 2), 2),
    (LongestCapsule(), (300, 2), 2),
    (Squash(), (150, 2), 2),
    (CapsuleLength(), (150, 2), 2),
]


@simulated
@pytest.mark.parametrize(("layer", "shape", "batch"), CASES, ids=str)
def test_same_as_on_the_cpu(layer: nc.Layer, shape: tuple[int, ...], batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_layers, "BATCH", batch)
    rng = np.random.default_rng(0)
    model = nc.Sequential([layer]).build(shape)
    x = rng.standard_normal((batch, *shape)).astype(np.float32)
    x[:, 7] = x[:, 3] = 9  # two that are equally long, of which the first one counts
    slopes = rng.standard_normal((batch, *model.graph.outputs[0].shape)).astype(np.float32)
    expected = trained(model, [x], [slopes], "cpu")
    found = trained(model.to("cuda"), [x], [slopes], "cuda")
    for got, wanted in zip(found, expected):
        for entry in wanted if isinstance(wanted, dict) else range(len(wanted)):
            assert_close(got[entry], wanted[entry], str(entry))
    assert_close(model.predict(x), expected[0][0], "inference")
