"""One call of :meth:`Trainer.fit`: epochs of steps, validation, checkpoints, and Ctrl-C."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.loader import Loader
from ..errors import ConfigError, DivergenceError, NumbacnnError
from . import callbacks as callback_room
from . import checkpoint as checkpoints
from . import progress as display_room
from .batch import EVALUATION_BATCH
from .history import History
from .metrics import Means
from .schedules import Progress

if TYPE_CHECKING:
    from .trainer import Trainer


class TrainingInterrupted(NumbacnnError):
    """Ctrl-C ended a run, after a whole step. ``checkpoint`` is the folder that it was saved in, or None."""

    def __init__(self, message: str, checkpoint: str | None):
        super().__init__(message)
        self.checkpoint = checkpoint


class _Coming(NamedTuple):
    """A batch of so many images on its way."""

    batch: Any
    images: int


class _Begun(NamedTuple):
    """A step at a rate of ``factor`` that is not finished."""

    step: Any
    factor: float
    images: int


_EPOCHS = "number of epochs (on which the schedule depends)"


class Run:
    """One call of fit."""

    def __init__(self, trainer: Trainer, loader: Loader, validation: Any, epochs: int, folder: Any, every: int | None):
        self.trainer, self.loader, self.validation, self.epochs = trainer, loader, validation, epochs
        self.folder: str | None = None if folder is None else os.fspath(folder)
        self.every = every
        self.first_epoch, self.first_step = trainer.epochs, trainer.steps
        self.frozen = sorted(trainer.model.store.frozen)  # before callbacks may change it
        self.batch = 0  # batches of the current epoch that are done
        self.means = Means()
        self.seconds = self.waited = 0.0
        self.images = 0

    # The run ---------------------------------------------------------------------------------------------------------

    def go(self, resume: bool, shown: bool | None) -> History:
        trainer = self.trainer
        trainer.history, trainer._stopped = trainer._new_history(), False
        if resume and self.folder is None:
            raise ConfigError("fit was given resume=True without a checkpoint folder to resume from.")
        resumed = resume and self.folder is not None and self._restore(self.folder)
        if self.folder is not None and not resumed:
            checkpoints.clear(self.folder)
            self._save()
        with Interrupt() as interrupt, display_room.make(shown) as display:
            if resume and not resumed:
                display.note(f"There is no checkpoint in {self.folder!r} to resume from; the run begins anew.")
            self._call("on_train_begin")
            end = self.first_epoch + self.epochs
            batches: Any = self.loader.epochs(trainer.epochs, self.batch, end - trainer.epochs)
            try:
                with contextlib.closing(batches):  # ends the loader's threads
                    while trainer.epochs < end and not trainer._stopped:
                        self._epoch(batches, interrupt, display)
            except _Interrupted:
                raise self._interrupted() from None
        self._call("on_train_end", trainer.history)
        return trainer.history

    def _epoch(self, batches: Iterator[Any], interrupt: Interrupt, display: display_room.Silent) -> None:
        trainer, number = self.trainer, self.trainer.epochs - self.first_epoch + 1
        display.begin_epoch(number, self.epochs, len(self.loader), self.batch)
        if self.batch == 0:
            self._call("on_epoch_begin", number)
        self._steps(batches, interrupt, display)
        interrupt.check()
        self._check_finite()
        record: dict[str, Any] = {"epoch": number, **self.means.values()}
        if self.validation is not None:
            display.phase("validation")
            found = trainer._evaluate(self.validation, EVALUATION_BATCH, interrupt, self.loader.workers)
            record.update((f"val_{name}", value) for name, value in found.items())
        record["rate"] = trainer.optimizer.rate * self._factor(len(self.loader) - 1)
        record["seconds"], record["waited_seconds"] = round(self.seconds, 3), round(self.waited, 3)
        record["images_per_second"] = round(self.images / max(self.seconds, 1e-9), 1)
        trainer.history.append(record)
        trainer.epochs += 1
        self.batch, self.means, self.seconds, self.waited, self.images = 0, Means(), 0.0, 0.0, 0
        self._call("on_epoch_end", number, record)
        trainer.schedule.check(record)
        self._save()
        display.end_epoch(record, self.epochs)

    def _steps(self, batches: Iterator[Any], interrupt: Interrupt, display: display_room.Silent) -> None:
        """What remains of the epoch's steps. On a GPU the next batch is sent while a step runs, and the next step is begun before what came
        out of this one is looked at, unless a callback wants to know at once."""
        trainer, engine = self.trainer, self.trainer._engine
        watchers = [c for c in trainer.callbacks if type(c).on_step_end is not callback_room.Callback.on_step_end]
        steps_ahead = 0 if watchers else engine.steps_ahead
        under_way: deque[_Begun] = deque()
        coming: _Coming | Exception | None = None
        factor = self._factor(self.batch)
        start = time.perf_counter()
        try:
            while (at := self.batch + len(under_way)) < len(self.loader) and not interrupt.wanted:
                coming = coming or self._coming(batches, under_way)
                if isinstance(coming, Exception):
                    self._enter(under_way, 0, watchers, display)
                    raise coming
                if trainer.schedule.per_step:
                    factor = self._factor(at)
                begun = trainer._begin(coming.batch, factor, bool(trainer.metrics))
                under_way.append(_Begun(begun, factor, coming.images))
                more = at + 1 < len(self.loader)
                coming = self._coming(batches, under_way) if more and engine.batches_ahead else None
                saves = more and self.every is not None and trainer.steps % self.every == 0
                self._enter(under_way, 0 if saves else steps_ahead, watchers, display)
                if saves:
                    self.seconds += time.perf_counter() - start
                    self._save()
                    start = time.perf_counter()
            self._enter(under_way, 0, watchers, display)
        except DivergenceError:  # steps begun after that one have changed nothing
            raise
        except BaseException:
            with contextlib.suppress(NumbacnnError):
                while under_way:
                    trainer._finish(*under_way.popleft()[:2])
            raise
        self.seconds += time.perf_counter() - start

    def _coming(self, batches: Iterator[Any], under_way: Sequence[_Begun]) -> _Coming | Exception:
        """The next batch, on its way to the device; or why there is none, to be raised where its step would begin. How long it took counts
        where the device had nothing else to do."""
        try:
            asked = time.perf_counter()
            images, labels = next(batches)
            if not (under_way and under_way[-1].step.busy):
                self.waited += time.perf_counter() - asked
            return _Coming(self.trainer._send(images, labels), len(images[0]) if isinstance(images, tuple) else len(images))
        except Exception as error:
            return error

    def _enter(self, under_way: deque[_Begun], left: int, watchers: Sequence[Any], display: display_room.Silent) -> None:
        """Finish steps until so many are left, and enter what came out of them."""
        trainer = self.trainer
        while len(under_way) > left:
            step, factor, count = under_way.popleft()
            outcome = trainer._finish(step, factor)
            self.batch += 1
            self.images += count
            self.means.add_losses(outcome.totals)
            if trainer.metrics:
                self.means.measure(trainer.metrics, outcome.outputs, outcome.targets)
            for callback in watchers:
                callback.on_step_end(trainer, trainer.steps, outcome.loss)
            display.step(count, self.means.values)

    def _factor(self, batch: int) -> float:
        trainer = self.trainer
        epoch = trainer.epochs - self.first_epoch
        step = epoch * len(self.loader) + batch
        return trainer.schedule.factor(Progress(step, epoch, len(self.loader), self.epochs, trainer.history))

    def _call(self, method: str, *arguments: Any) -> None:
        for callback in self.trainer.callbacks:
            getattr(callback, method)(self.trainer, *arguments)

    def _interrupted(self) -> TrainingInterrupted:
        trainer = self.trainer
        where = (
            f"Training was interrupted after step {trainer.steps} (epoch {trainer.epochs - self.first_epoch + 1} of {self.epochs}, "
            f"batch {self.batch} of {len(self.loader)})"
        )
        if self.folder is None:
            return TrainingInterrupted(f"{where}; the model keeps what it learned. With a checkpoint folder fit could resume.", None)
        self._save()
        return TrainingInterrupted(f"{where}, and saved; fit with checkpoint={self.folder!r} and resume=True goes on.", self.folder)

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.folder is None:
            return
        self._check_finite()
        trainer, store = self.trainer, self.trainer.model.store
        arrays = {name: store.view(name) for name in store.specs}
        arrays |= {f"optimizer.{name}": array for name, array in trainer.updater.arrays().items()}
        state = {
            "fingerprint": self._fingerprint(),
            "steps": trainer.steps,
            "epoch": trainer.epochs,
            "first_epoch": self.first_epoch,
            "batch": self.batch,
            "means": self.means.sums,
            "seconds": self.seconds,
            "waited": self.waited,
            "images": self.images,
            "history": list(trainer.history),
            "stopped": trainer._stopped,
            "frozen": sorted(trainer.model.store.frozen),
        }
        checkpoints.save(self.folder, trainer.steps, checkpoints.Checkpoint(arrays, state))

    def _check_finite(self) -> None:
        trainer, store = self.trainer, self.trainer.model.store
        for array, what in ((store.trainable, "Parameters"), (store.state, "Running statistics")):
            if not np.isfinite(array).all():
                before = "" if self.folder is None else f"; the checkpoints in {self.folder!r} are from before"
                raise DivergenceError(f"{what} are no longer finite after step {trainer.steps}{before}. Try a smaller rate or clip_norm.")

    def _restore(self, folder: str) -> bool:
        """Go back to the newest checkpoint; False where there is none."""
        saved = checkpoints.newest(folder)
        if saved is None:
            return False
        trainer, store, state = self.trainer, self.trainer.model.store, saved.state
        fixed = {name: value for name, value in self._fingerprint().items() if name != _EPOCHS or trainer.schedule.uses_total}
        checkpoints.check_fingerprint(folder, state["fingerprint"], fixed)
        for name in store.specs:
            store.view(name)[...] = saved.arrays[name]
        for name, array in trainer.updater.arrays().items():
            array[...] = saved.arrays[f"optimizer.{name}"]
        store.touch()
        trainer.updater.steps = state["steps"]
        trainer.epochs, self.first_epoch, self.batch = state["epoch"], state["first_epoch"], state["batch"]
        self.means = Means(state["means"])
        self.seconds, self.waited, self.images = state["seconds"], state.get("waited", 0.0), state["images"]
        trainer.history.extend(state["history"])
        trainer._stopped = state["stopped"]
        store.frozen = set(state["frozen"])
        return True

    def _fingerprint(self) -> dict[str, Any]:
        """What must not change between the parts of a run (the number of epochs only where the schedule uses it)."""
        trainer = self.trainer
        config = json.dumps(_without_versions(trainer.model.to_config()), sort_keys=True)
        return {
            "model": f"a model with digest {hashlib.sha256(config.encode()).hexdigest()[:16]}",
            "frozen parameters": self.frozen,
            "loss": [repr(loss) for loss in trainer.losses],
            "loss weights": trainer.loss_weights,
            "optimizer": repr(trainer.optimizer),
            "schedule": repr(trainer.schedule),
            "metrics": [repr(metric) for metric in trainer.metrics],
            "batch size": self.loader.batch_size,
            "gradient accumulation": f"{trainer.accumulate} micro-batches" if trainer.accumulate > 1 else None,
            "seed": trainer.seed,
            "shuffle": bool(self.loader.shuffle),
            "number of training samples": len(self.loader.dataset),
            _EPOCHS: self.epochs,
        }


def _without_versions(config: Any) -> Any:
    """A model's description without the versions of packages: an update of one does not make it another model."""
    if isinstance(config, dict):
        return {key: _without_versions(value) for key, value in config.items() if key != "distribution_version"}
    return [_without_versions(value) for value in config] if isinstance(config, list) else config


# Ctrl-C --------------------------------------------------------------------------------------------------------------


class _Interrupted(Exception):
    """Inside a run: Ctrl-C was pressed, and the step is finished."""


class Interrupt:
    """While it is entered, the first Ctrl-C sets ``wanted``, the second raises KeyboardInterrupt as usual. Signals reach
    the main thread only; in another one this does nothing. Neither does it where Ctrl-C is ignored (as by nohup), or handled by something
    that is not Python's and could not be put back."""

    def __init__(self) -> None:
        self.wanted = False
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and handler not in (signal.SIG_IGN, None):
            self._previous = handler
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, *_: Any) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def check(self) -> None:
        if self.wanted:
            raise _Interrupted
