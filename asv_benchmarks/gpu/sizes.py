"""How much is measured: in full, or as little as the simulator can do in some seconds."""

from __future__ import annotations

import dataclasses
from typing import Any

PRECISIONS = ("float32", "tf32", "bf16")


@dataclasses.dataclass(frozen=True)
class Network:
    """An architecture, with the batch sizes of training and of inference (0: not at all). ``small``: what a GPU has little to do with, so
    that the time between launches counts."""

    name: str
    shape: tuple[int, ...]
    training: int
    inference: int
    classes: int = 1000
    small: bool = False

    def item(self, mode: str) -> dict[str, Any]:
        """What rows of training or inference begin with."""
        return {"network": self.name, "input": " x ".join(map(str, self.shape)), "mode": mode, "batch": getattr(self, mode)}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, with padding that keeps the size at stride 1."""

    name: str
    batch: int
    size: int
    channels: int
    filters: int
    kernel: int
    stride: int = 1
    depthwise: bool = False

    @property
    def flops(self) -> float:
        """Of one pass."""
        places = self.batch * (-(-self.size // self.stride)) ** 2
        return 2.0 * places * self.filters * self.kernel**2 * (1 if self.depthwise else self.channels)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of everything. ``only`` are names of layers and architectures, empty for all; ``round_ms`` is about how long each side runs in each
    of the ``rounds`` of a measurement; ``shapes`` are those of images for architectures that no other library has; ``learners``, and the
    size of their images, train for ``epochs`` on ``samples`` of the digits (None: all), in batches of ``batch``."""

    networks: tuple[Network, ...]
    small_networks: tuple[Network, ...]
    layers: tuple[Layer, ...]
    precisions: tuple[str, ...] = PRECISIONS
    only: frozenset[str] = frozenset()
    rounds: int = 5
    round_ms: float = 15.0
    launches: int = 100
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = (("lenet5", (28, 28, 1)), ("cnn", (32, 32, 3)))
    learners: tuple[tuple[str, int], ...] = (("lenet5", 28), ("resnet18", 32))
    epochs: int = 8
    samples: int | None = None
    batch: int = 64
    steps: int = 1000

    def takes(self, name: str) -> bool:
        """Whether a layer or an architecture is among what is proven."""
        return not self.only or name in self.only


FULL = Sizes(
    networks=(
        Network("resnet50", (224, 224, 3), 64, 64),
        Network("resnet18", (224, 224, 3), 128, 128),
        Network("vgg16", (224, 224, 3), 32, 32),
        Network("mobilenet_v2", (224, 224, 3), 64, 64),
        Network("convnext_tiny", (224, 224, 3), 64, 64),
    ),
    small_networks=(
        Network("lenet5", (28, 28, 1), 64, 64, 10, True),
        Network("resnet20", (32, 32, 3), 16, 16, 10, True),
        Network("resnet18", (32, 32, 3), 8, 1, 1000, True),
        Network("resnet50", (224, 224, 3), 0, 1, 1000, True),
    ),
    layers=(
        Layer("resnet 56", 64, 56, 64, 64, 3),
        Layer("resnet 14", 64, 14, 256, 256, 3),
        Layer("bottleneck 56, 1x1", 64, 56, 64, 256, 1),
        Layer("bottleneck 14, 1x1", 64, 14, 1024, 256, 1),
        Layer("resnet stem", 64, 224, 3, 64, 7, 2),
        Layer("depthwise 56", 64, 56, 144, 144, 3, 1, True),
        Layer("resnet 28", 64, 28, 128, 128, 3),
        Layer("resnet 7", 64, 7, 512, 512, 3),
        Layer("strided 28", 64, 28, 256, 256, 3, 2),
        Layer("vgg 224", 16, 224, 64, 64, 3),
        Layer("vgg 56", 16, 56, 256, 256, 3),
        Layer("depthwise 14", 64, 14, 576, 576, 3, 1, True),
    ),
)

TINY = Sizes(
    networks=(),
    small_networks=(Network("cnn", (4, 4, 3), 1, 1, 10, True),),
    layers=(Layer("3x3", 1, 5, 4, 8, 3), Layer("depthwise", 1, 4, 4, 4, 3, 2, True)),
    precisions=("bf16",),
    only=frozenset({"BatchNorm", "MaxPool2D", "cnn"}),
    rounds=1,
    round_ms=0.0,
    launches=3,
    shapes=(("cnn", (4, 4, 3)),),
    learners=(("cnn", 8),),
    epochs=1,
    samples=4,
    batch=2,
    steps=2,
)
