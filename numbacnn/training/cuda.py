"""Training on the GPU: a whole step, from the batch to the new parameters, is one graph of launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DeviceError
from ..graph.cuda import DeviceParameters
from ..kernels.cuda import optim
from ..kernels.cuda.memory import DeviceArray, empty, on_device
from ..kernels.cuda.runtime import Replay
from ..kernels.cuda.staging import Drain, Feed, Fetched, Sent
from ..layers.base import declared
from ..layers.cuda.twin import provider
from ..plugin import registry
from .batch import Given, Outcome, alike, cut, initial_totals
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
        numbers = on_device(np.ones(optim.HEALTHY + 1, np.float32))
        self._numbers, self.healthy = numbers, numbers[optim.HEALTHY :]
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
        """Let the update, and those after it until :meth:`undo`, do nothing where a loss is not finite; to be called within a recording."""
        optim.judge(totals, self._numbers)

    def begin(self, factor: float) -> list[tuple[np.ndarray, DeviceArray]]:
        """What has to be sent before the next step: its numbers, whose rates are multiplied by the schedule's ``factor``."""
        if self._shown:
            self._on_device.upload(self.state)
            self._shown = False
        optimizer, numbers = self.optimizer, np.zeros(optim.HEALTHY, np.float32)
        own = optimizer.numbers(self.steps + 1)
        numbers[:4] = factor, 1.0, math.inf if optimizer.clip_value is None else optimizer.clip_value, optimizer.decoupled
        numbers[4 : 4 + len(own)] = own
        return [(numbers, self._numbers[: optim.HEALTHY])]

    def done(self) -> None:
        """Count an update that the device was asked for."""
        self.steps += 1
        self._ahead = True
        self.parameters.touch()

    def undo(self, steps: int) -> None:
        """Go back to so many updates: the step after them had a loss that is not finite, and neither it nor those that were begun after it
        have changed parameters."""
        self.parameters.restore_state()
        self.healthy.upload(np.ones(1, np.float32))
        self.steps = steps
        self.parameters.touch()


class DeviceBatch:
    """A plan for one batch size on the GPU, with targets, losses and the update bound to it. ``replay`` is all that the device does in a
    step, on the batch that is there: besides the plan's passes ``keeping`` statistics aside, ``losses``, ``judging`` and ``updating``. But
    for :meth:`load` nothing waits for the device."""

    def __init__(self, trainer: Trainer, plan: Any, targets: Sequence[np.ndarray]):
        engine: DeviceEngine = trainer._engine
        self.plan, self._updater, self._numbers = plan, engine.updater, engine.numbers
        self._targets = [empty(target.shape, target.dtype) for target in targets]
        self.totals = on_device(initial_totals(len(targets), len(plan.inputs[0])))
        with plan.device.record() as self.losses:
            parts = zip(trainer.losses, trainer.loss_weights, plan.outputs, self._targets, plan.output_gradients)
            for k, (loss, weight, outputs, target, gradient) in enumerate(parts):
                total = self.totals[k : k + 1].reshape(2)
                twin_of(loss, "loss", "compute")(loss, outputs, target, gradient, total, weight)
        with plan.device.record() as self.judging:
            self._updater.judge(self.totals)
        with plan.device.record() as self.updating:
            self._updater.bind(plan.flat_gradients)
        with plan.device.record() as self.keeping:
            plan.store.keep_state(self._updater.healthy)
        forward = [*self.keeping, *plan._forward_steps, *self.losses, *self.judging]
        self.replay = Replay([*forward, *plan._backward_steps, *self.updating])

    def fits(self, plan: Any, targets: Sequence[np.ndarray]) -> bool:
        """Whether this is for that plan, and for targets of that kind."""
        return self.plan is plan and alike(self._targets, targets)

    def load(self, inputs: Sequence[Any], targets: Sequence[np.ndarray]) -> None:
        """Copy a batch to the GPU, and wait for it."""
        self.plan.load(inputs)
        for there, given in zip(self._targets, targets):
            there.upload(given)

    def take(self, arrays: Sequence[DeviceArray]) -> None:
        """Copy a batch, inputs and targets, that is on the GPU."""
        inputs = len(self.plan.inputs)
        self.plan.take(arrays[:inputs])
        for there, given in zip(self._targets, arrays[inputs:], strict=True):
            there.copy_from(given)

    def forward(self, step: int, first: int, share: np.ndarray | None) -> None:
        """Fill ``totals`` and the gradients of the outputs (see :class:`.batch.HostBatch`); the share is not in the totals."""
        plan = self.plan
        plan.refresh()
        self._deliver(plan.counters(step, first))
        if first == 0:  # of several micro-batches the first one finds the running statistics as they were before the step
            plan.device.run(self.keeping)
        plan.forward()
        plan.device.run(self.losses)
        if share is not None:
            for gradient, factor in zip(plan.output_gradients, share):
                plan.device.scale(gradient, float(factor))

    def judge(self) -> None:
        """Let the update do nothing where a loss is not finite."""
        self.plan.device.run(self.judging)

    def update(self, factor: float) -> None:
        """Change the parameters, after backward passes."""
        self._deliver(self._updater.begin(factor))
        self.plan.device.run(self.updating)
        self._updater.done()

    def step(self, step: int, factor: float) -> None:
        """Forward, backward and update as one."""
        self.prepare(step, factor)
        self.replay()
        self._updater.done()

    def prepare(self, step: int, factor: float) -> None:
        """Send what a step takes besides its batch."""
        self.plan.refresh()
        self._deliver([*self.plan.counters(step, 0), *self._updater.begin(factor)])

    def _deliver(self, pairs: Sequence[tuple[np.ndarray, DeviceArray]]) -> None:
        """Send small arrays of the host."""
        if pairs:
            self._numbers.deliver(*zip(*pairs))


class _Sent(NamedTuple):
    """A batch of the host, and the same on its way."""

    given: Given
    arrays: Sent


class _Begun:
    """A step that is under way: its number, its batch, which lives as long, and of each micro-batch its share in the loss, what is
    fetched of it, and its targets."""

    def __init__(self, step: int, batch: _Sent):
        self.step, self.batch = step, batch
        self.parts: list[tuple[np.ndarray | None, Fetched, np.ndarray]] = []

    @property
    def busy(self) -> bool:
        """Whether the device is at it."""
        return not self.parts[-1][1].done


class DeviceEngine:
    """How a trainer makes steps on the GPU (compare :class:`.batch.HostEngine`): a batch is sent while the step before runs, and a step may
    be begun before the one before is finished. One whose loss is not finite changes nothing, and neither do those that were begun after it.
    """

    batches_ahead = steps_ahead = 1
    bind = DeviceBatch

    def __init__(self, trainer: Trainer):
        model = trainer.model
        self.updater = DeviceUpdater(trainer.optimizer, model.on_device)
        self._dtypes = [tensor.dtype or model.dtype for tensor in model.graph.inputs]
        self._batches, self.numbers, self._results = Feed(), Feed(), Drain()

    def send(self, batch: Given) -> _Sent:
        """A batch, on its way to the device."""
        dtypes = [*self._dtypes, *(target.dtype for target in batch.targets)]
        return _Sent(batch, self._batches.send([*batch.inputs, *batch.targets], dtypes))

    def begin(self, trainer: Trainer, batch: _Sent, factor: float, measured: bool) -> _Begun:
        """Let the device make a step, and fetch losses, and outputs where they are ``measured``."""
        inputs, targets = batch.given
        parts = cut(len(inputs[0]), trainer.accumulate)
        shares = trainer._shares(targets, parts) if len(parts) > 1 else [None]
        bound = [trainer._bound(part.stop - part.start, [array[part] for array in targets], False, len(parts) > 1) for part in parts]
        bound[0].plan.check(inputs)
        begun = _Begun(self.updater.steps, batch)
        batch.arrays.arrive()
        for part, share, each in zip(parts, shares, bound):
            each.take([array[part] for array in batch.arrays.arrays])
            if part is parts[-1]:
                batch.arrays.release()
            if share is None:
                each.step(begun.step, factor)
            else:
                self._micro_step(each, begun.step, part.start, share)
            results = self._results.fetch([each.totals, *(each.plan.outputs[:1] if measured else ())])
            begun.parts.append((share, results, targets[0][part]))
        if len(parts) > 1:
            bound[-1].update(factor)
        return begun

    def _micro_step(self, batch: DeviceBatch, step: int, first: int, share: np.ndarray) -> None:
        """Add the gradients of a part of the batch."""
        if first == 0:
            batch.plan.clear_gradients()
        batch.forward(step, first, share)
        batch.judge()
        batch.plan.backward()

    def finish(self, begun: _Begun) -> Outcome:
        """What came out of a step, when it is there. Where the loss is not finite everything is as it was before the step."""
        outcome = Outcome(copied=False)
        for share, results, targets in begun.parts:
            totals, *outputs = results.collect()
            if share is not None:
                totals[:, 0] *= share
            outcome.add(totals, outputs[0] if outputs else None, targets)
            if not math.isfinite(outcome.loss):
                self.undo(begun.step)
                break
        return outcome

    def undo(self, steps: int) -> None:
        """Go back to so many steps, see :meth:`DeviceUpdater.undo`."""
        self.updater.undo(steps)
