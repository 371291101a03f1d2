"""The table: every registered layer, on small and odd shapes, through every check of numbacnn.testing.

The first case of a layer is its smallest; ``--reduced`` runs that one alone. Layers are looked up in the registry, as a user's
plugin would be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from numbacnn.plugin import registry
from numbacnn.testing import check_layer, whole

OWN = "numbacnn"


@dataclass(frozen=True)
class Case:
    """A layer's fields, the input shape(s), and options of check_layer."""

    shape: Any
    fields: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shapes = self.shape if isinstance(self.shape, list) else [self.shape]
        sizes = "+".join("x".join(map(str, shape)) for shape in shapes)
        return ",".join([sizes, *(f"{name}={value}" for name, value in self.fields.items())]).replace(" ", "")


def on(shape: Any, /, **fields: Any) -> Case:
    return Case(shape, fields)


FUNCTIONS = [
    *["relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu"],
    *["hard_swish", "hard_sigmoid", "mish", "sigmoid", "tanh", "softplus", "linear"],
]
SEVERAL = {"smallest_batch": 2, "batch": 3}
SIZES = {1: (5,), 2: (5, 4), 3: (5, 4, 3)}
ODD = {1: (7,), 2: (3, 7), 3: (3, 7, 5)}
ONES = {1: (1,), 2: (1, 1), 3: (1, 1, 1)}


def elementwise(**fields: Any) -> list[Case]:
    return [on((3, 5, 2), **fields), on((1, 1, 1), **fields), on((37,), **fields)]


CASES: dict[str, list[Case]] = {
    # Convolutions
    "Conv1D": [
        on((5, 2), filters=3, size=3),
        on((11, 3), filters=5, size=4, stride=2, dilation=2, padding="causal"),
        on((1, 1), filters=1, size=1, bias=False),
    ],
    "Conv2D": [
        on((5, 4, 2), filters=3, size=3, padding="same"),
        on((7, 11, 3), filters=17, size=(3, 2), stride=(2, 3), padding=((0, 2), (1, 0)), dilation=(2, 1), bias=False),
        on((6, 5, 6), filters=4, size=3, groups=2, padding="full", activation="relu"),
        on((9, 9, 1), filters=33, size=4, stride=2, padding="same", activation="relu"),
        on((1, 1, 1), filters=1, size=1),
        on((1, 1, 3), filters=2, size=5, padding=2),
    ],
    "Conv3D": [
        on((3, 4, 3, 2), filters=2, size=2),
        on((5, 3, 7, 3), filters=4, size=(3, 1, 3), stride=2, padding="same"),
        on((1, 1, 1, 1), filters=1, size=1),
    ],
    "Conv1DTranspose": [
        on((4, 2), filters=3, size=3, stride=2),
        on((1, 1), filters=1, size=1),
        on((7, 3), filters=2, size=2, stride=3, output_padding=1),
    ],
    "Conv2DTranspose": [
        on((3, 4, 2), filters=3, size=3, stride=2, padding="same"),
        on((5, 3, 4), filters=6, size=(2, 3), stride=(1, 2), padding=((0, 1), (1, 0)), groups=2, activation="relu"),
        on((1, 1, 1), filters=1, size=1, bias=False),
    ],
    "Conv3DTranspose": [on((2, 3, 2, 2), filters=2, size=2, stride=2), on((1, 1, 1, 1), filters=1, size=3, padding=1)],
    "DepthwiseConv1D": [on((5, 3), size=3), on((7, 2), size=2, stride=2, multiplier=2, padding="causal")],
    "DepthwiseConv2D": [
        on((5, 4, 3), size=3, padding="same"),
        on((7, 5, 17), size=(2, 3), stride=2, multiplier=2, bias=False),
        on((1, 1, 1), size=1, activation="relu"),
    ],
    "DepthwiseConv3D": [on((3, 3, 2, 2), size=2), on((1, 1, 1, 1), size=3, padding="same")],
    "SeparableConv1D": [on((5, 3), filters=2, size=3), on((7, 2), filters=5, size=2, stride=2, padding="same")],
    "SeparableConv2D": [
        on((5, 4, 3), filters=2, size=3, padding="same"),
        on((7, 5, 2), filters=5, size=(2, 3), stride=2, multiplier=2, activation="relu"),
        on((1, 1, 1), filters=1, size=1),
    ],
    "SeparableConv3D": [on((3, 3, 2, 2), filters=3, size=2), on((1, 1, 1, 1), filters=1, size=1)],
    # Dense
    "Dense": [on((3,), units=2), on((37,), units=19, activation="relu"), on((3, 5, 2), units=4, bias=False), on((1,), units=1)],
    "Embedding": [
        Case((5,), {"vocabulary": 7, "width": 3}, {"sample": whole(7)}),
        Case((2, 3, 2), {"vocabulary": 5, "width": 37, "padding_index": -2}, {"sample": whole(3)}),
        Case((1,), {"vocabulary": 1, "width": 1}, {"sample": whole(1)}),
    ],
    # Pooling
    "MaxPool1D": [on((6, 2), size=2), on((7, 3), size=3, stride=2, padding="same"), on((1, 1), size=1)],
    "MaxPool2D": [
        on((4, 5, 2), size=2),
        on((7, 5, 17), size=3, stride=2, padding=1, ceil_mode=True),
        on((9, 7, 3), size=(2, 3), stride=1, dilation=2),
        on((1, 1, 1), size=1),
    ],
    "MaxPool3D": [on((3, 4, 2, 2), size=2), on((3, 5, 3, 1), size=3, stride=1, padding="same")],
    "AveragePool1D": [on((6, 2), size=2), on((7, 3), size=3, stride=2, padding="same", count_include_padding=False)],
    "AveragePool2D": [
        on((4, 5, 2), size=2),
        on((7, 5, 17), size=3, stride=2, padding=1, ceil_mode=True),
        on((7, 5, 3), size=3, stride=2, padding=1, count_include_padding=False),
        on((1, 1, 1), size=1),
    ],
    "AveragePool3D": [on((3, 4, 2, 2), size=2), on((3, 5, 3, 1), size=3, stride=1, padding="same")],
    "LpPool1D": [on((6, 2), size=2), on((7, 3), size=3, stride=2, p=3.0)],
    "LpPool2D": [
        on((4, 5, 2), size=2),
        on((7, 5, 3), size=3, stride=2, p=1.0, ceil_mode=True),
    ],
    "LpPool3D": [on((3, 4, 2, 2), size=2)],
    **{
        f"Global{kind}Pool{axes}D": [on((*SIZES[axes], 3)), on((*ONES[axes], 1), keepdims=True), on((*ODD[axes], 17))]
        for kind in ("Average", "Max")
        for axes in (1, 2, 3)
    },
    **{
        f"Adaptive{kind}Pool{axes}D": [
            on((*SIZES[axes], 2), size=2),
            on((*ODD[axes], 17), size=(3, 5, 2)[:axes]),
            on((*ONES[axes], 1), size=1),
        ]
        for kind in ("Average", "Max")
        for axes in (1, 2, 3)
    },
    # Normalisation
    "BatchNorm": [on((3, 2, 3)), on((3, 2, 3), frozen=True), Case((5,), options=SEVERAL), on((3, 5, 17)), Case((1, 1, 1), options=SEVERAL)],
    "LayerNorm": [on((3, 2, 5)), on((7,)), on((1, 1, 3))],
    "GroupNorm": [on((3, 2, 4), groups=2), on((5, 3, 6), groups=3), on((1, 1, 4), groups=1)],
    "InstanceNorm": [on((3, 2, 3)), on((5, 7, 2))],
    "LocalResponseNorm": [on((2, 2, 5)), on((3, 1, 7)), on((1, 1, 1))],
    # Dropout
    "Dropout": [on((3, 5, 2), rate=0.4), on((37,), rate=0.1), on((1, 1, 1), rate=0.5)],
    "SpatialDropout": [on((3, 5, 7), rate=0.4), on((1, 1, 1), rate=0.5)],
    "StochasticDepth": [on((3, 5, 2), rate=0.4), on((1,), rate=0.5)],
    # Activations
    "Activation": elementwise(function="relu") + [on((3, 5, 2), function=name) for name in FUNCTIONS if name != "relu"],
    "PReLU": [on((3, 5, 2)), on((37,)), on((1, 1, 1))],
    "Softmax": [on((3, 5)), on((2, 3, 17)), on((1,))],
    "LogSoftmax": [on((3, 5)), on((2, 3, 17)), on((1,))],
    # Merging
    **{name: [on([(3, 2, 2)] * 2), on([(5, 3, 1)] * 3), on([(37,)] * 2)] for name in ("Add", "Multiply", "Maximum")},
    "Subtract": [on([(3, 2, 2)] * 2), on([(37,)] * 2)],
    "Concatenate": [
        on([(3, 2, 2), (3, 2, 3)]),
        on([(5, 1, 1), (5, 1, 17), (5, 1, 2)]),
        on([(3,), (4,)]),
        on([(2, 5, 3), (1, 5, 3)], axis=0),
    ],
    # Shapes
    "Split": [on((3, 2, 4), parts=2), on((5, 1, 5), parts=(2, 3)), on((5, 2, 3), parts=(1, 4), axis=0)],
    "Slice": [on((5, 4, 3), start=1, stop=3), on((5, 4, 3), axis=0, start=-2), on((1, 1, 1))],
    "Flatten": [on((3, 2, 2)), on((1, 1, 1)), on((5,))],
    "Reshape": [on((3, 4, 2), shape=(4, 6)), on((6,), shape=(3, 2, 1))],
    "Permute": [on((3, 4, 2), order=(1, 0, 2)), on((5, 3), order=(1, 0)), on((3, 5, 2, 4), order=(3, 0, 2, 1))],
    "ZeroPad": [on((3, 4, 2), padding=1), on((1, 1, 1), padding=((0, 2), (1, 0))), on((2, 3, 4), padding=0, channels=(1, 2))],
    "Crop": [on((5, 4, 2), cropping=1), on((3, 5, 1), cropping=((0, 2), (1, 0)))],
    "DepthToSpace": [on((2, 3, 8)), on((1, 1, 9), block=3), on((3, 5, 8), order="CRD")],
    "SpaceToDepth": [on((4, 6, 3)), on((3, 3, 1), block=3), on((2, 4, 3), order="CRD")],
    "ChannelShuffle": [on((2, 3, 4), groups=2), on((1, 1, 6), groups=3)],
    "Scale": [on((3, 5, 2)), on((3, 5, 2), axis=0, initial=0.5), on((37,)), on((1, 1, 1))],
    "Identity": [on((3, 5, 2)), on((1,))],
    # Capsules, of numbacnn_architectures
    "Squash": [on((5, 3)), on((2, 3, 8)), on((1,))],
    "CapsuleRouting": [
        on((5, 3), capsules=3, width=4),
        on((2, 3, 2, 4), capsules=4, width=17, iterations=1),
        on((7, 2), capsules=2, width=3, iterations=4),
        on((1, 1), capsules=1, width=1),
    ],
    "CapsuleLength": [on((5, 3)), on((2, 3, 8)), on((1, 1))],
    "LongestCapsule": [on((5, 3)), on((1, 1))],
    # Resizing
    "Upsample": [
        on((2, 3, 2)),
        on((5, 3), scale=2.5),
        on((1, 1, 1), mode="bilinear"),
        on((3, 5, 1), mode="bilinear"),
        on((3, 2, 3), mode="bilinear", align_corners=True, size=(3, 2)),
    ],
}


def own_layers() -> list[str]:
    """Names of the layers that numbacnn itself provides."""
    return [name for name in registry.names("layer") if registry.find("layer", name).distribution == OWN]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"name", "case"} <= set(metafunc.fixturenames):
        reduced = metafunc.config.getoption("--reduced")
        pairs = [(name, case) for name, cases in CASES.items() for case in (cases[:1] if reduced else cases)]
        metafunc.parametrize(("name", "case"), pairs, ids=[f"{name}-{case}" for name, case in pairs])


def test_layer(name: str, case: Case) -> None:
    check_layer(registry.load("layer", name)(**case.fields), case.shape, **case.options)


def test_every_registered_layer_has_a_case() -> None:
    missing = sorted(set(own_layers()) - set(CASES))
    assert not missing, f"layers without a case in this table: {', '.join(missing)}"
    assert not (set(CASES) - set(own_layers())), "cases of layers that are not registered"
