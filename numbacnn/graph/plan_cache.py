"""The plans that a model keeps, so that asking for one costs nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from . import forks

PLANS = 8  # that are kept


class PlanCache:
    """Plans by keys, tuples that begin with a kind. The least recently used give way to new ones. Threads may share it; ``lock`` guards
    whatever plans are made of."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._plans: OrderedDict[tuple, Any] = OrderedDict()
        self._latest: tuple[tuple, Any] | None = None  # that was asked for, and will be again
        forks.tell(self)

    def __len__(self) -> int:
        return len(self._plans)

    def plans(self) -> list[Any]:
        """Those that are kept, the most recently used one behind the others."""
        return list(self._plans.values())

    def get(self, key: tuple, make: Callable[[], Any]) -> Any:
        """The plan of that key, made where there is none."""
        latest = self._latest
        if latest is not None and latest[0] == key:
            return latest[1]
        with self.lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = make()
                self._drop(key)
            self._plans.move_to_end(key)
            self._latest = key, plan
            return plan

    def clear(self, kind: str | None = None) -> None:
        """Forget all plans, or those of a kind."""
        with self.lock:
            self._latest = None
            for key in [key for key in self._plans if kind in (None, key[0])]:
                del self._plans[key]

    def begin_again(self) -> None:
        """Plans that another thread was running when this process was forked are made anew."""
        self.lock, self._latest = threading.RLock(), None
        for key in [key for key, plan in self._plans.items() if not forks.is_free(plan.lock)]:
            del self._plans[key]

    def _drop(self, newest: tuple) -> None:
        """Keep to what may be held beside the newest plan: the least recently used give way, and the largest on its device."""
        others = [key for key in self._plans if key != newest]
        dropped = others[: max(0, len(self._plans) - PLANS)]
        device = self._plans[newest].device
        kept = [key for key in others[len(dropped) :] if self._plans[key].device.name == device.name]
        kept.sort(key=lambda key: self._plans[key].nbytes)
        while kept and sum(self._plans[key].nbytes for key in kept) > device.plan_bytes:
            dropped.append(kept.pop())
        for key in dropped:
            del self._plans[key]
