"""Dual numbers: every operation and function against central differences, on Tiles and on numbers."""

import math

import numpy as np
import pytest

from numbacnn.dual import SLOPES, dual, slope, value
from numbacnn.errors import ConfigError
from numbacnn.kernels import scalar
from numbacnn.kernels.jit import inline, kernel
from numbacnn.simd import LANES, apply, load, store, where

OPERATIONS = {
    "sums": lambda x: 1 + x + 2.5 - (x - 3) - (4 - x) + (x + x) - (x * 2 - x),
    "products": lambda x: 2 * x * x * 3.0 * (-x),
    "quotients": lambda x: x / 3 + 1 / x + (x + 1) / (x * x + 2),
    "powers": lambda x: x**0 + x**1 + x**2 + x**5 + x**-2 + (x * x) ** 1.5 + 2.0**x + (x * x) ** x,
    "extremes": lambda x: max(x, 0.5) + min(x, 0.25) + max(1.0, x * x) + min(2, x) + max(x, x * x) + min(x, -x),
    "several": lambda x: max(x, -0.6, x * x) + min(0.9, x, 2.0 * x, 0.25),
    "signs": lambda x: abs(x) * 2 + -x + +x,
    "where": lambda x: where(x > 0.3, x * x, x) + where(x <= -0.4, 1.0, x) + where(x == 100.0, x, 2.0) + where(x != 100, x, 3),
    "chosen": lambda x: where(x > 0.3, 2.0, 0.5) * x,
    "constant": lambda x: 0 * x + 3,
}
BRANCHES = {
    "number": lambda x: x if x > 0 else 0,
    "chain": lambda x: 0.1 * x if x < 0 else (x * x if x < 1 else 2 * x - 1.0),
    "boolean": lambda x: x if (x > 0 and not x > 1) or x == 5 else 2 * x,
}
POINTS = np.random.default_rng(0).uniform(-0.95, 0.95, 4 * LANES)
POINTS = np.where(np.min(abs(POINTS[:, None] - [-0.4, 0, 0.25, 0.3, 0.5]), 1) < 0.01, 0.7, POINTS)


def slopes(function, x):
    """A kernel's derivative of a function at points, by Tiles."""
    derivative = scalar.derivative(function)

    @kernel
    def differentiate(x, y):
        for at in range(0, x.size, LANES):
            store(derivative(load(x, at, 0, 1, 1)), y, at, 0)

    y = np.full_like(x, 7)
    differentiate(x, y)
    return y


def differences(function, x, h=1e-6):
    return [(function(v + h) - function(v - h)) / (2 * h) for v in x.tolist()]


@pytest.mark.parametrize("name", [*OPERATIONS, *BRANCHES])
def test_operations(name):
    function = {**OPERATIONS, **BRANCHES}[name]
    x = abs(POINTS) if name == "powers" else POINTS
    np.testing.assert_allclose(slopes(function, x), differences(function, x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slopes(function, x.astype(np.float32)), differences(function, x), rtol=5e-5, atol=5e-6)


def test_functions():
    """All functions at once on the open unit interval, and on it moved to above 1."""
    on_unit = [function for function in SLOPES if function is not math.acosh] + [math.exp, math.expm1, math.fabs]
    x = abs(POINTS)

    for function in on_unit:
        np.testing.assert_allclose(slopes_of(function, x), differences(function, x), rtol=1e-6, atol=1e-8, err_msg=function.__name__)
    np.testing.assert_allclose(slopes_of(math.acosh, x + 1.01), differences(math.acosh, x + 1.01), rtol=1e-5)
    assert not slopes_of(math.floor, x + 0.01).any()


def slopes_of(function, x):
    """The derivative of a function of math, with numbers: less to compile."""

    @inline
    def derivative(x):
        return slope(function(dual(x, 1.0)))

    @kernel
    def differentiate(x, y):
        for at in range(x.size):
            y[at] = derivative(x[at])

    y = np.empty_like(x)
    differentiate(x, y)
    return y


def test_value_and_slope():
    """Of a dual number, and of plain numbers; a number beside a Tile holds for all of it."""

    @kernel
    def parts(x, y):
        tile = load(x, 0, 0, 1, 1)
        both = dual(tile, 2.0)
        store(value(both) + slope(both), y, 0, 0)
        store(value(dual(3, tile)) + slope(tile) + value(1.0), y, LANES, 0)

    x = np.arange(LANES, dtype=np.float32)
    y = np.empty((2, LANES), np.float32)
    parts(x, y)
    assert np.array_equal(y, [x + 2, np.full(LANES, 4)])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: 1 / (1 + math.exp(-x)), [0, 0, 0.25, 0, 0]),
        (lambda x: x / (1 + math.exp(-x)), [0, 0, 0.5, 1, 1]),
        (lambda x: x * math.tanh(math.log1p(math.exp(x))), [0, 0, 0.6, 1, 1]),
        (lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0.0), [0, 0, 0, 1, 1]),
    ],
)
def test_slopes_far_out_are_finite(function, expected):
    """exp overflows there, and the quotient rule would give NaN."""
    x = np.resize([-3e4, -100, 0, 100, 3e4], 5 * LANES)
    np.testing.assert_allclose(slopes(function, x)[:5], expected, atol=1e-12)
    np.testing.assert_allclose(slopes(function, x.astype(np.float32))[:5], expected, atol=1e-6)


def test_the_slope_of_whole_powers_at_zero():
    for function, expected in ((lambda x: x**0, 0), (lambda x: x**1, 1), (lambda x: x**2, 0)):
        assert set(slopes(function, np.zeros(LANES))) == {expected}


def test_kinks():
    x = np.zeros(LANES)
    assert not slopes(lambda x: max(x, 0.0), x).any()
    assert not slopes(lambda x: max(0.0, x), x).any()
    assert not slopes(lambda x: min(max(x, -1.0), 0.0), x).any()
    assert not slopes(lambda x: abs(x), x).any()


def test_scalar_kernels_use_the_same_helpers():
    """A derivative is a helper for numbers too."""
    derivative = scalar.derivative(OPERATIONS["products"])

    @kernel
    def of_numbers(x, y):
        for k in range(x.size):
            y[k] = apply(derivative, x[k])

    y = np.empty_like(POINTS)
    of_numbers(POINTS, y)
    np.testing.assert_allclose(y, -18 * POINTS**2, rtol=1e-12)


def endless(x):
    return endless(x - 1)


def test_functions_that_call_themselves_or_what_is_not_there_yet():
    with pytest.raises(ConfigError, match=r"The scalar function `def endless.*` calls itself"):
        scalar.compiled(endless)
    with pytest.raises(ConfigError, match="calls itself"):
        scalar.derivative(lambda x: endless(x) + 1)

    def early(x):
        return x + number

    with pytest.raises(ConfigError, match="uses 'number', which has no value yet"):
        scalar.compiled(early)
    number = 1.0
    scalar.compiled(early)
