"""What follows a convolution or dense layer moves into its epilogue: batch norm, residual, activation.

A fused layer computes ``activation(layer(x) * fold_scale + fold_shift + residual)`` while it writes its output. The two
vectors follow from the batch norm's parameters (Ioffe & Szegedy 2015), ``fold_scale = weight / sqrt(running_var +
epsilon)`` and ``fold_shift = bias - running_mean * fold_scale``, and are computed again when these change.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ... import arrays
from ...layers.base import Layer
from ..build import Node
from ..tensor import Tensor


@dataclasses.dataclass(frozen=True)
class Affine:
    """The vectors ``names`` (scale and shift) of a folded layer."""

    layer: Layer
    parameters: Mapping[str, str]
    channels: int
    names: tuple[str, str] = ("fold_scale", "fold_shift")

    def arrays(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Room for the vectors."""
        return {name: arrays.empty((self.channels,), dtype) for name in self.names}

    def compute(self, view: Callable[[str], np.ndarray], into: Mapping[str, np.ndarray]) -> None:
        """Fill the vectors from the layer's parameters; ``view`` gives a parameter by its name in the model."""
        values = self.layer.channel_affine({local: view(full) for local, full in self.parameters.items()})
        for name, value in zip(self.names, values, strict=True):
            into[name][...] = value


@dataclasses.dataclass(eq=False)
class _Chain:
    """A fusable node and what was found behind it so far."""

    node: Node
    output: Tensor
    affine: Affine | None = None
    residual: Tensor | None = None
    activation: Layer | None = None

    def fused(self) -> Node:
        """One node for the whole chain."""
        if self.affine is None and self.residual is None and self.activation is None:
            return self.node
        layer = self.node.layer.with_epilogue(self.activation, self.residual is not None, self.affine is not None)
        inputs = self.node.inputs if self.residual is None else (*self.node.inputs, self.residual)
        derived = () if self.affine is None else (self.affine,)
        return dataclasses.replace(self.node, layer=layer, inputs=inputs, outputs=(self.output,), derived=derived)


def fuse_epilogues(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> list[Node]:
    """Each fusable node with the batch norm, the residual sum and the activation that follow it, in that order, each
    where it is the only reader of what comes before. The fused node takes the place of the last of them, so that the
    residual is ready."""
    readers = Counter(tensor for node in nodes for tensor in node.inputs)
    readers.update(outputs)
    open_chains: dict[Tensor, _Chain] = {}
    result: list[Node | _Chain] = []
    for node in nodes:
        chain = _extended(node, open_chains, readers)
        if chain is not None:
            result.remove(chain)
        elif node.layer.fusable and len(node.inputs) == 1:
            chain = _Chain(node, node.outputs[0])
        else:
            result.append(node)
            continue
        open_chains[chain.output] = chain
        result.append(chain)
    return [item.fused() if isinstance(item, _Chain) else item for item in result]


def _extended(node: Node, chains: dict[Tensor, _Chain], readers: Mapping[Tensor, int]) -> _Chain | None:
    """The chain that takes in ``node``, if one may."""
    candidates = {tensor for tensor in node.inputs if tensor in chains and readers[tensor] == 1}
    for tensor in [tensor for tensor in reversed(chains) if tensor in candidates]:  # of two, the one that was written last
        chain = chains[tensor]
        if not _take_in(node, tensor, chain):
            continue
        del chains[tensor]
        (chain.output,) = node.outputs
        return chain
    return None


def _take_in(node: Node, tensor: Tensor, chain: _Chain) -> bool:
    """Enter ``node``, which reads ``tensor``, into the chain; False where an epilogue cannot do that."""
    layer = node.layer
    if chain.activation is not None:
        return False
    if layer.foldable and chain.affine is None and chain.residual is None:
        chain.affine = Affine(layer, node.parameters, tensor.shape[-1])
        return True
    if layer.residual_sum and chain.residual is None and len(node.inputs) == 2:
        other = node.inputs[0] if node.inputs[1] is tensor else node.inputs[1]
        if other is tensor or other.shape != tensor.shape:
            return False
        chain.residual = other
        return True
    if layer.elementwise and not node.parameters and len(node.inputs) == 1:
        chain.activation = layer
        return True
    return False
