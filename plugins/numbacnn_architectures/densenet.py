"""Densely connected networks."""

from __future__ import annotations

import numbacnn as nc

from .common import INITIALIZER, Stages, architecture, conv_norm, norm_activation, pooled_head


def densenet(
    x: nc.Tensor,
    *,
    depths: tuple[int, ...],
    growth: int = 32,
    width: int = 64,
    layer_dropout: float = 0.0,
) -> Stages:
    """G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, "Densely Connected Convolutional Networks", CVPR 2017: DenseNet-BC.

    A 7 x 7 convolution to ``width`` filters and a max pooling, each of stride 2, then four dense stages of ``depths`` layers. Each layer
    sees the outputs of all layers before it in its stage and adds ``growth`` channels to them. Between stages the size and the channels
    are halved. Training drops ``layer_dropout`` of what a layer adds (the paper: 0.2 on small sets of images that are not augmented).
    """
    with nc.scope("stem"):
        stem = conv_norm(x, width, 7, stride=2)
        h = nc.MaxPool2D(3, stride=2, padding=1)(stem, name="pool")
    stages: Stages = {"stem": stem}
    for s, depth in enumerate(depths):
        if s > 0:
            with nc.scope(f"transition{s}"):
                h = transition(h)
        for b in range(depth):
            with nc.scope(f"stage{s + 1}"), nc.scope(f"block{b + 1}"):
                h = dense_layer(h, growth, layer_dropout)
        stages[f"stage{s + 1}"] = h
    with nc.scope(f"stage{len(depths)}"):
        stages[f"stage{len(depths)}"] = norm_activation(h)
    return stages


def dense_layer(h: nc.Tensor, growth: int, dropout: float) -> nc.Tensor:
    """``growth`` channels made of all that ``h`` has, behind these: a 1 x 1 convolution to four times as many, then 3 x 3."""
    new = norm_conv(h, 4 * growth, 1, number=1)
    new = norm_conv(new, growth, 3, number=2)
    if dropout:
        new = nc.Dropout(dropout)(new, name="dropout")
    return nc.Concatenate()(h, new, name="concatenate")


def transition(h: nc.Tensor) -> nc.Tensor:
    """Half of the channels, a quarter of the places."""
    h = norm_conv(h, h.shape[-1] // 2, 1)
    return nc.AveragePool2D(2)(h, name="pool")


def norm_conv(h: nc.Tensor, filters: int, size: int, *, number: int | str = "") -> nc.Tensor:
    """Batch norm and rectifier in front of a convolution, not behind it."""
    h = norm_activation(h, number=number)
    return nc.Conv2D(filters, size, padding=size // 2, bias=False, initializer=INITIALIZER)(h, name=f"conv{number}")


densenet121 = architecture("densenet121", densenet, pooled_head, depths=(6, 12, 24, 16))
densenet169 = architecture("densenet169", densenet, pooled_head, depths=(6, 12, 32, 32))
densenet201 = architecture("densenet201", densenet, pooled_head, depths=(6, 12, 48, 32))

OUTSIDE_LAYERS = [
    ("stem.conv", "features.conv0"),
    ("stem.norm", "features.norm0"),
    ("transition{s}", "features.transition{s}"),
    ("stage{s}.norm", "features.norm5"),
    ("head.logits", "classifier"),
]
TORCHVISION = [("stage{s}.block{b}", "features.denseblock{s}.denselayer{b}"), *OUTSIDE_LAYERS]
TORCHVISION_FILES = [  # those that it publishes, which are older than its names
    ("stage{s}.block{b}.norm{k}", "features.denseblock{s}.denselayer{b}.norm.{k}"),
    ("stage{s}.block{b}.conv{k}", "features.denseblock{s}.denselayer{b}.conv.{k}"),
    *OUTSIDE_LAYERS,
]
NAMES = {"torchvision": TORCHVISION, "timm": TORCHVISION, "torchvision_files": TORCHVISION_FILES}
