"""Room for the frames of Python functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WORDS = 66_000  # of a frame: with it the interpreter maps 1 MiB, of which half is left for the frames of what it calls


def with_room(function: Callable, *arguments: Any) -> Any:
    """``function(*arguments)``, whose frames and those of what it calls lie in one piece of memory.

    CPython has frames in pieces of 16 KiB from the system, and gives a piece back as soon as its only frame returns: a loop that calls a
    function where a piece ends waits some ten microseconds for each call. It depends on how deep the loop lies, and compiling a kernel
    took up to 1.5 times as long by that. This function's own frame is large, so that the piece that it begins is."""
    return function(*arguments)


with_room.__code__ = with_room.__code__.replace(co_stacksize=WORDS)
