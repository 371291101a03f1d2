"""The threads that share a launch with the thread that makes it.

A parallel kernel is a function that any number of threads may run at once: each gets a number of its own, ``thread``, and takes tasks from
a common ``queue`` until there are none. The team waits for work within compiled code. Whoever launches opens a *job*, does thread 0's
part, and then the parts that nobody has begun: a launch never waits for a thread that the operating system does not let run, only for one
that is in the middle of a task. A thread that finds no work looks again for some microseconds, then lets others have the core between two
looks, and sleeps after some milliseconds without a program, until :meth:`Team.take` wakes it.

One Python thread at a time has the team. Others that launch meanwhile do all parts of their launches themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from .atomics import add, clear, get, pause, put, replace
from .jit import QUEUE_STEP, inline, kernel

ENTRY, WORDS, QUEUE, THREADS = range(4)  # columns of a program: addresses of an entry, its words, its queue or 0; how many threads

QUEUE_BYTES = 8 * QUEUE_STEP
LINE = 16  # words of two cache lines: a core that writes one of them takes both from the others
TICKET, JOB_ENTRY, JOB_WORDS = range(3)  # places of the team's state: which part of which job comes next; the job
DONE = LINE  # parts that the team has done
FAILED = 2 * LINE  # parts in which something went wrong
ACTIVE, STOP, YIELD = 3 * LINE, 3 * LINE + 1, 3 * LINE + 2  # a program runs; the team is to end; address of a function
ASLEEP = 4 * LINE  # and every further line, for one thread each

PART_BITS = 16  # a ticket has the job's number, how many parts it has, and the next part
PART = (1 << PART_BITS) - 1
LOOKS = 2000  # some 20 microseconds
TURNS = 4000  # some milliseconds, or as long as others want the core

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def _call(typing_context, entry, words, thread):
    """Call what is at the address ``entry`` with the address of its arguments and a thread's number; a status, 0 for success."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_I32, [_I64, _I64]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])

    return types.int32(types.int64, types.int64, types.int64), generate


@intrinsic
def _call_plain(typing_context, function):
    """Call the C function at an address."""

    def generate(context, builder, signature, arguments):
        builder.call(builder.inttoptr(arguments[0], ir.FunctionType(_I32, []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@inline
def _shared(team, entry, words, threads):
    """Run a launch together with the team; a status."""
    put(team, JOB_ENTRY, entry)
    put(team, JOB_WORDS, words)
    put(team, DONE, 0)
    job = (get(team, TICKET) >> (2 * PART_BITS)) + 1
    put(team, TICKET, ((job << PART_BITS) + threads << PART_BITS) + 1)
    status = _call(entry, words, 0)
    others = threads - 1
    while True:
        ticket = get(team, TICKET)
        part = ticket & PART
        if part >= threads:
            break
        if replace(team, TICKET, ticket, ticket + 1):
            status |= _call(entry, words, part)
            others -= 1
    looks = 0
    while get(team, DONE) < others:
        looks = _wait(team, looks)
    return status | get(team, FAILED)


@inline
def _wait(team, looks):
    """A moment between two looks, of which there were so many; how many there were then."""
    if looks < LOOKS:
        pause()
    else:
        _call_plain(team[YIELD])
    return looks + 1


@kernel
def drive(program, team):
    """Run the launches of ``program (launches, 4)``, those of several threads by the ``team``'s state, or by the caller alone where that is
    empty. Gives the launch in which something went wrong, or -1."""
    failed = -1
    if team.size:
        put(team, ACTIVE, 1)
    for launch in range(program.shape[0]):
        entry, words, queue, threads = program[launch, ENTRY], program[launch, WORDS], program[launch, QUEUE], program[launch, THREADS]
        if queue:
            for thread in range(threads):
                clear(queue + thread * QUEUE_BYTES)
        status = 0
        if threads > 1 and team.size:
            status = _shared(team, entry, words, threads)
        else:
            for thread in range(threads):
                status |= _call(entry, words, thread)
        if status != 0:
            failed = launch
            break
    if team.size:
        put(team, FAILED, 0)
        put(team, ACTIVE, 0)
    return failed


@kernel
def attend(team, asleep):
    """Take parts of jobs until there were none for a while, and say so at the place ``asleep``."""
    looks = 0
    while get(team, STOP) == 0:
        ticket = get(team, TICKET)
        part = ticket & PART
        if part < (ticket >> PART_BITS) & PART:
            entry, words = get(team, JOB_ENTRY), get(team, JOB_WORDS)
            if replace(team, TICKET, ticket, ticket + 1):  # else what was read may be of another job
                if _call(entry, words, part) != 0:
                    add(team, FAILED, 1)
                add(team, DONE, 1)
                looks = 0
            continue
        looks = _wait(team, looks)
        if looks > LOOKS + TURNS and get(team, ACTIVE) == 0:
            put(team, asleep, 1)
            break


NOBODY = np.zeros(0, np.int64)  # the state of no team


class Team:
    """Threads, their common state, and a bell to wake each."""

    def __init__(self) -> None:
        self._taken, self._ended = threading.Lock(), False
        self._bells: list[threading.Lock] = []
        self._threads: list[threading.Thread] = []
        self.state = NOBODY
        self._places = memoryview(self.state.data)

    def take(self, threads: int) -> np.ndarray:
        """The state for :func:`drive` to run launches of so many threads, which are awake; the empty one where another thread has it, or
        the system starts no more threads. To be given back."""
        if self._ended or not self._taken.acquire(blocking=False):
            return NOBODY
        try:
            self._gather(threads - 1)
        except BaseException as error:
            self.stop()
            self._taken.release()
            if isinstance(error, RuntimeError):
                return NOBODY
            raise
        return self.state

    def give_back(self, state: np.ndarray) -> None:
        """End of what :meth:`take` began."""
        if state.size:
            self._taken.release()

    def _gather(self, count: int) -> None:
        if len(self._threads) < count:
            self._grow(count)
        for place, bell in enumerate(self._bells[:count]):
            if self._places[ASLEEP + place * LINE]:
                self._places[ASLEEP + place * LINE] = 0
                bell.release()

    def _grow(self, count: int) -> None:
        """Start threads. What the state of before was is left to those that began with it, which end."""
        self.stop()
        self.state = np.zeros(ASLEEP + count * LINE, np.int64)
        self._places = memoryview(self.state.data)
        self._places[YIELD] = _yield_address()
        for place in range(count):
            entry, arguments = attend.bind(self.state, ASLEEP + place * LINE)
            bell = threading.Lock()
            bell.acquire()
            thread = threading.Thread(target=_work, args=(self._places, entry, arguments, bell), name=f"numbacnn-{place + 1}", daemon=True)
            thread.start()
            self._bells.append(bell)
            self._threads.append(thread)

    def end(self) -> None:
        """End the threads for good."""
        self._ended = True
        self.stop()

    def stop(self) -> None:
        """End the threads."""
        if self._threads:
            self._places[STOP] = 1
        for bell in self._bells:
            with contextlib.suppress(RuntimeError):  # it rings already
                bell.release()
        for thread in self._threads:
            thread.join()
        self._bells, self._threads, self.state = [], [], NOBODY


def compile_all() -> None:
    """Have the kernels that run programs and wait for launches compiled."""
    cells = np.zeros(ASLEEP + LINE, np.int64)
    drive.bind(cells.reshape(-1, 4), cells)
    attend.bind(cells, ASLEEP)


def _work(places: memoryview, entry: Callable, arguments: tuple[Any, ...], bell: threading.Lock) -> None:
    """What a thread of the team does."""
    while not places[STOP]:
        entry(*arguments)
        bell.acquire()


def _yield_address() -> int:
    """Of the operating system's function that lets other threads have the core."""
    function = ctypes.CDLL("kernel32").SwitchToThread if os.name == "nt" else ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


_team = Team()


def team() -> Team:
    """The process's team."""
    return _team


def _begin_again() -> None:
    """A process that was forked has none of its parent's threads."""
    global _team
    _team = Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)


@atexit.register
def _end() -> None:
    """Before memory goes that the threads look at."""
    _team.end()
