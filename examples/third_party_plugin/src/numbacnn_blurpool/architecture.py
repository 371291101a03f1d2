"""blurnet: a small network whose output hardly changes when the image moves by a pixel."""

import numbacnn as nc

from .layer import BlurPool2D


def blurnet(input_shape, classes, seed=0, dtype="float32", width=32):
    """Convolution, batch normalisation, squareplus and anti-aliased downsampling, with ``width`` and with ``2 * width`` channels; then
    global average pooling and a dense layer. Takes images (H, W, C) of any size."""
    inputs = h = nc.Input(input_shape)
    for channels in (width, 2 * width):
        h = nc.Conv2D(channels, 3, padding="same", bias=False)(h)
        h = nc.Activation("squareplus")(nc.BatchNorm()(h))
        h = BlurPool2D(3, stride=2)(h)
    outputs = nc.Dense(classes)(nc.GlobalAveragePool2D()(h))
    return nc.Model(inputs, outputs, seed=seed, dtype=dtype, name="blurnet")
