"""Inverted residuals, of which the networks for small devices and those that grew out of them are made, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numbacnn as nc
from numbacnn.weights.names import Rule, Rules

from .common import Norm, Stages, conv_norm, depthwise_norm, drop_rates, pooled_head, residual


class Row(NamedTuple):
    """A line of a paper's table: a stage of ``depth`` blocks, the first of which has the ``stride``. ``expand`` is the ratio of the
    channels within a block to those at its start. A ``fused`` stage has :func:`fused_residual` blocks."""

    expand: int
    size: int
    stride: int
    filters: int
    depth: int
    fused: bool = False


def round_channels(channels: float) -> int:
    """The nearest multiple of 8 from 8 on; one up, if that would leave out more than a tenth of the channels."""
    nearest = max(8, int(channels / 8 + 0.5) * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


# Blocks --------------------------------------------------------------------------------------------------------------


def inverted_residual(
    h: nc.Tensor,
    filters: int,
    size: int,
    stride: int,
    *,
    expanded: int,
    squeeze: Callable[[nc.Tensor], nc.Tensor] | None = None,
    activation: Any = "relu",
    norm: Norm = nc.BatchNorm,
    padding: Any = None,
    drop_path: float = 0.0,
) -> nc.Tensor:
    """1 x 1 to ``expanded`` channels (left out where there are as many already), depthwise with the stride, ``squeeze``, and 1 x 1 to
    ``filters`` channels without activation: M. Sandler et al., "MobileNetV2", CVPR 2018. There is a shortcut where the shape stays."""
    shortcut = h
    if expanded != h.shape[-1]:
        with nc.scope("expand"):
            h = conv_norm(h, expanded, activation=activation, norm=norm)
    with nc.scope("depthwise"):
        h = depthwise_norm(h, size, stride, activation=activation, norm=norm, padding=padding)
    if squeeze is not None:
        with nc.scope("squeeze_excite"):
            h = squeeze(h)
    with nc.scope("project"):
        h = conv_norm(h, filters, activation=None, norm=norm)
    return residual(h, shortcut, drop_path) if h.shape == shortcut.shape else h


def fused_residual(
    h: nc.Tensor,
    filters: int,
    size: int,
    stride: int,
    *,
    expanded: int,
    activation: Any = "relu",
    norm: Norm = nc.BatchNorm,
    padding: Any = None,
    drop_path: float = 0.0,
) -> nc.Tensor:
    """An inverted residual whose first two convolutions are one over all channels; without expansion there is no other: S. Gupta,
    M. Tan, "EfficientNet-EdgeTPU", 2019."""
    shortcut, expands = h, expanded != h.shape[-1]
    with nc.scope("fused"):
        h = conv_norm(h, expanded if expands else filters, size, stride, activation=activation, norm=norm, padding=padding)
    if expands:
        with nc.scope("project"):
            h = conv_norm(h, filters, activation=None, norm=norm)
    return residual(h, shortcut, drop_path) if h.shape == shortcut.shape else h


def squeeze_excite(h: nc.Tensor, squeezed: int, *, activation: Any = "relu", gate: Any = "sigmoid") -> nc.Tensor:
    """Each channel times a factor, which a network of one hidden layer with ``squeezed`` units makes of the means of all channels:
    J. Hu, L. Shen, G. Sun, "Squeeze-and-Excitation Networks", CVPR 2018."""
    factors = nc.GlobalAveragePool2D()(h, name="pool")
    factors = nc.Dense(squeezed, activation=activation, initializer="he_normal")(factors, name="reduce")
    factors = nc.Dense(h.shape[-1], activation=gate)(factors, name="expand")
    return nc.Multiply()(h, factors, name="multiply")


def inverted_stages(
    h: nc.Tensor,
    rows: Sequence[Row],
    *,
    squeeze: float = 0.0,
    activation: Any = "relu",
    norm: Norm = nc.BatchNorm,
    padding: Any = None,
    drop_path: float = 0.0,
) -> Stages:
    """The stages of a table. ``squeeze`` is the ratio of hidden units of squeeze-and-excitation to the channels at the start of a block,
    0 for none."""
    stages: Stages = {}
    rates = iter(drop_rates(sum(row.depth for row in rows), drop_path))
    for s, row in enumerate(rows):
        for b in range(row.depth):
            channels = h.shape[-1]
            options = {"expanded": row.expand * channels, "activation": activation, "norm": norm, "padding": padding}
            if squeeze and not row.fused:
                options["squeeze"] = _squeezing(int(squeeze * channels), activation)
            block = fused_residual if row.fused else inverted_residual
            with nc.scope(f"stage{s + 1}"), nc.scope(f"block{b + 1}"):
                h = block(h, row.filters, row.size, row.stride if b == 0 else 1, drop_path=next(rates), **options)
        stages[f"stage{s + 1}"] = h
    return stages


def _squeezing(squeezed: int, activation: Any) -> Callable[[nc.Tensor], nc.Tensor]:
    return lambda h: squeeze_excite(h, max(1, squeezed), activation=activation)


def conv_head(
    h: nc.Tensor, classes: int, filters: int, *, activation: Any = "relu", norm: Norm = nc.BatchNorm, dropout: float = 0.0
) -> nc.Tensor:
    """1 x 1 convolution to ``filters`` features, mean over all places, dropout, and one dense layer."""
    return pooled_head(conv_norm(h, filters, activation=activation, norm=norm), classes, dropout=dropout)


# Names in other libraries --------------------------------------------------------------------------------------------

Parts = tuple[str, ...]

TIMM_PARTS: dict[Parts, Parts] = {
    ("expand", "depthwise", "project"): ("conv_pw", "conv_dw", "conv_pwl"),
    ("depthwise", "project"): ("conv_dw", "conv_pw"),
    ("depthwise", "pointwise"): ("conv_dw", "conv_pw"),
    ("fused", "project"): ("conv_exp", "conv_pwl"),
    ("fused",): ("conv",),
}


def blocks(model: nc.Model) -> dict[tuple[int, int], Parts]:
    """Of each block, by the numbers of its stage and itself, the parts that it has, in their order."""
    found: dict[tuple[int, int], dict[str, None]] = {}
    for name in model.parameters:
        scope, *inner = name.split(".")
        if scope.startswith("stage"):
            numbers = int(scope.removeprefix("stage")), int(inner[0].removeprefix("block"))
            found.setdefault(numbers, {})[inner[1]] = None
    return {numbers: tuple(parts) for numbers, parts in found.items()}


def squeeze_rules(ours: str, theirs: str, reduce: str, expand: str) -> Rules:
    """Where squeeze-and-excitation is made of 1 x 1 convolutions."""
    pairs = [("reduce", reduce), ("expand", expand)]
    weights: list[Rule] = [(f"{ours}.squeeze_excite.{own}.weight", f"{theirs}.{their}.weight", 2) for own, their in pairs]
    return [*weights, *[(f"{ours}.squeeze_excite.{own}", f"{theirs}.{their}") for own, their in pairs]]


def timm_rules(model: nc.Model) -> Rules:
    """timm names all these networks alike: by the convolutions of a block, whose batch norms it counts."""
    rules: list[Rule] = [("stem.conv", "conv_stem"), ("stem.norm", "bn1")]
    for (s, b), parts in blocks(model).items():
        ours, theirs = f"stage{s}.block{b}", f"blocks.{s - 1}.{b - 1}"
        convolved = tuple(part for part in parts if part != "squeeze_excite")
        for number, (part, convolution) in enumerate(zip(convolved, TIMM_PARTS[convolved]), 1):
            rules += [(f"{ours}.{part}.conv", f"{theirs}.{convolution}"), (f"{ours}.{part}.norm", f"{theirs}.bn{number}")]
        rules += squeeze_rules(ours, f"{theirs}.se", "conv_reduce", "conv_expand")
    return [*rules, ("head.conv", "conv_head"), ("head.norm", "bn2"), ("head.logits", "classifier")]


def torchvision_block_rules(ours: str, theirs: str, parts: Parts) -> Rules:
    """torchvision numbers the parts of a block, and in each the convolution, 0, and the batch norm, 1."""
    rules: list[Rule] = []
    for number, part in enumerate(parts):
        if part == "squeeze_excite":
            rules += squeeze_rules(ours, f"{theirs}.{number}", "fc1", "fc2")
        else:
            rules += [(f"{ours}.{part}.conv", f"{theirs}.{number}.0"), (f"{ours}.{part}.norm", f"{theirs}.{number}.1")]
    return rules
