"""Arrays on their way between host and device while both do other work: by way of page-locked memory, on streams of their own.

Each batch goes through a *room*: page-locked memory of the host, and as much on the device. Two rooms let one batch be copied while the one
before is in use; where more are under way more are made. The host waits before it writes where a copy still reads; the device waits, stream
for stream, by events.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from .memory import DeviceArray
from .runtime import HostMemory, Memory, device

ALIGNMENT = 256  # bytes, of arrays within a room
ROOMS = 2

Kind = tuple[Sequence[int], Any]  # shape and type of an array


class _Room:
    """``copied`` is the event after the last copy between host and device, ``read`` that after which the device needs no longer what came
    from the host."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.copied: Any = None
        self.read: Any = None
        self.host: Any = None
        self.there: Any = None

    def arrays(self, kinds: Sequence[Kind]) -> list[tuple[np.ndarray, DeviceArray]]:
        """For each kind an array on the host and one on the device, when no copy needs any more what is on the host."""
        if self.copied is not None:
            self.copied.synchronize()
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in kinds]
        starts = np.cumsum([0, *(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]).tolist()
        self.nbytes = starts[-1]
        if self.host is None or self.host.array.nbytes < self.nbytes:
            self._settle()
            self.host, self.there = HostMemory(self.nbytes), Memory(self.nbytes)
        return [
            (self.host.array[start : start + size].view(dtype).reshape(shape), DeviceArray(self.there, start, shape, dtype))
            for start, size, (shape, dtype) in zip(starts, sizes, kinds)
        ]

    def upload(self, stream: Any) -> None:
        """Copy to the device all of the arrays, when it needs no longer those before."""
        if self.read is not None:
            stream.wait(self.read)
        device().upload(self.there, 0, self.host.array[: self.nbytes], stream)
        self.copied = stream.mark()

    def download(self, stream: Any) -> None:
        """Copy to the host what the device has filled by then."""
        stream.wait(device().stream.mark())
        device().download(self.there, 0, self.host.array[: self.nbytes], stream)
        self.copied = stream.mark()

    def _settle(self) -> None:
        """Wait until nobody needs the memory."""
        for event in (self.copied, self.read):
            if event is not None:
                event.synchronize()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the process there may be no context any more
            self._settle()


class Feed:
    """Sends arrays to the device ahead of their use."""

    def __init__(self) -> None:
        self._stream = device().new_stream()
        self._rooms = deque(_Room() for _ in range(ROOMS))

    def send(self, given: Sequence[Any], dtypes: Sequence[Any]) -> Sent:
        """Arrays of the host, converted to ``dtypes``, which nobody needs any more when this returns; those that are on the device stay
        where they are."""
        room = self._rooms.popleft() if self._rooms else _Room()
        staged = [(array, dtype) for array, dtype in zip(given, dtypes, strict=True) if isinstance(array, np.ndarray)]
        places = room.arrays([(array.shape, dtype) for array, dtype in staged])
        for (array, _), (host, _) in zip(staged, places):
            np.copyto(host, array, casting="unsafe")
        room.upload(self._stream)
        there = iter(places)
        return Sent(self._rooms, room, [next(there)[1] if isinstance(array, np.ndarray) else array for array in given])

    def deliver(self, given: Sequence[np.ndarray], into: Sequence[DeviceArray]) -> None:
        """Fill arrays of the device, in the order of its work, without waiting for it."""
        sent = self.send(given, [array.dtype for array in into])
        sent.arrive()
        for array, found in zip(into, sent.arrays):
            array.copy_from(found)
        sent.release()


class Sent:
    """``arrays`` on the device, which are there for what it is asked for between :meth:`arrive` and :meth:`release`."""

    def __init__(self, rooms: deque[_Room], room: _Room, arrays: list[DeviceArray]):
        self._rooms, self._room, self.arrays = rooms, room, arrays

    def arrive(self) -> None:
        """Let the device wait for them."""
        device().stream.wait(self._room.copied)

    def release(self) -> None:
        """Others may take their place when the device has done what it was asked for so far."""
        self._room.read = device().stream.mark()
        self._rooms.append(self._room)


class Drain:
    """Fetches arrays from the device while it goes on."""

    def __init__(self) -> None:
        self._stream = device().new_stream()
        self._rooms = deque(_Room() for _ in range(ROOMS))

    def fetch(self, arrays: Sequence[DeviceArray]) -> Fetched:
        """What the arrays hold when the device has done what it was asked for so far. It may overwrite them afterwards."""
        room = self._rooms.popleft() if self._rooms else _Room()
        places = room.arrays([(array.shape, array.dtype) for array in arrays])
        for (_, there), array in zip(places, arrays):
            there.copy_from(array)
        room.download(self._stream)
        return Fetched(self._rooms, room, [host for host, _ in places])


class Fetched:
    """Arrays on their way to the host."""

    def __init__(self, rooms: deque[_Room], room: _Room, arrays: list[np.ndarray]):
        self._rooms, self._room, self._arrays = rooms, room, arrays

    @property
    def done(self) -> bool:
        """Whether they are there."""
        return self._room.copied.reached

    def collect(self) -> list[np.ndarray]:
        """The arrays, when they are there; they last until others are fetched. To be called once."""
        self._room.copied.synchronize()
        self._rooms.append(self._room)
        return self._arrays
