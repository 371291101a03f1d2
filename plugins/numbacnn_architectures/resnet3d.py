"""Residual networks over space and time, for clips of video."""

from __future__ import annotations

import numbacnn as nc

from .common import Stages, architecture, conv_norm, pooled_head
from .resnet import basic, residual_stages


def resnet3d(x: nc.Tensor, *, depths: tuple[int, ...], width: int = 64, drop_path: float = 0.0) -> Stages:
    """D. Tran, H. Wang, L. Torresani, J. Ray, Y. LeCun, M. Paluri, "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
    CVPR 2018: R3D, of clips ``(frames, height, width, channels)``.

    A convolution over 3 frames of 7 x 7 pixels, which halves height and width, then four stages of ``depths`` residual blocks of two
    3 x 3 x 3 convolutions. Each stage but the first halves all three axes and doubles the filters, of which there are ``width`` at first.
    """
    if len(x.shape) != 4:
        raise nc.ShapeError(
            f"A residual network for clips was given inputs of shape {x.shape}; it takes (frames, height, width, channels)."
        )
    with nc.scope("stem"):
        stem = conv_norm(x, width, (3, 7, 7), stride=(1, 2, 2))
    return {"stem": stem} | residual_stages(stem, basic, depths, width, drop_path)


r3d_18 = architecture("r3d_18", resnet3d, pooled_head, depths=(2, 2, 2, 2), input_shape=(16, 112, 112, 3), classes=400)

TORCHVISION = [
    ("stem.conv", "stem.0"),
    ("stem.norm", "stem.1"),
    ("stage{s}.block{b}.conv{k}", "layer{s}.{b-1}.conv{k}.0"),
    ("stage{s}.block{b}.norm{k}", "layer{s}.{b-1}.conv{k}.1"),
    ("stage{s}.block{b}.shortcut.conv", "layer{s}.{b-1}.downsample.0"),
    ("stage{s}.block{b}.shortcut.norm", "layer{s}.{b-1}.downsample.1"),
    ("head.logits", "fc"),
]
NAMES = {"torchvision": TORCHVISION}
