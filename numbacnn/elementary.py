"""Elementary functions of Tiles: ``math.exp``, ``log``, ``log1p``, ``expm1``, ``tanh``, ``sqrt``, ``erf`` and others inside kernels.

Importing this module teaches Numba these functions of :mod:`math` for Tiles; what they do to numbers is untouched.

float32 Tiles go through the short polynomials below, at most 4 units in the last place (ulp) from the true value over the whole
range (erf: 6); each function states the error that was measured. Denormal arguments count in full, a result that would be denormal may
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
    """z * P(z**2) / Q(z**2), with z = x clamped to where erf becomes 1 in float32. Error 5.5 ulp."""
    z = clamp(x, -3.92, 3.92)
    t = z * z
    p = ((2.050139528364525e-06 * t + 0.00028488083626143634) * t + 0.0037654535844922066) * t + 0.052748214453458786
    p = (p * t + 0.19040240347385406) * t + 1.1283791065216064
    q = ((3.8092162867542356e-05 * t + 0.0011624994222074747) * t + 0.01496888417750597) * t + 0.11410745978355408
    q = (q * t + 0.5020724534988403) * t + 1.0
    return clamp(z * p / q, -1.0, 1.0)


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
