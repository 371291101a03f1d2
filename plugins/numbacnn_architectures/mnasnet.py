"""MNASNet: inverted residuals found by a search that measures on a phone how long a network takes."""

from __future__ import annotations

import functools

import numbacnn as nc
from numbacnn.weights.names import Rule, Rules

from .common import Norm, Stages, architecture, conv_norm
from .inverted import Row, blocks, conv_head, inverted_stages, round_channels, timm_rules

B1 = (
    #   expand, size, stride, filters, depth
    Row(1, 3, 1, 16, 1),
    Row(3, 3, 2, 24, 3),
    Row(3, 5, 2, 40, 3),
    Row(6, 5, 2, 80, 3),
    Row(6, 3, 1, 96, 2),
    Row(6, 5, 2, 192, 4),
    Row(6, 3, 1, 320, 1),
)
MNASNET_NORM = functools.partial(nc.BatchNorm, momentum=1 - 0.9997)


def mnasnet(x: nc.Tensor, *, width: float = 1.0, norm: Norm = MNASNET_NORM, drop_path: float = 0.0) -> Stages:
    """M. Tan, B. Chen, R. Pang, V. Vasudevan, M. Sandler, A. Howard, Q. V. Le, "MnasNet: Platform-Aware Neural Architecture Search for
    Mobile", CVPR 2019: the network B1, without squeeze-and-excitation.

    A 3 x 3 convolution of stride 2, then seven stages of inverted residuals. ``width`` multiplies the channels, which are rounded to
    multiples of 8; the head has 1280. ``norm`` makes the batch norms.
    """
    with nc.scope("stem"):
        h = conv_norm(x, round_channels(32 * width), 3, stride=2, norm=norm)
    rows = [row._replace(filters=round_channels(row.filters * width)) for row in B1]
    return {"stem": h, **inverted_stages(h, rows, norm=norm, drop_path=drop_path)}


def head(h: nc.Tensor, classes: int, *, norm: Norm = MNASNET_NORM, dropout: float = 0.2) -> nc.Tensor:
    """1 x 1 convolution to 1280 features."""
    return conv_head(h, classes, 1280, norm=norm, dropout=dropout)


mnasnet1_0 = architecture("mnasnet1_0", mnasnet, head)


def names(model: nc.Model) -> dict[str, Rules]:
    return {"torchvision": torchvision_rules(model), "timm": timm_rules(model)}


def torchvision_rules(model: nc.Model) -> Rules:
    """torchvision has the layers of the first block beside the stem's, and numbers activations too."""
    rules: list[Rule] = [
        ("stem.conv", "layers.0"),
        ("stem.norm", "layers.1"),
        ("stage1.block1.depthwise.conv", "layers.3"),
        ("stage1.block1.depthwise.norm", "layers.4"),
        ("stage1.block1.project.conv", "layers.6"),
        ("stage1.block1.project.norm", "layers.7"),
    ]
    for s, b in blocks(model):
        for k, part in enumerate(("expand", "depthwise", "project")):
            ours, theirs = f"stage{s}.block{b}.{part}", f"layers.{s + 6}.{b - 1}.layers"
            rules += [(f"{ours}.conv", f"{theirs}.{3 * k}"), (f"{ours}.norm", f"{theirs}.{3 * k + 1}")]
    return [*rules, ("head.conv", "layers.14"), ("head.norm", "layers.15"), ("head.logits", "classifier.1")]


NAMES = names
