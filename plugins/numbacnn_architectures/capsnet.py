"""CapsNet: capsules with dynamic routing."""

from __future__ import annotations

import math
from typing import Any

import numbacnn as nc

from .capsules import CapsuleLength, CapsuleRouting, LongestCapsule, Squash
from .common import INITIALIZER, Stages, architecture


def body(x: nc.Tensor, *, width: int = 256, kinds: int = 32, length: int = 8) -> Stages:
    """S. Sabour, N. Frosst, G. E. Hinton, "Dynamic Routing Between Capsules", NeurIPS 2017.

    A 9 x 9 convolution with ``width`` channels, and a 9 x 9 convolution of stride 2 whose channels are, at each place, ``kinds`` capsules
    of ``length`` numbers. By dynamic routing in ``iterations`` they come to a capsule of ``capsule_width`` numbers per class, whose length,
    up to one, is the score of the class: train with ``loss="margin"``. Images from 17 x 17 on. The weights of the routing are as many as
    there are places, so that a network is for one size of images.

    ``reconstruct`` is the shape of the images that a decoder of three dense layers makes of the longest capsule. The network then has two
    outputs, ``scores`` and ``reconstruction``: ``nc.Trainer(model, loss=["margin", "mean_squared_error"], loss_weights=[1, 0.0005 *
    pixels])``, with ``(labels, images)`` in place of labels. The paper gives the decoder the capsule of the right class in training.
    """
    with nc.scope("stem"):
        h = nc.Conv2D(width, 9, initializer=INITIALIZER)(x, name="conv")
        stem = h = nc.Activation("relu")(h, name="activation")
    with nc.scope("primary"):
        h = nc.Conv2D(kinds * length, 9, stride=2)(h, name="conv")
        h = nc.Reshape((*h.shape[:2], kinds, length))(h, name="reshape")
        h = Squash()(h, name="squash")
    return {"stem": stem, "primary": h}


def head(h: nc.Tensor, classes: int, *, capsule_width: int = 16, iterations: int = 3, reconstruct: tuple[int, ...] | None = None) -> Any:
    """Lengths of a capsule per class, and the decoder."""
    capsules = CapsuleRouting(classes, capsule_width, iterations)(h, name="capsules")
    scores = CapsuleLength()(capsules, name="lengths")
    if reconstruct is None:
        return scores
    with nc.scope("decoder"):
        return {"scores": scores, "reconstruction": decoder(capsules, tuple(reconstruct))}


def decoder(capsules: nc.Tensor, shape: tuple[int, ...]) -> nc.Tensor:
    """Pixels from 0 to 1 of what the longest capsule stands for (figure 2)."""
    h = LongestCapsule()(capsules, name="longest")
    h = nc.Flatten()(h, name="flatten")
    h = nc.Dense(512, activation="relu", initializer="he_normal")(h, name="dense1")
    h = nc.Dense(1024, activation="relu", initializer="he_normal")(h, name="dense2")
    h = nc.Dense(math.prod(shape), activation="sigmoid")(h, name="dense3")
    return nc.Reshape(shape)(h, name="image")


capsnet = architecture("capsnet", body, head, input_shape=(28, 28, 1), classes=10)

NAMES = {
    "pytorch": [
        ("stem.conv", "conv"),
        ("primary.conv", "primary"),
        ("head.capsules", "capsules"),
        *[(f"head.decoder.dense{k}", f"decoder.{2 * k - 2}") for k in (1, 2, 3)],
    ]
}
