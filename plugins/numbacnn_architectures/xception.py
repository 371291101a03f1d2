"""Xception: depthwise separable convolutions in residual blocks."""

from __future__ import annotations

import numbacnn as nc
from numbacnn.weights.names import Rule

from .common import DEPTHWISE_INITIALIZER, INITIALIZER, Stages, architecture, conv_norm, drop_rates, norm_activation, pooled_head, residual


def body(x: nc.Tensor, *, width: int = 32, middle: int = 8, drop_path: float = 0.0) -> Stages:
    """F. Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.

    Two 3 x 3 convolutions with ``width`` and twice as many channels; the entry flow, three blocks that halve the size; the middle flow,
    ``middle`` blocks; the exit flow, a block that halves the size and two separable convolutions. The stages end where the size changes.
    """
    rates = iter(drop_rates(middle + 4, drop_path))
    wide = 728 * width // 32
    stages: Stages = {}
    with nc.scope("stem"):
        h = conv_norm(x, width, 3, stride=2, padding=0, number=1)
        h = stages["stem"] = conv_norm(h, 2 * width, 3, padding=0, number=2)
    for s, channels in enumerate((4 * width, 8 * width, wide), 1):
        with nc.scope(f"stage{s}"), nc.scope("block1"):
            h = stages[f"stage{s}"] = block(h, (channels, channels), 2, next(rates), begins=s > 1)
    for b in range(2, middle + 2):
        with nc.scope("stage3"), nc.scope(f"block{b}"):
            h = stages["stage3"] = block(h, (wide, wide, wide), 1, next(rates))
    with nc.scope("stage4"):
        with nc.scope("block1"):
            h = block(h, (wide, 32 * width), 2, next(rates))
        for k, channels in enumerate((48 * width, 64 * width), 1):
            with nc.scope(f"separable{k}"):
                h = stages["stage4"] = norm_activation(separable(h, channels))
    return stages


def block(h: nc.Tensor, widths: tuple[int, ...], stride: int, drop_path: float, begins: bool = True) -> nc.Tensor:
    """Separable convolutions to ``widths``, each after a rectifier (the first only if the block ``begins`` with one) and before batch norm;
    then max pooling with the stride."""
    shortcut = projection(h, widths[-1], stride)
    for k, channels in enumerate(widths, 1):
        with nc.scope(f"separable{k}"):
            if begins or k > 1:
                h = nc.Activation("relu")(h, name="activation")
            h = norm_activation(separable(h, channels), activation=None)
    if stride > 1:
        h = nc.MaxPool2D(3, stride=stride, padding=1)(h, name="pool")
    return residual(h, shortcut, drop_path)


def separable(h: nc.Tensor, channels: int) -> nc.Tensor:
    """A 3 x 3 depthwise convolution and a 1 x 1 convolution, with nothing between them."""
    h = nc.DepthwiseConv2D(3, padding=1, bias=False, initializer=DEPTHWISE_INITIALIZER)(h, name="depthwise")
    return nc.Conv2D(channels, 1, bias=False, initializer=INITIALIZER)(h, name="pointwise")


def projection(h: nc.Tensor, channels: int, stride: int) -> nc.Tensor:
    """The shortcut: ``h``, or, where the block changes its shape, a 1 x 1 convolution of it."""
    if stride == 1:
        return h
    with nc.scope("shortcut"):
        return conv_norm(h, channels, stride=stride, activation=None)


xception = architecture("xception", body, pooled_head, input_shape=(299, 299, 3))


def timm_rules() -> list[Rule]:
    """timm numbers the blocks through, and within a block its rectifiers, separable convolutions and normalisations."""
    rules: list[Rule] = [
        ("stem.conv{k}", "conv{k}"),
        ("stem.norm{k}", "bn{k}"),
        ("head.logits", "fc"),
    ]
    blocks = {"stage1.block1": "block1", "stage2.block1": "block2", "stage3.block{b}": "block{b+2}", "stage4.block1": "block12"}
    for ours, theirs in blocks.items():
        rules += [(f"{ours}.shortcut.conv", f"{theirs}.skip"), (f"{ours}.shortcut.norm", f"{theirs}.skipbn")]
        for k in (1, 2, 3):
            number = 3 * k - 3 if theirs == "block1" else 3 * k - 2
            rules += separable_rules(f"{ours}.separable{k}", f"{theirs}.rep.{number}", f"{theirs}.rep.{number + 1}")
    for k in (1, 2):
        rules += separable_rules(f"stage4.separable{k}", f"conv{k + 2}", f"bn{k + 2}")
    return rules


def separable_rules(ours: str, separable: str, norm: str) -> list[Rule]:
    return [(f"{ours}.depthwise", f"{separable}.conv1"), (f"{ours}.pointwise", f"{separable}.pointwise"), (f"{ours}.norm", norm)]


NAMES = {"timm": timm_rules()}
