"""A few rows times a large matrix, which is read once, where it lies, without a packed copy.

It comes from memory, and does so fast where long stretches of a few of its rows are read side by side. So a task takes many columns, whose
sums are in scratch of its thread, and adds :data:`DEPTH` rows of weights at a time, which stay in registers while they are added to the
sums of each row of ``x``. An output is summed over the channels in their order, as by the convolution with packed weights, however the
columns are cut into tasks.

For one row of ``x``, whose sums of all columns a first-level cache holds, a task takes successive rows of weights instead: one stretch of
memory is read a little faster yet. A second launch adds up what the tasks have, which follow from the shape. Here weights are not kept in
the last-level cache either where they are too large to be found there by the next call: what other layers read may stay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ..simd import LANES, add_rows, fma, load, load_part, prefetch, prefetch_once, store, store_part, stride, zeros
from .channels import VECTORS, WIDTH, read, write
from .conv.ending import ending, resolved
from .conv.tiles import copy_run
from .jit import inline, kernel
from .tasks import next_task

MOST_ROWS = 32  # of x: from half of that on products take longer than reading, and packed weights, held twice, would be a little faster
LEAST_COLUMNS = 2048  # of shorter rows, stretches end before the processor reads ahead as far as it does of packed weights
LEAST_WEIGHTS = 4 << 20  # elements: fewer may stay in a cache, from where packed ones come faster
DEPTH = 4  # rows of weights at a time, for several rows of x; more don't fit the registers
DEPTH_ALONE = 8  # for one row of x, where reading is all that counts
HELD = 16  # channels of x that are copied at a time
TASK_SUMS = 64 * 1024  # at most, which stay in a second-level cache
TASK_COLUMNS = 4096  # at most, of which one row of sums stays in a first-level cache, and
LEAST_TASK_COLUMNS = 64  # where there are many threads
FETCHED = 16 * 1024  # elements that are asked for ahead, where the processor doesn't by itself
PARTS = 32  # of the channels, for one row of x
VECTORS_ALONE = 4  # of weights at a time
FETCHED_ALONE = 1024  # elements that are asked for ahead
ONCE = 32 << 20  # bytes of weights, of which a last-level cache that all of a network goes through keeps little


@functools.cache
def _accumulation(depth):
    @inline
    def accumulate(sums, x, x_at, rows, w, w_at, w_step, columns, ahead):
        """``sums[panel][row] += sum over k < depth of x[x_at + row * HELD + k] * w[w_at + k * w_step]``, panel by panel of ``columns``;
        weights ``ahead`` elements behind these are fetched, unless that is 0."""
        at = 0
        for column in range(0, columns, WIDTH):
            place, count = w_at + column, columns - column
            if count >= WIDTH:
                tile = load(w, place, w_step, depth, VECTORS)
            else:
                tile = load_part(w, place, w_step, count, depth, VECTORS)
            if ahead > 0:
                prefetch(w, place + ahead, w_step, depth)
            for row in range(rows):
                store(add_rows(load(sums, at, 0, 1, VECTORS), x, x_at + row * HELD, tile), sums, at, 0)
                at += WIDTH

    return accumulate


_accumulate_alone, _accumulate, _accumulate_last = _accumulation(DEPTH_ALONE), _accumulation(DEPTH), _accumulation(1)


@inline
def begin(sums, rows, bias, column, columns, scaled):
    """Sums begin with the bias, or with zero where a scale comes first."""
    at = 0
    for panel in range(0, columns, WIDTH):
        first = zeros(sums, 1, VECTORS) if scaled else read(bias, column + panel, columns - panel)
        for _ in range(rows):
            store(first, sums, at, 0)
            at += WIDTH


@inline
def add_channels(sums, x, rows, channels, w, w_at, w_step, columns, ahead):
    """Add what the ``channels`` in ``x[row * HELD:]`` give with as many rows of weights from ``w_at`` on."""
    k = 0
    if rows == 1:
        while k + DEPTH_ALONE <= channels:
            _accumulate_alone(sums, x, k, 1, w, w_at + k * w_step, w_step, columns, ahead)
            k += DEPTH_ALONE
    while k + DEPTH <= channels:
        _accumulate(sums, x, k, rows, w, w_at + k * w_step, w_step, columns, ahead)
        k += DEPTH
    while k < channels:
        _accumulate_last(sums, x, k, rows, w, w_at + k * w_step, w_step, columns, 0)
        k += 1


@functools.cache
def multiplication(activation):
    """The kernel ``multiply``; ``activation``: see :func:`numbacnn.kernels.conv.ending.ending`."""
    finish = ending(activation)

    @inline
    def end(sums, rows, scaled, scale, bias, residual, addend, low, high, y, column, columns):
        at = 0
        for panel in range(0, columns, WIDTH):
            first, count = column + panel, columns - panel
            for row in range(rows):
                value = load(sums, at, 0, 1, VECTORS)
                at += WIDTH
                if scaled:
                    value = fma(value, read(scale, first, count), read(bias, first, count))
                if residual:
                    value = value + read(addend, row * stride(addend, 0) + first, count)
                write(finish(value, low, high), y, row * stride(y, 0) + first, count)

    @kernel(parallel=True, views=("x", "addend", "y"))
    def multiply(x, w, scaled, scale, bias, residual, addend, low, high, y, task_columns, ahead, scratch, queue, thread):
        """``y = finish((x @ w) * scale + bias + addend)``, the scale only where ``scaled`` and the addend only where ``residual``.

        ``x (N, C)``, ``addend`` and ``y (N, CO)`` are views with dense columns, ``w (C, CO)`` is dense; a task makes ``task_columns``
        columns, whole panels of them; rows of weights that are ``ahead`` of those in use are fetched; ``scratch (threads,
        N * (HELD + task_columns))``.
        """
        rows, channels, columns = x.shape[0], x.shape[1], w.shape[1]
        held = scratch[thread]
        sums = held[rows * HELD :]
        while True:
            column = next_task(queue, thread, -(-columns // task_columns)) * task_columns
            if column >= columns:
                break
            count = min(task_columns, columns - column)
            begin(sums, rows, bias, column, count, scaled)
            for channel in range(0, channels, HELD):
                together = min(HELD, channels - channel)
                for row in range(rows):
                    copy_run(x, row * stride(x, 0) + channel, held, row * HELD, together)
                add_channels(sums, held, rows, together, w, channel * columns + column, columns, count, ahead * columns)
            end(sums, rows, scaled, scale, bias, residual, addend, low, high, y, column, count)

    return multiply


@inline
def _add_row(totals, x, channel, w, fetch):
    """``totals += x[0, channel] * w[channel]``; weights that come next are fetched."""
    columns, width = w.shape[1], VECTORS_ALONE * LANES
    row, full = channel * columns, columns // width * width
    for column in range(0, full, width):
        fetch(w, row + column + FETCHED_ALONE, LANES, VECTORS_ALONE)
        sums = load(totals, column, 0, 1, VECTORS_ALONE)
        store(add_rows(sums, x, channel, load(w, row + column, 0, 1, VECTORS_ALONE)), totals, column, 0)
    for column in range(full, columns, LANES):
        rest = columns - column
        sums = load_part(totals, column, 0, rest, 1, 1)
        store_part(add_rows(sums, x, channel, load_part(w, row + column, 0, rest, 1, 1)), totals, column, 0, rest)


@functools.cache
def addition(once):
    """The kernel ``add``; ``once``: whether weights pass the last-level cache by."""
    fetch = prefetch_once if once else prefetch

    @kernel(parallel=True, views=("x",))
    def add(x, w, sums, queue, thread):
        """``sums[part] = x[0, channels] @ w[channels]``, with an equal share of the channels for each part; ``x (1, C)`` is a view with
        dense columns, ``w (C, CO)`` and ``sums (parts, CO)`` are dense."""
        channels, parts = w.shape[0], sums.shape[0]
        while True:
            part = next_task(queue, thread, parts)
            if part >= parts:
                break
            totals = sums[part]
            totals[:] = 0
            for channel in range(part * channels // parts, (part + 1) * channels // parts):
                _add_row(totals, x, channel, w, fetch)

    return add


@functools.cache
def conclusion(activation):
    """The kernel ``conclude``; ``activation``: see :func:`numbacnn.kernels.conv.ending.ending`."""
    finish = ending(activation)

    @kernel(parallel=True, views=("addend", "y"))
    def conclude(sums, scaled, scale, bias, residual, addend, low, high, y, queue, thread):
        """``y = finish(total * scale + bias + addend)`` with the total of ``sums (parts, CO)`` over the parts, the scale only where
        ``scaled`` and the addend only where ``residual``; ``addend`` and ``y (1, CO)`` are views with dense columns."""
        columns = y.shape[1]
        panels = -(-columns // WIDTH)
        while True:
            panel = next_task(queue, thread, panels)
            if panel >= panels:
                break
            column = panel * WIDTH
            count = columns - column
            value = zeros(sums, 1, VECTORS) if scaled else read(bias, column, count)
            for part in range(sums.shape[0]):
                value = value + read(sums, part * columns + column, count)
            if scaled:
                value = fma(value, read(scale, column, count), read(bias, column, count))
            if residual:
                value = value + read(addend, column, count)
            write(finish(value, low, high), y, column, count)

    return conclude


def reads_in_place(rows: int, channels: int, columns: int) -> bool:
    """Whether weights ``(channels, columns)`` are better read where they lie, by :func:`dense`, than packed."""
    return rows <= MOST_ROWS and columns >= LEAST_COLUMNS and channels * columns >= LEAST_WEIGHTS


def _task_columns(rows: int, columns: int, threads: int) -> int:
    """Columns of a task, in whole panels."""
    wanted = max(LEAST_TASK_COLUMNS, -(-columns // threads))
    tasks = -(-columns // min(TASK_COLUMNS, max(WIDTH, TASK_SUMS // rows), wanted))
    return -(-columns // (tasks * WIDTH)) * WIDTH


def _ahead(rows: int, task_columns: int) -> int:
    """How many rows of weights further those are that a task asks for: none where its stretches are long."""
    if task_columns >= (TASK_COLUMNS // 2 if rows == 1 else TASK_COLUMNS):
        return 0
    return DEPTH_ALONE * -(-FETCHED // (DEPTH_ALONE * task_columns))


def by_channels(rows: int, columns: int) -> bool:
    """Whether the tasks are parts of the channels, not of the columns."""
    return rows == 1 and columns <= TASK_COLUMNS


def scratch_shape(rows: int, columns: int, threads: int) -> tuple[int, int]:
    """The shape of the scratch that :func:`dense` needs."""
    return (PARTS, columns) if by_channels(rows, columns) else (threads, rows * (HELD + _task_columns(rows, columns, threads)))


def dense(
    x: np.ndarray, w: np.ndarray, scale: np.ndarray | None, bias: np.ndarray, y: np.ndarray, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None,
) -> None:  # fmt: skip
    """``y = activation((x @ w) * scale + bias + addend)``: ``x (N, C)``, ``w (C, CO)``, ``y`` and ``addend (N, CO)``."""
    rows, columns = y.shape
    function, low, high = resolved(activation)
    rest = scale is not None, bias if scale is None else scale, bias, addend is not None, y if addend is None else addend, low, high, y
    if by_channels(rows, columns):
        addition(w.nbytes >= ONCE)(x, w, scratch)
        conclusion(function)(scratch, *rest)
    else:
        task_columns = _task_columns(rows, columns, len(scratch))
        multiplication(function)(x, w, *rest, task_columns, _ahead(rows, task_columns), scratch)
