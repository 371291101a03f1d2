"""Normalisation, forward and backward.

Batch, group and instance normalisation are one thing: arrays ``(N, P, C)`` of samples, pixels and channels, whose statistics are
taken per sample and group of channels. Batch normalisation is the case of one "sample" that holds all pixels of the batch, with a
group for each channel. Layer normalisation works on rows ``(R, C)``, with statistics of each row.

Statistics are of the numerically careful kind: a fixed partition of the pixels into chunks; for each chunk the sums of ``x - shift``
and of ``(x - shift) ** 2`` about a shift close to the chunk's mean; the chunks are then put together in float64, in their order.
A large mean costs no digits, and the bits do not depend on the number of threads.

S. Ioffe, C. Szegedy, "Batch normalization" (2015); J. Ba, J. Kiros, G. Hinton, "Layer normalization" (2016); D. Ulyanov, A. Vedaldi,
V. Lempitsky, "Instance normalization" (2016); Y. Wu, K. He, "Group normalization" (2018); A. Krizhevsky, I. Sutskever, G. Hinton,
"ImageNet classification with deep convolutional neural networks" (2012), section 3.3, for local response normalisation.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import prange

from .. import elementary  # noqa: F401  (teaches math.exp and math.log to take tiles)
from ..simd import columns, load, splat, store, stride, take, total, where, zeros
from . import scalar
from .channels import VECTORS, WIDTH, read, write
from .jit import inline, kernel

CHUNK = 512  # pixels per partial sum
SPAN = 2 * WIDTH  # channels per task of a partial sum
BLOCK = 64  # pixels per task of an elementwise pass
SEGMENT = 64 * WIDTH  # channels of a row summed in the working precision, before float64 goes on
STRIP = 16  # rows per task where rows are independent


def chunks(pixels: int) -> int:
    """Chunks that ``pixels`` fall into."""
    return -(-pixels // CHUNK)


@inline
def _spans(channels):
    return (channels + SPAN - 1) // SPAN


@inline
def _parameter(array, c, count, missing):
    """Channels of a parameter; ``missing`` everywhere if its array has size 0."""
    if array.size == 0:
        return splat(array, missing, 1, VECTORS)
    return read(array, c, count)


# Statistics per sample and group -------------------------------------------------------------------------------------


@inline
def _shifted_sums(x, at, pixels, channels, count, shift):
    """Sums of ``x - shift`` and of its square over ``pixels`` rows from ``at``."""
    plain, squares = zeros(x, 1, VECTORS), zeros(x, 1, VECTORS)
    for p in range(pixels):
        d = read(x, at + p * channels, count) - shift
        plain = plain + d
        squares = squares + d * d
    return plain, squares


@kernel(parallel=True)
def partial_statistics(x, partials, queue, threads):
    """``partials[:, n, k, c]`` = shift, sum of ``x - shift`` and sum of ``(x - shift) ** 2`` of chunk ``k``."""
    samples, pixels, channels = x.shape
    parts, spans = partials.shape[2], _spans(channels)
    plane = samples * parts * channels
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 1)
            if task >= samples * parts * spans:
                break
            piece, span = divmod(task, spans)
            n, k = divmod(piece, parts)
            length = min(CHUNK, pixels - k * CHUNK)
            for c in range(span * SPAN, min(channels, (span + 1) * SPAN), WIDTH):
                at, to, count = (n * pixels + k * CHUNK) * channels + c, piece * channels + c, channels - c
                first = read(x, at, count)
                shift = first + _shifted_sums(x, at, length, channels, count, first)[0] / length
                plain, squares = _shifted_sums(x, at, length, channels, count, shift)
                write(shift, partials, to, count)
                write(plain, partials, plane + to, count)
                write(squares, partials, 2 * plane + to, count)


@inline
def _group_mean(partials, n, first, last, pixels):
    """Mean over the channels ``first`` to ``last`` of a sample."""
    weighted = 0.0
    for k in range(partials.shape[2]):
        length = min(CHUNK, pixels - k * CHUNK)
        for c in range(first, last):
            weighted += length * np.float64(partials[0, n, k, c]) + partials[1, n, k, c]
    return weighted / (pixels * (last - first))


@inline
def _group_squares(partials, n, first, last, pixels, mean):
    """Sum of the squared distances from ``mean``, each chunk's about its own mean first."""
    squares = 0.0
    for k in range(partials.shape[2]):
        length = min(CHUNK, pixels - k * CHUNK)
        for c in range(first, last):
            rest = np.float64(partials[1, n, k, c]) / length
            distance = partials[0, n, k, c] - mean + rest
            squares += max(0.0, partials[2, n, k, c] - length * rest * rest) + length * distance * distance
    return squares


@kernel
def merge_statistics(partials, pixels, groups, epsilon, mean, rstd, momentum, running_mean, running_var):
    """``mean`` and ``rstd`` (1 / sqrt(variance + epsilon)), both ``(N, C)``, from the partial sums. With ``running_mean`` and
    ``running_var`` not of size 0 (then N is 1 and there is a group for each channel), these move towards the mean and the
    unbiased variance: ``(1 - momentum) * old + momentum * new``."""
    samples, channels = mean.shape
    width = channels // groups
    for n in range(samples):
        for g in range(groups):
            average = _group_mean(partials, n, g * width, (g + 1) * width, pixels)
            squares = _group_squares(partials, n, g * width, (g + 1) * width, pixels, average)
            for c in range(g * width, (g + 1) * width):
                mean[n, c] = average
                rstd[n, c] = 1.0 / math.sqrt(squares / (pixels * width) + epsilon)
            if running_mean.size:
                running_mean[g] = (1.0 - momentum) * running_mean[g] + momentum * average
                running_var[g] = (1.0 - momentum) * running_var[g] + momentum * (squares / (pixels - 1))


@kernel
def running_statistics(running_mean, running_var, epsilon, mean, rstd):
    """``mean`` and ``rstd`` ``(1, C)`` from the running statistics."""
    for c in range(running_mean.size):
        mean[0, c] = running_mean[c]
        rstd[0, c] = 1.0 / math.sqrt(running_var[c] + epsilon)


@functools.cache
def normalise(function):
    """The kernel ``normalise``; ``function`` is a scalar function that follows, or None."""
    finish = _same if function is None else scalar.compiled(function)

    @kernel(parallel=True, views=("x", "y"))
    def normalise(x, y, mean, rstd, weight, bias, queue, threads):
        """``y`` = ``finish((x - mean) * rstd * weight + bias)``; ``mean`` and ``rstd`` are ``(N, C)``, ``weight`` and ``bias`` ``(C,)`` or
        of size 0 for 1 and 0. Pixels of ``x`` and ``y`` may have gaps between them."""
        samples, pixels, channels = x.shape
        blocks = (pixels + BLOCK - 1) // BLOCK
        queue[0] = 0
        for _ in prange(threads):
            while True:
                task = take(queue, 1)
                if task >= samples * blocks:
                    break
                n, block = divmod(task, blocks)
                for p in range(block * BLOCK, min(pixels, (block + 1) * BLOCK)):
                    x_at, y_at = n * stride(x, 0) + p * stride(x, 1), n * stride(y, 0) + p * stride(y, 1)
                    for c in range(0, channels, WIDTH):
                        count = channels - c
                        factor = read(rstd, n * channels + c, count) * _parameter(weight, c, count, 1.0)
                        centred = read(x, x_at + c, count) - read(mean, n * channels + c, count)
                        write(finish(centred * factor + _parameter(bias, c, count, 0.0)), y, y_at + c, count)

    return normalise


@inline
def _same(x):
    return x


# Gradients per sample and group --------------------------------------------------------------------------------------


@functools.cache
def _before(function, derivative, gradient):
    """The inlined function ``(dy, z)``: the gradient of ``z`` from that of ``function(z)``, as :mod:`.pointwise` finds it: by ``gradient``
    of ``dy`` and the result, or by the ``derivative``, or by dual numbers. None is no function."""
    if function is None:

        @inline
        def before(dy, z):
            return dy
    elif gradient is not None:
        f, from_output = scalar.compiled(function), inline(scalar.rebound(gradient))

        @inline
        def before(dy, z):
            return from_output(dy, f(z))
    else:
        slope = scalar.compiled(derivative) if derivative else scalar.derivative(function)

        @inline
        def before(dy, z):
            return dy * slope(z)

    return before


@functools.cache
def partial_gradients(function, derivative=None, gradient=None):
    """The kernel ``partial_gradients``; ``function`` followed the normalisation, and the others are as in :func:`_before`."""
    before = _before(function, derivative, gradient)

    @kernel(parallel=True)
    def partial_gradients(x, dy, mean, rstd, weight, bias, partials, queue, threads):
        """``partials[:, n, k, c]`` = sums of ``dz`` and of ``dz * (x - mean)`` over chunk ``k``, where ``dz`` is the gradient of what was
        normalised (from ``dy``, of what followed)."""
        samples, pixels, channels = x.shape
        parts, spans = partials.shape[2], _spans(channels)
        plane = samples * parts * channels
        queue[0] = 0
        for _ in prange(threads):
            while True:
                task = take(queue, 1)
                if task >= samples * parts * spans:
                    break
                piece, span = divmod(task, spans)
                n, k = divmod(piece, parts)
                for c in range(span * SPAN, min(channels, (span + 1) * SPAN), WIDTH):
                    count = channels - c
                    average = read(mean, n * channels + c, count)
                    factor = read(rstd, n * channels + c, count) * _parameter(weight, c, count, 1.0)
                    offset = _parameter(bias, c, count, 0.0)
                    plain, weighted = zeros(x, 1, VECTORS), zeros(x, 1, VECTORS)
                    for p in range(k * CHUNK, min(pixels, (k + 1) * CHUNK)):
                        at = (n * pixels + p) * channels + c
                        centred = read(x, at, count) - average
                        d = before(read(dy, at, count), centred * factor + offset)
                        plain = plain + d
                        weighted = weighted + d * centred
                    write(plain, partials, piece * channels + c, count)
                    write(weighted, partials, plane + piece * channels + c, count)

    return partial_gradients


@inline
def _partial_total(partials, which, n, c):
    result = 0.0
    for k in range(partials.shape[2]):
        result += partials[which, n, k, c]
    return result


@kernel
def merge_gradients(partials, rstd, dweight, dbias):
    """``dweight`` and ``dbias`` (where not of size 0) from the partial sums."""
    samples, channels = rstd.shape
    for c in range(channels):
        plain, weighted = 0.0, 0.0
        for n in range(samples):
            plain += _partial_total(partials, 0, n, c)
            weighted += _partial_total(partials, 1, n, c) * rstd[n, c]
        if dbias.size:
            dbias[c] = plain
        if dweight.size:
            dweight[c] = weighted


@kernel
def merge_slopes(partials, pixels, groups, rstd, weight, slope, offset):
    """``slope`` and ``offset`` ``(N, C)``, with which ``dx = rstd * weight * dy + slope * (x - mean) + offset``, from the partial
    sums. With ``g = dy * weight`` and ``n = (x - mean) * rstd``, that is ``rstd * (g - average of g - n * average of g * n)``."""
    samples, channels = rstd.shape
    width = channels // groups
    for n in range(samples):
        for g in range(groups):
            plain, weighted = 0.0, 0.0
            for c in range(g * width, (g + 1) * width):
                factor = 1.0
                if weight.size:
                    factor *= weight[c]
                plain += factor * _partial_total(partials, 0, n, c)
                weighted += factor * _partial_total(partials, 1, n, c)
            scale = np.float64(rstd[n, g * width])
            for c in range(g * width, (g + 1) * width):
                offset[n, c] = -scale * plain / (pixels * width)
                slope[n, c] = -scale * scale * scale * weighted / (pixels * width)


@functools.cache
def normalise_backward(function, derivative=None, gradient=None):
    """The kernel ``normalise_backward``; what followed the normalisation as in :func:`partial_gradients`."""
    before, followed = _before(function, derivative, gradient), function is not None

    @kernel(parallel=True)
    def normalise_backward(x, dy, dx, mean, rstd, weight, bias, slope, offset, queue, threads):
        """``dx`` from what :func:`merge_slopes` found; with ``slope`` of size 0 the statistics count as constants."""
        samples, pixels, channels = dy.shape
        blocks = (pixels + BLOCK - 1) // BLOCK
        queue[0] = 0
        for _ in prange(threads):
            while True:
                task = take(queue, 1)
                if task >= samples * blocks:
                    break
                n, block = divmod(task, blocks)
                for p in range(block * BLOCK, min(pixels, (block + 1) * BLOCK)):
                    at = (n * pixels + p) * channels
                    for c in range(0, channels, WIDTH):
                        count, of_sample = channels - c, n * channels + c
                        factor = read(rstd, of_sample, count) * _parameter(weight, c, count, 1.0)
                        d = read(dy, at + c, count)
                        if followed or slope.size:
                            centred = read(x, at + c, count) - read(mean, of_sample, count)
                            d = before(d, centred * factor + _parameter(bias, c, count, 0.0)) * factor
                            if slope.size:
                                d = d + (centred * read(slope, of_sample, count) + read(offset, of_sample, count))
                        else:
                            d = d * factor
                        write(d, dx, at + c, count)

    return normalise_backward


# Layer normalisation: statistics of each row -------------------------------------------------------------------------


@inline
def _row_moments(x, at, channels, shift):
    """Sums over a row of ``x - shift`` and of its square, in float64."""
    plain, squares = 0.0, 0.0
    for start in range(0, channels, SEGMENT):
        sums, sums_of_squares = zeros(x, 1, VECTORS), zeros(x, 1, VECTORS)
        for c in range(start, min(channels, start + SEGMENT), WIDTH):
            d = where(columns(1, VECTORS) < channels - c, read(x, at + c, channels - c) - shift, 0.0)
            sums = sums + d
            sums_of_squares = sums_of_squares + d * d
        plain += total(sums)
        squares += total(sums_of_squares)
    return plain, squares


@kernel(parallel=True)
def layer_forward(x, y, weight, bias, epsilon, mean, rstd, queue, threads):
    """``y`` = ``(x - mean) * rstd * weight + bias`` for rows ``(R, C)``, with ``mean`` and ``rstd`` ``(R,)``, which are filled;
    ``weight`` and ``bias`` are ``(C,)``, or of size 0 for 1 and 0."""
    rows, channels = x.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            strip = take(queue, 1)
            if strip * STRIP >= rows:
                break
            for row in range(strip * STRIP, min(rows, (strip + 1) * STRIP)):
                at = row * channels
                shift = x.dtype.type(x[row, 0] + _row_moments(x, at, channels, x[row, 0])[0] / channels)
                plain, squares = _row_moments(x, at, channels, shift)
                rest = plain / channels
                mean[row] = shift + rest
                rstd[row] = 1.0 / math.sqrt(max(0.0, squares / channels - rest * rest) + epsilon)
                average, factor = mean[row], rstd[row]
                for c in range(0, channels, WIDTH):
                    count = channels - c
                    normal = (read(x, at + c, count) - average) * factor
                    write(normal * _parameter(weight, c, count, 1.0) + _parameter(bias, c, count, 0.0), y, at + c, count)


@kernel(parallel=True)
def layer_backward(x, dy, dx, weight, mean, rstd, queue, threads):
    """``dx`` of :func:`layer_forward`: with ``g = dy * weight`` and ``n = (x - mean) * rstd``,
    ``rstd * (g - average of g - n * average of g * n)``."""
    rows, channels = x.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            strip = take(queue, 1)
            if strip * STRIP >= rows:
                break
            for row in range(strip * STRIP, min(rows, (strip + 1) * STRIP)):
                at, average, factor = row * channels, mean[row], rstd[row]
                plain, weighted = 0.0, 0.0
                for start in range(0, channels, SEGMENT):
                    sums, weighted_sums = zeros(x, 1, VECTORS), zeros(x, 1, VECTORS)
                    for c in range(start, min(channels, start + SEGMENT), WIDTH):
                        count = channels - c
                        g = read(dy, at + c, count) * _parameter(weight, c, count, 1.0)
                        sums = sums + g
                        weighted_sums = weighted_sums + g * ((read(x, at + c, count) - average) * factor)
                    plain += total(sums)
                    weighted += total(weighted_sums)
                for c in range(0, channels, WIDTH):
                    count = channels - c
                    g = read(dy, at + c, count) * _parameter(weight, c, count, 1.0)
                    normal = (read(x, at + c, count) - average) * factor
                    write((g - plain / channels - normal * (weighted / channels)) * factor, dx, at + c, count)


@kernel(parallel=True)
def layer_partial_gradients(x, dy, mean, rstd, partials, queue, threads):
    """``partials[:, k, c]`` = sums of ``dy`` and of ``dy * (x - mean) * rstd`` over the rows of chunk ``k``."""
    rows, channels = x.shape
    parts, spans = partials.shape[1], _spans(channels)
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 1)
            if task >= parts * spans:
                break
            k, span = divmod(task, spans)
            for c in range(span * SPAN, min(channels, (span + 1) * SPAN), WIDTH):
                count = channels - c
                plain, weighted = zeros(x, 1, VECTORS), zeros(x, 1, VECTORS)
                for row in range(k * CHUNK, min(rows, (k + 1) * CHUNK)):
                    d = read(dy, row * channels + c, count)
                    plain = plain + d
                    weighted = weighted + d * ((read(x, row * channels + c, count) - mean[row]) * rstd[row])
                write(plain, partials, k * channels + c, count)
                write(weighted, partials, (parts + k) * channels + c, count)


@kernel
def layer_merge_gradients(partials, dweight, dbias):
    """``dweight`` and ``dbias`` ``(C,)``, where not of size 0, from the partial sums."""
    for c in range(partials.shape[2]):
        plain, weighted = 0.0, 0.0
        for k in range(partials.shape[1]):
            plain += partials[0, k, c]
            weighted += partials[1, k, c]
        if dbias.size:
            dbias[c] = plain
        if dweight.size:
            dweight[c] = weighted


# Local response normalisation ----------------------------------------------------------------------------------------


def response_line(channels: int, size: int) -> int:
    """Elements of a line of channels with the margins that a window of ``size`` reads."""
    return -(-channels // WIDTH) * WIDTH + size - 1


@inline
def _window_sum(lines, at, size):
    sums = zeros(lines, 1, VECTORS)
    for tap in range(size):
        sums = sums + load(lines, at + tap, 0, 1, VECTORS)
    return sums


@inline
def _response(lines, at, size, alpha, k):
    """``k + alpha / size * sum of squares`` of the window whose first square is at ``at``."""
    return _window_sum(lines, at, size) * (alpha / size) + k


@inline
def _squares(x, at, lines, line, size):
    """Fill a line with the squares of a pixel's channels, after a margin of ``size // 2``."""
    channels = x.shape[1]
    for c in range(0, channels, WIDTH):
        value = read(x, at + c, channels - c)
        store(value * value, lines, line + size // 2 + c, 0)


@inline
def _clear(lines, line, length):
    for k in range(line, line + length, WIDTH):
        write(zeros(lines, 1, VECTORS), lines, k, line + length - k)


@kernel(parallel=True)
def response_forward(x, y, size, alpha, beta, k, lines, queue, threads):
    """``y`` = ``x / (k + alpha / size * sum of x ** 2 over the channels c - size // 2 to c + (size - 1) // 2) ** beta``, for pixels
    ``(P, C)``. ``lines`` is scratch, ``(threads, 3, response_line)``."""
    pixels, channels = x.shape
    length = lines.shape[2]
    queue[0] = 0
    for thread in prange(threads):
        line = thread * 3 * length
        _clear(lines, line, length)
        while True:
            strip = take(queue, 1)
            if strip * STRIP >= pixels:
                break
            for pixel in range(strip * STRIP, min(pixels, (strip + 1) * STRIP)):
                at = pixel * channels
                _squares(x, at, lines, line, size)
                for c in range(0, channels, WIDTH):
                    power = math.exp(math.log(_response(lines, line + c, size, alpha, k)) * -beta)
                    write(read(x, at + c, channels - c) * power, y, at + c, channels - c)


@kernel(parallel=True)
def response_backward(x, dy, dx, size, alpha, beta, k, lines, queue, threads):
    """``dx`` = ``dy * r ** -beta - 2 * alpha * beta / size * x * sum of dy * x * r ** (-beta - 1)`` over the channels whose windows
    hold this one, with ``r`` the base of the power in :func:`response_forward`."""
    pixels, channels = x.shape
    length = lines.shape[2]
    queue[0] = 0
    for thread in prange(threads):
        line = thread * 3 * length  # squares
        terms = line + length  # dy * x * r ** (-beta - 1), after a margin of (size - 1) // 2
        direct = terms + length  # dy * r ** -beta
        _clear(lines, line, 3 * length)
        while True:
            strip = take(queue, 1)
            if strip * STRIP >= pixels:
                break
            for pixel in range(strip * STRIP, min(pixels, (strip + 1) * STRIP)):
                at = pixel * channels
                _squares(x, at, lines, line, size)
                for c in range(0, channels, WIDTH):
                    response = _response(lines, line + c, size, alpha, k)
                    scaled = read(dy, at + c, channels - c) * math.exp(math.log(response) * -beta)
                    store(scaled, lines, direct + c, 0)
                    store(scaled * read(x, at + c, channels - c) / response, lines, terms + (size - 1) // 2 + c, 0)
                for c in range(0, channels, WIDTH):
                    around = _window_sum(lines, terms + c, size) * (-2.0 * alpha * beta / size)
                    value = load(lines, direct + c, 0, 1, VECTORS) + read(x, at + c, channels - c) * around
                    write(value, dx, at + c, channels - c)
