"""What runs in which order, and where every array lies: decided before anything is allocated or compiled.

Time is counted in steps. With ``n`` nodes, node ``i`` runs forward at time ``i`` and backward at time ``2 n - i``; at
time ``n`` the loss reads the outputs and writes their gradients. Every array is needed from one time to another, and
two arrays whose times don't overlap may share bytes. All offsets follow from that, largest array first, each into the
smallest gap that fits (greedy by size, best fit).

Before that, arrays are merged into one *block* where a layer only renames them (``alias``), may overwrite its input (``in_place``)
because nobody needs the old value any more, or, in inference, concatenates or cuts channels (``places.py``).
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import aligned_size
from ..layers.base import Buffer, Parameter, Shape
from .build import Node
from .places import find_places
from .tensor import Tensor


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
    """Arrays of one forward call. ``x`` and ``y`` follow the node's inputs and outputs."""

    node: Node
    x: list[Slot]
    y: list[Slot]
    buffers: dict[str, Slot]
    scratch: dict[str, Slot]


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
    adds to it. The call is left out for an alias layer, whose ``after`` remains."""

    node: Node
    x: list[Slot] | None
    y: list[Slot] | None
    dy: list[Slot]
    dx: list[Slot | None]
    dp: dict[str, str | Slot]
    buffers: dict[str, Slot]
    scratch: dict[str, Slot]
    after: list[Combine]


@dataclasses.dataclass(eq=False)
class Plan:
    """The outcome of :func:`make_plan`. Gradients of outputs are written by the loss between forward and backward."""

    batch: int
    threads: int
    dtype: np.dtype
    inputs: list[Slot]
    outputs: list[Slot]
    output_gradients: list[Slot]
    input_gradients: list[Slot | None]
    forward: list[Forward]
    backward: list[Backward]
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
        """Bytes of arrays derived from parameters."""
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
) -> Plan:
    """Plan ``nodes`` (in running order) for one batch size. ``frozen`` names parameters that get no gradient. Arrays of inputs and outputs
    that lie ``elsewhere`` take no room: who runs the plan brings them, and finds such inputs as they were."""
    return _Planner(nodes, inputs, outputs, specs, batch, training, threads, np.dtype(dtype), frozen, input_gradients, elsewhere).plan()


class _Planner:
    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        specs: Mapping[str, Parameter],
        batch: int,
        training: bool,
        threads: int,
        dtype: np.dtype,
        frozen: Collection[str],
        input_gradients: bool,
        elsewhere: Collection[Tensor],
    ):
        self.nodes, self.inputs, self.outputs, self.specs = list(nodes), list(inputs), list(outputs), specs
        self.batch, self.training, self.threads, self.dtype = batch, training, threads, dtype
        self.learned = {name for name, spec in specs.items() if spec.trainable and name not in frozen}
        self.input_gradients, self.elsewhere = input_gradients and training, elsewhere
        self.end = 2 * len(self.nodes) + 1
        self.blocks: list[Block] = []
        self.zeroed: list[Slot] = []
        self.values: dict[Tensor, Slot] = {}
        self.places = {} if training else find_places(self.nodes, self.inputs, self.outputs)
        self.gradients: dict[Tensor, Slot] = {}
        self.wanted = self._wanted_gradients() if training else set()
        self.runs_backward = [training and self._runs_backward(node) for node in self.nodes]

    def plan(self) -> Plan:
        uses = self._uses()
        for tensor in self.inputs:
            self.values[tensor] = self._slot(tensor.shape, tensor.dtype, -1, *uses[tensor])
        forward = [self._forward(time, node, uses) for time, node in enumerate(self.nodes)]
        seeds = self._seeds()
        backward = self._backward(forward, seeds)
        for tensor in self.elsewhere:
            self.values[tensor].block.nbytes = 0
        arena_bytes = place(self.blocks)
        gradient_bytes = 0
        if self.training:
            sizes = (math.prod(self.specs[name].shape) for name in self.learned)
            gradient_bytes = sum(aligned_size(size, self.dtype.itemsize) for size in sizes) * self.dtype.itemsize
        return Plan(
            batch=self.batch,
            threads=self.threads,
            dtype=self.dtype,
            inputs=[self.values[tensor] for tensor in self.inputs],
            outputs=[self.values[tensor] for tensor in self.outputs],
            output_gradients=[seeds[tensor] for tensor in self.outputs] if self.training else [],
            input_gradients=[self.gradients.get(tensor) for tensor in self.inputs] if self.input_gradients else [],
            forward=[step for step in forward if not step.node.layer.alias],
            backward=backward,
            zeroed=self.zeroed,
            prepared={node: node.layer.prepared(node.shapes, self.batch, self.threads, self._trains(node)) for node in self.nodes},
            blocks=self.blocks,
            arena_bytes=arena_bytes,
            parameter_gradient_bytes=gradient_bytes,
        )

    # Who needs what --------------------------------------------------------------------------------------------------

    def _wanted_gradients(self) -> set[Tensor]:
        """Tensors whose gradient somebody needs."""
        wanted = {tensor for tensor in self.inputs if tensor.dtype is None} if self.input_gradients else set()
        for node in self.nodes:
            if any(tensor in wanted for tensor in node.inputs) or self._learned(node):
                wanted.update(node.outputs)
        return wanted

    def _trains(self, node: Node) -> bool:
        return self.training and not node.constant

    def _learned(self, node: Node) -> dict[str, str]:
        return {local: full for local, full in node.parameters.items() if full in self.learned}

    def _runs_backward(self, node: Node) -> bool:
        return bool(self._learned(node)) or any(tensor in self.wanted for tensor in node.inputs)

    def _backward_time(self, time: int) -> int:
        return 2 * len(self.nodes) - time

    def _uses(self) -> dict[Tensor, list[int]]:
        """For each tensor the times at which its value is read."""
        uses: dict[Tensor, list[int]] = defaultdict(list)
        for time, node in enumerate(self.nodes):
            if node.layer.alias:
                continue
            for tensor in node.inputs:
                uses[tensor].append(time)
            if self.runs_backward[time]:
                for letter, tensors in (("x", node.inputs), ("y", node.outputs)):
                    for tensor in tensors if letter in node.layer.backward_reads else ():
                        uses[tensor].append(self._backward_time(time))
        for tensor in self.outputs:
            uses[tensor].append(self.end)
        for tensor in self.inputs:
            if self.training or tensor in self.elsewhere:  # they stay as they are, so that forward can be run again
                uses[tensor].append(self.end)
        self._share_uses(uses)
        return uses

    def _share_uses(self, uses: dict[Tensor, list[int]]) -> None:
        """A tensor, its aliases (the same value under several shapes) and its parts are the same bytes: a use of one is a use of all."""
        aliases = [(node.inputs[0], node.outputs[0]) for node in self.nodes if node.layer.alias]
        shares_with: dict[Tensor, Tensor] = {}

        def first_of(tensor: Tensor) -> Tensor:
            while tensor in shares_with:
                tensor = shares_with[tensor]
            return tensor

        for pair in (*aliases, *((place.whole, part) for part, place in self.places.items())):
            a, b = map(first_of, pair)
            if a is not b:
                uses[a].extend(uses[b])
                shares_with[b] = a
        for tensor in shares_with:
            uses[tensor] = uses[first_of(tensor)]

    # Making blocks ---------------------------------------------------------------------------------------------------

    def _slot(self, shape: Shape, dtype: Any, *times: int, per_sample: bool = True) -> Slot:
        """An array in a block of its own that is needed at ``times``."""
        dtype = np.dtype(dtype or self.dtype)
        shape = (self.batch, *shape) if per_sample else tuple(shape)
        block = Block(aligned_size(math.prod(shape) * dtype.itemsize), min(times), max(times))
        self.blocks.append(block)
        return Slot(block, shape, dtype)

    def _view(self, slot: Slot, shape: Shape, *times: int) -> Slot:
        """The same bytes in another shape, needed at ``times`` too."""
        slot.block.need(*times)
        return Slot(slot.block, (self.batch, *shape), slot.dtype)

    def _arrays(self, buffers: Mapping[str, Buffer], *times: int) -> dict[str, Slot]:
        return {name: self._slot(buffer.shape, buffer.dtype, *times, per_sample=buffer.per_sample) for name, buffer in buffers.items()}

    def _scratch(self, node: Node, time: int) -> dict[str, Slot]:
        return self._arrays(node.layer.scratch(node.shapes, self.batch, self.threads, self._trains(node)), time)

    # Forward ---------------------------------------------------------------------------------------------------------

    def _forward(self, time: int, node: Node, uses: Mapping[Tensor, list[int]]) -> Forward:
        x = [self.values[tensor] for tensor in node.inputs]
        if node.layer.alias:
            (y,) = node.outputs
            self.values[y] = self._view(x[0], y.shape, time, *uses[y])
            return Forward(node, x, [self.values[y]], {}, {})
        overwritten = self._overwritten(time, node, uses)
        for tensor in node.outputs:
            times = (time, *uses[tensor])
            if overwritten is not None:
                self.values[tensor] = self._view(self.values[overwritten], tensor.shape, *times)
            else:
                self.values[tensor] = self._room(tensor, *times)
        buffers = {}
        if self._trains(node):
            last = self._backward_time(time) if self.runs_backward[time] else time
            buffers = self._arrays(node.layer.buffers(node.shapes), time, last)
        return Forward(node, x, [self.values[tensor] for tensor in node.outputs], buffers, self._scratch(node, time))

    def _room(self, tensor: Tensor, *times: int) -> Slot:
        """Where a tensor is written: in its place in another one, where its parts lie already, or in a block of its own."""
        place = self.places.get(tensor)
        if place is not None:
            around = self._room(place.whole, *times)
            return Slot(around.block, (self.batch, *tensor.shape), around.dtype, place.channel, place.whole.shape[-1])
        if tensor not in self.values:
            self.values[tensor] = self._slot(tensor.shape, tensor.dtype, *times)
        self.values[tensor].block.need(*times)
        return self.values[tensor]

    def _overwritten(self, time: int, node: Node, uses: Mapping[Tensor, list[int]]) -> Tensor | None:
        """The input that the node's output may overwrite, because nobody reads the old value after this step. Neither may lie
        inside another tensor: the output is dense, and would come to lie over pixels that are still to be read."""
        if not node.layer.in_place or len(node.outputs) != 1:
            return None
        (y,) = node.outputs
        if y in self.places or y in self.values:
            return None
        for x in node.inputs:
            if x in self.places:
                continue
            last_read = all(use < time for use in uses[x] if use != time) and uses[x].count(time) == 1
            if last_read and x.shape == y.shape and self.values[x].dtype == np.dtype(y.dtype or self.dtype):
                return x
        return None

    # Backward --------------------------------------------------------------------------------------------------------

    def _seeds(self) -> dict[Tensor, Slot]:
        """Gradients of the outputs. They stay as the loss wrote them, from before the first step to after the last."""
        if not self.training:
            return {}
        return {tensor: self._slot(tensor.shape, tensor.dtype, -1, self.end) for tensor in self.outputs}

    def _backward(self, forward: Sequence[Forward], seeds: Mapping[Tensor, Slot]) -> list[Backward]:
        contributors = self._contributors()
        for tensor, seed in seeds.items():
            if tensor in self.wanted and not contributors[tensor]:
                self.gradients[tensor] = seed
        protected = {seed.block for seed in seeds.values()}
        begun: set[str] = set()
        steps = []
        for index in reversed(range(len(self.nodes))):
            if self.runs_backward[index]:
                steps.append(self._backward_step(self._backward_time(index), forward[index], seeds, protected, begun))
        return steps

    def _contributors(self) -> dict[Tensor, int]:
        """How many backward calls contribute to the gradient of a tensor."""
        count: dict[Tensor, int] = defaultdict(int)
        for node in self.nodes:
            for tensor in node.inputs:
                count[tensor] += tensor in self.wanted
        return count

    def _backward_step(self, time: int, run: Forward, seeds: Mapping[Tensor, Slot], protected: set[Block], begun: set[str]) -> Backward:
        node, layer = run.node, run.node.layer
        dy = [self._gradient(tensor, time, protected) for tensor in node.outputs]
        after: list[Combine] = []
        dx: list[Slot | None] = []
        for tensor in node.inputs:
            if tensor not in self.wanted:
                dx.append(None)
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
                if tensor in self.inputs:
                    slot.block.need(self.end)
            dx.append(slot)
        dp: dict[str, str | Slot] = {}
        for local, full in self._learned(node).items():
            if full in begun:
                temporary = self._slot(self.specs[full].shape, None, time, per_sample=False)
                dp[local] = temporary
                after.append(Combine(full, temporary))
            else:
                dp[local] = full
                begun.add(full)
        if layer.alias:
            return Backward(node, None, None, dy, dx, {}, {}, {}, after)
        x = run.x if "x" in layer.backward_reads else None
        y = run.y if "y" in layer.backward_reads else None
        return Backward(node, x, y, dy, dx, dp, run.buffers, self._scratch(node, time), after)

    def _gradient(self, tensor: Tensor, time: int, protected: set[Block]) -> Slot:
        """The finished gradient of a node's output; zeros for an output that nobody uses."""
        slot = self.gradients.get(tensor)
        if slot is None:
            slot = self._slot(tensor.shape, tensor.dtype, -1, self.end)
            self.zeroed.append(slot)
            protected.add(slot.block)
        slot.block.need(time)
        return slot

    def _contribution(self, node: Node, tensor: Tensor, dy: Sequence[Slot], time: int, protected: set[Block]) -> Slot:
        """Where a node puts the gradient of an input: over the gradient of its output if it may. ``protected`` blocks
        must not be overwritten."""
        same = tensor.shape == node.outputs[0].shape and np.dtype(tensor.dtype or self.dtype) == dy[0].dtype
        may_share = node.layer.alias or (node.layer.in_place and len(dy) == 1 and same)
        if may_share and dy[0].block not in protected:
            return self._view(dy[0], tensor.shape, time)
        return self._slot(tensor.shape, tensor.dtype, time)


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
