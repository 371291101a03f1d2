"""Upsample, in one to three dimensions, nearest and linear, with both corner conventions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from numbacnn import kernels
from numbacnn.errors import ConfigError, ShapeError
from numbacnn.layers.resize import Upsample
from numbacnn.testing import Trial, gradient_check
from tests.naive import resize as naive

KINDS = [{"mode": "nearest"}, {"mode": "bilinear"}, {"mode": "bilinear", "align_corners": True}]
CASES = [
    ((5, 3), {"scale": 2}),
    ((7, 33), {"size": 3}),
    ((2, 3, 2), {}),
    ((3, 5, 40), {"scale": (3, 2)}),
    ((4, 6, 3), {"size": (7, 4)}),
    ((7, 5, 1), {"scale": 0.5}),
    ((5, 7, 2), {"scale": (1.7, 2.3)}),
    ((1, 1, 3), {"size": 4}),
    ((5, 3, 2), {"size": 1}),
    ((2, 3, 4, 3), {"scale": 2}),
    ((3, 2, 5, 17), {"size": (2, 5, 3)}),
]


def reference(layer, x):
    """``x`` resized by the naive tables."""
    spatial, sizes = x.shape[1:-1], layer.output_shape(x.shape[1:])[:-1]
    scales = layer.scale if isinstance(layer.scale, tuple) else (layer.scale or 2,) * len(spatial)
    taps = []
    for inputs, outputs, scale in zip(spatial, sizes, scales):
        step = inputs / outputs if layer.size is not None else 1 / scale
        if layer.mode == "nearest":
            taps.append(naive.nearest_taps(inputs, outputs, step))
        else:
            taps.append(naive.linear_taps(inputs, outputs, step, layer.align_corners))
    return naive.gather(x, taps, sizes)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("shape", "fields"), CASES, ids=str)
def test_upsample(shape, fields, kind):
    layer = Upsample(**fields, **kind)
    for batch, dtype, tolerance in ((3, "float64", 1e-13), (1, "float32", 1e-6)):
        trial = Trial(layer, [shape], batch, dtype)
        (y,) = trial.forward()
        np.testing.assert_allclose(y, reference(layer, trial.x[0]), rtol=0, atol=tolerance * 10)
        ((dx,), _) = trial.backward()
        assert np.vdot(y.astype(float), trial.dy[0]) == pytest.approx(np.vdot(trial.x[0].astype(float), dx), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients(kind):
    for shape, fields in ((5, 4, 3), {"size": (7, 3)}), ((3, 2), {"scale": 2.5}), ((2, 3, 2, 2), {"scale": 2}):
        gradient_check(Upsample(**fields, **kind), shape)


def test_nearest_repeats_pixels():
    x = np.arange(4.0).reshape(1, 2, 2, 1)
    y = np.empty((1, 4, 4, 1))
    Upsample(2).forward(x, y, {}, {}, False)
    np.testing.assert_array_equal(y[0, ..., 0], [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])


def test_three_names_of_linear_interpolation():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    results = []
    for mode in ("linear", "bilinear", "trilinear"):
        results.append(np.empty((1, 6, 8, 1)))
        Upsample(2, mode=mode).forward(x, results[-1], {}, {}, False)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_results_do_not_depend_on_the_number_of_threads():
    before = kernels.jit.num_threads()
    results = []
    try:
        for threads in (1, before):
            kernels.jit.set_num_threads(threads)
            trial = Trial(Upsample(size=(23, 29), mode="bilinear"), [(31, 17, 35)], batch=2, dtype="float32")
            results.append([*trial.forward(), *trial.backward()[0]])
    finally:
        kernels.jit.set_num_threads(before)
    for one, many in zip(*results):
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "cubic"}, "mode of Upsample is 'cubic'"),
        ({"scale": 2, "size": 4}, "Upsample was given scale 2 and size 4; it takes one of them."),
        ({"align_corners": True}, 'align_corners of Upsample is for linear interpolation; mode is "nearest".'),
        ({"scale": 0}, "scale of Upsample is 0"),
        ({"scale": (2, -1)}, "scale of Upsample is (2, -1)"),
        ({"size": 2.5}, "size of Upsample is 2.5"),
        ({"size": ()}, "size of Upsample is ()"),
    ],
)
def test_fields_that_cannot_be(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Upsample(**fields)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Upsample(), (3,), "given shape (3,), needs one to three spatial axes"),
        (Upsample((2, 2, 2)), (3, 4, 5), "given shape (3, 4, 5) with 2 spatial axes, needs as many entries of scale, not 3."),
        (Upsample(0.25), (3, 4, 5), "given shape (3, 4, 5), needs axes of which scale 0.25 leaves something"),
    ],
)
def test_shapes_that_cannot_be(layer, shape, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        layer.output_shape(shape)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("shape", "fields"), CASES, ids=str)
def test_against_torch(shape, fields, kind):
    torch = pytest.importorskip("torch")
    layer = Upsample(**fields, **kind)
    trial = Trial(layer, [shape], batch=2)
    axes = len(shape) - 1
    mode = "nearest" if layer.mode == "nearest" else ("linear", "bilinear", "trilinear")[axes - 1]
    options = {} if mode == "nearest" else {"align_corners": layer.align_corners}
    where = {"size": layer.size} if layer.size is not None else {"scale_factor": layer.scale or 2}
    x = torch.tensor(np.moveaxis(trial.x[0], -1, 1).copy(), requires_grad=True)
    y = torch.nn.functional.interpolate(x, **where, mode=mode, **options)
    y.backward(torch.tensor(np.moveaxis(trial.dy[0], -1, 1).copy()))
    np.testing.assert_allclose(trial.forward()[0], np.moveaxis(y.detach().numpy(), 1, -1), rtol=0, atol=1e-10)
    np.testing.assert_allclose(trial.backward()[0][0], np.moveaxis(x.grad.numpy(), 1, -1), rtol=0, atol=1e-10)
