"""In training, what comes after a normalisation becomes part of it: a residual sum, and an activation. That takes fewer passes over the
arrays, there and back, and nothing between them is kept."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..build import Node
from ..tensor import Tensor


@dataclasses.dataclass(eq=False)
class _Chain:
    """A normalisation and what was found behind it so far."""

    nodes: list[Node]
    residual: Tensor | None = None
    activation: Any = None

    def joined(self) -> Node:
        """One node for the whole chain."""
        norm: Any = self.nodes[0]
        layer = norm.layer.followed_by(self.residual is not None, self.activation)
        inputs = norm.inputs if self.residual is None else (*norm.inputs, self.residual)
        return dataclasses.replace(norm, layer=layer, inputs=inputs, outputs=self.nodes[-1].outputs)


def fuse_norms(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    """Normalisations (layers with ``followed_by``) take in the sum with another tensor and the elementwise activation that alone read what
    comes before them. They run where the last of these did, when everything that they read is there."""
    reads = Counter([*outputs, *(tensor for node in nodes for tensor in node.inputs)])
    chains: dict[Tensor, _Chain] = {}  # by what comes out of them
    for node in nodes:
        if hasattr(node.layer, "followed_by") and not node.constant:
            chains[node.outputs[0]] = _Chain([node])
        elif (before := _extended(node, chains, reads)) is not None:
            chain = chains[node.outputs[0]] = chains.pop(before)
            chain.nodes.append(node)
    joined = {chain.nodes[-1]: chain.joined() for chain in chains.values() if len(chain.nodes) > 1}
    gone = {node for chain in chains.values() for node in chain.nodes[:-1]}
    return [joined.get(node, node) for node in nodes if node not in gone]


def _extended(node: Node, chains: Mapping[Tensor, _Chain], reads: Mapping[Tensor, int]) -> Tensor | None:
    """What comes out of the chain that takes in this node; None where none does."""
    for tensor in node.inputs:
        chain = chains.get(tensor)
        if chain is None or reads[tensor] > 1 or chain.activation is not None:
            continue
        if node.layer.residual_sum and chain.residual is None and len(node.inputs) == 2:
            (other,) = (other for other in node.inputs if other is not tensor)
            if other.shape == tensor.shape:
                chain.residual = other
                return tensor
        if node.layer.elementwise and node.layer.recordable and not node.parameters and len(node.inputs) == 1:
            chain.activation = node.layer
            return tensor
    return None
