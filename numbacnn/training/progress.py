"""How a run shows on screen: a bar on a terminal, else one line per epoch, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

REDRAW = 0.1  # seconds between two updates of the bar
WAITING = 0.05  # share of an epoch that steps wait for data, from which on it is told
UNSHOWN = ("epoch", "rate", "seconds", "waited_seconds", "images_per_second")  # entries of a record that are not told by name and value


def describe(record: Mapping[str, Any], epochs: int) -> str:
    """An epoch's record as a line of text."""
    shown = [f"{name} {value:.4f}" for name, value in record.items() if name not in UNSHOWN]
    speed = f"{record['images_per_second']:,.0f} images/s, {record['seconds']:.1f} s"
    share = record["waited_seconds"] / max(record["seconds"], 1e-9)
    waiting = f", {100 * share:.0f} % of it waiting for data" if share > WAITING else ""
    return f"epoch {record['epoch']}/{epochs}: {', '.join(shown)} ({speed}{waiting})"


class Silent:
    """Shows nothing; the base of what shows something."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def note(self, sentence: str) -> None:
        """Something to know about the run before it begins."""

    def begin_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Epoch ``epoch`` of ``epochs`` begins, of whose ``steps`` ``done`` have been taken already."""

    def step(self, images: int, values: Any) -> None:
        """A step with so many images has been taken; ``values`` is a function that gives the means so far by name."""

    def phase(self, name: str) -> None:
        """What follows the epoch's steps."""

    def end_epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        """The epoch is over."""


class Lines(Silent):
    """One plain line per epoch."""

    def note(self, sentence: str) -> None:
        print(sentence, flush=True)

    def end_epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        print(describe(record, epochs), flush=True)


class Bar(Silent):
    """A bar of the epoch's steps with loss, metrics, images/s and the time that the run still needs; a line for each epoch
    above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, console=Console(), transient=True)
        self._task = self._progress.add_task("", total=1, text="", visible=False)
        self._seconds = self._steps = 0.0  # spent in steps of this run, and their number
        self._left = self._epoch_images = self._done = 0
        self._epoch_seconds = self._last = self._drawn = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def note(self, sentence: str) -> None:
        self._progress.console.print(sentence, highlight=False, markup=False)

    def begin_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        self._left = (epochs - epoch + 1) * steps - done
        self._done, self._epoch_images, self._epoch_seconds = done, 0, 0.0
        self._last = time.perf_counter()
        self._progress.update(self._task, description=f"epoch {epoch}/{epochs}", total=steps, completed=done, text="", visible=True)

    def step(self, images: int, values: Any) -> None:
        now = time.perf_counter()
        self._seconds += now - self._last
        self._epoch_seconds += now - self._last
        self._last = now
        self._steps += 1
        self._done += 1
        self._left -= 1
        self._epoch_images += images
        if now - self._drawn >= REDRAW:
            self._drawn = now
            self._progress.update(self._task, completed=self._done, text=self._text(values()))

    def _text(self, values: Mapping[str, float]) -> str:
        seconds = int(self._seconds / self._steps * self._left)
        left = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}" if seconds >= 3600 else f"{seconds // 60}:{seconds % 60:02}"
        speed = self._epoch_images / max(self._epoch_seconds, 1e-9)
        return ", ".join([*(f"{name} {value:.4f}" for name, value in values.items()), f"{speed:,.0f} images/s", f"{left} left"])

    def phase(self, name: str) -> None:
        self._progress.update(self._task, completed=self._done, text=name)

    def end_epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self._progress.console.print(describe(record, epochs), highlight=False)


def make(progress: bool | None) -> Silent:
    """A bar if ``progress`` is True, nothing if it is False; None means a bar on a terminal, else lines."""
    if progress is False:
        return Silent()
    if progress or sys.stdout.isatty():
        return Bar()
    return Lines()
