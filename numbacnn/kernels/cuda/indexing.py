"""Places of array elements by their number, and reads that may be out of bounds.

GPUs have no instruction for division. :func:`quotient` will do where a thread divides a few times. By numbers that are one and the same for
a launch, a product and two shifts take a quarter of the time (:func:`divided`), for places of each element: T. Granlund and P. L.
Montgomery, "Division by Invariant Integers Using Multiplication" (1994).
"""

from __future__ import annotations

from .driver import device_function, float32, int32, uint32


def divisor(number: int) -> tuple[int, int, int]:
    """``(number, multiplier, shift)``: what kernels take to divide by a positive number."""
    shift = (number - 1).bit_length()
    return number, -(-(1 << 31 + shift) // number) - (1 << 31), shift


def divisors(*numbers: int) -> tuple[int, ...]:
    """The same for several, one after the other."""
    return tuple(entry for number in numbers for entry in divisor(number))


@device_function
def quotient(a, b):
    """``a // b`` of numbers that are not negative: as whole numbers of 32 bits, which is what makes it quick."""
    return int32(uint32(a) // uint32(b))


@device_function
def divided(dividend, multiplier, shift):
    """A number of at least 0, divided by what a :func:`divisor` is of, and rounded down."""
    # The sum has 32 bits, and a shift that is seen to be below 32 takes one instruction
    total = uint32(uint32(dividend * multiplier >> 31) + uint32(dividend))
    return int32(total >> uint32(shift & int32(31)))


@device_function
def located(at, channels, by_c, of_c, width, by_w, of_w, height, by_h, of_h, depth, by_d, of_d):
    """``(sample, d, h, w, channel)`` of element ``at`` of an array ``(N, D, H, W, C)``; the four sizes are divisors."""
    pixel = divided(at, by_c, of_c)
    row = divided(pixel, by_w, of_w)
    plane = divided(row, by_h, of_h)
    sample = divided(plane, by_d, of_d)
    d, h, w = int32(plane - sample * depth), int32(row - plane * height), int32(pixel - row * width)
    return sample, d, h, w, int32(at - pixel * channels)


@device_function
def read_inside(x, at, inside):
    """``x[at]``, or 0 where that is not inside: always a load, of something. Around a branch each load would wait for the one before."""
    value = x[at if inside else int32(0)]
    return value if inside else float32(0)
