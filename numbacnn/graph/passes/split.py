"""The ``activation`` field of a layer becomes a node of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..build import Node
from ..tensor import Tensor


def split_activations(nodes: Sequence[Node]) -> list[Node]:
    """Each fusable layer with an activation becomes that layer without it, then the activation.

    The activation fills the tensor that the layer filled, so that nothing else changes. A layer that is used in several
    places is split once, and stays shared.
    """
    result: list[Node] = []
    parts: dict[int, tuple[Any, Any]] = {}
    for node in nodes:
        if not node.layer.fusable or getattr(node.layer, "activation", None) is None:
            result.append(node)
            continue
        if id(node.layer) not in parts:
            parts[id(node.layer)] = _parts(node.layer)
        bare, activation = parts[id(node.layer)]
        (y,) = node.outputs
        before = Tensor(y.shape, dtype=y.dtype)
        result.append(dataclasses.replace(node, layer=bare, outputs=(before,)))
        result.append(Node(f"{node.name}.activation", activation, (before,), (y,)))
    return result


def _parts(layer: Any) -> tuple[Any, Any]:
    from ...layers.activation import resolve

    return dataclasses.replace(layer, activation=None), resolve(layer.activation)
