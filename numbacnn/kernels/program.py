"""Launches that follow each other, run by one compiled call.

Python takes some two microseconds to call a kernel with its dozens of arguments: as long as a small layer runs, and time in which other
threads wait. So the arguments of a recorded sequence are laid out in memory once, as the words that each kernel's second entry reads
(:func:`numbacnn.kernels.linking.add_packed_entry`), and :func:`numbacnn.kernels.team.drive` calls one entry after the other.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from . import jit
from .jit import kernel
from .team import NOBODY, drive, team


class Program(list):
    """Launches and other calls, as :func:`numbacnn.kernels.jit.record` collects them, that :func:`run` runs with little ado. They must not
    change any more, nor may the places of their arrays."""

    def __init__(self, steps: Iterable[jit.Step]):
        super().__init__(steps)
        self._parts: list[_Launches | list[jit.Step]] = []
        for native, group in itertools.groupby(self, key=lambda step: _entry(step) is not None):
            launches = list(group)
            self._parts.append(_Launches(launches) if native else launches)

    def run(self) -> None:
        """Run them one after the other."""
        for part in self._parts:
            if isinstance(part, _Launches):
                part.run()
            else:
                jit.run(part)

    def stand_in(self, array: np.ndarray) -> StandIn | None:
        """Lets other arrays take the place of this one, which the launches were made for; None if not all calls are launches."""
        launches, entry = [part for part in self._parts if isinstance(part, _Launches)], pointing(array)
        return StandIn(array, launches, entry) if len(launches) == len(self._parts) else None


@kernel(views=("array",))
def point(array, words, places, distances):
    """Make the ``places`` of ``words`` addresses in ``array``, ``distances`` from its first element, if it is dense and its elements are
    aligned to their size; whether it is."""
    at, step = array.ctypes.data, array.itemsize
    if at % step:
        return False
    for axis in range(array.ndim - 1, -1, -1):
        if array.shape[axis] != 1 and array.strides[axis] != step:
            return False
        step *= array.shape[axis]
    for k in range(places.size):
        words[places[k]] = at + distances[k]
    return True


def pointing(array: np.ndarray) -> Callable:
    """:func:`point`, compiled for arrays like this one."""
    numbers = np.zeros(1, np.int64)
    return point.bind(array, numbers, numbers, numbers)[0]


class StandIn:
    """An array that launches were made for, and in whose place they may read another one; ``entry`` is :func:`pointing` to it."""

    def __init__(self, array: np.ndarray, launches: list[_Launches], entry: Callable):
        self._array = self._given = array
        self._dtype, at = array.dtype, _address(array)
        self._point = entry
        self._places: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for each in launches:
            places = np.array(each.addresses_in(array), np.int64)
            self._places.append((each.words, places, each.words[places] - at))
            each.stand_ins.append(self)

    def be(self, array: np.ndarray) -> bool:
        """Have the launches read ``array``, with as many axes as the one that they were made for, if it is like that one: dense, of its
        type and aligned to that. Tells whether they will."""
        if array.dtype != self._dtype or not all(self._point(array, *place) for place in self._places):
            return False
        self._given = array
        return True

    def end(self) -> None:
        """Have the launches read the array that they were made for."""
        self.be(self._array)

    def settle(self) -> None:
        """Write what is read at present into the array that launches were made for."""
        if self._given is not self._array:
            self._array[...] = self._given


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
        self.stand_ins: list[StandIn] = []
        words = [_words(arguments) for _, arguments in steps]
        starts = np.cumsum([0, *map(len, words)])
        self.words = np.array([word for each in words for word in each], np.int64)
        self._addresses = [start + place for start, (_, arguments) in zip(starts, steps) for place in _address_places(arguments)]
        first = self.words.ctypes.data
        self._rows = np.array([(_entry(step), first + self.words.itemsize * start, *_share(step)) for step, start in zip(steps, starts)])
        self._threads = int(self._rows[:, -1].max())
        self._drive = drive.bind(self._rows, NOBODY)[0]

    def run(self) -> None:
        if self._threads == 1:
            failed = self._drive(self._rows, NOBODY)
        else:
            gathered = team()
            state = gathered.take(self._threads)
            try:
                failed = self._drive(self._rows, state)
            finally:
                gathered.give_back(state)
        if failed >= 0:
            self._tell(failed)

    def addresses_in(self, array: np.ndarray) -> list[int]:
        """Which words are addresses of elements of an array."""
        first = _address(array)
        return [word for word in self._addresses if first <= self.words[word] < first + array.nbytes]

    def _tell(self, failed: int) -> None:
        """Raise what is wrong with a launch: it is done again, from Python."""
        for stand_in in self.stand_ins:
            stand_in.settle()
        function, arguments = self._steps[failed]
        if isinstance(function, jit.Shared):
            function.in_turn(arguments)
        else:
            function(*arguments)
        raise RuntimeError(f"kernel {function} failed within a program, but not alone.")


def _entry(step: jit.Step) -> int | None:
    """The address of a kernel's second entry; None for other calls."""
    function = step[0]
    return jit.packed_entries.get(function.entry if isinstance(function, jit.Shared) else function)


def _share(step: jit.Step) -> tuple[int, int]:
    """The address of a launch's queue, or 0, and its number of threads."""
    function = step[0]
    return (function.queue.ctypes.data, function.threads) if isinstance(function, jit.Shared) else (0, 1)


def _words(arguments: tuple) -> list[int]:
    """Arguments as :func:`numbacnn.kernels.linking.add_packed_entry` reads them."""
    words: list[int] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            words += (argument.size, argument.itemsize, _address(argument), *argument.shape, *argument.strides)
        elif isinstance(argument, (float, np.floating)):
            words += struct.unpack("q", struct.pack("d", argument))
        else:
            words.append(int(argument))
    return words


def _address_places(arguments: tuple) -> Iterator[int]:
    """Which of these words are addresses of arrays."""
    place = 0
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield place + 2
            place += 2 + 2 * argument.ndim
        place += 1


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
