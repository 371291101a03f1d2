"""What runs in which order, and where every array lies: decided before anything is allocated or compiled.

Time is counted in steps. With ``n`` nodes, node ``i`` runs forward at time ``i``; at time ``n`` the loss reads the outputs and writes
their gradients; then come the backward calls, last node first, and between them what runs forward again because its outputs were
not kept (``recompute.py``): each time it does, its outputs are new arrays. Every array is needed from one time to another, and
two arrays whose times don't overlap may share bytes. All offsets follow from that, largest array first, each into the
smallest gap that fits (greedy by size, best fit).

Before that, arrays are merged into one *block* where a layer only renames them (``alias``), may overwrite its input (``in_place``)
because nobody needs the old value any more, or, in inference, concatenates or cuts channels (``places.py``).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import aligned_size
from ..layers.base import Buffer, Parameter, Shape
from .build import Node
from .places import find_places
from .recompute import Again, Back, Choice, Flow, Value, choices, elements, leaves_buffers_alone, way_back
from .tensor import Tensor

ENOUGH = 1.05  # times the least memory: a plan that needs no more counts as well as the best


@dataclasses.dataclass(eq=False)
class Block:
    """Bytes of the arena that are needed from time ``first`` to time ``last``, both included."""

    nbytes: int
    first: int
    last: int
    offset: int = 0

    def need(self, *times: int) -> None:
        """Extend the lifetime to the given times."""
        self.first, self.last = min(self.first, *times), max(self.last, *times)


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """An array in a block: shape with the batch axis, and data type. It is dense from the block's start on, or, where ``width`` says how
    many channels (last axis) the array in the block has in all, those of them that start at ``channel``."""

    block: Block
    shape: Shape
    dtype: np.dtype
    channel: int = 0
    width: int | None = None


@dataclasses.dataclass(eq=False)
class Forward:
    """Arrays of one forward call. ``x`` and ``y`` follow the node's inputs and outputs. ``prepared`` are those of :meth:`Layer.prepared`
    that are there for this call alone; ``again`` says that it is not the first of the step."""

    node: Node
    x: list[Slot]
    y: list[Slot]
    buffers: dict[str, Slot]
    scratch: dict[str, Slot]
    prepared: dict[str, Slot]
    again: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Combine:
    """``target += source``, or ``target = source`` when ``copy``. A target that is text is the parameter's gradient."""

    target: Slot | str
    source: Slot
    copy: bool = False


@dataclasses.dataclass(eq=False)
class Backward:
    """Arrays of one backward call: ``x`` and ``y`` None where it doesn't read them, entries of ``dx`` None where no
    gradient is wanted; ``dp`` by local name the parameter's gradient (its name in the model) or an array that ``after``
    adds to it. The call is left out for an alias layer, whose ``after`` remains. ``adds``: it adds to ``dx``."""

    node: Node
    x: list[Slot] | None
    y: list[Slot] | None
    dy: list[Slot]
    dx: list[Slot | None]
    dp: dict[str, str | Slot]
    buffers: dict[str, Slot]
    scratch: dict[str, Slot]
    after: list[Combine]
    adds: bool = False


@dataclasses.dataclass(eq=False)
class Plan:
    """The outcome of :func:`make_plan`. Gradients of outputs are written by the loss between forward and backward. ``backward`` has
    backward calls and, where outputs were not kept, forward calls. ``prepared`` are arrays derived from parameters that stay."""

    batch: int
    threads: int
    dtype: np.dtype
    inputs: list[Slot]
    outputs: list[Slot]
    output_gradients: list[Slot]
    input_gradients: list[Slot | None]
    forward: list[Forward]
    backward: list[Backward | Forward]
    zeroed: list[Slot]
    prepared: dict[Node, dict[str, Buffer]]
    blocks: list[Block]
    arena_bytes: int
    parameter_gradient_bytes: int

    def full_shape(self, buffer: Buffer) -> Shape:
        """Shape of a buffer, with the batch axis where it has one."""
        return (self.batch, *buffer.shape) if buffer.per_sample else tuple(buffer.shape)

    @property
    def prepared_bytes(self) -> int:
        """Bytes of arrays derived from parameters that stay."""
        return sum(
            math.prod(self.full_shape(buffer)) * np.dtype(buffer.dtype or self.dtype).itemsize
            for buffers in self.prepared.values()
            for buffer in buffers.values()
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that running this plan needs beside the parameters themselves."""
        return self.arena_bytes + self.prepared_bytes + self.parameter_gradient_bytes


def make_plan(
    nodes: Sequence[Node],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    specs: Mapping[str, Parameter],
    *,
    batch: int,
    training: bool,
    threads: int,
    dtype: Any,
    frozen: Collection[str] = (),
    input_gradients: bool = False,
    elsewhere: Collection[Tensor] = (),
    recompute: str | None = None,
    accumulate: bool = False,
    between: Any = None,
) -> Plan:
    """Plan ``nodes`` (in running order) for one batch size. ``frozen`` names parameters that get no gradient. Arrays of inputs and outputs
    that lie ``elsewhere`` take no room: who runs the plan brings them, and finds such inputs as they were. ``recompute`` is None or one of
    :data:`.recompute.MODES`. With ``accumulate`` all gradients of parameters are added to what is there. ``between`` is the data type of
    tensors between inputs and outputs, and of their gradients, where it is not ``dtype``."""
    task = _Task(
        list(nodes), list(inputs), list(outputs), specs, batch, training, threads, np.dtype(dtype), frozenset(frozen),
        input_gradients and training, frozenset(elsewhere), accumulate, np.dtype(between or dtype),
    )  # fmt: skip
    if recompute is None or not training:
        return _Planner(task, Choice()).plan()
    return _best([_Planner(task, choice) for choice in choices(task.flow, recompute)]).plan()


def _best(planners: Sequence[_Planner]) -> _Planner:
    """Of those that need hardly more than the least memory, the one that runs the least again."""
    least = min(planner.peak for planner in planners)
    return min((planner for planner in planners if planner.peak <= ENOUGH * least), key=lambda planner: planner.repeated)


@dataclasses.dataclass(eq=False)
class _Task:
    """What is to be planned, and what follows from it whatever is kept."""

    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    specs: Mapping[str, Parameter]
    batch: int
    training: bool
    threads: int
    dtype: np.dtype
    frozen: frozenset[str]
    input_gradients: bool
    elsewhere: frozenset[Tensor]
    accumulate: bool
    between: np.dtype

    def __post_init__(self) -> None:
        self.learned = {name for name, spec in self.specs.items() if spec.trainable and name not in self.frozen}
        self.places = {} if self.training else find_places(self.nodes, self.inputs, self.outputs)
        self.wanted = self._wanted_gradients() if self.training else set()
        runs_backward = [self.training and self._runs_backward(node) for node in self.nodes]
        self.flow = Flow(self.nodes, self.inputs, self.outputs, runs_backward, self._value_bytes)
        self._scratch: dict[Node, Mapping[str, Buffer]] = {}
        self._prepared: dict[Node, Mapping[str, Buffer]] = {}

    def trains(self, node: Node) -> bool:
        """Whether the node runs as in training."""
        return self.training and not node.constant

    def learned_by(self, node: Node) -> dict[str, str]:
        """The parameters of a node that get a gradient: names in the model by local names."""
        return {local: full for local, full in node.parameters.items() if full in self.learned}

    def scratch(self, node: Node) -> Mapping[str, Buffer]:
        """The layer's scratch; it is asked for once, as the answer may take a while."""
        if node not in self._scratch:
            self._scratch[node] = node.layer.scratch(node.shapes, self.batch, self.threads, self.trains(node))
        return self._scratch[node]

    def prepared(self, node: Node) -> Mapping[str, Buffer]:
        """The layer's prepared arrays, likewise."""
        if node not in self._prepared:
            self._prepared[node] = node.layer.prepared(node.shapes, self.batch, self.threads, self.trains(node))
        return self._prepared[node]

    def prepares_briefly(self, node: Node) -> bool:
        """Whether prepared arrays need only be there for a forward call. In training, parameters are new at every step."""
        return self.training and node.layer.prepared_for_forward

    def array_bytes(self, shape: Shape, dtype: Any, per_sample: bool = True) -> int:
        """Of an array, rounded up so that the next one is aligned."""
        count = math.prod(shape) * (self.batch if per_sample else 1)
        return aligned_size(count * np.dtype(dtype or self.dtype).itemsize)

    def dtype_of(self, tensor: Tensor) -> np.dtype:
        """Of a tensor in memory, and of its gradient. What an alias renames is the same bytes."""
        if tensor.dtype is not None:
            return np.dtype(tensor.dtype)
        return self.dtype if self.flow.root(tensor) in self.flow.stays else self.between

    def _value_bytes(self, value: Value) -> int:
        if isinstance(value, Tensor):
            return self.array_bytes(value.shape, value.dtype or self.between)  # inputs and outputs are not asked for
        return sum(self.array_bytes(buffer.shape, buffer.dtype, buffer.per_sample) for buffer in value.layer.buffers(value.shapes).values())

    def _wanted_gradients(self) -> set[Tensor]:
        """Tensors whose gradient somebody needs."""
        wanted = {tensor for tensor in self.inputs if tensor.dtype is None} if self.input_gradients else set()
        for node in self.nodes:
            if any(tensor in wanted for tensor in node.inputs) or self.learned_by(node):
                wanted.update(node.outputs)
        return wanted

    def _runs_backward(self, node: Node) -> bool:
        return bool(self.learned_by(node)) or any(tensor in self.wanted for tensor in node.inputs)


class _Planner:
    """The blocks of a task, for one choice of what is kept."""

    def __init__(self, task: _Task, choice: Choice):
        self.task, self.flow = task, task.flow
        self.way_back = way_back(self.flow, choice)
        self.loss = len(task.nodes)
        self.end = self.loss + 1 + len(self.way_back)
        self.blocks: list[Block] = []
        self.zeroed: list[Slot] = []
        self.values: dict[Tensor, Slot] = {}  # as far as planning has come: where each tensor lies
        self.buffers: dict[Node, dict[str, Slot]] = {}
        self.made: Counter[Value] = Counter()  # and how often each value was made again
        self.gradients: dict[Tensor, Slot] = {}
        self.uses = self._uses()
        self._lay_out()

    def _lay_out(self) -> None:
        """Make all blocks, whose lifetimes are known then."""
        task = self.task
        for tensor in task.inputs:
            self.values[tensor] = self._slot_of(tensor, -1, *self._times(tensor))
        self.forward = [self._forward(time, node) for time, node in enumerate(task.nodes)]
        self.input_slots, self.output_slots = ([self.values[tensor] for tensor in tensors] for tensors in (task.inputs, task.outputs))
        self.seeds = self._seeds()
        self.backward = self._backward()
        for tensor in task.elsewhere:
            self.values[tensor].block.nbytes = 0

    @functools.cached_property
    def repeated(self) -> int:
        """Operations that are done more than once; an element that is read or written counts as one, too."""
        nodes = [self.task.nodes[step.index] for step in self.way_back if isinstance(step, Again)]
        return sum(node.layer.flops(node.shapes) + elements(node) for node in nodes)

    @functools.cached_property
    def peak(self) -> int:
        """The most bytes that are needed at one time."""
        more = np.zeros(self.end + 3, np.int64)
        for block in self.blocks:
            more[block.first + 1] += block.nbytes
            more[block.last + 2] -= block.nbytes
        return int(more.cumsum().max())

    def plan(self) -> Plan:
        """The plan, with all blocks in their places."""
        task = self.task
        gradient_bytes = 0
        if task.training:
            sizes = (math.prod(task.specs[name].shape) for name in task.learned)
            gradient_bytes = sum(aligned_size(size, task.dtype.itemsize) for size in sizes) * task.dtype.itemsize
        return Plan(
            batch=task.batch,
            threads=task.threads,
            dtype=task.dtype,
            inputs=self.input_slots,
            outputs=self.output_slots,
            output_gradients=[self.seeds[tensor] for tensor in task.outputs] if task.training else [],
            input_gradients=[self.gradients.get(tensor) for tensor in task.inputs] if task.input_gradients else [],
            forward=[step for step in self.forward if not step.node.layer.alias],
            backward=self.backward,
            zeroed=self.zeroed,
            prepared={node: {} if task.prepares_briefly(node) else dict(task.prepared(node)) for node in task.nodes},
            blocks=self.blocks,
            arena_bytes=place(self.blocks),
            parameter_gradient_bytes=gradient_bytes,
        )

    # Who needs what --------------------------------------------------------------------------------------------------

    def _uses(self) -> dict[tuple[Value, int], list[int]]:
        """For each value, and how often it was made again before, the times at which it is read."""
        flow, task = self.flow, self.task
        uses: dict[tuple[Value, int], list[int]] = defaultdict(list)
        made: Counter[Value] = Counter()
        for time, taken in enumerate(flow.takes):
            for tensor in taken:
                uses[tensor, 0].append(time)
        for time, step in enumerate(self.way_back, self.loss + 1):
            node = task.nodes[step.index]
            if isinstance(step, Back):
                for value in flow.reads[step.index]:
                    uses[value, made[value]].append(time)
                continue
            for value in (*flow.takes[step.index], *([node] if leaves_buffers_alone(node.layer) else ())):
                uses[value, made[value]].append(time)
            made.update(self._made_again(node))
        for tensor in task.outputs:
            uses[flow.root(tensor), 0].append(self.end)
        for tensor in task.inputs:
            if task.training or tensor in task.elsewhere:  # they stay as they are, so that forward can be run again
                uses[tensor, 0].append(self.end)
        self._share_uses(uses)
        return uses

    def _share_uses(self, uses: dict[tuple[Value, int], list[int]]) -> None:
        """A tensor and its parts are the same bytes: a use of one is a use of all."""
        for part, place in self.task.places.items():
            whole = self.flow.root(place.whole)
            if uses[part, 0] is not uses[whole, 0]:
                uses[whole, 0].extend(uses[part, 0])
                uses[part, 0] = uses[whole, 0]

    def _made_again(self, node: Node) -> list[Value]:
        """What is made anew when a node runs again."""
        made = self.flow.makes[self.flow.maker[node.outputs[0]]]
        return [value for value in made if not (value is node and leaves_buffers_alone(node.layer))]

    def _times(self, value: Value) -> list[int]:
        """When a value, as it is now, is read."""
        if isinstance(value, Tensor):
            value = self.flow.root(value)
        return self.uses[value, self.made[value]]

    # Making blocks ---------------------------------------------------------------------------------------------------

    def _slot(self, shape: Shape, dtype: Any, *times: int, per_sample: bool = True) -> Slot:
        """An array in a block of its own that is needed at ``times``."""
        block = Block(self.task.array_bytes(shape, dtype, per_sample), min(times), max(times))
        self.blocks.append(block)
        return Slot(block, (self.task.batch, *shape) if per_sample else tuple(shape), np.dtype(dtype or self.task.dtype))

    def _slot_of(self, tensor: Tensor, *times: int) -> Slot:
        """The same for a tensor, or its gradient."""
        return self._slot(tensor.shape, self.task.dtype_of(tensor), *times)

    def _view(self, slot: Slot, shape: Shape, *times: int) -> Slot:
        """The same bytes in another shape, needed at ``times`` too."""
        slot.block.need(*times)
        return Slot(slot.block, (self.task.batch, *shape), slot.dtype)

    def _arrays(self, buffers: Mapping[str, Buffer], *times: int) -> dict[str, Slot]:
        return {name: self._slot(buffer.shape, buffer.dtype, *times, per_sample=buffer.per_sample) for name, buffer in buffers.items()}

    # Forward ---------------------------------------------------------------------------------------------------------

    def _forward(self, time: int, node: Node, again: bool = False) -> Forward:
        """A forward call: the first, or a further one, whose outputs are new arrays."""
        task, x = self.task, [self.values[tensor] for tensor in node.inputs]
        if node.layer.alias:
            return Forward(node, x, [self._rename(node)], {}, {}, {})
        keeps_buffers = again and leaves_buffers_alone(node.layer)
        if again:
            self._begin_anew(node)
        overwritten = self._overwritten(time, node)
        for tensor in node.outputs:
            times = (time, *self._times(tensor))
            if overwritten is not None:
                self.values[tensor] = self._view(self.values[overwritten], tensor.shape, *times)
            else:
                self.values[tensor] = self._room(tensor, *times)
        if again:
            for renaming in self.flow.renaming[node]:
                self._rename(renaming)
        if task.trains(node) and not keeps_buffers:
            self.buffers[node] = self._arrays(node.layer.buffers(node.shapes), time, *self._times(node))
        prepared = self._arrays(task.prepared(node), time) if task.prepares_briefly(node) else {}
        y, scratch = [self.values[tensor] for tensor in node.outputs], self._arrays(task.scratch(node), time)
        return Forward(node, x, y, self.buffers.get(node, {}), scratch, prepared, again)

    def _begin_anew(self, node: Node) -> None:
        """Forget where lies what is now made again."""
        self.made.update(self._made_again(node))
        for tensor in node.outputs:
            del self.values[tensor]

    def _rename(self, node: Node) -> Slot:
        """An alias is its input in another shape."""
        (x,), (y,) = node.inputs, node.outputs
        lies = self.values[x]
        self.values[y] = Slot(lies.block, (self.task.batch, *y.shape), lies.dtype)
        return self.values[y]

    def _room(self, tensor: Tensor, *times: int) -> Slot:
        """Where a tensor is written: in its place in another one, where its parts lie already, or in a block of its own."""
        place = self.task.places.get(tensor)
        if place is not None:
            around = self._room(place.whole, *times)
            return Slot(around.block, (self.task.batch, *tensor.shape), around.dtype, place.channel, place.whole.shape[-1])
        if tensor not in self.values:
            self.values[tensor] = self._slot_of(tensor, *times)
        self.values[tensor].block.need(*times)
        return self.values[tensor]

    def _overwritten(self, time: int, node: Node) -> Tensor | None:
        """The input that the node's output may overwrite, because nobody reads the old value after this step. Neither may lie
        inside another tensor: the output is dense, and would come to lie over pixels that are still to be read. Only the first two inputs
        come into question: a sum of three that began with the last one would round otherwise, by what else is kept."""
        places = self.task.places
        if not node.layer.in_place or len(node.outputs) != 1:
            return None
        (y,) = node.outputs
        if y in places or y in self.values:
            return None
        for x in node.inputs[:2]:
            if x in places:
                continue
            times = self._times(x)
            last_read = all(use < time for use in times if use != time) and times.count(time) == 1
            if last_read and x.shape == y.shape and self.values[x].dtype == self.task.dtype_of(y):
                return x
        return None

    # Backward --------------------------------------------------------------------------------------------------------

    def _seeds(self) -> dict[Tensor, Slot]:
        """Gradients of the outputs. They stay as the loss wrote them, from before the first step to after the last."""
        if not self.task.training:
            return {}
        return {tensor: self._slot_of(tensor, -1, self.end) for tensor in self.task.outputs}

    def _backward(self) -> list[Backward | Forward]:
        contributors = self._contributors()
        for tensor, seed in self.seeds.items():
            if tensor in self.task.wanted and not contributors[tensor]:
                self.gradients[tensor] = seed
        protected = {seed.block for seed in self.seeds.values()}
        begun = set(self.task.learned) if self.task.accumulate else set()
        steps: list[Backward | Forward] = []
        for time, step in enumerate(self.way_back, self.loss + 1):
            node = self.task.nodes[step.index]
            if isinstance(step, Again):
                steps.append(self._forward(time, node, again=True))
            else:
                steps.append(self._backward_step(time, node, protected, begun))
        return steps

    def _contributors(self) -> dict[Tensor, int]:
        """How many backward calls contribute to the gradient of a tensor."""
        count: dict[Tensor, int] = defaultdict(int)
        for node in self.task.nodes:
            for tensor in node.inputs:
                count[tensor] += tensor in self.task.wanted
        return count

    def _backward_step(self, time: int, node: Node, protected: set[Block], begun: set[str]) -> Backward:
        layer, seeds = node.layer, self.seeds
        dy = [self._gradient(tensor, time, protected) for tensor in node.outputs]
        after: list[Combine] = []
        dx: list[Slot | None] = []
        adds = layer.adds_gradients and node.inputs[0] in self.gradients
        for tensor in node.inputs:
            if tensor not in self.task.wanted:
                dx.append(None)
                continue
            if adds:
                dx.append(self.gradients[tensor])
                self.gradients[tensor].block.need(time)
                continue
            if layer.alias and tensor in self.gradients:
                after.append(Combine(self.gradients[tensor], dy[0]))
                continue
            slot = self._contribution(node, tensor, dy, time, protected | {slot.block for slot in dx if slot})
            if layer.alias and slot.block is not dy[0].block:
                after.append(Combine(slot, dy[0], copy=True))
            if tensor in self.gradients:
                after.append(Combine(self.gradients[tensor], slot))
            else:
                self.gradients[tensor] = slot
                if tensor in seeds:
                    after.append(Combine(slot, seeds[tensor]))
                if tensor in self.task.inputs:
                    slot.block.need(self.end)
            dx.append(slot)
        dp: dict[str, str | Slot] = {}
        for local, full in self.task.learned_by(node).items():
            if full in begun:
                temporary = self._slot(self.task.specs[full].shape, None, time, per_sample=False)
                dp[local] = temporary
                after.append(Combine(full, temporary))
            else:
                dp[local] = full
                begun.add(full)
        if layer.alias:
            return Backward(node, None, None, dy, dx, {}, {}, {}, after)
        x, y = (
            [self.values[tensor] for tensor in tensors] if letter in layer.backward_reads else None
            for letter, tensors in (("x", node.inputs), ("y", node.outputs))
        )
        scratch = self._arrays(self.task.scratch(node), time)
        return Backward(node, x, y, dy, dx, dp, self.buffers.get(node, {}), scratch, after, adds)

    def _gradient(self, tensor: Tensor, time: int, protected: set[Block]) -> Slot:
        """The finished gradient of a node's output; zeros for an output that nobody uses."""
        slot = self.gradients.get(tensor)
        if slot is None:
            slot = self._slot_of(tensor, -1, self.end)
            self.zeroed.append(slot)
            protected.add(slot.block)
        slot.block.need(time)
        return slot

    def _contribution(self, node: Node, tensor: Tensor, dy: Sequence[Slot], time: int, protected: set[Block]) -> Slot:
        """Where a node puts the gradient of an input: over the gradient of its output if it may. ``protected`` blocks
        must not be overwritten."""
        same = tensor.shape == node.outputs[0].shape and self.task.dtype_of(tensor) == dy[0].dtype
        may_share = node.layer.alias or (node.layer.in_place and len(dy) == 1 and same)
        if may_share and dy[0].block not in protected:
            return self._view(dy[0], tensor.shape, time)
        return self._slot_of(tensor, time)


def place(blocks: Iterable[Block]) -> int:
    """Give every block an offset such that blocks whose lifetimes overlap don't share bytes; the bytes needed in all."""
    ordered = sorted(blocks, key=lambda block: (-block.nbytes, block.first, block.last))
    first, last, start, end = (np.zeros(len(ordered), np.int64) for _ in range(4))
    for index, block in enumerate(ordered):
        alive = (first[:index] <= block.last) & (last[:index] >= block.first)
        block.offset = _best_gap(start[:index][alive], end[:index][alive], block.nbytes)
        first[index], last[index] = block.first, block.last
        start[index], end[index] = block.offset, block.offset + block.nbytes
    return int(end.max(initial=0))


def _best_gap(starts: np.ndarray, ends: np.ndarray, nbytes: int) -> int:
    """Offset of the smallest gap of at least ``nbytes`` between occupied ranges, or the end of the last one."""
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(np.concatenate(([0], ends[order])))
    gaps = starts[order] - reached[:-1]
    fitting = np.flatnonzero(gaps >= nbytes)
    if not fitting.size:
        return int(reached[-1])
    return int(reached[fitting[np.argmin(gaps[fitting])]])
