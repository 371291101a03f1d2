"""Rewriting a list of nodes before it is planned. A pass never changes the user's graph: it makes new nodes."""

from __future__ import annotations

from collections.abc import Sequence

from ..build import Node
from ..tensor import Tensor
from .drop import drop_identities
from .fuse import fuse_epilogues
from .split import split_activations

Rewritten = tuple[list[Node], list[Tensor]]


def for_training(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> Rewritten:
    """Nodes and outputs as they are trained."""
    return split_activations(nodes), list(outputs)


def for_inference(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> Rewritten:
    """Nodes and outputs as they are run in inference."""
    nodes, outputs = drop_identities(nodes, outputs)
    return fuse_epilogues(split_activations(nodes), outputs), outputs
