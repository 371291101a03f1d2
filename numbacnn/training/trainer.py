"""The trainer: steps, epochs, evaluation, and runs that can be interrupted and resumed bit for bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import kernels
from ..data.loader import Loader
from ..data.sources import open_dataset
from ..errors import ConfigError, DivergenceError, NumbacnnError, ShapeError
from ..graph.recompute import checked_recompute
from ..layers.checks import is_integer
from ..model import Model
from . import callbacks as callback_room
from . import checkpoint as checkpoints
from . import losses as loss_room
from . import metrics as metric_room
from . import optimizers, schedules
from . import progress as display_room
from .history import History
from .metrics import Means
from .optimizers import Optimizer, Updater
from .schedules import Progress, Schedule

if TYPE_CHECKING:
    from ..inspect.profile import Profile

EVALUATION_BATCH = 256  # images that evaluate runs at once, unless told otherwise
BATCH_KINDS = 4  # batch sizes that stay bound


class TrainingInterrupted(NumbacnnError):
    """Ctrl-C ended a run, after a whole step. ``checkpoint`` is the folder that it was saved in, or None."""

    def __init__(self, message: str, checkpoint: str | None):
        super().__init__(message)
        self.checkpoint = checkpoint


class Trainer:
    """Trains a model.

    Args:
        loss: a registered name or a Loss. For a model with several outputs a list with one each, or one for all of them;
            ``loss_weights`` are their factors in the sum.
        optimizer: a registered name or an Optimizer.
        metrics: registered names or Metrics, each of another name, of the first output.
        schedule: a registered name or a Schedule, by which :meth:`fit` changes the rate.
        seed: of the order of the training data. All other randomness has the model's seed.
        callbacks: registered names or Callbacks, for :meth:`fit`.
        recompute: what is computed twice to save memory, with the same bits in every result. ``"cheap"`` runs layers that do little
            arithmetic (normalisation, activations, concatenation, pooling) again for the backward pass, and does not keep their
            outputs. ``"blocks"`` keeps what goes from one block of layers to the next, and runs the forward pass of a block again
            before its backward pass (T. Chen et al., 2016, arXiv:1604.06174). None keeps everything that the backward pass reads.
        accumulate: into how many micro-batches a step cuts its batch, one after the other; their gradients are added up to that of
            the loss over the whole batch, for one update. It takes the memory of a micro-batch. Losses that are no (weighted) mean over
            samples are the mean of those of the micro-batches, and batch normalisation takes its statistics from each micro-batch, and
            moves the running ones after each; with other layers, dropout among them, a step is the same up to rounding.
        device: ``"cpu"`` or ``"cuda"``, where the model runs from then on (:meth:`~numbacnn.model.Model.to`); None leaves it where it is.

    ``steps`` counts the updates so far, ``epochs`` the epochs; ``history`` is that of the run that :meth:`fit` is at or
    was last at. ``updater`` holds the optimizer's state.
    """

    def __init__(
        self,
        model: Model,
        loss: Any = "softmax_cross_entropy",
        optimizer: str | Optimizer = "sgd",
        metrics: Sequence[str | metric_room.Metric] = ("accuracy",),
        seed: int = 0,
        callbacks: Sequence[str | callback_room.Callback] = (),
        *,
        schedule: str | Schedule = "constant",
        loss_weights: Sequence[float] | None = None,
        recompute: str | None = None,
        accumulate: int = 1,
        device: str | None = None,
    ):
        self.model, self.seed = model, _checked_seed(seed)
        self.recompute, self.accumulate = checked_recompute(recompute), _checked_parts(accumulate)
        self.losses = _each_output(model, loss)
        self.loss_weights = _checked_weights(loss_weights, len(self.losses))
        self.optimizer = optimizers.resolve(optimizer)
        self.metrics = metric_room.resolve_all(metrics)
        self.schedule = schedules.resolve(schedule)
        self.callbacks = [callback_room.resolve(callback) for callback in callbacks]
        if device is not None:
            model.to(device)
        self.device = model.device
        self.updater, self._bind = self._engine()
        self.epochs = 0
        self.history = self._new_history()
        self._batches: dict[tuple[int, bool, bool], Any] = {}
        self._state_before = model.store.state.copy()
        self._stopped = False

    def _engine(self) -> tuple[Updater, Any]:
        """What applies the optimizer, and what binds a plan to a batch, on the device."""
        if self.device == "cpu":
            return Updater(self.optimizer, self.model.store), _Batch
        from . import cuda

        return cuda.DeviceUpdater(self.optimizer, self.model.on_device), cuda.DeviceBatch

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self.updater.steps

    # One batch -------------------------------------------------------------------------------------------------------

    def step(self, images: Any, labels: Any) -> float:
        """One update from a batch: ``images`` ``(N, ...)`` (a tuple of arrays for several inputs), ``labels`` as the loss
        takes them (a tuple for several outputs). Returns the loss of the batch before the update.

        Raises DivergenceError for a loss that is not finite; the model is then as it was before.
        """
        return self._step(images, labels, 1.0).loss

    def gradients(self, images: Any, labels: Any) -> dict[str, np.ndarray]:
        """Gradients of the loss of a batch, without an update: a copy for each trainable parameter by name, and
        ``"input"`` for the images (a tuple for several inputs). The model stays as it was."""
        parts = []
        for batch in self._forward(images, labels, input_gradients=True):
            batch.plan.backward()
            parts.append(batch.plan.device.copies(batch.plan.input_gradients))
        self._restore_state()
        inputs = tuple(map(_joined, zip(*parts)))
        found = dict(zip(batch.plan.gradients, batch.plan.device.copies(batch.plan.gradients.values())))
        return {**found, "input": inputs[0] if len(inputs) == 1 else inputs}

    def _step(self, images: Any, labels: Any, factor: float) -> _Outcome:
        outcome = _Outcome(copied=self.accumulate > 1)
        if self.device != "cpu" and self.accumulate == 1:
            batch: Any = self._loaded(*self._checked(images, labels), False, False)
            batch.step(self.steps, factor)
            outcome.add(batch)
            self._check_loss(outcome.loss, factor)
            return outcome
        for batch in self._forward(images, labels):
            outcome.add(batch)
            if not math.isfinite(outcome.loss):
                self._restore_state()
            self._check_loss(outcome.loss, factor)
            batch.plan.backward()
        batch.update(factor)
        return outcome

    def _check_loss(self, loss: float, factor: float) -> None:
        if not math.isfinite(loss):
            raise DivergenceError(
                f"The loss of step {self.steps + 1} is {loss} at rate {self.optimizer.rate * factor:g}; the model is as it was "
                "before this step. Try a smaller rate or clip_norm, and see whether the data is finite and scaled."
            )

    def _forward(self, images: Any, labels: Any, input_gradients: bool = False) -> Iterator[Any]:
        """The micro-batches of a batch, one after the other, each with the loss and the gradients of the outputs: its part in those of the
        whole batch. The backward pass is up to the caller."""
        inputs, targets = self._checked(images, labels)
        parts = _parts(len(inputs[0]), self.accumulate)
        shares = self._shares(targets, parts) if len(parts) > 1 else [None]
        if self._state_before.size and self.device == "cpu":
            np.copyto(self._state_before, self.model.store.state)
        for part, share in zip(parts, shares):
            batch = self._loaded([array[part] for array in inputs], [array[part] for array in targets], input_gradients, len(parts) > 1)
            if len(parts) > 1 and part is parts[0]:
                batch.plan.clear_gradients()
            batch.forward(self.steps, part.start, share)
            yield batch

    def _checked(self, images: Any, labels: Any) -> tuple[Sequence[np.ndarray], list[np.ndarray]]:
        """Arrays for the model's inputs, and what the losses take."""
        inputs = self.model._checked_inputs(images)
        if self.updater.store is not self.model.store:
            raise ConfigError("The model got another head after this Trainer was made: make a new Trainer.")
        shapes = [(len(inputs[0]), *tensor.shape) for tensor in self.model.graph.outputs]
        return inputs, self._targets(labels, shapes, self.model.dtype)

    def _loaded(self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], input_gradients: bool, accumulate: bool) -> Any:
        """Images and targets, copied to where a plan reads them."""
        key = len(inputs[0]), input_gradients, accumulate
        plan = self.model.training_plan(
            len(inputs[0]), input_gradients, recompute=self.recompute, accumulate=accumulate, device=self.device
        )
        batch = self._batches.get(key)
        if batch is None or not batch.fits(plan, targets):
            if len(self._batches) >= BATCH_KINDS:
                self._batches.clear()
            batch = self._batches[key] = self._bind(self, plan, targets)
        batch.load(inputs, targets)
        return batch

    def _targets(self, labels: Any, shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[np.ndarray]:
        """What the losses take, for outputs of these shapes."""
        given = [labels] * len(shapes)
        if len(shapes) > 1 and isinstance(labels, (tuple, list)):
            if len(labels) != len(shapes):
                raise ShapeError(f"The model has {len(shapes)} outputs; {len(labels)} arrays of labels were given.")
            given = list(labels)
        return [loss.targets(entry, shape, dtype) for loss, entry, shape in zip(self.losses, given, shapes)]

    def _shares(self, targets: Sequence[np.ndarray], parts: Sequence[slice]) -> np.ndarray:
        """``(parts, outputs)``: the weight of each part's loss in that of the batch, the part's divisor over the sum of all. A divisor
        follows from the targets, so that any outputs tell it before the network has run."""
        divisors = np.empty((len(parts), len(targets)))
        for number, part in enumerate(parts):
            totals = _totals(len(targets), part.stop - part.start)
            for loss, target, tensor, total in zip(self.losses, targets, self.model.graph.outputs, totals):
                outputs = np.zeros((part.stop - part.start, *tensor.shape), self.model.dtype)
                loss.compute(outputs, target[part].copy(), np.empty_like(outputs), total)
            divisors[number] = totals[:, 1]
        whole = divisors.sum(axis=0)
        return divisors / np.where(whole == 0, 1, whole)

    def _restore_state(self) -> None:
        """Undo what the forward pass did to running statistics."""
        if self.device != "cpu":
            self.model.on_device.restore_state()
        elif self._state_before.size:
            np.copyto(self.model.store.state, self._state_before)
            self.model.store.touch()

    def profile(self, data: Any, labels: Any = None, *, batch_size: int = 64, steps: int = 5, progress: bool = False) -> Profile:
        """Where the time of a training step goes: a :class:`~numbacnn.inspect.profile.Profile`, to be printed or saved as a trace.

        Args:
            data, labels: a batch, as :meth:`step` takes it; or, without ``labels``, what ``train`` of :meth:`fit` may be. Its first
                ``batch_size`` samples (of the order of epoch 0) are the batch then, and the profile says too how long a thread takes to
                prepare one.
            steps: so many steps are timed call by call, and as many as a whole, in turn. Figures are medians over them.
            progress: a bar on a terminal.

        All steps are real ones, updates included. Parameters, running statistics, the optimizer's arrays and the number of steps are as
        before afterwards, bit for bit; copies of them are kept meanwhile. Raises as :meth:`step` does, and ConfigError for numbers of
        steps or of samples that are no whole numbers of at least 1.
        """
        from . import profiling

        return profiling.profiled(self, data, labels, batch_size, steps, progress)

    # Evaluation ------------------------------------------------------------------------------------------------------

    def evaluate(self, dataset: Any, batch_size: int = EVALUATION_BATCH) -> dict[str, float]:
        """Mean loss and metrics of the model in inference mode: ``{"loss": ..., "accuracy": ...}``. ``dataset`` is what ``validation``
        of :meth:`fit` may be."""
        return self._evaluate(self._open(dataset, "test"), batch_size, None)

    def _evaluate(self, dataset: Any, batch_size: int, interrupt: _Interrupt | None, workers: int | None = None) -> dict[str, float]:
        means = Means()
        for images, labels in Loader(dataset, batch_size, shuffle=False, workers=workers).epoch(0):
            if interrupt:
                interrupt.check()
            outputs = self._predict(images)
            targets = self._targets(labels, [output.shape for output in outputs], outputs[0].dtype)
            totals = _totals(len(outputs), len(outputs[0]))
            for loss, weight, output, target, total in zip(self.losses, self.loss_weights, outputs, targets, totals):
                loss.compute(output, target, np.empty_like(output), total, weight)
            means.add_losses(totals)
            means.measure(self.metrics, outputs[0], targets[0])
        return means.values()

    def _predict(self, images: Any) -> list[np.ndarray]:
        """The model's outputs, however predict groups them."""
        outputs = self.model.predict(images, batch_size=_count(images))
        if isinstance(outputs, dict):
            return list(outputs.values())
        return list(outputs) if isinstance(outputs, tuple) else [outputs]

    def _open(self, source: Any, split: str) -> Any:
        shapes = tuple(tuple(tensor.shape) for tensor in self.model.graph.inputs)
        whole = tuple(tensor.dtype is not None for tensor in self.model.graph.inputs)
        shape = shapes if len(shapes) > 1 else shapes[0]
        model = self.model
        return open_dataset(source, split, input_shape=shape, classes=model.classes, whole_numbers=whole, preprocessing=model.preprocessing)

    def _new_history(self) -> History:
        return History(falling=["loss", *(metric.name for metric in self.metrics if metric.smaller_is_better)])

    # Runs ------------------------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Any,
        validation: Any = None,
        epochs: int = 1,
        batch_size: int = 64,
        checkpoint: str | os.PathLike | None = None,
        resume: bool = False,
        progress: bool | None = None,
        *,
        shuffle: bool = True,
        checkpoint_every: int | None = None,
        workers: int | None = None,
    ) -> History:
        """Train for a number of epochs.

        Args:
            train, validation: pairs of arrays, registered names (their train and test split), folders, or Datasets. In a pair
                ``((a, b), (c, d))`` the tuples are the arrays for the inputs and for the outputs of a model with several. A folder
                is read with the model's classes; a model without classes gets those of ``train``. Pixels are scaled as
                ``model.preprocessing`` says; arrays of floating-point numbers are taken as they are.
            checkpoint: a folder. The run is saved there after every epoch, and every ``checkpoint_every`` steps. What an
                earlier run has saved there is removed, unless
            resume: goes on from there, if anything is there, with the same bits as if there had been no break. ``epochs``
                still counts from the beginning of the run, and may only change with a schedule that does not depend on it.
            progress: True for a bar, False for silence; None means a bar on a terminal, else a line per epoch.
            workers: threads that prepare batches ahead, in their order however many there are; None takes one per core, up to 8. Where
                steps wait for them, the line of the epoch tells, and the entry ``waited_seconds`` of the history.

        Ctrl-C finishes the step, saves the run and raises TrainingInterrupted; a second one raises KeyboardInterrupt at
        once. Raises DivergenceError as :meth:`step` does, and where parameters are no longer finite after an epoch; ConfigError where
        the checkpoint is of another configuration.
        """
        for name, value in (("epochs", epochs), ("checkpoint_every", checkpoint_every)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
                raise ConfigError(f"fit was given {name}={value!r}; it takes a whole number of at least 1.")
        data = self._open(train, "train")
        if self.model.classes is None and data.classes is not None:
            self.model.classes = tuple(data.classes)
        held_out = None if validation is None else self._open(validation, "test")
        run = _Run(self, Loader(data, batch_size, shuffle, self.seed, workers=workers), held_out, int(epochs), checkpoint, checkpoint_every)
        return run.go(resume, progress)

    def stop(self) -> None:
        """End the run after this epoch; for callbacks."""
        self._stopped = True


class _Batch:
    """A plan for one batch size, with targets and everything between its passes bound to it; ``updating`` is what an update runs."""

    def __init__(self, trainer: Trainer, plan: Any, targets: Sequence[np.ndarray]):
        self.plan = plan
        self.targets = [target.copy() for target in targets]
        self.totals = _totals(len(targets), len(plan.inputs[0]))
        self.losses: list[tuple[Any, tuple]] = []
        parts = zip(trainer.losses, trainer.loss_weights, plan.outputs, self.targets, plan.output_gradients, self.totals)
        for loss, weight, outputs, target, gradient, total in parts:
            arguments = (outputs, target, gradient, total, weight)
            if loss.recordable:
                with kernels.jit.record() as steps:
                    loss.compute(*arguments)
                self.losses += steps
            else:
                self.losses.append((loss.compute, arguments))
        self._updater, self.updating = trainer.updater, trainer.updater.bind(plan.flat_gradients)

    def fits(self, plan: Any, targets: Sequence[np.ndarray]) -> bool:
        """Whether this is for that plan, and for targets of that kind."""
        same = all(own.shape == given.shape and own.dtype == given.dtype for own, given in zip(self.targets, targets))
        return self.plan is plan and same

    def load(self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> None:
        for own, given in zip(self.plan.inputs, inputs):
            np.copyto(own, given, casting="unsafe")
        for own, given in zip(self.targets, targets):
            np.copyto(own, given)

    def forward(self, step: int, first: int, share: np.ndarray | None) -> None:
        """Fill ``totals`` and the gradients of the outputs. The batch is all of a step, or the samples from ``first`` on, of which each
        output's loss counts by its ``share`` in that of the step."""
        self.plan.set_step(step, first)
        self.plan.forward()
        with kernels.jit.launch_guard():
            kernels.jit.run(self.losses)
        if share is not None:
            self.totals[:, 0] *= share
            for gradient, factor in zip(self.plan.output_gradients, share):
                np.multiply(gradient, factor, out=gradient)

    @property
    def outputs(self) -> np.ndarray:
        """The first output."""
        return self.plan.outputs[0]

    def update(self, factor: float) -> None:
        """Change the parameters, after backward passes."""
        self._updater.apply(self.updating, factor)


class _Copies(NamedTuple):
    """What metrics need of a batch that is no longer there."""

    outputs: np.ndarray
    targets: list[np.ndarray]


class _Outcome:
    """What came out of a batch: ``totals``, a row ``(loss, divisor)`` for each output, and for metrics the first output and its targets.
    Without ``copied`` these are the batch's own, which last until the next one; what lies on a GPU is fetched when it is asked for."""

    def __init__(self, copied: bool) -> None:
        self.totals: Any = 0.0
        self._copied = copied
        self._parts: list[Any] = []

    def add(self, batch: Any) -> None:
        """Enter a batch, or a further part of one."""
        self.totals = self.totals + batch.totals
        self._parts.append(_Copies(batch.outputs.copy(), [batch.targets[0].copy()]) if self._copied else batch)

    @property
    def loss(self) -> float:
        return float(self.totals[:, 0].sum())

    @property
    def outputs(self) -> np.ndarray:
        return _joined([part.outputs for part in self._parts])

    @property
    def targets(self) -> np.ndarray:
        return _joined([part.targets[0] for part in self._parts])


_EPOCHS = "number of epochs (on which the schedule depends)"


class _Run:
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
        with _Interrupt() as interrupt, display_room.make(shown) as display:
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

    def _epoch(self, batches: Iterator[Any], interrupt: _Interrupt, display: display_room.Silent) -> None:
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

    def _steps(self, batches: Iterator[Any], interrupt: _Interrupt, display: display_room.Silent) -> None:
        """What remains of the epoch's steps."""
        trainer = self.trainer
        watchers = [c for c in trainer.callbacks if type(c).on_step_end is not callback_room.Callback.on_step_end]
        factor = self._factor(self.batch)
        start = time.perf_counter()
        while self.batch < len(self.loader) and not interrupt.wanted:
            images, labels = self._next(batches)
            if trainer.schedule.per_step:
                factor = self._factor(self.batch)
            outcome = trainer._step(images, labels, factor)
            count = _count(images)
            self.batch += 1
            self.images += count
            self.means.add_losses(outcome.totals)
            self.means.measure(trainer.metrics, outcome.outputs, outcome.targets)
            for callback in watchers:
                callback.on_step_end(trainer, trainer.steps, outcome.loss)
            display.step(count, self.means.values)
            if self.every and trainer.steps % self.every == 0 and self.batch < len(self.loader):
                self.seconds += time.perf_counter() - start
                self._save()
                start = time.perf_counter()
        self.seconds += time.perf_counter() - start

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch, and how long it took until it was there."""
        asked = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - asked
        return batch

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


class _Interrupt:
    """While it is entered, the first Ctrl-C sets ``wanted``, the second raises KeyboardInterrupt as usual. Signals reach
    the main thread only; in another one this does nothing. Neither does it where Ctrl-C is ignored (as by nohup), or handled by something
    that is not Python's and could not be put back."""

    def __init__(self) -> None:
        self.wanted = False
        self._previous: Any = None

    def __enter__(self) -> _Interrupt:
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


# Checks --------------------------------------------------------------------------------------------------------------


def _each_output(model: Model, loss: Any) -> list[loss_room.Loss]:
    count = len(model.graph.outputs)
    given = list(loss) if isinstance(loss, (tuple, list)) else [loss] * count
    if len(given) != count:
        raise ConfigError(f"The model has {count} output(s); {len(given)} losses were given.")
    return [loss_room.resolve(entry) for entry in given]


def _totals(outputs: int, samples: int) -> np.ndarray:
    """A row ``(loss, divisor)`` for each output, as :meth:`Loss.compute` fills it; the divisor of a loss that says none is the batch."""
    return np.tile([0.0, samples], (outputs, 1))


def _count(images: Any) -> int:
    """Samples of a batch, whose images are an array or a tuple of them."""
    return len(images[0]) if isinstance(images, tuple) else len(images)


def _parts(samples: int, count: int) -> list[slice]:
    """At most ``count`` micro-batches, all of one size but the last, which may be smaller: two sizes need two plans at most."""
    size = max(1, -(-samples // count))
    return [slice(start, min(start + size, samples)) for start in range(0, max(samples, 1), size)]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts of a batch one after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _checked_parts(accumulate: Any) -> int:
    if not is_integer(accumulate, 1):
        raise ConfigError(
            f"A trainer was given accumulate={accumulate!r}; it takes a number of micro-batches, a whole number of at least 1."
        )
    return int(accumulate)


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"A trainer was given seed {seed!r}; it takes a whole number from 0 on.")
    return int(seed)


def _checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    found = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(found) != count or not all(0 <= weight < math.inf for weight in found):
        raise ConfigError(f"loss_weights must be {count} finite number(s) of at least 0; {list(weights or ())} was given.")
    return found
