"""Sections of a network, each of which a batch walks through in groups of samples.

The first layers of a network have large maps and few weights: a batch of them leaves every cache, and is better taken image by image. The
last layers have small maps and many weights, which are better read once for many images. So the nodes are cut where only one tensor goes
on, and each section gets the size of group for which the fewest bytes come from memory: its weights once per group, and activations
where those of a group don't fit a cache. What a group holds counts, too: where even one sample does not fit, groups
of all sizes would be as good.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import aligned_size
from .build import Node
from .places import find_places
from .plan import Block, Plan, Slot, place
from .tensor import Tensor

CACHE_BYTES = 3 << 20  # per thread: what the inputs and outputs of a node may take to stay in the last-level cache
LAUNCH_BYTES = 128 << 10  # that could be read in the time that a launch takes to begin and end
CUT_BYTES = 1 << 20  # that a cut has to save
HELD = 0.5  # bytes from memory in place of which a section holds one less that does not fit the cache


@dataclasses.dataclass(frozen=True)
class Section:
    """Neighbouring nodes that run over ``group`` samples at a time, from ``inputs`` to ``outputs``. ``between`` are those of them that come
    from the section before it, or go to the next."""

    nodes: list[Node]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    group: int
    between: tuple[Tensor, ...] = ()


def find_sections(
    nodes: Sequence[Node], inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch: int, threads: int, dtype: Any
) -> list[Section]:
    """Cut ``nodes`` (of inference, in running order) for a batch of that size."""
    if batch == 1 or not nodes:
        return [Section(list(nodes), inputs, outputs, batch)]
    cuts: dict[int, Tensor | None] = {0: None, **_cuts(nodes, inputs, outputs), len(nodes): None}
    groups = _groups(batch)
    costs = _Costs(nodes, groups, batch, threads, np.dtype(dtype))
    best: dict[int, tuple[float, list[tuple[int, int, int]]]] = {0: (0.0, [])}  # by cut: cost of all before it, and the sections
    ends = list(cuts)
    for number, end in enumerate(ends[1:], 1):
        tensor = cuts[end]
        crossing = 0 if tensor is None else costs.crossing(tensor)
        best[end] = min(
            (
                (best[start][0] + crossing + costs.section(start, end, k), [*best[start][1], (start, end, group)])
                for start in ends[:number]
                for k, group in enumerate(groups)
            ),
            key=lambda found: found[0],  # of equals the first: with the fewest cuts, and the largest group
        )
    return [_section(nodes[start:end], cuts[start], cuts[end], inputs, outputs, group) for start, end, group in best[len(nodes)][1]]


def _section(
    nodes: Sequence[Node], before: Tensor | None, behind: Tensor | None, inputs: Sequence[Tensor], outputs: Sequence[Tensor], group: int
) -> Section:
    """The section between two cuts; None is an end of the network."""
    return Section(
        list(nodes),
        inputs if before is None else (before,),
        outputs if behind is None else (behind,),
        group,
        tuple(tensor for tensor in (before, behind) if tensor is not None),
    )


def _groups(batch: int) -> list[int]:
    """Sizes of groups that a batch can be cut into evenly, up to the last one."""
    return sorted({-(-batch // -(-batch // group)) for group in (2**k for k in range(batch.bit_length()))} | {batch}, reverse=True)


def _cuts(nodes: Sequence[Node], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Where nodes may be cut, as the number of nodes before it, with the one tensor that goes on. It has an array of its own."""
    last_use = {tensor: k for k, node in enumerate(nodes) for tensor in node.inputs} | dict.fromkeys(outputs, len(nodes))
    places = find_places(nodes, inputs, outputs)
    shared = {tensor for place in places.values() for tensor in (place.whole,)} | set(places)
    live = {tensor for tensor in inputs if tensor in last_use}
    cuts = {}
    for k, node in enumerate(nodes[:-1]):
        live = {tensor for tensor in live | set(node.outputs) if last_use.get(tensor, -1) > k}
        if len(live) == 1 and not node.layer.alias:
            (tensor,) = live
            if tensor in node.outputs and tensor not in outputs and tensor not in shared:
                cuts[k + 1] = tensor
    return cuts


class _Costs:
    """Bytes that come from memory, for a whole batch."""

    def __init__(self, nodes: Sequence[Node], groups: Sequence[int], batch: int, threads: int, dtype: np.dtype):
        self._batch, self._cache, self._itemsize = batch, CACHE_BYTES * threads, dtype.itemsize
        activations = np.array([sum(map(self._bytes, (*node.inputs, *node.outputs))) for node in nodes])
        weights = np.array([self._weights(node, threads) for node in nodes])
        rows = [
            -(-batch // group) * (weights + LAUNCH_BYTES) + batch * np.where(group * activations > self._cache, activations, 0)
            for group in groups
        ]
        self._sums = np.concatenate((np.zeros((len(groups), 1)), np.cumsum(rows, axis=1)), axis=1)
        self._groups = groups
        self._widest = [np.maximum.accumulate(activations[start:]) for start in range(len(nodes))]

    def _bytes(self, tensor: Tensor) -> int:
        return math.prod(tensor.shape) * (self._itemsize if tensor.dtype is None else np.dtype(tensor.dtype).itemsize)

    def _weights(self, node: Node, threads: int) -> int:
        if node.layer.alias:
            return -LAUNCH_BYTES
        prepared = node.layer.prepared(node.shapes, self._batch, threads, False)
        parameters = node.layer.parameters(node.shapes) if node.layer.flops(node.shapes) else {}  # a table is not read as a whole
        return max(sum(math.prod(array.shape) for array in arrays.values()) for arrays in (prepared, parameters)) * self._itemsize

    def section(self, start: int, end: int, group: int) -> float:
        """Of nodes ``start .. end`` in groups of the size with that number."""
        beyond = max(0, self._groups[group] * self._widest[start][end - start - 1] - self._cache)
        return float(self._sums[group, end] - self._sums[group, start] + HELD * beyond)

    def crossing(self, tensor: Tensor) -> int:
        """Of a cut: of writing and reading a tensor for all samples, where it does not fit."""
        nbytes = self._batch * self._bytes(tensor)
        return CUT_BYTES + (2 * nbytes if nbytes > self._cache else 0)


@dataclasses.dataclass(frozen=True)
class WalkPlan:
    """How a batch walks through sections: the plan of each for one group, the bytes of an arena that each runs in (``rooms``), and the
    arrays ``between`` them, which are there for the whole batch. What is not needed at one time shares bytes of one arena."""

    batch: int
    parts: list[Plan]
    rooms: list[Block]
    between: list[Slot]
    arena_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that walking needs beside the parameters themselves."""
        return self.arena_bytes + sum(part.prepared_bytes for part in self.parts)


def make_walk(sections: Sequence[Section], plans: Sequence[Plan], batch: int, dtype: np.dtype) -> WalkPlan:
    """The walk of a batch through sections, whose arrays between them lie elsewhere in their ``plans``."""
    rooms = [Block(plan.arena_bytes, k, k) for k, plan in enumerate(plans)]
    between = [_crossing(section.outputs[0], k, batch, dtype) for k, section in enumerate(sections[:-1])]
    return WalkPlan(batch, list(plans), rooms, between, place([*rooms, *(slot.block for slot in between)]))


def _crossing(tensor: Tensor, section: int, batch: int, dtype: np.dtype) -> Slot:
    """The array between a section and the next one."""
    shape, dtype = (batch, *tensor.shape), np.dtype(tensor.dtype or dtype)
    return Slot(Block(aligned_size(math.prod(shape) * dtype.itemsize), section, section + 1), shape, dtype)
