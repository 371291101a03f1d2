"""Rewriting a list of nodes before it is planned. A pass never changes the user's graph: it makes new nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from ...layers.base import Parameter
from ..build import Node
from ..tensor import Tensor
from .constant import constant_part, fix_state
from .device import for_cuda
from .drop import drop_identities
from .expansion import fuse_expansions
from .fuse import fuse_epilogues
from .norm import fuse_norms
from .prologue import fuse_prologues
from .split import split_activations
from .squeeze import fuse_squeezes
from .statistics import gather_statistics

Rewritten = tuple[list[Node], list[Tensor]]


def made_exact(nodes: Sequence[Node]) -> list[Node]:
    """Nodes whose layers leave out what rounds more than it needs to (the field ``exact``)."""
    return [
        dataclasses.replace(node, layer=dataclasses.replace(cast(Any, node.layer), exact=True)) if hasattr(node.layer, "exact") else node
        for node in nodes
    ]


def for_training(
    nodes: Sequence[Node],
    outputs: Sequence[Tensor],
    specs: Mapping[str, Parameter],
    frozen: Collection[str],
    input_gradients: bool,
) -> Rewritten:
    """Nodes and outputs as they are trained. What comes before everything that is not ``frozen`` is rewritten as for inference, unless
    gradients go through it to the inputs."""
    return gather_statistics(_training(nodes, outputs, specs, frozen, input_gradients, _fused)), list(outputs)


def for_training_on_cuda(
    nodes: Sequence[Node],
    outputs: Sequence[Tensor],
    specs: Mapping[str, Parameter],
    frozen: Collection[str],
    input_gradients: bool,
    precision: str,
) -> Rewritten:
    """As :func:`for_training`, with layers that run on the GPU, in that precision."""
    nodes = for_cuda(_training(nodes, outputs, specs, frozen, input_gradients, _fused_on_cuda), precision)
    return gather_statistics(nodes), list(outputs)


def _training(
    nodes: Sequence[Node],
    outputs: Sequence[Tensor],
    specs: Mapping[str, Parameter],
    frozen: Collection[str],
    input_gradients: bool,
    fused: Callable[[Sequence[Node], Sequence[Tensor]], list[Node]],
) -> list[Node]:
    nodes = fix_state(nodes, specs, frozen)
    if input_gradients:
        return fuse_norms(split_activations(nodes), outputs)
    constant, rest = constant_part(nodes, frozen)
    read = {*outputs, *(tensor for node in rest for tensor in node.inputs)}
    made = [tensor for node in constant for tensor in node.outputs if tensor in read]
    return fused(constant, made) + fuse_norms(split_activations(rest), outputs)


def for_inference(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> Rewritten:
    """Nodes and outputs as they are run in inference, by methods that follow from the shapes alone. Those that were measured are put in by
    :func:`.methods.with_measured_methods`."""
    nodes, outputs = drop_identities(nodes, outputs)
    return _fused(nodes, outputs), outputs


def for_inference_on_cuda(nodes: Sequence[Node], outputs: Sequence[Tensor], precision: str) -> Rewritten:
    """Nodes and outputs as they are run in inference on the GPU, in that precision."""
    nodes, outputs = drop_identities(nodes, outputs)
    return for_cuda(_fused_on_cuda(nodes, outputs), precision), outputs


def _fused_on_cuda(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    return fuse_epilogues(split_activations(nodes), outputs)


def _fused(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    nodes = fuse_prologues(fuse_epilogues(split_activations(nodes), outputs), outputs)
    return fuse_expansions(fuse_squeezes(nodes, outputs), outputs)
