"""Batches on the CPU, step by step, and what comes out of steps anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import kernels
from .optimizers import Updater

if TYPE_CHECKING:
    from .trainer import Trainer

EVALUATION_BATCH = 256  # images that evaluate runs at once, unless told otherwise


class Given(NamedTuple):
    """A batch that was checked: arrays for the model's inputs, and what the losses take."""

    inputs: Sequence[Any]
    targets: list[np.ndarray]


class HostBatch:
    """A plan for one batch size, with targets and everything between its passes bound to it; ``updating`` is what an update runs."""

    def __init__(self, trainer: Trainer, plan: Any, targets: Sequence[np.ndarray]):
        self.plan = plan
        self.targets = [target.copy() for target in targets]
        self.totals = initial_totals(len(targets), len(plan.inputs[0]))
        steps: list[tuple[Any, tuple]] = []
        parts = zip(trainer.losses, trainer.loss_weights, plan.outputs, self.targets, plan.output_gradients, self.totals)
        for loss, weight, outputs, target, gradient, total in parts:
            arguments = (outputs, target, gradient, total, weight)
            if loss.recordable:
                with kernels.jit.record() as recorded:
                    loss.compute(*arguments)
                steps += recorded
            else:
                steps.append((loss.compute, arguments))
        self.losses = kernels.program.Program(steps)
        self._updater, self.updating = trainer.updater, trainer.updater.bind(plan.flat_gradients)

    def fits(self, plan: Any, targets: Sequence[np.ndarray]) -> bool:
        """Whether this is for that plan, and for targets of that kind."""
        return self.plan is plan and alike(self.targets, targets)

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
        self.losses.run()
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


class HostEngine:
    """How a trainer makes steps on the CPU: one is done before anything of the next begins."""

    batches_ahead = steps_ahead = 0

    def __init__(self, trainer: Trainer):
        self.updater = Updater(trainer.optimizer, trainer.model.store)
        self.bind = HostBatch

    def send(self, batch: Given) -> Given:
        """The batch, on its way to where a step finds it."""
        return batch

    def begin(self, trainer: Trainer, batch: Given, factor: float, measured: bool) -> Outcome:
        """Make a step; see :meth:`.cuda.DeviceEngine.begin`."""
        outcome = Outcome(copied=trainer.accumulate > 1)
        for part in trainer._forward(batch):
            outcome.add(part.totals, part.outputs, part.targets[0])
            if not math.isfinite(outcome.loss):
                trainer._restore_state()
                return outcome
            part.plan.backward()
        part.update(factor)
        return outcome

    def finish(self, outcome: Outcome) -> Outcome:
        """What came out of a step."""
        return outcome

    def undo(self, steps: int) -> None:
        """Count only so many steps; what they changed is up to the caller."""
        self.updater.steps = steps


class Outcome:
    """What came out of a batch: ``totals``, a row ``(loss, divisor)`` for each output, and for metrics the first output and its targets.
    Without ``copied`` these are arrays that last until the next batch."""

    def __init__(self, copied: bool) -> None:
        self.totals: Any = 0.0
        self._copied = copied
        self._outputs: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []

    def add(self, totals: np.ndarray, outputs: np.ndarray | None, targets: np.ndarray) -> None:
        """Enter a batch, or a further part of one. Nobody asks for ``outputs`` that are None."""
        self.totals = self.totals + totals
        if outputs is not None:
            self._outputs.append(outputs.copy() if self._copied else outputs)
            self._targets.append(targets.copy() if self._copied else targets)

    @property
    def loss(self) -> float:
        return float(self.totals[:, 0].sum())

    @property
    def outputs(self) -> np.ndarray:
        return joined(self._outputs)

    @property
    def targets(self) -> np.ndarray:
        return joined(self._targets)


def initial_totals(outputs: int, samples: int) -> np.ndarray:
    """A row ``(loss, divisor)`` for each output, as :meth:`Loss.compute` fills it; the divisor of a loss that says none is the batch."""
    return np.tile([0.0, samples], (outputs, 1))


def alike(own: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether arrays are of one kind."""
    return all(one.shape == other.shape and one.dtype == other.dtype for one, other in zip(own, given))


def cut(samples: int, count: int) -> list[slice]:
    """At most ``count`` micro-batches, all of one size but the last, which may be smaller: two sizes need two plans at most."""
    size = max(1, -(-samples // count))
    return [slice(start, min(start + size, samples)) for start in range(0, max(samples, 1), size)]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts of a batch one after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
