"""Layer normalisation on the device, forward and backward: each row of a matrix has a mean and a variance, each column a weight and a bias.

Rows that fit are held by a team of threads in its registers. Longer ones are samples of as many pixels with one channel (see
:mod:`.statistics`).
"""

from __future__ import annotations

import functools
import math

from .blocks import BLOCKS, cut_for_elements, cut_for_sums, place
from .driver import cuda, float32, int32
from .indexing import quotient
from .launch import THREADS, blocks_for, kernel
from .memory import DeviceArray
from .norm import merge_gradients, merge_slopes, optional
from .reduce import column_sum, team_for, team_sum
from .statistics import merge_statistics, partial_statistics, statistics_shape

HELD = 8  # numbers of a row that a thread holds
LONGEST = HELD * THREADS

# Rows that a team of threads holds in its registers ----------------------------------------------------------------------


@kernel
def _row_forward(x, y, rows, columns, team, weight, scaled, bias, centered, epsilon, mean, rstd):
    sums = cuda.shared.array(THREADS, float32)
    v = cuda.local.array(HELD, float32)
    thread = int32(cuda.threadIdx.x)
    number = quotient(thread, team)
    lane = int32(thread - number * team)
    row = int32(int32(cuda.blockIdx.x) * quotient(THREADS, team) + number)
    limit = columns if row < rows else int32(0)
    first = int32(row * columns)
    at = int32(first + lane)
    shift = x[first] if row < rows else float32(0)
    found = float32(0)
    for k in range(HELD):
        v[k] = x[at + k * team] - shift if lane + k * team < limit else float32(0)
    for k in range(HELD):
        found += v[k]
    rest = team_sum(sums, thread, lane, team, found) / float32(columns)
    found = float32(0)
    for k in range(HELD):
        d = v[k] - rest
        if lane + k * team < limit:
            found += d * d
    variance = team_sum(sums, thread, lane, team, found) / float32(columns)
    average, factor = shift + rest, float32(1) / math.sqrt(variance + epsilon)
    away = average - shift  # the mean as it is kept, so that the backward pass sees the same
    for k in range(HELD):
        c = int32(lane + k * team)
        if c < limit:
            value = (v[k] - away) * factor
            if scaled:
                value *= weight[c]
            if centered:
                value += bias[c]
            y[at + k * team] = value
    if row < rows and lane == 0:
        mean[row] = average
        rstd[row] = factor


@functools.cache
def _rows_per_block(rows: int, columns: int) -> int:
    """Rows that a block sums up."""
    teams = THREADS // team_for(columns, HELD)
    return -(-rows // (BLOCKS * teams)) * teams


@kernel
def _row_backward(
    x, dy, dx, dx_wanted, rows, columns, team, each, weight, scaled, mean, rstd, partials, plane, sums_wanted
):  # fmt: skip
    sums = cuda.shared.array(THREADS, float32)
    normal = cuda.local.array(HELD, float32)
    given = cuda.local.array(HELD, float32)
    gain = cuda.local.array(HELD, float32)
    plain_sums = cuda.local.array(HELD, float32)
    weighted_sums = cuda.local.array(HELD, float32)
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    teams, number = quotient(THREADS, team), quotient(thread, team)
    lane = int32(thread - number * team)
    for k in range(HELD):
        gain[k] = weight[lane + k * team] if scaled and lane + k * team < columns else float32(1)
        plain_sums[k] = float32(0)
        weighted_sums[k] = float32(0)
    begin = int32(block * each)
    end = int32(min(rows, begin + each))
    while begin < end:  # all teams go along, as sums take all threads
        row = int32(begin + number)
        limit = columns if row < end else int32(0)
        at = int32(row * columns + lane)
        average, factor = float32(0), float32(0)
        if row < end:
            average, factor = mean[row], rstd[row]
        for k in range(HELD):
            inside = lane + k * team < limit
            given[k] = dy[at + k * team] if inside else float32(0)
            normal[k] = x[at + k * team] if inside else average
        plain, weighted = float32(0), float32(0)
        for k in range(HELD):
            normal[k] = (normal[k] - average) * factor
            plain_sums[k] += given[k]
            weighted_sums[k] += given[k] * normal[k]
            given[k] *= gain[k]
            plain += given[k]
            weighted += given[k] * normal[k]
        if dx_wanted:
            plain = team_sum(sums, thread, lane, team, plain) / float32(columns)
            weighted = team_sum(sums, thread, lane, team, weighted) / float32(columns)
            for k in range(HELD):
                if lane + k * team < limit:
                    dx[at + k * team] = (given[k] - plain - normal[k] * weighted) * factor
        begin = int32(begin + teams)
    if sums_wanted:
        for k in range(HELD):
            c = int32(lane + k * team)
            plain = column_sum(sums, thread, number, teams, team, plain_sums[k])
            weighted = column_sum(sums, thread, number, teams, team, weighted_sums[k])
            if number == 0 and c < columns:
                partials[block * columns + c] = plain
                partials[plane + block * columns + c] = weighted


# Longer rows: samples of as many pixels with one channel, but for the parameters, which there are for each pixel ------------


@kernel
def _place_normalise(x, y, mean, rstd, weight, scaled, bias, centered, pixels, chunk, chunks):
    sample = quotient(cuda.blockIdx.x, chunks)
    first = int32((int32(cuda.blockIdx.x) - sample * chunks) * chunk)
    p, stop = int32(first + int32(cuda.threadIdx.x)), int32(min(pixels, first + chunk))
    average, factor = mean[sample], rstd[sample]
    while p < stop:
        value = (x[sample * pixels + p] - average) * factor
        if scaled:
            value *= weight[p]
        if centered:
            value += bias[p]
        y[sample * pixels + p] = value
        p = int32(p + THREADS)


@kernel
def _place_sums(x, dy, mean, weight, scaled, partials, plane, pixels, chunk, chunks):
    """Partial sums of ``g = dy * weight`` and of ``g * (x - mean)``."""
    sums = cuda.shared.array(THREADS, float32)
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    sample = quotient(block, chunks)
    first = int32((block - sample * chunks) * chunk)
    p, stop = int32(first + thread), int32(min(pixels, first + chunk))
    average, plain, weighted = mean[sample], float32(0), float32(0)
    while p < stop:
        g = dy[sample * pixels + p]
        if scaled:
            g *= weight[p]
        plain += g
        weighted += g * (x[sample * pixels + p] - average)
        p = int32(p + THREADS)
    plain = column_sum(sums, thread, thread, int32(THREADS), int32(1), plain)
    weighted = column_sum(sums, thread, thread, int32(THREADS), int32(1), weighted)
    if thread == 0:
        partials[block] = plain
        partials[plane + block] = weighted


@kernel
def _place_backward(x, dy, dx, mean, rstd, weight, scaled, slope, offset, pixels, chunk, chunks):
    sample = quotient(cuda.blockIdx.x, chunks)
    first = int32((int32(cuda.blockIdx.x) - sample * chunks) * chunk)
    p, stop = int32(first + int32(cuda.threadIdx.x)), int32(min(pixels, first + chunk))
    average, factor, tilt, level = mean[sample], rstd[sample], slope[sample], offset[sample]
    while p < stop:
        g = dy[sample * pixels + p]
        if scaled:
            g *= weight[p]
        dx[sample * pixels + p] = g * factor + ((x[sample * pixels + p] - average) * tilt + level)
        p = int32(p + THREADS)


@kernel
def _place_gradients(x, dy, mean, rstd, partials, plane, pixels, channels, lanes, rows, slices, chunk, chunks):
    """Partial sums over the rows of ``dy`` and of ``dy * (x - mean) * rstd``: here rows are pixels, and columns channels."""
    sums = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    _, part, row, channel = place(channels, lanes, slices, chunks)
    plain, weighted = float32(0), float32(0)
    if row < rows and channel < channels:
        p, stop = int32(part * chunk + row), int32(min(pixels, part * chunk + chunk))
        while p < stop:
            d = dy[p * channels + channel]
            plain += d
            weighted += d * ((x[p * channels + channel] - mean[p]) * rstd[p])
            p = int32(p + rows)
    plain = column_sum(sums, thread, row, rows, lanes, plain)
    weighted = column_sum(sums, thread, row, rows, lanes, weighted)
    if row == 0 and channel < channels:
        partials[part * channels + channel] = plain
        partials[plane + part * channels + channel] = weighted


# Rows of any length ------------------------------------------------------------------------------------------------------


def scratch(rows: int, columns: int, training: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that :func:`forward` and :func:`backward` work in."""
    if columns <= LONGEST:
        return {"partials": (2, 1, -(-rows // _rows_per_block(rows, columns)), columns)} if training else {}
    shapes: dict[str, tuple[int, ...]] = {"row_partials": statistics_shape(rows, columns, 1)}
    if training:
        shapes["partials"] = (2, 1, cut_for_sums(1, rows, columns).chunks, columns)
        shapes["slope"] = shapes["offset"] = (rows, 1)
    return shapes


def forward(
    x: DeviceArray, y: DeviceArray, weight: DeviceArray | None, bias: DeviceArray | None, epsilon: float, mean: DeviceArray,
    rstd: DeviceArray, b: dict[str, DeviceArray],
) -> None:  # fmt: skip
    """``y = (x - mean) * rstd * weight + bias`` for rows ``(rows, columns)``, with ``mean`` and ``rstd`` ``(rows,)``, which are filled;
    ``weight`` and ``bias`` are ``(columns,)`` or None."""
    rows, columns = x.shape
    parameters = (*optional(weight, mean), *optional(bias, mean))
    if columns <= LONGEST:
        team = team_for(columns, HELD)
        _row_forward(blocks_for(rows, THREADS // team), x, y, rows, columns, team, *parameters, float(epsilon), mean, rstd)
        return
    partials, cut = b["row_partials"], cut_for_elements(rows, columns, 1)
    partial_statistics(x.reshape(rows, columns, 1), partials)
    merge_statistics(partials, columns, 1, epsilon, mean.reshape(rows, 1), rstd.reshape(rows, 1))
    _place_normalise(cut.blocks, x, y, mean, rstd, *parameters, columns, cut.chunk, cut.chunks)


def backward(
    x: DeviceArray, dy: DeviceArray, dx: DeviceArray | None, weight: DeviceArray | None, mean: DeviceArray, rstd: DeviceArray,
    b: dict[str, DeviceArray], dweight: DeviceArray | None, dbias: DeviceArray | None,
) -> None:  # fmt: skip
    """Gradients of :func:`forward`, those that are not None: with ``g = dy * weight`` and ``n = (x - mean) * rstd``,
    ``dx = rstd * (g - average of g - n * average of g * n)``."""
    rows, columns = x.shape
    partials, gain, summed = b["partials"], optional(weight, mean), dweight is not None or dbias is not None
    if columns <= LONGEST:
        each = _rows_per_block(rows, columns)
        _row_backward(
            blocks_for(rows, each), x, dy, *optional(dx, dy), rows, columns, team_for(columns, HELD), each, *gain, mean, rstd,
            partials, partials.size // 2, summed,
        )  # fmt: skip
    elif summed:
        cut = cut_for_sums(1, rows, columns)
        _place_gradients(cut.blocks, x, dy, mean, rstd, partials, partials.size // 2, *cut.sizes)
    if summed:
        merge_gradients(partials, None, dweight, dbias)
    if columns > LONGEST and dx is not None:
        partials, slope, offset = b["row_partials"][:2], b["slope"], b["offset"]
        cut = cut_for_sums(rows, columns, 1)
        _place_sums(cut.blocks, x, dy, mean, *gain, partials, partials.size // 2, columns, cut.chunk, cut.chunks)
        merge_slopes(partials, columns, 1, rstd.reshape(rows, 1), None, slope, offset)
        cut = cut_for_elements(rows, columns, 1)
        _place_backward(cut.blocks, x, dy, dx, mean, rstd, *gain, slope, offset, columns, cut.chunk, cut.chunks)
