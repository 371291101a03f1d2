"""Another number of classes for a network that is there already."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import ConfigError
from .build import Graph, Node
from .tensor import Tensor, outside_scopes

UNITS = ("units", "filters")
"""Fields that say how many channels a layer puts out."""


def with_classes(graph: Graph, classes: int) -> tuple[list[Tensor], set[str]]:
    """Outputs like those of ``graph``, whose last layers with parameters are replaced by ones with ``classes`` channels, and the names of
    these layers. Raises ConfigError where an output does not come from such a layer by way of layers without parameters."""
    makers = {tensor: node for node in graph.nodes for tensor in node.outputs}
    renewed: dict[Node, Tensor] = {}
    outputs = []
    with outside_scopes():
        for tensor in graph.outputs:
            after: list[Node] = []
            node = _maker(makers, tensor)
            while not node.parameters:
                after.append(node)
                node = _maker(makers, *node.inputs)
            if node not in renewed:
                renewed[node] = _with_units(node, classes)
            replaced = renewed[node]
            for follower in reversed(after):
                replaced = follower.layer(replaced, name=follower.name)
            outputs.append(replaced)
    return outputs, {node.name for node in renewed}


def _maker(makers: dict[Tensor, Node], *tensors: Tensor) -> Node:
    if len(tensors) != 1 or tensors[0] not in makers:
        raise ConfigError("The model has no head to replace: its output does not come from one dense or convolution layer.")
    return makers[tensors[0]]


def _with_units(node: Node, classes: int) -> Any:
    layer: Any = node.layer
    for field in UNITS:
        if hasattr(layer, field):
            return dataclasses.replace(layer, **{field: classes})(*node.inputs, name=node.name)
    raise ConfigError(f"The model's last layer with parameters is the {node.label()}, which has no number of classes to change.")
