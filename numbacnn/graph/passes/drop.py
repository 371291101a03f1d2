"""Layers that do nothing in inference are left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..build import Node
from ..tensor import Tensor


def drop_identities(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> tuple[list[Node], list[Tensor]]:
    """Nodes without those whose layer is an ``inference_identity``; their readers read what they read."""
    instead: dict[Tensor, Tensor] = {}
    result = []
    for node in nodes:
        inputs = tuple(instead.get(tensor, tensor) for tensor in node.inputs)
        if node.layer.inference_identity:
            instead[node.outputs[0]] = inputs[0]
        else:
            result.append(dataclasses.replace(node, inputs=inputs))
    return result, [instead.get(tensor, tensor) for tensor in outputs]
