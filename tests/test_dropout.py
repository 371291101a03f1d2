"""Dropout: which elements are left out, in both passes, and that it looks random."""

import math

import numpy as np
import pytest

from numbacnn.errors import ConfigError
from numbacnn.kernels import jit
from numbacnn.layers.dropout import Dropout, SpatialDropout, StochasticDepth
from tests.naive import dropout as naive

LAYERS = [Dropout(0.3), SpatialDropout(0.3), StochasticDepth(0.3)]


def stream(key=12345678901234567, step=0):
    return {"random": np.array([key, step], np.uint64), "first": np.zeros(1, np.int64)}


def kept(layer, shape, key=1, step=0, dtype=np.float32):
    """Which elements a layer keeps; checks the factor too."""
    x = np.ones(shape, dtype)
    y = np.empty_like(x)
    layer.forward(x, y, {}, stream(key, step), True)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - layer.rate), rtol=1e-6)
    return y != 0


def bounds(count, share):
    """How far a share of independent events may be off: five standard deviations."""
    return 5 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.9])
def test_share(rate):
    shape = (3, 101, 997)
    count = math.prod(shape)
    assert abs(kept(Dropout(rate), shape).mean() - (1 - rate)) <= bounds(count, rate)
    assert abs(kept(SpatialDropout(rate), (300, 2, 97))[:, 0].mean() - (1 - rate)) <= bounds(300 * 97, rate)
    assert abs(kept(StochasticDepth(rate), (20000, 1)).mean() - (1 - rate)) <= bounds(20000, rate)


def test_elements_are_independent():
    """No correlation between neighbours at any small distance, between rows, bytes of the index, steps and keys."""
    n = 1 << 20
    a = kept(Dropout(0.5), (1, n)).ravel() * 2.0 - 1
    for distance in [*range(1, 40), 64, 256, 4096, 8191, 8192, 8193, 65536]:
        assert abs((a[distance:] * a[:-distance]).mean()) < 5 / math.sqrt(n - distance), distance
    for other in (kept(Dropout(0.5), (1, n), step=1), kept(Dropout(0.5), (1, n), key=2), kept(Dropout(0.5), (1, n), key=1 << 63)):
        assert abs((a * (other.ravel() * 2.0 - 1)).mean()) < 5 / math.sqrt(n)


def test_runs_of_bits_are_equally_common():
    """A chi-squared test of the 256 patterns of eight neighbours."""
    a = kept(Dropout(0.5), (1, 1 << 20)).reshape(-1, 8)
    counts = np.bincount(np.packbits(a, axis=1).ravel(), minlength=256)
    expected = a.shape[0] / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * math.sqrt(2 * 255)


def test_steps_of_samples_and_channels_are_independent():
    """Over many steps, each sample and each channel is kept about as often as it should, and pairs too."""
    steps = 400
    a = np.stack([kept(StochasticDepth(0.5), (16, 1), step=s).ravel() for s in range(steps)]) * 2.0 - 1
    correlations = a.T @ a / steps
    assert abs(correlations - np.eye(16)).max() < 5 / math.sqrt(steps)
    b = np.stack([kept(SpatialDropout(0.5), (2, 1, 9), step=s).ravel() for s in range(steps)]) * 2.0 - 1
    assert abs(b.T @ b / steps - np.eye(18)).max() < 5 / math.sqrt(steps)


def test_groups_share_their_fate():
    a = kept(SpatialDropout(0.5), (7, 5, 3, 37))
    assert (a == a[:, :1, :1]).all()
    b = kept(StochasticDepth(0.5), (23, 5, 3, 37))
    assert (b == b[:, :1, :1, :1]).all()
    assert 0 < b.mean() < 1


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("shape", [(1, 1), (5, 1, 1, 1), (3, 20, 31, 17), (11, 7), (4, 3000, 33)])
def test_backward_has_the_mask_of_forward(layer, shape):
    """The gradient of a linear map is that map; in place, in float64, and with one thread, it is the same one."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    b = stream(step=3)
    y, dx = np.empty_like(x), np.empty_like(x)
    layer.forward(x, y, {}, b, True)
    threads = jit.num_threads()
    jit.set_num_threads(1)
    try:
        layer.backward(None, None, x, dx, {}, {}, b)
    finally:
        jit.set_num_threads(threads)
    assert np.array_equal(y, dx)
    wide = x.astype(np.float64)
    layer.forward(wide, wide, {}, b, True)
    np.testing.assert_allclose(wide, y, rtol=1e-6)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_inference_copies(layer):
    x = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    y = np.empty_like(x)
    layer.forward(x, y, {}, {}, False)
    assert np.array_equal(x, y)


def test_dropped_infinities_are_zero():
    x = np.full((1, 1000), np.inf, np.float32)
    y = np.empty_like(x)
    Dropout(0.5).forward(x, y, {}, stream(), True)
    assert set(np.unique(y)) == {0, np.inf}


@pytest.mark.parametrize(("key", "step"), [(0, 0), (2**64 - 1, 10**12)])
def test_the_stream(key, step):
    """The mask of a key and step is part of the promise that a run resumes bit for bit, on any machine."""
    shape = (3, 53, 61)
    assert np.array_equal(kept(Dropout(0.3), shape, key, step), naive.elements(shape, key, step, 0.3))
    assert np.array_equal(kept(SpatialDropout(0.3), shape, key, step), naive.groups(shape, key, step, 0.3, True))
    assert np.array_equal(kept(StochasticDepth(0.3), shape, key, step), naive.groups(shape, key, step, 0.3, False))


@pytest.mark.parametrize("rate", [1.0, -0.1, math.nan, True, "half"])
def test_bad_rate(rate):
    with pytest.raises(ConfigError, match="Dropout: rate is"):
        Dropout(rate)
