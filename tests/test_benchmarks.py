"""The benchmark suites time what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from asv_benchmarks import first_image
from asv_benchmarks.benchmarks import bench_convolution, bench_layers
from asv_benchmarks.benchmarks.common import Training
from asv_benchmarks.peers import fashion, roofline
from numbacnn.kernels import jit
from numbacnn.paths import cache_folder

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


def test_bounds_of_a_network():
    import numbacnn as nc

    x = nc.Input((6, 6, 2))
    model = nc.Model(x, nc.Dense(3)(nc.Flatten()(nc.Activation("tanh")(nc.Conv2D(4, 3, padding="same", bias=False)(x)))))
    taken = roofline.work(model, batch=5)
    assert taken["flops"] == 5 * 2 * (36 * 3 * 3 * 2 * 4 + 36 * 4 * 3)
    assert taken["bytes"] == model.store.nbytes + 5 * 4 * (6 * 6 * 2 + 3)
    assert roofline.bounds(taken, {"flops": 1e9, "bytes": 1e6}) == {"arithmetic": taken["flops"] / 1e6, "memory": taken["bytes"] / 1e3}


def test_what_the_bounds_are_measured_with_computes_and_reads():
    results = np.zeros((jit.num_threads(), roofline.TILE), np.float32)
    roofline.multiply_add(results, 100)
    assert results[0, 0] == 2, "the limit of x / 2 + 1"
    x = np.ones(3 * roofline.BLOCK, np.float32)
    results.fill(0)
    roofline.read_all(x, results)
    assert results.sum() == x.size


@pytest.mark.skipif(jit.JIT_DISABLED, reason="there are no kernels to wait for")
def test_the_phases_of_a_first_prediction_add_up():
    found = first_image.first_prediction(cache_folder(), "lenet5", 1, None)
    assert set(found["seconds"]) == set(first_image.PHASES)
    assert sum(found["seconds"].values()) == pytest.approx(found["total"])
    assert found["kernels"]


@pytest.mark.oracle
def test_the_peer_of_the_fashion_example_is_the_same_network(tmp_path):
    import torch

    example = fashion.recipe()
    model = example.residual_network(8, seed=1)
    model.export(tmp_path / "weights.safetensors", "pytorch")
    peer = fashion.twin(example.STEM, 8)
    fashion.load(peer, tmp_path / "weights.safetensors")
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    with torch.no_grad():
        wanted = peer.eval()(torch.from_numpy(fashion.channels_first(images))).numpy()
    np.testing.assert_allclose(model.predict(images), wanted, rtol=1e-4, atol=1e-5)
    decaying, spared = fashion.groups(peer, example.OPTIMIZER)
    specs = [spec for spec in model.store.specs.values() if spec.trainable]
    assert len(decaying["params"]) == sum(spec.decay for spec in specs)
    assert len(spared["params"]) == sum(not spec.decay for spec in specs)


def test_a_backward_pass_without_anything_to_run_is_refused():
    import numbacnn as nc

    with pytest.raises(AssertionError, match="nothing to run"):
        Training(nc.MaxPool2D(2), (SIZE, SIZE, CHANNELS), 2, inputs=False)
