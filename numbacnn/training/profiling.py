"""Measures where the time of a training step goes, call by call, for :meth:`numbacnn.training.trainer.Trainer.profile`."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
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
    if trainer.device != "cpu":
        raise ConfigError(
            "profile reads the CPU's clock between kernels, and this trainer runs on the GPU, which goes on meanwhile: NVIDIA's Nsight "
            "Systems (nsys profile python ...) shows what runs there."
        )
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
        stopwatch = _Stopwatch(trainer, data, labels)
        whole: list[float] = []
        timed: list[list[int]] = []
        with progress_bar(steps if progress else 0, "profiling") as advance:
            for _ in range(steps):
                before.restore()
                start = time.perf_counter()
                trainer._step(data, labels, 1.0)
                whole.append(time.perf_counter() - start)
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
        self._kept = [(array, array.copy()) for array in (trainer.model.store.trainable, trainer.model.store.state, trainer.updater.state)]

    def restore(self) -> None:
        for array, copy in self._kept:
            np.copyto(array, copy)
        self._trainer.updater.steps = self._steps
        self._trainer.model.store.touch()


class _Stopwatch:
    """A step whose calls are timed: the clock is read between any two of them, so that the times between readings add up to the step."""

    def __init__(self, trainer: Trainer, images: Any, labels: Any):
        self._trainer, self._given = trainer, (images, labels)
        self._batch = batch = trainer._loaded(*trainer._checked(images, labels), input_gradients=False, accumulate=False)
        self._readings: list[int] = []
        self._rows: list[Row] = []
        self._calls: list[tuple[int, str, tuple[np.ndarray, ...]]] = []  # row, name, arrays
        own = (*batch.plan.inputs, *batch.targets)
        self._watched(_row("batch", "copy", "input", own[0].shape), [(self._load, (own, tuple(array.copy() for array in own)))])
        forward, backward = batch.plan.steps()
        self._forward = self._layers("forward", forward)
        self._losses = self._watched(_row(trainer.losses[0].name, "loss", "loss", batch.plan.outputs[0].shape), batch.losses)
        self._backward = self._layers("backward", backward)
        self._update = self._watched(_row(trainer.optimizer.name, "optimizer", "update", ()), batch.updating)

    def _load(self) -> None:
        self._trainer._loaded(*self._trainer._checked(*self._given), input_gradients=False, accumulate=False)

    def step(self) -> list[int]:
        """Make a step as the trainer does, and give the nanoseconds of each call."""
        trainer, plan = self._trainer, self._batch.plan
        self._readings.clear()
        self._read()
        self._load()
        np.copyto(trainer._state_before, trainer.model.store.state)
        plan.set_step(trainer.steps)
        self._read()
        with kernels.jit.launch_guard(), plan.lock:
            kernels.jit.run(self._forward)
            kernels.jit.run(self._losses)
            kernels.jit.run(self._backward)
        trainer.updater.apply(self._update)
        return np.diff(self._readings).tolist()

    def profile(self, steps: Sequence[Sequence[int]], step_seconds: float, loading_seconds: float | None) -> Profile:
        """The figures of so many steps."""
        seconds = np.array(steps) / 1e9  # (steps, calls)
        owners = np.array([row for row, _, _ in self._calls])
        medians = [float(np.median(seconds[:, owners == row].sum(axis=1))) for row in range(len(self._rows))]
        return Profile(
            name=self._trainer.model.name or "model",
            batch=self._batch.plan.plan.batch,
            threads=self._batch.plan.plan.threads,
            rows=tuple(dataclasses.replace(row, seconds=median) for row, median in zip(self._rows, medians)),
            steps=tuple(self._timed(row) for row in seconds),
            step_seconds=step_seconds,
            loading_seconds=loading_seconds,
        )

    def _timed(self, seconds: np.ndarray) -> tuple[Call, ...]:
        """The calls of one step."""
        starts = np.cumsum(seconds) - seconds
        return tuple(
            Call(name, row, float(start), float(length), _nbytes(arrays), tuple(array.shape for array in arrays))
            for (row, name, arrays), start, length in zip(self._calls, starts, seconds)
        )

    def _read(self) -> None:
        self._readings.append(time.perf_counter_ns())

    def _layers(self, phase: str, steps: Sequence[tuple[Forward | Backward, Step]]) -> list[Step]:
        """The steps of a pass with readings of the clock between them; a row for each layer."""
        watched = []
        for run, group in itertools.groupby(steps, key=lambda labelled: labelled[0]):
            node, plan = run.node, self._batch.plan
            flops = plan.plan.batch * node.layer.flops(node.shapes) * _passes(run)
            passed = "forward again" if phase == "backward" and isinstance(run, Forward) else phase
            row = _row(node.name, type(node.layer).__name__, passed, (plan.plan.batch, *node.outputs[0].shape), int(flops))
            watched += self._watched(row, [step for _, step in group], [plan.array(slot) for slot in run.scratch.values()])
        return watched

    def _watched(self, row: Row, steps: Sequence[Step], scratch: Sequence[np.ndarray] = ()) -> list[Step]:
        """Enter a row and its steps; the clock is read after each."""
        calls = [(len(self._rows), _name(function), tuple(_arrays(arguments, scratch))) for function, arguments in steps]
        self._rows.append(dataclasses.replace(row, calls=len(calls), nbytes=sum(_nbytes(arrays) for _, _, arrays in calls)))
        self._calls += calls
        return [each for step in steps for each in (step, (self._read, ()))]


def _row(layer: str, kind: str, phase: str, shape: Sequence[int], flops: int = 0) -> Row:
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


def _nbytes(arrays: Sequence[np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays)
