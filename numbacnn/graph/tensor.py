"""Symbolic tensors: what a network is described with, before any array exists."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import math
import numbers
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigError, ShapeError, UnknownNameError
from ..layers import initializers
from ..layers.base import Layer, Parameter, Shape

ACTIVATION = "activation."  # in front of the names of parameters that belong to a layer's activation

_scope: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("numbacnn_scope", default=())
_serials = itertools.count()  # the order in which calls were written, which is the order in which they run


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Layers applied within the block get ``name.`` in front of their names; blocks nest::

    with nc.scope("stage2"), nc.scope("block1"):
        h = nc.Conv2D(64, 3)(h)      # "stage2.block1.conv1"
    """
    _check_name(name, "scope")
    token = _scope.set((*_scope.get(), name))
    try:
        yield
    finally:
        _scope.reset(token)


@contextlib.contextmanager
def outside_scopes() -> Iterator[None]:
    """Names within the block are as given, whatever scopes there are around it."""
    token = _scope.set(())
    try:
        yield
    finally:
        _scope.reset(token)


def _check_name(name: Any, of: str) -> None:
    if not isinstance(name, str) or not name or any(not part for part in name.split(".")):
        raise ConfigError(f"{name!r} was given as the name of a {of}; it must be text without empty parts, such as 'stage2.conv1'.")


class Call:
    """One application of a layer to tensors. ``activation`` is the layer that its ``activation`` field means, if any; ``parameters`` are
    those of both, by name."""

    def __init__(self, layer: Layer, inputs: tuple[Tensor, ...], name: str | None):
        self.layer, self.inputs, self.scope = layer, inputs, _scope.get()
        if name is not None:
            _check_name(name, "layer")
        self.name = name and ".".join((*self.scope, name))
        self.serial = next(_serials)
        given = layer_shapes(layer, inputs)
        with self._speaking():
            self._check_types()
            shapes = self._output_shapes(given)
            self.activation = self._resolved_activation(shapes)
            self.parameters = self._checked_parameters(given, shapes)
        self.outputs: tuple[Tensor, ...] = tuple(Tensor(shape, self, index) for index, shape in enumerate(shapes))

    def label(self) -> str:
        """How messages speak of this call: an automatic name is only known once a model is built."""
        if self.name is None and self.scope:
            return f"{self.layer.label()} in {'.'.join(self.scope)!r}"
        return self.layer.label(self.name)

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Puts the layer in front of what is wrong with it."""
        try:
            yield
        except (ShapeError, ConfigError, UnknownNameError) as error:
            error.args = (f"{self.label()}: {error}",)
            raise error from None

    def _check_types(self) -> None:
        for tensor in self.inputs:
            if tensor.dtype != self.layer.input_dtype:
                if tensor.dtype is None:
                    raise ConfigError(
                        f"its input holds real numbers; it takes whole ones: nc.Input(shape, dtype={self.layer.input_dtype!r})."
                    )
                raise ConfigError(
                    f"its input holds whole numbers ({tensor.dtype}), which it does not take; an Embedding makes vectors of them."
                )

    def _output_shapes(self, given: Any) -> list[Shape]:
        shapes = self.layer.output_shape(given)
        result = [tuple(shape) for shape in (shapes if isinstance(shapes, list) else [shapes])]
        for shape in result:
            if not shape or not all(_is_extent(n) for n in shape):
                raise ShapeError(f"given shape {given}, its output would have shape {shape}; no axis may be empty.")
        if self.layer.alias and (len(result) != 1 or len(self.inputs) != 1 or math.prod(result[0]) != self.inputs[0].size):
            raise ShapeError(f"given shape {given}, its output has shape {shapes}; both need as many elements.")
        return result

    def _resolved_activation(self, shapes: list[Shape]) -> Layer | None:
        given = getattr(self.layer, "activation", None)
        if not self.layer.fusable or given is None:
            return None
        from ..layers.activation import resolve

        activation = resolve(given)
        if activation is None:
            return None
        if activation.arity != 1 or activation.fusable:
            raise ConfigError(f"{activation!r} was given as an activation; apply it to the output as a layer of its own.")
        try:
            after = activation.output_shape(shapes[0])
        except (ShapeError, ConfigError) as error:
            raise ConfigError(f"its activation {activation!r}: {error}") from None
        if after != shapes[0]:
            raise ConfigError(f"its activation {activation!r} makes shape {after} of {shapes[0]}; an activation keeps the shape.")
        return activation

    def _checked_parameters(self, given: Any, shapes: list[Shape]) -> dict[str, Parameter]:
        parameters = dict(self.layer.parameters(given))
        if self.activation is not None:
            own = self.activation.parameters(shapes[0])
            parameters.update((ACTIVATION + local, parameter) for local, parameter in own.items())
        for local, parameter in parameters.items():
            try:
                initializers.resolve(parameter.initializer)
            except (ConfigError, UnknownNameError) as error:
                error.args = (f"parameter {local!r}: {error}",)
                raise
        return parameters


def _is_extent(n: Any) -> bool:
    return isinstance(n, numbers.Integral) and int(n) > 0


def layer_shapes(layer: Layer, tensors: tuple[Tensor, ...]) -> Any:
    """What a layer's methods get as ``x`` where shapes are meant: one shape, or a tuple of them."""
    return tensors[0].shape if layer.arity == 1 else tuple(tensor.shape for tensor in tensors)


class Tensor:
    """The output of a layer, or an input, described by its ``shape`` without the batch axis, and its ``dtype``, where None is the model's
    working type.

    ``a + b``, ``a - b`` and ``a * b`` of two tensors apply Add, Subtract and Multiply.
    """

    def __init__(self, shape: Shape, call: Call | None = None, index: int = 0, name: str | None = None, dtype: str | None = None):
        self.shape, self.call, self.index, self.name, self.dtype = shape, call, index, name, dtype

    @property
    def size(self) -> int:
        """Number of elements of one sample."""
        return math.prod(self.shape)

    def apply_layer(self, layer: Layer, inputs: tuple[Tensor, ...], name: str | None = None) -> Any:
        """The output(s) of ``layer`` applied to ``inputs``: a Tensor, or a tuple of them for a layer with several."""
        outputs = Call(layer, tuple(inputs), name).outputs
        return outputs[0] if len(outputs) == 1 else outputs

    def __add__(self, other: Any) -> Any:
        return self._merge("Add", other)

    def __sub__(self, other: Any) -> Any:
        return self._merge("Subtract", other)

    def __mul__(self, other: Any) -> Any:
        return self._merge("Multiply", other)

    def _merge(self, layer: str, other: Any) -> Any:
        if not isinstance(other, Tensor):
            return NotImplemented
        from ..layers import merge

        return getattr(merge, layer)()(self, other)

    def __repr__(self) -> str:
        source = f" of {self.call.label()}" if self.call else f" {self.name!r}" if self.name else ""
        return f"<Tensor{source}, shape {self.shape}>"


def Input(shape: Any, name: str | None = None, dtype: str | None = None) -> Tensor:
    """A symbolic input of ``shape``, without the batch axis, channels last: ``nc.Input((32, 32, 3))``.

    ``dtype`` None means the model's working type, ``"int64"`` whole numbers, such as the ids that an Embedding takes."""
    shape = checked_shape(shape)
    if name is not None:
        _check_name(name, "Input")
    if dtype not in (None, "int64"):
        raise ConfigError(f"{dtype!r} was given as the dtype of an Input; it takes None, for the model's working type, or 'int64'.")
    return Tensor(shape, name=name, dtype=dtype)


def checked_shape(shape: Any) -> Shape:
    """``shape`` as a tuple of positive ints, or a ShapeError."""
    axes = (shape,) if isinstance(shape, numbers.Integral) else shape
    if isinstance(axes, (tuple, list)) and axes and all(_is_extent(n) for n in axes):
        return tuple(map(int, axes))
    raise ShapeError(
        f"{shape!r} was given as the shape of an input; it needs positive whole numbers without the batch axis, such as (32, 32, 3)."
    )
