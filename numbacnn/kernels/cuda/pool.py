"""Max and Lp pooling on the device, forward and backward (compare :mod:`numbacnn.kernels.pool`, whose tables say which pixels a window
holds); average pooling is a weighted sum (:mod:`.resize`) or, over everything, a sum of columns.

Arrays are ``(N, D, H, W, C)``, a thread has one channel of a pixel, or of a run of pixels. Backward passes gather from all windows that
hold a pixel. The winner of a window is kept as the number of its tap in a window of the largest extent.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from ..conv.window import Triple
from .columns import cut, lanes_for
from .driver import cuda, device_function, float32, int32
from .indexing import divided, divisor, divisors, located, read_inside
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray, empty, on_device
from .reduce import HALF, MERGE_LANES

RUN = 4  # neighbouring pixels of a thread of a backward pass
MOST_TAPS = 32  # of a window whose loads are all under way at once
MOST_WINDOWS = 8  # that hold a pixel, likewise

lowest = float32(-math.inf)


@dataclasses.dataclass(frozen=True, eq=False)
class Pooling:
    """``windows`` and ``covers`` are the tables of :mod:`numbacnn.kernels.pool`, for inputs of ``size`` and outputs of ``places``."""

    windows: np.ndarray
    covers: np.ndarray
    size: Triple
    places: Triple

    @functools.cached_property
    def extents(self) -> Triple:
        """Taps of the largest window along each axis."""
        return tuple(int(axis[:places, 1].max()) for axis, places in zip(self.windows, self.places))  # type: ignore[return-value]

    @property
    def everything(self) -> bool:
        """Whether there is one window, which holds all pixels."""
        return self.places == (1, 1, 1) and self.extents == self.size

    @functools.cached_property
    def steps(self) -> Triple:
        """Distance of the taps of a window along each axis."""
        return tuple(int(axis[0, 2]) for axis in self.windows)  # type: ignore[return-value]

    @functools.cached_property
    def window_table(self) -> DeviceArray:
        """First pixel and number of taps of each place, axis after axis."""
        return on_device(np.concatenate([axis[:n, :2].ravel() for axis, n in zip(self.windows, self.places)]).astype(np.int32))

    @functools.cached_property
    def cover_table(self) -> DeviceArray:
        """First place, and number of places, whose windows may hold each pixel, axis after axis."""
        return on_device(np.concatenate([axis[:n].ravel() for axis, n in zip(self.covers, self.size)]).astype(np.int32))

    @functools.cached_property
    def most_windows(self) -> Triple:
        """That may hold a pixel, along each axis."""
        return tuple(max(1, int(axis[:n, 1].max())) for axis, n in zip(self.covers, self.size))  # type: ignore[return-value]


def _starts(lengths: Triple) -> tuple[int, int]:
    """Where the second and the third axis begin in a table of two numbers for each entry."""
    return 2 * lengths[0], 2 * (lengths[0] + lengths[1])


# Max -----------------------------------------------------------------------------------------------------------------


@device_function
def beats(value, best):
    """Whether a later element wins: what is not a number beats every number, and the last of them counts, as in PyTorch."""
    return value > best or value != value  # noqa: PLR0124


@functools.cache
def _max(deep: int, high: int, wide: int, unrolled: bool, keeps: bool) -> Kernel:
    """Windows of at most that many taps along each axis; if not ``unrolled``, of any number. ``keeps``: the winners are wanted."""

    @kernel
    def max_pool(
        x, y, argmax, windows, count, channels, by_c, of_c, places_w, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d, depth, height,
        width, step_d, step_h, step_w, extent_h, extent_w, at_h, at_w,
    ):  # fmt: skip
        at = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
        if at < count:
            sample, d, h, w, channel = located(
                at, channels, by_c, of_c, places_w, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d
            )  # fmt: skip
            taps_d, taps_h, taps_w = windows[2 * d + 1], windows[at_h + 2 * h + 1], windows[at_w + 2 * w + 1]
            first = int32(((sample * depth + windows[2 * d]) * height + windows[at_h + 2 * h]) * width + windows[at_w + 2 * w])
            best, winner = lowest, int32(0)
            for i in range(int32(deep) if unrolled else taps_d):
                for j in range(int32(high) if unrolled else taps_h):
                    for k in range(int32(wide) if unrolled else taps_w):
                        inside = i < taps_d and j < taps_h and k < taps_w
                        near = int32(first + (i * step_d * height + j * step_h) * width + k * step_w)
                        value = read_inside(x, int32(near * channels + channel), inside)
                        better = inside and beats(value, best)
                        best = value if better else best
                        winner = int32((i * extent_h + j) * extent_w + k) if better else winner
            y[at] = best
            if keeps:
                argmax[at] = winner

    return max_pool


def max_forward(pool: Pooling, x: DeviceArray, y: DeviceArray, argmax: DeviceArray | None) -> None:
    """``y`` = maximum of each window; ``argmax`` (uint8 or int32), if it is given, = number of the tap that it came from."""
    if pool.everything:
        _largest(x, y, argmax)
        return
    unrolled, (_, high, wide) = math.prod(pool.extents) <= MOST_TAPS, pool.extents
    _max(*(pool.extents if unrolled else (0, 0, 0)), unrolled, argmax is not None)(
        blocks_for(y.size), x, y, y if argmax is None else argmax, pool.window_table, y.size,
        *divisors(x.shape[-1], *reversed(pool.places)), *pool.size, *pool.steps, high, wide, *_starts(pool.places),
    )  # fmt: skip


@device_function
def tap_of(windows, at, pixel, step, by_s, of_s, apart):
    """The number of the tap with which a window, whose table entry is at ``at``, meets a pixel along an axis, or -1. ``apart``: whether
    there is anything between taps."""
    tap = int32(pixel - windows[at])
    if apart:
        whole = divided(max(tap, int32(0)), by_s, of_s)
        tap = whole if whole * step == tap else int32(-1)
    return tap if tap < windows[at + 1] else int32(-1)


@functools.cache
def _max_gradient(deep: int, high: int, wide: int, unrolled: bool, apart: bool) -> Kernel:
    """Pixels in at most that many windows along each axis; if not ``unrolled``, in any number."""

    @kernel
    def max_pool_gradient(
        dy, argmax, dx, windows, covers, runs, channels, by_c, of_c, wide_runs, by_w, of_w, height, by_h, of_h, depth, by_d, of_d, step_d,
        by_sd, of_sd, step_h, by_sh, of_sh, step_w, by_sw, of_sw, width, places_d, places_h, places_w, extent_h, extent_w, at_h, at_w,
        cover_h, cover_w,
    ):  # fmt: skip
        at = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
        if at < runs:
            sample, d, h, run, channel = located(
                at, channels, by_c, of_c, wide_runs, by_w, of_w, height, by_h, of_h, depth, by_d, of_d
            )  # fmt: skip
            to = int32((((sample * depth + d) * height + h) * width + run * RUN) * channels + channel)
            first_d, count_d = covers[2 * d], covers[2 * d + 1]
            first_h, count_h = covers[cover_h + 2 * h], covers[cover_h + 2 * h + 1]
            for r in range(RUN):
                w = int32(run * RUN + r)
                exists = w < width
                cover = int32(cover_w + 2 * w if exists else cover_w)
                first_w, count_w = covers[cover], covers[cover + 1]
                total = float32(0)
                for i in range(int32(deep) if unrolled else count_d):
                    place_d = int32(first_d + i if i < count_d else 0)
                    tap_d = tap_of(windows, int32(2 * place_d), d, step_d, by_sd, of_sd, apart)
                    for j in range(int32(high) if unrolled else count_h):
                        place_h = int32(first_h + j if j < count_h else 0)
                        tap_h = tap_of(windows, int32(at_h + 2 * place_h), h, step_h, by_sh, of_sh, apart)
                        for k in range(int32(wide) if unrolled else count_w):
                            place_w = int32(first_w + k if k < count_w else 0)
                            tap_w = tap_of(windows, int32(at_w + 2 * place_w), w, step_w, by_sw, of_sw, apart)
                            inside = i < count_d and j < count_h and k < count_w and tap_d >= 0 and tap_h >= 0 and tap_w >= 0
                            near = int32((((sample * places_d + place_d) * places_h + place_h) * places_w + place_w) * channels + channel)
                            near = near if exists and inside else int32(0)
                            won = inside and int32(argmax[near]) == int32((tap_d * extent_h + tap_h) * extent_w + tap_w)
                            slope = dy[near]
                            total += slope if won else float32(0)
                if exists:
                    dx[to] = total
                to = int32(to + channels)

    return max_pool_gradient


def max_backward(pool: Pooling, dy: DeviceArray, argmax: DeviceArray, dx: DeviceArray) -> None:
    """``dx`` = sum of ``dy`` over the windows whose maximum the pixel is."""
    depth, height, width = pool.size
    unrolled, wide_runs = math.prod(pool.most_windows) <= MOST_WINDOWS, -(-width // RUN)
    runs = dx.size // width * wide_runs
    _max_gradient(*(pool.most_windows if unrolled else (0, 0, 0)), unrolled, max(pool.steps) > 1)(
        blocks_for(runs), dy, argmax, dx, pool.window_table, pool.cover_table, runs,
        *divisors(dx.shape[-1], wide_runs, height, depth, *pool.steps), width, *pool.places, *pool.extents[1:], *_starts(pool.places),
        *_starts(pool.size),
    )  # fmt: skip


# The maximum of everything -------------------------------------------------------------------------------------------


@device_function
def _ahead(value, number, best, winner):
    """:func:`beats`, of elements in any order: of equal ones the first wins, of those that are no numbers the last."""
    if value != value:  # noqa: PLR0124
        return best == best or number > winner  # noqa: PLR0124
    return value > best or (value == best and number < winner)


@functools.cache
def _column_maxima(merges: bool, keeps: bool) -> Kernel:
    """The maxima of the columns of parts of the rows, and the numbers of their rows, as :mod:`.columns` adds them up; if it ``merges``,
    of such maxima."""

    @kernel
    def column_maxima(x, numbers, rows, columns, bits, parts, by_parts, of_parts, span, maxima, winners):
        best_of, winner_of = cuda.shared.array(THREADS, float32), cuda.shared.array(THREADS, int32)
        thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        group = divided(block, by_parts, of_parts)
        start = int32((block - group * parts) * span)
        lanes, step = int32(1 << bits), int32(THREADS >> bits)
        column = int32((int32(cuda.blockIdx.y) << bits) + (thread & (lanes - 1)))
        best, winner = lowest, int32(0)
        if column < columns:
            for row in range(int32(start + (thread >> bits)), min(rows, int32(start + span)), step):
                at = int32((group * rows + row) * columns + column)
                value, number = x[at], numbers[at] if merges else row
                if _ahead(value, number, best, winner):
                    best, winner = value, int32(number)
        best_of[thread], winner_of[thread] = best, winner
        cuda.syncthreads()
        width = int32(HALF)
        while width >= lanes:
            if thread < width and _ahead(best_of[thread + width], winner_of[thread + width], best_of[thread], winner_of[thread]):
                best_of[thread], winner_of[thread] = best_of[thread + width], winner_of[thread + width]
            cuda.syncthreads()
            width = int32(width >> 1)
        if thread < lanes and column < columns:
            maxima[block * columns + column] = best_of[thread]
            if keeps:
                winners[block * columns + column] = winner_of[thread]

    return column_maxima


def _largest(x: DeviceArray, y: DeviceArray, argmax: DeviceArray | None) -> None:
    """The largest element of each channel of each sample, and the number of its pixel."""
    samples, columns = len(x), x.shape[-1]
    lanes, parts = cut(samples, x.size // y.size, columns)
    if parts == 1:
        _maxima(x, None, samples, 1, lanes, y, argmax)
        return
    maxima = empty((samples * parts, columns), np.float32)
    winners = None if argmax is None else empty(maxima.shape, np.int32)
    _maxima(x, None, samples, parts, lanes, maxima, winners)
    _maxima(maxima, winners, samples, 1, lanes_for(columns, MERGE_LANES), y, argmax)


def _maxima(
    x: DeviceArray, numbers: DeviceArray | None, groups: int, parts: int, lanes: int, maxima: DeviceArray, winners: DeviceArray | None
) -> None:  # fmt: skip
    columns = x.shape[-1]
    rows = x.size // (groups * columns)
    _column_maxima(numbers is not None, winners is not None)(
        (groups * parts, -(-columns // lanes)), x, x if numbers is None else numbers, rows, columns, lanes.bit_length() - 1,
        *divisor(parts), -(-rows // parts), maxima, maxima if winners is None else winners,
    )  # fmt: skip


# Lp ------------------------------------------------------------------------------------------------------------------


@functools.cache
def _power(exponent: float) -> Any:
    """The device function ``value ** exponent``, of values that are not negative."""
    constant, nothing, one = float32(exponent), float32(0), float32(1)

    @device_function
    def power(value):
        if exponent == 0.0:
            return one
        if exponent == 1.0:
            return value
        if exponent == 2.0:
            return value * value
        if exponent == 0.5:
            return float32(math.sqrt(value))
        return nothing if value <= nothing else float32(math.exp(constant * float32(math.log(value))))

    return power


@functools.cache
def _lp(exponent: float) -> Kernel:
    power, root = _power(exponent), _power(1 / exponent)

    @kernel
    def lp_pool(
        x, y, windows, count, channels, by_c, of_c, places_w, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d, depth, height, width,
        at_h, at_w,
    ):  # fmt: skip
        at = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
        if at < count:
            sample, d, h, w, channel = located(
                at, channels, by_c, of_c, places_w, by_w, of_w, places_h, by_h, of_h, places_d, by_d, of_d
            )  # fmt: skip
            first = int32(((sample * depth + windows[2 * d]) * height + windows[at_h + 2 * h]) * width + windows[at_w + 2 * w])
            total = float32(0)
            for i in range(windows[2 * d + 1]):
                for j in range(windows[at_h + 2 * h + 1]):
                    near = int32((first + (i * height + j) * width) * channels + channel)
                    for _ in range(windows[at_w + 2 * w + 1]):
                        total += power(abs(x[near]))
                        near = int32(near + channels)
            y[at] = root(total)

    return lp_pool


def lp_forward(pool: Pooling, x: DeviceArray, y: DeviceArray, exponent: float) -> None:
    """``y`` = (sum of ``|x| ** exponent`` over each window) ** (1 / exponent); windows have step 1."""
    _lp(exponent)(
        blocks_for(y.size), x, y, pool.window_table, y.size, *divisors(x.shape[-1], *reversed(pool.places)), *pool.size,
        *_starts(pool.places),
    )  # fmt: skip


@functools.cache
def _lp_gradient(exponent: float) -> Kernel:
    slope_of = _power(exponent - 1)

    @kernel
    def lp_pool_gradient(
        x, y, dy, dx, covers, count, channels, by_c, of_c, width, by_w, of_w, height, by_h, of_h, depth, by_d, of_d, places_d, places_h,
        places_w, at_h, at_w,
    ):  # fmt: skip
        at = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
        if at < count:
            sample, d, h, w, channel = located(
                at, channels, by_c, of_c, width, by_w, of_w, height, by_h, of_h, depth, by_d, of_d
            )  # fmt: skip
            nothing, one, value = float32(0), float32(1), x[at]
            size = one if value == nothing else abs(value)
            first = int32(((sample * places_d + covers[2 * d]) * places_h + covers[at_h + 2 * h]) * places_w + covers[at_w + 2 * w])
            total = nothing
            for i in range(covers[2 * d + 1]):
                for j in range(covers[at_h + 2 * h + 1]):
                    near = int32((first + (i * places_h + j) * places_w) * channels + channel)
                    for _ in range(covers[at_w + 2 * w + 1]):
                        norm = y[near]
                        total += dy[near] * slope_of(size / (one if norm == nothing else norm))
                        near = int32(near + channels)
            dx[at] = total if value > nothing else (-total if value < nothing else value)

    return lp_pool_gradient


def lp_backward(pool: Pooling, x: DeviceArray, y: DeviceArray, dy: DeviceArray, dx: DeviceArray, exponent: float) -> None:
    """``dx`` = sum of ``dy * sign(x) * (|x| / y) ** (exponent - 1)`` over the windows that hold the pixel; 0 where ``x`` is 0."""
    _lp_gradient(exponent)(
        blocks_for(dx.size), x, y, dy, dx, pool.cover_table, dx.size, *divisors(x.shape[-1], *reversed(pool.size)), *pool.places,
        *_starts(pool.size),
    )  # fmt: skip
