"""The base of all twins, and the way from a layer to its own."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any, ClassVar

from ...errors import DeviceError, PluginError
from ..base import Buffer, Layer, Parameter, declared


@dataclasses.dataclass(frozen=True)
class Twin(Layer):
    """A layer as it runs on the device.

    ``layer`` has the configuration, and all that is said about shapes and parameters. ``precision``, ``"float32"``, ``"tf32"`` or
    ``"bf16"``, is that of the products of layers that mix channels, where tensor cores can take them. With ``"bf16"`` arrays between layers
    hold bfloat16, which kernels see as float32.

    A subclass defines ``forward`` and ``backward``, which get :class:`~numbacnn.kernels.cuda.memory.DeviceArray`, always dense, and call
    kernels on them; ``scratch``, ``prepared`` and ``prepare`` are its own, and ``buffers`` where it keeps something else than the layer for
    ``backward``. All of them do nothing but arithmetic on shapes and calls of kernels: they are called once, and afterwards only the
    kernels run.
    """

    layer: Any
    precision: str = "float32"

    recordable: ClassVar[bool] = True

    @property
    def input_dtype(self) -> str | None:  # type: ignore[override]
        return self.layer.input_dtype

    @property
    def arity(self) -> int | None:  # type: ignore[override]
        return self.layer.arity

    @property
    def backward_reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.layer.backward_reads

    @property
    def in_place(self) -> bool:  # type: ignore[override]
        return self.layer.in_place

    @property
    def random(self) -> bool:  # type: ignore[override]
        return self.layer.random

    def label(self, name: str | None = None) -> str:
        return self.layer.label(name)

    def output_shape(self, x: Any) -> Any:
        return self.layer.output_shape(x)

    def parameters(self, x: Any) -> dict[str, Parameter]:
        return self.layer.parameters(x)

    def buffers(self, x: Any) -> dict[str, Buffer]:
        return self.layer.buffers(x)

    def repeatable(self, x: Any) -> bool:
        return all(parameter.trainable for parameter in self.parameters(x).values())

    def flops(self, x: Any) -> int:
        return self.layer.flops(x)

    @property
    def checks_input(self) -> bool:
        """Whether the layer defines :meth:`check_input`."""
        return type(self).check_input is not Twin.check_input

    def check_input(self, x: Any) -> None:
        """Raise DataError for values, in an array of the host, of which ``forward`` cannot make sense. Plans call it where the layer reads
        an input of the model, before that is copied to the device: kernels there cannot complain."""


def on_cuda(layer: Layer, precision: str = "float32") -> Layer:
    """The twin of a layer; one that only renames its input is its own. Raises DeviceError for a layer without."""
    return layer if layer.alias else _class_of(type(layer))(layer, precision)  # type: ignore[arg-type]


@functools.cache
def _class_of(kind: type[Layer]) -> type[Twin]:
    place = declared(kind, "forward", "backward")
    if place is None:
        raise DeviceError(
            f"{kind.__name__} layers, of {provider(kind)}, have no kernels for the GPU: the class says nothing in `cuda`. "
            "A network with them runs on the CPU."
        )
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"{kind.__name__} layers, of {provider(kind)}, say that their kernels for the GPU are {place!r}: {error}."
        ) from None
    return found


def provider(kind: type) -> str:
    """The package that a class comes from."""
    return kind.__module__.partition(".")[0]


def rows(array: Any) -> Any:
    """An array as ``(rows, channels)``."""
    return array.reshape(-1, array.shape[-1])
