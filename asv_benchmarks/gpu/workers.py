"""Parts in processes of their own: one that fails, hangs, or breaks the device's context for all that follows in its process loses no more
than the row that it was at."""

from __future__ import annotations

import collections
import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any

from ..peers.processes import started
from .parts import NO_TIME, Item, Part, Settings


def serve(rows: Callable[[Item, Settings], list[Item]], settings: Settings, line: Any) -> None:
    """Answer items with their rows, or with what went wrong: after that this process is of no use any more."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            item = line.recv()
            try:
                line.send(rows(item, settings))
            except Exception as error:
                traceback.print_exc()
                line.send(f"{type(error).__name__}: {error}")
                return


class _Worker:
    """A process, and the item that it is at."""

    def __init__(self, part: Part, settings: Settings):
        self.process, self.line = started(serve, part.rows, settings)
        self.item: Item | None = None
        self.until = 0.0

    def give(self, item: Item, until: float) -> None:
        self.item, self.until = item, until
        with contextlib.suppress(OSError):  # of a process that has ended, which its answer tells
            self.line.send(item)

    def answer(self) -> list[Item] | str:
        """Rows, or what went wrong."""
        try:
            return self.line.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return f"its process came to an end ({self.process.exitcode})"

    def end(self) -> None:
        self.process.kill()
        self.process.join(10)  # the driver may keep it for long where the device hangs
        self.line.close()


def results(part: Part, settings: Settings, seconds: float) -> Iterator[list[Item]]:
    """The rows of each item of a part, as they come, within so many seconds. Rows begin with what they are of."""
    waiting = collections.deque(part.items(settings.sizes))
    stop, each = time.perf_counter() + seconds, part.each * settings.patience
    workers: list[_Worker] = []
    try:
        while True:
            now = time.perf_counter()
            while waiting and now < stop and (idle := _idle(workers, part, settings)):
                idle.give(waiting.popleft(), min(now + each, stop))
            busy = [worker for worker in workers if worker.item is not None]
            if not busy:
                break
            ready = connection.wait([worker.line for worker in busy], max(0.0, min(worker.until for worker in busy) - now))
            for worker in busy:
                if worker.line in ready:
                    found = worker.answer()
                elif time.perf_counter() >= worker.until:
                    found = NO_TIME if worker.until >= stop else f"not done after {each:.0f} s"
                else:
                    continue
                yield _rows(worker.item or {}, found)
                worker.item = None
                if isinstance(found, str):
                    worker.end()
                    workers.remove(worker)
        for item in waiting:
            yield _rows(item, NO_TIME)
    finally:
        for worker in workers:
            worker.end()


def _idle(workers: list[_Worker], part: Part, settings: Settings) -> _Worker | None:
    """One that has nothing to do, or a new one; None where all are busy."""
    for worker in workers:
        if worker.item is None:
            return worker
    if len(workers) < part.workers:
        workers.append(_Worker(part, settings))
        return workers[-1]
    return None


def _rows(item: Item, found: list[Item] | str) -> list[Item]:
    if found == NO_TIME:
        return [{**item, "skipped": NO_TIME}]
    return [{**item, "failed": found, "ok": False}] if isinstance(found, str) else [{**item, **row} for row in found]
