"""Engines in processes of their own, which answer messages: while one works, the others wait and their threads sleep."""

from __future__ import annotations

import math
import multiprocessing
import statistics
from pathlib import Path
from typing import Any


def started(function: Any, *arguments: Any) -> tuple[Any, Any]:
    """A process that runs ``function(*arguments, line)``, and our end of the line."""
    context = multiprocessing.get_context("spawn")
    line, end = context.Pipe()
    process = context.Process(target=function, args=(*arguments, end), daemon=True)
    process.start()
    end.close()  # so that a process that fails ends the line
    return process, line


def answered(function: Any, *arguments: Any) -> Any:
    """What a process of its own sends."""
    process, line = started(function, *arguments)
    result = line.recv()
    process.join()
    return result


def in_turn(workers: dict[str, tuple[Any, Any]], rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Of workers that answer a number of seconds with times, the median of each round and the least of all. It ends them."""
    times: dict[str, list[float]] = {engine: [] for engine in workers}
    least = dict.fromkeys(workers, math.inf)
    for turn in range(rounds):
        for engine in list(workers)[:: 1 if turn % 2 == 0 else -1]:
            _, line = workers[engine]
            line.send(seconds)
            found = line.recv()
            times[engine].append(statistics.median(found))
            least[engine] = min(least[engine], *found)
    for process, line in workers.values():
        line.send(None)
        process.join()
    return times, least


def process_bytes(entry: str) -> int:
    """Resident bytes of this process: at present (``VmRSS``), or the most there have been (``VmHWM``). ``ru_maxrss`` would count those of
    the process that started this one."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(entry):
            return 1024 * int(text.split()[1])
    raise SystemExit(f"This system does not tell {entry}.")
