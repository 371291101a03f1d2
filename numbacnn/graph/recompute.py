"""What training keeps from its forward pass, and which layers it runs again on the way back instead.

A *value* is a tensor (an alias counts as the tensor that it renames), or the buffers of a layer, which go by their node. What is not kept
is made again when a backward call reads it, by running the layers between it and what is there. Two rules say what is kept:

- ``"cheap"``: layers that do little arithmetic per byte (normalisation, activations, concatenation, pooling) run again. Of all sets of
  values from which such layers can make what the backward pass reads, the one with the fewest bytes is kept: a minimum cut of the network
  between what is computed and what is read, as in PyTorch's AOTAutograd.
- ``"blocks"``: the network is cut into blocks, only what crosses a cut is kept, and the forward pass of a block runs again before its
  backward pass (T. Chen et al., "Training deep nets with sublinear memory cost", 2016, arXiv:1604.06174). Within a block the first rule
  holds.

How long chains may get that run again, and how large blocks may be, is left open: :func:`choices` gives several answers, and the planner
takes one that needs little memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import cast

import numpy as np

from ..errors import ConfigError
from ..layers.base import Layer
from .build import Node
from .tensor import Tensor

MODES = ("cheap", "blocks")

CHEAP = 4  # floating-point operations per element read or written, up to which a layer is cheap
CHAINS = (2, 4, 8)  # how many cheap layers in a row may run again
CHAINS_IN_BLOCKS = (4, 8)
BLOCK_SIZES = 10  # limits of a block's bytes that are tried

Value = Tensor | Node


@dataclasses.dataclass(frozen=True)
class Again:
    """The node of that number runs forward once more."""

    index: int


@dataclasses.dataclass(frozen=True)
class Back:
    """The node of that number runs backward."""

    index: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """Values that are not kept after the forward pass, and those among them that, made again on the way to another one, are not kept
    until they are read themselves."""

    dropped: frozenset[Value] = frozenset()
    transient: frozenset[Value] = frozenset()


class Flow:
    """Which values each node takes and makes, and which ones its backward call reads.

    ``sizes`` are bytes by value, inputs and outputs of the network apart, which stay anyway. ``repeatable`` says of each node whether it
    may run again."""

    def __init__(
        self, nodes: Sequence[Node], inputs: Sequence[Tensor], outputs: Sequence[Tensor], runs_backward: Sequence[bool],
        size_of: Callable[[Value], int],
    ):  # fmt: skip
        self.nodes = nodes
        self.roots: dict[Tensor, Tensor] = {}  # of aliases
        self.renaming: dict[Node, list[Node]] = defaultdict(list)  # by the node that makes a tensor, those that rename it, in order
        writer = {tensor: node for node in nodes for tensor in node.outputs}
        for node in nodes:
            if node.layer.alias:
                root = self.roots[node.outputs[0]] = self.root(node.inputs[0])
                if root in writer:
                    self.renaming[writer[root]].append(node)
        self.takes: list[list[Tensor]] = [[] if node.layer.alias else list(map(self.root, node.inputs)) for node in nodes]
        self.makes = [self._made(node) for node in nodes]
        self.reads = [self._read(node) if runs else [] for node, runs in zip(nodes, runs_backward)]
        self.runs_backward = list(runs_backward)
        self.repeatable = [_repeatable(node) for node in nodes]
        self.maker = {value: index for index, made in enumerate(self.makes) for value in made}
        self.stays = {self.root(tensor) for tensor in (*inputs, *outputs)}
        self.sizes = {value: size_of(value) for value in self.maker if value not in self.stays}

    def root(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or that which it renames."""
        return self.roots.get(tensor, tensor)

    def _made(self, node: Node) -> list[Value]:
        if node.layer.alias:
            return []
        has_buffers = not node.constant and node.layer.buffers(node.shapes)
        return [*node.outputs, node] if has_buffers else list(node.outputs)

    def _read(self, node: Node) -> list[Value]:
        if node.layer.alias:
            return []
        reads = node.layer.backward_reads
        tensors = [*(node.inputs if "x" in reads else ()), *(node.outputs if "y" in reads else ())]
        return [*map(self.root, tensors), *(value for value in self._made(node) if value is node)]


def _repeatable(node: Node) -> bool:
    return not node.constant and not node.layer.alias and node.layer.repeatable(node.shapes)


def leaves_buffers_alone(layer: Layer) -> bool:
    """Whether running the layer again reads the buffers that its first run has left."""
    return type(layer).forward_again is not Layer.forward_again


# The way back --------------------------------------------------------------------------------------------------------


def way_back(flow: Flow, choice: Choice) -> list[Again | Back]:
    """What runs after the loss: all backward calls, and before each one what has to run again for it."""
    missing = set(choice.dropped)
    steps: list[Again | Back] = []
    for index in reversed(range(len(flow.nodes))):
        if flow.runs_backward[index]:
            again = _to_run_again(flow, flow.reads[index], missing)
            steps += [*map(Again, again), Back(index)]
            missing -= {value for number in again for value in flow.makes[number] if value not in choice.transient}
            missing.difference_update(flow.reads[index])
    return steps


def _to_run_again(flow: Flow, wanted: Sequence[Value], missing: Collection[Value]) -> list[int]:
    """Numbers of the nodes that make those of the wanted values that are ``missing``, in running order."""
    found: set[int] = set()
    waiting = [value for value in wanted if value in missing]
    while waiting:
        index = flow.maker[waiting.pop()]
        if index not in found:
            found.add(index)
            waiting += [value for value in flow.takes[index] if value in missing]
    return sorted(found)


def checked_recompute(mode: object) -> str | None:
    """The mode, or ConfigError where there is none of that name."""
    if mode is not None and mode not in MODES:
        raise ConfigError(f"recompute is {mode!r}; it takes None, {' or '.join(map(repr, MODES))}.")
    return cast("str | None", mode)


# What is kept --------------------------------------------------------------------------------------------------------


def choices(flow: Flow, mode: str) -> Iterator[Choice]:
    """Sensible choices of a mode, those that compute least again first."""
    for chain in CHAINS if mode == "cheap" else CHAINS_IN_BLOCKS:
        cheap = _cheap(flow, chain)
        kept = _fewest_bytes(flow, cheap)
        dropped = frozenset(value for index in cheap for value in _droppable(flow, index) if value not in kept)
        if mode == "cheap":
            yield Choice(dropped)
        else:
            yield from _blocks(flow, dropped)


def _droppable(flow: Flow, index: int) -> list[Value]:
    """What a node makes that need not be kept if it may run again."""
    node = flow.nodes[index]
    return [v for v in flow.makes[index] if v in flow.sizes and not (v is node and leaves_buffers_alone(node.layer))]


def _cheap(flow: Flow, chain: int) -> list[int]:
    """Numbers of cheap nodes, in chains of at most so many from one that is not."""
    depth: dict[int, int] = {}
    for index, node in enumerate(flow.nodes):
        if flow.repeatable[index] and _does_little(node):
            depth[index] = 1 + max((depth.get(flow.maker.get(value, -1), 0) for value in flow.takes[index]), default=0)
            if depth[index] > chain:
                del depth[index]
    return list(depth)


def _does_little(node: Node) -> bool:
    return node.layer.flops(node.shapes) <= CHEAP * elements(node)


def elements(node: Node) -> int:
    """Of one sample, that a node reads and writes."""
    return sum(math.prod(tensor.shape) for tensor in (*node.inputs, *node.outputs))


def _fewest_bytes(flow: Flow, cheap: Collection[int]) -> set[Value]:
    """The values with the fewest bytes in all from which the nodes ``cheap`` can make all that is read on the way back; of several such
    sets the one nearest to the readers."""
    network = _Network()
    again = set(cheap)
    for value, size in flow.sizes.items():
        network.join((value, "in"), (value, "out"), size)
        index = flow.maker[value]
        if index not in again or value not in _droppable(flow, index):
            network.join(_SOURCE, (value, "in"), math.inf)
            continue
        for taken in flow.takes[index]:
            if taken in flow.sizes:
                network.join((taken, "out"), (value, "in"), math.inf)
    for value in {value for read in flow.reads for value in read if value in flow.sizes}:
        network.join((value, "out"), _SINK, math.inf)
    beyond = network.near_sink()
    return {value for value in flow.sizes if (value, "out") in beyond and (value, "in") not in beyond}


# Blocks --------------------------------------------------------------------------------------------------------------


def _blocks(flow: Flow, transient: frozenset[Value]) -> Iterator[Choice]:
    """Choices for several sizes of blocks, the largest first."""
    cuts = _Cuts(flow, transient)
    seen = set()
    for limit in cuts.limits():
        ends = cuts.fewest_bytes(limit)
        if ends in seen:
            continue
        seen.add(ends)
        kept = set().union(*(cuts.crossing[end] for end in ends))
        again = range(ends[-1]) if ends else ()
        dropped = {value for index in again if flow.repeatable[index] for value in _droppable(flow, index) if value not in kept}
        late = {value for value in transient if flow.maker[value] not in again}
        yield Choice(frozenset(dropped | late), transient)


class _Cuts:
    """Where the network may be cut, a cut ``k`` being before node ``k``: which values cross it, and how many bytes."""

    def __init__(self, flow: Flow, transient: Collection[Value]):
        count = len(flow.nodes)
        last: dict[Value, int] = {value: index for index, taken in enumerate(flow.takes) for value in taken}
        read = {value for values in flow.reads for value in values}
        self._room = np.zeros(count + 1)  # bytes that nodes before a cut keep for their backward pass
        self.crossing: list[list[Value]] = [[] for _ in range(count + 1)]
        for index, made in enumerate(flow.makes):
            for value in made:
                if value not in flow.sizes:
                    continue
                for cut in range(index + 1, last.get(value, index) + 1):
                    self.crossing[cut].append(value)
                if value in read and value not in transient:
                    self._room[index + 1] += flow.sizes[value]
        self._room = np.cumsum(self._room)
        self._fresh = [self._fresh_bytes(flow, cut) for cut in range(count)]

    def _fresh_bytes(self, flow: Flow, cut: int) -> np.ndarray:
        """For each earlier cut, the bytes that cross this one and not that: what nodes between the two have made."""
        made = np.zeros(cut + 1)
        for value in self.crossing[cut]:
            made[flow.maker[value]] += flow.sizes[value]
        return np.cumsum(made[::-1])[::-1][:cut]

    def limits(self) -> list[float]:
        """Bytes that blocks may be limited to, from all to hardly any."""
        largest, whole = float(np.diff(self._room).max(initial=1)), float(self._room[-1])
        return list(np.geomspace(max(whole, 1), max(min(largest, whole), 1), BLOCK_SIZES))

    def fewest_bytes(self, limit: float) -> tuple[int, ...]:
        """The cuts with the fewest bytes in all between which no block keeps more than ``limit``; single nodes may."""
        count = len(self._fresh)
        cost, before = np.zeros(count + 1), np.zeros(count + 1, int)
        for end in range(1, count + 1):
            first = min(int(np.searchsorted(self._room[:end], self._room[end] - limit)), end - 1)
            found = cost[first:end] + (self._fresh[end][first:] if end < count else 0)
            before[end] = first + int(found.argmin())
            cost[end] = found.min()
        ends = []
        at = int(before[count])
        while at:
            ends.append(at)
            at = int(before[at])
        return tuple(reversed(ends))


# A minimum cut -------------------------------------------------------------------------------------------------------

_SOURCE, _SINK = "source", "sink"


class _Network:
    """Maximum flow by E. A. Dinic's algorithm (1970), and the minimum cut that follows from it."""

    def __init__(self) -> None:
        self._left: dict[object, dict[object, float]] = defaultdict(dict)  # capacity that is left, both ways

    def join(self, a: object, b: object, capacity: float) -> None:
        """An edge from ``a`` to ``b``."""
        self._left[a][b] = capacity
        self._left[b].setdefault(a, 0)

    def near_sink(self) -> set[object]:
        """The vertices from which the sink can be reached once the flow is at its maximum: the cut goes around them."""
        while (levels := self._levels()) is not None:
            while self._push(levels):
                pass
        beyond: set[object] = {_SINK}
        waiting: list[object] = [_SINK]
        while waiting:
            vertex = waiting.pop()
            for other in self._left[vertex]:
                if other not in beyond and self._left[other][vertex] > 0:
                    beyond.add(other)
                    waiting.append(other)
        return beyond

    def _levels(self) -> dict[object, int] | None:
        """Distances from the source over edges with capacity left, None where the sink is out of reach."""
        levels: dict[object, int] = {_SOURCE: 0}
        waiting: list[object] = [_SOURCE]
        for vertex in waiting:
            for other, left in self._left[vertex].items():
                if left > 0 and other not in levels:
                    levels[other] = levels[vertex] + 1
                    waiting.append(other)
        return levels if _SINK in levels else None

    def _push(self, levels: dict[object, int]) -> bool:
        """Send what fits along one shortest path; False where there is none any more. Vertices that lead nowhere leave ``levels``."""
        path: list[object] = [_SOURCE]
        while path[-1] is not _SINK:
            vertex = path[-1]
            further = levels[vertex] + 1
            step = next((other for other, left in self._left[vertex].items() if left > 0 and levels.get(other) == further), None)
            if step is not None:
                path.append(step)
            elif len(path) == 1:
                return False
            else:
                del levels[path.pop()]
        edges = list(itertools.pairwise(path))
        amount = min(self._left[a][b] for a, b in edges)
        for a, b in edges:
            self._left[a][b] -= amount
            self._left[b][a] += amount
        return True
