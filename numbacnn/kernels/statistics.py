"""Means and variances of a batch, in two steps (compare :mod:`numbacnn.kernels.cuda.statistics`, whose formulas these are).

*Parts* of the pixels, which follow from the shapes alone, leave for each channel how many numbers there are, a shift that is not far from
their mean, and the sums of ``x - shift`` and of ``(x - shift) ** 2``; the parts are then put together in float64, in their order. A large
mean costs no digits, and the bits do not depend on the number of threads. A pass over the array leaves them
(:func:`numbacnn.kernels.norm.partial_statistics`), or the convolution that writes it, while it is still in a cache (:func:`gather`).
"""

from __future__ import annotations

import functools
import math

from ..simd import LANES, convert, fma, load, load_part, row_sum, splat, store, store_part, stride, zeros
from .channels import VECTORS, WIDTH
from .jit import inline, kernel, outline

STATISTICS = 4  # numbers of a part and channel
TOTALS = 3  # of a channel, while parts are put together
SAMPLE = 16  # pixels that the shift is the mean of
TOGETHER = 4  # vectors that are added to sums in registers at a time: additions that wait for each other take as long


@functools.cache
def _panel(vectors, whole):
    """The function that finds the statistics of so many vectors of channels, whose sums stay in registers; not ``whole``: only ``count``
    channels are there."""
    rows = TOGETHER // vectors

    @inline
    def read(array, at, step, count, rows):
        return load(array, at, step, rows, vectors) if whole else load_part(array, at, step, count, rows, vectors)

    @inline
    def write(tile, array, at, count):
        if whole:
            store(tile, array, at, 0)
        else:
            store_part(tile, array, at, 0, count)

    @inline
    def panel(x, at, lines, line_step, pixels, step, count, gathered, place, apart):
        few_lines, few = min(lines, max(1, SAMPLE // pixels)), min(pixels, SAMPLE)
        sums = zeros(x, 1, vectors)
        for line in range(few_lines):
            for p in range(few):
                sums = sums + read(x, at + line * line_step + p * step, 0, count, 1)
        write(splat(x, float(lines * pixels), 1, vectors), gathered, place, count)
        write(sums / (few_lines * few), gathered, place + apart, count)
        shift = read(gathered, place + apart, 0, count, rows)
        plain, squares = zeros(x, rows, vectors), zeros(x, rows, vectors)
        for line in range(lines):
            p = at + line * line_step
            for _ in range(pixels // rows):
                d = read(x, p, step, count, rows) - shift
                plain, squares = plain + d, fma(d, d, squares)
                p += rows * step
            for _ in range(pixels % rows):
                d = (read(x, p, 0, count, rows) - shift) * (1.0 / rows)  # once in all
                plain, squares = plain + d, fma(d, d * rows, squares)
                p += step
        write(row_sum(plain), gathered, place + 2 * apart, count)
        write(row_sum(squares), gathered, place + 3 * apart, count)

    return panel


_wide, _narrow = _panel(VECTORS, True), _panel(1, False)


@outline
def gather(x, at, lines, line_step, pixels, step, first, last, gathered, n, plane, part):
    """``gathered[:, n, plane, part, c]`` for the channels ``first`` to ``last``: number, shift, sum of ``x - shift`` and sum of
    ``(x - shift) ** 2`` of ``lines`` of ``pixels``, the first of which is at ``x[at]``. The shift is the mean of the first pixels: if it is
    ``D`` away from that of all, their standard deviation is at least ``D * sqrt(share of the first)``, so that little cancels."""
    place, apart = n * stride(gathered, 1) + plane * stride(gathered, 2) + part * stride(gathered, 3), stride(gathered, 0)
    c = first
    while c + WIDTH <= last:
        _wide(x, at + c, lines, line_step, pixels, step, WIDTH, gathered, place + c, apart)
        c += WIDTH
    while c < last:
        _narrow(x, at + c, lines, line_step, pixels, step, min(LANES, last - c), gathered, place + c, apart)
        c += LANES


@inline
def _merge_parts(partials, n, totals):
    """Of a sample, put the parts together for each channel by itself. ``totals`` has, one after the other for all ``F * C``, the numbers of
    values, their means, and the sums of their squared distances from these. Sums go about a pivot, the first part's shift."""
    samples, parts, channels = partials.shape[1:]
    flat, apart = partials.reshape(-1), samples * parts * channels
    for c in range(0, channels, LANES):
        count, at = min(LANES, channels - c), n * parts * channels + c
        pivot = convert(load_part(flat, apart + at, 0, count, 1, 1), totals)
        values, plain, squares = zeros(totals, 1, 1), zeros(totals, 1, 1), zeros(totals, 1, 1)
        for _ in range(parts):
            number = convert(load_part(flat, at, 0, count, 1, 1), totals)
            distance = convert(load_part(flat, apart + at, 0, count, 1, 1), totals) - pivot
            rest = convert(load_part(flat, 2 * apart + at, 0, count, 1, 1), totals)
            values = values + number
            plain = plain + fma(number, distance, rest)
            square = convert(load_part(flat, 3 * apart + at, 0, count, 1, 1), totals)
            squares = squares + fma(distance, fma(number, distance, rest * 2.0), square)
            at += channels
        away = plain / values
        store_part(values, totals, c, 0, count)
        store_part(pivot + away, totals, channels + c, 0, count)
        store_part(squares - away * plain, totals, 2 * channels + c, 0, count)


@inline
def _group_moments(totals, first, last, channels, folded):
    """Of the channels ``first`` to ``last`` of ``channels``, which there are several times in all ``folded``: the number of values, their
    mean, and the sum of squared distances from it."""
    values, weighted, squares = 0.0, 0.0, 0.0
    for start in range(0, folded, channels):
        for c in range(start + first, start + last):
            values += totals[c]
            weighted += totals[c] * totals[folded + c]
    mean = weighted / values
    for start in range(0, folded, channels):
        for c in range(start + first, start + last):
            squares += max(0.0, totals[2 * folded + c]) + totals[c] * (totals[folded + c] - mean) ** 2
    return values, mean, squares


@kernel
def merge_statistics(partials, totals, groups, epsilon, mean, rstd, momentum, running_mean, running_var):
    """``mean`` and ``rstd`` (1 / sqrt(variance + epsilon)), both ``(N, C)``, from ``partials (STATISTICS, N, parts, F * C)``, in which F
    neighbouring pixels may count as one. With ``running_mean`` and ``running_var`` not of size 0 (then N is 1 and there is a group for each
    channel), these move towards the mean and the unbiased variance: ``(1 - momentum) * old + momentum * new``. ``totals`` is scratch,
    ``TOTALS * F * C`` numbers of float64 (or more)."""
    samples, channels = mean.shape
    width = channels // groups
    for n in range(samples):
        _merge_parts(partials, n, totals)
        for g in range(groups):
            values, average, squares = _group_moments(totals, g * width, (g + 1) * width, channels, partials.shape[3])
            for c in range(g * width, (g + 1) * width):
                mean[n, c] = average
                rstd[n, c] = 1.0 / math.sqrt(squares / values + epsilon)
            if running_mean.size:
                running_mean[g] = (1.0 - momentum) * running_mean[g] + momentum * average
                running_var[g] = (1.0 - momentum) * running_var[g] + momentum * (squares / (values - 1))
