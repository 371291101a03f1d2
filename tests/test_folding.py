"""Neighbouring pixels of few channels as one pixel of many: the numbers of a convolution that does not do so."""

from __future__ import annotations

import numpy as np
import pytest

from numbacnn.kernels import jit
from numbacnn.kernels.conv import DataGradient, Forward, WeightGradient, Window, folding
from numbacnn.simd import LANES
from tests.naive import conv as naive

CASES = [  # kernel, stride, padding, places of input, channels, outputs
    ((1, 5, 5), (1, 1, 1), (0, 2, 2), (1, 9, 12), 1, 6),
    ((1, 5, 5), (1, 1, 1), (0, 0, 0), (1, 7, 18), 6, 5),
    ((1, 1, 9), (1, 1, 1), (0, 0, 4), (1, 1, 32), 3, 1),
    ((1, 7, 7), (1, 2, 2), (0, 3, 3), (1, 13, 15), 3, 8),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (2, 5, 6), 4, 2),
    ((1, 3, 4), (1, 1, 3), (0, 1, 2), (1, 6, 22), 17, 3),
    ((1, 3, 3), (1, 1, 1), (0, 5, 9), (1, 3, 2), 5, 4),  # pixels that see nothing but padding
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


class Made:
    """The three passes of a convolution of two images."""

    def __init__(self, case):
        extent, stride, padding, size, channels, outputs = case
        places = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, extent, stride))
        self.window = Window(extent, stride, (1, 1, 1), padding)
        self.shapes = self.window, size, channels, places, outputs, 2, False
        rng = np.random.default_rng(0)
        self.x, self.dy = rng.standard_normal((2, *size, channels)), rng.standard_normal((2, *places, outputs))
        self.weight, self.bias = rng.standard_normal((*extent, channels, outputs)), rng.standard_normal(outputs)
        self.expected = naive.convolve(self.x, self.weight, self.bias, stride, [(p, p) for p in padding], (1, 1, 1), 1)
        self.gradients = naive.gradients(self.x, self.weight, self.dy, stride, [(p, p) for p in padding], (1, 1, 1), 1)

    def forward(self, y, addend=None):
        method = Forward(*self.shapes)
        packed, scratch = self._prepared(method, self.bias.size)
        method.run(self.x, packed, self.bias, y, scratch, addend, nonnegative)
        return y

    def data_gradient(self):
        method, dx = DataGradient(*self.shapes), np.full_like(self.x, np.nan)
        packed, scratch = self._prepared(method, self.x.shape[-1])
        method.run(self.dy, packed, np.zeros(self.x.shape[-1]), dx, scratch)
        return dx

    def weight_gradient(self, dy, threads=2):
        method, dw = WeightGradient(*self.shapes), np.full_like(self.weight, np.nan)
        with jit.record(threads) as steps:
            method.run(self.x, dy, dw, np.full((threads, method.scratch_elements(threads)), np.nan))
        jit.run(steps)
        return dw

    def _prepared(self, method, channels):
        threads = jit.num_threads()
        packed = np.full(method.packed_elements, np.nan)
        scratch = np.full((threads, max(method.scratch_elements(threads), method.packing_elements)), np.nan)
        method.pack(self.weight, np.ones(channels), packed, scratch)
        return packed, scratch


def nonnegative(x):
    return max(0.0, x)


def apart_in_memory(array):
    """A slice of wider pixels. NumPy takes any stride along a single channel for right."""
    wider = np.full((*array.shape[:-1], array.shape[-1] + 3), np.nan)
    strides = (*wider.strides[:-1], wider.strides[-2] if array.shape[-1] == 1 else wider.itemsize)
    return np.lib.stride_tricks.as_strided(wider[..., 1:], array.shape, strides)


@each_case
def test_pixels_are_folded(case):
    made = Made(case)
    if 2 * made.bias.size > LANES:
        pytest.skip("two pixels do not fit a vector")
    found = folding.folding(made.window, made.dy.shape[1:4], made.bias.size)
    assert found.pixels > 1
    assert found.pixels * found.places[2] == made.dy.shape[3]


@each_case
def test_outputs_agree_with_their_definition(case):
    """Also where they lie in a slice of something wider, and with an addend that does."""
    made = Made(case)
    y = made.forward(np.full_like(made.dy, np.nan))
    np.testing.assert_allclose(y, np.maximum(0, made.expected), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(made.forward(apart_in_memory(y)), y, "the same bits")
    addend = apart_in_memory(y)
    addend[...] = made.dy
    for more in (made.dy, addend):
        np.testing.assert_allclose(made.forward(y, more), np.maximum(0, made.expected + made.dy), rtol=1e-10, atol=1e-12)


@each_case
def test_gradients_agree_with_their_definition(case):
    made = Made(case)
    dx, dw, _ = made.gradients
    np.testing.assert_allclose(made.data_gradient(), dx, rtol=1e-10, atol=1e-10)
    dy = apart_in_memory(made.dy)
    dy[...] = made.dy
    for each in (made.dy, dy):
        np.testing.assert_allclose(made.weight_gradient(each), dw, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(made.weight_gradient(made.dy, 3), made.weight_gradient(made.dy, 1), "for any number of threads")


def test_what_is_not_folded():
    """Grouped and dilated convolutions, odd widths, kernels of one column, more channels than half a vector, and residues of a stride."""
    three = Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1))
    folds = {
        "groups": (Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), 2), (1, 8, 8), 4),
        "dilation": (Window((1, 3, 3), (1, 1, 1), (1, 1, 2), (0, 1, 1)), (1, 8, 8), 4),
        "a prime width": (three, (1, 8, 17), 1),
        "a column": (Window((1, 3, 1), (1, 1, 1), (1, 1, 1), (0, 1, 0)), (1, 8, 8), 4),
        "many channels": (three, (1, 8, 8), LANES // 2 + 1),
    }
    assert {name: folding.folding(*case).pixels for name, case in folds.items()} == dict.fromkeys(folds, 1)
    assert folding.folding(three, (1, 8, 8), 2).pixels > 1
    assert folding.folding(three, (1, 8, 8), 2, folds=False).pixels == 1
