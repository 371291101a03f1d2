"""Measures where the time of a training step goes on the GPU, by events between launches (compare ``profiling.py``)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..kernels.cuda.launch import Clear, Copy, Launch
from ..kernels.cuda.memory import DeviceArray
from ..kernels.cuda.runtime import device
from .profiling import Step, Stopwatch, row_of

if TYPE_CHECKING:
    from .trainer import Trainer

LONGEST_QUEUE = 200  # steps that the GPU is given to do while the host launches what is timed


class DeviceStopwatch(Stopwatch):
    """By the GPU's clock: an event between any two launches.

    The host takes longer for a launch, and the event after it, than the GPU for a small kernel. So that the GPU is never timed while it
    waits for the host, it is given whole steps to do first, as many as last until all is launched.
    """

    def __init__(self, trainer: Trainer, images: Any, labels: Any):
        super().__init__(trainer, images, labels)
        self.device = device().name
        self._events: list[Any] = []
        batch, plan = self.batch, self.batch.plan
        losses, optimizer = trainer.losses[0].name, trainer.optimizer.name
        self.watched(row_of("batch", "copy", "input", plan.inputs[0].shape), [(self._load, ())])
        forward, backward = plan.steps()
        self._steps = self.layers("forward", forward)
        self._steps += self.watched(row_of(losses, "loss", "loss", plan.outputs[0].shape), [*batch.losses, *batch.judging])
        self._steps += self.layers("backward", backward)
        self._steps += self.watched(row_of(optimizer, "optimizer", "update", ()), batch.updating)
        self._queued = 0
        self._queued = self._queue_length()

    def _queue_length(self) -> int:
        """How many steps last as long as the host takes to launch one call by call."""
        start = time.perf_counter()
        self._measured(self._apart)
        seconds = time.perf_counter() - start
        _, graph = self._measured(self._whole)
        return min(LONGEST_QUEUE, math.ceil(1e9 * seconds / max(graph, 1e3)))

    def whole_step(self) -> float:
        return sum(self._measured(self._whole)) / 1e9

    def step(self) -> list[int]:
        return self._measured(self._apart)

    def _apart(self) -> None:
        self.batch.plan.device.run(self._steps)

    def _whole(self) -> None:
        self.batch.replay()
        self.read()

    def _measured(self, work: Callable[[], None]) -> list[int]:
        """Nanoseconds between the events of a step, of which ``work`` is what follows the batch, and ends with an event."""
        engine, gpu = self.trainer._engine, device()
        self._events.clear()
        sent = engine.send(self.given)
        self.batch.prepare(self.trainer.steps, 1.0)
        for _ in range(self._queued):
            self.batch.replay()
        self.read()
        self._load(sent.arrays)
        self.read()
        work()
        engine.updater.done()
        return [round(1e6 * gpu.elapsed(start, stop)) for start, stop in zip(self._events, self._events[1:])]

    def _load(self, sent: Any) -> None:
        """The batch, which may be on its way still; and running statistics, kept aside."""
        sent.arrive()
        self.batch.take(sent.arrays)
        sent.release()
        self.batch.plan.device.run(self.batch.keeping)

    def read(self) -> None:
        self._events.append(device().event())

    def described(self, step: Step, scratch: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        work: Any = step[0]
        if isinstance(work, Launch):
            return work.kernel.function.__name__, _arrays(work.arguments, scratch)
        if isinstance(work, (Copy, Clear)):
            return type(work).__name__.lower(), _touched(work)
        return "copy", (*self.batch.plan.inputs,) * 2


def _touched(work: Copy | Clear) -> tuple[DeviceArray, ...]:
    """The bytes that a copy reads and writes, or that are cleared."""
    shape = (work.nbytes,)
    if isinstance(work, Clear):
        return (DeviceArray(work.memory, work.offset, shape, "uint8"),)
    return DeviceArray(work.source, work.source_offset, shape, "uint8"), DeviceArray(work.target, work.offset, shape, "uint8")


def _arrays(arguments: Sequence[Any], scratch: Sequence[Any]) -> tuple[DeviceArray, ...]:
    """The arrays among the arguments of a launch, each once, without scratch memory."""
    found = {}
    for argument in arguments:
        if isinstance(argument, DeviceArray) and not any(_overlap(argument, other) for other in scratch):
            found[argument.pointer, argument.shape] = argument
    return tuple(found.values())


def _overlap(one: DeviceArray, other: DeviceArray) -> bool:
    return one.pointer < other.pointer + other.nbytes and other.pointer < one.pointer + one.nbytes
