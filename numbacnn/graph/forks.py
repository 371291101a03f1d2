"""What a process that was forked makes of locks: threads that held them in its parent are not there to give them back."""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol
from weakref import WeakSet


class Forked(Protocol):
    """What has locks."""

    def begin_again(self) -> None:
        """Called in a process that was forked, before anything else is."""


_forked: WeakSet[Any] = WeakSet()


def tell(owner: Forked) -> None:
    """Have :meth:`Forked.begin_again` called from now on, as long as the owner lives."""
    _forked.add(owner)


def is_free(lock: threading.RLock) -> bool:
    """Whether no other thread holds it."""
    free = lock.acquire(blocking=False)
    if free:
        lock.release()
    return free


def _begin_again() -> None:
    for owner in list(_forked):
        owner.begin_again()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
