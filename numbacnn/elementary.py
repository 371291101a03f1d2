"""Elementary functions of Tiles: ``math.exp``, ``log``, ``log1p``, ``expm1``, ``tanh``, ``sqrt``, ``erf`` and others inside kernels.

Importing this module teaches Numba these functions of :mod:`math` for Tiles; what they do to numbers is untouched.

float32 Tiles go through the short polynomials below, at most 4 units in the last place (ulp) from the true value over the whole
range; each function states the error that was measured. Denormal arguments count in full, a result that would be denormal may
become zero. Infinities and NaN are treated as in the C library. The polynomials were fitted by iteratively reweighted least squares
in Chebyshev form to the smallest largest error, then rounded to float32. float64 Tiles, and functions without a polynomial here, are
computed element by element by the C library.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import numpy as np
from numba import types
from numba.extending import overload

from .simd import Tile, bits, clamp, convert, each, floor, from_bits, power, square_root, where

INFINITY, NAN = math.inf, math.nan
LOG2_E = math.log2(math.e)
LN2_HIGH, LN2_LOW = 0.693359375, math.log(2) - 0.693359375  # the product of the first with an exponent is exact in float32
ROUNDING = 1.5 * 2.0**23  # adding it to a float32 rounds to an integer and leaves that in the lowest bits
EXP_LOWEST, EXP_HIGHEST = -87.33654, 88.72283  # exp of these is the smallest normal and the largest float32
BIASED_ROUNDING = ROUNDING + 126.0  # so that the lowest bits are the exponent field of half the power of two
SMALLEST_NORMAL = 2.0**-126
SQRT_HALF_BITS = int(np.float32(math.sqrt(0.5)).view(np.int32))


# float32: each function of one Tile ----------------------------------------------------------------------------------


def _exp(x):
    """e**x = 2**n * e**r with r = x - n * ln 2 in +-0.35. Error 1.0 ulp."""
    shifted = x * LOG2_E + ROUNDING
    n = shifted - ROUNDING
    r = x - n * LN2_HIGH - n * LN2_LOW
    q = (((0.0013814191333949566 * r + 0.008368914015591145) * r + 0.04166840761899948) * r + 0.1666651964187622) * r + 0.4999999403953552
    result = from_bits(bits(q * r * r + r + 1.0) + (bits(shifted) << 23))
    return where(x <= EXP_HIGHEST, where(x >= EXP_LOWEST, result, 0.0), x * INFINITY)


def _expm1(x):
    """e**x - 1 = 2**n * (e**r - 1) + (2**n - 1), n and r as in exp. Error 1.5 ulp."""
    clipped = where(x < -20.0, -20.0, where(x > 90.0, 90.0, x))
    shifted = clipped * LOG2_E + ROUNDING
    n = shifted - ROUNDING
    r = clipped - n * LN2_HIGH - n * LN2_LOW
    q = (((0.0013814191333949566 * r + 0.008368914015591145) * r + 0.04166840761899948) * r + 0.1666651964187622) * r + 0.4999999403953552
    half = from_bits((bits(shifted) + 126) << 23)  # 2**(n - 1), which is finite where 2**n is not
    scaled = (q * r * r + r) * half + (half - 0.5)
    return where(x <= EXP_HIGHEST, where(n == 0.0, q * r * r + r, scaled + scaled), x * INFINITY)


def _log(x):
    """ln x = e * ln 2 + ln(1 + f) with x = 2**e * (1 + f), 1 + f between sqrt(1/2) and sqrt(2). Error 1.0 ulp."""
    normal = where(x < SMALLEST_NORMAL, x * 2.0**23, x)
    offset = where(x < SMALLEST_NORMAL, 23.0, 0.0)
    exponent = (bits(normal) - SQRT_HALF_BITS) >> 23
    f = from_bits(bits(normal) - (exponent << 23)) - 1.0
    e = convert(exponent, x) - offset
    p = ((-0.11675652116537094 + 0.06746640056371689 * f) * f + 0.11888162046670914) * f - 0.1240558922290802
    p = (((p * f + 0.14219552278518677) * f - 0.1666799634695053) * f + 0.2000211924314499) * f - 0.25000008940696716
    p = (p * f + 0.3333331346511841) * f * f * f
    logarithm = e * LN2_HIGH + (f + (e * LN2_LOW + (p - 0.5 * f * f)))
    return where((x > 0.0) & (x < INFINITY), logarithm, where(x == 0.0, -INFINITY, where(x > 0.0, x, NAN)))


def _log1p(x):
    """ln(1 + x) = ln u + (x - (u - 1)) / u with u = 1 + x rounded. Error 1.4 ulp."""
    u = x + 1.0
    correction = (x - (u - 1.0)) / u
    return math.log(u) + where((u > 0.0) & (u < INFINITY), correction, 0.0)


def _tanh(x):
    """tanh |x| = m / (m + 2) with m = expm1(2 |x|); the sign is put back. Error 2.5 ulp."""
    size = abs(x)
    m = math.expm1(2.0 * where(size > 10.0, 10.0, size))
    result = m / (m + 2.0)
    return where(x < 0.0, -result, result)


def _erf(x):
    """x * P(x**2) up to 1, and 1 - e**-Q(|x|) beyond, Q near -ln erfc. Error 2.5 ulp.

    Both follow from the definition erf x = 2 / sqrt(pi) * integral of e**(-t**2) over 0..x.
    """
    size = abs(x)
    t = where(size > 4.0, 4.0, size)
    z = t * t
    p = (7.853860734030604e-05 * z - 0.0008010193705558777) * z + 0.005188327748328447
    p = (((p * z - 0.026853812858462334) * z + 0.1128358542919159) * z - 0.3761262595653534) * z + 1.1283791065216064
    q = (2.169760045944713e-05 * t - 0.0004414724826347083) * t + 0.004205283708870411
    q = (((q * t - 0.025210337713360786) * t + 0.10842209309339523) * t + 0.633216381072998) * t + 1.1295802593231201
    beyond = 1.0 - math.exp(0.00018846726749435067 - q * t)
    return where(size > 1.0, where(x < 0.0, -beyond, beyond), x * p)


def _logistic_denominator(x):
    """1 + e**-x = 1 + 2**(n - 1) * 2 e**-r with r = x + n * ln 2 in +-0.35. Error 2.5 ulp.

    A multiply-add takes the place of exp's special cases: clamped, e**-x is infinite where it should be; the smallest don't count beside 1.
    """
    clipped = clamp(x, -89.0, 40.0)
    shifted = clipped * -LOG2_E + BIASED_ROUNDING
    n = shifted - BIASED_ROUNDING
    r = clipped + n * LN2_HIGH + n * LN2_LOW
    q = ((0.08379566669464111 - 0.016579434275627136 * r) * r - 0.33335295319557190) * r + 0.9999830126762390
    return 1.0 + ((q * r - 1.999999403953552) * r + 2.0) * from_bits(bits(shifted) << 23)


FLOAT32 = {math.exp: _exp, math.expm1: _expm1, math.log: _log, math.log1p: _log1p, math.tanh: _tanh, math.erf: _erf}
ELEMENTWISE = (
    math.sin, math.cos, math.tan, math.asin, math.acos, math.atan, math.sinh, math.cosh, math.asinh, math.acosh, math.atanh,
    math.log2, math.log10, math.erfc,
)  # fmt: skip


def _teach(function: Callable, polynomial: Callable | None) -> None:
    @overload(function)
    def of_tile(x):
        if isinstance(x, Tile) and x.dtype == types.float32 and polynomial is not None:
            return polynomial
        if isinstance(x, Tile):
            return lambda x: each(function, x)
        return None


for _function in (*FLOAT32, *ELEMENTWISE):
    _teach(_function, FLOAT32.get(_function))


@overload(math.sqrt)
def _sqrt(x):
    if isinstance(x, Tile):
        return lambda x: square_root(x)


@overload(math.fabs)
def _fabs(x):
    if isinstance(x, Tile):
        return lambda x: abs(x)


@overload(math.floor)
def _floor(x):
    if isinstance(x, Tile):
        return lambda x: floor(x)


# Functions that math lacks -------------------------------------------------------------------------------------------


def logistic_denominator(x):
    """``1 + e**-x``, of which sigmoid is the reciprocal; infinite where ``e**-x`` is. For kernels and functions that go into them."""
    return 1.0 + math.exp(-x)


@overload(logistic_denominator)
def _denominator(x):
    if isinstance(x, Tile) and x.dtype == types.float32:
        return _logistic_denominator
    return lambda x: 1.0 + math.exp(-x)


# Powers --------------------------------------------------------------------------------------------------------------


_PRODUCTS: dict[int, Callable] = {
    2: lambda x, exponent: x * x,
    3: lambda x, exponent: x * x * x,
    4: lambda x, exponent: (x * x) * (x * x),
}


@overload(operator.pow, prefer_literal=True)
def _power(x, exponent):
    """Small whole exponents by multiplication, others element by element."""
    if not any(isinstance(kind, Tile) for kind in (x, exponent)) or not all(
        isinstance(kind, Tile | types.Number) for kind in (x, exponent)
    ):
        return None
    whole = exponent.literal_value if isinstance(exponent, types.IntegerLiteral) else None
    return _PRODUCTS.get(whole, lambda x, exponent: power(x, exponent))
