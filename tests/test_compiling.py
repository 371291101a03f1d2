"""Kernels compiled by other processes: the same code, found by the one that asked for it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError
from numbacnn.kernels import compiling, jit

pytestmark = pytest.mark.skipif(jit.JIT_DISABLED, reason="nothing is compiled")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


OFFSET = 100.0


@jit.inline
def shifted(value):
    return value + OFFSET


def adding(number):
    @jit.kernel
    def add(x):
        for k in range(x.size):
            x[k] = shifted(x[k]) + number

    return add


def wanted(kernel):
    with jit.postponed() as noted:
        kernel(np.zeros(1))
    return next(iter(noted))


@pytest.fixture
def helper():
    with compiling._helpers(1) as helpers:
        yield helpers[0]


def test_another_process_compiles_what_is_found_here(helper, empty_cache):
    kernel = adding(3.0)
    assert helper.build(compiling._sent(wanted(kernel))).name.endswith("add")
    assert [path.name for path in empty_cache.iterdir()] == [wanted(kernel).key]
    x = np.zeros(2)
    with jit.builds() as builds:
        kernel(x)
    assert [build.found for build in builds] == [True]
    np.testing.assert_array_equal(x, 103.0)


def test_code_that_changes_on_the_way_is_not_kept(helper, empty_cache):
    kernel = wanted(adding(4.0))
    other = compiling.serialize.dumps((kernel, "another name"))
    assert helper.build(other) is None
    assert not empty_cache.exists()
    assert helper.build(compiling._sent(kernel)) is not None, "it goes on"


@dataclasses.dataclass(frozen=True)
class Stubborn:
    """A kernel that only this process can compile."""

    inner: Any

    key = "stubborn"

    def __reduce__(self) -> tuple:
        raise TypeError("stays here")

    def build(self):
        return self.inner.build()


def test_all_are_compiled_wherever(empty_cache):
    kernels = [wanted(adding(float(k))) for k in range(5)]
    done: list[jit.Build] = []
    compiling.build_all([*kernels[:4], Stubborn(kernels[4])], 3, done.append)
    assert len(done) == 5
    assert {path.name for path in empty_cache.iterdir()} == {kernel.key for kernel in kernels}


def test_the_work_of_a_process_that_ends_is_done_here(empty_cache, monkeypatch):
    def lost(self, content):
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait()
        return real(self, content)

    real = compiling._Helper.build
    monkeypatch.setattr(compiling._Helper, "build", lost)
    kernels = [wanted(adding(float(k))) for k in range(6)]
    done: list[jit.Build] = []
    compiling.build_all(kernels, 2, done.append)
    assert len(done) == len(list(empty_cache.iterdir())) == 6


@pytest.mark.parametrize("way", ["frozen", "embedded"])
def test_no_process_where_python_is_part_of_another_program(way, monkeypatch):
    if way == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    with compiling._helpers(2) as helpers:
        assert helpers == []


def test_how_many_processes(monkeypatch):
    monkeypatch.setenv(compiling.VARIABLE, "3")
    assert compiling.process_limit() == 3
    monkeypatch.delenv(compiling.VARIABLE)
    monkeypatch.setattr(compiling, "core_count", lambda: 64)
    assert compiling.process_limit() == compiling.MOST
    assert [compiling.worthwhile(kernels) for kernels in (1, 3, 5, 6)] == [1, 2, 2, 3]


def test_a_wrong_number_of_processes(monkeypatch):
    monkeypatch.setenv(compiling.VARIABLE, "many")
    x = nc.Input((5,))
    with pytest.raises(ConfigError, match=r"^NUMBACNN_COMPILE_PROCESSES is 'many'; it is a whole number from 1 on"):
        nc.Model(x, nc.Dense(3)(x)).predict(np.zeros((1, 5), np.float32))


# Models --------------------------------------------------------------------------------------------------------------

USE = """
import sys
import numpy as np, numbacnn as nc
from numbacnn.kernels import compiling, jit

started = []
real = compiling._Helper.build
compiling._Helper.build = lambda self, content: started.append(real(self, content)) or started[-1]
x = nc.Input((9, 9, 2))
y = nc.GlobalAveragePool2D()(nc.Activation("silu")(nc.MaxPool2D(2)(nc.BatchNorm()(x))))
model = nc.Model(x, y)
images = np.random.default_rng(0).standard_normal((4, 9, 9, 2)).astype(np.float32)
with jit.builds() as builds:
    trainer = nc.Trainer(model, optimizer="sgd", loss="softmax_cross_entropy")
    trainer.step(images, np.arange(4) % 2)
    result = model.predict(images)
here = [build for build in builds if not build.found and build not in started]
print(len(started), len(here), sum(build.found for build in builds), repr(float(result.sum())))
"""


def use(processes: int) -> list[str]:
    environment = {**os.environ, compiling.VARIABLE: str(processes)}
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_model_has_its_kernels_compiled_side_by_side(empty_cache):
    elsewhere, here, _, result = use(2)
    assert min(int(elsewhere), int(here)) > 2
    assert use(2) == ["0", "0", str(int(elsewhere) + int(here)), result], "the next process finds all, and only those"
