"""The benchmark suites time what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from asv_benchmarks.benchmarks import bench_convolution, bench_layers
from asv_benchmarks.benchmarks.common import Training

SIZE, CHANNELS = 6, 16


def all_computed(case):
    """Whether the backward pass fills every gradient that it is there for."""
    gradients = [gradient for name, gradient in case.plan.gradients.items() if name not in case.model.store.frozen]
    gradients += case.plan.input_gradients or []
    for gradient in gradients:
        gradient.fill(np.nan)
    case.plan.forward()
    case.plan.output_gradients[0].fill(1)
    case.plan.backward()
    return bool(gradients) and all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("layer", bench_layers.LAYERS)
def test_backward_of_every_layer_has_something_to_run(layer, monkeypatch):
    monkeypatch.setattr(bench_layers, "SHAPE", (SIZE, SIZE, CHANNELS))
    monkeypatch.setattr(bench_layers, "BATCH", 2)
    suite = bench_layers.Layers()
    suite.setup(layer)
    assert suite.case.plan.input_gradients
    assert all_computed(suite.case)


def test_the_gradients_of_convolution_are_timed_apart(monkeypatch):
    monkeypatch.setattr(bench_convolution, "LAYERS", {"small": (SIZE, CHANNELS, CHANNELS, 3, 1)})
    for weights, data, arguments in (
        (bench_convolution.Convolution(), bench_convolution.ConvolutionDataGradient(), ("small", 1)),
        (bench_convolution.Depthwise(), bench_convolution.DepthwiseDataGradient(), ((SIZE, CHANNELS, 3, 1),)),
    ):
        weights.setup(*arguments)
        data.setup(*arguments)
        assert weights.case.plan.input_gradients is None
        assert not weights.case.model.store.frozen
        assert data.case.plan.input_gradients
        assert set(data.case.plan.gradients) <= data.case.model.store.frozen
        assert all_computed(weights.case)
        assert all_computed(data.case)


def test_a_backward_pass_without_anything_to_run_is_refused():
    import numbacnn as nc

    with pytest.raises(AssertionError, match="nothing to run"):
        Training(nc.MaxPool2D(2), (SIZE, SIZE, CHANNELS), 2, inputs=False)
