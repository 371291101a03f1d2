"""Batches that are copied while the device works, steps that are begun before the one before is finished, and every wait between them."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import DataError, DivergenceError
from numbacnn.kernels.cuda import no_gpu, runtime, staging
from numbacnn.kernels.cuda.memory import empty, on_device
from numbacnn.training.batch import Outcome

from .test_layers import simulated
from .test_trainer import batch, network, parameters_of, trainer_of, two_outputs

pytestmark = simulated

COPIES = ("late", "early")


@pytest.fixture(params=COPIES)
def simulator(request: Any) -> Iterator[no_gpu.Simulator]:
    with runtime.pretended(no_gpu.Simulator(request.param)) as found:
        yield found


def without_wait(monkeypatch: pytest.MonkeyPatch, function: str) -> list[str]:
    """Let one function not wait; a list of the waits that it left out."""
    left_out: list[str] = []

    def unless_left_out(wait: Callable) -> Callable:
        def maybe(*arguments: Any) -> None:
            if sys._getframe(1).f_code.co_qualname == function:
                left_out.append(function)
            else:
                wait(*arguments)

        return maybe

    monkeypatch.setattr(no_gpu.SimulatedStream, "wait", unless_left_out(no_gpu.SimulatedStream.wait))
    monkeypatch.setattr(no_gpu.SimulatedEvent, "synchronize", unless_left_out(no_gpu.SimulatedEvent.synchronize))
    return left_out


# The means -----------------------------------------------------------------------------------------------------------


def test_a_stream_goes_on_as_soon_as_it_can() -> None:
    device = no_gpu.Simulator("early")
    done: list[str] = []
    copies = device.new_stream()
    device.stream.do(lambda: done.append("a"))
    event = device.stream.mark()
    copies.wait(event)
    copies.do(lambda: done.append("b"))
    assert done == []
    assert not event.reached
    device.stream.do(lambda: done.append("c"))
    event.synchronize()
    assert done == ["a", "b"]
    assert event.reached
    copies.do(lambda: done.append("d"))
    assert done == ["a", "b", "d"]
    device.synchronize()
    assert done == ["a", "b", "d", "c"]


def test_a_late_stream_is_done_when_it_is_waited_for() -> None:
    device = no_gpu.Simulator("late")
    done: list[str] = []
    copies = device.new_stream()
    copies.do(lambda: done.append("a"))
    event = copies.mark()
    copies.do(lambda: done.append("b"))
    device.stream.do(lambda: done.append("c"))
    device.stream.wait(event)
    device.stream.do(lambda: done.append("d"))
    assert done == ["c"]
    device.synchronize()
    assert done == ["c", "a", "d"]
    assert device.elapsed(event, device.event()) >= 0


@pytest.mark.parametrize("sizes", [(3,), (5, 5, 5, 5, 5), (7, 1, 300, 2)], ids=str)
def test_there_and_back(simulator: no_gpu.Simulator, sizes: tuple[int, ...]) -> None:
    """Arrays of several types through rooms that have to grow; the host's arrays are overwritten as soon as they are sent."""
    feed, drain, found = staging.Feed(), staging.Drain(), []
    given = [(np.arange(3.0 * size).reshape(size, 3), np.arange(size)) for size in sizes]
    for pair in given:
        values, labels = (array.copy() for array in pair)
        sent = feed.send([values, labels], ["float32", "int64"])
        values[...], labels[...] = -1, -1
        sent.arrive()
        there = [empty(array.shape, array.dtype) for array in sent.arrays]
        for array, arrived in zip(there, sent.arrays):
            array.copy_from(arrived)
        sent.release()
        found.append(drain.fetch(there))
        for array in there:
            array.clear()
    for fetched, (values, labels) in zip(found, given, strict=True):
        floats, numbers = fetched.collect()
        np.testing.assert_array_equal(floats, values.astype(np.float32))
        np.testing.assert_array_equal(numbers, labels)


def test_what_is_on_the_device_stays_there(simulator: no_gpu.Simulator) -> None:
    feed, array = staging.Feed(), on_device(np.ones(3, np.float32))
    sent = feed.send([array, np.zeros(2)], ["float32", "float32"])
    assert sent.arrays[0] is array
    assert sent.arrays[1].shape == (2,)


def test_rooms_are_used_again() -> None:
    feed, into = staging.Feed(), [empty((4,), np.float32)]
    kept = [weakref.ref(room) for room in feed._rooms]
    for number in range(5):
        feed.deliver([np.full(4, number)], into)
    assert [room() is not None for room in kept] == [True, True]
    np.testing.assert_array_equal(into[0].download(), 4)


# Predictions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [network, two_outputs])
def test_predictions_of_many_batches(simulator: no_gpu.Simulator, make: Callable[[], nc.Model]) -> None:
    model, images = make().to("cuda"), batch(11)[0]
    results = []
    for size in (None, 3, 1):
        found = model.predict(images, batch_size=size)
        results.append(np.concatenate([part.reshape(11, -1) for part in (found.values() if isinstance(found, dict) else [found])], 1))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_predictions_of_many_batches_in_several_threads(simulator: no_gpu.Simulator) -> None:
    model, images = network().to("cuda"), [batch(7, seed)[0] for seed in range(4)]
    expected = [model.predict(some) for some in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda some: model.predict(some, batch_size=2), images))
    np.testing.assert_array_equal(found, expected)
    assert len(model._idle_pipelines) == 1


def test_predictions_within_an_evaluation(simulator: no_gpu.Simulator) -> None:
    """Its own memory for batches on their way is not that of the evaluation."""

    class Nosy(nc.metrics.Accuracy):
        def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
            trainer.model.predict(batch(7, 5)[0], batch_size=2)
            return super().measure(outputs, labels)

    trainer = trainer_of("cuda", metrics=[Nosy()])
    plain = trainer_of("cuda", metrics=["accuracy"])
    assert trainer.evaluate(batch(10, 3), batch_size=3) == plain.evaluate(batch(10, 3), batch_size=3)


@pytest.mark.parametrize(
    ("function", "copies"),
    [("Sent.arrive", "late"), ("_Room.download", "early"), ("Fetched.collect", "late"), ("Fetched.collect", "early")],
)
def test_predictions_need_each_wait(function: str, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch(12)[0]
    expected = network().to("cuda").predict(images)
    left_out = without_wait(monkeypatch, function)
    with runtime.pretended(no_gpu.Simulator(copies)):
        found = network().to("cuda").predict(images, batch_size=2)
    assert left_out
    assert not np.array_equal(found, expected)


# Training ------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "progress": False, "workers": 1, "shuffle": False}
IMAGES, LABELS = batch(14, 4)  # in batches of four and two


class Bad(nc.ArrayDataset):
    """Numbers that are none in some images, or an error."""

    def __init__(self, bad: int, error: Exception | None = None):
        super().__init__(IMAGES, LABELS)
        self._bad, self._error = bad, error

    def batch(self, indices: np.ndarray) -> Any:
        images, labels = super().batch(indices)
        if self._bad in indices and self._error is not None:
            raise self._error
        images[indices == self._bad] = np.nan
        return images, labels


def assert_same(found: nc.Trainer, expected: nc.Trainer) -> None:
    """The same bits everywhere."""
    for name, array in parameters_of(expected.model).items():
        np.testing.assert_array_equal(found.model.store.view(name), array, err_msg=name)
    for name, array in expected.updater.arrays().items():
        np.testing.assert_array_equal(found.updater.arrays()[name], array, err_msg=name)
    assert found.steps == expected.steps


def one_by_one(trainer: nc.Trainer) -> list[float]:
    """The same steps as fit, each finished before the next one is known; the mean losses of epochs."""
    means = []
    for _ in range(2):
        parts = [slice(start, min(start + 4, 14)) for start in range(0, 14, 4)]
        losses = [(trainer.step(IMAGES[part], LABELS[part]), part.stop - part.start) for part in parts]
        means.append(sum(loss * count for loss, count in losses) / 14)
    return means


CASES = [{}, {"accumulate": 3, "recompute": "cheap", "optimizer": nc.Adam(0.05, clip_norm=0.1)}]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("watched", [False, True])
def test_fit_has_the_bits_of_single_steps(simulator: no_gpu.Simulator, options: dict[str, Any], watched: bool) -> None:
    trainer, reference = trainer_of("cuda", **options), trainer_of("cuda", **options)
    expected = one_by_one(reference)
    seen: list[tuple[int, float]] = []
    if watched:
        trainer.callbacks.append(nc.callbacks.LambdaCallback(step_end=lambda trainer, step, loss: seen.append((step, trainer.steps))))
    history = trainer.fit((IMAGES, LABELS), **OPTIONS)
    assert_same(trainer, reference)
    assert [entry["loss"] for entry in history] == pytest.approx(expected, rel=1e-12)
    assert trainer.steps == 8
    assert seen == [(step, step) for step in range(1, 9)] * watched


@pytest.mark.parametrize(
    ("function", "copies"),
    [
        ("Sent.arrive", "late"),
        ("_Room.arrays", "late"),
        ("_Room.upload", "early"),
        ("_Room.download", "early"),
        ("Fetched.collect", "late"),
        ("Fetched.collect", "early"),
    ],
)
def test_training_needs_each_wait(function: str, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = trainer_of("cuda")
    expected = reference.fit((IMAGES, LABELS), **OPTIONS)
    left_out = without_wait(monkeypatch, function)
    with runtime.pretended(no_gpu.Simulator(copies)):
        trainer = trainer_of("cuda")
        try:
            found = trainer.fit((IMAGES, LABELS), **OPTIONS)
        except DivergenceError:  # of numbers that are none
            found = []
        runtime.device().synchronize()
    assert left_out
    same = all(np.array_equal(parameters_of(trainer.model)[name], array) for name, array in parameters_of(reference.model).items())
    assert not same or [entry["loss"] for entry in found] != [entry["loss"] for entry in expected]


def test_steps_overlap() -> None:
    """A step is begun, and the batch after it sent, before what came out of the step before is looked at; not where a callback waits."""

    def events(trainer: nc.Trainer) -> list[str]:
        engine, found = trainer._engine, list[str]()

        def noted(name: str, method: Callable) -> Callable:
            return lambda *arguments: (found.append(name), method(*arguments))[1]

        for name in ("send", "begin", "finish"):
            setattr(engine, name, noted(name, getattr(engine, name)))
        trainer.fit((IMAGES[:12], LABELS[:12]), **OPTIONS | {"epochs": 1})
        return found

    assert events(trainer_of("cuda")) == ["send", "begin", "send", "begin", "send", "finish", "begin", "finish", "finish"]
    watcher = nc.callbacks.LambdaCallback(step_end=lambda *_: None)
    assert events(trainer_of("cuda", callbacks=[watcher])) == [
        "send",
        "begin",
        "send",
        "finish",
        "begin",
        "send",
        "finish",
        "begin",
        "finish",
    ]


@pytest.mark.parametrize("bad", [0, 5, 13])
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_divergence_with_a_step_begun_after_it(simulator: no_gpu.Simulator, bad: int, accumulate: int) -> None:
    trainer, reference = trainer_of("cuda", accumulate=accumulate), trainer_of("cuda", accumulate=accumulate)
    good = bad // 4
    for start in range(0, 4 * good, 4):
        reference.step(IMAGES[start : start + 4], LABELS[start : start + 4])
    with pytest.raises(DivergenceError, match=f"The loss of step {good + 1} is nan"):
        trainer.fit(Bad(bad), **OPTIONS)
    assert trainer.steps == good
    for one in (trainer, reference):  # and it goes on from there
        one.step(*batch(4, 9))
    assert_same(trainer, reference)


def test_an_interrupted_run_knows_of_a_step_that_diverged(simulator: no_gpu.Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends the run comes before the loss was looked at: nothing remains of the step all the same."""
    trainer = trainer_of("cuda")

    def ended(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Outcome, "targets", property(ended))
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(Bad(5), **OPTIONS)
    assert trainer.steps == 1
    reference = trainer_of("cuda")
    for one, first in ((trainer, ()), (reference, (slice(4),))):
        for part in (*first, slice(8, 12)):
            one.step(IMAGES[part], LABELS[part])
    assert_same(trainer, reference)


def test_an_error_of_the_data_comes_where_its_batch_would_have_come(simulator: no_gpu.Simulator) -> None:
    trainer, reference = trainer_of("cuda"), trainer_of("cuda")
    with pytest.raises(DataError, match="third batch"):
        trainer.fit(Bad(9, DataError("The third batch cannot be read.")), **OPTIONS)
    for start in (0, 4):
        reference.step(IMAGES[start : start + 4], LABELS[start : start + 4])
    assert_same(trainer, reference)


def test_checkpoints_within_an_epoch(simulator: no_gpu.Simulator, tmp_path: Any) -> None:
    whole, first, second = (trainer_of("cuda", optimizer=nc.Adam(0.05)) for _ in range(3))
    whole.fit((IMAGES, LABELS), **OPTIONS)
    with pytest.raises(DivergenceError, match="step 4"):
        first.fit(Bad(13), checkpoint=tmp_path, checkpoint_every=2, **OPTIONS)
    second.fit((IMAGES, LABELS), checkpoint=tmp_path, resume=True, **OPTIONS)
    assert_same(second, whole)
    assert second.history[-1]["loss"] == whole.history[-1]["loss"]


def test_whole_numbers_are_checked_before_a_step_changes_anything(simulator: no_gpu.Simulator) -> None:
    x = nc.Input((3,), dtype="int64")
    model = nc.Model(x, nc.Dense(2)(nc.Flatten()(nc.Embedding(5, 2)(x))))
    trainer = nc.Trainer(model, device="cuda", accumulate=2)
    ids = np.arange(12).reshape(4, 3) % 5
    trainer.step(ids, np.array([0, 1, 0, 1]))
    before = parameters_of(model)
    ids[3, 1] = 7
    with pytest.raises(DataError):
        trainer.step(ids, np.array([0, 1, 0, 1]))
    for name, array in before.items():
        np.testing.assert_array_equal(model.store.view(name), array, err_msg=name)


# What is given back --------------------------------------------------------------------------------------------------


def test_memory_is_given_back_with_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    for kind in (runtime.HostMemory, no_gpu.SimulatedStream, no_gpu.SimulatedEvent):
        made = kind.__init__

        def noted(self: Any, *arguments: Any, made: Any = made, **options: Any) -> None:
            alive.add(self)
            made(self, *arguments, **options)

        monkeypatch.setattr(kind, "__init__", noted)
    with runtime.pretended(no_gpu.Simulator()):
        trainer = trainer_of("cuda", metrics=["accuracy"])
        trainer.fit((IMAGES, LABELS), batch(5), **OPTIONS)
        assert len([one for one in alive if isinstance(one, runtime.HostMemory)]) == 6 + 2 + 2
        assert len([one for one in alive if isinstance(one, no_gpu.SimulatedEvent)]) < 30
        del trainer
    gc.collect()
    assert not alive
