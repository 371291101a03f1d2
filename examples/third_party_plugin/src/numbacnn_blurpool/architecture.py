"""blurnet: a small network whose output hardly changes when the image moves by a pixel."""

import numbacnn as nc

from .layer import BlurPool2D


def blurnet(x, classes, width=16):
    """Two convolutions with squareplus and anti-aliased downsampling, global average pooling, a dense layer.

    ``x`` is a symbolic tensor (H, W, C); the result has shape ``(classes,)``."""
    for channels in (width, 2 * width):
        x = nc.Conv2D(channels, 3, padding="same", activation="squareplus")(x)
        x = BlurPool2D(3, stride=2)(x)
    return nc.Dense(classes)(nc.GlobalAveragePool2D()(x))
