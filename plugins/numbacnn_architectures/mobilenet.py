"""MobileNets: V1 of depthwise separable convolutions, V2 of inverted residuals, V3 with squeeze-and-excitation, found by search."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numbacnn as nc
from numbacnn.weights.names import Rule, Rules

from .common import Norm, Stages, architecture, conv_norm, depthwise_norm, drop_rates, pooled_head
from .inverted import (
    Row,
    blocks,
    conv_head,
    inverted_residual,
    inverted_stages,
    round_channels,
    squeeze_excite,
    timm_rules,
    torchvision_block_rules,
)

# V1 ------------------------------------------------------------------------------------------------------------------

V1 = ((64,), (128, 128), (256, 256), (512, 512, 512, 512, 512, 512), (1024, 1024))
"""Filters of the blocks, by stages."""


def v1(x: nc.Tensor, *, width: float = 1.0, norm: Norm = nc.BatchNorm, padding: Any = None) -> Stages:
    """A. G. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017.

    A 3 x 3 convolution of stride 2, then 13 blocks of a 3 x 3 depthwise and a 1 x 1 convolution, each with batch norm and relu6. Four of
    them halve the size. ``width`` multiplies the channels, which are rounded to multiples of 8. ``norm`` makes the batch norms, and
    ``padding`` as that of the larger convolutions ("same" for weights from TensorFlow; None is symmetric).
    """
    with nc.scope("stem"):
        h = conv_norm(x, round_channels(32 * width), 3, stride=2, activation="relu6", norm=norm, padding=padding)
    stages = {"stem": h}
    for s, row in enumerate(V1):
        for b, filters in enumerate(row):
            with nc.scope(f"stage{s + 1}"), nc.scope(f"block{b + 1}"):
                with nc.scope("depthwise"):
                    h = depthwise_norm(h, 3, stride=2 if s > 0 and b == 0 else 1, activation="relu6", norm=norm, padding=padding)
                with nc.scope("pointwise"):
                    h = conv_norm(h, round_channels(filters * width), activation="relu6", norm=norm)
        stages[f"stage{s + 1}"] = h
    return stages


# V2 ------------------------------------------------------------------------------------------------------------------

V2 = (
    #   expand, size, stride, filters, depth
    Row(1, 3, 1, 16, 1),
    Row(6, 3, 2, 24, 2),
    Row(6, 3, 2, 32, 3),
    Row(6, 3, 2, 64, 4),
    Row(6, 3, 1, 96, 3),
    Row(6, 3, 2, 160, 3),
    Row(6, 3, 1, 320, 1),
)


def v2(x: nc.Tensor, *, width: float = 1.0, norm: Norm = nc.BatchNorm, padding: Any = None, drop_path: float = 0.0) -> Stages:
    """M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

    A 3 x 3 convolution of stride 2, then seven stages of inverted residuals with relu6. ``width`` multiplies the channels, which are
    rounded to multiples of 8; the head has at least 1280. ``norm`` makes the batch norms, and ``padding`` as that of the larger
    convolutions ("same" for weights from TensorFlow; None is symmetric).
    """
    with nc.scope("stem"):
        h = conv_norm(x, round_channels(32 * width), 3, stride=2, activation="relu6", norm=norm, padding=padding)
    rows = [row._replace(filters=round_channels(row.filters * width)) for row in V2]
    return {"stem": h, **inverted_stages(h, rows, activation="relu6", norm=norm, padding=padding, drop_path=drop_path)}


def v2_head(h: nc.Tensor, classes: int, *, width: float = 1.0, norm: Norm = nc.BatchNorm, dropout: float = 0.2) -> nc.Tensor:
    """1 x 1 convolution to 1280 features, more where ``width`` is above 1."""
    return conv_head(h, classes, round_channels(1280 * max(1.0, width)), activation="relu6", norm=norm, dropout=dropout)


# V3 ------------------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A line of the tables of MobileNetV3."""

    size: int
    expanded: int
    filters: int
    squeeze: bool
    activation: str
    stride: int


SMALL = (
    #      size, expanded, filters, squeeze, activation, stride
    (Block(3, 16, 16, True, "relu", 2),),
    (Block(3, 72, 24, False, "relu", 2), Block(3, 88, 24, False, "relu", 1)),
    (Block(5, 96, 40, True, "hard_swish", 2), Block(5, 240, 40, True, "hard_swish", 1), Block(5, 240, 40, True, "hard_swish", 1)),
    (Block(5, 120, 48, True, "hard_swish", 1), Block(5, 144, 48, True, "hard_swish", 1)),
    (Block(5, 288, 96, True, "hard_swish", 2), Block(5, 576, 96, True, "hard_swish", 1), Block(5, 576, 96, True, "hard_swish", 1)),
)
LARGE = (
    (Block(3, 16, 16, False, "relu", 1),),
    (Block(3, 64, 24, False, "relu", 2), Block(3, 72, 24, False, "relu", 1)),
    (Block(5, 72, 40, True, "relu", 2), Block(5, 120, 40, True, "relu", 1), Block(5, 120, 40, True, "relu", 1)),
    (
        Block(3, 240, 80, False, "hard_swish", 2),
        Block(3, 200, 80, False, "hard_swish", 1),
        Block(3, 184, 80, False, "hard_swish", 1),
        Block(3, 184, 80, False, "hard_swish", 1),
    ),
    (Block(3, 480, 112, True, "hard_swish", 1), Block(3, 672, 112, True, "hard_swish", 1)),
    (Block(5, 672, 160, True, "hard_swish", 2), Block(5, 960, 160, True, "hard_swish", 1), Block(5, 960, 160, True, "hard_swish", 1)),
)
V3_NORM = functools.partial(nc.BatchNorm, momentum=0.01, epsilon=1e-3)


def v3(
    x: nc.Tensor,
    *,
    table: Sequence[Sequence[Block]],
    width: float = 1.0,
    norm: Norm = V3_NORM,
    padding: Any = None,
    drop_path: float = 0.0,
) -> Stages:
    """A. Howard et al., "Searching for MobileNetV3", ICCV 2019.

    A 3 x 3 convolution of stride 2, then the inverted residuals of ``table``, stage by stage; some have squeeze-and-excitation with a
    quarter of the expanded channels and a hard sigmoid. ``width`` multiplies the channels, which are rounded to multiples of 8. ``norm``
    makes the batch norms (timm's own weights are for ``norm=nc.BatchNorm``), and ``padding`` as that of the larger convolutions
    ("same" for weights from TensorFlow; None is symmetric).
    """
    with nc.scope("stem"):
        h = conv_norm(x, round_channels(16 * width), 3, stride=2, activation="hard_swish", norm=norm, padding=padding)
    stages = {"stem": h}
    rates = iter(drop_rates(sum(map(len, table)), drop_path))
    for s, row in enumerate(table):
        for b, block in enumerate(row):
            expanded = round_channels(block.expanded * width)
            squeeze = functools.partial(squeeze_excite, squeezed=round_channels(expanded / 4), gate="hard_sigmoid")
            with nc.scope(f"stage{s + 1}"), nc.scope(f"block{b + 1}"):
                h = inverted_residual(
                    h,
                    round_channels(block.filters * width),
                    block.size,
                    block.stride,
                    expanded=expanded,
                    squeeze=squeeze if block.squeeze else None,
                    activation=block.activation,
                    norm=norm,
                    padding=padding,
                    drop_path=next(rates),
                )
        stages[f"stage{s + 1}"] = h
    return stages


def v3_head(h: nc.Tensor, classes: int, *, hidden: int, width: float = 1.0, norm: Norm = V3_NORM, dropout: float = 0.2) -> nc.Tensor:
    """1 x 1 convolution to six times the channels, mean over all places, a ``hidden`` dense layer, dropout, and another."""
    h = conv_norm(h, 6 * h.shape[-1], activation="hard_swish", norm=norm)
    h = nc.GlobalAveragePool2D()(h, name="pool")
    h = nc.Dense(round_channels(hidden * width), activation="hard_swish", initializer="he_normal")(h, name="hidden")
    if dropout:
        h = nc.Dropout(dropout)(h, name="dropout")
    return nc.Dense(classes)(h, name="logits")


# Variants and names --------------------------------------------------------------------------------------------------

mobilenet_v1 = architecture("mobilenet_v1", v1, pooled_head)
mobilenet_v2 = architecture("mobilenet_v2", v2, v2_head)
mobilenet_v3_small = architecture("mobilenet_v3_small", v3, v3_head, table=SMALL, hidden=1024)
mobilenet_v3_large = architecture("mobilenet_v3_large", v3, v3_head, table=LARGE, hidden=1280)


def names(model: nc.Model) -> dict[str, Rules]:
    """torchvision has no V1."""
    timm = timm_rules(model)
    if model.architecture == "mobilenet_v1":
        return {"timm": timm}
    if model.architecture == "mobilenet_v2":
        return {"torchvision": [*v2_projections(model), *torchvision_rules(model, "conv"), ("head.logits", "classifier.1")], "timm": timm}
    v3_head = [("head.hidden", "classifier.0"), ("head.logits", "classifier.3")]
    return {"torchvision": [*torchvision_rules(model, "block"), *v3_head], "timm": [*v3_timm_head(model), *timm]}


def torchvision_rules(model: nc.Model, within: str) -> Rules:
    """torchvision numbers the blocks of all stages in one row, between the stem and the convolution of the head."""
    rules: list[Rule] = [("stem.conv", "features.0.0"), ("stem.norm", "features.0.1")]
    for number, ((s, b), parts) in enumerate(blocks(model).items(), 1):
        rules += torchvision_block_rules(f"stage{s}.block{b}", f"features.{number}.{within}", parts)
    head = f"features.{len(blocks(model)) + 1}"
    return [*rules, ("head.conv", f"{head}.0"), ("head.norm", f"{head}.1")]


def v2_projections(model: nc.Model) -> Rules:
    """The last convolution of a block of V2, and its batch norm, are numbered like the parts before."""
    numbered = enumerate(blocks(model).items(), 1)
    places = [(f"stage{s}.block{b}.project", f"features.{number}.conv", len(parts)) for number, ((s, b), parts) in numbered]
    return [(f"{ours}.{layer}", f"{theirs}.{last - 1 + k}") for ours, theirs, last in places for k, layer in enumerate(("conv", "norm"))]


def v3_timm_head(model: nc.Model) -> Rules:
    """The first convolution of the head is a stage of its own, and the dense layer behind the pooling a convolution."""
    stage = max(s for s, _ in blocks(model))
    dense: list[Rule] = [("head.hidden.weight", "conv_head.weight", 2), ("head.hidden", "conv_head")]
    return [("head.conv", f"blocks.{stage}.0.conv"), ("head.norm", f"blocks.{stage}.0.bn1"), *dense]


NAMES = names
