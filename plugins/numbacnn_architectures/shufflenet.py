"""ShuffleNetV2: convolutions over half of the channels, which change sides after every block."""

from __future__ import annotations

import numbacnn as nc

from .common import Stages, architecture, conv_norm, depthwise_norm, pooled_head


def shufflenet_v2(x: nc.Tensor, *, depths: tuple[int, ...] = (4, 8, 4), width: int = 116, last_width: int = 1024) -> Stages:
    """N. Ma, X. Zhang, H.-T. Zheng, J. Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018.

    A 3 x 3 convolution of stride 2 to 24 channels, max pooling, three stages of ``depths`` blocks, numbered from 2 as in the paper, and a
    1 x 1 convolution to ``last_width`` channels. Each stage halves the size; the first has ``width`` channels, and each later one twice
    those of the one before.
    """
    stages: Stages = {}
    with nc.scope("stem"):
        h = stages["stem"] = conv_norm(x, 24, 3, stride=2)
        h = nc.MaxPool2D(3, stride=2, padding=1)(h, name="pool")
    for s, depth in enumerate(depths, 2):
        for b in range(1, depth + 1):
            with nc.scope(f"stage{s}"), nc.scope(f"block{b}"):
                h = halving(h, width << (s - 2)) if b == 1 else block(h)
        stages[f"stage{s}"] = h
    with nc.scope(f"stage{len(depths) + 2}"):
        stages[f"stage{len(depths) + 2}"] = conv_norm(h, last_width)
    return stages


def block(h: nc.Tensor) -> nc.Tensor:
    """One half of the channels as it is, the other through the branch."""
    left, right = nc.Split(2)(h, name="split")
    return mixed(left, branch(right, right.shape[-1]))


def halving(h: nc.Tensor, channels: int) -> nc.Tensor:
    """All channels go both ways, each of which halves the size and gives half of ``channels``."""
    with nc.scope("shortcut"):
        left = depthwise_norm(h, 3, stride=2, activation=None, number=1)
        left = conv_norm(left, channels // 2, number=2)
    return mixed(left, branch(h, channels // 2, stride=2))


def branch(h: nc.Tensor, channels: int, stride: int = 1) -> nc.Tensor:
    """1 x 1, 3 x 3 depthwise without an activation, 1 x 1."""
    h = conv_norm(h, channels, number=1)
    h = depthwise_norm(h, 3, stride=stride, activation=None, number=2)
    return conv_norm(h, channels, number=3)


def mixed(left: nc.Tensor, right: nc.Tensor) -> nc.Tensor:
    """Channels of the two in turn."""
    h = nc.Concatenate()(left, right, name="concatenate")
    return nc.ChannelShuffle(2)(h, name="shuffle")


shufflenet_v2_x1_0 = architecture("shufflenet_v2_x1_0", shufflenet_v2, pooled_head)

TORCHVISION = [
    ("stem.conv", "conv1.0"),
    ("stem.norm", "conv1.1"),
    *[(f"stage{{s}}.block{{b}}.shortcut.conv{k}", f"stage{{s}}.{{b-1}}.branch1.{n}") for k, n in ((1, 0), (2, 2))],
    *[(f"stage{{s}}.block{{b}}.shortcut.norm{k}", f"stage{{s}}.{{b-1}}.branch1.{n}") for k, n in ((1, 1), (2, 3))],
    *[(f"stage{{s}}.block{{b}}.conv{k}", f"stage{{s}}.{{b-1}}.branch2.{n}") for k, n in ((1, 0), (2, 3), (3, 5))],
    *[(f"stage{{s}}.block{{b}}.norm{k}", f"stage{{s}}.{{b-1}}.branch2.{n}") for k, n in ((1, 1), (2, 4), (3, 6))],
    ("stage5.conv", "conv5.0"),
    ("stage5.norm", "conv5.1"),
    ("head.logits", "fc"),
]
NAMES = {"torchvision": TORCHVISION}
