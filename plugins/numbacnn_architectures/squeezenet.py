"""SqueezeNet."""

from __future__ import annotations

import numbacnn as nc

from .common import Stages, architecture


def squeezenet(x: nc.Tensor, *, width: int = 64) -> Stages:
    """F. Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016; version 1.1 of the
    authors' code, which computes 2.4 times less.

    A 3 x 3 convolution of ``width`` filters, then three stages of fire modules, each behind a max pooling of stride 2. Images from
    17 x 17 on.

    The head is a 1 x 1 convolution to the classes with a rectifier, and the mean over all places: logits are never negative. A class whose
    logits are 0 everywhere doesn't learn, so the head starts with larger weights than those that the authors drew with a
    standard deviation of 0.01.
    """
    stages: Stages = {}
    with nc.scope("stem"):
        h = stages["stem"] = convolution(x, width, 3, "conv", stride=2, padding=0)
    quarter = width // 4
    for s, squeezed in enumerate(STAGES):
        with nc.scope(f"stage{s + 1}"):
            h = nc.MaxPool2D(3, stride=2, ceil_mode=True)(h, name="pool")
            for b, factor in enumerate(squeezed):
                with nc.scope(f"block{b + 1}"):
                    h = fire(h, factor * quarter)
        stages[f"stage{s + 1}"] = h
    return stages


STAGES = ((1, 1), (2, 2), (3, 3, 4, 4))
"""Of each fire module its filters that squeeze, in quarters of the width."""


def fire(h: nc.Tensor, squeezed: int) -> nc.Tensor:
    """A 1 x 1 convolution to few channels, then 1 x 1 and 3 x 3 convolutions of it to four times as many each, side by side."""
    h = convolution(h, squeezed, 1, "squeeze")
    sides = [convolution(h, 4 * squeezed, size, f"expand{size}x{size}") for size in (1, 3)]
    return nc.Concatenate()(*sides, name="concatenate")


def convolution(h: nc.Tensor, filters: int, size: int, name: str, stride: int = 1, padding: int | None = None) -> nc.Tensor:
    """Convolution and rectifier; padding keeps the size, at stride 1, unless given."""
    padding = size // 2 if padding is None else padding
    h = nc.Conv2D(filters, size, stride=stride, padding=padding, initializer="he_uniform")(h, name=name)
    return nc.Activation("relu")(h, name=f"{name}_activation")


def squeezenet_head(h: nc.Tensor, classes: int, *, dropout: float = 0.5) -> nc.Tensor:
    """Dropout, a 1 x 1 convolution with a rectifier, and the mean over all places."""
    if dropout:
        h = nc.Dropout(dropout)(h, name="dropout")
    h = nc.Conv2D(classes, 1, initializer="he_uniform")(h, name="logits")
    h = nc.Activation("relu")(h, name="activation")
    return nc.GlobalAveragePool2D()(h, name="pool")


squeezenet1_1 = architecture("squeezenet1_1", squeezenet, squeezenet_head)

NAMES = {
    "torchvision": [
        ("stem.conv", "features.0"),
        ("stage1.block{b}", "features.{b+2}"),
        ("stage2.block{b}", "features.{b+5}"),
        ("stage3.block{b}", "features.{b+8}"),
        ("head.logits", "classifier.1"),
    ]
}
