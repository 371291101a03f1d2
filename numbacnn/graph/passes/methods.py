"""Layers that can run in several ways run in that which measuring chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...errors import ConfigError
from ..build import Node
from ..packed import PackedWeights


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


def with_kept_packing(nodes: Sequence[Node], batch: int, packed: PackedWeights) -> list[Node]:
    """Nodes of an inference plan, with layers that run from the packed weights that were kept where parameters are no more. Raises
    ConfigError for a layer that cannot."""
    return [_with_kept_packing(node, batch, packed) for node in nodes]


def _with_kept_packing(node: Node, batch: int, packed: PackedWeights) -> Node:
    kept = packed.kept(node)
    if kept is None or node.layer.packing(node.shapes, batch) == kept.packing:
        return node
    layer = node.layer.with_packing(node.shapes, kept.packing)
    if layer.packing(node.shapes, batch) != kept.packing:
        raise ConfigError(f"{node.label()} runs from weights packed in another way than those that the model kept when it released others.")
    return dataclasses.replace(node, layer=layer)
