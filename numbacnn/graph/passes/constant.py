"""What freezing parameters makes of a graph that is trained: state that stays, and a first part that runs as in inference."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from ...layers.base import Parameter
from ..build import Node
from ..tensor import Tensor


def fix_state(nodes: Sequence[Node], specs: Mapping[str, Parameter], frozen: Collection[str]) -> list[Node]:
    """Nodes whose state is frozen, with the layer that leaves it as it is."""
    return [
        dataclasses.replace(node, layer=node.layer.with_fixed_state())
        if any(name in frozen and not specs[name].trainable for name in node.parameters.values())
        else node
        for node in nodes
    ]


def constant_part(nodes: Sequence[Node], frozen: Collection[str]) -> tuple[list[Node], list[Node]]:
    """Nodes whose outputs depend on nothing that training changes and on no chance, and the others."""
    changing: set[Tensor] = set()
    constant, rest = [], []
    for node in nodes:
        changes = node.layer.random or any(name not in frozen for name in node.parameters.values())
        if changes or changing.intersection(node.inputs):
            changing.update(node.outputs)
            rest.append(node)
        else:
            constant.append(dataclasses.replace(node, constant=True))
    return constant, rest
