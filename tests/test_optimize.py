"""Measuring how convolutions run fastest: what is chosen, what is remembered, and that plans stay whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph import measure
from numbacnn.graph.run import InferencePlan
from numbacnn.kernels import choices, jit
from numbacnn.kernels.conv import Method
from numbacnn.layers.epilogue import FusedEpilogue
from numbacnn.paths import cache_folder

NAMES = ["direct", "F(2x2) fused", "F(2x2) phased", "F(4x4) fused", "F(4x4) phased"]
IMAGES = np.random.default_rng(0).standard_normal((3, 9, 11, 14)).astype(np.float32)
BATCH = len(IMAGES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder without choices, with the kernels of the usual one."""
    kernels = cache_folder() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    made = tmp_path / "cache"
    made.mkdir()
    (made / "kernels").symlink_to(kernels)
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(made))
    return made


def network(**options):
    """A convolution with an activation, one with a residual sum, and a transposed one, of different shapes."""
    x = nc.Input(IMAGES.shape[1:])
    h = nc.Conv2D(17, 3, padding=1, activation="relu", **options)(x)
    h = nc.Add()(nc.BatchNorm()(nc.Conv2D(17, 3, padding="same", bias=False, **options)(h)), h)
    return nc.Model(x, nc.Conv2DTranspose(13, 3, padding=1, **options)(h), seed=1)


def methods(model, batch=BATCH, threads=None):
    """What the layers of the model's inference can choose from."""
    nodes = model._inference_nodes()[0]
    found = (node.layer.inference_methods(node.shapes, batch, threads or jit.num_threads(), model.dtype) for node in nodes)
    return [each for each in found if each is not None]


def used(plan):
    """The methods by which a plan's convolutions run; None for the cost model's."""
    layers = [run.node.layer for run in plan.forward]
    bases = [layer.base if isinstance(layer, FusedEpilogue) else layer for layer in layers]
    return [layer.method for layer in bases if hasattr(layer, "method")]


def path():
    return choices.measured()._path


def remember(found, name):
    """As another process would."""
    choices.Choices(path()).remember({each.key: name for each in found})


def close(a, b):
    return abs(a - b).max() < 1e-4 * abs(b).max()


def faked(monkeypatch, fastest, seconds=0.5):
    """Pretend that one way takes so long and all others a second."""
    monkeypatch.setattr(
        measure.Measurement, "_times", lambda self, group, share: dict.fromkeys(group.methods.layers, 1.0) | {fastest: seconds}
    )


# Choosing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_computes_the_same(name):
    model = network()
    found = methods(model)
    assert [list(each.layers) for each in found] == [NAMES] * 3
    remember(found, name)
    wanted = network(exact=True).predict(IMAGES)
    assert close(model.predict(IMAGES), wanted)
    tile = int(name[2]) if name != "direct" else 0
    chosen = used(model._inference_plan(BATCH).plan)
    assert [method.tile for method in chosen] == [tile] * 3
    assert all(bool(method.block) == ("fused" in name) for method in chosen)


def test_what_was_measured():
    model = network()
    before = model.predict(IMAGES)
    report = model.optimize(IMAGES, 2.0)
    assert {row.layers[0].partition(".")[0] for row in report.rows} == {"conv1", "conv2", "conv_transpose1"}
    for row in report.rows:
        assert list(row.milliseconds) == NAMES
        assert min(row.milliseconds.values()) > 0
        best = min(row.milliseconds, key=row.milliseconds.get)
        gain = row.milliseconds[best] <= 0.97 * row.milliseconds[row.default]
        assert row.choice == (best if gain else row.default)
    assert report.after <= report.before
    assert json.loads(json.dumps(report.to_dict()))["rows"][0]["choice"] in NAMES
    assert set(json.loads(path().read_bytes()).values()) == {row.choice for row in report.rows}
    assert close(model.predict(IMAGES), before)
    assert None not in used(model._inference_plan(BATCH).plan)


@pytest.mark.parametrize(("seconds", "chosen"), [(0.96, "F(2x2) phased"), (0.98, None)])
def test_a_choice_must_be_worth_it(monkeypatch, seconds, chosen):
    faked(monkeypatch, "F(2x2) phased", seconds)
    for row in network().optimize(IMAGES).rows:
        assert row.choice == (chosen or row.default)


def test_the_report(monkeypatch):
    faked(monkeypatch, "F(2x2) phased")
    x = nc.Input((8, 8, 16))
    h = x
    for _ in range(4):
        h = nc.Conv2D(16, 3, padding=1)(h)
    report = nc.Model(x, nc.Conv2D(20, 3)(h)).optimize(np.zeros((1, 8, 8, 16)))
    assert (report.before, report.after, report.batch_size) == (5000, 2500, 1)
    assert {len(row.layers) for row in report.rows} == {4, 1}
    text = str(report)
    assert "conv1 and 3 more  8 x 8 x 16" in text
    assert "5000.00 ms by the cost model, 2500.00 ms by what was chosen" in text
    assert "1000.000*" in text


def test_nothing_to_choose():
    model = network()
    model.exact = True
    assert model.optimize(IMAGES).rows == ()
    x = nc.Input((8, 8, 16))
    report = nc.Model(x, nc.Conv2D(16, 1)(nc.Conv2D(16, 3, stride=2)(x))).optimize(np.zeros((2, 8, 8, 16)))
    assert "nothing to choose" in str(report)


def test_too_small_a_budget():
    model = network()
    report = model.optimize(IMAGES, 1e-9)
    assert report.measured == ()
    assert "3 of 3 shapes were not measured" in str(report)
    assert not path().exists()
    assert used(model._inference_plan(BATCH).plan) == [None] * 3


def test_another_call_begins_with_what_is_missing():
    found = methods(model := network())
    for missing in found:
        remembered = {each.key: "direct" for each in found if each is not missing}
        threads = jit.num_threads()
        measurement = measure.Measurement(model._sections(BATCH, threads), model.store, threads, 1e-9, 0, remembered.get)
        rows = list(measurement)
        assert rows[0][0] == missing.key
        assert [row.choice for _, row in rows] == [missing.default, "direct", "direct"]  # what was chosen before stays


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), float("inf"), "10", None, True])
def test_budgets_that_are_none(budget):
    with pytest.raises(nc.ConfigError, match="budget_seconds"):
        network().optimize(IMAGES, budget)


@pytest.mark.parametrize("example", [IMAGES[0], IMAGES[:, :5], np.zeros((0, 9, 11, 14))])
def test_examples_that_do_not_fit(example):
    with pytest.raises(nc.ShapeError):
        network().optimize(example)


# Remembering ---------------------------------------------------------------------------------------------------------


def test_a_second_process_takes_the_choice(monkeypatch):
    faked(monkeypatch, "F(2x2) phased")
    network().optimize(IMAGES)
    code = """
        from tests.test_optimize import BATCH, network, used
        model = network()
        print([(method.tile, method.block) for method in used(model._plan(BATCH, False, False, %d))])
    """
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code) % jit.num_threads()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == str([(2, 0)] * 3)


def test_other_batches_threads_and_types_have_choices_of_their_own():
    keys = {each.key for batch in (1, 2) for threads in (1, 2) for each in methods(network(), batch, threads)}
    assert len(keys) == 12
    model, threads = network(), jit.num_threads()
    remember(methods(model, threads=threads + 1), "F(2x2) phased")
    assert used(model._plan(BATCH, False, False, threads)) == [None] * 3
    assert used(model._plan(BATCH, False, False, threads + 1)) == [Method(2, 0)] * 3
    assert used(model._plan(1, False, False, threads + 1)) == [None] * 3
    wide = nc.Model(model.inputs, model.outputs, dtype="float64")
    assert used(wide._plan(BATCH, False, False, threads + 1)) == [None] * 3


def test_damaged_and_foreign_files():
    model = network()
    found = methods(model)
    remember(found, "direct")
    whole = path().read_bytes()
    foreign = [b"", b"\xff\x00", whole[:20], b"[]", b"3", b"[" * 100_000, json.dumps({found[0].key: 3, "x": [1]}).encode()]
    foreign.append(json.dumps({found[0].key: "F(8x8) fused"}).encode())
    for content in foreign:
        path().unlink()
        path().write_bytes(content)
        assert used(model._plan(BATCH, False, False, jit.num_threads())) == [None] * 3
    choices.measured().remember({"more": "direct"})
    assert json.loads(path().read_bytes()) == {"more": "direct", found[0].key: "F(8x8) fused"}


def test_processes_add_to_one_file(folder):
    here, there = choices.measured(), choices.Choices(path())
    assert path().parent == folder / "tuning"
    here.remember({"a": "direct"})
    there.remember({"b": "direct"})
    here.remember({"c": "direct"})
    assert set(json.loads(path().read_bytes())) == {"a", "b", "c"}
    assert here.recall("b") == there.recall("c") == "direct"
    assert [file.name for file in path().parent.iterdir()] == [path().name]


@pytest.mark.parametrize("obstacle", ["file", "home"])
def test_where_nothing_can_be_written(obstacle, folder, monkeypatch):
    """A folder that cannot be made stands for one that cannot be written to, which does not bind the superuser."""
    if obstacle == "file":
        (folder / "tuning").write_text("in the way")
    else:
        monkeypatch.setattr(choices, "cache_folder", lambda: (_ for _ in ()).throw(nc.ConfigError("no home")))
        monkeypatch.setattr(choices, "_made", {})
    faked(monkeypatch, "F(4x4) phased")
    model = network()
    assert {row.choice for row in model.optimize(IMAGES).rows} == {"F(4x4) phased"}
    assert used(network()._inference_plan(BATCH).plan) == [Method(4, 0)] * 3


# Plans ---------------------------------------------------------------------------------------------------------------


def test_a_plan_keeps_the_choice_that_sized_its_arrays():
    model = network()
    wanted = network(exact=True).predict(IMAGES)
    for name in NAMES:
        plan = model._plan(BATCH, False, False, jit.num_threads())
        remember(methods(model), name)
        results = [np.empty_like(wanted)]
        InferencePlan(plan, model.store).forward([IMAGES], results)
        assert close(results[0], wanted)


def test_plans_that_are_dropped(monkeypatch):
    faked(monkeypatch, "direct")
    model = network()
    model.predict(IMAGES)
    inference, training = model._inference_plan(BATCH), model.training_plan(BATCH)
    model.optimize(IMAGES)
    assert model.training_plan(BATCH) is training
    assert model._inference_plan(BATCH) is not inference
    np.testing.assert_array_equal(model.predict(IMAGES), network(exact=True).predict(IMAGES))


def test_predicting_while_another_thread_optimizes():
    model = network()
    wanted = network(exact=True).predict(IMAGES)
    wrong, done = [], threading.Event()

    def predict():
        while not done.is_set():
            wrong.extend([1] * (not close(model.predict(IMAGES), wanted)))

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert len(model.optimize(IMAGES, 0.3).rows) == 3
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong
