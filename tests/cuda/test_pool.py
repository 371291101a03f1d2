"""Pooling and resizing on the GPU: what the table of all layers does not reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError
from numbacnn.kernels.cuda import columns, runtime

from ..test_all_layers import Case, on
from .test_layers import compiled, simulated
from .test_layers import test_same_results_as_on_the_cpu as same_results

LAYERS = {
    "several blocks": ("MaxPool2D", on((9, 11, 5), size=2)),
    "places that share pixels, many": ("MaxPool2D", on((6, 7, 2), size=4, stride=1)),
    "pixels in no window": ("MaxPool2D", on((7, 9, 2), size=2, stride=3)),
    "large windows": ("MaxPool2D", on((13, 8, 1), size=(9, 7), stride=(2, 1))),
    "more taps than a byte counts": ("MaxPool2D", on((18, 17, 1), size=17, stride=1)),
    "dilated and cut off": (
        "MaxPool2D",
        on((8, 9, 2), size=(3, 2), stride=(2, 1), dilation=(2, 3), padding=((1, 2), (1, 0)), ceil_mode=True),
    ),
    "planes": ("MaxPool3D", on((5, 4, 5, 2), size=(3, 2, 2), stride=(1, 2, 2), dilation=(2, 1, 1))),
    "uneven windows": ("AdaptiveMaxPool2D", on((7, 5, 3), size=(3, 4))),
    "large means": ("AveragePool2D", on((11, 9, 2), size=(7, 5), stride=(2, 1), padding=((1, 2), (0, 1)))),
    "uneven means": ("AdaptiveAveragePool2D", on((7, 9, 2), size=(5, 2))),
    "one mean, padded": ("AveragePool2D", on((3, 4, 2), size=(5, 4), padding=((1, 1), (0, 0)))),
    "a window over everything": ("MaxPool2D", on((3, 4, 2), size=(3, 4))),
    "root": ("LpPool2D", on((5, 7, 2), size=3, stride=2, p=0.5)),
    "cubes that overlap": ("LpPool3D", on((3, 4, 5, 1), size=2, stride=1, p=3.0)),
    "nearest, thinned": ("Upsample", on((7, 9, 2), scale=0.6)),
    "nearest, 7 times": ("Upsample", on((3, 2, 2), scale=7)),
    "linear, planes": ("Upsample", on((2, 3, 5, 2), mode="trilinear", scale=(2, 1.5, 1))),
    "linear, corners aligned, thinned": ("Upsample", on((7, 6, 1), mode="bilinear", align_corners=True, size=(3, 5))),
    "linear, 5 times": ("Upsample", on((3, 2, 2), mode="bilinear", scale=5)),
}


@simulated
@pytest.mark.parametrize(("name", "case"), LAYERS.values(), ids=LAYERS)
def test_layers(name: str, case: Case) -> None:
    same_results(name, case)


@simulated
@pytest.mark.parametrize("kind", ["GlobalMaxPool2D", "GlobalAveragePool2D"])
def test_everything_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes; the last lanes have no channel, the last part has fewer rows."""
    monkeypatch.setattr(columns, "ROWS_OF_A_THREAD", 1)
    same_results(kind, on((5, 7, 34)))


def gradients(layer: nc.layers.base.Layer, x: np.ndarray, slopes: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    given = nc.Input(x.shape[1:])
    model = nc.Model([given], [layer(given)])
    if device != "cpu":
        model = model.to(device)
    plan: Any = model.training_plan(len(x), True, device=device)
    if device != "cpu":
        plan.refresh()
    plan.device.upload(x, plan.inputs[0])
    plan.forward()
    plan.device.upload(slopes, plan.output_gradients[0])
    plan.backward()
    return plan.device.copies(plan.outputs)[0], plan.device.copies(plan.input_gradients)[0]


@simulated
@pytest.mark.parametrize(
    "layer", [nc.MaxPool2D(3, stride=2, padding=1), nc.GlobalMaxPool2D(), nc.LpPool2D(3, p=3.0)], ids=["windows", "everything", "powers"]
)
def test_equal_elements_and_what_is_no_number(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS_OF_A_THREAD", 1)
    rng = np.random.default_rng(3)
    x = rng.integers(0, 3, (2, 19, 15, 5)).astype(np.float32)
    x[:, 3::7, 2::5, 1] = np.nan
    x[..., 2] = -np.inf
    x[..., 3] = np.inf
    slopes = rng.standard_normal((2, *layer.output_shape(x.shape[1:]))).astype(np.float32)
    for found, wanted in zip(gradients(layer, x, slopes, "cuda"), gradients(layer, x, slopes, "cpu")):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@compiled
@pytest.mark.parametrize("layer", [nc.MaxPool2D(2), nc.BatchNorm(), nc.Softmax(), nc.Conv2D(8, 1)], ids=lambda layer: type(layer).__name__)
def test_more_elements_than_kernels_count_are_refused(layer: Any) -> None:
    with runtime.pretended(runtime.Blueprint((9, 0))):
        given = nc.Input((256, 256, 64))
        model = nc.Model([given], [layer(given)]).to("cuda", "tf32")
        with pytest.raises(ConfigError, match="smaller batch"):
            model.training_plan(512, True, device="cuda")
