"""Softmax over the last axis on the device, and its logarithm: rows ``(rows, columns)``, each of which a team of threads walks along.

``y`` may be ``x``, and ``dx`` any of the arrays that the backward pass reads: a thread alone reads and writes its numbers.
"""

from __future__ import annotations

import math

from .driver import cuda, device_function, float32, int32
from .indexing import quotient
from .launch import THREADS, blocks_for, kernel
from .memory import DeviceArray
from .reduce import team_for, team_largest, team_sum

EACH = 8  # numbers of a row that a thread has, if it is not a long one


@device_function
def _place(rows, columns, team):
    """``(lane, where the thread begins, end of its row)``; beyond the last row there is nothing to do."""
    thread = int32(cuda.threadIdx.x)
    number = quotient(thread, team)
    lane = int32(thread - number * team)
    row = int32(int32(cuda.blockIdx.x) * quotient(THREADS, team) + number)
    first = int32(row * columns) if row < rows else int32(0)
    end = int32(first + columns) if row < rows else int32(0)
    return lane, int32(first + lane), end


@kernel
def _forward(x, y, rows, columns, team, logarithmic):
    shared = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    lane, start, end = _place(rows, columns, team)
    top = float32(-math.inf)
    at = start
    while at < end:
        top = max(top, x[at])
        at = int32(at + team)
    top = team_largest(shared, thread, lane, team, top)
    found = float32(0)
    at = start
    while at < end:
        found += math.exp(x[at] - top)
        at = int32(at + team)
    whole = team_sum(shared, thread, lane, team, found)
    if start < end:
        factor, logarithm = float32(1) / whole, math.log(whole)
        at = start
        while at < end:
            z = x[at] - top
            y[at] = z - logarithm if logarithmic else math.exp(z) * factor
            at = int32(at + team)


@kernel
def _backward(dy, y, dx, rows, columns, team, logarithmic):
    shared = cuda.shared.array(THREADS, float32)
    thread = int32(cuda.threadIdx.x)
    lane, start, end = _place(rows, columns, team)
    found = float32(0)
    at = start
    while at < end:
        found += dy[at] if logarithmic else dy[at] * y[at]
        at = int32(at + team)
    whole = team_sum(shared, thread, lane, team, found)
    at = start
    while at < end:
        dx[at] = dy[at] - math.exp(y[at]) * whole if logarithmic else y[at] * (dy[at] - whole)
        at = int32(at + team)


def _grid(rows: int, columns: int) -> tuple[int, int]:
    """Blocks, and the size of a team."""
    team = team_for(columns, EACH)
    return blocks_for(rows, THREADS // team), team


def softmax(x: DeviceArray, y: DeviceArray) -> None:
    """``y = exp(x - m) / sum(exp(x - m))`` of each row, m its largest element. A row of ``-inf`` alone gives NaN, as it has no limit."""
    grid, team = _grid(*x.shape)
    _forward(grid, x, y, *x.shape, team, False)


def softmax_backward(dy: DeviceArray, y: DeviceArray, dx: DeviceArray) -> None:
    """``dx = y * (dy - sum(dy * y))`` of each row."""
    grid, team = _grid(*y.shape)
    _backward(grid, dy, y, dx, *y.shape, team, False)


def log_softmax(x: DeviceArray, y: DeviceArray) -> None:
    """``y = x - m - ln sum(exp(x - m))`` of each row, m its largest element."""
    grid, team = _grid(*x.shape)
    _forward(grid, x, y, *x.shape, team, True)


def log_softmax_backward(dy: DeviceArray, y: DeviceArray, dx: DeviceArray) -> None:
    """``dx = dy - exp(y) * sum(dy)`` of each row."""
    grid, team = _grid(*y.shape)
    _backward(grid, dy, y, dx, *y.shape, team, True)
