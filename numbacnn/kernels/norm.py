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
from ..simd import LANES, load, load_part, row_sum, splat, store, store_part, take, total, zeros
from .jit import inline, kernel

ROWS = 8  # pixels per tile
CHUNK = 512  # pixels per partial sum
SPAN = 4 * LANES  # channels per task of a partial sum
BLOCK = 64  # pixels per task of an elementwise pass
GROUPS = 16  # groups per task where partial sums are put together
SEGMENT = 128 * LANES  # channels of a row summed in the working precision, before float64 goes on
STRIP = 16  # rows per task where rows are independent


def chunks(pixels: int) -> int:
    """Chunks that ``pixels`` fall into."""
    return -(-pixels // CHUNK)


@functools.cache
def _reader(rows):
    """A function that loads a tile of ``rows`` rows and LANES columns, of which ``count`` (or all) exist."""

    @inline
    def read(array, at, row_stride, count):
        if count >= LANES:
            return load(array, at, row_stride, rows, 1)
        return load_part(array, at, row_stride, count, rows, 1)

    return read


_read_rows, _read_row = _reader(ROWS), _reader(1)


@inline
def _write(tile, array, at, row_stride, count):
    if count >= LANES:
        store(tile, array, at, row_stride)
    else:
        store_part(tile, array, at, row_stride, count)


# Statistics per sample and group -------------------------------------------------------------------------------------


@inline
def _shifted_sum(x, at, pixels, channels, count, shift_rows, shift):
    """Sum of ``x - shift`` over ``pixels`` rows from ``at``."""
    sums, rest = zeros(x, ROWS, 1), zeros(x, 1, 1)
    whole = pixels // ROWS * ROWS
    for p in range(0, whole, ROWS):
        sums = sums + (_read_rows(x, at + p * channels, channels, count) - shift_rows)
    for p in range(whole, pixels):
        rest = rest + (_read_row(x, at + p * channels, 0, count) - shift)
    return row_sum(sums) + rest


@inline
def _shifted_squares(x, at, pixels, channels, count, shift_rows, shift):
    """Sum of ``(x - shift) ** 2`` over ``pixels`` rows from ``at``."""
    sums, rest = zeros(x, ROWS, 1), zeros(x, 1, 1)
    whole = pixels // ROWS * ROWS
    for p in range(0, whole, ROWS):
        d = _read_rows(x, at + p * channels, channels, count) - shift_rows
        sums = sums + d * d
    for p in range(whole, pixels):
        d = _read_row(x, at + p * channels, 0, count) - shift
        rest = rest + d * d
    return row_sum(sums) + rest


@inline
def _tasks(samples, parts, channels):
    """Spans of channels, and tasks, of a pass over ``parts`` pieces of each sample."""
    spans = (channels + SPAN - 1) // SPAN
    return spans, samples * parts * spans


@kernel(parallel=True)
def partial_statistics(x, partials, queue, threads):
    """``partials[:, n, k, c]`` = shift, sum of ``x - shift`` and sum of ``(x - shift) ** 2`` of chunk ``k``."""
    samples, pixels, channels = x.shape
    parts = partials.shape[2]
    spans, tasks = _tasks(samples, parts, channels)
    plane = samples * parts * channels
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            piece, span = divmod(task, spans)
            n, k = divmod(piece, parts)
            first = k * CHUNK
            length = min(CHUNK, pixels - first)
            for c in range(span * SPAN, min(channels, (span + 1) * SPAN), LANES):
                at, count = (n * pixels + first) * channels + c, channels - c
                some = _read_row(x, at, 0, count)
                guess = some + _shifted_sum(x, at, length, channels, count, _read_rows(x, at, 0, count), some) / length
                _write(guess, partials, piece * channels + c, 0, count)
                shifts = _read_rows(partials, piece * channels + c, 0, count)
                _write(_shifted_sum(x, at, length, channels, count, shifts, guess), partials, plane + piece * channels + c, 0, count)
                _write(
                    _shifted_squares(x, at, length, channels, count, shifts, guess), partials, 2 * plane + piece * channels + c, 0, count
                )


@inline
def _group_mean(partials, n, first, last, pixels):
    """Mean over the channels ``first`` to ``last`` of a sample."""
    weighted = 0.0
    for k in range(partials.shape[2]):
        length = min(CHUNK, pixels - k * CHUNK)
        for c in range(first, last):
            weighted += length * np.float64(partials[0, n, k, c]) + np.float64(partials[1, n, k, c])
    return weighted / (pixels * (last - first))


@inline
def _group_squares(partials, n, first, last, pixels, mean):
    """Sum of the squared distances from ``mean``, each chunk's about its own mean first."""
    squares = 0.0
    for k in range(partials.shape[2]):
        length = min(CHUNK, pixels - k * CHUNK)
        for c in range(first, last):
            rest = np.float64(partials[1, n, k, c]) / length
            distance = np.float64(partials[0, n, k, c]) - mean + rest
            squares += max(0.0, np.float64(partials[2, n, k, c]) - length * rest * rest) + length * distance * distance
    return squares


@kernel(parallel=True)
def merge_statistics(partials, pixels, groups, epsilon, mean, rstd, momentum, running_mean, running_var, queue, threads):
    """``mean`` and ``rstd`` (1 / sqrt(variance + epsilon)), both ``(N, C)``, from the partial sums. With ``running_mean`` and
    ``running_var`` not of size 0 (then N is 1 and there is a group for each channel), these move towards the mean and the
    unbiased variance: ``(1 - momentum) * old + momentum * new``."""
    samples, channels = mean.shape
    spans = (groups + GROUPS - 1) // GROUPS
    width = channels // groups
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= samples * spans:
                break
            n, span = divmod(task, spans)
            for g in range(span * GROUPS, min(groups, (span + 1) * GROUPS)):
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


# Normalise: y = (x - mean) * rstd * weight + bias --------------------------------------------------------------------


@functools.cache
def _vector(rows):
    """A function that loads channels of a parameter, ``rows`` times; ``missing`` everywhere if its array has size 0."""
    read = _reader(rows)

    @inline
    def vector(array, at, count, missing):
        if array.size == 0:
            return splat(array, missing, rows, 1)
        return read(array, at, 0, count)

    return vector


_vector_row = _vector(1)


@functools.cache
def _normaliser(rows):
    read, vector = _reader(rows), _vector(rows)

    @inline
    def normalise_rows(x, y, at, row, channels, mean, rstd, weight, bias):
        """``rows`` pixels from ``at``; statistics from ``row``."""
        for c in range(0, channels, LANES):
            count = channels - c
            factor = vector(rstd, row + c, count, 1.0) * vector(weight, c, count, 1.0)
            centred = read(x, at + c, channels, count) - vector(mean, row + c, count, 0.0)
            _write(centred * factor + vector(bias, c, count, 0.0), y, at + c, channels, count)

    return normalise_rows


_normalise_rows, _normalise_row = _normaliser(ROWS), _normaliser(1)


@kernel(parallel=True)
def normalise(x, y, mean, rstd, weight, bias, queue, threads):
    """``y`` = ``(x - mean) * rstd * weight + bias``; ``mean`` and ``rstd`` are ``(N, C)``, ``weight`` and ``bias`` ``(C,)`` or of
    size 0 for 1 and 0."""
    samples, pixels, channels = x.shape
    blocks = (pixels + BLOCK - 1) // BLOCK
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= samples * blocks:
                break
            n, block = divmod(task, blocks)
            first, last = block * BLOCK, min(pixels, (block + 1) * BLOCK)
            whole = first + (last - first) // ROWS * ROWS
            for p in range(first, whole, ROWS):
                _normalise_rows(x, y, (n * pixels + p) * channels, n * channels, channels, mean, rstd, weight, bias)
            for p in range(whole, last):
                _normalise_row(x, y, (n * pixels + p) * channels, n * channels, channels, mean, rstd, weight, bias)


# Gradients per sample and group --------------------------------------------------------------------------------------


@functools.cache
def _gradient_sums(rows):
    read = _reader(rows)

    @inline
    def gradient_sums(x, dy, at, first, last, channels, count, mean):
        """Sums, row by row of a tile, of ``dy`` and of ``dy * (x - mean)`` over pixels ``first`` to ``last``."""
        plain, weighted = zeros(x, rows, 1), zeros(x, rows, 1)
        for p in range(first, last, rows):
            d = read(dy, at + p * channels, channels, count)
            plain = plain + d
            weighted = weighted + d * (read(x, at + p * channels, channels, count) - mean)
        return plain, weighted

    return gradient_sums


_gradient_sums_of_rows, _gradient_sums_of_row = _gradient_sums(ROWS), _gradient_sums(1)


@kernel(parallel=True)
def partial_gradients(x, dy, mean, partials, queue, threads):
    """``partials[:, n, k, c]`` = sums of ``dy`` and of ``dy * (x - mean)`` over chunk ``k``."""
    samples, pixels, channels = x.shape
    parts = partials.shape[2]
    spans, tasks = _tasks(samples, parts, channels)
    plane = samples * parts * channels
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            piece, span = divmod(task, spans)
            n, k = divmod(piece, parts)
            length = min(CHUNK, pixels - k * CHUNK)
            whole = length // ROWS * ROWS
            for c in range(span * SPAN, min(channels, (span + 1) * SPAN), LANES):
                at, count = (n * pixels + k * CHUNK) * channels + c, channels - c
                means = _read_rows(mean, n * channels + c, 0, count)
                plain, weighted = _gradient_sums_of_rows(x, dy, at, 0, whole, channels, count, means)
                one = _read_row(mean, n * channels + c, 0, count)
                rest, weighted_rest = _gradient_sums_of_row(x, dy, at, whole, length, channels, count, one)
                _write(row_sum(plain) + rest, partials, piece * channels + c, 0, count)
                _write(row_sum(weighted) + weighted_rest, partials, plane + piece * channels + c, 0, count)


@inline
def _gradient_total(partials, which, n, c):
    result = 0.0
    for k in range(partials.shape[2]):
        result += np.float64(partials[which, n, k, c])
    return result


@kernel(parallel=True)
def merge_gradients(partials, pixels, groups, rstd, weight, dweight, dbias, slope, offset, queue, threads):
    """From the partial sums: ``dweight`` and ``dbias`` (where not of size 0), and ``slope`` and ``offset`` ``(N, C)``, with which
    ``dx = rstd * weight * dy + slope * (x - mean) + offset`` (where not of size 0: fixed statistics need neither)."""
    samples, channels = rstd.shape
    width = channels // groups
    spans = (groups + GROUPS - 1) // GROUPS
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= spans:
                break
            for g in range(task * GROUPS, min(groups, (task + 1) * GROUPS)):
                first, last = g * width, (g + 1) * width
                if dbias.size or dweight.size:
                    for c in range(first, last):
                        plain, weighted = 0.0, 0.0
                        for n in range(samples):
                            plain += _gradient_total(partials, 0, n, c)
                            weighted += _gradient_total(partials, 1, n, c) * rstd[n, c]
                        if dbias.size:
                            dbias[c] = plain
                        if dweight.size:
                            dweight[c] = weighted
                if slope.size:
                    for n in range(samples):
                        plain, weighted = 0.0, 0.0
                        for c in range(first, last):
                            factor = np.float64(weight[c]) if weight.size else 1.0
                            plain += factor * _gradient_total(partials, 0, n, c)
                            weighted += factor * _gradient_total(partials, 1, n, c)
                        scale = np.float64(rstd[n, first])
                        for c in range(first, last):
                            offset[n, c] = -scale * plain / (pixels * width)
                            slope[n, c] = -scale * scale * scale * weighted / (pixels * width)


@functools.cache
def _gradient(rows):
    read, vector = _reader(rows), _vector(rows)

    @inline
    def gradient_rows(x, dy, dx, at, row, channels, mean, rstd, weight, slope, offset):
        for c in range(0, channels, LANES):
            count = channels - c
            gradient = read(dy, at + c, channels, count) * (vector(rstd, row + c, count, 1.0) * vector(weight, c, count, 1.0))
            if slope.size:
                centred = read(x, at + c, channels, count) - vector(mean, row + c, count, 0.0)
                gradient = gradient + (centred * vector(slope, row + c, count, 0.0) + vector(offset, row + c, count, 0.0))
            _write(gradient, dx, at + c, channels, count)

    return gradient_rows


_gradient_rows, _gradient_row = _gradient(ROWS), _gradient(1)


@kernel(parallel=True)
def normalise_backward(x, dy, dx, mean, rstd, weight, slope, offset, queue, threads):
    """``dx`` from what :func:`merge_gradients` found; with ``slope`` of size 0 the statistics count as constants."""
    samples, pixels, channels = dy.shape
    blocks = (pixels + BLOCK - 1) // BLOCK
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= samples * blocks:
                break
            n, block = divmod(task, blocks)
            first, last = block * BLOCK, min(pixels, (block + 1) * BLOCK)
            whole = first + (last - first) // ROWS * ROWS
            for p in range(first, whole, ROWS):
                _gradient_rows(x, dy, dx, (n * pixels + p) * channels, n * channels, channels, mean, rstd, weight, slope, offset)
            for p in range(whole, last):
                _gradient_row(x, dy, dx, (n * pixels + p) * channels, n * channels, channels, mean, rstd, weight, slope, offset)


# Layer normalisation: statistics of each row -------------------------------------------------------------------------


@inline
def _row_moments(x, row, shift):
    """Sums over a row of ``x - shift`` and of its square, in float64."""
    channels = x.shape[1]
    plain, squares = 0.0, 0.0
    for start in range(0, channels, SEGMENT):
        stop = min(channels, start + SEGMENT)
        whole = start + (stop - start) // LANES * LANES
        sums, sums_of_squares = zeros(x, 1, 1), zeros(x, 1, 1)
        for c in range(start, whole, LANES):
            d = load(x, row * channels + c, 0, 1, 1) - shift
            sums = sums + d
            sums_of_squares = sums_of_squares + d * d
        plain += total(sums)
        squares += total(sums_of_squares)
        for c in range(whole, stop):
            d = x[row, c] - shift
            plain += d
            squares += d * d
    return plain, squares


@kernel(parallel=True)
def layer_forward(x, y, weight, bias, epsilon, mean, rstd, queue, threads):
    """``y`` = ``(x - mean) * rstd * weight + bias`` for rows ``(R, C)``, with ``mean`` and ``rstd`` ``(R,)``, which are filled;
    ``weight`` and ``bias`` are ``(C,)``, or of size 0 for 1 and 0."""
    rows, channels = x.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            strip = take(queue, 0, 1)
            if strip * STRIP >= rows:
                break
            for row in range(strip * STRIP, min(rows, (strip + 1) * STRIP)):
                plain, _squares = _row_moments(x, row, x[row, 0])
                shift = x.dtype.type(x[row, 0] + plain / channels)
                plain, squares = _row_moments(x, row, shift)
                rest = plain / channels
                mean[row] = shift + rest
                rstd[row] = 1.0 / math.sqrt(max(0.0, squares / channels - rest * rest) + epsilon)
                at, average, factor = row * channels, mean[row], rstd[row]
                for c in range(0, channels, LANES):
                    count = channels - c
                    normal = (_read_row(x, at + c, 0, count) - average) * factor
                    _write(normal * _vector_row(weight, c, count, 1.0) + _vector_row(bias, c, count, 0.0), y, at + c, 0, count)


@kernel(parallel=True)
def layer_backward(x, dy, dx, weight, mean, rstd, queue, threads):
    """``dx`` of :func:`layer_forward`: with ``g = dy * weight`` and ``n = (x - mean) * rstd``,
    ``rstd * (g - average of g - n * average of g * n)``."""
    rows, channels = x.shape
    queue[0] = 0
    for _ in prange(threads):
        while True:
            strip = take(queue, 0, 1)
            if strip * STRIP >= rows:
                break
            for row in range(strip * STRIP, min(rows, (strip + 1) * STRIP)):
                at, average, factor = row * channels, mean[row], rstd[row]
                plain, weighted = 0.0, 0.0
                for start in range(0, channels, SEGMENT):
                    sums, weighted_sums = zeros(x, 1, 1), zeros(x, 1, 1)
                    for c in range(start, min(channels, start + SEGMENT), LANES):
                        count = channels - c
                        g = _read_row(dy, at + c, 0, count) * _vector_row(weight, c, count, 1.0)
                        sums = sums + g
                        weighted_sums = weighted_sums + g * ((_read_row(x, at + c, 0, count) - average) * factor)
                    plain += total(sums)
                    weighted += total(weighted_sums)
                for c in range(0, channels, LANES):
                    count = channels - c
                    g = _read_row(dy, at + c, 0, count) * _vector_row(weight, c, count, 1.0)
                    normal = (_read_row(x, at + c, 0, count) - average) * factor
                    _write((g - plain / channels - normal * (weighted / channels)) * factor, dx, at + c, 0, count)


@kernel(parallel=True)
def layer_partial_gradients(x, dy, mean, rstd, partials, queue, threads):
    """``partials[:, k, c]`` = sums of ``dy`` and of ``dy * (x - mean) * rstd`` over the rows of chunk ``k``."""
    rows, channels = x.shape
    parts = partials.shape[1]
    spans, tasks = _tasks(1, parts, channels)
    queue[0] = 0
    for _ in prange(threads):
        while True:
            task = take(queue, 0, 1)
            if task >= tasks:
                break
            k, span = divmod(task, spans)
            for c in range(span * SPAN, min(channels, (span + 1) * SPAN), LANES):
                count = channels - c
                plain, weighted = zeros(x, 1, 1), zeros(x, 1, 1)
                for row in range(k * CHUNK, min(rows, (k + 1) * CHUNK)):
                    d = _read_row(dy, row * channels + c, 0, count)
                    plain = plain + d
                    weighted = weighted + d * ((_read_row(x, row * channels + c, 0, count) - mean[row]) * rstd[row])
                _write(plain, partials, k * channels + c, 0, count)
                _write(weighted, partials, (parts + k) * channels + c, 0, count)


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
    return -(-channels // LANES) * LANES + size - 1


@inline
def _window_sum(lines, at, size):
    sums = zeros(lines, 1, 1)
    for tap in range(size):
        sums = sums + load(lines, at + tap, 0, 1, 1)
    return sums


@inline
def _response(lines, at, size, alpha, k):
    """``k + alpha / size * sum of squares`` of the window whose first square is at ``at``."""
    return _window_sum(lines, at, size) * (alpha / size) + k


@inline
def _squares(x, at, lines, line, size):
    """Fill a line with the squares of a pixel's channels, after a margin of ``size // 2``."""
    channels = x.shape[1]
    for c in range(0, channels, LANES):
        value = _read_row(x, at + c, 0, channels - c)
        store(value * value, lines, line + size // 2 + c, 0)


@inline
def _clear(lines, line, length):
    for k in range(line, line + length, LANES):
        _write(zeros(lines, 1, 1), lines, k, 0, line + length - k)


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
            strip = take(queue, 0, 1)
            if strip * STRIP >= pixels:
                break
            for pixel in range(strip * STRIP, min(pixels, (strip + 1) * STRIP)):
                at = pixel * channels
                _squares(x, at, lines, line, size)
                for c in range(0, channels, LANES):
                    power = math.exp(math.log(_response(lines, line + c, size, alpha, k)) * -beta)
                    _write(_read_row(x, at + c, 0, channels - c) * power, y, at + c, 0, channels - c)


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
            strip = take(queue, 0, 1)
            if strip * STRIP >= pixels:
                break
            for pixel in range(strip * STRIP, min(pixels, (strip + 1) * STRIP)):
                at = pixel * channels
                _squares(x, at, lines, line, size)
                for c in range(0, channels, LANES):
                    response = _response(lines, line + c, size, alpha, k)
                    scaled = _read_row(dy, at + c, 0, channels - c) * math.exp(math.log(response) * -beta)
                    store(scaled, lines, direct + c, 0)
                    store(scaled * _read_row(x, at + c, 0, channels - c) / response, lines, terms + (size - 1) // 2 + c, 0)
                for c in range(0, channels, LANES):
                    around = _window_sum(lines, terms + c, size) * (-2.0 * alpha * beta / size)
                    value = load(lines, direct + c, 0, 1, 1) + _read_row(x, at + c, 0, channels - c) * around
                    _write(value, dx, at + c, 0, channels - c)
