"""AlexNet: the network of 2014, which torchvision has, and the original of 2012."""

from __future__ import annotations

import numbacnn as nc
from numbacnn.weights.names import Rules

from .common import Stages, architecture, dense_head, size_keeping


def alexnet_body(x: nc.Tensor, *, width: int = 64) -> Stages:
    """A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.

    Five convolutions of 11 x 11, 5 x 5 and 3 x 3, and three overlapping poolings. The first has ``width`` filters, the others 3, 6, 4 and 4
    times as many.

    Images from 63 x 63 on. The head pools to 6 x 6 places, which there are anyway of 224 x 224, and has two ``hidden`` layers.
    """
    stages: Stages = {}
    with nc.scope("stem"):
        h = convolution(x, width, 11, stride=4, padding=2)
        h = stages["stem"] = pool(h)
    with nc.scope("stage1"):
        h = convolution(h, 3 * width, 5)
        h = stages["stage1"] = pool(h)
    with nc.scope("stage2"):
        h = convolution(h, 6 * width, 3, number=1)
        h = convolution(h, 4 * width, 3, number=2)
        h = convolution(h, 4 * width, 3, number=3)
        h = stages["stage2"] = pool(h)
    return stages


def original_body(x: nc.Tensor, *, width: int = 96) -> Stages:
    """A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012.

    Five convolutions of ``width`` filters, 8/3, 4, 4 and 8/3 times as many; the second, fourth and fifth in two groups, as they were spread
    over two processors. Local response normalisation after the first two, three overlapping poolings.

    Images from 67 x 67 on, usually of 227 x 227, as the numbers of the paper, which says 224, want it. The head pools to 6 x 6 places,
    which there are anyway of 227 x 227, and has two ``hidden`` layers. Weights start by the number of a layer's inputs (He et al. 2015)
    in place of the paper's 0.01.
    """
    stages: Stages = {}
    wide = 8 * width // 3
    with nc.scope("stem"):
        h = convolution(x, width, 11, stride=4, padding=0)
        h = stages["stem"] = pool(response_norm(h))
    with nc.scope("stage1"):
        h = convolution(h, wide, 5, groups=2)
        h = stages["stage1"] = pool(response_norm(h))
    with nc.scope("stage2"):
        h = convolution(h, 4 * width, 3, number=1)
        h = convolution(h, 4 * width, 3, groups=2, number=2)
        h = convolution(h, wide, 3, groups=2, number=3)
        h = stages["stage2"] = pool(h)
    return stages


def convolution(
    h: nc.Tensor, filters: int, size: int, *, stride: int = 1, padding: int | None = None, groups: int = 1, number: int | str = ""
) -> nc.Tensor:
    """Convolution and rectifier; padding keeps the size, at stride 1, unless given."""
    kept = size_keeping(size) if padding is None else padding
    h = nc.Conv2D(filters, size, stride=stride, padding=kept, groups=groups, initializer="he_normal")(h, name=f"conv{number}")
    return nc.Activation("relu")(h, name=f"activation{number}")


def pool(h: nc.Tensor) -> nc.Tensor:
    return nc.MaxPool2D(3, stride=2)(h, name="pool")


def response_norm(h: nc.Tensor) -> nc.Tensor:
    """``y[c] = x[c] / (2 + 1e-4 * sum of x[j] ** 2) ** 0.75`` over the 5 channels around ``c``; the layer divides ``alpha`` by 5."""
    return nc.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(h, name="norm")


def alexnet_head(h: nc.Tensor, classes: int, *, hidden: int = 4096, dropout: float = 0.5) -> nc.Tensor:
    """Mean to 6 x 6 places, and three dense layers, dropout before the two ``hidden`` ones."""
    h = nc.AdaptiveAveragePool2D(6)(h, name="pool")
    h = nc.Flatten()(h, name="flatten")
    for k in (1, 2):
        if dropout:
            h = nc.Dropout(dropout)(h, name=f"dropout{k}")
        h = nc.Dense(hidden, activation="relu", initializer="he_normal")(h, name=f"dense{k}")
    return nc.Dense(classes)(h, name="logits")


alexnet = architecture("alexnet", alexnet_body, alexnet_head)
alexnet_original = architecture("alexnet_original", original_body, dense_head, input_shape=(227, 227, 3), places=6)

TORCHVISION = [
    ("stem.conv", "features.0"),
    ("stage1.conv", "features.3"),
    ("stage2.conv1", "features.6"),
    ("stage2.conv2", "features.8"),
    ("stage2.conv3", "features.10"),
    ("head.dense1", "classifier.1"),
    ("head.dense2", "classifier.4"),
    ("head.logits", "classifier.6"),
]


def names(model: nc.Model) -> dict[str, Rules]:
    """The original is in no other library."""
    return {"torchvision": TORCHVISION} if model.architecture == "alexnet" else {}


NAMES = names
