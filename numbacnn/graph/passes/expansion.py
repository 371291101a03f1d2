"""A pointwise convolution with many more outputs than inputs moves into the depthwise convolution that reads it.

So begins an inverted residual block (M. Sandler et al., "MobileNetV2", 2018). On large maps what lies between the two is larger than the
caches: it takes longer to write and to read than to compute, and is the largest array of the plan.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from ...layers.epilogue import Fusable, FusedEpilogue
from ...layers.expansion import ExpandedDepthwise
from ..build import Node
from ..tensor import Tensor


def fuse_expansions(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    """Nodes in which depthwise convolutions have taken in the pointwise ones before them, where nobody else reads what these make, and
    where that is faster."""
    readers = Counter(tensor for node in nodes for tensor in node.inputs)
    readers.update(outputs)
    makers = {tensor: node for node in nodes for tensor in node.outputs if readers[tensor] == 1}
    result: dict[Node, Node] = {node: node for node in nodes}
    for node in nodes:
        depthwise = _ending(node)
        if depthwise is None or not depthwise.base.takes_expansion(node.inputs[0].shape):
            continue
        maker = makers.get(node.inputs[0])
        expand = None if maker is None else _ending(maker)
        if maker is not None and expand is not None and expand.base.makes_expansion(maker.inputs[0].shape):
            layer = ExpandedDepthwise(expand, depthwise)
            result[node] = _joined(node, layer, {"expand": maker, "depthwise": node})
            del result[maker]
    return list(result.values())


def _ending(node: Node) -> FusedEpilogue | None:
    """The layer of a node as one with an epilogue, if it has one and reads nothing but its input."""
    layer = FusedEpilogue(node.layer, None, False, False) if isinstance(node.layer, Fusable) else node.layer
    return layer if isinstance(layer, FusedEpilogue) and len(node.inputs) == 1 and not layer.normalised else None


def _joined(node: Node, layer: ExpandedDepthwise, stages: Mapping[str, Node]) -> Node:
    """One node for two, whose parameters have the stages' names in front."""
    parameters = {f"{stage}.{local}": full for stage, part in stages.items() for local, full in part.parameters.items()}
    derived = tuple(
        dataclasses.replace(affine, names=tuple(f"{stage}.{name}" for name in affine.names))
        for stage, part in stages.items()
        for affine in part.derived
    )
    return dataclasses.replace(node, layer=layer, inputs=stages["expand"].inputs, parameters=parameters, derived=derived)
