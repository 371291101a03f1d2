"""Gradient accumulation: a step in micro-batches is the step of the whole batch, up to rounding."""

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError, DivergenceError
from numbacnn.layers.dropout import Dropout, SpatialDropout, StochasticDepth
from numbacnn.training.losses import SoftmaxCrossEntropy

LOSSES = [SoftmaxCrossEntropy(class_weights=(1.0, 5.0, 0.5, 2.0), ignore_index=3), "mean_squared_error"]


def network(x, z):
    """Two inputs, two outputs of different weights, a layer that is called twice, and all kinds of dropout."""
    shared = nc.Dense(8)
    a = nc.Dropout(0.4)(shared(nc.Activation("tanh")(nc.Dense(6)(x))))
    b = nc.SpatialDropout(0.4)(nc.Dense(6)(z))
    b = nc.StochasticDepth(0.4)(shared(b))
    joined = nc.Add()(a, nc.Flatten()(nc.GlobalAveragePool1D()(b)))
    return [nc.Dense(4)(joined), nc.Dense(2)(a)]


def trainer(**options):
    x, z = nc.Input((5,)), nc.Input((3, 5))
    model = nc.Model([x, z], network(x, z), seed=2)
    model.freeze("dense2.bias")
    return nc.Trainer(model, LOSSES, nc.SGD(0.1, momentum=0.9), loss_weights=(1.0, 0.3), **options)


def data(count, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, 5)).astype(np.float32), rng.standard_normal((count, 3, 5)).astype(np.float32)
    labels = rng.integers(0, 4, count)
    labels[: count // 3] = 3  # so that the first micro-batch of four has nothing that counts
    return inputs, (labels, rng.standard_normal((count, 2)).astype(np.float32))


@pytest.mark.parametrize(("count", "accumulate", "recompute"), [(10, 4, None), (10, 3, "blocks"), (3, 5, "cheap")])
def test_steps_and_gradients_are_those_of_the_whole_batch(count, accumulate, recompute):
    """In parts of 3, 3, 3 and 1, of 4, 4 and 2, and of single samples."""
    inputs, labels = data(count)
    whole, parts = trainer(), trainer(accumulate=accumulate, recompute=recompute)
    expected, found = (each.gradients(inputs, labels) for each in (whole, parts))
    assert all(np.abs(array).max() > 0 for name, array in expected.items() if name not in ("input", "dense2.bias"))
    for one, other in zip(found.pop("input"), expected.pop("input"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    for _ in range(3):
        assert parts.step(inputs, labels) == pytest.approx(whole.step(inputs, labels), rel=1e-5)
    for name, array in whole.model.parameters.items():
        np.testing.assert_allclose(parts.model.parameters[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_fit_with_callbacks_metrics_and_a_smaller_last_batch():
    inputs, labels = data(26)
    seen = []

    class Watch(nc.Callback):
        def on_step_end(self, trainer, step, loss):
            seen.append(loss)

    histories = [
        trainer(accumulate=accumulate, callbacks=[Watch()]).fit((inputs, labels), epochs=2, batch_size=10, progress=False)
        for accumulate in (1, 4)
    ]
    np.testing.assert_allclose(seen[:6], seen[6:], rtol=1e-4)
    for one, other in zip(*histories, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["accuracy"] == pytest.approx(one["accuracy"], abs=0.05)


@pytest.mark.parametrize("layer", [Dropout(0.5), SpatialDropout(0.5), StochasticDepth(0.5)])
@pytest.mark.parametrize("shape", [(8, 11, 97), (5, 3000, 7)])
def test_parts_of_a_batch_meet_the_fate_that_they_have_in_it(layer, shape):
    x, stream = np.ones(shape, np.float32), np.array([7, 3], np.uint64)
    whole = np.empty_like(x)
    layer.forward(x, whole, {}, {"random": stream, "first": np.zeros(1, np.int64)}, True)
    for first in (1, 3):
        y = np.empty_like(x[first:])
        layer.forward(x[first:], y, {}, {"random": stream, "first": np.array([first])}, True)
        np.testing.assert_array_equal(y, whole[first:])


def test_a_step_that_diverges_leaves_the_model_as_it_was():
    x = nc.Input((5,))
    model = nc.Model(x, nc.Dense(4)(nc.BatchNorm()(nc.Dense(6)(x))), seed=0)
    trainer = nc.Trainer(model, accumulate=2)
    images, labels = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32), np.zeros(8, int)
    trainer.step(images, labels)
    before = {name: np.array(array) for name, array in model.parameters.items()}
    images[6] = np.nan  # in the second part: the statistics have moved by then
    with pytest.raises(DivergenceError, match="loss of step 2 is nan"):
        trainer.step(images, labels)
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_run_resumes_with_the_same_bits_and_the_same_number_of_parts(tmp_path):
    """Recomputation may change on the way, as it changes no bit."""
    inputs, labels = data(20)
    options = {"batch_size": 8, "progress": False}
    through = trainer(accumulate=3)
    through.fit((inputs, labels), epochs=2, **options)
    trainer(accumulate=3).fit((inputs, labels), epochs=1, checkpoint=tmp_path, **options)
    with pytest.raises(ConfigError, match="gradient accumulation was 3 micro-batches and is none"):
        trainer().fit((inputs, labels), epochs=2, checkpoint=tmp_path, resume=True, **options)
    resumed = trainer(accumulate=3, recompute="blocks")
    resumed.fit((inputs, labels), epochs=2, checkpoint=tmp_path, resume=True, **options)
    for name, array in through.model.parameters.items():
        np.testing.assert_array_equal(resumed.model.parameters[name], array, err_msg=name)


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True, "two", None])
def test_bad_numbers_of_parts(accumulate):
    with pytest.raises(ConfigError, match="it takes a number of micro-batches, a whole number of at least 1"):
        trainer(accumulate=accumulate)
