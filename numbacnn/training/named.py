"""From what a user gives (a registered name, or the thing itself) to the thing."""

from __future__ import annotations

from typing import Any, TypeVar

from ..errors import ConfigError
from ..plugin import registry

Thing = TypeVar("Thing")


def resolve(kind: str, base: type[Thing], given: Any, example: str) -> Thing:
    """``given`` if it is a ``base``; of a registered name what its factory makes with its default options. Raises ConfigError, with an
    ``example``, for anything else, and UnknownNameError."""
    if isinstance(given, str):
        return registry.load(kind, given)()
    if not isinstance(given, base):
        article = "an" if kind[0] in "aeiou" else "a"
        raise ConfigError(f"{given!r} is not {article} {kind}; give a registered name or {article} {base.__name__}, such as {example}.")
    return given
