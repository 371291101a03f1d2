"""Inception-v3."""

from __future__ import annotations

import numbacnn as nc
from numbacnn.weights.names import ABSENT, Rule

from .common import Stages, architecture, pooled_head
from .googlenet import Branches, convolution_names, one_after_the_other, side_by_side

AVERAGE = nc.AveragePool2D(3, stride=1, padding=1)
MAXIMUM = nc.MaxPool2D(3, stride=2)

STEM = [(32, 3, 2), (32, 3, 1), (64, 3), MAXIMUM, (80, 1), (192, 3, 1)]


def square(pooled: int) -> Branches:
    """Figure 5 of the paper, with a 5 x 5 convolution in place of one of the pairs of 3 x 3."""
    return {
        "branch1": [(64, 1)],
        "branch2": [(48, 1), (64, 5)],
        "branch3": [(64, 1), (96, 3), (96, 3)],
        "branch4": [AVERAGE, (pooled, 1)],
    }


def factorised(inner: int) -> Branches:
    """Figure 6: 7 x 7 convolutions as 1 x 7 and 7 x 1."""
    wide, tall = (inner, (1, 7)), (inner, (7, 1))
    return {
        "branch1": [(192, 1)],
        "branch2": [(inner, 1), wide, (192, (7, 1))],
        "branch3": [(inner, 1), tall, wide, tall, (192, (1, 7))],
        "branch4": [AVERAGE, (192, 1)],
    }


def spread() -> Branches:
    """Figure 7: 3 x 3 convolutions as 1 x 3 and 3 x 1 side by side."""
    both: Branches = {"wide": [(384, (1, 3))], "tall": [(384, (3, 1))]}
    return {
        "branch1": [(320, 1)],
        "branch2": [(384, 1), both],
        "branch3": [(448, 1), (384, 3), both],
        "branch4": [AVERAGE, (192, 1)],
    }


FIRST_REDUCTION: Branches = {
    "branch1": [(384, 3, 2)],
    "branch2": [(64, 1), (96, 3), (96, 3, 2)],
    "branch3": [MAXIMUM],
}
SECOND_REDUCTION: Branches = {
    "branch1": [(192, 1), (320, 3, 2)],
    "branch2": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
    "branch3": [MAXIMUM],
}

STAGES = (
    (square(32), square(64), square(64)),
    (FIRST_REDUCTION, factorised(128), factorised(160), factorised(160), factorised(192)),
    (SECOND_REDUCTION, spread(), spread()),
)


def inception(x: nc.Tensor, *, width: float = 1.0) -> Stages:
    """C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.

    Five convolutions and two poolings, then eleven modules of branches side by side, of which the fourth and the ninth halve the size.
    ``width`` multiplies the filters. Images from 75 x 75 on, usually of 299 x 299.

    ``auxiliary=True`` adds a classifier in the middle for training: the model then gives a mapping from ``"logits"`` and ``"auxiliary"``
    to logits. It needs images from 299 x 299 on. Its loss usually counts 0.4 times: ``nc.Trainer(model, loss_weights=(1, 0.4))``.
    """
    stages: Stages = {}
    with nc.scope("stem"):
        stages["stem"] = one_after_the_other(x, STEM, width)
    h = MAXIMUM(stages["stem"], name="stage1.pool")
    for s, blocks in enumerate(STAGES, start=1):
        for b, branches in enumerate(blocks, start=1):
            with nc.scope(f"stage{s}"), nc.scope(f"block{b}"):
                h = stages[f"stage{s}.block{b}"] = side_by_side(h, branches, width)
        stages[f"stage{s}"] = h
    return stages


def auxiliary_head(h: nc.Tensor, classes: int, *, width: float = 1.0) -> nc.Tensor:
    """Pooling to 5 x 5 places, 1 x 1 and 5 x 5 convolutions, the mean over all places, and logits."""
    h = one_after_the_other(h, [nc.AveragePool2D(5, stride=3), (128, 1), (768, 5, 1)], width)
    h = nc.GlobalAveragePool2D()(h, name="global_pool")
    return nc.Dense(classes)(h, name="logits")


inception_v3 = architecture(
    "inception_v3",
    inception,
    pooled_head,
    input_shape=(299, 299, 3),
    auxiliary_heads={"auxiliary": ("stage2.block5", auxiliary_head)},
    dropout=0.5,
)

# The branches of each kind of module by the names of others: how ours begins, its number, and theirs.
SQUARE = (
    ("branch1", "1", "branch1x1"),
    ("branch2", "{k}", "branch5x5_{k}"),
    ("branch3", "{k}", "branch3x3dbl_{k}"),
    ("branch4", "1", "branch_pool"),
)
FACTORISED = (
    ("branch1", "1", "branch1x1"),
    ("branch2", "{k}", "branch7x7_{k}"),
    ("branch3", "{k}", "branch7x7dbl_{k}"),
    ("branch4", "1", "branch_pool"),
)
SPREAD = (
    ("branch1", "1", "branch1x1"),
    ("branch2", "1", "branch3x3_1"),
    ("branch2.wide", "1", "branch3x3_2a"),
    ("branch2.tall", "1", "branch3x3_2b"),
    ("branch3", "{k}", "branch3x3dbl_{k}"),
    ("branch3.wide", "1", "branch3x3dbl_3a"),
    ("branch3.tall", "1", "branch3x3dbl_3b"),
    ("branch4", "1", "branch_pool"),
)
FIRST_REDUCED = (("branch1", "1", "branch3x3"), ("branch2", "{k}", "branch3x3dbl_{k}"))
SECOND_REDUCED = (("branch1", "{k}", "branch3x3_{k}"), ("branch2", "{k}", "branch7x7x3_{k}"))
MODULES = {
    "stage1": (("5b", SQUARE), ("5c", SQUARE), ("5d", SQUARE)),
    "stage2": (("6a", FIRST_REDUCED), ("6b", FACTORISED), ("6c", FACTORISED), ("6d", FACTORISED), ("6e", FACTORISED)),
    "stage3": (("7a", SECOND_REDUCED), ("7b", SPREAD), ("7c", SPREAD)),
}
CONVOLUTIONS = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")

RULES: list[Rule] = [
    *[rule for k, name in enumerate(CONVOLUTIONS, start=1) for rule in convolution_names("stem", f"Conv2d_{name}", str(k))],
    *[
        rule
        for stage, modules in MODULES.items()
        for b, (module, branches) in enumerate(modules, start=1)
        for ours, number, theirs in branches
        for rule in convolution_names(f"{stage}.block{b}.{ours}", f"Mixed_{module}.{theirs}", number)
    ],
    *convolution_names("auxiliary", "AuxLogits.conv{k-1}", "{k}"),
    ("auxiliary.logits", "AuxLogits.fc"),
    ("head.logits", "fc"),
    (ABSENT, "AuxLogits"),
]
NAMES = {"torchvision": RULES, "timm": RULES, "numbacnn": [(ABSENT, "auxiliary")]}
