"""Scratch that is filled by the forward call of another node: of the one that makes a node's first input.

A convolution gathers statistics of its output in this way for the batch norm behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..layers.base import GATHERED
from .build import Node
from .plan import Plan, place


def hand_over(plan: Plan, nodes: Sequence[Node]) -> None:
    """Let what is called :data:`~numbacnn.layers.base.GATHERED` among the scratch of a forward call be there from the forward call of the
    first input's maker on, which finds it by the same name. ``nodes`` are those of the plan. Calls that run again find nothing of it, and
    backward calls nothing in it."""
    times = {node: time for time, node in enumerate(nodes)}
    makers = {tensor: run for run in plan.forward for tensor in run.node.outputs}
    readers = [run for run in plan.forward if GATHERED in run.scratch]
    for run in readers:
        maker, own = makers[run.node.inputs[0]], run.scratch[GATHERED]
        slot = maker.scratch.setdefault(GATHERED, own)
        slot.block.need(times[maker.node], times[run.node])
        if slot is not own:  # somebody else reads it, too
            run.scratch[GATHERED], own.block.nbytes = slot, 0
    if readers:
        plan.arena_bytes = place(plan.blocks)
