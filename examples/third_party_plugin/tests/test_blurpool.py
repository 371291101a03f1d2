"""The layer against slow, obvious NumPy, and its gradient against differences."""

import numpy as np
import pytest
from numbacnn_blurpool.layer import BlurPool2D

import numbacnn as nc
from numbacnn.errors import ConfigError, ShapeError
from numbacnn.testing import check_layer


def blurred(images, size, stride):
    """BlurPool2D in NumPy: pad, then one weighted sum per output pixel."""
    taps = np.array([1.0])
    for _ in range(size - 1):
        taps = np.convolve(taps, [0.5, 0.5])
    before = (size - 1) // 2
    around = (before, size - 1 - before)
    padded = np.pad(images, ((0, 0), around, around, (0, 0)), mode="edge")
    rows, columns = range(0, images.shape[1], stride), range(0, images.shape[2], stride)
    weights = np.outer(taps, taps)[None, :, :, None]
    return np.stack(
        [np.stack([(padded[:, r : r + size, q : q + size] * weights).sum((1, 2)) for q in columns], axis=1) for r in rows], axis=1
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 5, 3), (1, 8, 8, 17)])
@pytest.mark.parametrize(("size", "stride"), [(2, 1), (3, 2), (5, 3)])
def test_forward(shape, size, stride):
    x = nc.Input(shape[1:])
    model = nc.Model(x, BlurPool2D(size, stride)(x))
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    np.testing.assert_allclose(model.predict(images), blurred(images, size, stride), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [BlurPool2D(), BlurPool2D(5, stride=3), BlurPool2D(2, stride=1)])
def test_layer_contract(layer):
    check_layer(layer, (7, 5, 3))


def test_wrong_input():
    with pytest.raises(ConfigError, match="size=1"):
        BlurPool2D(1)
    with pytest.raises(ConfigError, match="stride=0"):
        BlurPool2D(stride=0)
    with pytest.raises(ShapeError, match="height, width, channels"):
        BlurPool2D()(nc.Input((8, 3)))
