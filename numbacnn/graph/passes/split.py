"""The activation of a layer becomes a node of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...layers.base import Layer
from ..build import Node
from ..tensor import ACTIVATION, Tensor


def split_activations(nodes: Sequence[Node]) -> list[Node]:
    """Each layer with an activation becomes that layer without it, then the activation.

    The activation fills the tensor that the layer filled, so that nothing else changes.
    """
    return [part for node in nodes for part in (_split(node, node.activation) if node.activation else [node])]


def _split(node: Node, activation: Layer) -> list[Node]:
    (y,) = node.outputs
    before = Tensor(y.shape, dtype=y.dtype)
    own = {local: full for local, full in node.parameters.items() if not local.startswith(ACTIVATION)}
    its = {local.removeprefix(ACTIVATION): full for local, full in node.parameters.items() if local.startswith(ACTIVATION)}
    layer: Any = node.layer
    bare = dataclasses.replace(layer, activation=None)
    return [
        dataclasses.replace(node, layer=bare, outputs=(before,), parameters=own, activation=None),
        Node(f"{node.name}.activation", activation, (before,), (y,), its),
    ]
