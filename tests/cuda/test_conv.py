"""Convolutions on the GPU beyond the table of layers: every tile with several blocks and remainders along all axes, sums in parts, fused
epilogues, and what kernels compile to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numba import types

import numbacnn as nc
from numbacnn.kernels.activations import gelu, relu6
from numbacnn.kernels.conv import Window
from numbacnn.kernels.cuda import columns
from numbacnn.kernels.cuda.columns import column_sum_elements, column_sums, sum_parts
from numbacnn.kernels.cuda.conv import launch
from numbacnn.kernels.cuda.conv.direct import convolution
from numbacnn.kernels.cuda.conv.gradient import weight_gradient
from numbacnn.kernels.cuda.conv.launch import DataGradient, Forward, Problem, WeightGradient
from numbacnn.kernels.cuda.conv.tiles import TILES, Cut, Tile, cut
from numbacnn.kernels.cuda.ending import Ending
from numbacnn.kernels.cuda.memory import empty, on_device

from .test_layers import BATCH, CAPABILITIES, assert_close, compiled, simulated

each_tile = pytest.mark.parametrize("tile", TILES, ids=[f"{tile.rows}x{tile.columns}" for tile in TILES])
NOTHING = Ending()
FLOATS, TABLE = types.CPointer(types.float32), types.CPointer(types.int32)
DIRECT = (FLOATS,) * 7 + (types.int32, TABLE) + (types.int32,) * 21  # kinds of the kernels' arguments
GRADIENT = (FLOATS,) * 3 + (types.int32,) * 31
REGISTERS = 65536  # of a multiprocessor


def skip_unless_used(tile: Tile, wide: bool) -> None:
    if tile == TILES[0] and not wide:
        pytest.skip("the largest tile is for wide arrays")


class Reference:
    """A convolution in float64 by NumPy: every output's inputs side by side, which makes matrix products of all passes."""

    def __init__(self, problem: Problem):
        window, axes = problem.window, []
        for count, size, extent, stride, dilation, padding in zip(
            problem.places, problem.size, window.extent, window.stride, window.dilation, window.padding
        ):
            at = np.arange(count)[:, None] * stride + np.arange(extent) * dilation - padding
            axes.append(np.where((at >= 0) & (at < size), at, size))  # `size`: a line of zeros behind the others
        d, h, w = axes
        numbers = np.arange(1, problem.batch * math.prod(problem.size) * problem.channels + 1)
        x = numbers.reshape(problem.batch, *problem.size, problem.channels)
        x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 1), (0, 0)))
        found = x[:, d[:, None, None, :, None, None], h[None, :, None, None, :, None], w[None, None, :, None, None, :]]
        self.problem, self.index = problem, found.reshape(-1, window.taps, window.groups, problem.channels // window.groups)

    def _inputs(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], x.ravel().astype(float)])[self.index]

    def forward(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.einsum("ptgc,tcgo->pgo", self._inputs(x), w).reshape(self._places())

    def gradients(self, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes = dy.reshape(len(self.index), self.problem.window.groups, -1).astype(float)
        spread = np.einsum("pgo,tcgo->ptgc", slopes, w)
        dx = np.bincount(self.index.ravel(), spread.ravel(), x.size + 1)[1:].reshape(x.shape)
        return dx, np.einsum("ptgc,pgo->tcgo", self._inputs(x), slopes)

    def _places(self) -> tuple[int, ...]:
        return (self.problem.batch, *self.problem.places, self.problem.outputs)


def problem_of(size: Any, channels: int, outputs: int, batch: int, window: Window) -> Problem:
    places = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in zip(size, window.extent, window.stride, window.dilation, window.padding)
    )
    return Problem(window, size, channels, places, outputs, batch)  # type: ignore[arg-type]


def scratch_for(one: Any) -> Any:
    return empty((max(1, one.scratch_elements),), np.float32)


def check(problem: Problem, forward: bool = True, backward: bool = True, weights: bool = True) -> None:
    """Compare the passes with the reference's."""
    rng, window = np.random.default_rng(3), problem.window
    x = rng.standard_normal((problem.batch, *problem.size, problem.channels)).astype(np.float32)
    w = rng.standard_normal((window.taps, problem.channels // window.groups, window.groups, problem.outputs // window.groups))
    w = w.astype(np.float32)
    dy = rng.standard_normal((problem.batch, *problem.places, problem.outputs)).astype(np.float32)
    reference = Reference(problem)
    x_there, w_there, dy_there = on_device(x), on_device(w.reshape(*window.extent, -1, problem.outputs)), on_device(dy)
    dx, dw = reference.gradients(x, w, dy)
    if forward:
        y = on_device(np.full(dy.shape, np.nan, np.float32))
        Forward(problem).run(x_there, w_there, y, NOTHING, scratch_for(Forward(problem)))
        assert_close(y.download(), reference.forward(x, w), "output")
    if backward:
        found = on_device(np.full(x.shape, np.nan, np.float32))
        DataGradient(problem).run(dy_there, w_there, found, NOTHING, scratch_for(DataGradient(problem)))
        assert_close(found.download(), dx, "data gradient")
    if weights:
        found = on_device(np.full(w_there.shape, np.nan, np.float32))
        WeightGradient(problem).run(x_there, dy_there, found, scratch_for(WeightGradient(problem)))
        assert_close(found.download().reshape(dw.shape), dw, "weight gradient")


def force(monkeypatch: pytest.MonkeyPatch, tile: Tile, parts: int) -> None:
    """Let all products be cut into that tile, and sums into about so many parts."""

    def cut_so(rows: int, columns: int, depth: int, copies: int, wide: bool) -> Cut:
        length = max(1, -(-depth // (parts * tile.depth))) * tile.depth
        return Cut(tile, max(1, -(-depth // length)), length)

    monkeypatch.setattr(launch, "cut", cut_so)


@simulated
@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
@each_tile
def test_tiles_and_remainders(tile: Tile, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles of places and of channels, the last ones not full, and a depth that is no multiple of a step's."""
    skip_unless_used(tile, wide)
    more = 4 if wide else 1
    columns = -(-(tile.rows + 3) // 2)
    window = Window((1, 1, 2), (1, 1, 1), (1, 1, 1), (0, 0, 1))
    force(monkeypatch, tile, 1)
    check(problem_of((1, 1, columns), 4 + more, tile.columns + more, 2, window), backward=False, weights=False)
    check(problem_of((1, 1, columns), tile.columns + more, 4 + more, 2, window), forward=False, weights=False)
    rows = -(-tile.rows // 8) * 4
    force(monkeypatch, tile, 2)
    check(problem_of((1, 1, 2 * tile.depth - 3), rows + more, tile.columns + more, 1, window), forward=False, backward=False)


@simulated
@pytest.mark.parametrize(
    ("size", "channels", "outputs", "window"),
    [
        ((1, 5, 4), 12, 8, Window((1, 3, 2), (1, 1, 1), (1, 2, 1), (0, 2, 1), 2)),  # dilated, in groups
        ((1, 4, 5), 6, 9, Window((1, 2, 3), (1, 2, 3), (1, 1, 1), (0, 0, 2), 3)),  # places of a stride without taps
        ((4, 3, 5), 3, 2, Window((2, 3, 1), (2, 1, 2), (1, 1, 1), (1, 0, 0))),
        ((1, 5, 6), 4, 4, Window((1, 3, 3), (1, 2, 2), (1, 3, 2), (0, 4, 2))),  # strides and dilations that share a factor, or don't
        ((1, 1, 3), 8, 4, Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1))),  # taps that meet padding alone
    ],
    ids=["groups", "stride", "volume", "dilation", "padding"],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_geometry(size: Any, channels: int, outputs: int, window: Window, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, TILES[4], parts)
    check(problem_of(size, channels, outputs, 2, window))


@simulated
def test_stem() -> None:
    """As AlexNet begins."""
    check(problem_of((1, 11, 12), 3, 5, 1, Window((1, 11, 11), (1, 4, 4), (1, 1, 1), (0, 2, 2))))


@simulated
@pytest.mark.parametrize(("groups", "rows", "channels", "parts"), [(1, 1, 1, 1), (2, 5, 3, 1), (3, 300, 35, 2), (2, 2003, 5, 3)])
@pytest.mark.parametrize("most", [columns.MOST_IN_GRID, 1], ids=["", "few blocks"])
def test_column_sums(groups: int, rows: int, channels: int, parts: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST_IN_GRID", most)
    x = np.random.default_rng(2).standard_normal((groups, rows, channels)).astype(np.float32)
    sums, elements = empty((groups, channels), np.float32), column_sum_elements(groups, rows, channels)
    assert elements == (groups * parts * channels if parts > 1 else 0)
    column_sums(on_device(x), groups, sums, empty((elements,), np.float32) if elements else None, 0.5)
    assert_close(sums.download(), x.astype(float).sum(1) / 2, "sums")
    sum_parts(on_device(x), sums, 2.0, groups)
    assert_close(sums.download(), x.astype(float).sum(1) * 2, "sums")


@simulated
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("outputs", "groups"), [(11, 1), (8, 2)])
def test_endings(outputs: int, groups: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that an epilogue may have, also of a sum that is cut into parts."""
    force(monkeypatch, TILES[4], parts)
    rng = np.random.default_rng(4)
    problem = problem_of((1, 3, 4), 6, outputs, 2, Window((1, 2, 3), (1, 1, 1), (1, 1, 1), (0, 0, 0), groups))
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 1, 3, 4, 6), (6, 6 // groups, groups, outputs // groups)))
    scale, shift = (rng.standard_normal(outputs).astype(np.float32) for _ in range(2))
    expected = Reference(problem).forward(x, w)
    addend = rng.standard_normal(expected.shape).astype(np.float32)
    y = on_device(np.full(expected.shape, np.nan, np.float32))
    one = Forward(problem)
    one.run(on_device(x), on_device(w), y, Ending(*map(on_device, (scale, shift, addend)), relu6), scratch_for(one))
    assert_close(y.download(), np.clip(expected * scale + shift + addend, 0, 6), "output")


@simulated
@pytest.mark.parametrize("layer", [nc.Conv2D(3, 2), nc.Conv2DTranspose(3, 2, bias=False)], ids=["conv", "transpose"])
def test_fused_norm_residual_and_activation(layer: Any) -> None:
    inputs = nc.Input((3, 4, 2))
    x = layer(inputs)
    more = nc.Input(x.shape)
    model = nc.Model([inputs, more], nc.Activation("gelu")(nc.Add()(nc.BatchNorm()(x), more)), seed=1)
    rng = np.random.default_rng(5)
    for name, array in model.parameters.items():
        model.parameters[name] = array + rng.uniform(0.1, 0.5, array.shape)
    given = tuple(rng.standard_normal((BATCH, *shape)).astype(np.float32) for shape in (inputs.shape, x.shape))
    expected = model.predict(given)
    assert_close(model.to("cuda").predict(given), expected, "inference")


@simulated
def test_long_sums_are_cut() -> None:
    """A product with few rows and a long depth, whose ending comes after the sum of its parts."""
    assert cut(BATCH, 5, 390, 1, False).parts > 1
    inputs = nc.Input((390,))
    model = nc.Model(inputs, nc.Dense(5, activation="gelu")(inputs), seed=1)
    given = np.random.default_rng(5).standard_normal((BATCH, 390)).astype(np.float32)
    expected = model.predict(given)
    assert_close(model.to("cuda").predict(given), expected, "inference")


@compiled
@pytest.mark.nightly  # with statistics, which take more registers, they are compiled each time
@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
@each_tile
def test_tiles_fit_registers(tile: Tile, wide: bool, capabilities: tuple) -> None:
    skip_unless_used(tile, wide)
    kernels = [(weight_gradient(tile, wide, wide), GRADIENT)]
    kernels += [(convolution(tile, wide, wide, wide, transposed, NOTHING.kind), DIRECT) for transposed in (False, True)]
    if tile == TILES[0]:
        kernels.append((convolution(tile, wide, wide, wide, False, (True, True, True, gelu)), DIRECT))
    for kernel, arguments in kernels:
        for capability in capabilities:
            code = kernel.machine_code(arguments, capability)
            assert code.spilled == code.stack == 0
            assert code.registers * kernel.threads * kernel.blocks <= REGISTERS


@compiled
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "data gradient"])
def test_sums_stay_in_registers(transposed: bool) -> None:
    _, ptx = convolution(TILES[0], True, True, True, transposed, NOTHING.kind).ptx(DIRECT, CAPABILITIES[-1])
    assert ".local" not in ptx
    for instruction in ("ld.shared.v4", "ld.global.v4", "st.global.v4"):
        assert instruction in ptx
