"""In training, batch norms learn which layers gather their statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...layers.base import gathers
from ..build import Node


def gather_statistics(nodes: Sequence[Node]) -> list[Node]:
    """Nodes in which normalisations that need statistics of their input know the layer that makes it, if that can gather them as it writes.
    A layer that runs as in inference does not."""
    makers = {tensor: node for node in nodes if not node.constant for tensor in node.outputs}

    def informed(node: Node) -> Node:
        maker = makers.get(node.inputs[0])
        if maker is None or node.constant or not (node.layer.takes_statistics and gathers(maker.layer)):
            return node
        return dataclasses.replace(node, layer=node.layer.behind(maker.layer, maker.shapes))

    return [informed(node) for node in nodes]
