"""Callbacks: what else happens as a run goes on."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..weights.files import atomic_file
from . import named
from .history import check_mode, falls, score

if TYPE_CHECKING:
    from .history import History
    from .trainer import Trainer


class Callback:
    """Base of all callbacks. Override what is wanted; :meth:`Trainer.stop` ends the run after the epoch.

    A run that is resumed calls ``on_train_begin`` again; a callback that decides by ``trainer.history`` goes on as if there had
    been no interruption.
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """Before epoch ``epoch``, counted from 1."""

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        """After update number ``step``, counted from 1."""

    def on_epoch_end(self, trainer: Trainer, epoch: int, record: Mapping[str, Any]) -> None:
        """After epoch ``epoch`` and its validation; ``record`` is the last entry of the history."""

    def on_train_end(self, trainer: Trainer, history: History) -> None:
        """After the last epoch, not after an interruption."""


@dataclasses.dataclass
class LambdaCallback(Callback):
    """A callback of functions, each with the arguments of the method of the same name."""

    train_begin: Callable | None = None
    epoch_begin: Callable | None = None
    step_end: Callable | None = None
    epoch_end: Callable | None = None
    train_end: Callable | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        _call(self.train_begin, trainer)

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        _call(self.epoch_begin, trainer, epoch)

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        _call(self.step_end, trainer, step, loss)

    def on_epoch_end(self, trainer: Trainer, epoch: int, record: Mapping[str, Any]) -> None:
        _call(self.epoch_end, trainer, epoch, record)

    def on_train_end(self, trainer: Trainer, history: History) -> None:
        _call(self.train_end, trainer, history)


def _call(function: Callable | None, *arguments: Any) -> None:
    if function is not None:
        function(*arguments)


@dataclasses.dataclass(frozen=True)
class EarlyStopping(Callback):
    """End the run when ``monitor`` has not improved by more than ``minimum_change`` for ``patience`` epochs. ``mode`` ``"min"`` or
    ``"max"`` says which way it improves, ``"auto"`` leaves that to the loss or metric. NaN is no improvement, and epochs without the
    entry (of a run that got validation data only when it was resumed) don't count."""

    monitor: str = "val_loss"
    patience: int = 5
    minimum_change: float = 0.0
    mode: str = "auto"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.patience < 1 or self.minimum_change < 0:
            raise ConfigError("EarlyStopping: patience must be at least 1 and minimum_change at least 0.")

    def on_epoch_end(self, trainer: Trainer, epoch: int, record: Mapping[str, Any]) -> None:
        _check_has(record, self.monitor, "EarlyStopping")
        if self._epochs_without_progress(trainer.history) >= self.patience:
            trainer.stop()

    def _epochs_without_progress(self, history: History) -> int:
        falling = falls(history, self.monitor, self.mode)
        best, since = -math.inf, 0
        for value in (score(record[self.monitor], falling) for record in history if self.monitor in record):
            if value > best + self.minimum_change:
                best, since = value, 0
            else:
                since += 1
        return since


def _check_has(record: Mapping[str, Any], monitor: str, name: str) -> None:
    if monitor not in record:
        raise ConfigError(f"{name} watches {monitor!r}; the epochs have {', '.join(record)}.")


@dataclasses.dataclass(frozen=True)
class CSVLogger(Callback):
    """Write the history to a CSV file after every epoch, all of it, so that a resumed run leaves one seamless table."""

    path: str | os.PathLike = "history.csv"

    def on_epoch_end(self, trainer: Trainer, epoch: int, record: Mapping[str, Any]) -> None:
        columns = list(dict.fromkeys(name for entry in trainer.history for name in entry))
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(trainer.history)


@dataclasses.dataclass(frozen=True)
class ModelCheckpoint(Callback):
    """Save the model to ``path`` after every epoch in which ``monitor`` is the best so far; with ``monitor=None`` after every
    epoch. ``mode`` is as of :class:`EarlyStopping`. The file is one that :func:`numbacnn.load` reads."""

    path: str | os.PathLike = "best.safetensors"
    monitor: str | None = "val_loss"
    mode: str = "auto"

    def __post_init__(self) -> None:
        check_mode(self.mode)

    def on_epoch_end(self, trainer: Trainer, epoch: int, record: Mapping[str, Any]) -> None:
        if self.monitor is not None:
            _check_has(record, self.monitor, "ModelCheckpoint")
            if trainer.history.best(self.monitor, self.mode) is not trainer.history[-1]:
                return
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer.model.save(path)


def resolve(callback: str | Callback) -> Callback:
    """A callback from a registered name (with its default options), or the callback itself."""
    return named.resolve("callback", Callback, callback, "'early_stopping' or nc.EarlyStopping(patience=3)")
