"""Interleaved timing: machines are shared and their speed drifts, so only ratios within a round mean anything."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def interleave(work: dict[str, Callable[[], Any]], rounds: int = 9, seconds: float = 0.02) -> dict[str, list[float]]:
    """Seconds per call of each piece of work in each round, the order turned round every other time; ``seconds`` is about what a
    piece of work runs within a round."""
    repeats = {}
    for name, function in work.items():
        function()
        started = time.perf_counter()
        function()
        repeats[name] = max(1, round(seconds / max(time.perf_counter() - started, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds):
        for name in list(work)[:: 1 if turn % 2 == 0 else -1]:
            started = time.perf_counter()
            for _ in range(repeats[name]):
                work[name]()
            times[name].append((time.perf_counter() - started) / repeats[name])
    return times


def ratio(times: dict[str, list[float]], ours: str, peers: list[str]) -> float:
    """How many times as fast we are as the best peer: the median over rounds."""
    return statistics.median(min(times[peer][k] for peer in peers) / times[ours][k] for k in range(len(times[ours])))


def milliseconds(times: list[float]) -> float:
    return statistics.median(times) * 1e3


def write(path: str | None, result: Any) -> None:
    if path:
        Path(path).write_text(json.dumps(result, indent=1) + "\n")
