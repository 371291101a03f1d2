"""Each layer gives way to its twin on the GPU, and batch norms learn which layers gather their statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

from ...errors import DeviceError
from ..build import Node


def for_cuda(nodes: Sequence[Node], precision: str = "float32") -> list[Node]:
    """Nodes whose layers run on the GPU, with products in that precision. Raises DeviceError for a layer that has no kernels there, by its
    name in the model."""
    from ...layers.cuda.twin import on_cuda

    found = []
    for node in nodes:
        try:
            found.append(dataclasses.replace(node, layer=on_cuda(node.layer, precision)))
        except DeviceError as error:
            raise DeviceError(f"{node.label()}: {error}") from None
    return found


def gather_statistics(nodes: Sequence[Node]) -> list[Node]:
    """Nodes of the GPU, for training, in which normalisations that need statistics of their input know the layer that makes it, if that can
    gather them as it writes."""
    from ...layers.cuda.twin import Twin, gathers

    makers = {tensor: node for node in nodes for tensor in node.outputs}

    def informed(node: Node) -> Node:
        maker = makers.get(node.inputs[0])
        if maker is None or node.constant or not (isinstance(node.layer, Twin) and node.layer.takes_statistics and gathers(maker.layer)):
            return node
        return dataclasses.replace(node, layer=node.layer.behind(cast(Twin, maker.layer), maker.shapes))

    return [informed(node) for node in nodes]
