"""Times of our work and PyTorch's, taken in turn."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

from numbacnn.kernels.cuda import runtime

from . import theirs
from .sizes import Sizes

OURS = "numbacnn"  # the name of our work among others'
WARMUP = 3  # calls before anything is timed: graphs are captured, cuDNN tries its algorithms
MOST = 1000  # calls within a round

Clock = Callable[[Callable[[], Any], int], float]
"""Milliseconds of a call, of so many in a row, that are done when it comes back."""


def ours(work: Callable[[], Any], calls: int) -> float:
    """Between two events in our stream."""
    device = runtime.device()
    start = device.event()
    for _ in range(calls):
        work()
    return device.elapsed(start, device.event()) / calls


def torch(work: Callable[[], Any], calls: int) -> float:
    """Between two events in PyTorch's stream; on the CPU, as :func:`host`."""
    if not theirs.on_gpu():
        return host(work, calls)
    import torch

    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        work()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / calls


def host(work: Callable[[], Any], calls: int) -> float:
    """By the clock on the wall, for work that waits for its own end."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return 1e3 * (time.perf_counter() - start) / calls


def in_turn(works: dict[str, tuple[Callable[[], Any], Clock]], sizes: Sizes) -> dict[str, list[float]]:
    """Milliseconds per call of each piece of work in each round, the order turned round every other time. It is the same work in every
    round, so that a round in which the machine is slow is slow for all. Others' work that fails is left out."""
    calls = {}
    for name, (work, clock) in works.items():
        try:
            for _ in range(WARMUP if sizes.rounds > 1 else 0):
                clock(work, 1)
            calls[name] = max(1, min(MOST, round(sizes.round_ms / max(clock(work, 1), 1e-3)))) if sizes.round_ms else 1
        except Exception:
            if name == OURS:
                raise
            traceback.print_exc()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(sizes.rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            work, clock = works[name]
            times[name].append(clock(work, calls[name]))
    return times


def compared(times: dict[str, list[float]]) -> dict[str, Any]:
    """Of our times and maybe those of others: our milliseconds, the others' (those of the fastest), its name, and how many times as
    fast as it we are, which is the median over the rounds."""
    mine = times[OURS]
    found: dict[str, Any] = {"ms": statistics.median(mine)}
    others = {name: statistics.median(values) for name, values in times.items() if name != OURS}
    if others:
        best = min(others, key=lambda name: others[name])
        ratio = statistics.median(theirs / own for theirs, own in zip(times[best], mine, strict=True))
        found |= {"torch ms": others[best], "torch as": best, "ratio": ratio}
    return found
