"""Functions of each element and a learned weight, forward and backward: Scale, PReLU.

Arrays are ``(1, pixels, channels)``, with a weight for each channel, or for as many neighbouring channels: so a weight for each place along
another axis is one for all places of the axes after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .blocks import UNROLL, cut_for_elements, cut_for_sums, place
from .columns import sum_parts
from .driver import cuda, device_function, float32, int32
from .indexing import quotient
from .launch import THREADS, Kernel, kernel
from .memory import DeviceArray
from .reduce import block_sum, column_sum


@device_function
def _product(x, w):
    return x * w


@device_function
def _product_slopes(dy, x, w):
    return dy * w, dy * x


@device_function
def _rectified(x, w):
    return x if x > float32(0) else x * w


@device_function
def _rectified_slopes(dy, x, w):
    above = x > float32(0)
    return dy if above else dy * w, float32(0) if above else dy * x


@functools.cache
def _forward(function: Callable) -> Kernel:
    @kernel
    def weighted(x, weight, each, y, pixels, channels, lanes, rows, slices, chunk, chunks):
        v = cuda.local.array(UNROLL, float32)
        _, part, row, channel = place(channels, lanes, slices, chunks)
        if row < rows and channel < channels:
            w = weight[quotient(channel, each)]
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32(p * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    v[k] = x[at + k * step]
                for k in range(UNROLL):
                    y[at + k * step] = function(v[k], w)
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                y[at] = function(x[at], w)
                p, at = int32(p + rows), int32(at + step)

    return weighted


@functools.cache
def _backward(slopes: Callable) -> Kernel:
    @kernel
    def weighted_gradients(
        dy, x, weight, each, dx, dx_wanted, partials, sums_wanted, pixels, channels, lanes, rows, slices, chunk, chunks
    ):  # fmt: skip
        """``partials[chunk, channel]``: the gradient of the weight."""
        sums = cuda.shared.array(THREADS, float32)
        v = cuda.local.array(UNROLL, float32)
        given = cuda.local.array(UNROLL, float32)
        thread = int32(cuda.threadIdx.x)
        _, part, row, channel = place(channels, lanes, slices, chunks)
        found = float32(0)
        if row < rows and channel < channels:
            w = weight[quotient(channel, each)]
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32(p * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    given[k] = dy[at + k * step]
                    v[k] = x[at + k * step]
                for k in range(UNROLL):
                    d, term = slopes(given[k], v[k], w)
                    found += term
                    if dx_wanted:
                        dx[at + k * step] = d
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                d, term = slopes(dy[at], x[at], w)
                found += term
                if dx_wanted:
                    dx[at] = d
                p, at = int32(p + rows), int32(at + step)
        if sums_wanted:
            whole = column_sum(sums, thread, row, rows, lanes, found)
            if row == 0 and channel < channels:
                partials[part * channels + channel] = whole

    return weighted_gradients


@kernel
def _sum_neighbours(partials, parts, each, dweight, count):
    """A block for each weight adds up those of its neighbouring channels."""
    sums = cuda.shared.array(THREADS, float32)
    thread, at = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
    found = float32(0)
    for part in range(parts):
        for k in range(thread, each, int32(THREADS)):
            found += partials[(part * count + at) * each + k]
    whole = block_sum(sums, thread, found)
    if thread == 0:
        dweight[at] = whole


def _run(function: Callable, x: DeviceArray, weight: DeviceArray, y: DeviceArray) -> None:
    cut = cut_for_elements(*x.shape)
    _forward(function)(cut.blocks, x, weight, x.shape[-1] // weight.size, y, *cut.sizes)


def _run_back(
    slopes: Callable, dy: DeviceArray, x: DeviceArray, weight: DeviceArray, dx: DeviceArray | None, partials: DeviceArray,
    dweight: DeviceArray | None,
) -> None:  # fmt: skip
    if dx is None and dweight is None:
        return
    cut, each, summed = cut_for_sums(*x.shape), x.shape[-1] // weight.size, dweight is not None
    _backward(slopes)(cut.blocks, dy, x, weight, each, dy if dx is None else dx, dx is not None, partials, summed, *cut.sizes)
    if dweight is None:
        return
    if each == 1:
        sum_parts(partials, dweight)
    else:
        _sum_neighbours(dweight.size, partials, partials.shape[0], each, dweight, dweight.size)


def partials_shape(pixels: int, channels: int) -> tuple[int, int]:
    """Shape of the scratch array of the backward functions."""
    return cut_for_sums(1, pixels, channels).chunks, channels


def scale(x: DeviceArray, weight: DeviceArray, y: DeviceArray) -> None:
    """``y = x * weight``; ``y`` may be ``x``."""
    _run(_product, x, weight, y)


def scale_backward(
    dy: DeviceArray, x: DeviceArray, weight: DeviceArray, dx: DeviceArray | None, partials: DeviceArray, dweight: DeviceArray | None
) -> None:
    """``dx = dy * weight``, which may be ``dy``, and ``dweight = sum(dy * x)``, where they are not None."""
    _run_back(_product_slopes, dy, x, weight, dx, partials, dweight)


def prelu(x: DeviceArray, weight: DeviceArray, y: DeviceArray) -> None:
    """``y = x`` above 0, ``weight * x`` elsewhere; ``y`` may be ``x``."""
    _run(_rectified, x, weight, y)


def prelu_backward(
    dy: DeviceArray, x: DeviceArray, weight: DeviceArray, dx: DeviceArray | None, partials: DeviceArray, dweight: DeviceArray | None
) -> None:
    """``dx = dy`` where x is above 0, ``weight * dy`` elsewhere, which may be ``dy``, and ``dweight = sum(dy * min(x, 0))``, where they
    are not None."""
    _run_back(_rectified_slopes, dy, x, weight, dx, partials, dweight)
