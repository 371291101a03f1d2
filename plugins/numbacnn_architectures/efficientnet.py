"""EfficientNets: B0 to B7 by compound scaling, Lite0 for small devices, and V2-S."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numbacnn as nc
from numbacnn.weights.names import Rule, Rules

from .common import Norm, Stages, architecture, conv_norm
from .inverted import (
    Row,
    blocks,
    conv_head,
    inverted_stages,
    round_channels,
    squeeze_rules,
    timm_rules,
    torchvision_block_rules,
)

B0 = (
    #   expand, size, stride, filters, depth
    Row(1, 3, 1, 16, 1),
    Row(6, 3, 2, 24, 2),
    Row(6, 5, 2, 40, 2),
    Row(6, 3, 2, 80, 3),
    Row(6, 5, 1, 112, 3),
    Row(6, 5, 2, 192, 4),
    Row(6, 3, 1, 320, 1),
)
V2_S = (
    Row(1, 3, 1, 24, 2, fused=True),
    Row(4, 3, 2, 48, 4, fused=True),
    Row(4, 3, 2, 64, 4, fused=True),
    Row(4, 3, 2, 128, 6),
    Row(6, 3, 1, 160, 9),
    Row(6, 3, 2, 256, 15),
)


def efficientnet(
    x: nc.Tensor,
    *,
    rows: Sequence[Row] = B0,
    stem: int = 32,
    depth: float = 1.0,
    width: float = 1.0,
    squeeze: float = 0.25,
    activation: Any = "silu",
    norm: Norm = nc.BatchNorm,
    padding: Any = None,
    drop_path: float = 0.0,
) -> Stages:
    """M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, and "EfficientNetV2: Smaller
    Models and Faster Training", ICML 2021.

    A 3 x 3 convolution of stride 2 to ``stem`` channels, then the inverted residuals of ``rows``, stage by stage, with
    squeeze-and-excitation to a ratio ``squeeze`` of the channels at the start of a block (0 for none). ``width`` multiplies the channels,
    which are rounded to multiples of 8, ``depth`` the blocks of each stage, rounded up; :func:`scaled` says by how much. ``norm`` makes
    the batch norms, and ``padding`` is that of the larger convolutions ("same" as in TensorFlow; None is symmetric). Weights that come
    from TensorFlow want ``norm`` with epsilon 1e-3 and ``padding="same"``, timm's own ``norm=nc.BatchNorm``. The paper trains with
    ``drop_path=0.2``.
    """
    with nc.scope("stem"):
        h = conv_norm(x, round_channels(stem * width), 3, stride=2, activation=activation, norm=norm, padding=padding)
    rows = [row._replace(filters=round_channels(row.filters * width), depth=math.ceil(row.depth * depth)) for row in rows]
    stages = inverted_stages(h, rows, squeeze=squeeze, activation=activation, norm=norm, padding=padding, drop_path=drop_path)
    return {"stem": h, **stages}


def head(
    h: nc.Tensor,
    classes: int,
    *,
    width: float = 1.0,
    activation: Any = "silu",
    norm: Norm = nc.BatchNorm,
    dropout: float = 0.2,
) -> nc.Tensor:
    """1 x 1 convolution to 1280 features, times ``width``."""
    return conv_head(h, classes, round_channels(1280 * width), activation=activation, norm=norm, dropout=dropout)


# Scaling -------------------------------------------------------------------------------------------------------------

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""Found by a grid search for B1 such that ``alpha * beta**2 * gamma**2``, by which FLOPs grow, is about 2."""


def scaled(phi: float, depth: float | None = None, width: float | None = None, size: int | None = None) -> dict[str, Any]:
    """Compound scaling: depth ``alpha**phi``, width ``beta**phi``, and images of ``224 * gamma**phi`` pixels, so that ``2**phi`` as many
    FLOPs are spent. B1 to B7 are those of ``phi`` 0.5, 1, 2, ..., 6, but the coefficients with which they were published, and which
    their weights need, are rounded by hand, and are larger than the formula's from B4 on. Those are given here where they differ from
    the formula rounded to one decimal and to whole pixels."""
    side = size or round(224 * GAMMA**phi)
    return {"depth": depth or round(ALPHA**phi, 1), "width": width or round(BETA**phi, 1), "input_shape": (side, side, 3)}


TENSORFLOW_NORM = functools.partial(nc.BatchNorm, momentum=0.01, epsilon=1e-3)

efficientnet_b0 = architecture("efficientnet_b0", efficientnet, head, **scaled(0))
efficientnet_b1 = architecture("efficientnet_b1", efficientnet, head, **scaled(0.5))
efficientnet_b2 = architecture("efficientnet_b2", efficientnet, head, **scaled(1, size=260), dropout=0.3)
efficientnet_b3 = architecture("efficientnet_b3", efficientnet, head, **scaled(2, size=300), dropout=0.3)
efficientnet_b4 = architecture("efficientnet_b4", efficientnet, head, **scaled(3, 1.8, 1.4, 380), dropout=0.4)
efficientnet_b5 = architecture("efficientnet_b5", efficientnet, head, **scaled(4, 2.2, 1.6, 456), dropout=0.4, norm=TENSORFLOW_NORM)
efficientnet_b6 = architecture("efficientnet_b6", efficientnet, head, **scaled(5, 2.6, 1.8, 528), dropout=0.5, norm=TENSORFLOW_NORM)
efficientnet_b7 = architecture("efficientnet_b7", efficientnet, head, **scaled(6, 3.1, 2.0, 600), dropout=0.5, norm=TENSORFLOW_NORM)
efficientnet_lite0 = architecture(
    "efficientnet_lite0", efficientnet, head, squeeze=0.0, activation="relu6", norm=TENSORFLOW_NORM, padding="same"
)
efficientnet_v2_s = architecture(
    "efficientnet_v2_s",
    efficientnet,
    head,
    input_shape=(384, 384, 3),
    rows=V2_S,
    stem=24,
    norm=functools.partial(nc.BatchNorm, epsilon=1e-3),
)


# Names in other libraries --------------------------------------------------------------------------------------------


def names(model: nc.Model) -> dict[str, Rules]:
    """The package efficientnet_pytorch, in whose names many weights from TensorFlow come, has no V2."""
    rules = {"torchvision": torchvision_rules(model), "timm": timm_rules(model)}
    return rules if model.architecture == "efficientnet_v2_s" else {**rules, "efficientnet_pytorch": efficientnet_pytorch_rules(model)}


def torchvision_rules(model: nc.Model) -> Rules:
    rules: list[Rule] = [("stem.conv", "features.0.0"), ("stem.norm", "features.0.1")]
    for (s, b), parts in blocks(model).items():
        rules += torchvision_block_rules(f"stage{s}.block{b}", f"features.{s}.{b - 1}.block", parts)
    last = max(s for s, _ in blocks(model)) + 1
    return [*rules, ("head.conv", f"features.{last}.0"), ("head.norm", f"features.{last}.1"), ("head.logits", "classifier.1")]


def efficientnet_pytorch_rules(model: nc.Model) -> Rules:
    rules: list[Rule] = [("stem.conv", "_conv_stem"), ("stem.norm", "_bn0")]
    for number, (s, b) in enumerate(blocks(model)):
        ours, theirs = f"stage{s}.block{b}", f"_blocks.{number}"
        for k, part in enumerate(("expand", "depthwise", "project")):
            rules += [(f"{ours}.{part}.conv", f"{theirs}._{part}_conv"), (f"{ours}.{part}.norm", f"{theirs}._bn{k}")]
        rules += squeeze_rules(ours, theirs, "_se_reduce", "_se_expand")
    return [*rules, ("head.conv", "_conv_head"), ("head.norm", "_bn1"), ("head.logits", "_fc")]


NAMES = names
