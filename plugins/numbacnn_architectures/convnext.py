"""ConvNeXt: a residual network with the means of vision transformers."""

from __future__ import annotations

import numbacnn as nc

from .common import Stages, architecture, drop_rates, residual

INITIALIZER = nc.TruncatedNormal(deviation=0.02)
EPSILON = 1e-6


def convnext(
    x: nc.Tensor,
    *,
    depths: tuple[int, ...],
    width: int,
    layer_scale: float = 1e-6,
    drop_path: float = 0.0,
) -> Stages:
    """Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie, "A ConvNet for the 2020s", CVPR 2022.

    A convolution cuts the image into patches of 4 x 4, then come four stages of ``depths`` blocks. Each stage but the first halves the size
    by a 2 x 2 convolution and doubles the channels, of which there are ``width`` at first. The factors per channel at the end of a
    block start at ``layer_scale``.
    """
    stages: Stages = {}
    with nc.scope("stem"):
        h = nc.Conv2D(width, 4, stride=4, initializer=INITIALIZER)(x, name="conv")
        h = stages["stem"] = nc.LayerNorm(epsilon=EPSILON)(h, name="norm")
    rates = iter(drop_rates(sum(depths), drop_path))
    for s, depth in enumerate(depths):
        with nc.scope(f"stage{s + 1}"):
            if s > 0:
                h = downsample(h, width << s)
            for b in range(depth):
                with nc.scope(f"block{b + 1}"):
                    h = block(h, layer_scale, next(rates))
        stages[f"stage{s + 1}"] = h
    return stages


def downsample(h: nc.Tensor, channels: int) -> nc.Tensor:
    """Half the size."""
    with nc.scope("downsample"):
        h = nc.LayerNorm(epsilon=EPSILON)(h, name="norm")
        return nc.Conv2D(channels, 2, stride=2, initializer=INITIALIZER)(h, name="conv")


def block(h: nc.Tensor, layer_scale: float, drop_path: float) -> nc.Tensor:
    """A 7 x 7 depthwise convolution, then at each place a network of one hidden layer with four times the channels."""
    shortcut, channels = h, h.shape[-1]
    h = nc.DepthwiseConv2D(7, padding=3, initializer=INITIALIZER)(h, name="depthwise")
    h = nc.LayerNorm(epsilon=EPSILON)(h, name="norm")
    h = nc.Dense(4 * channels, initializer=INITIALIZER)(h, name="expand")
    h = nc.Activation("gelu")(h, name="activation")
    h = nc.Dense(channels, initializer=INITIALIZER)(h, name="project")
    return residual(nc.Scale(layer_scale)(h, name="scale"), shortcut, drop_path)


def head(h: nc.Tensor, classes: int, *, dropout: float = 0.0) -> nc.Tensor:
    """Mean over all places, normalisation, dropout, and one dense layer."""
    h = nc.GlobalAveragePool2D()(h, name="pool")
    h = nc.LayerNorm(epsilon=EPSILON)(h, name="norm")
    if dropout:
        h = nc.Dropout(dropout)(h, name="dropout")
    return nc.Dense(classes, initializer=INITIALIZER)(h, name="logits")


convnext_tiny = architecture("convnext_tiny", convnext, head, depths=(3, 3, 9, 3), width=96)
convnext_small = architecture("convnext_small", convnext, head, depths=(3, 3, 27, 3), width=96)
convnext_base = architecture("convnext_base", convnext, head, depths=(3, 3, 27, 3), width=128)
convnext_large = architecture("convnext_large", convnext, head, depths=(3, 3, 27, 3), width=192)

TIMM_BLOCK = {"depthwise": "conv_dw", "norm": "norm", "expand": "mlp.fc1", "project": "mlp.fc2", "scale.weight": "gamma"}
TIMM = [
    ("stem.conv", "stem.0"),
    ("stem.norm", "stem.1"),
    ("stage{s}.downsample.norm", "stages.{s-1}.downsample.0"),
    ("stage{s}.downsample.conv", "stages.{s-1}.downsample.1"),
    *[(f"stage{{s}}.block{{b}}.{ours}", f"stages.{{s-1}}.blocks.{{b-1}}.{theirs}") for ours, theirs in TIMM_BLOCK.items()],
    ("head.norm", "head.norm"),
    ("head.logits", "head.fc"),
]
TORCHVISION_BLOCK = {"depthwise": "block.0", "norm": "block.2", "expand": "block.3", "project": "block.5"}
TORCHVISION = [
    ("stem.conv", "features.0.0"),
    ("stem.norm", "features.0.1"),
    *[(f"stage{s}.downsample.norm", f"features.{2 * s - 2}.0") for s in (2, 3, 4)],
    *[(f"stage{s}.downsample.conv", f"features.{2 * s - 2}.1") for s in (2, 3, 4)],
    *[
        (f"stage{s}.block{{b}}.{ours}", f"features.{2 * s - 1}.{{b-1}}.{theirs}")
        for s in (1, 2, 3, 4)
        for ours, theirs in TORCHVISION_BLOCK.items()
    ],
    *[(f"stage{s}.block{{b}}.scale.weight", f"features.{2 * s - 1}.{{b-1}}.layer_scale", 2) for s in (1, 2, 3, 4)],
    ("head.norm", "classifier.0"),
    ("head.logits", "classifier.2"),
]
NAMES = {"torchvision": TORCHVISION, "timm": TIMM}
