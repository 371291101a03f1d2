"""What counts as a number in the fields of layers, and what is said of the rest."""

from __future__ import annotations

import re

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError
from numbacnn.layers.activation import ELU
from numbacnn.layers.checks import is_integer, is_number, plain

TWO, HALF = np.uint8(2), np.float64(0.5)


def test_numbers():
    assert all(map(is_integer, (0, -3, np.int64(5), TWO)))
    assert not any(map(is_integer, (True, np.True_, 2.0, np.float32(2), "2", None, np.array([2]))))
    assert is_integer(np.int8(3), 3)
    assert not is_integer(np.int8(2), 3)
    assert all(map(is_number, (0, 1.5, np.float32(1), TWO)))
    assert not any(map(is_number, (False, np.False_, float("inf"), np.float32("nan"), "2", None, 1j)))


def test_plain():
    assert plain([1, (TWO, [HALF, None]), "text"]) == (1, (2, (0.5, None)), "text")
    assert type(plain([TWO])[0]) is int


@pytest.mark.parametrize(
    ("numpy", "python"),
    [
        (lambda: nc.MaxPool2D([TWO, 2], None, [[TWO, 0], [0, 0]]), lambda: nc.MaxPool2D((2, 2), None, ((2, 0), (0, 0)))),
        (lambda: nc.LpPool2D(TWO, p=np.float32(3)), lambda: nc.LpPool2D(2, p=3.0)),
        (lambda: nc.AdaptiveMaxPool2D([TWO, None]), lambda: nc.AdaptiveMaxPool2D((2, None))),
        (lambda: nc.BatchNorm(momentum=HALF, epsilon=HALF), lambda: nc.BatchNorm(momentum=0.5, epsilon=0.5)),
        (lambda: nc.GroupNorm(TWO), lambda: nc.GroupNorm(2)),
        (lambda: nc.LocalResponseNorm(TWO, k=TWO), lambda: nc.LocalResponseNorm(2, k=2)),
        (lambda: nc.PReLU(initial=HALF), lambda: nc.PReLU(initial=0.5)),
        (lambda: ELU(HALF), lambda: ELU(0.5)),
        (lambda: nc.Activation("elu", HALF), lambda: nc.Activation("elu", 0.5)),
        (lambda: nc.Dropout(HALF), lambda: nc.Dropout(0.5)),
        (lambda: nc.Upsample([TWO, HALF]), lambda: nc.Upsample((2, 0.5))),
        (lambda: nc.Upsample(size=TWO), lambda: nc.Upsample(size=2)),
        (lambda: nc.Concatenate(np.int64(0)), lambda: nc.Concatenate(0)),
        (lambda: nc.Reshape([4, TWO]), lambda: nc.Reshape((4, 2))),
        (lambda: nc.Permute([1, TWO, 0]), lambda: nc.Permute((1, 2, 0))),
        (lambda: nc.ZeroPad([[1, TWO], [0, 0]]), lambda: nc.ZeroPad(((1, 2), (0, 0)))),
        (lambda: nc.Crop([1, TWO]), lambda: nc.Crop((1, 2))),
        (lambda: nc.Split([TWO, 3]), lambda: nc.Split((2, 3))),
        (lambda: nc.Slice(TWO, np.int8(-1)), lambda: nc.Slice(2, -1)),
        (lambda: nc.Scale(HALF, np.int8(-1)), lambda: nc.Scale(0.5, -1)),
    ],
)  # fmt: skip
def test_layers_take_numbers_of_numpy_and_lists(numpy, python):
    layer, same = numpy(), python()
    assert layer == same
    assert hash(layer) == hash(same)
    assert repr(layer) == repr(same)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nc.Dense(0), "Dense: units is 0; it takes an integer of at least 1."),
        (lambda: nc.Dense(True), "Dense: units is True"),
        (lambda: nc.Concatenate(1.0), "Concatenate: axis is 1.0; it takes an integer."),
        (lambda: nc.LpPool2D(2, p=True), "LpPool2D: p is True; it takes a finite number above 0."),
        (lambda: nc.BatchNorm(momentum=2), "BatchNorm: momentum is 2; it takes a finite number of at least 0 and of at most 1."),
        (lambda: nc.Dropout(1), "Dropout: rate is 1; it takes a finite number of at least 0 and below 1."),
        (lambda: nc.Scale(True), "Scale: initial is True; it takes a finite number."),
        (lambda: nc.Activation(nc.PReLU), "Activation: function is <class"),
        (lambda: nc.Activation(np.tanh), "it takes the registered name of an activation, such as 'relu'."),
        (lambda: nc.Activation("elu", "x"), "Activation: alpha is 'x'"),
        (lambda: nc.Activation("elu", [1.0]), "Activation: alpha is [1.0]"),
    ],
)
def test_what_is_said_of_the_rest(make, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        make()
