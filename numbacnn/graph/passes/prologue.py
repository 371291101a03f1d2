"""What comes before a pointwise convolution moves into its prologue: batch norm and a clamp, or squeeze-and-excitation's factors.

Pre-activation networks such as DenseNet (G. Huang et al., 2017) normalise and rectify what a convolution reads; here it does that while it
copies its input into the cache. ``y = conv(clamp(x * before_scale + before_shift))``, or ``y = conv(x * gate)`` with a factor per image
and channel (J. Hu et al., "Squeeze-and-Excitation Networks", 2018).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ...layers.base import Layer
from ...layers.epilogue import Fusable, FusedEpilogue
from ...layers.merge import Multiply
from ..build import Node
from ..tensor import Tensor
from .fuse import Affine


def fuse_prologues(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    """Nodes in which convolutions that take a prologue have taken in what comes before them, where nobody else reads that."""
    readers = Counter(tensor for node in nodes for tensor in node.inputs)
    readers.update(outputs)
    makers = {tensor: node for node in nodes for tensor in node.outputs if readers[tensor] == 1}
    result: dict[Node, Node] = {node: node for node in nodes}
    for node in nodes:
        if isinstance(node.layer, Fusable | FusedEpilogue) and node.layer.takes_prologue(node.inputs[0].shape):
            found = _normalised(node, makers) or _gated(node, makers)
            if found is not None:
                result[node], taken = found
                for maker in taken:
                    del result[maker]
    return list(result.values())


def _normalised(node: Node, makers: Mapping[Tensor, Node]) -> tuple[Node, list[Node]] | None:
    """The node with the batch norm before it, and the clamp between them, and these nodes."""
    before, activation, taken = makers.get(node.inputs[0]), None, []
    if before is not None and _is_clamp(before.layer):
        activation, taken = before.layer, [before]
        before = makers.get(before.inputs[0])
    if before is None or not before.layer.foldable:
        return None
    affine = Affine(before.layer, before.parameters, before.inputs[0].shape[-1], ("before_scale", "before_shift"))
    layer = node.layer.with_prologue(activation, normalised=True, gated=False)  # type: ignore[attr-defined]
    inputs = (before.inputs[0], *node.inputs[1:])
    return dataclasses.replace(node, layer=layer, inputs=inputs, derived=(*node.derived, affine)), [*taken, before]


def _gated(node: Node, makers: Mapping[Tensor, Node]) -> tuple[Node, list[Node]] | None:
    """The node with the product before it, and that."""
    before = makers.get(node.inputs[0])
    if before is None or type(before.layer) is not Multiply or len(before.inputs) != 2:
        return None
    (product,) = before.outputs
    for x, gate in (before.inputs, before.inputs[::-1]):
        if x.shape == product.shape and math.prod(gate.shape) == gate.shape[-1] == x.shape[-1] and len(x.shape) > 1:
            layer = node.layer.with_prologue(None, normalised=False, gated=True)  # type: ignore[attr-defined]
            return dataclasses.replace(node, layer=layer, inputs=(x, gate, *node.inputs[1:])), [before]
    return None


def _is_clamp(layer: Layer) -> bool:
    from ... import kernels

    return layer.elementwise and kernels.conv.is_clamp(layer.scalar())  # type: ignore[attr-defined]
