"""What a call of a layer's method turns into: launches that are ready to go, or the call itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError, DataError, ShapeError
from .build import Node
from .devices import HOST

Step = tuple[Callable, tuple]


def steps_of(node: Node, threads: int, function: Callable, *arguments: Any, device: Any = HOST) -> list[Step]:
    """The kernels that ``function``, a method of the node's layer, launches on that many threads of the device, or the call itself."""
    if not node.layer.recordable:
        return [(speaking(node, function), arguments)]
    try:
        with device.record(threads) as steps:
            function(*arguments)
    except (ShapeError, ConfigError) as error:
        raise type(error)(f"{node.label()}: {error}") from None
    return steps


def speaking(node: Node, function: Callable) -> Callable:
    """The function, with the node's name in front of what it finds wrong."""

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        try:
            function(*arguments)
        except (ShapeError, ConfigError, DataError) as error:
            raise type(error)(f"{node.label()}: {error}") from None

    return call
