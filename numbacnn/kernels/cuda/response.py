"""Local response normalisation on the device, forward and backward."""

from __future__ import annotations

import math

from .driver import cuda, device_function, float32, int32
from .indexing import quotient
from .launch import THREADS, blocks_for, kernel
from .memory import DeviceArray

RESPONSES = 4 * THREADS  # elements of a block


@device_function
def _response(x, at, c, channels, size, alpha, k):
    """The base of the power at channel ``c`` of the pixel whose channels begin at ``at``."""
    first, last = int32(max(c - size // 2, 0)), int32(min(c + (size - 1) // 2 + 1, channels))
    squares = float32(0)
    for j in range(first, last):
        value = x[at + j]
        squares += value * value
    return squares * alpha + k


@kernel
def _forward(x, y, count, channels, size, alpha, beta, k):
    at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
    if at < count:
        first = int32(quotient(at, channels) * channels)
        y[at] = x[at] * math.exp(math.log(_response(x, first, at - first, channels, size, alpha, k)) * -beta)


def forward(x: DeviceArray, y: DeviceArray, size: int, alpha: float, beta: float, k: float) -> None:
    """``y`` = ``x / (k + alpha / size * sum of x ** 2 over the channels c - size // 2 to c + (size - 1) // 2) ** beta``, for pixels
    ``(pixels, channels)``."""
    _forward(blocks_for(x.size), x, y, x.size, x.shape[1], size, alpha / size, beta, k)


@kernel
def _backward(x, dy, dx, pixels, channels, each, size, alpha, beta, k):
    """A block has ``each`` pixels: what a channel gives to those around it is kept for all of them."""
    terms = cuda.shared.array(0, float32)
    thread, first = int32(cuda.threadIdx.x), int32(int32(cuda.blockIdx.x) * each)
    start, count = int32(first * channels), int32(min(each, pixels - first) * channels)
    at = thread
    while at < count:
        begin = int32(quotient(at, channels) * channels)
        base = _response(x, start + begin, at - begin, channels, size, alpha, k)
        scaled = dy[start + at] * math.exp(math.log(base) * -beta)
        terms[at] = scaled * x[start + at] / base
        dx[start + at] = scaled
        at = int32(at + THREADS)
    cuda.syncthreads()
    at = thread
    while at < count:
        begin = int32(quotient(at, channels) * channels)
        c = int32(at - begin)
        around = float32(0)
        for j in range(int32(max(c - (size - 1) // 2, 0)), int32(min(c + size // 2 + 1, channels))):
            around += terms[begin + j]
        dx[start + at] -= x[start + at] * around * (float32(2) * alpha * beta)
        at = int32(at + THREADS)


def backward(x: DeviceArray, dy: DeviceArray, dx: DeviceArray, size: int, alpha: float, beta: float, k: float) -> None:
    """``dx`` = ``dy * r ** -beta - 2 * alpha * beta / size * x * sum of dy * x * r ** (-beta - 1)`` over the channels whose windows
    hold this one, with ``r`` the base of the power in :func:`forward`."""
    pixels, channels = x.shape
    each = max(1, RESPONSES // channels)
    _backward(
        blocks_for(pixels, each), x, dy, dx, pixels, channels, each, size, alpha / size, beta, k, shared=4 * each * channels
    )  # fmt: skip
