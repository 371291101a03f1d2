"""Residual networks: ResNet, ResNeXt, Wide ResNet, ResNet-D, and the small ones for CIFAR."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numbacnn as nc

from .common import Stages, architecture, conv_norm, drop_rates, pooled_head, residual

Block = Callable[..., nc.Tensor]
Shortcut = Callable[[nc.Tensor, int, int], nc.Tensor]


def resnet(
    x: nc.Tensor,
    *,
    block: Block,
    depths: tuple[int, ...],
    width: int = 64,
    groups: int = 1,
    group_width: int = 64,
    deep_stem: bool = False,
    pooled_shortcut: bool = False,
    drop_path: float = 0.0,
) -> Stages:
    """K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.

    A 7 x 7 convolution and a max pooling, each of stride 2, then four stages of ``depths`` residual blocks. Each stage but the first halves
    the size and doubles the filters, of which there are ``width`` at first. ``groups`` and ``group_width`` widen the 3 x 3
    convolutions of bottlenecks: S. Xie et al., "Aggregated Residual Transformations", CVPR 2017; S. Zagoruyko, N. Komodakis,
    "Wide Residual Networks", BMVC 2016. ``deep_stem`` takes three 3 x 3 convolutions for the 7 x 7 one, and ``pooled_shortcut`` averages
    before it projects, where one pixel of four is used otherwise: ResNet-D of T. He et al., "Bag of Tricks for Image Classification with
    Convolutional Neural Networks", CVPR 2019.
    """
    with nc.scope("stem"):
        stem = three_convolutions(x, width) if deep_stem else conv_norm(x, width, 7, stride=2)
        h = nc.MaxPool2D(3, stride=2, padding=1)(stem, name="pool")
    shortcut = pooled_projection if pooled_shortcut else projection
    block = functools.partial(block, groups=groups, group_width=group_width, shortcut=shortcut)
    return {"stem": stem} | residual_stages(h, block, depths, width, drop_path)


def cifar_resnet(x: nc.Tensor, *, depth: int, width: int = 16, drop_path: float = 0.0) -> Stages:
    """The small networks of K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.

    A 3 x 3 convolution to ``width`` filters, then three stages of ``n`` blocks of two 3 x 3 convolutions, ``depth = 6 n + 2`` layers with
    the dense one. Each stage but the first halves the size and doubles the filters. Shortcuts have no parameters (option A).
    """
    if not isinstance(depth, int) or depth < 8 or depth % 6 != 2:
        raise nc.ConfigError(f"A residual network for CIFAR was given depth={depth!r}; it takes 6 n + 2, as 20, 32 and 44 are.")
    with nc.scope("stem"):
        stem = conv_norm(x, width, 3)
    block = functools.partial(basic, shortcut=zero_padded)
    return {"stem": stem} | residual_stages(stem, block, ((depth - 2) // 6,) * 3, width, drop_path)


def three_convolutions(x: nc.Tensor, width: int) -> nc.Tensor:
    """In place of a 7 x 7 convolution of stride 2: the same field of view, half of the filters in the first two."""
    h = conv_norm(x, width // 2, 3, stride=2, number=1)
    h = conv_norm(h, width // 2, 3, number=2)
    return conv_norm(h, width, 3, number=3)


def residual_stages(h: nc.Tensor, block: Block, depths: tuple[int, ...], width: int, drop_path: float) -> Stages:
    """Stages of ``depths`` blocks. Each but the first halves the size and doubles the filters."""
    stages: Stages = {}
    rates = iter(drop_rates(sum(depths), drop_path))
    for s, depth in enumerate(depths):
        for b in range(depth):
            with nc.scope(f"stage{s + 1}"), nc.scope(f"block{b + 1}"):
                h = block(h, width << s, stride=2 if s > 0 and b == 0 else 1, drop_path=next(rates))
        stages[f"stage{s + 1}"] = h
    return stages


# Blocks, and their shortcuts -----------------------------------------------------------------------------------------


def projection(h: nc.Tensor, filters: int, stride: int) -> nc.Tensor:
    """``h``, or, where the block changes its shape, a 1 x 1 convolution of it."""
    if stride == 1 and h.shape[-1] == filters:
        return h
    with nc.scope("shortcut"):
        return conv_norm(h, filters, stride=stride, activation=None)


def pooled_projection(h: nc.Tensor, filters: int, stride: int) -> nc.Tensor:
    """Likewise, but the stride is that of an average over ``stride x stride`` pixels."""
    if stride == 1 and h.shape[-1] == filters:
        return h
    with nc.scope("shortcut"):
        if stride > 1:
            h = nc.AveragePool2D(stride, ceil_mode=True)(h, name="pool")
        with nc.scope("projection"):
            return conv_norm(h, filters, activation=None)


def zero_padded(h: nc.Tensor, filters: int, stride: int) -> nc.Tensor:
    """One of ``stride x stride`` pixels, between as many channels of zeros as are missing."""
    missing = filters - h.shape[-1]
    with nc.scope("shortcut"):
        if stride > 1:
            h = nc.AveragePool2D(1, stride=stride)(h, name="subsample")
        return nc.ZeroPad(0, channels=(missing // 2, missing - missing // 2))(h, name="pad") if missing else h


def basic(
    h: nc.Tensor,
    filters: int,
    *,
    stride: int,
    groups: int = 1,
    group_width: int = 64,
    shortcut: Shortcut = projection,
    drop_path: float = 0.0,
) -> nc.Tensor:
    """Two 3 x 3 convolutions, 3 x 3 x 3 of clips."""
    if (groups, group_width) != (1, 64):
        raise nc.ConfigError(f"Blocks of two convolutions have one group; given groups={groups!r}, group_width={group_width!r}.")
    kept = shortcut(h, filters, stride)
    h = conv_norm(h, filters, 3, stride=stride, number=1)
    h = conv_norm(h, filters, 3, activation=None, number=2)
    return nc.Activation("relu")(residual(h, kept, drop_path), name="activation2")


def bottleneck(
    h: nc.Tensor,
    filters: int,
    *,
    stride: int,
    groups: int = 1,
    group_width: int = 64,
    shortcut: Shortcut = projection,
    drop_path: float = 0.0,
) -> nc.Tensor:
    """1 x 1, 3 x 3 with the stride, and 1 x 1 to four times the filters."""
    kept = shortcut(h, 4 * filters, stride)
    inner = filters * group_width // 64 * groups
    h = conv_norm(h, inner, number=1)
    h = conv_norm(h, inner, 3, stride=stride, groups=groups, number=2)
    h = conv_norm(h, 4 * filters, activation=None, number=3)
    return nc.Activation("relu")(residual(h, kept, drop_path), name="activation3")


# Variants ------------------------------------------------------------------------------------------------------------


resnet18 = architecture("resnet18", resnet, pooled_head, block=basic, depths=(2, 2, 2, 2))
resnet34 = architecture("resnet34", resnet, pooled_head, block=basic, depths=(3, 4, 6, 3))
resnet50 = architecture("resnet50", resnet, pooled_head, block=bottleneck, depths=(3, 4, 6, 3))
resnet101 = architecture("resnet101", resnet, pooled_head, block=bottleneck, depths=(3, 4, 23, 3))
resnet152 = architecture("resnet152", resnet, pooled_head, block=bottleneck, depths=(3, 8, 36, 3))
resnext50_32x4d = architecture("resnext50_32x4d", resnet, pooled_head, block=bottleneck, depths=(3, 4, 6, 3), groups=32, group_width=4)
wide_resnet50_2 = architecture("wide_resnet50_2", resnet, pooled_head, block=bottleneck, depths=(3, 4, 6, 3), group_width=128)
resnet50d = architecture("resnet50d", resnet, pooled_head, block=bottleneck, depths=(3, 4, 6, 3), deep_stem=True, pooled_shortcut=True)

cifar = functools.partial(architecture, body=cifar_resnet, head=pooled_head, input_shape=(32, 32, 3), classes=10)
resnet20 = cifar("resnet20", depth=20)
resnet32 = cifar("resnet32", depth=32)
resnet44 = cifar("resnet44", depth=44)
resnet56 = cifar("resnet56", depth=56)
resnet110 = cifar("resnet110", depth=110)

TORCHVISION = [
    ("stem.conv", "conv1"),
    ("stem.norm", "bn1"),
    ("stage{s}.block{b}.conv{k}", "layer{s}.{b-1}.conv{k}"),
    ("stage{s}.block{b}.norm{k}", "layer{s}.{b-1}.bn{k}"),
    ("stage{s}.block{b}.shortcut.conv", "layer{s}.{b-1}.downsample.0"),
    ("stage{s}.block{b}.shortcut.norm", "layer{s}.{b-1}.downsample.1"),
    ("head.logits", "fc"),
]
TIMM = [
    ("stem.conv1", "conv1.0"),
    ("stem.norm1", "conv1.1"),
    ("stem.conv2", "conv1.3"),
    ("stem.norm2", "conv1.4"),
    ("stem.conv3", "conv1.6"),
    ("stem.norm3", "bn1"),
    ("stage{s}.block{b}.shortcut.projection.conv", "layer{s}.{b-1}.downsample.1"),
    ("stage{s}.block{b}.shortcut.projection.norm", "layer{s}.{b-1}.downsample.2"),
    *TORCHVISION,
]
NAMES = {"torchvision": TORCHVISION, "timm": TIMM}
CIFAR_NAMES = {"pytorch": [("head.logits", "linear"), *TORCHVISION], "torchvision": TORCHVISION}
