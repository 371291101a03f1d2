"""Kernels compiled side by side, by this process and others that it starts.

Numba compiles under one lock, so threads would wait for each other. A process of its own is sent kernels, each with all that it reaches,
and leaves them in the disk cache. It names them by what it was sent: code that became another on the way is not taken for the one that was
asked for, and whoever needs that one compiles it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from numba.core import serialize

from ..cores import core_count
from ..errors import ConfigError

VARIABLE = "NUMBACNN_COMPILE_PROCESSES"
MOST = 4  # processes at once, unless told otherwise: each needs some hundred MiB
KERNELS_EACH = 3  # a process takes a second to start, in which another compiles some


class Wanted(Protocol):
    """A kernel for one kind of arguments (:class:`numbacnn.kernels.jit.Wanted`, :class:`numbacnn.kernels.cuda.launch.Wanted`)."""

    @property
    def key(self) -> str:
        """What names it in every process."""

    def build(self) -> Any:
        """Compile it into the disk cache; what is told of that."""


def process_limit() -> int:
    """How many processes compile at once at most, this one included: ``NUMBACNN_COMPILE_PROCESSES``, else one for each core, up to four.
    Raises ConfigError where the variable is not a whole number from 1 on."""
    chosen = os.environ.get(VARIABLE) or str(min(core_count(), MOST))
    if not chosen.isdecimal() or int(chosen) < 1:
        raise ConfigError(f"{VARIABLE} is {chosen!r}; it is a whole number from 1 on.")
    return int(chosen)


def worthwhile(kernels: int) -> int:
    """How many processes so many kernels are worth."""
    return 1 + kernels // KERNELS_EACH


def build_all(kernels: Sequence[Wanted], processes: int, done: Callable[[Any], object]) -> None:
    """Compile kernels by at most so many processes, the largest first; ``done`` is told of each. Kernels that other processes fail at, or
    that cannot be sent to one, are compiled here."""
    jobs = deque(sorted(((_sent(kernel), kernel) for kernel in kernels), key=lambda job: -len(job[0])))
    failed: list[Wanted] = []
    with _helpers(min(processes, len(kernels)) - 1) as helpers:
        threads = [threading.Thread(target=_keep_busy, args=(helper, jobs, done, failed), daemon=True) for helper in helpers]
        for thread in threads:
            thread.start()
        while (job := _next(jobs)) is not None:
            done(job[1].build())
        for thread in threads:
            thread.join()
    for kernel in failed:
        done(kernel.build())


def _sent(kernel: Wanted) -> bytes:
    """A kernel with all that it reaches and its name; nothing if that cannot be."""
    try:
        return serialize.dumps((kernel, kernel.key))
    except Exception:  # whatever a plugin's kernel has in its closure
        return b""


def _next(jobs: deque) -> Any:
    """The next of several threads' jobs; None if there is none."""
    try:
        return jobs.popleft()
    except IndexError:
        return None


def _keep_busy(helper: _Helper, jobs: deque, done: Callable[[Any], object], failed: list[Wanted]) -> None:
    """Have a process compile until there is nothing left to do, or it has gone."""
    while (job := _next(jobs)) is not None:
        content, kernel = job
        try:
            build = helper.build(content) if content else None
        except (OSError, EOFError, pickle.UnpicklingError):
            failed.append(kernel)
            return
        if build is None:
            failed.append(kernel)
        else:
            done(build)


PROGRAM = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from numbacnn.kernels.compiling import serve; serve()"


class _Helper:
    """A process that compiles."""

    def __init__(self, python: str):
        environment = {**os.environ, VARIABLE: "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([python, "-c", PROGRAM], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)
        self._send(pickle.dumps(sys.path))

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(content)
        self._process.stdin.flush()

    def build(self, content: bytes) -> Any:
        """What it tells of a kernel that it has compiled, None if it could not. Raises OSError, EOFError or UnpicklingError if it
        has gone."""
        assert self._process.stdout is not None
        self._send(content)
        return pickle.load(self._process.stdout)

    def end(self) -> None:
        """It has nothing to lose."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not sent
                stream.close()  # type: ignore[union-attr]
        self._process.wait()


@contextlib.contextmanager
def _helpers(count: int) -> Iterator[list[_Helper]]:
    """So many processes, or as many as the system starts. They end with the block."""
    helpers: list[_Helper] = []
    python = sys.executable or ""
    if getattr(sys, "frozen", False) or not Path(python).name.lower().startswith("python"):
        count = 0  # it is another program that Python is a part of
    try:
        with contextlib.suppress(OSError):
            while len(helpers) < count:
                helpers.append(_Helper(python))
        yield helpers
    finally:
        for helper in helpers:
            helper.end()


def serve() -> None:
    """What such a process does: compile what comes by the standard input, until that ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody prints into the replies
    while True:
        try:
            kernel, key = pickle.load(requests)
            build = kernel.build() if kernel.key == key else None
        except EOFError:
            return
        except Exception:  # the other process will say what is wrong
            build = None
        pickle.dump(build, replies)
        replies.flush()
