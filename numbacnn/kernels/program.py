"""Launches that follow each other, run by one compiled call.

Python takes some two microseconds to call a kernel with its dozens of arguments: as long as a small layer runs, and time in which other
threads wait. So the arguments of a recorded sequence are laid out in memory once, as the words that each kernel's second entry reads
(:func:`numbacnn.kernels.linking.add_packed_entry`), and :func:`drive` calls one entry after the other.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from . import jit
from .jit import kernel

ENTRY, WORDS, THREADS = range(3)  # columns of a program
SETTER, NOW, BEFORE, FAILED = range(4)  # places of its state

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def _call(typing_context, entry, words):
    """Call what is at the address ``entry`` with the address of its arguments; a status, 0 for success."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_I32, [_I64]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])

    return types.int32(types.int64, types.int64), generate


@intrinsic
def _set_threads(typing_context, setter, count):
    """Call the C function at the address ``setter`` with a number of threads."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [_I32]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [builder.trunc(arguments[1], _I32)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@kernel
def drive(program, state):
    """Run the launches of ``program (launches, 3)``: the address of an entry, that of its words, and on how many threads, 0 for as many as
    there were ``BEFORE``. ``state`` has the address that sets their number, their number ``NOW``, and gets the launch that ``FAILED``."""
    state[FAILED] = -1
    for launch in range(program.shape[0]):
        threads = program[launch, THREADS]
        if threads == 0:
            threads = state[BEFORE]
        if threads != state[NOW]:
            state[NOW] = threads
            _set_threads(state[SETTER], threads)
        if _call(program[launch, ENTRY], program[launch, WORDS]) != 0:
            state[FAILED] = launch
            break


class Program(list):
    """Launches and other calls, as :func:`numbacnn.kernels.jit.record` collects them, that :func:`run` runs with little ado. They must not
    change any more, nor may the places of their arrays."""

    def __init__(self, steps: Iterable[jit.Step]):
        super().__init__(steps)
        self._parts: list[_Launches | list[jit.Step]] = []
        for native, group in itertools.groupby(self, key=lambda step: _entry(step) is not None):
            launches = list(group)
            self._parts.append(_Launches(launches) if native and len(launches) > 1 else launches)

    def run(self) -> None:
        """Run them one after the other."""
        for part in self._parts:
            if isinstance(part, _Launches):
                part.run()
            else:
                jit.run(part)


def run(steps: Sequence[jit.Step]) -> None:
    """Run launches one after the other, those of a :class:`Program` without going through Python."""
    if isinstance(steps, Program):
        steps.run()
    else:
        jit.run(steps)


class _Launches:
    """Launches of kernels that nothing else comes between."""

    def __init__(self, steps: list[jit.Step]):
        self._steps = steps
        words = [_words(arguments) for _, arguments in steps]
        starts = np.cumsum([0, *map(len, words)])
        self._words = np.array([word for each in words for word in each], np.int64)
        first = self._words.ctypes.data
        rows = [
            (_entry(step), first + self._words.itemsize * start, step[0].threads if isinstance(step[0], jit.Limited) else 0)
            for step, start in zip(steps, starts)
        ]
        self._state = np.zeros(4, np.int64)
        self._state[SETTER] = jit.threads_setter()
        self._drive, self._arguments = drive.bind(np.array(rows, np.int64), self._state)

    def run(self) -> None:
        state, before = self._state, jit.numba_threads()
        state[NOW] = state[BEFORE] = before
        self._drive(*self._arguments)
        if state[NOW] != before:
            jit.set_numba_threads(before)
        if state[FAILED] >= 0:
            function, arguments = self._steps[state[FAILED]]
            function(*arguments)  # from Python, which tells what is wrong
            raise RuntimeError(f"kernel {function} failed within a program, but not alone.")


def _entry(step: jit.Step) -> int | None:
    """The address of a kernel's second entry; None for other calls."""
    function = step[0]
    return jit.packed_entries.get(function.entry if isinstance(function, jit.Limited) else function)


def _words(arguments: tuple) -> list[int]:
    """Arguments as :func:`numbacnn.kernels.linking.add_packed_entry` reads them."""
    words: list[int] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            words += (argument.size, argument.itemsize, argument.__array_interface__["data"][0], *argument.shape, *argument.strides)
        elif isinstance(argument, (float, np.floating)):
            words += struct.unpack("q", struct.pack("d", argument))
        else:
            words.append(int(argument))
    return words
