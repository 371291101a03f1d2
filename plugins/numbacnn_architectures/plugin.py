"""The architectures that come with numbacnn."""

from __future__ import annotations

from collections.abc import Iterator

from numbacnn.plugin.hookspecs import hookimpl
from numbacnn.plugin.specs import ArchitectureSpec

numbacnn_api = 1


@hookimpl
def numbacnn_architectures() -> Iterator[ArchitectureSpec]:
    yield ArchitectureSpec(
        "lenet5",
        "numbacnn_architectures.lenet:lenet5",
        "LeNet-5 (LeCun et al. 1998): two convolutions, three dense layers",
        input_size=(28, 28),
    )
    yield ArchitectureSpec(
        "cnn",
        "numbacnn_architectures.cnn:cnn",
        "the textbook example: two convolutions with pooling, two dense layers",
    )
