"""Engines in processes of their own, which answer messages: while one works, the others wait and their threads sleep."""

from __future__ import annotations

import multiprocessing
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


def process_bytes(entry: str) -> int:
    """Resident bytes of this process: at present (``VmRSS``), or the most there have been (``VmHWM``). ``ru_maxrss`` would count those of
    the process that started this one."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(entry):
            return 1024 * int(text.split()[1])
    raise SystemExit(f"This system does not tell {entry}.")
