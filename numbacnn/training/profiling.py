"""Measures where the time of a training step goes, call by call, for :meth:`numbacnn.training.trainer.Trainer.profile`."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from ..data.dataset import at_epoch
from ..data.loader import Loader
from ..errors import ConfigError
from ..graph.measure import progress_bar
from ..graph.plan import Forward
from ..inspect.profile import Call, Profile, Row
from ..layers.checks import is_integer

if TYPE_CHECKING:
    from ..graph.plan import Backward
    from .trainer import Trainer

Step = tuple[Any, tuple]


def profiled(trainer: Trainer, data: Any, labels: Any, batch_size: int, steps: int, progress: bool) -> Profile:
    """What :meth:`Trainer.profile` gives."""
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        if not is_integer(value, 1):
            raise ConfigError(f"profile was given {name}={value!r}; it takes a whole number of at least 1.")
    if trainer.accumulate > 1:
        raise ConfigError(
            f"profile takes a step apart that runs its batch as a whole; this trainer cuts it into {trainer.accumulate} micro-batches. "
            "Profile a trainer without accumulate, on a batch as large as one of these."
        )
    loading = None
    if labels is None:
        data, labels, loading = _batch_of(trainer, data, int(batch_size), int(steps))
    before = _State(trainer)
    try:
        trainer._step(data, labels, 1.0)  # takes pages from the system, and compiles what is missing
        stopwatch = _stopwatch(trainer, data, labels)
        whole: list[float] = []
        timed: list[list[int]] = []
        with progress_bar(steps if progress else 0, "profiling") as advance:
            for _ in range(steps):
                before.restore()
                whole.append(stopwatch.whole_step())
                before.restore()
                timed.append(stopwatch.step())
                advance()
    finally:
        before.restore()
    return stopwatch.profile(timed, statistics.median(whole), loading)


def _batch_of(trainer: Trainer, source: Any, batch_size: int, count: int) -> tuple[Any, Any, float]:
    """The first batch of a data set, and the median time that a thread takes to prepare one of the first few."""
    loader = Loader(trainer._open(source, "train"), batch_size, seed=trainer.seed)
    dataset, order = at_epoch(loader.dataset, 0), loader.order(0)
    seconds = []
    for number in range(min(count, len(loader))):
        start = time.perf_counter()
        dataset.batch(order[number * batch_size : (number + 1) * batch_size])
        seconds.append(time.perf_counter() - start)
    images, labels = dataset.batch(order[:batch_size])
    return images, labels, statistics.median(seconds)


class _State:
    """What a step changes, to be put back."""

    def __init__(self, trainer: Trainer):
        self._trainer, self._steps = trainer, trainer.updater.steps
        trainer.updater.arrays()
        self._kept = [(array, array.copy()) for array in (trainer.model.store.trainable, trainer.model.store.state, trainer.updater.state)]

    def restore(self) -> None:
        self._trainer._engine.undo(self._steps)
        self._trainer.updater.arrays()  # from here on, as after catching up, the host's arrays are the newest
        self._trainer.model.store.catch_up()
        for array, copy in self._kept:
            np.copyto(array, copy)
        self._trainer.model.store.touch()


def _stopwatch(trainer: Trainer, images: Any, labels: Any) -> Stopwatch:
    """For the device that the trainer runs on."""
    if trainer.device == "cpu":
        return _HostStopwatch(trainer, images, labels)
    from .cuda_profiling import DeviceStopwatch

    return DeviceStopwatch(trainer, images, labels)


class Stopwatch(ABC):
    """A step whose calls are timed: a clock is read between any two of them, so that the times between readings add up to the step.
    ``batch`` is bound to the plan that runs, ``given`` what it computes."""

    device: str | None = None  # in words, None for the CPU

    def __init__(self, trainer: Trainer, images: Any, labels: Any):
        self.trainer, self.given = trainer, trainer._checked(images, labels)
        self.batch = trainer._loaded(*self.given, input_gradients=False, accumulate=False)
        self._rows: list[Row] = []
        self._calls: list[tuple[int, str, tuple[Any, ...]]] = []  # row, name, arrays

    @abstractmethod
    def step(self) -> list[int]:
        """Make a step as the trainer does, and give the nanoseconds of each call."""

    @abstractmethod
    def whole_step(self) -> float:
        """Make a step, and give its seconds."""

    @abstractmethod
    def read(self) -> None:
        """Read the clock."""

    @abstractmethod
    def described(self, step: Step, scratch: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        """The name of a call and the arrays that it reads or writes, each once, without scratch memory."""

    def profile(self, steps: Sequence[Sequence[int]], step_seconds: float, loading_seconds: float | None) -> Profile:
        """The figures of so many steps."""
        seconds = np.array(steps) / 1e9  # (steps, calls)
        owners = np.array([row for row, _, _ in self._calls])
        medians = [float(np.median(seconds[:, owners == row].sum(axis=1))) for row in range(len(self._rows))]
        return Profile(
            name=self.trainer.model.name or "model",
            batch=self.batch.plan.plan.batch,
            threads=self.batch.plan.plan.threads,
            rows=tuple(dataclasses.replace(row, seconds=median) for row, median in zip(self._rows, medians)),
            steps=tuple(self._timed(row) for row in seconds),
            step_seconds=step_seconds,
            loading_seconds=loading_seconds,
            device=self.device,
        )

    def _timed(self, seconds: np.ndarray) -> tuple[Call, ...]:
        """The calls of one step."""
        starts = np.cumsum(seconds) - seconds
        return tuple(
            Call(name, row, float(start), float(length), _nbytes(arrays), tuple(array.shape for array in arrays))
            for (row, name, arrays), start, length in zip(self._calls, starts, seconds)
        )

    def layers(self, phase: str, steps: Sequence[tuple[Forward | Backward, Step]]) -> list[Step]:
        """The steps of a pass with readings of the clock between them; a row for each layer."""
        watched = []
        for run, group in itertools.groupby(steps, key=lambda labelled: labelled[0]):
            node, plan = run.node, self.batch.plan
            flops = plan.plan.batch * node.layer.flops(node.shapes) * _passes(run)
            passed = "forward again" if phase == "backward" and isinstance(run, Forward) else phase
            row = row_of(node.name, type(node.layer).__name__, passed, (plan.plan.batch, *node.outputs[0].shape), int(flops))
            watched += self.watched(row, [step for _, step in group], [plan.array(slot) for slot in run.scratch.values()])
        return watched

    def watched(self, row: Row, steps: Sequence[Step], scratch: Sequence[Any] = ()) -> list[Step]:
        """Enter a row and its steps; the clock is read after each."""
        calls = [(len(self._rows), *self.described(step, scratch)) for step in steps]
        self._rows.append(dataclasses.replace(row, calls=len(calls), nbytes=sum(_nbytes(arrays) for _, _, arrays in calls)))
        self._calls += calls
        return [each for step in steps for each in (step, (self.read, ()))]


class _HostStopwatch(Stopwatch):
    """By the host's clock."""

    def __init__(self, trainer: Trainer, images: Any, labels: Any):
        super().__init__(trainer, images, labels)
        self._images, self._labels = images, labels
        self._readings: list[int] = []
        batch, own = self.batch, (*self.batch.plan.inputs, *self.batch.targets)
        self.watched(row_of("batch", "copy", "input", own[0].shape), [(self._load, (own, tuple(array.copy() for array in own)))])
        forward, backward = batch.plan.steps()
        self._forward = kernels.program.Program(self.layers("forward", forward))
        losses = self.watched(row_of(trainer.losses[0].name, "loss", "loss", batch.plan.outputs[0].shape), batch.losses)
        self._losses = kernels.program.Program(losses)
        self._backward = kernels.program.Program(self.layers("backward", backward))
        update = self.watched(row_of(trainer.optimizer.name, "optimizer", "update", ()), batch.updating)
        self._update = kernels.program.Program(update)

    def _load(self) -> None:
        self.trainer._loaded(*self.trainer._checked(self._images, self._labels), input_gradients=False, accumulate=False)

    def whole_step(self) -> float:
        start = time.perf_counter()
        self.trainer._step(self._images, self._labels, 1.0)
        return time.perf_counter() - start

    def step(self) -> list[int]:
        trainer, plan = self.trainer, self.batch.plan
        self._readings.clear()
        self.read()
        self._load()
        np.copyto(trainer._state_before, trainer.model.store.state)
        plan.set_step(trainer.steps)
        self.read()
        with plan.lock:
            self._forward.run()
            self._losses.run()
            self._backward.run()
        trainer.updater.apply(self._update)
        return np.diff(self._readings).tolist()

    def read(self) -> None:
        self._readings.append(time.perf_counter_ns())

    def described(self, step: Step, scratch: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        function, arguments = step
        return _name(function), tuple(_arrays(arguments, scratch))


def row_of(layer: str, kind: str, phase: str, shape: Sequence[int], flops: int = 0) -> Row:
    """A row without what is measured or counted later."""
    return Row(layer, kind, phase, tuple(shape), seconds=0.0, calls=0, flops=flops, nbytes=0)


def _passes(run: Forward | Backward) -> int:
    """How many times as many operations as the forward pass takes: that itself, or the gradients that are computed, of the inputs and of
    the parameters."""
    return 1 if isinstance(run, Forward) else any(slot is not None for slot in run.dx) + bool(run.dp)


def _name(function: Any) -> str:
    return getattr(function, "entry", function).__name__


def _arrays(argument: Any, scratch: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The arrays among the arguments of a call, each once, without scratch memory."""
    seen = set()
    for array in _flattened(argument):
        place = array.__array_interface__["data"][0], array.shape
        if place not in seen and not any(np.may_share_memory(array, other) for other in scratch):
            seen.add(place)
            yield array


def _flattened(argument: Any) -> Iterator[np.ndarray]:
    if isinstance(argument, np.ndarray):
        yield argument
    elif isinstance(argument, tuple | list):
        for entry in argument:
            yield from _flattened(entry)
    elif isinstance(argument, dict):
        yield from _flattened(list(argument.values()))


def _nbytes(arrays: Sequence[Any]) -> int:
    return sum(array.nbytes for array in arrays)
