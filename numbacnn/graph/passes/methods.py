"""Layers that can run in several ways run in that which measuring chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..build import Node


def with_measured_methods(nodes: Sequence[Node], batch: int, threads: int, dtype: Any) -> list[Node]:
    """Nodes of an inference plan, with layers that run in the way that is remembered for their shapes.

    A plan asks once, here: from then on the way is the layer's, whatever is remembered while arrays are sized and kernels bound."""
    return [_with_measured_method(node, batch, threads, dtype) for node in nodes]


def _with_measured_method(node: Node, batch: int, threads: int, dtype: Any) -> Node:
    methods = node.layer.inference_methods(node.shapes, batch, threads, dtype)
    if methods is None:
        return node
    from ...kernels import choices

    chosen = choices.measured().recall(methods.key)
    if chosen not in methods.layers:  # nobody chose, or another file of that name did
        return node
    return dataclasses.replace(node, layer=methods.layers[chosen])
