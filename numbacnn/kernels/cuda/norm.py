"""Batch, group and instance normalisation on the device, forward and backward (compare :mod:`numbacnn.kernels.norm`, whose formulas these
are).

Arrays are ``(samples, pixels, channels)``, with statistics of each sample and group of channels, which :mod:`.statistics` finds; batch
normalisation has one "sample". A pass with sums leaves partial sums of chunks of the pixels, as there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import activations
from . import scalar
from .blocks import UNROLL, cut_for_elements, cut_for_sums, place
from .driver import cuda, device_function, float32, float64, int32
from .indexing import quotient
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray
from .reduce import MERGE_LANES, column_sum
from .statistics import lane_total, merge_cut, merge_place

MERGE_ROWS = THREADS // MERGE_LANES

Followed = tuple[Any, ...]
"""What follows a normalisation: ``(None,)`` or ``(function, derivative, gradient from the output)``."""


# Forward -------------------------------------------------------------------------------------------------------------


@functools.cache
def _normalise(function: Callable | None, residual: bool) -> Kernel:
    finish = _same if function is None else scalar.compiled(function)

    @kernel
    def normalise(
        x, addend, y, mean, rstd, weight, scaled, bias, centered, pixels, channels, lanes, rows, slices, chunk, chunks
    ):  # fmt: skip
        v = cuda.local.array(UNROLL, float32)
        more = cuda.local.array(UNROLL, float32)
        sample, part, row, channel = place(channels, lanes, slices, chunks)
        if row < rows and channel < channels:
            average, factor = mean[sample * channels + channel], rstd[sample * channels + channel]
            if scaled:
                factor *= weight[channel]
            offset = bias[channel] if centered else float32(0)
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32((sample * pixels + p) * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    v[k] = x[at + k * step]
                    if residual:
                        more[k] = addend[at + k * step]
                for k in range(UNROLL):
                    value = (v[k] - average) * factor + offset
                    if residual:
                        value += more[k]
                    y[at + k * step] = finish(value)
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                value = (x[at] - average) * factor + offset
                if residual:
                    value += addend[at]
                y[at] = finish(value)
                p, at = int32(p + rows), int32(at + step)

    return normalise


@device_function
def _same(x):
    return x


def optional(array: DeviceArray | None, instead: DeviceArray) -> tuple[DeviceArray, bool]:
    """A parameter for a kernel, and whether there is one."""
    return (instead, False) if array is None else (array, True)


def normalise(
    function: Callable | None, x: DeviceArray, addend: DeviceArray | None, y: DeviceArray, mean: DeviceArray, rstd: DeviceArray,
    weight: DeviceArray | None, bias: DeviceArray | None,
) -> None:  # fmt: skip
    """``y = function((x - mean) * rstd * weight + bias + addend)`` of ``x`` ``(samples, pixels, channels)``, with ``mean`` and ``rstd``
    ``(samples, channels)``, ``weight`` and ``bias`` ``(channels,)``; what is None is left out. ``y`` may be ``x`` or ``addend``."""
    cut = cut_for_elements(*x.shape)
    _normalise(function, addend is not None)(
        cut.blocks, x, x if addend is None else addend, y, mean, rstd, *optional(weight, mean), *optional(bias, mean), *cut.sizes
    )


# Backward ------------------------------------------------------------------------------------------------------------


@functools.cache
def _before(function: Callable | None, derivative: Callable | None = None, gradient: Callable | None = None) -> Callable:
    """The device function ``(dy, z)``: the gradient of ``z`` from that of ``function(z)``, by ``gradient`` of ``dy`` and the result (or
    ``z`` itself where that serves as well), or by the ``derivative``, or by dual numbers."""
    if function is None:
        return _first
    if gradient is not None:
        f, from_output = _same if gradient in activations.OF_BOUNDS else scalar.compiled(function), scalar.compiled(gradient)

        @device_function
        def by_output(dy, z):
            return from_output(dy, f(z))

        return by_output
    slope = scalar.compiled(derivative) if derivative else scalar.derivative(function)

    @device_function
    def by_slope(dy, z):
        return dy * slope(z)

    return by_slope


@device_function
def _first(dy, z):
    return dy


@functools.cache
def _partial_gradients(followed: Followed, residual: bool, keeps: bool) -> Kernel:
    before = _before(*followed)

    @kernel
    def partial_gradients(
        x, addend, dy, dz, mean, rstd, weight, scaled, bias, centered, partials, plane,
        pixels, channels, lanes, rows, slices, chunk, chunks,
    ):  # fmt: skip
        sums = cuda.shared.array(THREADS, float32)
        v = cuda.local.array(UNROLL, float32)
        more = cuda.local.array(UNROLL, float32)
        given = cuda.local.array(UNROLL, float32)
        thread = int32(cuda.threadIdx.x)
        sample, part, row, channel = place(channels, lanes, slices, chunks)
        plain, weighted = float32(0), float32(0)
        if row < rows and channel < channels:
            average, factor = mean[sample * channels + channel], rstd[sample * channels + channel]
            if scaled:
                factor *= weight[channel]
            offset = bias[channel] if centered else float32(0)
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32((sample * pixels + p) * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    v[k] = x[at + k * step]
                    given[k] = dy[at + k * step]
                    if residual:
                        more[k] = addend[at + k * step]
                for k in range(UNROLL):
                    centred = v[k] - average
                    z = centred * factor + offset
                    if residual:
                        z += more[k]
                    d = before(given[k], z)
                    if keeps:
                        dz[at + k * step] = d
                    plain += d
                    weighted += d * centred
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                centred = x[at] - average
                z = centred * factor + offset
                if residual:
                    z += addend[at]
                d = before(dy[at], z)
                if keeps:
                    dz[at] = d
                plain += d
                weighted += d * centred
                p, at = int32(p + rows), int32(at + step)
        plain = column_sum(sums, thread, row, rows, lanes, plain)
        weighted = column_sum(sums, thread, row, rows, lanes, weighted)
        if row == 0 and channel < channels:
            to = int32((sample * chunks + part) * channels + channel)
            partials[to] = plain
            partials[plane + to] = weighted

    return partial_gradients


def partial_gradients(
    followed: Followed, x: DeviceArray, addend: DeviceArray | None, dy: DeviceArray, dz: DeviceArray | None, mean: DeviceArray,
    rstd: DeviceArray, weight: DeviceArray | None, bias: DeviceArray | None, partials: DeviceArray,
) -> None:  # fmt: skip
    """``partials[:, n, k, c]`` = sums of the gradient ``dz`` and of ``dz * (x - mean)`` over chunk ``k``, where ``dz`` is the gradient of
    what :func:`normalise` gave to its function, from ``dy``, that of the result. It is kept in ``dz`` unless that is None; ``dz`` may be
    ``dy``."""
    cut = cut_for_sums(*x.shape)
    _partial_gradients(followed, addend is not None, dz is not None)(
        cut.blocks, x, x if addend is None else addend, dy, dy if dz is None else dz, mean, rstd,
        *optional(weight, mean), *optional(bias, mean), partials, partials.size // 2, *cut.sizes,
    )  # fmt: skip


@kernel
def _merge_batch_slopes(
    partials, plane, pixels, channels, chunks, rstd, weight, scaled, slope, offset, dweight, weight_wanted, dbias, bias_wanted
):  # fmt: skip
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    row = quotient(thread, MERGE_LANES)
    channel = int32((int32(cuda.blockIdx.x) - row) * MERGE_LANES + thread)
    plain, weighted = float64(0), float64(0)
    if channel < channels:
        part = row
        while part < chunks:
            plain += float64(partials[part * channels + channel])
            weighted += float64(partials[plane + part * channels + channel])
            part = int32(part + MERGE_ROWS)
    plain = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), plain)
    weighted = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), weighted)
    if row == 0 and channel < channels:
        scale = float64(rstd[channel])
        factor = scale / float64(pixels)
        if scaled:
            factor *= float64(weight[channel])
        offset[channel] = float32(-factor * plain)
        slope[channel] = float32(-factor * scale * scale * weighted)
        if weight_wanted:
            dweight[channel] = float32(weighted * scale)
        if bias_wanted:
            dbias[channel] = float32(plain)


def merge_batch_slopes(
    partials: DeviceArray, pixels: int, rstd: DeviceArray, weight: DeviceArray | None, slope: DeviceArray, offset: DeviceArray,
    dweight: DeviceArray | None, dbias: DeviceArray | None,
) -> None:  # fmt: skip
    """What :func:`merge_slopes` and :func:`merge_gradients` find for one sample and a group for each channel, at once."""
    channels = partials.shape[-1]
    _merge_batch_slopes(
        blocks_for(channels, MERGE_LANES), partials, partials.size // 2, pixels, channels, partials.shape[2], rstd, *optional(weight, rstd),
        slope, offset, *optional(dweight, rstd), *optional(dbias, rstd),
    )  # fmt: skip


@kernel
def _merge_slopes(
    partials, plane, pixels, channels, chunks, width, lanes, rows, members, span, tiles, rstd, weight, scaled, slope, offset
):  # fmt: skip
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    sample, first, row, lane, begin = merge_place(lanes, members, width, span, tiles)
    last = int32(min(first + span, channels))
    plain, weighted = float64(0), float64(0)
    if row < rows:
        channel = int32(first + lane)
        while channel < last:
            factor = float64(weight[channel]) if scaled else float64(1)
            part = row
            while part < chunks:
                at = int32((sample * chunks + part) * channels + channel)
                plain += factor * float64(partials[at])
                weighted += factor * float64(partials[plane + at])
                part = int32(part + rows)
            channel = int32(channel + lanes)
    plain = lane_total(sums, thread, row, rows, lanes, begin, members, plain)
    weighted = lane_total(sums, thread, row, rows, lanes, begin, members, weighted)
    if row == 0:
        channel = int32(first + lane)
        while channel < last:
            scale = float64(rstd[sample * channels + channel])
            factor = scale / (float64(pixels) * float64(width))
            offset[sample * channels + channel] = float32(-factor * plain)
            slope[sample * channels + channel] = float32(-factor * scale * scale * weighted)
            channel = int32(channel + lanes)


def merge_slopes(
    partials: DeviceArray, pixels: int, groups: int, rstd: DeviceArray, weight: DeviceArray | None, slope: DeviceArray, offset: DeviceArray
) -> None:
    """``slope`` and ``offset`` ``(samples, channels)``, with which ``dx = rstd * weight * dy + slope * (x - mean) + offset``, from the
    partial sums. With ``g = dy * weight`` and ``n = (x - mean) * rstd``, that is ``rstd * (g - average of g - n * average of g * n)``."""
    _, samples, chunks, channels = partials.shape
    tiles, tile = merge_cut(channels, groups, chunks)
    _merge_slopes(
        samples * tiles, partials, partials.size // 2, pixels, channels, chunks, *tile, rstd, *optional(weight, rstd), slope, offset
    )  # fmt: skip


@kernel
def _merge_gradients(partials, plane, samples, channels, chunks, rstd, by_rstd, dweight, weight_wanted, dbias, bias_wanted):
    sums = cuda.shared.array(THREADS, float64)
    thread = int32(cuda.threadIdx.x)
    row = quotient(thread, MERGE_LANES)
    channel = int32((int32(cuda.blockIdx.x) - row) * MERGE_LANES + thread)
    plain, weighted = float64(0), float64(0)
    if channel < channels:
        part = row
        while part < samples * chunks:
            at = int32(part * channels + channel)
            factor = float64(rstd[quotient(part, chunks) * channels + channel]) if by_rstd else float64(1)
            plain += float64(partials[at])
            weighted += float64(partials[plane + at]) * factor
            part = int32(part + MERGE_ROWS)
    plain = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), plain)
    weighted = column_sum(sums, thread, row, int32(MERGE_ROWS), int32(MERGE_LANES), weighted)
    if row == 0 and channel < channels:
        if weight_wanted:
            dweight[channel] = float32(weighted)
        if bias_wanted:
            dbias[channel] = float32(plain)


def merge_gradients(partials: DeviceArray, rstd: DeviceArray | None, dweight: DeviceArray | None, dbias: DeviceArray | None) -> None:
    """``dweight`` and ``dbias``, where not None, from the partial sums ``(2, samples, chunks, channels)``, of which the second ones are
    multiplied by ``rstd`` ``(samples, channels)`` unless that is None."""
    _, samples, chunks, channels = partials.shape
    _merge_gradients(
        blocks_for(channels, MERGE_LANES), partials, partials.size // 2, samples, channels, chunks, *optional(rstd, partials),
        *optional(dweight, partials), *optional(dbias, partials),
    )  # fmt: skip


@functools.cache
def _normalise_backward(followed: Followed, fixed: bool) -> Kernel:
    before, reads_x = _before(*followed), not fixed or followed[0] is not None

    @kernel
    def normalise_backward(
        x, dy, dx, mean, rstd, weight, scaled, bias, centered, slope, offset, pixels, channels, lanes, rows, slices, chunk, chunks
    ):  # fmt: skip
        v = cuda.local.array(UNROLL, float32)
        given = cuda.local.array(UNROLL, float32)
        sample, part, row, channel = place(channels, lanes, slices, chunks)
        if row < rows and channel < channels:
            average, factor = mean[sample * channels + channel], rstd[sample * channels + channel]
            if scaled:
                factor *= weight[channel]
            shift = bias[channel] if centered else float32(0)
            tilt = float32(0) if fixed else slope[sample * channels + channel]
            level = float32(0) if fixed else offset[sample * channels + channel]
            stop = int32(min(pixels, part * chunk + chunk))
            p = int32(part * chunk + row)
            at, step = int32((sample * pixels + p) * channels + channel), int32(rows * channels)
            while p + (UNROLL - 1) * rows < stop:
                for k in range(UNROLL):
                    given[k] = dy[at + k * step]
                    v[k] = x[at + k * step] if reads_x else average
                for k in range(UNROLL):
                    centred = v[k] - average
                    dx[at + k * step] = before(given[k], centred * factor + shift) * factor + (centred * tilt + level)
                p, at = int32(p + UNROLL * rows), int32(at + UNROLL * step)
            while p < stop:
                centred = x[at] - average if reads_x else float32(0)
                dx[at] = before(dy[at], centred * factor + shift) * factor + (centred * tilt + level)
                p, at = int32(p + rows), int32(at + step)

    return normalise_backward


def normalise_backward(
    followed: Followed, x: DeviceArray, dy: DeviceArray, dx: DeviceArray, mean: DeviceArray, rstd: DeviceArray,
    weight: DeviceArray | None, bias: DeviceArray | None, slopes: tuple[DeviceArray, DeviceArray] | None,
) -> None:  # fmt: skip
    """``dx``, which may be ``dy``, from the ``slope`` and ``offset`` that :func:`merge_slopes` found; without these the statistics count as
    constants."""
    cut = cut_for_elements(*x.shape)
    _normalise_backward(followed, slopes is None)(
        cut.blocks, x, dy, dx, mean, rstd, *optional(weight, mean), *optional(bias, mean), *(slopes or (mean, mean)), *cut.sizes
    )
