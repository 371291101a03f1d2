"""Squareplus: one scalar function is all that numbacnn needs for the forward pass, the derivative, SIMD code and fusion."""

from math import sqrt

import numbacnn as nc


def squareplus(x):
    """``(x + sqrt(x^2 + 4)) / 2`` (J. T. Barron, "Squareplus: A Softplus-Like Algebraic Rectifier", 2021)."""
    return 0.5 * (x + sqrt(x * x + 4.0))


Squareplus = nc.activation("squareplus", squareplus)
