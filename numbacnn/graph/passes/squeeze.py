"""Squeeze-and-excitation's pooling and its two dense layers become one node, and the pooling part of the layer before it.

J. Hu et al., "Squeeze-and-Excitation Networks", 2018: a factor per image and channel, ``dense(dense(mean over all places))`` with their
activations. A depthwise convolution adds up its channels while it writes them, so that nobody reads them again for that.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...layers.dense import Dense
from ...layers.epilogue import Fusable, FusedEpilogue
from ...layers.pool import GlobalAveragePool1D, GlobalAveragePool2D, GlobalAveragePool3D
from ...layers.squeeze import Excitation
from ..build import Node
from ..tensor import Tensor

MOST_WEIGHTS = 256 << 10
"""Elements of each dense layer: one thread multiplies by as many sooner than several have begun."""


def fuse_squeezes(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    """Nodes in which global average pooling and the two dense layers behind it, where nobody else reads what is between them, are one."""
    readers = Counter(tensor for node in nodes for tensor in node.inputs)
    readers.update(outputs)
    makers = {tensor: node for node in nodes for tensor in node.outputs}
    only = {tensor: node for tensor, node in makers.items() if readers[tensor] == 1}
    instead: dict[Node, Node] = {}
    gone: set[Node] = set()
    for expand in nodes:
        reduce = only.get(expand.inputs[0])
        pool = None if reduce is None else only.get(reduce.inputs[0])
        if reduce is None or pool is None or not (_multiplies(expand) and _multiplies(reduce)):
            continue
        if isinstance(pool.layer, GlobalAveragePool1D | GlobalAveragePool2D | GlobalAveragePool3D):
            maker = makers.get(pool.inputs[0])
            before = None if maker is None else instead.get(maker, maker)
            if before is not None and _sums(before):
                instead[maker] = before = _with_sums(before)  # type: ignore[index]
                instead[expand] = _joined(pool, reduce, expand, before.outputs[1])
            else:
                instead[expand] = _joined(pool, reduce, expand)
            gone |= {pool, reduce}
    return [instead.get(node, node) for node in nodes if node not in gone]


def _multiplies(node: Node) -> bool:
    """Whether a node is a small dense layer, perhaps with an activation."""
    layer: Any = node.layer
    plain = layer.base if isinstance(layer, FusedEpilogue) and layer.arity == 1 and not layer.folded else layer
    x, y = node.inputs[0].shape, node.outputs[0].shape
    return isinstance(plain, Dense) and math.prod(x) == x[-1] and x[-1] * y[-1] <= MOST_WEIGHTS


def _sums(node: Node) -> bool:
    """Whether a node's layer can add up its output's channels, and does not do so already."""
    return isinstance(node.layer, Fusable | FusedEpilogue) and len(node.outputs) == 1 and node.layer.summed_stretches(_shape(node)) > 0


def _shape(node: Node) -> Any:
    return node.inputs[0].shape


def _with_sums(node: Node) -> Node:
    layer: Any = node.layer
    sums = Tensor((layer.summed_stretches(_shape(node)), node.outputs[0].shape[-1]))
    return dataclasses.replace(node, layer=layer.with_sums(), outputs=(*node.outputs, sums))


def _joined(pool: Node, reduce: Node, expand: Node, sums: Tensor | None = None) -> Node:
    """One node for three: it reads what ``pool`` does, or the ``sums`` of that."""
    (x,), (y,) = pool.inputs, expand.outputs
    kind: Any = {"pool": pool.layer} if sums is None else {"places": math.prod(x.shape[:-1])}
    layers: Mapping[str, Node] = {"reduce": reduce, "expand": expand}
    parameters = {f"{name}.{local}": full for name, node in layers.items() for local, full in node.parameters.items()}
    layer = Excitation(reduce.layer, expand.layer, y.shape, **kind)  # type: ignore[arg-type]
    return dataclasses.replace(expand, layer=layer, inputs=(x if sums is None else sums,), parameters=parameters)
