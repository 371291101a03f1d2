"""Profiles of training steps on the GPU (compare ``tests/test_profile.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import DivergenceError
from numbacnn.inspect.profile import Profile
from numbacnn.kernels.cuda import no_gpu, runtime

from ..test_cli import run
from .test_layers import simulated
from .test_staging import assert_same
from .test_trainer import batch, network, trainer_of

pytestmark = simulated


@pytest.fixture(scope="module")
def profile() -> Profile:
    return trainer_of("cuda", optimizer=nc.Adam(0.05, clip_norm=1.0)).profile(*batch(), steps=2)


@pytest.mark.parametrize("copies", ["late", "early"])
def test_profiling_changes_nothing(copies: str) -> None:
    with runtime.pretended(no_gpu.Simulator(copies)):
        trainers = [trainer_of("cuda", optimizer=nc.Adam(0.05)) for _ in range(2)]
        for number in range(3):
            if number:
                trainers[0].profile(*batch(4, 7), steps=1)
            losses = [trainer.step(*batch(seed=number)) for trainer in trainers]
            assert losses[0] == losses[1]
        assert_same(*trainers)


def test_divergence_while_profiling_changes_nothing() -> None:
    trainers = [trainer_of("cuda") for _ in range(2)]
    images, labels = batch()
    images[0] = np.nan
    with pytest.raises(DivergenceError):
        trainers[0].profile(images, labels, steps=1)
    for trainer in trainers:
        trainer.step(*batch())
    assert_same(*trainers)


def test_rows_cover_the_step(profile: Profile) -> None:
    phases = [row.phase for row in profile.rows]
    assert phases == sorted(phases, key=["input", "forward", "loss", "backward", "update"].index)
    on_cpu = nc.Trainer(network(), optimizer="adam").profile(*batch(), steps=1)
    layers = lambda found, phase: [row.layer for row in found.rows if row.phase == phase]  # noqa: E731
    assert layers(profile, "forward") == layers(on_cpu, "forward")
    flops = lambda found: [row.flops for row in found.rows]  # noqa: E731
    assert flops(profile) == flops(on_cpu)
    assert len(profile.steps) == 2
    for calls in profile.steps:
        ends = [0.0, *(call.start + call.seconds for call in calls)]
        np.testing.assert_allclose([call.start for call in calls], ends[:-1], atol=1e-9)
        assert [call.row for call in calls] == sorted(call.row for call in calls)
    rows = {row.phase: row for row in profile.rows}
    assert rows["input"].nbytes == 2 * 4 * 5 * 12
    assert rows["update"].calls == 3
    assert rows["update"].nbytes >= 4 * 4 * sum(array.size for name, array in network().parameters.items() if "running" not in name)
    assert {call.kernel for call in profile.steps[0]} >= {"copy", "step"}


def test_table_and_trace(profile: Profile, tmp_path: Path) -> None:
    assert "a training step of 5 samples, the simulator" in str(profile)
    assert profile.to_dict()["device"] == "the simulator"
    profile.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len([event for event in events if event.get("cat") == "kernel"]) == sum(map(len, profile.steps))


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = nc.Input((4, 4, 4))
    nc.Model(x, nc.Dense(4)(nc.Flatten()(x))).save(tmp_path / "model.safetensors")
    given: list[Any] = ["profile", tmp_path / "model.safetensors", "--batch", 2, "--steps", 1, "--json", "--device", "cuda"]
    found = [json.loads(run(*given, *more).stdout) for more in ([], ["--precision", "tf32"])]
    assert [one["device"] for one in found] == ["the simulator"] * 2
