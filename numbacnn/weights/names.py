"""Checkpoints of other libraries: their names for our parameters, and their layouts.

An architecture says how torchvision and timm name its parameters by *rules*, pairs of a pattern of our names and one of theirs::

    ("stage{s}.block{b}.norm{k}", "layer{s}.{b-1}.bn{k}")

A field in braces stands for a whole number, which the other side may shift by a constant. A pattern covers a layer or scope and all below
it: what comes after it (``.weight``) is kept. The first rule that fits counts; a name that no rule fits stays as it is. A rule may have a
third entry, how many axes their array has more than ours, because it belongs to a convolution: those of length one behind ours, or,
of a Dense layer behind a Flatten, the image's. A rule with ABSENT for ours names a part of theirs that the model may lack, such as the
auxiliary classifiers of training: what is in a checkpoint of a part that it lacks is left out.

Layouts follow from the layers (:meth:`numbacnn.layers.base.Layer.torch_order`). A Dense layer behind a Flatten of channels-last images
gets its rows in another order too, as PyTorch flattens channels first.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UnknownNameError
from ..graph.tensor import ACTIVATION
from ..layers.base import Shape
from ..layers.dense import Dense
from ..layers.shape import Flatten
from ..plugin import registry

Rule = tuple[str, str] | tuple[str, str, int]
Rules = Sequence[Rule]

OWN = "numbacnn"
ABSENT = ""
IGNORED = re.compile(r"(.*\.)?num_batches_tracked|n_averaged")
"""Names in checkpoints that mean nothing here: PyTorch counts batches for a running mean without momentum, and the models in an average."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What stands before all names where a module was wrapped: by DataParallel and averaging, by torch.compile, in a LightningModule."""

_FIELD = re.compile(r"\{(\w+)([+-]\d+)?\}")


def renamed(name: str, rules: Rules) -> tuple[str, int]:
    """What ``name`` is called by the first rule that fits it, and how many axes are added."""
    for ours, theirs, *added in rules:
        found = _compiled(ours).match(name)
        if found:
            fields = found.groupdict()
            start = _FIELD.sub(lambda field: str(int(fields[field[1]]) + int(field[2] or 0)), theirs)
            return start + name[found.end() :], sum(added)
    return name, 0


def is_absent(theirs: str, rules: Rules) -> bool:
    """Whether a name that is not the model's belongs to a part that the model may lack."""
    return any(ours == ABSENT and _compiled(pattern).match(theirs) for ours, pattern, *_ in rules)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    text = "".join(f"(?P<{part}>\\d+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
    return re.compile(text + r"(?=\.|$)")


def conventions(model: Any) -> dict[str, Rules]:
    """The rules of each library that the model's architecture has rules for. No rules stand under ``"numbacnn"``, and under ``"pytorch"``:
    our names with PyTorch's layouts."""
    rules: dict[str, Rules] = {OWN: (), "pytorch": ()}
    if model.architecture is not None:
        spec: Any = registry.find("architecture", model.architecture).spec
        if spec.names:
            found = registry.attribute(spec.names, f"The names of the architecture {model.architecture!r}")
            rules.update(found(model) if callable(found) else found)
    return rules


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter of ours stands in a checkpoint: its name there, and the way to its layout and back."""

    name: str
    shape: Shape
    order: tuple[int, ...]
    flattened: Shape | None = None

    def fits(self, shape: Shape) -> bool:
        """Whether an array of that shape is this parameter: axes of length one don't count."""
        return _without_ones(shape) == _without_ones(self.shape)

    def fill(self, ours: np.ndarray, array: np.ndarray) -> None:
        """Copy ``array``, of a shape that :meth:`fits`, into our parameter, with nothing of its size in between."""
        theirs = ours.transpose(self.order)
        if self.flattened is None:
            theirs[...] = array.reshape(theirs.shape)
            return
        *places, channels = self.flattened
        given = np.moveaxis(array.reshape(-1, channels, *places), 1, -1)
        cut = theirs.reshape(given.shape)
        assert np.may_share_memory(cut, ours), "an axis that is cut in several leaves a view"
        cut[...] = given

    def exported(self, array: np.ndarray) -> np.ndarray:
        """Our ``array`` as theirs."""
        array = array.transpose(self.order)
        if self.flattened is not None:
            array = np.moveaxis(array.reshape(-1, *self.flattened), -1, 1)
        return array.reshape(self.shape)


def _without_ones(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)


def places(model: Any, convention: str) -> dict[str, Place]:
    """Of every parameter, by our name, its place in a checkpoint of a library. Raises UnknownNameError for one without rules."""
    known = conventions(model)
    if convention not in known:
        raise UnknownNameError("naming convention", convention, known)
    rules, specs = known[convention], model.store.specs
    found: dict[str, Place] = {}
    for node in model.graph.nodes:
        flattened = _flattened_shape(node.inputs[0])
        for local, name in node.parameters.items():
            shape = specs[name].shape
            if convention == OWN:
                found.setdefault(name, Place(name, shape, tuple(range(len(shape)))))
                continue
            layer, own = (node.activation, local.removeprefix(ACTIVATION)) if local.startswith(ACTIVATION) else (node.layer, local)
            order = layer.torch_order(own, len(shape))
            mixed = flattened if (own == "weight" if isinstance(layer, Dense) else shape == node.inputs[0].shape) else None
            theirs, added = renamed(name, rules)
            found.setdefault(name, Place(theirs, _their_shape(tuple(shape[axis] for axis in order), mixed, added), order, mixed))
    return found


def input_weights(model: Any) -> set[str]:
    """Our names of the weights of convolutions that read an input of the model."""
    inputs = set(model.graph.inputs)
    nodes = (node for node in model.graph.nodes if inputs.intersection(node.inputs) and getattr(node.layer, "groups", None) == 1)
    return {node.parameters["weight"] for node in nodes if "weight" in node.parameters}


def with_channels(weight: np.ndarray, axis: int, channels: int) -> np.ndarray:
    """A convolution's weights for another number of input channels, on ``axis``: for one channel, which stands for all, their sum; for
    more than there are, they are taken in turn, and scaled such that the sum over channels stays as large."""
    if channels == 1:
        return weight.sum(axis, keepdims=True)
    given = weight.shape[axis]
    return weight.take(np.arange(channels) % given, axis) * (given / channels)


def _their_shape(shape: Shape, flattened: Shape | None, added: int) -> Shape:
    if added and flattened is not None:
        *places, channels = flattened
        return (*shape[:-1], channels, *places)
    return (*shape, *[1] * added)


def _flattened_shape(tensor: Any) -> Shape | None:
    """The shape with places that a vector was flattened from, by way of layers that leave each element where it is."""
    while tensor.call is not None and len(tensor.shape) == 1:
        (before, *others) = tensor.call.inputs
        if isinstance(tensor.call.layer, Flatten):
            return before.shape if len(before.shape) > 1 else None
        if others or before.shape != tensor.shape or isinstance(tensor.call.layer, Dense):
            return None
        tensor = before
    return None
