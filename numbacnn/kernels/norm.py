"""Normalisation, forward and backward.

Batch, group and instance normalisation are one thing: arrays ``(N, P, C)`` of samples, pixels and channels, whose statistics are
taken per sample and group of channels. Batch normalisation is the case of one "sample" that holds all pixels of the batch, with a
group for each channel. Layer normalisation works on rows ``(R, C)``, with statistics of each row.

Statistics are of the numerically careful kind (:mod:`.statistics`), of a fixed partition of the pixels into chunks.

S. Ioffe, C. Szegedy, "Batch normalization" (2015); J. Ba, J. Kiros, G. Hinton, "Layer normalization" (2016); D. Ulyanov, A. Vedaldi,
V. Lempitsky, "Instance normalization" (2016); Y. Wu, K. He, "Group normalization" (2018); A. Krizhevsky, I. Sutskever, G. Hinton,
"ImageNet classification with deep convolutional neural networks" (2012), section 3.3, for local response normalisation.

Where channels are not whole panels, ``F`` neighbouring pixels are taken as one of ``F * C`` channels (:func:`fold`), so that nothing is
masked: a store with a mask and the load that waits for it cost more than all else.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from .. import elementary  # noqa: F401  (teaches math.exp and math.log to take tiles)
from ..simd import columns, fma, load, load_part, row_sum, splat, store, store_part, stride, total, where, zeros
from . import activations, scalar
from .channels import VECTORS, WIDTH, channel_span, read, write
from .jit import inline, kernel
from .statistics import SAMPLE
from .streaming import stream
from .tasks import next_task

CHUNK = 512  # pixels per partial sum
ROWS = 2  # pixels of a tile
BLOCK = 64 * 1024  # elements per task of an elementwise pass
TOGETHER = 4  # rows that layer normalisation adds to a partial sum at a time
SEGMENT = 64 * WIDTH  # channels of a row summed in the working precision, before float64 goes on
STRIP = 16  # rows per task where rows are independent


def chunks(pixels: int) -> int:
    """Chunks that ``pixels`` fall into."""
    return -(-pixels // CHUNK)


def fold(pixels: int, channels: int) -> int:
    """How many neighbouring pixels are taken as one: so many that their channels together are whole panels, if ``pixels`` allow it."""
    return math.gcd(pixels, WIDTH // math.gcd(WIDTH, channels))


@inline
def _parameter(array, c, count, missing):
    """Channels of a parameter; ``missing`` everywhere if its array has size 0."""
    if array.size == 0:
        return splat(array, missing, 1, VECTORS)
    return read(array, c, count)


# Tiles of pixels -----------------------------------------------------------------------------------------------------
#
# A pass goes through a piece of the pixels in tiles of ROWS pixels, panel by panel of WIDTH channels, so that statistics and parameters are
# read once for all pixels of a tile. These lie half a piece apart: each row of the tiles walks along memory of its own, as prefetchers
# expect. (Neighbours would be read a cache line here, a cache line there, at two thirds of the speed.) All rows are read before one is
# written: a load would wait for a store a multiple of 4096 bytes away. A full panel is a call of its own, in which nothing is masked.


@inline
def _distance(length):
    """Distance of the pixels of a tile, for a piece of ``length`` pixels. It is odd where few pixels are left over then: at a multiple of a
    large power of two, rows would compete for the same places of a cache."""
    distance = length // ROWS
    if distance > 16 and distance % 2 == 0:
        return distance - 1
    return distance


@inline
def _tiles(length, distance):
    """How many tiles a piece has. Pixels that are left over are a tile each, with all rows the same."""
    return length - (ROWS - 1) * distance


@inline
def _tile(k, distance):
    """The first pixel of tile ``k``, and the distance of its pixels."""
    if k < distance:
        return k, distance
    return k + (ROWS - 1) * distance, 0


@inline
def _read_rows(array, at, step, count):
    """Channels of the pixels of a tile, which lie ``step`` elements apart."""
    if count >= WIDTH:
        return load(array, at, step, ROWS, VECTORS)
    return load_part(array, at, step, count, ROWS, VECTORS)


@inline
def _write_rows(tile, array, at, step, count, streams):
    """Store them; with ``streams`` past the caches."""
    if count < WIDTH:
        store_part(tile, array, at, step, count)
    elif streams:
        stream(tile, array, at, step)
    else:
        store(tile, array, at, step)


@inline
def _add_rows_to(array, at, count, tile, share):
    """Add ``share`` times the sum over the pixels of a tile to a partial sum."""
    write(fma(row_sum(tile), share, read(array, at, count)), array, at, count)


@inline
def _share(step):
    """What each row of a tile counts in a sum: one pixel in all rows is summed up exactly, and counts once."""
    return 1.0 if step else 1.0 / ROWS


# Statistics per sample and group -------------------------------------------------------------------------------------


@inline
def _add_shifted(x, at, step, c, count, shift, plain, squares, place):
    """Add ``x - shift`` and its square of a tile of pixels to the rows ``plain`` and ``squares`` from ``place``, for a panel from ``c``."""
    d = _read_rows(x, at + c, step, count) - _read_rows(shift, place + c, 0, count)
    _add_rows_to(plain, place + c, count, d, _share(step))
    _add_rows_to(squares, place + c, count, d * d, _share(step))


@kernel(parallel=True)
def partial_statistics(x, partials, queue, threads, thread):
    """``partials (STATISTICS, N, chunks, C)``: for each chunk of pixels what :func:`numbacnn.kernels.statistics.gather` leaves, here in one
    walk along memory."""
    samples, pixels, channels = x.shape
    parts = partials.shape[2]
    pieces = samples * parts
    span = channel_span(channels, pieces, threads)
    spans = (channels + span - 1) // span
    counts, shift = partials[0].reshape(-1), partials[1].reshape(-1)
    plain, squares = partials[2].reshape(-1), partials[3].reshape(-1)
    while True:
        task = next_task(queue, thread, pieces * spans)
        if task >= pieces * spans:
            break
        piece, part = divmod(task, spans)
        n, k = divmod(piece, parts)
        first, last = part * span, min(channels, (part + 1) * span)
        length, at, place = min(CHUNK, pixels - k * CHUNK), (n * pixels + k * CHUNK) * channels, piece * channels
        sample = min(SAMPLE, length)
        for c in range(first, last, WIDTH):
            count = last - c
            sums = zeros(x, 1, VECTORS)
            for p in range(sample):
                sums = sums + read(x, at + p * channels + c, count)
            write(splat(x, float(length), 1, VECTORS), counts, place + c, count)
            write(sums / sample, shift, place + c, count)
            write(zeros(x, 1, VECTORS), plain, place + c, count)
            write(zeros(x, 1, VECTORS), squares, place + c, count)
        distance = _distance(length)
        for k in range(_tiles(length, distance)):
            p, step = _tile(k, distance)
            for c in range(first, last, WIDTH):
                if c + WIDTH <= last:
                    _add_shifted(x, at + p * channels, step * channels, c, WIDTH, shift, plain, squares, place)
                else:
                    _add_shifted(x, at + p * channels, step * channels, c, last - c, shift, plain, squares, place)


@kernel
def running_statistics(running_mean, running_var, epsilon, mean, rstd):
    """``mean`` and ``rstd`` ``(1, C)`` from the running statistics."""
    for c in range(running_mean.size):
        mean[0, c] = running_mean[c]
        rstd[0, c] = 1.0 / math.sqrt(running_var[c] + epsilon)


@kernel
def spread(mean, rstd, weight, bias, affine):
    """``affine (3, N, F * C)``: ``mean``, ``rstd * weight`` and ``bias``, once for each of F pixels that are taken as one; ``mean`` and
    ``rstd`` are ``(N, C)``, ``weight`` and ``bias`` ``(C,)`` or of size 0 for 1 and 0."""
    samples, channels = mean.shape
    for n in range(samples):
        for c in range(affine.shape[2]):
            affine[0, n, c] = mean[n, c % channels]
            affine[1, n, c] = rstd[n, c % channels] * weight[c % channels] if weight.size else rstd[n, c % channels]
            affine[2, n, c] = bias[c % channels] if bias.size else 0.0


@inline
def _centred(x, at, step, affine, place, count):
    """Channels of the pixels of a tile, without their mean; ``affine`` is flat, and has them at ``place``."""
    return _read_rows(x, at, step, count) - _read_rows(affine, place, 0, count)


@inline
def _scaled(centred, affine, place, apart, count):
    """What normalisation makes of them; the three arrays in ``affine`` are so far apart."""
    return fma(centred, _read_rows(affine, place + apart, 0, count), _read_rows(affine, place + 2 * apart, 0, count))


@functools.cache
def normalise(function):
    """The kernel ``normalise``; ``function`` is a scalar function that follows, or None."""
    finish = _same if function is None else scalar.compiled(function)

    @inline
    def panel(x, residual, addend, y, streams, x_at, x_step, more, more_step, y_at, y_step, affine, place, apart, c, count):
        """A tile of pixels, for a panel from ``c``, with the statistics from ``place``."""
        value = _scaled(_centred(x, x_at + c, x_step, affine, place + c, count), affine, place + c, apart, count)
        if residual:
            value = value + _read_rows(addend, more + c, more_step, count)
        _write_rows(finish(value), y, y_at + c, y_step, count, streams)

    @kernel(parallel=True, views=("x", "addend", "y"))
    def normalise(x, residual, addend, y, streams, affine, queue, thread):
        """``y`` = ``finish((x - mean) * rstd * weight + bias + addend)``, the addend only where ``residual``, with ``affine`` from
        :func:`spread`, for at least as many channels. Pixels of ``x``, ``addend`` and ``y`` may have gaps between them. ``streams``: ``y``
        is written past the caches."""
        samples, pixels, channels = x.shape
        width, apart, statistics = affine.shape[2], affine.shape[1] * affine.shape[2], affine.reshape(-1)
        length = max(1, BLOCK // channels)
        blocks = (pixels + length - 1) // length
        while True:
            task = next_task(queue, thread, samples * blocks)
            if task >= samples * blocks:
                break
            n, block = divmod(task, blocks)
            begin, end = block * length, min(pixels, (block + 1) * length)
            distance = _distance(end - begin)
            for k in range(_tiles(end - begin, distance)):
                p, step = _tile(k, distance)
                x_at, y_at = n * stride(x, 0) + (begin + p) * stride(x, 1), n * stride(y, 0) + (begin + p) * stride(y, 1)
                more = n * stride(addend, 0) + (begin + p) * stride(addend, 1)
                x_step, more_step, y_step = step * stride(x, 1), step * stride(addend, 1), step * stride(y, 1)
                for c in range(0, channels, WIDTH):
                    if c + WIDTH <= channels:
                        panel(
                            x, residual, addend, y, streams, x_at, x_step, more, more_step, y_at, y_step,
                            statistics, n * width, apart, c, WIDTH,
                        )  # fmt: skip
                    else:
                        panel(
                            x, residual, addend, y, streams, x_at, x_step, more, more_step, y_at, y_step,
                            statistics, n * width, apart, c, channels - c,
                        )  # fmt: skip

    return normalise


@inline
def _same(x):
    return x


# Gradients per sample and group --------------------------------------------------------------------------------------


@functools.cache
def _before(function, derivative, gradient):
    """The inlined function ``(dy, z)``: the gradient of ``z`` from that of ``function(z)``, as :mod:`.pointwise` finds it: by ``gradient``
    of ``dy`` and the result (or ``z`` itself where that serves as well), or by the ``derivative``, or by dual numbers. None is no
    function."""
    if function is None:

        @inline
        def before(dy, z):
            return dy
    elif gradient is not None:
        f = _same if gradient in activations.OF_BOUNDS else scalar.compiled(function)
        from_output = inline(scalar.rebound(gradient))

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

    @inline
    def panel(x, residual, addend, dy, keeps, dz, streams, at, step, affine, statistics, apart, plain, weighted, place, c, count):
        """Add a tile of pixels to the rows ``plain`` and ``weighted`` from ``place``, for a panel from ``c``, with the statistics from
        ``statistics`` on."""
        centred = _centred(x, at + c, step, affine, statistics + c, count)
        z = _scaled(centred, affine, statistics + c, apart, count)
        if residual:
            z = z + _read_rows(addend, at + c, step, count)
        d = before(_read_rows(dy, at + c, step, count), z)
        if keeps:
            _write_rows(d, dz, at + c, step, count, streams)
        _add_rows_to(plain, place + c, count, d, _share(step))
        _add_rows_to(weighted, place + c, count, d * centred, _share(step))

    @kernel(parallel=True)
    def partial_gradients(x, residual, addend, dy, keeps, dz, streams, affine, partials, queue, threads, thread):
        """``partials[:, n, k, c]`` = sums of ``dz`` and of ``dz * (x - mean)`` over chunk ``k``, where ``dz`` is the gradient of what was
        normalised and, where ``residual``, added to (from ``dy``, of what followed). Where it ``keeps`` that, it writes it to ``dz``, which
        may be ``dy``; with ``streams`` past the caches. ``affine`` from :func:`spread`, for as many channels."""
        samples, pixels, channels = x.shape
        apart, statistics = affine.shape[1] * channels, affine.reshape(-1)
        parts = partials.shape[2]
        pieces = samples * parts
        span = channel_span(channels, pieces, threads)
        spans = (channels + span - 1) // span
        plain, weighted = partials[0].reshape(-1), partials[1].reshape(-1)
        while True:
            task = next_task(queue, thread, pieces * spans)
            if task >= pieces * spans:
                break
            piece, part = divmod(task, spans)
            n, chunk = divmod(piece, parts)
            first, last = part * span, min(channels, (part + 1) * span)
            begin, end, place = chunk * CHUNK, min(pixels, (chunk + 1) * CHUNK), piece * channels
            for c in range(first, last, WIDTH):
                write(zeros(x, 1, VECTORS), plain, place + c, last - c)
                write(zeros(x, 1, VECTORS), weighted, place + c, last - c)
            distance = _distance(end - begin)
            for k in range(_tiles(end - begin, distance)):
                p, step = _tile(k, distance)
                at = (n * pixels + begin + p) * channels
                for c in range(first, last, WIDTH):
                    if c + WIDTH <= last:
                        panel(
                            x, residual, addend, dy, keeps, dz, streams, at, step * channels,
                            statistics, n * channels, apart, plain, weighted, place, c, WIDTH,
                        )  # fmt: skip
                    else:
                        panel(
                            x, residual, addend, dy, keeps, dz, streams, at, step * channels,
                            statistics, n * channels, apart, plain, weighted, place, c, last - c,
                        )  # fmt: skip

    return partial_gradients


@inline
def _partial_total(partials, which, n, channel, channels):
    """A sum over all chunks, and over all pixels that are taken as one."""
    result = 0.0
    for k in range(partials.shape[2]):
        for c in range(channel, partials.shape[3], channels):
            result += partials[which, n, k, c]
    return result


@kernel
def merge_gradients(partials, rstd, dweight, dbias):
    """``dweight`` and ``dbias`` (where not of size 0) from the partial sums."""
    samples, channels = rstd.shape
    for c in range(channels):
        plain, weighted = 0.0, 0.0
        for n in range(samples):
            plain += _partial_total(partials, 0, n, c, channels)
            weighted += _partial_total(partials, 1, n, c, channels) * rstd[n, c]
        if dbias.size:
            dbias[c] = plain
        if dweight.size:
            dweight[c] = weighted


@kernel
def merge_slopes(partials, pixels, groups, rstd, weight, slope, offset):
    """``slope`` and ``offset`` ``(N, F * C)``, with which ``dx = rstd * weight * dy + slope * (x - mean) + offset``, from the partial
    sums over so many folded ``pixels``. With ``g = dy * weight`` and ``n = (x - mean) * rstd``, that is ``rstd * (g - average of g - n *
    average of g * n)``."""
    samples, channels = rstd.shape
    width, values = channels // groups, pixels * (partials.shape[3] // channels) * (channels // groups)
    for n in range(samples):
        for g in range(groups):
            plain, weighted = 0.0, 0.0
            for c in range(g * width, (g + 1) * width):
                factor = 1.0
                if weight.size:
                    factor *= weight[c]
                plain += factor * _partial_total(partials, 0, n, c, channels)
                weighted += factor * _partial_total(partials, 1, n, c, channels)
            scale = np.float64(rstd[n, g * width])
            for start in range(g * width, partials.shape[3], channels):
                for c in range(start, start + width):
                    offset[n, c] = -scale * plain / values
                    slope[n, c] = -scale * scale * scale * weighted / values


@functools.cache
def normalise_backward(function, derivative=None, gradient=None):
    """The kernel ``normalise_backward``; what followed the normalisation as in :func:`partial_gradients`."""
    before, followed = _before(function, derivative, gradient), function is not None

    @inline
    def panel(x, dy, dx, streams, at, step, affine, apart, slope, offset, place, c, count):
        """A tile of pixels, for a panel from ``c``, with the statistics from ``place``."""
        d, centred = _read_rows(dy, at + c, step, count), zeros(x, ROWS, VECTORS)
        if followed or slope.size:
            centred = _centred(x, at + c, step, affine, place + c, count)
        if followed:
            d = before(d, _scaled(centred, affine, place + c, apart, count))
        d = d * _read_rows(affine, place + apart + c, 0, count)
        if slope.size:
            d = d + fma(centred, _read_rows(slope, place + c, 0, count), _read_rows(offset, place + c, 0, count))
        _write_rows(d, dx, at + c, step, count, streams)

    @kernel(parallel=True)
    def normalise_backward(x, dy, dx, streams, affine, slope, offset, queue, thread):
        """``dx``, which may be ``dy``, from what :func:`merge_slopes` found; with ``slope`` of size 0 the statistics count as constants.
        ``streams``: ``dx`` is written past the caches. ``affine`` from :func:`spread`, for as many channels."""
        samples, pixels, channels = dy.shape
        apart, statistics = affine.shape[1] * channels, affine.reshape(-1)
        length = max(1, BLOCK // channels)
        blocks = (pixels + length - 1) // length
        while True:
            task = next_task(queue, thread, samples * blocks)
            if task >= samples * blocks:
                break
            n, block = divmod(task, blocks)
            begin, end = block * length, min(pixels, (block + 1) * length)
            distance = _distance(end - begin)
            for k in range(_tiles(end - begin, distance)):
                p, step = _tile(k, distance)
                at = (n * pixels + begin + p) * channels
                for c in range(0, channels, WIDTH):
                    if c + WIDTH <= channels:
                        panel(x, dy, dx, streams, at, step * channels, statistics, apart, slope, offset, n * channels, c, WIDTH)
                    else:
                        panel(x, dy, dx, streams, at, step * channels, statistics, apart, slope, offset, n * channels, c, channels - c)

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
def layer_forward(x, y, weight, bias, epsilon, mean, rstd, queue, thread):
    """``y`` = ``(x - mean) * rstd * weight + bias`` for rows ``(R, C)``, with ``mean`` and ``rstd`` ``(R,)``, which are filled;
    ``weight`` and ``bias`` are ``(C,)``, or of size 0 for 1 and 0."""
    rows, channels = x.shape
    while True:
        strip = next_task(queue, thread, -(-rows // STRIP))
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
def layer_backward(x, dy, dx, weight, mean, rstd, queue, thread):
    """``dx`` of :func:`layer_forward`: with ``g = dy * weight`` and ``n = (x - mean) * rstd``,
    ``rstd * (g - average of g - n * average of g * n)``."""
    rows, channels = x.shape
    while True:
        strip = next_task(queue, thread, -(-rows // STRIP))
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


@inline
def _add_rows(x, dy, row, rows, first, last, mean, rstd, plain, weighted, place):
    """Add ``rows`` rows to the rows ``plain`` and ``weighted`` from ``place``, for channels ``first`` to ``last``."""
    channels = x.shape[1]
    for c in range(first, last, WIDTH):
        count = last - c
        sums, weighted_sums = read(plain, place + c, count), read(weighted, place + c, count)
        for r in range(row, row + rows):
            d = read(dy, r * channels + c, count)
            sums = sums + d
            weighted_sums = fma(d, (read(x, r * channels + c, count) - mean[r]) * rstd[r], weighted_sums)
        write(sums, plain, place + c, count)
        write(weighted_sums, weighted, place + c, count)


@kernel(parallel=True)
def layer_partial_gradients(x, dy, mean, rstd, partials, queue, threads, thread):
    """``partials[:, k, c]`` = sums of ``dy`` and of ``dy * (x - mean) * rstd`` over the rows of chunk ``k``."""
    rows, channels = x.shape
    parts = partials.shape[1]
    span = channel_span(channels, parts, threads)
    spans = (channels + span - 1) // span
    plain, weighted = partials[0].reshape(-1), partials[1].reshape(-1)
    while True:
        task = next_task(queue, thread, parts * spans)
        if task >= parts * spans:
            break
        k, part = divmod(task, spans)
        first, last = part * span, min(channels, (part + 1) * span)
        begin, end, place = k * CHUNK, min(rows, (k + 1) * CHUNK), k * channels
        for c in range(first, last, WIDTH):
            write(zeros(x, 1, VECTORS), plain, place + c, last - c)
            write(zeros(x, 1, VECTORS), weighted, place + c, last - c)
        together = begin + (end - begin) // TOGETHER * TOGETHER
        for row in range(begin, together, TOGETHER):
            _add_rows(x, dy, row, TOGETHER, first, last, mean, rstd, plain, weighted, place)
        for row in range(together, end):
            _add_rows(x, dy, row, 1, first, last, mean, rstd, plain, weighted, place)


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
def response_forward(x, y, size, alpha, beta, k, lines, queue, thread):
    """``y`` = ``x / (k + alpha / size * sum of x ** 2 over the channels c - size // 2 to c + (size - 1) // 2) ** beta``, for pixels
    ``(P, C)``. ``lines`` is scratch, ``(threads, 3, response_line)``."""
    pixels, channels = x.shape
    length = lines.shape[2]
    line = thread * 3 * length
    _clear(lines, line, length)
    while True:
        strip = next_task(queue, thread, -(-pixels // STRIP))
        if strip * STRIP >= pixels:
            break
        for pixel in range(strip * STRIP, min(pixels, (strip + 1) * STRIP)):
            at = pixel * channels
            _squares(x, at, lines, line, size)
            for c in range(0, channels, WIDTH):
                power = math.exp(math.log(_response(lines, line + c, size, alpha, k)) * -beta)
                write(read(x, at + c, channels - c) * power, y, at + c, channels - c)


@kernel(parallel=True)
def response_backward(x, dy, dx, size, alpha, beta, k, lines, queue, thread):
    """``dx`` = ``dy * r ** -beta - 2 * alpha * beta / size * x * sum of dy * x * r ** (-beta - 1)`` over the channels whose windows
    hold this one, with ``r`` the base of the power in :func:`response_forward`."""
    pixels, channels = x.shape
    length = lines.shape[2]
    line = thread * 3 * length  # squares
    terms = line + length  # dy * x * r ** (-beta - 1), after a margin of (size - 1) // 2
    direct = terms + length  # dy * r ** -beta
    _clear(lines, line, 3 * length)
    while True:
        strip = next_task(queue, thread, -(-pixels // STRIP))
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
