"""Plans on the GPU: parameters that live there, the forward pass, and a whole training step as one graph of launches."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..kernels.cuda import pointwise
from ..kernels.cuda.runtime import Replay
from ..kernels.cuda.staging import Drain, Feed, Fetched, Sent
from .build import Node
from .devices import Cuda
from .parameters import ParameterStore
from .plan import Forward, Plan
from .recording import Step, speaking
from .run import TrainingPlan, _Bound

_versions = itertools.count(1)


class DeviceParameters:
    """The parameters of a :class:`~.parameters.ParameterStore` on the GPU, laid out alike.

    Whoever changes them there says so (:meth:`touch`); the host's arrays follow when somebody asks for them, and what was written there
    is taken over before the next run (:meth:`update`); ``taken`` is the version of it. While somebody holds an array of the host's, which
    can be read and written at any time, they follow at once. ``regime`` is another number after parameters were changed here while others
    than before were frozen."""

    def __init__(self, store: ParameterStore, device: Cuda):
        self.host, self.device = store, device
        self.specs, self.dtype = store.specs, store.dtype
        self.trainable = device.zeros((store.trainable.size,), store.dtype)
        self.state = device.zeros((store.state.size,), store.dtype)
        self._state_before = device.zeros(self.state.shape, store.dtype)
        self.taken: int | None = None
        self._ahead = False
        self._version = 0
        self.regime = 0
        self._frozen: set[str] = set()
        self._lock = threading.RLock()

    def check_kept(self, names: Any) -> None:
        """As of the store."""
        self.host.check_kept(names)

    def view(self, name: str, flat: Any = None) -> Any:
        """The array of a parameter, or the same part of another array that is laid out like ``trainable``."""
        spec = self.specs[name]
        start, stop = self.host.slices[name]
        if flat is None:
            flat = self.trainable if spec.trainable else self.state
        return flat[start:stop].reshape(spec.shape)

    def views_of(self, node: Node) -> dict[str, Any]:
        """Of a node, by its layer's names."""
        return {local: self.view(full) for local, full in node.parameters.items()}

    def update(self) -> int:
        """Take over what was changed on the host. A number that is another one after every change of the parameters."""
        with self._lock:
            if not self._ahead:
                version = self.host.current_version()
                if version != self.taken:
                    self.trainable.upload(self.host.trainable)
                    self.state.upload(self.host.state)
                    self.taken = version
                    self._version = next(_versions)
            return self._version

    def touch(self) -> None:
        """Parameters were changed on the device."""
        with self._lock:
            if self._frozen != self.host.frozen:
                self._frozen = set(self.host.frozen)
                self.regime += 1
            self._ahead = True
            self._version = next(_versions)
            self.host.left_behind(self)
            if self.host.handed_out:
                self.host.catch_up()

    def keep_state(self, healthy: Any) -> None:
        """Remember the running statistics, for :meth:`restore_state`; unless the number in ``healthy`` is 0, when those from before a step
        that has to be undone are needed still."""
        if self.state.size:
            pointwise.copy_where(healthy, self.state, self._state_before)

    def restore_state(self) -> None:
        """Undo what a forward pass did to running statistics."""
        if self.state.size:
            self.state.copy_from(self._state_before)

    def fetch(self, trainable: np.ndarray, state: np.ndarray) -> None:
        """Bring the host's arrays up to date; for the store."""
        with self._lock:
            if self._ahead:
                self.trainable.download(trainable)
                self.state.download(state)
                self._ahead = False
                self.host.left_behind(None)
                self.host.touch()
                self.taken = self.host.current_version()


class _Derived:
    """Vectors of a folded layer: computed on the host, where its parameters change seldom."""

    def __init__(self, derived: Any, dtype: np.dtype, device: Cuda):
        self._derived, self._found = derived, derived.arrays(dtype)
        self.arrays = {name: device.empty(array.shape, array.dtype) for name, array in self._found.items()}

    def compute(self, store: ParameterStore) -> None:
        self._derived.compute(store.view, self._found)
        for name, array in self._found.items():
            self.arrays[name].upload(array)


class _Loading(_Bound):
    """What both kinds of plans do with a batch."""

    def check(self, batch: Sequence[Any]) -> None:
        """Raises DataError for numbers of a batch (one array per input) of which a layer that reads them cannot make sense."""
        for slot, given in zip(self.plan.inputs, batch, strict=True):
            for run in self.plan.forward:
                layer: Any = run.node.layer
                if any(read.block is slot.block for read in run.x) and layer.checks_input:
                    speaking(run.node, layer.check_input)(given if isinstance(given, np.ndarray) else given.download())

    def load(self, batch: Sequence[Any]) -> None:
        """Copy a batch to the device. Raises as :meth:`check` does."""
        self.check(batch)
        for array, given in zip(self.inputs, batch):
            self.device.upload(given, array)

    def take(self, arrays: Sequence[Any]) -> None:
        """Let the device copy a batch that is there."""
        for array, given in zip(self.inputs, arrays, strict=True):
            self.device.copy(given, array)


class DeviceInferencePlan(_Loading):
    """The forward pass in inference mode on the GPU, for one batch size."""

    def __init__(self, plan: Plan, parameters: DeviceParameters, device: Cuda):
        super().__init__(plan, parameters, device=device)
        self._derived: list[_Derived] = []
        self._preparing: list[Step] = []
        self._steps_forward = [step for run in plan.forward for step in self._bind(run)]
        self._current: int | None = None
        self.replay = Replay(self._steps_forward)

    def _bind(self, run: Forward) -> list[Step]:
        node, p = run.node, self.store.views_of(run.node)
        for each in node.derived:
            derived = _Derived(each, self.plan.dtype, self.device)
            self._derived.append(derived)
            p.update(derived.arrays)
        prepared = self.prepared[node]
        if prepared:
            self._preparing += self._steps(node, node.layer.prepare, node.shapes, self.plan.batch, p, prepared, False)
        b = {**self._named(run.buffers), **self._named(run.scratch), **prepared}
        return self._steps(node, node.layer.forward, self._grouped(node, run.x), self._outputs(run.y), p, b, False)

    def forward(self, batch: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
        """Run on a batch (one array per input) and copy the outputs into ``results``. One thread at a time; others wait."""
        with self.lock:
            self._refresh()
            self.load(batch)
            self.replay()
            for result, array in zip(results, self.outputs, strict=True):
                self.device.download(array, result)

    def results(self, batch: Sequence[np.ndarray]) -> list[Any]:
        """As :meth:`forward`, with new arrays for the outputs: on the device if any of the batch is there, else on the host."""
        empty = np.empty if all(isinstance(array, np.ndarray) for array in batch) else self.device.empty
        results = [empty(array.shape, self.plan.dtype) for array in self.outputs]
        self.forward(batch, results)
        return results

    def begin(self, sent: Sent, drain: Drain) -> Fetched:
        """Run on a batch that is on its way; gives its outputs, which are on theirs. The host waits for neither."""
        with self.lock:
            self._refresh()
            sent.arrive()
            self.take(sent.arrays)
            sent.release()
            self.replay()
            outputs: Any = self.outputs
            return drain.fetch(outputs)

    def _refresh(self) -> None:
        """Bring what follows from parameters up to date."""
        version = self.store.update()
        if version != self._current:
            for derived in self._derived:
                derived.compute(self.store.host)
            self.device.run(self._preparing)
            self._current = version


class Pipeline:
    """Predictions for one batch after the other: each is sent while the device is at the one before, and its outputs are fetched while the
    device is at the next."""

    def __init__(self) -> None:
        self._feed, self._drain = Feed(), Drain()

    def run(self, batches: Iterable[tuple[DeviceInferencePlan, Sequence[np.ndarray]]]) -> Iterator[list[np.ndarray]]:
        """For each plan and batch its outputs, which last until the next ones are asked for."""
        before: Fetched | None = None
        for plan, batch in batches:
            plan.check(batch)
            begun = plan.begin(self._feed.send(batch, [array.dtype for array in plan.inputs]), self._drain)
            if before is not None:
                yield before.collect()
            before = begun
        if before is not None:
            yield before.collect()


class DeviceTrainingPlan(TrainingPlan, _Loading):
    """Forward and backward in training mode on the GPU, for one batch size (see :class:`~.run.TrainingPlan`)."""

    def __init__(self, plan: Plan, parameters: DeviceParameters, seed: int, device: Cuda, flat_gradients: Any = None):
        self._derived: list[_Derived] = []
        self._current: tuple | None = None
        super().__init__(plan, parameters, seed, flat_gradients, device)
        self._replay_forward, self._replay_backward = Replay(self._forward_steps), Replay(self._backward_steps)

    def forward(self) -> None:
        with self.lock:
            self._replay_forward()
            if self.store.state.size:
                self.store.touch()

    def backward(self) -> None:
        with self.lock:
            self._replay_backward()

    def _bind_derived(self, derived: Any) -> tuple[list[Step], dict[str, Any]]:
        found = _Derived(derived, self.plan.dtype, self.device)
        self._derived.append(found)
        return [], found.arrays

    def refresh(self) -> None:
        """Take over what was changed on the host."""
        self.store.update()
        current = self.store.taken, self.store.regime
        if current != self._current:  # what is derived follows from frozen parameters, which steps of this plan leave alone
            for derived in self._derived:
                derived.compute(self.store.host)
        self._current = self.store.taken, self.store.regime
