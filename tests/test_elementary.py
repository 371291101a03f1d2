"""Elementary functions of Tiles: at most 4 ulp from float64 over all of float32, whatever the CPU."""

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding
from numba.core.errors import TypingError

from numbacnn import elementary
from numbacnn.kernels import activations
from numbacnn.kernels.jit import JIT_DISABLED, inline, kernel
from numbacnn.kernels.scalar import compiled
from numbacnn.simd import (
    LANES,
    apply,
    bits,
    columns,
    convert,
    floor,
    fma,
    from_bits,
    load,
    power,
    row_sum,
    square_root,
    store,
    where,
)

INF, NAN = math.inf, math.nan


SIGMOID = compiled(activations.sigmoid)
REFERENCE = {
    math.exp: lambda x: np.exp(x), math.expm1: lambda x: np.expm1(x), math.log: lambda x: np.log(x), math.log1p: lambda x: np.log1p(x),
    math.tanh: lambda x: np.tanh(x), math.sqrt: lambda x: np.sqrt(x), math.erf: np.vectorize(math.erf, otypes=[float]),
    SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
}  # fmt: skip
FUNCTIONS, NAMES = list(REFERENCE), ["exp", "expm1", "log", "log1p", "tanh", "sqrt", "erf", "sigmoid"]


def mapped(function):
    """A kernel that applies a function to the vectors of an array whose size is a multiple of the lanes."""

    @kernel
    def map_tiles(x, y):
        for at in range(0, x.size, LANES):
            store(function(load(x, at, 0, 1, 1)), y, at, 0)

    return map_tiles


def of(function, x):
    size = -(-x.size // LANES) * LANES
    padded, y = np.ones(size, x.dtype), np.empty(size, x.dtype)
    padded[: x.size] = x
    mapped(function)(padded, y)
    return y[: x.size]


def ulps(given, expected):
    """Distance in units of the last place of float32; where the right result is denormal, in units of the smallest normal number."""
    spacing = np.spacing(np.maximum(abs(expected), np.finfo(np.float32).tiny).astype(np.float32)).astype(np.float64)
    distance = abs(given.astype(np.float64) - expected) / spacing
    denormal = abs(expected) < np.finfo(np.float32).tiny
    return np.where(denormal, abs(given - expected) / np.finfo(np.float32).tiny, distance)


def arguments():
    """Every 20,011th float32, and many where functions are interesting."""
    every = np.arange(0, 2**32, 20011, dtype=np.uint64).astype(np.uint32).view(np.float32)
    generator = np.random.default_rng(0)
    ranges = [(-1, 1), (-4, 4), (-100, 100), (0.5, 2), (-0.01, 0.01), (0.9, 1.1), (88, 89), (-88, -87)]
    return np.concatenate([every, *(generator.uniform(a, b, 20000).astype(np.float32) for a, b in ranges)])


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_float32_within_four_ulps(function):
    x = arguments()
    y = of(function, x)
    with np.errstate(all="ignore"):
        expected = REFERENCE[function](x.astype(np.float64))
        rounded = expected.astype(np.float32)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(rounded))
        np.testing.assert_array_equal(y[np.isinf(rounded)], rounded[np.isinf(rounded)])
        assert ulps(y[finite], expected[finite]).max() <= 4


SPECIAL = {
    math.exp: [(0, 1), (-INF, 0), (INF, INF), (NAN, NAN), (88.722839, INF), (-200, 0), (1e-45, 1)],
    math.expm1: [(0, 0), (-INF, -1), (INF, INF), (NAN, NAN), (1e-45, 1e-45), (-1e-30, -1e-30), (89, INF), (-100, -1)],
    math.log: [(1, 0), (0, -INF), (-1, NAN), (-INF, NAN), (INF, INF), (NAN, NAN), (1e-45, math.log(2**-149)), (-1e-45, NAN)],
    math.log1p: [(0, 0), (-1, -INF), (-2, NAN), (INF, INF), (NAN, NAN), (1e-45, 1e-45), (-1e-30, -1e-30)],
    math.tanh: [(0, 0), (-INF, -1), (INF, 1), (NAN, NAN), (1e-45, 1e-45), (-1e-30, -1e-30)],
    math.erf: [(0, 0), (-INF, -1), (INF, 1), (NAN, NAN), (1e-30, 1.1283791670955126e-30)],
    math.sqrt: [(0, 0), (-1, NAN), (INF, INF), (NAN, NAN), (4, 2)],
    SIGMOID: [(0, 0.5), (-INF, 0), (INF, 1), (NAN, NAN), (-1e30, 0), (1e30, 1)],
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_special_values(function):
    x, expected = np.array(SPECIAL[function]).T
    np.testing.assert_allclose(of(function, x.astype(np.float32)), expected.astype(np.float32), rtol=3e-7)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(of(function, x), REFERENCE[function](x), rtol=1e-15)


def test_other_functions():
    x = np.random.default_rng(0).uniform(0.1, 0.9, 64).astype(np.float32)
    for function in (math.sin, math.atanh, math.floor, math.fabs):
        np.testing.assert_allclose(of(function, x - 0.5), [function(v) for v in x - np.float32(0.5)], rtol=2e-7)


def test_powers():
    x = np.random.default_rng(0).uniform(0.1, 3, 32).astype(np.float32)

    @kernel
    def powers(x, y):
        for at in range(0, x.size, LANES):
            tile = load(x, at, 0, 1, 1)
            store(tile**2, y, at, 0)
            store(tile**3 + tile**4, y, x.size + at, 0)
            store(tile**-1.5, y, 2 * x.size + at, 0)
            store(2**tile, y, 3 * x.size + at, 0)
            store(power(tile, 0.5), y, 4 * x.size + at, 0)

    y = np.empty((5, 32), np.float32)
    powers(x, y)
    w = x.astype(np.float64)
    np.testing.assert_allclose(y, [w**2, w**3 + w**4, w**-1.5, 2**w, w**0.5], rtol=5e-7)


def test_bits():
    """Bits there and back, integer arithmetic that wraps, conversions, column numbers, masks of numbers."""

    @kernel
    def integers(x, y):
        tile = load(x, 0, 0, 1, 2)
        store(from_bits(bits(tile)), y, 0, 0)
        store(convert((columns(1, 2) * 0x9E3779B1) >> 8, x), y, x.size, 0)
        store(convert((bits(tile) >> 23) & 255, x), y, 2 * x.size, 0)
        store(where(columns(1, 2) < 3, tile, -1.0), y, 3 * x.size, 0)
        store(where((tile > 0.0) ^ (tile > 5.0), 1.0, 2.0), y, 4 * x.size, 0)

    x = (np.arange(2 * LANES) - 1.5).astype(np.float32)
    y = np.empty((5, x.size), np.float32)
    integers(x, y)
    k = np.arange(x.size, dtype=np.uint32)
    assert np.array_equal(y[0], x)
    assert np.array_equal(y[1], ((k * np.uint32(0x9E3779B1)) >> np.uint32(8)).astype(np.float32))
    assert np.array_equal(y[2], (x.view(np.uint32) >> 23 & 255).astype(np.float32))
    assert np.array_equal(y[3], np.where(k < 3, x, -1))
    assert np.array_equal(y[4], np.where((x > 0) & (x <= 5), 1, 2))


def test_integers():
    """Unsigned ones are compared as such."""

    @kernel
    def compare(x, y):
        tile = load(x, 0, 0, 1, 1)
        store(where(tile > 1, 1, 0) + where(tile < 3, 10, 0) + where(max(tile, 1) == tile, 100, 0), y, 0, 0)

    for dtype, expected in ((np.uint32, [10, 110, 111, 101, 101]), (np.int32, [10, 110, 111, 10, 10])):
        x, y = np.zeros(LANES, dtype), np.zeros(LANES, dtype)
        x[:5] = np.array([0, 1, 2, 2**31, 2**32 - 1], np.uint32).view(dtype)
        compare(x, y)
        assert y[: min(LANES, 5)].tolist() == expected[: min(LANES, 5)]


@pytest.mark.parametrize("name", ["quotient", "absolute", "floor", "square_root", "power"] + ["fma", "row_sum"] * (not JIT_DISABLED))
def test_division_and_functions_are_for_floats(name):
    function = inline({
        "quotient": lambda x: x / x, "absolute": lambda x: abs(x), "floor": lambda x: floor(x), "square_root": lambda x: square_root(x),
        "fma": lambda x: fma(x, x, x), "row_sum": lambda x: row_sum(x), "power": lambda x: power(x, x),
    }[name])  # fmt: skip

    @kernel
    def apply_function(x):
        store(function(load(x, 0, 0, 1, 1)), x, 0, 0)

    with pytest.raises(TypeError if JIT_DISABLED else TypingError):
        apply_function(np.ones(LANES, np.int32))


def test_apply_takes_tiles_apart_only_where_needed():
    from numbacnn.kernels.jit import inline

    @inline
    def stairs(x):
        if x > 1:
            return 2.0
        return x

    @kernel
    def both(x, y):
        store(apply(stairs, load(x, 0, 0, 2, 1)), y, 0, 0)
        store(apply(math.exp, load(x, 0, 0, 2, 1)), y, x.size, 0)

    x = np.linspace(0, 2, LANES).astype(np.float32)
    y = np.empty((2, LANES), np.float32)
    both(x, y)
    assert np.array_equal(y[0], np.where(x > 1, 2, x))
    np.testing.assert_allclose(y[1], np.exp(x), rtol=2e-7)


@pytest.mark.parametrize("cpu", ["x86-64", "haswell", "skylake-avx512"])
def test_other_cpus(cpu):
    """The same accuracy with 4, 8 and 16 lanes, with and without fused multiply-add."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("not an x86 machine")
    features = binding.get_host_cpu_features()
    if not all(features.get(name) for name in {"haswell": ("avx2", "fma"), "skylake-avx512": ("avx512f",)}.get(cpu, ())):
        pytest.skip(f"this machine is older than {cpu}")
    functions = "for f in (math.log1p, math.tanh, math.erf): t.test_float32_within_four_ulps(f)"
    script = f"import math; from tests import test_elementary as t\n{functions}\nprint(t.LANES)"
    environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == {"x86-64": 4, "haswell": 8, "skylake-avx512": 16}[cpu]


def test_numbers_are_untouched():
    @kernel
    def of_number(y):
        y[0] = math.exp(1.0) + math.log(2.0) + 2**0.5

    y = np.empty(1)
    of_number(y)
    assert y[0] == pytest.approx(math.e + math.log(2) + math.sqrt(2), rel=1e-15)
    assert elementary.math is math
