"""RegNet."""

from __future__ import annotations

import itertools
import math

import numbacnn as nc
from numbacnn.weights.names import Rules

from .common import Stages, architecture, conv_norm, drop_rates, pooled_head, residual
from .inverted import squeeze_excite, squeeze_rules
from .resnet import projection


def regnet(
    x: nc.Tensor,
    *,
    depth: int,
    width: int,
    slope: float,
    ratio: float,
    group_width: int,
    squeeze: float = 0.25,
    stem_width: int = 32,
    drop_path: float = 0.0,
) -> Stages:
    """I. Radosavovic, R. Kosaraju, R. Girshick, K. He, P. Dollár, "Designing Network Design Spaces", CVPR 2020: RegNetY.

    A 3 x 3 convolution of stride 2 to ``stem_width`` filters, then ``depth`` residual bottlenecks as wide inside as outside, whose
    3 x 3 convolutions have groups of ``group_width`` channels, with squeeze-and-excitation to ``squeeze`` of the channels at the start of
    the block. Widths follow from ``width``, ``slope`` and ``ratio`` (see :func:`block_widths`); where they change, a stage starts,
    which halves the size.
    """
    with nc.scope("stem"):
        h = conv_norm(x, stem_width, 3, stride=2)
    stages: Stages = {"stem": h}
    rates = iter(drop_rates(depth, drop_path))
    for s, (filters, blocks) in enumerate(itertools.groupby(block_widths(depth, width, slope, ratio, group_width)), 1):
        for b, _ in enumerate(blocks, 1):
            with nc.scope(f"stage{s}"), nc.scope(f"block{b}"):
                h = bottleneck(h, filters, 2 if b == 1 else 1, filters // group_width, squeeze, next(rates))
        stages[f"stage{s}"] = h
    return stages


def block_widths(depth: int, width: int, slope: float, ratio: float, group_width: int) -> list[int]:
    """Channels of each of ``depth`` blocks (section 3.3 of the paper): ``u = width + slope * j`` for block ``j``, the nearest
    ``width * ratio ** k`` to it by its logarithm, rounded to a multiple of 8, and that to one of ``group_width``, at least one group.

    Raises ConfigError where the numbers give no widths."""
    if depth < 1 or width < 1 or slope < 0 or ratio <= 1 or group_width < 1:
        raise nc.ConfigError(
            f"A RegNet was given depth={depth!r}, width={width!r}, slope={slope!r}, ratio={ratio!r}, group_width={group_width!r}; "
            "it takes a depth, width and group width of at least 1, a slope of at least 0 and a ratio above 1."
        )
    powers = [round(math.log((width + slope * j) / width, ratio)) for j in range(depth)]
    rounded = [8 * round(width * ratio**k / 8) for k in powers]
    return [group_width * max(1, round(n / group_width)) for n in rounded]


def bottleneck(h: nc.Tensor, filters: int, stride: int, groups: int, squeeze: float, drop_path: float) -> nc.Tensor:
    """1 x 1, 3 x 3 with the stride and groups, squeeze-and-excitation, 1 x 1, all of as many filters."""
    kept, squeezed = projection(h, filters, stride), round(squeeze * h.shape[-1])
    h = conv_norm(h, filters, number=1)
    h = conv_norm(h, filters, 3, stride=stride, groups=groups, number=2)
    with nc.scope("squeeze_excite"):
        h = squeeze_excite(h, squeezed)
    h = conv_norm(h, filters, activation=None, number=3)
    return nc.Activation("relu")(residual(h, kept, drop_path), name="activation3")


regnet_y_400mf = architecture("regnet_y_400mf", regnet, pooled_head, depth=16, width=48, slope=27.89, ratio=2.09, group_width=8)

TORCHVISION: Rules = [
    ("stem.conv", "stem.0"),
    ("stem.norm", "stem.1"),
    ("stage{s}.block{b}.conv1", "trunk_output.block{s}.block{s}-{b-1}.f.a.0"),
    ("stage{s}.block{b}.norm1", "trunk_output.block{s}.block{s}-{b-1}.f.a.1"),
    ("stage{s}.block{b}.conv2", "trunk_output.block{s}.block{s}-{b-1}.f.b.0"),
    ("stage{s}.block{b}.norm2", "trunk_output.block{s}.block{s}-{b-1}.f.b.1"),
    *squeeze_rules("stage{s}.block{b}", "trunk_output.block{s}.block{s}-{b-1}.f.se", "fc1", "fc2"),
    ("stage{s}.block{b}.conv3", "trunk_output.block{s}.block{s}-{b-1}.f.c.0"),
    ("stage{s}.block{b}.norm3", "trunk_output.block{s}.block{s}-{b-1}.f.c.1"),
    ("stage{s}.block{b}.shortcut.conv", "trunk_output.block{s}.block{s}-{b-1}.proj.0"),
    ("stage{s}.block{b}.shortcut.norm", "trunk_output.block{s}.block{s}-{b-1}.proj.1"),
    ("head.logits", "fc"),
]
TIMM: Rules = [
    ("stem.norm", "stem.bn"),
    ("stage{s}.block{b}.conv{k}", "s{s}.b{b}.conv{k}.conv"),
    ("stage{s}.block{b}.norm{k}", "s{s}.b{b}.conv{k}.bn"),
    *squeeze_rules("stage{s}.block{b}", "s{s}.b{b}.se", "fc1", "fc2"),
    ("stage{s}.block{b}.shortcut.conv", "s{s}.b{b}.downsample.conv"),
    ("stage{s}.block{b}.shortcut.norm", "s{s}.b{b}.downsample.bn"),
    ("head.logits", "head.fc"),
]
NAMES = {"torchvision": TORCHVISION, "timm": TIMM}
