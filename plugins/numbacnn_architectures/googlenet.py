"""GoogLeNet, also called Inception v1, and how networks of its kind are written down."""

from __future__ import annotations

import functools
from typing import Any

import numbacnn as nc
from numbacnn.weights.names import ABSENT, Rule

from .common import Stages, architecture, conv_norm, pooled_head

NORM = functools.partial(nc.BatchNorm, epsilon=1e-3)


# Branches side by side -----------------------------------------------------------------------------------------------

Chain = list[Any]
"""Layers one after the other: ``(filters, size)`` of a convolution with padding that keeps the size, ``(filters, size, stride)`` of one
without padding, a pooling layer, or chains side by side."""
Branches = dict[str, Chain]


def side_by_side(h: nc.Tensor, branches: Branches, width: float) -> nc.Tensor:
    """The channels of all branches. ``width`` multiplies the filters."""
    outputs = []
    for name, chain in branches.items():
        with nc.scope(name):
            outputs.append(one_after_the_other(h, chain, width))
    return nc.Concatenate()(*outputs, name="concatenate")


def one_after_the_other(h: nc.Tensor, chain: Chain, width: float) -> nc.Tensor:
    """What a chain gives; its convolutions are numbered from 1."""
    number = 0
    for layer in chain:
        if isinstance(layer, dict):
            h = side_by_side(h, layer, width)
        elif isinstance(layer, nc.Layer):
            h = layer(h, name="pool")
        else:
            filters, size, *stride = layer
            number += 1
            h = conv_norm(h, scaled(filters, width), size, *stride, padding=0 if stride else None, norm=NORM, number=number)
    return h


def scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


# GoogLeNet -----------------------------------------------------------------------------------------------------------


def inception(one: int, three_reduced: int, three: int, five_reduced: int, five: int, pooled: int) -> Branches:
    """A module by its row of the paper's table 1: filters of 1 x 1, of 3 x 3 and what they see, of 5 x 5 and what they see, and behind
    the pooling. As in the weights that are passed around, the 5 x 5 convolutions are of 3 x 3."""
    return {
        "branch1": [(one, 1)],
        "branch2": [(three_reduced, 1), (three, 3)],
        "branch3": [(five_reduced, 1), (five, 3)],
        "branch4": [nc.MaxPool2D(3, stride=1, padding=1), (pooled, 1)],
    }


STAGES = (
    (nc.MaxPool2D(3, stride=2, ceil_mode=True), [inception(64, 96, 128, 16, 32, 32), inception(128, 128, 192, 32, 96, 64)]),
    (
        nc.MaxPool2D(3, stride=2, ceil_mode=True),
        [
            inception(192, 96, 208, 16, 48, 64),
            inception(160, 112, 224, 24, 64, 64),
            inception(128, 128, 256, 24, 64, 64),
            inception(112, 144, 288, 32, 64, 64),
            inception(256, 160, 320, 32, 128, 128),
        ],
    ),
    (nc.MaxPool2D(2, stride=2, ceil_mode=True), [inception(256, 160, 320, 32, 128, 128), inception(384, 192, 384, 48, 128, 128)]),
)
"""The modules 3a and 3b, 4a to 4e, 5a and 5b, each stage behind a pooling."""


def googlenet_body(x: nc.Tensor, *, width: float = 1.0) -> Stages:
    """C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015; with batch normalisation (S. Ioffe, C. Szegedy, ICML 2015) behind
    every convolution in place of two local response normalisations, as torchvision has it.

    Three convolutions and a pooling, then nine modules of four branches side by side. ``width`` multiplies the filters. Images from
    15 x 15 on.

    ``auxiliary=True`` adds two classifiers in the middle for training: the model then gives a mapping from ``"logits"``,
    ``"auxiliary1"`` and ``"auxiliary2"`` to logits. The paper weights their losses by 0.3:
    ``nc.Trainer(model, loss_weights=(1, 0.3, 0.3))``. ``auxiliary_dropout`` is their dropout.
    """
    stages: Stages = {}
    with nc.scope("stem"):
        h = conv_norm(x, scaled(64, width), 7, stride=2, norm=NORM, number=1)
        h = nc.MaxPool2D(3, stride=2, ceil_mode=True)(h, name="pool")
        h = conv_norm(h, scaled(64, width), norm=NORM, number=2)
        h = stages["stem"] = conv_norm(h, scaled(192, width), 3, norm=NORM, number=3)
    for s, (pool, blocks) in enumerate(STAGES, start=1):
        with nc.scope(f"stage{s}"):
            h = pool(h, name="pool")
            for b, branches in enumerate(blocks, start=1):
                with nc.scope(f"block{b}"):
                    h = stages[f"stage{s}.block{b}"] = side_by_side(h, branches, width)
        stages[f"stage{s}"] = h
    return stages


def auxiliary_head(h: nc.Tensor, classes: int, *, width: float = 1.0, auxiliary_dropout: float = 0.7) -> nc.Tensor:
    """Mean to 4 x 4 places, a 1 x 1 convolution, a hidden dense layer, dropout and logits."""
    h = nc.AdaptiveAveragePool2D(4)(h, name="pool")
    h = conv_norm(h, scaled(128, width), norm=NORM)
    h = nc.Flatten()(h, name="flatten")
    h = nc.Dense(scaled(1024, width), activation="relu", initializer="he_normal")(h, name="dense")
    if auxiliary_dropout:
        h = nc.Dropout(auxiliary_dropout)(h, name="dropout")
    return nc.Dense(classes)(h, name="logits")


googlenet = architecture(
    "googlenet",
    googlenet_body,
    pooled_head,
    auxiliary_heads={"auxiliary1": ("stage2.block1", auxiliary_head), "auxiliary2": ("stage2.block4", auxiliary_head)},
    dropout=0.2,
)


def convolution_names(ours: str, theirs: str, number: str = "") -> list[Rule]:
    """Rules for a convolution and its normalisation."""
    return [(f"{ours}.conv{number}", f"{theirs}.conv"), (f"{ours}.norm{number}", f"{theirs}.bn")]


def module_names(ours: str, theirs: str) -> list[Rule]:
    """Rules for a module: the first branch is a layer there, the others are numbered sequences, with the pooling in the last."""
    branches = (("branch1", "1", ""), ("branch2", "{k}", ".{k-1}"), ("branch3", "{k}", ".{k-1}"), ("branch4", "1", ".1"))
    return [
        rule for branch, number, place in branches for rule in convolution_names(f"{ours}.{branch}", f"{theirs}.{branch}{place}", number)
    ]


TORCHVISION: list[Rule] = [
    *convolution_names("stem", "conv{k}", "{k}"),
    *[
        rule
        for s, (_, blocks) in enumerate(STAGES, start=1)
        for b, letter in zip(range(1, len(blocks) + 1), "abcde")
        for rule in module_names(f"stage{s}.block{b}", f"inception{s + 2}{letter}")
    ],
    *convolution_names("auxiliary{k}", "aux{k}.conv"),
    ("auxiliary{k}.dense", "aux{k}.fc1"),
    ("auxiliary{k}.logits", "aux{k}.fc2"),
    ("head.logits", "fc"),
    (ABSENT, "aux{k}"),
]
NAMES = {"torchvision": TORCHVISION, "numbacnn": [(ABSENT, "auxiliary{k}")]}
