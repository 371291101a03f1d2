"""A graph as plain data, for saved models, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..errors import PluginError, UnknownNameError, WeightsError
from ..layers import initializers
from ..layers.base import Layer
from ..layers.checks import plain
from ..layers.initializers import Initializer
from ..plugin import registry
from .build import Graph
from .tensor import Input, Tensor, outside_scopes

FORMAT = 1


def to_config(graph: Graph, *, named: bool = True) -> dict[str, Any]:
    """The graph as data that JSON can hold. Tensors are ``[number, output]``: inputs are numbered first, then nodes.
    Layers are listed once each; nodes that share a layer refer to the same one. Not ``named``, they are listed as they are."""
    where: dict[Tensor, list[int]] = {tensor: [number, 0] for number, tensor in enumerate(graph.inputs)}
    for number, node in enumerate(graph.nodes, len(graph.inputs)):
        where.update({tensor: [number, index] for index, tensor in enumerate(node.outputs)})
    layers = {id(node.layer): node.layer for node in graph.nodes}
    numbers = {layer: number for number, layer in enumerate(layers)}
    nodes = [
        {"name": node.name, "layer": numbers[id(node.layer)], "inputs": [where[tensor] for tensor in node.inputs]} for node in graph.nodes
    ]
    return {
        "format": FORMAT,
        "inputs": [_input_config(name, tensor) for name, tensor in zip(graph.input_names, graph.inputs)],
        "layers": [_layer_config(layer) if named else layer for layer in layers.values()],
        "nodes": nodes,
        "outputs": [where[tensor] for tensor in graph.outputs],
    }


def from_config(config: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Symbolic inputs and outputs of the graph that ``config`` describes. Raises PluginError when a layer's package is
    missing, WeightsError when the data is not a graph."""
    if config.get("format") != FORMAT:
        raise WeightsError(f"The saved graph has format {config.get('format')!r}; this version of numbacnn reads format {FORMAT}.")
    inputs = [Input(entry["shape"], entry["name"], entry.get("dtype")) for entry in config["inputs"]]
    layers = [entry if isinstance(entry, Layer) else _layer_from(entry) for entry in config["layers"]]
    tensors: list[tuple[Tensor, ...]] = [(tensor,) for tensor in inputs]
    with outside_scopes():
        for node in config["nodes"]:
            outputs = layers[node["layer"]](*(tensors[number][index] for number, index in node["inputs"]), name=node["name"])
            tensors.append(outputs if isinstance(outputs, tuple) else (outputs,))
    return inputs, [tensors[number][index] for number, index in config["outputs"]]


def _input_config(name: str, tensor: Tensor) -> dict[str, Any]:
    return {"name": name, "shape": list(tensor.shape), **({} if tensor.dtype is None else {"dtype": tensor.dtype})}


def unregistered_layers(config: Mapping[str, Any]) -> list[str]:
    """Names of the layer classes in ``config`` that no plugin registers, those in fields of other layers included; sorted."""
    found: set[str] = set()
    waiting: list[Any] = list(config["layers"])
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if "config" in value and "name" in value and value.get("distribution", "") is None:
                found.add(value["name"])
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return sorted(found)


def _layer_config(layer: Layer) -> dict[str, Any]:
    origin = registry.origin("layer", layer)
    return {
        "name": origin.name,
        "version": layer.version,
        "distribution": origin.distribution,
        "distribution_version": origin.version,
        "activations": _activation_origins(layer),
        "config": {name: _encode(value) for name, value in layer.config().items()},
    }


def _activation_origins(layer: Layer) -> list[list[Any]]:
    """``[name, distribution, version]`` of the activation that a field of the layer names, if it is a plugin's."""
    named = {getattr(layer, field, None) for field in ("activation", "function")}
    known = [name for name in named if isinstance(name, str) and (":" in name or name in registry.names("activation"))]
    origins = [registry.origin("activation", name) for name in known]
    return [[o.name, o.distribution, o.version] for o in origins if o.distribution != "numbacnn"]


def _layer_from(entry: Mapping[str, Any]) -> Layer:
    name, package = entry["name"], entry["distribution"]
    factory = _unregistered(name) if package is None else registry.load_saved("layer", name, package, entry["distribution_version"])
    for activation in entry.get("activations", ()):
        registry.load_saved("activation", *activation)
    if entry["version"] > factory.version:
        raise PluginError(
            f"The model has a {name!r} layer of version {entry['version']}, newer than the installed {package} has: "
            f"pip install --upgrade {package}"
        )
    return factory(**{key: _decode(value) for key, value in entry["config"].items()})


def _unregistered(name: str) -> Any:
    """The class of a layer that no plugin registered when the model was saved, if one does by now. A built-in of that name is another."""
    try:
        entry = registry.find("layer", name)
    except UnknownNameError:
        entry = None
    if entry is None or entry.distribution == "numbacnn":
        raise PluginError(
            f"The model has a layer {name!r} of somebody's own, which no plugin provides: name its class in a plugin, or build the model "
            "in code and give this file to its load_weights."
        )
    return registry.resolve(entry)


def _encode(value: Any) -> Any:
    if isinstance(value, Layer):
        return {"layer": _layer_config(value)}
    if isinstance(value, Initializer):
        return _initializer_config(value)
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"mapping": {str(key): _encode(item) for key, item in value.items()}}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise WeightsError(f"A layer's field holds {value!r}, which cannot be saved; numbers, text, tuples, layers and initializers can.")


def _initializer_config(initializer: Initializer) -> dict[str, Any]:
    """One of somebody's own becomes zeros: who loads a model replaces what parameters start with."""
    if getattr(initializers, type(initializer).__name__, None) is not type(initializer):
        initializer = initializers.Constant(0.0)
    config = dataclasses.asdict(cast(Any, initializer))
    return {"initializer": type(initializer).__name__, "config": {name: plain(value) for name, value in config.items()}}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if isinstance(value, Mapping):
        if "layer" in value:
            return _layer_from(value["layer"])
        if "initializer" in value:
            return getattr(initializers, value["initializer"])(**value["config"])
        return {key: _decode(item) for key, item in value["mapping"].items()}
    return value
