"""The trainer: steps, epochs, evaluation, and runs that can be interrupted and resumed bit for bit."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.loader import Loader
from ..data.sources import open_dataset
from ..errors import ConfigError, DivergenceError, ShapeError
from ..graph.recompute import checked_recompute
from ..layers.checks import is_integer
from ..model import Model
from . import callbacks as callback_room
from . import losses as loss_room
from . import metrics as metric_room
from . import optimizers, schedules
from .batch import EVALUATION_BATCH, Given, HostEngine, Outcome, cut, initial_totals, joined
from .history import History
from .metrics import Means
from .optimizers import Optimizer, Updater
from .run import Interrupt, Run, TrainingInterrupted
from .schedules import Schedule

if TYPE_CHECKING:
    from ..inspect.profile import Profile

__all__ = ["Trainer", "TrainingInterrupted"]

BATCH_KINDS = 4  # batch sizes that stay bound


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
        self._engine = self._made_engine()
        self.epochs = 0
        self.history = self._new_history()
        self._batches: dict[tuple[int, bool, bool], Any] = {}
        self._state_before = model.store.state.copy()
        self._stopped = False

    def _made_engine(self) -> Any:
        """What makes steps on the device."""
        if self.device == "cpu":
            return HostEngine(self)
        from . import cuda

        return cuda.DeviceEngine(self)

    @property
    def updater(self) -> Updater:
        """What applies the optimizer, with its arrays."""
        return self._engine.updater

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
        for batch in self._forward(self._checked(images, labels), input_gradients=True):
            batch.plan.backward()
            parts.append(batch.plan.device.copies(batch.plan.input_gradients))
        self._restore_state()
        inputs = tuple(map(joined, zip(*parts)))
        found = dict(zip(batch.plan.gradients, batch.plan.device.copies(batch.plan.gradients.values())))
        return {**found, "input": inputs[0] if len(inputs) == 1 else inputs}

    def _step(self, images: Any, labels: Any, factor: float) -> Outcome:
        return self._finish(self._begin(self._send(images, labels), factor), factor)

    def _send(self, images: Any, labels: Any) -> Any:
        """A batch, checked, on its way to the device."""
        return self._engine.send(self._checked(images, labels))

    def _begin(self, sent: Any, factor: float, measured: bool = False) -> Any:
        """Begin a step; ``measured`` where its outputs will be asked for. On a GPU others may be begun before it is finished."""
        return self._engine.begin(self, sent, factor, measured)

    def _finish(self, begun: Any, factor: float) -> Outcome:
        """What came out of a step. Raises DivergenceError."""
        outcome = self._engine.finish(begun)
        self._check_loss(outcome.loss, factor)
        return outcome

    def _check_loss(self, loss: float, factor: float) -> None:
        if not math.isfinite(loss):
            raise DivergenceError(
                f"The loss of step {self.steps + 1} is {loss} at rate {self.optimizer.rate * factor:g}; the model is as it was "
                "before this step. Try a smaller rate or clip_norm, and see whether the data is finite and scaled."
            )

    def _forward(self, batch: Given, input_gradients: bool = False) -> Iterator[Any]:
        """The micro-batches of a batch, one after the other, each with the loss and the gradients of the outputs: its part in those of the
        whole batch. The backward pass is up to the caller."""
        inputs, targets = batch
        parts = cut(len(inputs[0]), self.accumulate)
        shares = self._shares(targets, parts) if len(parts) > 1 else [None]
        if self._state_before.size and self.device == "cpu":
            np.copyto(self._state_before, self.model.store.state)
        for part, share in zip(parts, shares):
            loaded = self._loaded([array[part] for array in inputs], [array[part] for array in targets], input_gradients, len(parts) > 1)
            if len(parts) > 1 and part is parts[0]:
                loaded.plan.clear_gradients()
            loaded.forward(self.steps, part.start, share)
            yield loaded

    def _checked(self, images: Any, labels: Any) -> Given:
        """Arrays for the model's inputs, and what the losses take."""
        inputs = self.model._checked_inputs(images)
        if self.updater.store is not self.model.store:
            raise ConfigError("The model got another head after this Trainer was made: make a new Trainer.")
        shapes = [(len(inputs[0]), *tensor.shape) for tensor in self.model.graph.outputs]
        return Given(inputs, self._targets(labels, shapes, self.model.dtype))

    def _loaded(self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], input_gradients: bool, accumulate: bool) -> Any:
        """Images and targets, copied to where a plan reads them."""
        batch = self._bound(len(inputs[0]), targets, input_gradients, accumulate)
        batch.load(inputs, targets)
        return batch

    def _bound(self, samples: int, targets: Sequence[np.ndarray], input_gradients: bool, accumulate: bool) -> Any:
        """A plan for so many samples, bound to targets of that kind."""
        key = samples, input_gradients, accumulate
        plan = self.model.training_plan(samples, input_gradients, recompute=self.recompute, accumulate=accumulate, device=self.device)
        batch = self._batches.get(key)
        if batch is None or not batch.fits(plan, targets):
            if len(self._batches) >= BATCH_KINDS:
                self._batches.clear()
            batch = self._batches[key] = self._engine.bind(self, plan, targets)
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
            totals = initial_totals(len(targets), part.stop - part.start)
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
            steps: so many steps are timed call by call, and as many as a whole, in turn. Figures are medians over them. On a GPU its own
                clock is read between launches; as a whole a step is the graph that training runs.
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

    def _evaluate(self, dataset: Any, batch_size: int, interrupt: Interrupt | None, workers: int | None = None) -> dict[str, float]:
        means, labels = Means(), deque[Any]()  # labels of batches whose outputs are still to come

        def images() -> Iterator[Any]:
            for given, wanted in Loader(dataset, batch_size, shuffle=False, workers=workers).epoch(0):
                if interrupt:
                    interrupt.check()
                labels.append(wanted)
                yield given

        for outputs in self.model._predictions(images()):
            targets = self._targets(labels.popleft(), [output.shape for output in outputs], outputs[0].dtype)
            totals = initial_totals(len(outputs), len(outputs[0]))
            for loss, weight, output, target, total in zip(self.losses, self.loss_weights, outputs, targets, totals):
                loss.compute(output, target, np.empty_like(output), total, weight)
            means.add_losses(totals)
            means.measure(self.metrics, outputs[0], targets[0])
        return means.values()

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
        run = Run(self, Loader(data, batch_size, shuffle, self.seed, workers=workers), held_out, int(epochs), checkpoint, checkpoint_every)
        return run.go(resume, progress)

    def stop(self) -> None:
        """End the run after this epoch; for callbacks."""
        self._stopped = True


# Checks --------------------------------------------------------------------------------------------------------------


def _each_output(model: Model, loss: Any) -> list[loss_room.Loss]:
    count = len(model.graph.outputs)
    given = list(loss) if isinstance(loss, (tuple, list)) else [loss] * count
    if len(given) != count:
        raise ConfigError(f"The model has {count} output(s); {len(given)} losses were given.")
    return [loss_room.resolve(entry) for entry in given]


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
