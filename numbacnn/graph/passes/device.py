"""Each layer gives way to its twin on the GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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
