"""Recorded launches that are run by one compiled call: the same numbers, threads and errors as launch by launch."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

import numbacnn as nc
from numbacnn.kernels import jit, program
from numbacnn.kernels.jit import kernel
from numbacnn.kernels.program import Program
from numbacnn.simd import stride, take

compiled_only = pytest.mark.skipif(jit.JIT_DISABLED, reason="kernels are not compiled")


@kernel
def scaled(x, factor, shift, negative, y):
    """Arguments of every kind."""
    for k in range(x.shape[0]):
        value = x[k, 0] * factor + shift
        y[k] = -value if negative else value


@kernel(parallel=True, views=("x",), serial=0)
def doubled(x, y, seen, queue, threads):
    """``y = 2 x``, and how many threads there were."""
    seen[0] = threads
    while True:
        row = take(queue, 1)
        if row >= x.shape[0]:
            break
        for column in range(x.shape[1]):
            y[row, column] = 2 * x[row, column] + 0 * stride(x, 0)


@kernel
def first(x, y):
    y[0] = x[x.shape[0] - 1 + y.shape[0]]  # outside of x


@kernel
def picked(x, places, y):
    for k in range(places.shape[0]):
        y[k] = x[places[k]]


def recorded(threads=None):
    x, halves = np.arange(24.0).reshape(6, 4), np.arange(48, dtype=np.float32).reshape(6, 8)[:, ::2]
    y, z, seen = np.zeros(6), np.zeros((6, 4), np.float32), np.zeros(1, np.int64)
    with jit.record(threads=threads) as steps:
        scaled(x, 0.5, -3, True, y)
        doubled(halves, z, seen)
        scaled(x[:3, 1:], 2.0, 1 << 40, False, y[:3])
    return steps, x, halves, y, z, seen


def test_the_same_numbers_as_launch_by_launch():
    steps, x, halves, y, z, _ = recorded()
    jit.run(steps)
    expected = y.copy(), z.copy()
    y[...], z[...] = 7, 7
    for _ in range(2):
        program.run(Program(steps))
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_array_equal(z, expected[1])
    np.testing.assert_array_equal(z, 2 * halves)
    np.testing.assert_array_equal(y[3:], 3 - x[3:, 0] * 0.5)


@compiled_only
def test_launches_become_one_call_between_others():
    steps = recorded()[0]
    found = []
    made = Program([*steps, (found.append, (1,)), steps[0]])
    assert list(made) == [*steps, (found.append, (1,)), steps[0]]
    assert [type(part).__name__ for part in made._parts] == ["_Launches", "list", "_Launches"]
    made.run()
    assert found == [1]


@compiled_only
@pytest.mark.skipif(jit.num_threads() == 1, reason="there is one thread anyway")
def test_threads_are_those_of_each_launch():
    steps, *_, seen = recorded(threads=1)
    Program(steps).run()
    assert seen == [1]
    steps, *_, seen = recorded()
    Program(steps).run()
    assert seen == [jit.num_threads()]


@compiled_only
def test_what_a_kernel_finds_wrong_is_raised():
    if not numba.config.BOUNDSCHECK:
        code = "from tests.test_program import *; test_what_a_kernel_finds_wrong_is_raised()"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_BOUNDSCHECK": "1"}, check=True)
        return
    x, y = np.zeros(3), np.zeros(2)
    with jit.record() as steps:
        scaled(x[:, None], 1.0, 0, False, np.zeros(3))
        first(x, y)
    with pytest.raises(IndexError):
        Program(steps).run()
    places = np.zeros(2, np.int64)
    with jit.record() as steps:
        picked(x, places, y)
    made = Program(steps)
    made.run()
    assert made.stand_in(places).be(np.array([0, 9]))  # it is done again from Python, with these places, too
    with pytest.raises(IndexError):
        made.run()


@compiled_only
def test_another_array_stands_in_for_one():
    steps, x, _, y, z, _ = recorded()
    made = Program(steps)
    made.run()
    expected = y.copy(), z.copy()
    stand_in, other = made.stand_in(x), x + 1
    for _ in range(2):
        assert stand_in.be(other)
        made.run()
        np.testing.assert_array_equal(y[:3], expected[0][:3] + 2)
        np.testing.assert_array_equal(y[3:], expected[0][3:] - 0.5)
        np.testing.assert_array_equal(z, expected[1])
        stand_in.end()
        made.run()
        np.testing.assert_array_equal(y, expected[0])
    for unlike in (x.astype(np.float32), x[::-1], x.T, x.astype(x.dtype.newbyteorder())):
        assert not stand_in.be(unlike)
    assert Program([*steps, (print, ())]).stand_in(x) is None


@compiled_only
def test_machine_code_from_the_disk_cache_has_its_entry(tmp_path):
    code = "from tests.test_program import *; test_the_same_numbers_as_launch_by_launch(); test_launches_become_one_call_between_others()"
    environment = {**os.environ, "NUMBACNN_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert len(list(tmp_path.rglob("*.nbc"))) >= 3


def test_a_model_runs_by_programs():
    x = nc.Input((8, 8, 3))
    h = nc.Conv2D(4, 3, activation="relu")(x)
    model = nc.Model(x, nc.Dense(2)(nc.Flatten()(nc.MaxPool2D(2)(h))), seed=1)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    outputs = model.predict(images)
    plan = model.training_plan(2)
    plan.inputs[0][...] = images
    plan.forward()
    assert isinstance(plan._forward_steps, Program)
    np.testing.assert_allclose(plan.outputs[0], outputs, rtol=1e-5, atol=1e-6)
