"""Arrays that other libraries lend and borrow, in the simulator, whose memory is the host's."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError, DataError

from .test_layers import simulated

pytestmark = simulated


def test_dlpack_lends_memory_until_the_borrower_is_done():
    from numbacnn.kernels.cuda import interchange, memory

    array = memory.on_device(np.arange(12, dtype=np.float32).reshape(3, 4))
    seen = np.from_dlpack(array)
    np.testing.assert_array_equal(seen, np.arange(12).reshape(3, 4))
    array.upload(np.zeros((3, 4)))
    assert not seen.any()
    assert len(interchange._lent) == 1
    del array, seen
    gc.collect()
    assert not interchange._lent
    capsule = memory.zeros((2,), np.float32).__dlpack__()
    del capsule
    gc.collect()
    assert not interchange._lent  # what nobody took comes back too


def test_dlpack_borrows_without_a_copy():
    from numbacnn.kernels.cuda import interchange

    theirs = np.arange(6, dtype=np.float32).reshape(2, 3)
    ours = interchange.borrowed(theirs)
    theirs[1, 1] = -5
    np.testing.assert_array_equal(ours.download(), theirs)
    with pytest.raises(DataError, match="not dense"):
        interchange.borrowed(np.zeros((4, 4), np.float32)[:, :2])


class Lender:
    """Another library's array, by the CUDA array interface."""

    def __init__(self, array):
        self.array = array
        strides = None if array.flags.c_contiguous else array.strides
        described = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, False), "strides": strides}
        self.__cuda_array_interface__ = {**described, "version": 3}


def test_models_take_and_give_arrays_on_the_device():
    from numbacnn.kernels.cuda.memory import DeviceArray

    x = nc.Input((4,))
    model = nc.Model(x, nc.Activation("tanh")(x))
    images = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    expected = model.predict(images)
    with pytest.raises(ConfigError, match="runs on the CPU"):
        model.predict(Lender(images))
    model.to("cuda")
    found = model.predict(Lender(images), batch_size=2)
    assert isinstance(found, DeviceArray)
    np.testing.assert_allclose(np.from_dlpack(found), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="float64"):
        model.predict(Lender(images.astype(np.float64)))
    with pytest.raises(DataError, match="not dense"):
        model.predict(Lender(np.asfortranarray(images)))
