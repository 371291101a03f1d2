"""Convolutions on tensor cores, with small whole numbers, of which tf32, bfloat16 and float32's sums lose nothing: results are equal."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numba import types
from numba.core import config

if not config.ENABLE_CUDASIM and find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda", allow_module_level=True)

from numbacnn.kernels.conv.window import POINTWISE, Triple, Window
from numbacnn.kernels.cuda import driver, stand_ins
from numbacnn.kernels.cuda.conv import gather, tensor
from numbacnn.kernels.cuda.conv.launch import Problem
from numbacnn.kernels.cuda.ending import Ending
from numbacnn.kernels.cuda.memory import empty, on_device

simulated = pytest.mark.skipif(not config.ENABLE_CUDASIM, reason="needs NUMBA_ENABLE_CUDASIM=1")
compiled = pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="needs no simulator")
each_precision = pytest.mark.parametrize("precision", sorted(tensor.PRODUCTS))
each_width = pytest.mark.parametrize("columns", [128, 64])


class Sums:
    """A convolution's arrays of random whole numbers, and its three passes in NumPy."""

    def __init__(self, batch: int, size: Triple, channels: int, filters: int, window: Window):
        numbers = zip(size, window.padding, window.dilation, window.extent, window.stride)
        places = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in numbers)
        rng = np.random.default_rng(1)
        shapes = (batch, *size, channels), (*window.extent, channels // window.groups, filters), (batch, *places, filters)
        self.problem = Problem(window, size, channels, places, filters, batch)
        self.x, self.w, self.dy = (rng.integers(-4, 5, shape).astype("f") for shape in shapes)
        self.y, self.dx, self.dw = np.zeros_like(self.dy), np.zeros_like(self.x), np.zeros_like(self.w)
        self.compute()

    def compute(self) -> None:
        """Add to the results."""
        problem = self.problem
        window, groups, channels, filters = problem.window, problem.window.groups, problem.channels, problem.outputs
        for place, tap in itertools.product(np.ndindex(*problem.places), np.ndindex(*window.extent)):
            at = tuple(i * s + k * d - p for i, k, s, d, p in zip(place, tap, window.stride, window.dilation, window.padding))
            if not all(0 <= i < n for i, n in zip(at, problem.size)):
                continue
            for group in range(groups):
                inputs = slice(group * channels // groups, (group + 1) * channels // groups)
                outputs = slice(group * filters // groups, (group + 1) * filters // groups)
                x, dy, w = self.x[:, *at, inputs], self.dy[:, *place, outputs], self.w[tap][:, outputs]
                self.y[:, *place, outputs] += x @ w
                self.dx[:, *at, inputs] += dy @ w.T
                self.dw[tap][:, outputs] += x.T @ dy


def forward(sums: Sums, precision: str, ending: Ending | None = None) -> np.ndarray:
    y = empty(sums.y.shape, np.float32)
    tensor.Forward(sums.problem, precision).run(on_device(sums.x), on_device(sums.w), y, ending or Ending())
    return y.download()


def data_gradient(sums: Sums, precision: str, ending: Ending | None = None) -> np.ndarray:
    dx = empty(sums.x.shape, np.float32)
    tensor.DataGradient(sums.problem, precision).run(on_device(sums.dy), on_device(sums.w), dx, ending or Ending())
    return dx.download()


def weight_gradient(sums: Sums, precision: str) -> tuple[np.ndarray, int]:
    """The gradient, and the number of parts."""
    found = tensor.WeightGradient(sums.problem, precision)
    dw, scratch = empty(sums.w.shape, np.float32), empty((found.scratch_elements,), np.float32)
    found.run(on_device(sums.x), on_device(sums.dy), dw, scratch)
    return dw.download(), scratch.size // dw.size


@simulated
@each_precision
@each_width
def test_several_blocks(precision: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows and columns than a tile, and a depth of several tiles, none of them whole."""
    monkeypatch.setattr(tensor, "_columns", lambda *_: columns)
    window = Window((1, 2, 2), (1, 1, 1), (1, 1, 1), (0, 1, 0))
    sums = Sums(1, (1, 11, 12), 12, columns + 4, window)
    np.testing.assert_array_equal(forward(sums, precision), sums.y)
    sums = Sums(1, (1, 11, 12), columns + 4, 12, window)
    np.testing.assert_array_equal(data_gradient(sums, precision), sums.dx)
    monkeypatch.setattr(tensor, "LEAST_TILES", 1)
    monkeypatch.setattr(tensor, "AT_ONCE", 8)
    sums = Sums(1, (1, 9, 9), 36, columns + 4, window)
    dw, parts = weight_gradient(sums, precision)
    assert parts == 2  # of two tiles, and of one that is not whole
    np.testing.assert_array_equal(dw, sums.dw)


@simulated
@each_precision
def test_copies_that_land_at_once(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is overwritten that is still to be read, in a depth of more tiles than are under way."""
    monkeypatch.setattr(stand_ins, "AT_ONCE", True)
    monkeypatch.setattr(tensor, "_columns", lambda *_: 64)
    sums = Sums(1, (1, 4, 5), 36, 36, Window((1, 2, 2), (1, 1, 1), (1, 1, 1), (0, 1, 0)))
    np.testing.assert_array_equal(forward(sums, precision), sums.y)
    np.testing.assert_array_equal(data_gradient(sums, precision), sums.dx)
    sums = Sums(4, (1, 8, 8), 12, 12, POINTWISE)
    np.testing.assert_array_equal(weight_gradient(sums, precision)[0], sums.dw)


WINDOWS = {
    "dilated": ("tf32", (2, (1, 7, 6), 8, 4, Window((1, 3, 2), (1, 1, 1), (1, 2, 3), (0, 2, 1)))),
    "strided": ("bf16", (2, (1, 7, 6), 4, 8, Window((1, 3, 3), (1, 2, 3), (1, 1, 2), (0, 1, 2)))),
    "planes": ("tf32", (2, (3, 4, 3), 32, 4, Window((2, 1, 3), (2, 1, 1), (1, 1, 1), (1, 0, 1)))),
    "grouped": ("bf16", (1, (1, 5, 5), 8, 24, Window((1, 3, 3), (1, 2, 2), (1, 1, 1), (0, 1, 1), 2))),
    "pointwise": ("bf16", (2, (1, 3, 4), 36, 40, POINTWISE)),
    "strided pointwise": ("tf32", (1, (1, 5, 4), 8, 16, Window((1, 1, 1), (1, 2, 2), (1, 1, 1), (0, 0, 0), 2))),
    "mostly padding": ("bf16", (1, (1, 1, 2), 32, 4, Window((1, 5, 5), (1, 1, 1), (1, 1, 1), (0, 2, 2)))),
}


@simulated
@pytest.mark.parametrize(("precision", "given"), WINDOWS.values(), ids=WINDOWS)
def test_windows(precision: str, given: tuple) -> None:
    sums = Sums(*given)
    np.testing.assert_array_equal(forward(sums, precision), sums.y)
    np.testing.assert_array_equal(data_gradient(sums, precision), sums.dx)
    np.testing.assert_array_equal(weight_gradient(sums, precision)[0], sums.dw)


def _doubled(x: Any) -> Any:
    return x + x


@simulated
@each_precision
def test_endings(precision: str) -> None:
    """Also where no tap meets the input: there the sum is zero, and it is ended."""
    sums = Sums(*WINDOWS["strided pointwise"][1])

    def ended(result: np.ndarray) -> tuple[Ending, np.ndarray]:
        rng = np.random.default_rng(2)
        scale, shift = (rng.integers(-4, 5, result.shape[-1]).astype("f") for _ in range(2))
        addend = rng.integers(-4, 5, result.shape).astype("f")
        return Ending(*map(on_device, (scale, shift, addend)), _doubled), 2 * (result * scale + shift + addend)

    ending, expected = ended(sums.y)
    np.testing.assert_array_equal(forward(sums, precision, ending), expected)
    ending, expected = ended(sums.dx)
    np.testing.assert_array_equal(data_gradient(sums, precision, ending), expected)


@simulated
@each_precision
def test_infinite_numbers_stay_where_they_are(precision: str) -> None:
    """What a tile has beyond the arrays is zero, not the array's first element."""
    sums = Sums(1, (1, 1, 2), 4, 8, POINTWISE)
    finite = forward(sums, precision), data_gradient(sums, precision), weight_gradient(sums, precision)[0]
    for array in (sums.x, sums.w, sums.dy):
        array.flat[0] = np.inf
    found = forward(sums, precision), data_gradient(sums, precision), weight_gradient(sums, precision)[0]
    for got, expected in zip(found, finite):
        np.testing.assert_array_equal(got.reshape(-1, got.shape[-1])[1:, 1:], expected.reshape(-1, got.shape[-1])[1:, 1:])


@simulated
def test_rounding_is_that_of_the_precision() -> None:
    sums = Sums(1, (1, 1, 1), 4, 4, POINTWISE)
    for precision, step in (("tf32", 2.0**-10), ("bf16", 2.0**-7)):
        sums.x[:], sums.w[:] = 1 + np.array([0.4, 0.6, 1, 1]) * step, np.eye(4)
        np.testing.assert_array_equal(forward(sums, precision).reshape(4), 1 + np.array([0, 1, 1, 1]) * step)
        sums.x[:], sums.w[:] = 1, np.diag(1 + np.array([0.4, 0.6, 1, 1]) * step)
        np.testing.assert_array_equal(forward(sums, precision).reshape(4), 1 + np.array([0, 1, 1, 1]) * step)


def test_which_fit() -> None:
    def fits(window: Window, channels: int, outputs: int, *arrays: Any) -> bool:
        return tensor.fits(Problem(window, (1, 40, 40), channels, (1, 40, 40), outputs, 1), *arrays)

    assert fits(POINTWISE, 4, 8)
    assert not fits(POINTWISE, 3, 8)
    assert not fits(POINTWISE, 4, 6)
    assert not fits(Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), 2), 4, 8)
    assert fits(Window((1, 11, 11), (1, 4, 4), (1, 1, 1), (0, 2, 2)), 4, 8)
    assert not fits(Window((1, 31, 31), (1, 1, 1), (1, 1, 1), (0, 15, 15)), 4, 8)


@simulated
def test_arrays_that_begin_anywhere_do_not_fit() -> None:
    problem, array = Problem(POINTWISE, (1, 1, 1), 4, (1, 1, 1), 4, 2), empty((3, 2), np.float32)
    assert tensor.fits(problem, array)
    assert not tensor.fits(problem, array[1:])


def test_taps_of_the_same_channels_follow_each_other() -> None:
    """The first-level cache has what neighbouring taps read; the last tile is there to be read, and brings nothing along."""
    axes = gather.forward_axes(Window((1, 1, 2), (1, 1, 1), (1, 1, 1), (0, 0, 0)), (1, 1, 9), (1, 1, 8))
    shifts, needs, weights = gather.chunks(axes, 64, 64, (64 * 8, 8))
    channels, taps = shifts % 64, shifts // 64
    assert channels[:40:8].tolist() == [0, 0, 32, 32, 0]
    assert taps[:32:8].tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(weights[:32], (taps * 64 + channels)[:32] * 8)
    assert (weights[32:] == -1).all()
    assert (needs[32:] == gather.NEVER).all()
    assert len(needs) == 40


REGISTERS = {"tf32": {128: 255, 64: 168}, "bf16": {128: 255, 64: 128}}  # at most: then as many blocks are resident as kernels want


@compiled
@each_precision
@each_width
def test_registers(precision: str, columns: int) -> None:
    """Everything stays in registers, for two generations of GPUs."""
    products, floats, table = tensor.PRODUCTS[precision], types.CPointer(types.float32), types.CPointer(types.int32)
    passes = [products.convolution((False, True, True, None), columns, transposed, False) for transposed in (False, True)]
    wanted = [(used, (floats,) * 7 + (types.int32,) + (table,) * 2 + (types.int32,) * 9) for used in passes]
    wanted.append((products.weight_gradient(columns), (floats,) * 3 + (table,) * 2 + (types.int32,) * 11))
    for used, kinds in wanted:
        name, text = used.ptx(kinds, (9, 0))
        assert "__local_depot" not in text
        assert "mma.sync" in text
        for code in (used.machine_code(kinds, (8, 0)), driver.to_machine_code(name, text, (9, 0))):
            assert code.spilled == 0
            assert code.registers <= REGISTERS[precision][columns]
