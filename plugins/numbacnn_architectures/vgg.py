"""VGG: 3 x 3 convolutions and poolings, with and without batch normalisation."""

from __future__ import annotations

import numbacnn as nc
from numbacnn.weights.names import Rules

from .common import Stages, activate, architecture, dense_head


def vgg(x: nc.Tensor, *, depths: tuple[int, ...], width: int = 64, batch_norm: bool = False) -> Stages:
    """K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

    Five stages of ``depths`` 3 x 3 convolutions, each followed by a max pooling of stride 2. There are ``width`` filters at first,
    twice as many in each next stage, eight times as many at most. ``batch_norm`` puts a batch normalisation behind each convolution.

    Weights start by the number of a layer's inputs, which keeps the size of what goes forward where nothing normalises it.

    Images from 32 x 32 on. The head pools to 7 x 7 places, which there are anyway of 224 x 224, and has two ``hidden`` layers.
    """
    stages: Stages = {}
    h = x
    for s, depth in enumerate(depths):
        with nc.scope(f"stage{s + 1}"):
            for k in range(depth):
                h = convolution(h, width * min(8, 1 << s), batch_norm, number=k + 1)
            h = stages[f"stage{s + 1}"] = nc.MaxPool2D(2)(h, name="pool")
    return stages


def convolution(h: nc.Tensor, filters: int, batch_norm: bool, number: int) -> nc.Tensor:
    """With a bias, also before a batch normalisation."""
    h = nc.Conv2D(filters, 3, padding=1, initializer="he_normal")(h, name=f"conv{number}")
    if batch_norm:
        h = nc.BatchNorm()(h, name=f"norm{number}")
    return activate(h, "relu", name=f"activation{number}")


vgg11 = architecture("vgg11", vgg, dense_head, places=7, depths=(1, 1, 2, 2, 2))
vgg13 = architecture("vgg13", vgg, dense_head, places=7, depths=(2, 2, 2, 2, 2))
vgg16 = architecture("vgg16", vgg, dense_head, places=7, depths=(2, 2, 3, 3, 3))
vgg19 = architecture("vgg19", vgg, dense_head, places=7, depths=(2, 2, 4, 4, 4))
vgg11_bn = architecture("vgg11_bn", vgg, dense_head, places=7, depths=(1, 1, 2, 2, 2), batch_norm=True)
vgg13_bn = architecture("vgg13_bn", vgg, dense_head, places=7, depths=(2, 2, 2, 2, 2), batch_norm=True)
vgg16_bn = architecture("vgg16_bn", vgg, dense_head, places=7, depths=(2, 2, 3, 3, 3), batch_norm=True)
vgg19_bn = architecture("vgg19_bn", vgg, dense_head, places=7, depths=(2, 2, 4, 4, 4), batch_norm=True)


def names(model: nc.Model) -> dict[str, Rules]:
    """Others number all layers of the five stages: convolutions, normalisations, activations, poolings. timm's dense layers are
    convolutions, the first of 7 x 7."""
    layers = [node.name for node in model.graph.nodes if node.name.startswith("stage")]
    features = [(layer, f"features.{number}") for number, layer in enumerate(layers)]
    return {
        "torchvision": [*features, ("head.dense1", "classifier.0"), ("head.dense2", "classifier.3"), ("head.logits", "classifier.6")],
        "timm": [
            *features,
            ("head.dense{k}.weight", "pre_logits.fc{k}.weight", 2),
            ("head.dense{k}", "pre_logits.fc{k}"),
            ("head.logits", "head.fc"),
        ],
    }


NAMES = names
