"""In training, the activation after a normalisation becomes part of it: one pass less over the arrays, there and back, and nothing between
the two is kept."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..build import Node
from ..tensor import Tensor


def fuse_activated_norms(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    """Normalisations (layers with ``with_activation``) take in the elementwise activation that alone reads what they write."""
    reads = Counter([*outputs, *(tensor for node in nodes for tensor in node.inputs)])
    writer = {tensor: node for node in nodes for tensor in node.outputs}
    taken: dict[Node, Node] = {}  # by the normalisation, the activation
    for node in nodes:
        if node.layer.elementwise and node.layer.recordable and not node.parameters and len(node.inputs) == 1:
            (between,) = node.inputs
            before = writer.get(between)
            if before is not None and reads[between] == 1 and _takes_activation(before):
                taken[before] = node
    gone = set(taken.values())
    return [_joined(node, taken[node]) if node in taken else node for node in nodes if node not in gone]


def _takes_activation(node: Node) -> bool:
    return hasattr(node.layer, "with_activation") and not node.constant


def _joined(norm: Node, activation: Node) -> Node:
    layer: Any = norm.layer
    return dataclasses.replace(norm, layer=layer.with_activation(activation.layer), outputs=activation.outputs)
