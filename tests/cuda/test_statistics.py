"""Statistics that convolutions gather of what they write, for the batch norm behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import types

from numbacnn.kernels.bfloat16 import BF16
from numbacnn.kernels.conv import Window
from numbacnn.kernels.cuda import statistics
from numbacnn.kernels.cuda.conv import bf16, bf16_stored, launch, tensor, tf32
from numbacnn.kernels.cuda.conv.direct import convolution
from numbacnn.kernels.cuda.conv.launch import Problem
from numbacnn.kernels.cuda.conv.tiles import TILES, Cut, Tile
from numbacnn.kernels.cuda.ending import Ending
from numbacnn.kernels.cuda.memory import DeviceArray, empty, on_device
from numbacnn.kernels.cuda.parts import _add_parts_and_gather
from numbacnn.kernels.cuda.ptx import Bf16Pointer

from .test_layers import compiled, simulated
from .test_norm import many_parts  # noqa: F401

ON_TENSOR_CORES = ("tf32", "bf16", "stored")
"""``"stored"`` are bfloat16 in memory, which ``"bf16"`` are only as factors."""
each_tile = pytest.mark.parametrize("tile", TILES, ids=[f"{tile.rows}x{tile.columns}" for tile in TILES])
TINY = 1e-30  # an epsilon that changes nothing


def force(monkeypatch: pytest.MonkeyPatch, tile: Tile, parts: int = 1) -> None:
    """Let all products be cut into that tile, and sums into about so many parts."""

    def cut_so(rows: int, columns: int, depth: int, copies: int, wide: bool) -> Cut:
        length = max(1, -(-depth // (parts * tile.depth))) * tile.depth
        return Cut(tile, max(1, -(-depth // length)), length)

    monkeypatch.setattr(launch, "cut", cut_so)


def merged(parts: DeviceArray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance that follow from parts of statistics."""
    channels = parts.shape[-1]
    mean, rstd = empty((1, channels), np.float32), empty((1, channels), np.float32)
    statistics.merge_statistics(parts, pixels, channels, TINY, mean, rstd)
    return mean.download()[0], rstd.download()[0].astype(float) ** -2


def errors(parts: DeviceArray, y: np.ndarray) -> tuple[float, float]:
    """The largest error of the mean, in standard deviations, and the largest relative error of the variance."""
    exact = y.astype(float)
    mean, variance = merged(parts, len(y))
    deviation = exact.std(0)
    assert (deviation > 0).all()
    return float((np.abs(mean - exact.mean(0)) / deviation).max()), float(np.abs(variance / exact.var(0) - 1).max())


def pass_of(problem: Problem, transposed: bool, precision: str) -> Any:
    if precision == "float32":
        return (launch.DataGradient if transposed else launch.Forward)(problem)
    return (tensor.DataGradient if transposed else tensor.Forward)(problem, "tf32" if precision == "tf32" else "bf16")


def array_of(values: np.ndarray, kind: Any) -> DeviceArray:
    found = empty(values.shape, kind)
    found.upload(values)
    return found


def gathered(problem: Problem, transposed: bool, precision: str, mean: float = 0.0) -> tuple[DeviceArray, np.ndarray]:
    """Parts of the statistics of a pass's output and that output, ``(pixels, channels)``, whose channels have about that mean."""
    rng, window = np.random.default_rng(3), problem.window
    one = pass_of(problem, transposed, precision)
    kind = BF16 if precision == "stored" else np.float32
    inputs, outputs = (problem.size, problem.channels), (problem.places, problem.outputs)
    (size, channels), (places, filters) = (outputs, inputs) if transposed else (inputs, outputs)
    x = rng.standard_normal((problem.batch, *size, channels)).astype(np.float32)
    w = rng.standard_normal((*window.extent, problem.channels // window.groups, problem.outputs)).astype(np.float32)
    x_there, w_there, y = (array_of(values, kind) for values in (x, w, np.full((problem.batch, *places, filters), np.nan)))
    parts = on_device(np.full((4, 1, one.statistics_parts, filters), np.nan, np.float32))
    bias = on_device((mean * (1 + np.arange(filters) % 3)).astype(np.float32))
    scratch = empty((one.scratch_elements,), np.float32) if one.scratch_elements else None
    one.run(x_there, w_there, y, Ending(shift=bias, statistics=parts), scratch)
    alone = empty(y.shape, kind)
    one.run(x_there, w_there, alone, Ending(shift=bias), scratch)
    np.testing.assert_array_equal(y.download(), alone.download())  # as where it runs again, and gathers nothing
    return parts, y.download().reshape(-1, filters)


def check(problem: Problem, transposed: bool = False, precision: str = "float32") -> None:
    parts, y = gathered(problem, transposed, precision)
    counts = parts.download()[0, 0]
    assert (counts.sum(0) == len(y)).all()
    mean, variance = errors(parts, y)
    assert mean < 1e-6
    assert variance < 1e-5


def problem_of(size: Any, channels: int, outputs: int, batch: int, window: Window) -> Problem:
    numbers = zip(size, window.extent, window.stride, window.dilation, window.padding)
    return Problem(window, size, channels, tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in numbers), outputs, batch)  # type: ignore[arg-type]


POINT = Window((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0))


@simulated
@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
@each_tile
def test_every_tile_with_remainders(tile: Tile, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles of pixels and of channels, of which the second are not full."""
    if tile == TILES[0] and not wide:
        pytest.skip("the largest tile is for wide arrays")
    force(monkeypatch, tile)
    more = 4 if wide else 3
    check(problem_of((1, 1, tile.rows + 5), 4, tile.columns + more, 1, POINT))


GEOMETRIES = {
    "one pixel": problem_of((1, 1, 1), 5, 3, 7, POINT),
    "primes": problem_of((1, 7, 11), 3, 13, 1, Window((1, 3, 5), (1, 1, 1), (1, 1, 1), (0, 1, 2))),
    "groups": problem_of((1, 5, 5), 8, 12, 3, Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), 4)),
    "stride": problem_of((1, 9, 7), 4, 8, 2, Window((1, 3, 3), (1, 2, 2), (1, 1, 1), (0, 1, 1))),
    "stride without taps": problem_of((1, 9, 7), 4, 8, 2, Window((1, 1, 1), (1, 2, 2), (1, 1, 1), (0, 0, 0))),
    "uneven classes": problem_of((1, 5, 9), 3, 2, 3, Window((1, 3, 3), (1, 2, 4), (1, 1, 1), (0, 0, 1))),
    "volume": problem_of((3, 4, 5), 2, 5, 2, Window((2, 3, 1), (2, 1, 2), (1, 1, 1), (1, 0, 0))),
}


@simulated
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transposed"])
@pytest.mark.parametrize("problem", GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometry(problem: Problem, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In narrow tiles, of which there are several; classes of a transposed convolution have different numbers of them."""
    force(monkeypatch, TILES[5])
    if problem is not GEOMETRIES["stride without taps"] or not transposed:  # where no tap meets a pixel, all of them are the bias
        check(problem, transposed)


TENSOR = {
    "one tile": problem_of((1, 3, 5), 4, 4, 1, POINT),
    "remainders": problem_of((1, 11, 13), 4, 132, 1, POINT),
    "groups": problem_of((1, 5, 6), 8, 16, 2, Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), 2)),
    "stride": problem_of((1, 9, 8), 8, 4, 2, Window((1, 3, 3), (1, 2, 2), (1, 1, 1), (0, 1, 1))),
    "eights": problem_of((1, 3, 43), 8, 136, 1, Window((1, 1, 3), (1, 1, 1), (1, 1, 1), (0, 0, 1))),
}


@simulated
@pytest.mark.parametrize("columns", [pytest.param(128, marks=pytest.mark.nightly), 64])
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transposed"])
@pytest.mark.parametrize("precision", ["tf32", pytest.param("bf16", marks=pytest.mark.nightly), "stored"])
@pytest.mark.parametrize("problem", TENSOR.values(), ids=TENSOR)
def test_tensor_cores(problem: Problem, precision: str, transposed: bool, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics are of what is stored: if that is rounded, of the rounded numbers."""
    monkeypatch.setattr(tensor, "_columns", lambda *_: columns)
    check(problem, transposed, precision)


@simulated
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_a_large_mean_costs_no_digits(scale: float, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are as small as those of the pass that reads the output."""
    force(monkeypatch, TILES[4])
    parts, y = gathered(problem_of((1, 17, 31), 4, 8, 1, POINT), False, precision, mean=2 * scale)
    assert (np.abs(y.mean(0)) > scale * y.std(0) / 2).all()
    apart = empty(statistics.statistics_shape(1, *y.shape), np.float32)
    statistics.partial_statistics(on_device(y[None]), apart)
    for found, limit in zip(errors(parts, y), errors(apart, y)):
        assert found <= max(1.5 * limit, 1e-6)


@simulated
def test_one_number_may_be_far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that alone makes the variance."""
    force(monkeypatch, TILES[3])
    problem = problem_of((1, 1, 128), 1, 1, 1, POINT)
    x = np.random.default_rng(4).standard_normal((1, 1, 1, 128, 1)).astype(np.float32)
    x[0, 0, 0, 0] = 1e6
    y, parts = empty(x.shape, np.float32), empty((4, 1, 1, 1), np.float32)
    launch.Forward(problem).run(on_device(x), on_device(np.ones((1, 1, 1, 1, 1), np.float32)), y, Ending(statistics=parts), None)
    mean, variance = errors(parts, y.download().reshape(-1, 1))
    assert mean < 1e-6
    assert variance < 1e-6


@simulated
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transposed"])
@pytest.mark.parametrize("parts", [2, 7])
def test_sums_in_parts(parts: int, transposed: bool, many_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What adds them up gathers: several chunks of pixels and slices of channels, the last ones not full."""
    force(monkeypatch, TILES[1], parts)
    channels, outputs = (70, 20) if transposed else (20, 70)
    problem = problem_of((1, 7, 11), channels, outputs, 1, Window((1, 1, 2), (1, 1, 1), (1, 1, 1), (0, 0, 1)))
    one = pass_of(problem, transposed, "float32")
    assert one.scratch_elements > 0
    found, y = gathered(problem, transposed, "float32")
    assert found.shape[2] == one.statistics_parts > 1
    for error in errors(found, y):
        assert error < 1e-6


@simulated
def test_many_parts_are_merged() -> None:
    """So many that blocks merge fewer channels each, some of them empty."""
    rng, parts = np.random.default_rng(5), 1500
    y = (30 + rng.standard_normal((parts, 3, 5))).astype(np.float32)
    counts = rng.integers(0, 4, parts)
    counts[0] = 2
    planes = np.zeros((4, 1, parts, 5), np.float32)
    for part, count in enumerate(counts):
        rows = y[part, :count]
        planes[0, 0, part] = count
        if count:
            planes[1:, 0, part] = rows[0], (rows - rows[0]).sum(0), ((rows - rows[0]) ** 2).sum(0)
    all_rows = np.concatenate([y[part, :count] for part, count in enumerate(counts)])
    assert statistics.merge_cut(5, 5, parts)[0] > 1
    mean, variance = errors(on_device(planes), all_rows)
    assert mean < 1e-5
    assert variance < 1e-5


FLOATS, TABLE = types.CPointer(types.float32), types.CPointer(types.int32)
REGISTERS = 65536  # of a multiprocessor
BIAS = (False, True, False, None)


@compiled
@pytest.mark.parametrize("wide", [pytest.param(True, id="wide"), pytest.param(False, id="narrow", marks=pytest.mark.nightly)])
@each_tile
def test_tiles_fit_registers(tile: Tile, wide: bool, capabilities: tuple) -> None:
    if tile == TILES[0] and not wide:
        pytest.skip("the largest tile is for wide arrays")
    kinds = (FLOATS,) * 7 + (types.int32, TABLE) + (types.int32,) * 21
    for transposed in (False, True):
        kernel = convolution(tile, wide, wide, wide, transposed, BIAS, True)
        for capability in capabilities:
            code = kernel.machine_code(kinds, capability)
            assert code.spilled == code.stack == 0
            assert code.registers * kernel.threads * kernel.blocks <= REGISTERS


@compiled
def test_adding_up_parts_fits_registers(capabilities: tuple) -> None:
    kinds = (FLOATS, types.int32, types.int32, *(FLOATS,) * 5, *(types.int32,) * 8)
    for capability in capabilities:
        code = _add_parts_and_gather(BIAS).machine_code(kinds, capability)
        assert code.spilled == code.stack == 0


@compiled
@pytest.mark.parametrize("columns", [128, 64])
@pytest.mark.parametrize("products", [tf32, bf16, bf16_stored], ids=ON_TENSOR_CORES)
def test_tensor_cores_fit_registers(products: Any, columns: int, capabilities: tuple) -> None:
    kind = Bf16Pointer() if products is bf16_stored else FLOATS
    kinds = (kind,) * 3 + (FLOATS,) * 2 + (kind, FLOATS, types.int32) + (TABLE,) * 2 + (types.int32,) * 9
    for transposed in (False, True):
        kernel = products.convolution(BIAS, columns, transposed, True)
        for capability in capabilities:
            code = kernel.machine_code(kinds, capability)
            assert code.spilled == code.stack == 0
            assert code.registers * kernel.threads * kernel.blocks <= REGISTERS
