"""Residual networks: ResNet, ResNeXt, Wide ResNet, ResNet-D, and the small ones for CIFAR."""

from __future__ import annotations

from collections.abc import Callable

import numbacnn as nc

from .common import Stages, architecture, conv_norm, drop_rates, pooled_head, residual

Block = Callable[..., nc.Tensor]


def resnet(
    x: nc.Tensor,
    *,
    block: Block,
    depths: tuple[int, ...],
    width: int = 64,
    groups: int = 1,
    group_width: int = 64,
    drop_path: float = 0.0,
) -> Stages:
    """K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.

    A 7 x 7 convolution and a max pooling, each of stride 2, then four stages of ``depths`` residual blocks. Each stage but the first halves
    the size and doubles the filters, of which there are ``width`` at first. ``groups`` and ``group_width`` widen the 3 x 3
    convolutions of bottlenecks: S. Xie et al., "Aggregated Residual Transformations", CVPR 2017; S. Zagoruyko, N. Komodakis,
    "Wide Residual Networks", BMVC 2016.
    """
    stages: Stages = {}
    with nc.scope("stem"):
        h = stages["stem"] = conv_norm(x, width, 7, stride=2)
        h = nc.MaxPool2D(3, stride=2, padding=1)(h, name="pool")
    rates = iter(drop_rates(sum(depths), drop_path))
    for s, depth in enumerate(depths):
        for b in range(depth):
            with nc.scope(f"stage{s + 1}"), nc.scope(f"block{b + 1}"):
                stride = 2 if s > 0 and b == 0 else 1
                h = block(h, width << s, stride=stride, groups=groups, group_width=group_width, drop_path=next(rates))
        stages[f"stage{s + 1}"] = h
    return stages


def basic(h: nc.Tensor, filters: int, *, stride: int, groups: int, group_width: int, drop_path: float) -> nc.Tensor:
    """Two 3 x 3 convolutions."""
    shortcut = projection(h, filters, stride)
    h = conv_norm(h, filters, 3, stride=stride, number=1)
    h = conv_norm(h, filters, 3, activation=None, number=2)
    return nc.Activation("relu")(residual(h, shortcut, drop_path), name="activation2")


def bottleneck(h: nc.Tensor, filters: int, *, stride: int, groups: int, group_width: int, drop_path: float) -> nc.Tensor:
    """1 x 1, 3 x 3 with the stride, and 1 x 1 to four times the filters."""
    shortcut = projection(h, 4 * filters, stride)
    inner = filters * group_width // 64 * groups
    h = conv_norm(h, inner, number=1)
    h = conv_norm(h, inner, 3, stride=stride, groups=groups, number=2)
    h = conv_norm(h, 4 * filters, activation=None, number=3)
    return nc.Activation("relu")(residual(h, shortcut, drop_path), name="activation3")


def projection(h: nc.Tensor, filters: int, stride: int) -> nc.Tensor:
    """The shortcut: ``h``, or, where the block changes its shape, a 1 x 1 convolution of it."""
    if stride == 1 and h.shape[-1] == filters:
        return h
    with nc.scope("shortcut"):
        return conv_norm(h, filters, stride=stride, activation=None)


resnet18 = architecture("resnet18", resnet, pooled_head, block=basic, depths=(2, 2, 2, 2))
resnet34 = architecture("resnet34", resnet, pooled_head, block=basic, depths=(3, 4, 6, 3))
resnet50 = architecture("resnet50", resnet, pooled_head, block=bottleneck, depths=(3, 4, 6, 3))
resnet101 = architecture("resnet101", resnet, pooled_head, block=bottleneck, depths=(3, 4, 23, 3))
resnet152 = architecture("resnet152", resnet, pooled_head, block=bottleneck, depths=(3, 8, 36, 3))
resnext50_32x4d = architecture("resnext50_32x4d", resnet, pooled_head, block=bottleneck, depths=(3, 4, 6, 3), groups=32, group_width=4)
wide_resnet50_2 = architecture("wide_resnet50_2", resnet, pooled_head, block=bottleneck, depths=(3, 4, 6, 3), group_width=128)

TORCHVISION = [
    ("stem.conv", "conv1"),
    ("stem.norm", "bn1"),
    ("stage{s}.block{b}.conv{k}", "layer{s}.{b-1}.conv{k}"),
    ("stage{s}.block{b}.norm{k}", "layer{s}.{b-1}.bn{k}"),
    ("stage{s}.block{b}.shortcut.conv", "layer{s}.{b-1}.downsample.0"),
    ("stage{s}.block{b}.shortcut.norm", "layer{s}.{b-1}.downsample.1"),
    ("head.logits", "fc"),
]
NAMES = {"torchvision": TORCHVISION, "timm": TORCHVISION}
