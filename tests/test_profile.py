"""Profiles of training steps: they change nothing, cover the step, and count what their documentation says."""

from __future__ import annotations

import json

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError
from numbacnn.inspect.profile import Profile

BATCH = 6


def network():
    x = nc.Input((8, 8, 2))
    h = nc.Conv2D(8, 3, padding="same", bias=False)(x, name="conv")
    h = nc.Activation("relu")(nc.BatchNorm()(h, name="norm"), name="relu")
    h = nc.Add()(nc.Conv2D(8, 3, padding="same", bias=False)(h, name="branch"), h, name="add")
    h = nc.Dropout(0.5)(nc.Flatten()(h, name="flat"), name="drop")
    return nc.Model(x, nc.Dense(4)(h, name="dense"), seed=0)


def batch(seed=0):
    random = np.random.default_rng(seed)
    return random.random((BATCH, 8, 8, 2), np.float32), random.integers(0, 4, BATCH)


@pytest.fixture(scope="module")
def profile():
    return nc.Trainer(network(), optimizer="adam").profile(*batch(), steps=3)


def test_profiling_changes_nothing():
    trainers = [nc.Trainer(network(), optimizer=nc.Adam(0.01)) for _ in range(2)]
    for number in range(4):
        if number == 2:
            trainers[0].profile(*batch(7), steps=2)
        losses = [trainer.step(*batch(number)) for trainer in trainers]
        assert losses[0] == losses[1]
    assert trainers[0].steps == 4
    stores = [trainer.model.store for trainer in trainers]
    for name in stores[0].specs:
        np.testing.assert_array_equal(stores[0].view(name), stores[1].view(name))
    np.testing.assert_array_equal(trainers[0].updater.state, trainers[1].updater.state)


def test_rows_cover_the_step(profile):
    rows = {(row.layer, row.phase): row for row in profile.rows}
    phases = [row.phase for row in profile.rows]
    assert phases == sorted(phases, key=["input", "forward", "loss", "backward", "update"].index)
    assert [row.layer for row in profile.rows if row.phase == "forward"] == ["conv", "norm", "branch", "add", "drop", "dense"]
    for calls in profile.steps:
        ends = [0.0, *(call.start + call.seconds for call in calls)]
        np.testing.assert_allclose([call.start for call in calls], ends[:-1], atol=1e-9)
        assert [call.row for call in calls] == sorted(call.row for call in calls)
    assert len(profile.steps) == 3
    for at, row in enumerate(profile.rows):
        assert row.seconds == pytest.approx(np.median([sum(call.seconds for call in calls if call.row == at) for calls in profile.steps]))
    convolution = 2 * 64 * 9 * 8 * BATCH
    flops = {name: rows[name].flops for name in [("conv", "forward"), ("branch", "forward"), ("conv", "backward"), ("branch", "backward")]}
    assert list(flops.values()) == [2 * convolution, 8 * convolution, 2 * convolution, 16 * convolution], "no gradient of the images"
    assert sum(row.flops for row in profile.rows if row.phase == "forward") == BATCH * network().summary().flops
    assert rows["add", "forward"].nbytes == pytest.approx(2 * 4 * BATCH * 64 * 8, abs=500), "two summands, one of which becomes the sum"
    parameters = sum(array.size for name, array in network().parameters.items() if "running" not in name)
    assert rows["Adam", "update"].nbytes >= 4 * 4 * parameters, "parameters, gradients, two averages"


def test_scratch_memory_counts_for_nothing(profile):
    plan = network().training_plan(BATCH).plan
    rows = {(row.layer, row.phase): at for at, row in enumerate(profile.rows)}
    with_scratch = 0
    for phase, runs in (("forward", plan.forward), ("backward", plan.backward)):
        for run in runs:
            at = rows.get((run.node.name, phase))
            scratch = {slot.shape for slot in run.scratch.values() if len(slot.shape) == 2 and slot.shape[1] > 1000}  # of each thread
            with_scratch += bool(scratch)
            assert not scratch & {shape for call in profile.steps[0] if call.row == at for shape in call.shapes}
    assert with_scratch


def test_tables(profile):
    lines = profile.table("network").splitlines()
    assert [line.split()[0] for line in lines[4:6]] == ["batch", "conv"]
    times = [float(line.split(" %")[0].split()[-2]) for line in profile.table().splitlines()[4:-6]]
    assert times == sorted(times, reverse=True)
    assert f"{len(profile.rows) - 2} more" in profile.table(rows=2)
    assert f"{1e3 * profile.step_seconds:.3f} ms" in str(profile)
    assert "conv" in profile._repr_html_()
    assert profile.rich_table(rows=3).row_count == 4
    for wrong, message in ((("speed",), "'time' or in the order of the 'network'"), (("time", 0), "at least 1")):
        with pytest.raises(nc.ConfigError, match=message):
            profile.table(*wrong)


def test_the_trace_nests_calls_in_rows_in_steps(profile, tmp_path):
    profile.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "M"} == {"process_name", "thread_name"}
    slices = [event for event in events if event["ph"] == "X"]
    by_category = {category: [e for e in slices if e["cat"] == category] for category in ("step", "backward", "kernel")}
    assert len(by_category["step"]) == 3
    assert len(by_category["kernel"]) == sum(map(len, profile.steps))
    assert sum(e["dur"] for e in by_category["kernel"]) == pytest.approx(sum(e["dur"] for e in by_category["step"]))
    for inner in slices:
        around = [
            e for e in by_category["step"] if e["ts"] - 1e-3 <= inner["ts"] and inner["ts"] + inner["dur"] <= e["ts"] + e["dur"] + 1e-3
        ]
        assert len(around) == 1, inner
    branch = next(e for e in by_category["backward"] if e["name"] == "branch backward")
    assert branch["args"]["output"] == f"{BATCH} x 8 x 8 x 8"


def test_profiling_a_data_set():
    trainer = nc.Trainer(nc.create("cnn", input_shape=(8, 8, 1)))
    found = trainer.profile("digits", batch_size=4, steps=1)
    assert isinstance(found, Profile)
    assert (found.batch, found.loading_seconds > 0, trainer.steps) == (4, True, 0)
    assert "to prepare a batch" in str(found)
    for options in ({"steps": 0}, {"batch_size": True}):
        with pytest.raises(nc.ConfigError, match="at least 1"):
            trainer.profile("digits", **options)
    with pytest.raises(nc.ShapeError):
        trainer.profile(np.zeros((2, 9, 8, 1)), np.zeros(2, int))


def test_what_runs_again_is_told_apart():
    found = nc.Trainer(network(), recompute="cheap").profile(*batch(), steps=1)
    assert "forward again" in {row.phase for row in found.rows}


def test_micro_batches_are_refused():
    with pytest.raises(ConfigError, match="cuts it into 2 micro-batches"):
        nc.Trainer(network(), accumulate=2).profile(*batch())
