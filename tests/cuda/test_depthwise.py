"""Depthwise convolutions on the GPU: what the table of all layers does not reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.kernels.cuda import columns, depthwise

from ..test_all_layers import Case, on
from .test_layers import compiled, compiles, no_device, simulated  # noqa: F401
from .test_layers import test_same_results_as_on_the_cpu as same_results

WINDOWS = {
    "two columns of strips": on((7, 6, 3), size=3, padding="same"),
    "stride 2": on((9, 7, 2), size=3, stride=2, padding="same"),
    "stride 2, tall": on((8, 5, 2), size=(5, 2), stride=(2, 1), padding=((3, 1), (0, 1))),
    "stride 3, wider than the kernel": on((8, 10, 2), size=2, stride=3, padding=1),
    "dilation": on((11, 5, 2), size=3, dilation=(3, 2), padding="same"),
    "dilation of columns and stride": on((5, 12, 2), size=(2, 3), stride=(2, 3), dilation=(1, 2), padding="full"),
    "dilation and stride of lines": on((9, 5, 2), size=3, stride=2, dilation=3, padding="same"),
    "padding wider than the kernel": on((4, 5, 2), size=2, padding=3),
    "multiplier": on((6, 5, 2), size=3, padding="same", multiplier=3),
    "multiplier and stride": on((6, 7, 2), size=3, stride=2, padding="same", multiplier=2),
    "lines of taps": on((5, 4, 1), size=8, padding="same"),
    "single taps": on((1, 90, 1), size=(1, 4), dilation=27, padding="same"),
    "large strides": on((1, 30, 1), size=(1, 3), stride=(1, 14)),
    "large and strided": on((5, 6, 1), size=8, stride=2, padding="same", multiplier=2),
}


@pytest.fixture
def several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of three lines, as otherwise only large maps have."""
    monkeypatch.setattr(depthwise, "WANTED_THREADS", 1)
    monkeypatch.setattr(depthwise, "MOST_LINES", 3)


@simulated
@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS)
def test_windows(case: Case, several_lines: None) -> None:
    same_results("DepthwiseConv2D", case)


@simulated
@pytest.mark.parametrize("stride", [1, 2])
def test_planes(stride: int, several_lines: None) -> None:
    same_results("DepthwiseConv3D", on((3, 4, 5, 1), size=(3, 3, 2), stride=stride, dilation=(2, 1, 1), padding="same"))


@simulated
def test_several_parts_and_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the weight gradient, with several strips for each thread; the last lanes have no channel."""
    monkeypatch.setattr(columns, "BLOCKS", 4)
    same_results("DepthwiseConv2D", on((3, 10, 34), size=(2, 1)))


@simulated
@pytest.mark.parametrize(
    "layer", [nc.DepthwiseConv2D(3, padding="same"), nc.SeparableConv2D(2, 3, padding="same")], ids=lambda layer: layer.stem
)
def test_what_follows_is_computed_on_the_way_to_memory(layer: Any) -> None:
    """A folded batch norm, a residual and an activation."""
    given = nc.Input((6, 5, 2))
    sum_of = nc.Add()(nc.BatchNorm()(layer(given)), given)
    model = nc.Model([given], [nc.Activation("silu")(sum_of)], seed=1)
    rng = np.random.default_rng(5)
    for name, array in model.parameters.items():
        model.parameters[name] = array + rng.uniform(0.1, 0.5, array.shape)
    x = rng.standard_normal((2, 6, 5, 2)).astype(np.float32)
    wanted = model.predict(x)
    found = model.to("cuda").predict(x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@compiled
@pytest.mark.parametrize(
    ("size", "stride"), [pytest.param(7, 1, marks=pytest.mark.nightly), pytest.param(5, 2, marks=pytest.mark.nightly), (7, 3)]
)
def test_large_windows_keep_their_numbers_in_registers(size: int, stride: int, no_device: Any) -> None:  # noqa: F811
    compiles("DepthwiseConv2D", on((9, 9, 2), size=size, stride=stride, padding="same"), no_device)
    for kernel, kinds in no_device.wanted:
        _, ptx = kernel.ptx(kinds, (9, 0))
        assert "__local_depot" not in ptx, f"{kernel.function.__qualname__} keeps an array in memory"
