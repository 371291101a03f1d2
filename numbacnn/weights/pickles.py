"""Pickles read without trust: an interpreter of the instructions that plain data needs, in which nothing from a file is imported or called.

A pickle is a program for a stack machine. Where Python's own machine imports whatever a pickle names and calls it, this one has a table
of names: a name becomes a :class:`Global`, which is a word and no object, and "calling" it runs the function of ours that the table has
for it. All other names, and all instructions that plain data does not need, are refused.

The time and the memory that a pickle can ask for grow with its length and with nothing that it says: the memo is a dict (places that a file
makes up reserve nothing), keys are strings and numbers (hashing nested tuples can take forever), and lengths are compared with what is
left of the file.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Mapping
from typing import Any

PROTOCOLS = range(2, 6)
NAME_LENGTH = 80
"""How many characters of a name from a file a message shows."""


class RefusedError(Exception):
    """What is wrong with a file, as the rest of a sentence that starts with the file's name."""


@dataclasses.dataclass(frozen=True)
class Global:
    """The dotted name of a Python object that a pickle asks for."""

    name: str


class Unpickler:
    """Reads pickles that stand one after the other in ``data``; ``position`` is where the next begins.

    ``builders`` has the names that may occur, with the function that makes something of the arguments, or with None where the name only
    stands for itself. ``persistent`` makes something of a reference to what lies outside the pickle. Attributes may be set of what is of a
    type in ``stateful``; they are dropped. Functions raise RefusedError for what they do not take.
    """

    def __init__(
        self,
        data: bytes,
        builders: Mapping[str, Callable[..., Any] | None],
        persistent: Callable[[Any], Any],
        stateful: tuple[type, ...] = (dict,),
    ):
        self.data, self.position = data, 0
        self.builders, self.persistent, self.stateful = builders, persistent, stateful
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object of the next pickle. Raises RefusedError."""
        self.stack, self.outer, self.memo = [], [], {}
        try:
            while (code := self.take(1)) != b".":
                if code not in INSTRUCTIONS:
                    raise RefusedError(f"has the pickle instruction {code!r}, which tensors and plain containers do without")
                INSTRUCTIONS[code](self)
            return self.stack.pop()
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"is damaged: its pickle cannot be followed ({type(error).__name__})") from error

    # Reading ---------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise RefusedError("is truncated or damaged: it ends early")
        start, self.position = self.position, end
        return self.data[start:end]

    def number(self, form: str) -> Any:
        """The next number, in the notation of :mod:`struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def integer(self) -> int:
        """The next whole number, of up to 255 bytes, behind their number."""
        return int.from_bytes(self.take(self.number("<B")), "little", signed=True)

    def text(self, length: str) -> str:
        """The next string, behind its length in bytes."""
        return self.take(self.number(length)).decode()

    def line(self) -> str:
        """What is left of a line."""
        end = self.data.find(b"\n", self.position)
        taken = self.take(end + 1 - self.position)
        return taken[:-1].decode()

    # The stack -------------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def last(self, count: int) -> list[Any]:
        """The last ``count`` values, taken from the stack."""
        if len(self.stack) < count:
            raise IndexError
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """All values since the last mark, taken from the stack."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    # Instructions ----------------------------------------------------------------------------------------------------

    def check_protocol(self) -> None:
        version = self.number("<B")
        if version not in PROTOCOLS:
            raise RefusedError(f"is a pickle of protocol {version}; {PROTOCOLS[0]} to {PROTOCOLS[-1]} are read")

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        """Set keys and values, which alternate, in the dict on the stack."""
        if not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2]):
            self.stack[-1][checked_key(key)] = value

    def name(self, module: Any, name: Any) -> None:
        asked = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        if asked not in self.builders:
            raise RefusedError(
                f"asks for the Python object {asked[:NAME_LENGTH]!r}; only tensors and plain containers are read, such as "
                "torch.save(module.state_dict(), path) writes, and nothing was run"
            )
        self.push(Global(asked))

    def call(self, called: Any, arguments: Any) -> None:
        build = self.builders[called.name] if isinstance(called, Global) else None
        if build is None or not isinstance(arguments, tuple):
            raise RefusedError("calls what is neither a tensor nor a container; nothing was run")
        self.push(build(*arguments))

    def set_state(self) -> None:
        self.last(1)
        if not isinstance(self.stack[-1], self.stateful):
            raise RefusedError("sets attributes of what is neither a tensor nor a container; nothing was run")


def checked_key(key: Any) -> Any:
    """A key of a dict. Raises RefusedError for anything but a string or a number."""
    if not isinstance(key, str | int | float):
        raise RefusedError(f"holds a dict with a key of type {type(key).__name__}; strings and numbers are read")
    return key


INSTRUCTIONS: dict[bytes, Callable[[Unpickler], Any]] = {
    b"\x80": Unpickler.check_protocol,
    b"\x95": lambda u: u.take(8),  # the length of a frame, for reading ahead
    # Values
    b"N": lambda u: u.push(None),
    b"\x88": lambda u: u.push(True),
    b"\x89": lambda u: u.push(False),
    b"K": lambda u: u.push(u.number("<B")),
    b"M": lambda u: u.push(u.number("<H")),
    b"J": lambda u: u.push(u.number("<i")),
    b"\x8a": lambda u: u.push(u.integer()),
    b"G": lambda u: u.push(u.number(">d")),
    b"X": lambda u: u.push(u.text("<I")),
    b"\x8c": lambda u: u.push(u.text("<B")),
    b"U": lambda u: u.push(u.text("<B")),  # this and the next are strings of Python 2
    b"T": lambda u: u.push(u.text("<i")),
    # Containers
    b"(": Unpickler.mark,
    b"]": lambda u: u.push([]),
    b"}": lambda u: u.push({}),
    b")": lambda u: u.push(()),
    b"t": lambda u: u.push(tuple(u.since_mark())),
    b"\x85": lambda u: u.push(tuple(u.last(1))),
    b"\x86": lambda u: u.push(tuple(u.last(2))),
    b"\x87": lambda u: u.push(tuple(u.last(3))),
    b"a": lambda u: u.extend(u.last(1)),
    b"e": lambda u: u.extend(u.since_mark()),
    b"s": lambda u: u.update(u.last(2)),
    b"u": lambda u: u.update(u.since_mark()),
    b"0": lambda u: u.last(1),
    # What was there before
    b"q": lambda u: u.remember(u.number("<B")),
    b"r": lambda u: u.remember(u.number("<I")),
    b"\x94": lambda u: u.remember(len(u.memo)),
    b"h": lambda u: u.push(u.memo[u.number("<B")]),
    b"j": lambda u: u.push(u.memo[u.number("<I")]),
    # Names, and what they make
    b"c": lambda u: u.name(u.line(), u.line()),
    b"\x93": lambda u: u.name(*u.last(2)),
    b"R": lambda u: u.call(*u.last(2)),
    b"b": Unpickler.set_state,
    b"Q": lambda u: u.push(u.persistent(u.last(1)[0])),
}
"""What each instruction does, by its code in Python's :mod:`pickle`."""
