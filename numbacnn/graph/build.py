"""From symbolic tensors to a graph: which layers run, in which order, under which names, with which parameters."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import ConfigError, ShapeError
from ..layers.base import Layer, Parameter
from .tensor import Call, Tensor, layer_shapes


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One layer in its place: ``name`` in the model, the tensors that it reads and fills, and, by the layer's own names
    for them, the names of its parameters in the model. ``activation`` follows the layer and, if it has parameters, owns
    those that are called ``activation.*``.

    ``derived`` are parameters that a pass computes from others (see :class:`numbacnn.graph.passes.fuse.Affine`). A ``constant`` node
    runs as in inference while the model is trained, because nothing in it or before it is learned.
    """

    name: str
    layer: Layer
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    activation: Layer | None = None
    derived: tuple[Any, ...] = ()
    constant: bool = False

    @property
    def shapes(self) -> Any:
        """The layer's input shape(s), as its methods get them."""
        return layer_shapes(self.layer, self.inputs)

    def label(self) -> str:
        """How messages speak of this node."""
        return self.layer.label(self.name)


class Graph:
    """Nodes in the order in which they run (that in which they were written), from ``inputs`` to ``outputs``.

    ``specs`` maps each parameter's name in the model to its :class:`~numbacnn.layers.base.Parameter`.
    """

    def __init__(self, inputs: Iterable[Tensor], outputs: Iterable[Tensor]):
        self.inputs = _checked_tensors(inputs, "input")
        self.outputs = _checked_tensors(outputs, "output")
        calls = _reached(self.inputs, self.outputs)
        names = _call_names(calls)
        self.input_names = _input_names(self.inputs, set(names.values()))
        self.specs: dict[str, Parameter] = {}
        self.nodes: list[Node] = []
        owners: dict[int, Node] = {}
        for call in calls:
            parameters = self._declare(call, names[call], owners)
            node = Node(names[call], call.layer, call.inputs, call.outputs, parameters, call.activation)
            owners.setdefault(id(call.layer), node)
            self.nodes.append(node)

    def _declare(self, call: Call, name: str, owners: dict[int, Node]) -> dict[str, str]:
        """Enter the parameters of a call into ``specs``, or find those of the layer's first call."""
        specs, owner = call.parameters, owners.get(id(call.layer))
        if owner is None:
            parameters = {local: f"{name}.{local}" for local in specs}
            for local, full in parameters.items():
                if full in self.specs:
                    raise ConfigError(f"{call.layer.label(name)}: another layer has a parameter named {full!r} too; rename one of the two.")
                self.specs[full] = specs[local]
            return parameters
        if specs != {local: self.specs[full] for local, full in owner.parameters.items()}:
            raise ShapeError(
                f"{call.layer.label(name)} shares its parameters with {owner.name!r}, where the input has shape {owner.shapes}; "
                f"given shape {layer_shapes(call.layer, call.inputs)}, it would need others."
            )
        return owner.parameters


def _checked_tensors(tensors: Iterable[Tensor], role: str) -> tuple[Tensor, ...]:
    tensors = tuple(tensors)
    if not tensors:
        raise ConfigError(f"A model needs at least one {role}; none was given.")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"{tensor!r} was given as {role} of a model; a symbolic tensor is needed, such as nc.Input((32, 32, 3)).")
    if len(set(tensors)) != len(tensors):
        raise ConfigError(f"A tensor was given twice among the {role}s of a model.")
    return tensors


def _reached(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Call]:
    """All calls between inputs and outputs, in the order in which they were made."""
    calls: set[Call] = set()
    used: set[Tensor] = set()
    waiting = list(outputs)
    while waiting:
        tensor = waiting.pop()
        used.add(tensor)
        if tensor in inputs:
            continue
        if tensor.call is None:
            raise ConfigError(f"The model's outputs depend on {_describe(tensor)}, which is not among the model's inputs.")
        if tensor.call not in calls:
            calls.add(tensor.call)
            waiting.extend(tensor.call.inputs)
    for tensor in inputs:
        if tensor not in used:
            raise ConfigError(f"No output of the model depends on {_describe(tensor)}, which was given as an input.")
        if tensor.call in calls:
            raise ConfigError(
                f"{_describe(tensor)} was given as an input of the model, which computes it too, as {tensor.call.label()} is a part of it."
            )
    return sorted(calls, key=lambda call: call.serial)


def _describe(tensor: Tensor) -> str:
    return f"the Input {tensor.name!r} of shape {tensor.shape}" if tensor.name else f"the tensor of shape {tensor.shape}"


def _call_names(calls: Sequence[Call]) -> dict[Call, str]:
    """A unique name for each call: the one given, else the layer's stem counted within the scope."""
    given = [call.name for call in calls if call.name]
    for name, count in Counter(given).items():
        if count > 1:
            raise ConfigError(f"{count} layers of the model are named {name!r}; names must be different.")
    taken = set(given)
    counters: Counter[str] = Counter()
    return {call: call.name or _automatic_name(call, counters, taken) for call in calls}


def _automatic_name(call: Call, counters: Counter[str], taken: set[str]) -> str:
    stem = ".".join((*call.scope, call.layer.stem))
    while True:
        counters[stem] += 1
        name = f"{stem}{counters[stem]}"
        if name not in taken:
            return name


def _input_names(inputs: Sequence[Tensor], taken: set[str]) -> tuple[str, ...]:
    """The inputs' names: those given, else ``input``, or ``input1``, ``input2``... where there are several or that is taken."""
    taken = set(taken)
    for name in (tensor.name for tensor in inputs if tensor.name):
        if name in taken:
            raise ConfigError(f"Two parts of the model are named {name!r}; names must be different.")
        taken.add(name)
    names: list[str] = []
    for number, tensor in enumerate(inputs, 1):
        automatic = itertools.chain(["input"] if len(inputs) == 1 else [], (f"input{k}" for k in itertools.count(number)))
        name = tensor.name or next(name for name in automatic if name not in taken)
        taken.add(name)
        names.append(name)
    return tuple(names)
