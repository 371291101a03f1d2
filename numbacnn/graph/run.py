"""Plans brought to life: memory allocated, kernels bound, and the loop that runs them."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from .. import kernels
from ..arrays import Arena, empty
from .build import Node
from .devices import HOST
from .packed import Weights, parameters_read
from .parameters import ParameterStore
from .plan import Backward, Block, Combine, Forward, Plan, Slot
from .recording import Step, steps_of
from .sections import WalkPlan

NOTHING: Mapping[Any, Any] = MappingProxyType({})


def random_key(seed: int, name: str) -> int:
    """The key of the random stream of the node called ``name`` in a model of ``seed``."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


class _Bound:
    """What running a plan needs in either mode: its arrays, and the steps that calls of layers turn into. An ``arena`` that is given is
    at least as large as the plan's, and may be shared by plans that run in turn. ``elsewhere`` are the arrays of blocks that are not in
    the arena. ``device`` is where all of them are, and where the ``store`` has the parameters."""

    def __init__(self, plan: Plan, store: Any, arena: Any = None, elsewhere: Mapping[Block, np.ndarray] = NOTHING, device: Any = HOST):
        self.plan, self.store, self.device = plan, store, device
        self._elsewhere = elsewhere
        self.lock = threading.RLock()
        self.arena = device.arena(plan.arena_bytes) if arena is None else arena
        self.prepared = self._prepared_arrays()
        self.inputs = [self.array(slot) for slot in plan.inputs]
        self.outputs = [self.array(slot) for slot in plan.outputs]
        for slot in plan.zeroed:
            device.clear(self.array(slot))

    def _prepared_arrays(self) -> dict[Node, dict[str, np.ndarray]]:
        """Arrays derived from parameters, of each node by name."""
        plan = self.plan
        return {
            node: {name: self.device.empty(plan.full_shape(buffer), buffer.dtype or plan.dtype) for name, buffer in buffers.items()}
            for node, buffers in plan.prepared.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of arrays that this plan needs."""
        return self.arena.memory.nbytes + self.prepared_nbytes

    @property
    def prepared_nbytes(self) -> int:
        """Of them, bytes of arrays derived from parameters, which inference plans of one model share."""
        return sum(array.nbytes for group in self.prepared.values() for array in group.values())

    def array(self, slot: Slot) -> np.ndarray:
        """The array of a slot: dense, or a view of some channels."""
        if slot.block in self._elsewhere:
            return self._elsewhere[slot.block].reshape(slot.shape)
        if slot.width is None:
            return self.arena.view(slot.block.offset, slot.shape, slot.dtype)
        around = self.arena.view(slot.block.offset, (*slot.shape[:-1], slot.width), slot.dtype)
        return around[..., slot.channel : slot.channel + slot.shape[-1]]

    def _named(self, slots: dict[str, Slot]) -> dict[str, np.ndarray]:
        return {name: self.array(slot) for name, slot in slots.items()}

    def _grouped(self, node: Node, slots: Sequence[Slot | None] | None) -> Any:
        """Arrays of a node's inputs as its layer gets them: one, or a tuple for a layer with several inputs."""
        if slots is None:
            return None
        found = tuple(None if slot is None else self.array(slot) for slot in slots)
        return found[0] if node.layer.arity == 1 else found

    def _outputs(self, slots: Sequence[Slot] | None) -> Any:
        """Arrays of a node's outputs as its layer gets them: one, or a tuple for a layer with several outputs."""
        if slots is None:
            return None
        found = tuple(self.array(slot) for slot in slots)
        return found[0] if len(found) == 1 else found

    def _steps(self, node: Node, function: Callable, *arguments: Any) -> list[Step]:
        return steps_of(node, self.plan.threads, function, *arguments, device=self.device)


class InferencePlan(_Bound):
    """The forward pass in inference mode, for one batch size.

    ``turns`` are for each of several runs, one after the other, the arrays of blocks that lie elsewhere. Within ``with plan.weights:`` the
    plan is locked, and what is derived from parameters is up to date."""

    def __init__(
        self, plan: Plan, store: ParameterStore, arena: Arena | None = None, turns: Sequence[Mapping[Block, np.ndarray]] = (NOTHING,)
    ):
        self.packed = {node: store.packed.of(node, plan, store) for node in plan.prepared}
        own = {slot.block: empty(slot.shape, slot.dtype) for slot in _only_read(plan) if slot.block not in turns[0]}
        super().__init__(plan, store, arena, {**turns[0], **own})
        self.weights = Weights(list(self.packed.values()), self.lock, store)
        with kernels.jit.rehearsed(self._rehearse):
            self._turns = [self._forward_steps({**elsewhere, **own}) for elsewhere in turns]
        self._stand_ins = [
            [turn.stand_in(array) if slot.block in own else None for slot, array in zip(plan.inputs, self.inputs)] for turn in self._turns
        ]

    def _prepared_arrays(self) -> dict[Node, dict[str, np.ndarray]]:
        return {node: packed.arrays for node, packed in self.packed.items()}

    def _rehearse(self) -> None:
        """Call all kernels that this plan does."""
        for packed in self.packed.values():
            packed.bind()
        for run in self.plan.forward:
            self._bind(run)
        for array in self.inputs:
            kernels.program.pointing(array)

    def _forward_steps(self, elsewhere: Mapping[Block, np.ndarray]) -> kernels.program.Program:
        self._elsewhere = elsewhere
        return kernels.program.Program(step for run in self.plan.forward for step in self._bind(run))

    def _bind(self, run: Forward) -> list[Step]:
        node = run.node
        parameters = {**self.store.views_of(node), **self.packed[node].vectors}
        b = {**self._named(run.buffers), **self._named(run.scratch), **self.prepared[node]}
        return self._steps(node, node.layer.forward, self._grouped(node, run.x), self._outputs(run.y), parameters, b, False)

    def parameters_read(self) -> frozenset[str]:
        """Names of the parameters that are read besides what was derived from them, here or in a plan for another batch size."""
        found = (parameters_read(run.node, self._bind(run), self.plan.batch, self.store) for run in self.plan.forward)
        return frozenset().union(*found)

    def forward(self, batch: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
        """Run on a batch (one array per input) and copy the outputs into ``results``. One thread at a time; others wait."""
        with self.weights:
            self.run_on(batch)
            self.give(results)

    def results(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As :meth:`forward`, with new arrays for the outputs."""
        with self.weights:
            self.run_on(batch)
            return [array.copy() for array in self.outputs]

    def run_on(self, batch: Sequence[np.ndarray], turn: int = 0) -> None:
        """As :meth:`run`, with a batch in place of ``inputs``: what is like them is read where it lies, and copied otherwise."""
        stand_ins = self._stand_ins[turn]
        try:
            for array, given, stand_in in zip(self.inputs, batch, stand_ins):
                if stand_in is None or not stand_in.be(given):
                    array[...] = given
            self.run(turn)
        finally:
            for stand_in in stand_ins:
                if stand_in is not None:
                    stand_in.end()

    def give(self, results: Sequence[np.ndarray]) -> None:
        """Copy ``outputs`` into ``results``."""
        for result, array in zip(results, self.outputs):
            result[...] = array

    def run(self, turn: int = 0) -> None:
        """Fill ``outputs`` from ``inputs``, the arrays of this plan, or those of a turn that lie elsewhere. What shares its arena may
        overwrite them. Whoever runs it guards launches, and has entered its ``weights``."""
        self._turns[turn].run()


def _only_read(plan: Plan) -> list[Slot]:
    """The inputs that share their memory with nothing that is written or given back."""
    others = {slot.block for run in plan.forward for slots in (run.y, run.scratch.values(), run.buffers.values()) for slot in slots}
    others |= {slot.block for slot in plan.outputs}
    return [slot for slot in plan.inputs if slot.block not in others and slot.width is None]


class Walk:
    """The forward pass in inference mode of a network in sections: each runs over the batch group by group.

    The tensor between two sections is there for the whole batch; all other arrays are as large as a group needs. Where the last group
    would be smaller than the others it starts earlier, and computes some samples again.
    """

    device = HOST

    def __init__(self, plan: WalkPlan, store: ParameterStore):
        self.lock = threading.RLock()
        self.arena = Arena(plan.arena_bytes)
        between = [self.arena.view(slot.block.offset, slot.shape, slot.dtype) for slot in plan.between]
        self.parts: list[InferencePlan] = []
        self._starts: list[list[int]] = []
        for part, room, before, behind in zip(plan.parts, plan.rooms, [None, *between], [*between, None]):
            starts = [min(start, plan.batch - part.batch) for start in range(0, plan.batch, part.batch)]
            turns = [_ends(part, start, before, behind) for start in starts]
            self.parts.append(InferencePlan(part, store, self.arena.part(room.offset, room.nbytes), turns))
            self._starts.append(starts)
        self.weights = Weights([packed for part in self.parts for packed in part.packed.values()], self.lock, store)

    @property
    def nbytes(self) -> int:
        """Bytes of arrays that this walk needs."""
        return self.arena.memory.nbytes + sum(part.prepared_nbytes for part in self.parts)

    def parameters_read(self) -> frozenset[str]:
        """As of its parts."""
        return frozenset().union(*(part.parameters_read() for part in self.parts))

    def results(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As :meth:`forward`, with new arrays for the outputs."""
        last = self.parts[-1].plan
        results = [np.empty((len(batch[0]), *slot.shape[1:]), slot.dtype) for slot in last.outputs]
        self.forward(batch, results)
        return results

    def forward(self, batch: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
        """Run on a batch (one array per input) and write the outputs into ``results``. One thread at a time; others wait."""
        with self.weights:
            for part, starts in zip(self.parts, self._starts):
                for turn, start in enumerate(starts):
                    samples = slice(start, start + part.plan.batch)
                    if part is self.parts[0]:
                        part.run_on([array[samples] for array in batch], turn)
                    else:
                        part.run(turn)
                    if part is self.parts[-1]:
                        part.give([array[samples] for array in results])


def _ends(plan: Plan, start: int, before: np.ndarray | None, behind: np.ndarray | None) -> dict[Block, np.ndarray]:
    """The samples from ``start`` on of the arrays around a section."""
    samples = slice(start, start + plan.batch)
    ends = ((plan.inputs[0], before), (plan.outputs[0], behind))
    return {slot.block: whole[samples] for slot, whole in ends if whole is not None}


class TrainingPlan(_Bound):
    """Forward and backward in training mode, for one batch size.

    Write a batch into ``inputs``, call :meth:`forward`, write the loss's gradients of ``outputs`` into
    ``output_gradients``, call :meth:`backward`, and find the parameters' gradients in ``gradients`` (views, by name, of
    ``flat_gradients``, which is laid out like ``store.trainable``; frozen ones are zero and take no memory). A plan that accumulates adds
    them to what is there, until :meth:`clear_gradients`. ``input_gradients`` holds the gradients of the inputs where they were asked for,
    else it is None.

    ``outputs``, ``output_gradients`` and ``inputs`` keep their contents until the next step.
    """

    def __init__(self, plan: Plan, store: Any, seed: int, flat_gradients: Any = None, device: Any = HOST):
        store.check_kept(store.specs)
        super().__init__(plan, store, device=device)
        self.output_gradients = [self.array(slot) for slot in plan.output_gradients]
        self.flat_gradients = device.zeros((store.trainable.size,), store.dtype) if flat_gradients is None else flat_gradients
        self.gradients = {name: store.view(name, self.flat_gradients) for name, spec in store.specs.items() if spec.trainable}
        self.input_gradients = self._input_gradients() if plan.input_gradients else None
        random = [run.node for run in plan.forward if run.node.layer.random]
        self._streams = np.array([(random_key(seed, node.name), 0) for node in random], np.uint64).reshape(-1, 2)
        self._first = np.zeros(1, np.int64)
        self._counters = [(array, device.counterpart(array)) for array in (self._streams, self._first)] if random else []
        self._random = {
            node: {"random": self._counters[0][1][k : k + 1].reshape(2), "first": self._counters[1][1]} for k, node in enumerate(random)
        }
        with kernels.jit.rehearsed(self.steps):
            self._forward_steps = self.device.program([step for run in plan.forward for step in self._bind_forward(run)])
            self._backward_steps = self.device.program([step for run in plan.backward for step in self._bind_back(run)])

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.plan.parameter_gradient_bytes

    def set_step(self, step: int, first: int = 0) -> None:
        """Give random layers the streams of training step ``step``, of which this batch is the samples from number ``first`` on."""
        for array, there in self.counters(step, first):
            self.device.upload(array, there)

    def counters(self, step: int, first: int) -> list[tuple[np.ndarray, Any]]:
        """What :meth:`set_step` copies to the device: arrays of the host, and their counterparts there."""
        self._first[0], self._streams[:, 1] = first, step
        return self._counters

    def clear_gradients(self) -> None:
        """Forget what a plan that accumulates has added up."""
        for name in {combine.target for run in self.plan.backward if isinstance(run, Backward) for combine in run.after}:
            if isinstance(name, str):
                self.device.clear(self.gradients[name])

    def forward(self) -> None:
        """Fill ``outputs`` from ``inputs``."""
        with self.lock:
            try:
                self.device.run(self._forward_steps)
            finally:
                if self.store.state.size:  # running statistics have moved, if only those of layers before one that raised
                    self.store.touch()

    def backward(self) -> None:
        """Fill ``gradients`` (and ``input_gradients``) from ``output_gradients``, after a :meth:`forward`."""
        with self.lock:
            self.device.run(self._backward_steps)

    def steps(self) -> tuple[list[tuple[Forward, Step]], list[tuple[Forward | Backward, Step]]]:
        """What :meth:`forward` and :meth:`backward` run, each with the call of a layer that it is part of. Bound anew, for a profile: a
        step of training does not need to know."""
        forward = [(run, step) for run in self.plan.forward for step in self._bind_forward(run)]
        return forward, [(run, step) for run in self.plan.backward for step in self._bind_back(run)]

    def _input_gradients(self) -> list[np.ndarray]:
        """An input that no gradient reaches, such as one of whole numbers, has zeros."""
        slots = self.plan.input_gradients
        return [
            self.device.zeros(array.shape, self.plan.dtype) if slot is None else self.array(slot) for array, slot in zip(self.inputs, slots)
        ]

    def _b(self, run: Forward | Backward) -> dict[str, np.ndarray]:
        b = {**self._named(run.buffers), **self._named(run.scratch), **self.prepared[run.node]}
        if isinstance(run, Forward):
            b |= self._named(run.prepared)
        return b | self._random.get(run.node, {})

    def _bind_forward(self, run: Forward) -> list[Step]:
        node, p, trains = run.node, self.store.views_of(run.node), not run.node.constant
        steps: list[Step] = []
        for derived in node.derived:
            computing, found = self._bind_derived(derived)
            steps += computing
            p.update(found)
        steps += self._bind_prepare(run, {**self.prepared[node], **self._named(run.prepared)}, p)
        return steps + self._steps(node, node.layer.forward, self._grouped(node, run.x), self._outputs(run.y), p, self._b(run), trains)

    def _bind_derived(self, derived: Any) -> tuple[list[Step], dict[str, Any]]:
        """What computes vectors of a folded layer, and these."""
        found = derived.arrays(self.plan.dtype)
        return [(derived.compute, (self.store.view, found))], found

    def _bind_back(self, run: Forward | Backward) -> list[Step]:
        """What runs on the way back."""
        return self._bind_again(run) if isinstance(run, Forward) else self._bind_backward(run)

    def _bind_again(self, run: Forward) -> list[Step]:
        """A forward call after the first; prepared arrays that stay are as they were."""
        node, p = run.node, self.store.views_of(run.node)
        steps = self._bind_prepare(run, self._named(run.prepared), p)
        return steps + self._steps(node, node.layer.forward_again, self._grouped(node, run.x), self._outputs(run.y), p, self._b(run))

    def _bind_prepare(self, run: Forward, prepared: dict[str, np.ndarray], p: dict[str, np.ndarray]) -> list[Step]:
        node = run.node
        if not prepared:
            return []
        return self._steps(node, node.layer.prepare, node.shapes, self.plan.batch, p, prepared, not node.constant)

    def _bind_backward(self, run: Backward) -> list[Step]:
        node = run.node
        steps = []
        if not node.layer.alias:
            dp = {local: self.gradients[place] if isinstance(place, str) else self.array(place) for local, place in run.dp.items()}
            x, y = self._grouped(node, run.x), self._outputs(run.y)
            dy, dx = self._outputs(run.dy), self._grouped(node, run.dx)
            backward: Callable = node.layer.backward
            if run.adds:
                backward = functools.partial(backward, adds=True)
            steps += self._steps(node, backward, x, y, dy, dx, self.store.views_of(node), dp, self._b(run))
        return steps + [step for combine in run.after for step in self._bind_combine(combine)]

    def _bind_combine(self, combine: Combine) -> list[Step]:
        target = self.gradients[combine.target] if isinstance(combine.target, str) else self.array(combine.target)
        source = self.array(combine.source).reshape(target.shape)
        with self.device.record(self.plan.threads) as steps:
            (self.device.copy if combine.copy else self.device.add)(source, target)
        return steps
