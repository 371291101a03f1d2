"""Training on the GPU: a whole step, from the batch to the new parameters, is one graph of launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeviceError
from ..graph.cuda import DeviceParameters
from ..kernels.cuda import optim
from ..kernels.cuda.memory import DeviceArray, empty, on_device, zeros
from ..kernels.cuda.runtime import Replay
from ..layers.cuda.twin import declared, provider
from ..plugin import registry
from .optimizers import Optimizer, Updater, partition

if TYPE_CHECKING:
    from .trainer import Trainer


def twin_of(thing: Any, what: str, method: str) -> Any:
    """The function that computes the ``method`` of a loss or an optimizer on the GPU. Raises DeviceError for one without."""
    kind = type(thing)
    place = declared(kind, method)
    if place is None:
        raise DeviceError(
            f"The {what} {kind.__name__}, of {provider(kind)}, has no kernels for the GPU: the class says nothing in `cuda`. "
            "It runs on the CPU."
        )
    return registry.attribute(place, f"What computes the {what} {kind.__name__} on the GPU")


class DeviceUpdater(Updater):
    """An optimizer at work on the GPU. The host's copy of its arrays follows when somebody asks for them (:meth:`arrays`)."""

    def __init__(self, optimizer: Optimizer, parameters: DeviceParameters):
        super().__init__(optimizer, parameters.host)
        self.parameters = parameters
        self._update = twin_of(optimizer, "optimizer", "update")
        self._on_device = on_device(self.state)
        self._numbers = zeros((optim.HEALTHY + 1,), np.float32)
        self._ahead = self._shown = False

    def arrays(self) -> dict[str, np.ndarray]:
        if self._ahead:
            self._on_device.download(self.state)
            self._ahead = False
        self._shown = True  # and maybe written to: a checkpoint is restored so
        return super().arrays()

    def bind(self, gradients: Any) -> Any:
        """What one update runs, for the parameters that are frozen now; to be called within a recording."""
        tasks, groups = partition(self.optimizer, self.store, optim.TASK)
        tasks_there, groups_there = on_device(tasks.astype(np.int32)), on_device(groups.astype(np.float32))
        if self.optimizer.clip_norm is not None:
            optim.clip_norm(gradients, tasks_there, float(self.optimizer.clip_norm), self._numbers)
        self._update(self.parameters.trainable, gradients, self._on_device, tasks_there, groups_there, self._numbers)

    def judge(self, totals: DeviceArray) -> None:
        """Let the update do nothing where a loss is not finite; to be called within a recording."""
        optim.judge(totals, self._numbers)

    def begin(self, factor: float) -> None:
        """Send the numbers of the next step, whose rates are multiplied by the schedule's ``factor``."""
        if self._shown:
            self._on_device.upload(self.state)
            self._shown = False
        optimizer, numbers = self.optimizer, np.zeros(self._numbers.shape, np.float32)
        own = optimizer.numbers(self.steps + 1)
        numbers[:4] = factor, 1.0, math.inf if optimizer.clip_value is None else optimizer.clip_value, optimizer.decoupled
        numbers[4 : 4 + len(own)] = own
        numbers[optim.HEALTHY] = 1.0
        self._numbers.upload(numbers)

    def done(self) -> None:
        """Count an update."""
        self.steps += 1
        self._ahead = True
        self.parameters.touch()


class DeviceBatch:
    """A plan for one batch size on the GPU, with targets, losses and the update bound to it. ``replay`` is all that the device does in a
    step, on the batch that is there."""

    def __init__(self, trainer: Trainer, plan: Any, targets: Sequence[np.ndarray]):
        self.plan = plan
        self.updater: DeviceUpdater = trainer.updater  # type: ignore[assignment]
        self.targets = [target.copy() for target in targets]
        self._targets = [empty(target.shape, target.dtype) for target in targets]
        samples = len(plan.inputs[0])
        self.totals = np.tile([0.0, samples], (len(targets), 1))
        self._totals = on_device(self.totals)
        with plan.device.record() as self._losses:
            parts = zip(trainer.losses, trainer.loss_weights, plan.outputs, self._targets, plan.output_gradients)
            for k, (loss, weight, outputs, target, gradient) in enumerate(parts):
                total = self._totals[k : k + 1].reshape(2)
                twin_of(loss, "loss", "compute")(loss, outputs, target, gradient, total, weight)
        with plan.device.record() as self._updating:
            self.updater.judge(self._totals)
            self.updater.bind(plan.flat_gradients)
        with plan.device.record() as self._keeping:
            plan.store.keep_state()
        self.replay = Replay([*self._keeping, *plan._forward_steps, *self._losses, *plan._backward_steps, *self._updating])
        self._outputs: np.ndarray | None = None

    def fits(self, plan: Any, targets: Sequence[np.ndarray]) -> bool:
        """Whether this is for that plan, and for targets of that kind."""
        same = all(own.shape == given.shape and own.dtype == given.dtype for own, given in zip(self.targets, targets))
        return self.plan is plan and same

    def load(self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> None:
        """Copy a batch to the GPU."""
        self.plan.load(inputs)
        for own, there, given in zip(self.targets, self._targets, targets):
            np.copyto(own, given)
            there.upload(own)
        self._outputs = None

    @property
    def outputs(self) -> np.ndarray:
        """The first output, on the host."""
        if self._outputs is None:
            self._outputs = self.plan.outputs[0].download()
        return self._outputs

    def forward(self, step: int, first: int, share: np.ndarray | None) -> None:
        """Fill ``totals`` and the gradients of the outputs (see :class:`.trainer._Batch`)."""
        plan = self.plan
        plan.refresh()
        plan.set_step(step, first)
        if first == 0:  # of several micro-batches the first one finds the running statistics as they were before the step
            plan.device.run(self._keeping)
        plan.forward()
        plan.device.run(self._losses)
        self._totals.download(self.totals)
        if share is not None:
            self.totals[:, 0] *= share
            for gradient, factor in zip(plan.output_gradients, share):
                plan.device.scale(gradient, float(factor))

    def update(self, factor: float) -> None:
        """Change the parameters, after backward passes."""
        self.updater.begin(factor)
        self.plan.device.run(self._updating)
        self.updater.done()

    def step(self, step: int, factor: float) -> bool:
        """Forward, backward and update as one; False where a loss is not finite, and nothing was changed."""
        plan = self.plan
        plan.refresh()
        plan.set_step(step)
        self.updater.begin(factor)
        self.replay()
        self._totals.download(self.totals)
        if not np.isfinite(self.totals[:, 0].sum()):
            plan.store.restore_state()
            return False
        self.updater.done()
        return True
