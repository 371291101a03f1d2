"""A residual network for time series."""

from __future__ import annotations

import numbacnn as nc

from .common import Stages, activate, architecture, conv_norm, drop_rates, norm_activation, pooled_head, residual

SIZES = (8, 5, 3)


def series_resnet(x: nc.Tensor, *, multiples: tuple[int, ...] = (1, 2, 2), width: int = 64, drop_path: float = 0.0) -> Stages:
    """Z. Wang, W. Yan, T. Oates, "Time Series Classification from Scratch with Deep Neural Networks: A Strong Baseline", IJCNN 2017,
    of series ``(length, channels)``.

    Residual blocks of convolutions over 8, 5 and 3 points, of as many filters as ``width`` times each of ``multiples``. Nothing shortens
    the series before the mean over all of it.
    """
    if len(x.shape) != 2:
        raise nc.ShapeError(f"A residual network for series was given inputs of shape {x.shape}; it takes (length, channels).")
    stages: Stages = {}
    h = x
    for s, (multiple, rate) in enumerate(zip(multiples, drop_rates(len(multiples), drop_path)), 1):
        with nc.scope(f"stage{s}"):
            h = stages[f"stage{s}"] = block(h, multiple * width, rate)
    return stages


def block(h: nc.Tensor, filters: int, drop_path: float) -> nc.Tensor:
    """Three convolutions, and a shortcut that is normalised, and projected where the channels change."""
    with nc.scope("shortcut"):
        if h.shape[-1] == filters:
            kept = norm_activation(h, activation=None)
        else:
            kept = conv_norm(h, filters, activation=None)
    for k, size in enumerate(SIZES, 1):
        last = k == len(SIZES)
        h = conv_norm(h, filters, size, padding="same", activation=None if last else "relu", number=k)
    return activate(residual(h, kept, drop_path), "relu", f"activation{len(SIZES)}")


resnet1d = architecture("resnet1d", series_resnet, pooled_head, input_shape=(500, 1), classes=2)

NAMES = {
    "pytorch": [
        ("stage{s}.norm{k}", "layer{s}.bn{k}"),
        ("stage{s}.shortcut.conv", "layer{s}.downsample.0"),
        ("stage{s}.shortcut.norm", "layer{s}.downsample.1"),
        ("stage{s}", "layer{s}"),
        ("head.logits", "fc"),
    ]
}
