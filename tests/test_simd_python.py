"""The same tests pass with ``NUMBA_DISABLE_JIT=1``, where kernels are plain Python over NumPy."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numbacnn import simd, simd_python
from numbacnn.kernels.jit import kernel
from numbacnn.simd import LANES
from numbacnn.simd_python import PyTile, add_rows, columns, floor, load, load_part, outer, plain, row_sum, store_part, stride, where, zeros

ROOT = Path(__file__).parents[1]


def product_by(module):
    """Seven rows of ``x``, ``step`` apart, times ``w``."""
    zeros, rows_of, outer_of, moved, store = (getattr(module, name) for name in ("zeros", "rows_of", "outer_of", "moved", "store"))

    def product(x, w, y, at, step, depth):
        rows, total = rows_of(x, at, step, 7, depth), zeros(y, 7, 2)
        for k in range(0, depth, 2):
            total = outer_of(total, rows, 0, w, 2 * LANES * k)
            if k + 1 < depth:
                total = outer_of(total, rows, 1, w, 2 * LANES * (k + 1))
            rows = moved(rows, 2)
        store(total, y, 0, 2 * LANES)

    return product


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", [0, 1, 5, 40])
def test_rows_times_a_panel(step, dtype):
    """Compiled and in plain Python."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(300).astype(dtype), rng.standard_normal((5, 2 * LANES)).astype(dtype)
    wanted = np.stack([x[3 + i * step : 8 + i * step] for i in range(7)]) @ w
    for function in (kernel(product_by(simd)), product_by(simd_python)):
        y = np.full((7, 2 * LANES), np.nan, dtype)
        function(x, w, y, 3, step, 5)
        np.testing.assert_allclose(y, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tests/test_dual.py", "tests/test_elementary.py", "-k", "not cpus and not four_ulps"],
        ["tests/test_activation.py", "-k", "own or softmax or prelu or parameters"],
        ["tests/test_dropout.py", "-k", "stream or inference or infinities"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_compilation(arguments):
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "not oracle", "-p", "no:cacheprovider", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout


def test_addresses():
    """Offsets and strides count elements of the array's memory, views included; columns after the last valid one stay untouched."""
    memory = np.arange(4 * LANES * 3, dtype=np.float32).reshape(3, -1)
    view = memory[:, 1::2]
    assert stride(view, 0) == 4 * LANES
    assert stride(view, 1) == 2
    np.testing.assert_array_equal(load(view, 1, stride(view, 0), 3, 1).values, memory[:, 2 : 2 + LANES])
    part = load_part(view, 0, 0, 2, 2, 1)
    assert part.values[:, :3].tolist() == [[1, 2, 0]] * 2
    store_part(part + 1, memory, 0, 4 * LANES, 1)
    assert memory[:, 0].tolist() == [2, 2, 8 * LANES]
    assert memory[0, 1] == 1
    for offset in (-1, memory.size - 1):
        with pytest.raises(IndexError):
            load(memory, offset, 0, 1, 1)


def test_outer_and_row_sum():
    a, b = np.arange(3, dtype=np.float32), np.arange(LANES, dtype=np.float32)
    product = outer(zeros(a, 3, 1), a, 0, 1, b, 0)
    np.testing.assert_array_equal(product.values, a[:, None] * b)
    np.testing.assert_array_equal(row_sum(product).values, 3 * b[None])


def test_rows_are_added_up():
    a, b = np.arange(3, dtype=np.float32), np.arange(2 * LANES, dtype=np.float32)
    total = add_rows(load(b, 0, 0, 1, 1), a, 1, load(b, 0, LANES, 2, 1))
    np.testing.assert_array_equal(total.values, [b[:LANES] + b[:LANES] + 2 * b[LANES:]])


def test_a_tile_is_no_truth_value():
    tile = PyTile(np.zeros((1, LANES)))
    with pytest.raises(TypeError, match="where"):
        bool(tile > 0)
    assert where(tile > 0, 1.0, 2.0).values.tolist() == [[2] * LANES]


def test_two_numbers_become_the_type_that_was_compared():
    tile = PyTile(np.zeros((1, LANES), np.float32))
    assert where((tile > 0) & (tile < 1), 1.0, 2.0).values.dtype == np.float32


def test_division_and_functions_are_for_floats():
    tile = columns(1, 1)
    for function in (lambda x: x / 2, lambda x: 2 / x, lambda x: x**2, abs, floor):
        with pytest.raises(TypeError):
            function(tile)


def test_names_without_a_value_yet():
    def call():
        return later_here

    twin = plain(call)
    with pytest.raises(NameError, match="later_here"):
        twin()
    later_here = 3
    assert plain(call)() == 3


def test_plain_functions_see_their_module():
    """math, max and min take Tiles; names that are defined later are found; division by zero gives infinity."""
    twin = plain(later)
    assert twin(PyTile(np.array([[4.0, 1.0]]))).values.tolist() == [[2, 3]]
    assert plain(lambda x: np.float64(1.0) / x)(0.0) == np.inf


def later(x):
    return max(math.sqrt(x), SOME)


SOME = PyTile(np.array([[0.0, 3.0]]))
