"""Checkpoints: runs that are interrupted, killed or damaged end with the same bits as one that never stopped."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError, DivergenceError, WeightsError
from numbacnn.training import callbacks, checkpoint, progress, schedules
from numbacnn.training.checkpoint import Checkpoint, CheckpointWarning
from numbacnn.training.optimizers import SGD, Adam
from numbacnn.training.trainer import Trainer, TrainingInterrupted

EPOCHS, BATCH, STEPS = 4, 8, 4  # 29 samples: four batches, the last one short


def make_trainer(*extra, optimizer=None, schedule=None, seed=3):
    x = nc.Input((4, 4, 2))
    h = nc.Dropout(0.3)(nc.GlobalAveragePool2D()(nc.BatchNorm()(nc.Conv2D(4, 3, activation="relu")(x))))
    model = nc.Model(x, nc.Dense(3)(h), seed=0)
    optimizer = optimizer or Adam(0.02, weight_decay=0.01)
    return Trainer(model, optimizer=optimizer, seed=seed, callbacks=extra, schedule=schedule or schedules.Cosine(warmup=1))


def data(count=29, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, 4, 4, 2)).astype(np.float32), generator.integers(0, 3, count)


def fit(trainer, folder=None, resume=False, epochs=EPOCHS, **options):
    return trainer.fit(data(), data(9, 1), epochs, BATCH, folder, resume, progress=False, **options)


def outcome(trainer):
    """Everything that a run leaves, in a form that can be compared."""
    store = trainer.model.store
    records = [{name: value for name, value in record.items() if "second" not in name} for record in trainer.history]
    arrays = {name: array.tobytes() for name, array in trainer.updater.arrays().items()}
    return store.trainable.tobytes(), store.state.tobytes(), arrays, records, trainer.steps, trainer.epochs


@pytest.fixture(scope="module")
def uninterrupted():
    trainer = make_trainer()
    fit(trainer)
    return outcome(trainer)


class Crash(Exception):
    pass


def at_step(number, action):
    """A callback that does something after one step."""

    def step_end(trainer, step, loss):
        if step == number:
            action()

    return callbacks.LambdaCallback(step_end=step_end)


def crash():
    raise Crash


# Going on ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4, 7, 8, 15])
@pytest.mark.parametrize("every", [None, 3])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, uninterrupted, step, every):
    with pytest.raises(Crash):
        fit(make_trainer(at_step(step, crash)), tmp_path, checkpoint_every=every)
    trainer = make_trainer()
    fit(trainer, tmp_path, resume=True, checkpoint_every=every)
    assert outcome(trainer) == uninterrupted


def test_a_run_that_is_resumed_again_and_again(tmp_path, uninterrupted):
    for step in (2, 3, 6, 9, 14):
        with pytest.raises(Crash):
            fit(make_trainer(at_step(step, crash)), tmp_path, resume=True, checkpoint_every=1)
    trainer = make_trainer()
    fit(trainer, tmp_path, resume=True)
    assert outcome(trainer) == uninterrupted


def test_resuming_a_finished_run_changes_nothing_and_more_epochs_go_on(tmp_path):
    fit(make_trainer(schedule="constant"), tmp_path, epochs=2)
    trainer = make_trainer(schedule="constant")
    assert len(fit(trainer, tmp_path, resume=True, epochs=2)) == 2
    assert trainer.steps == 2 * STEPS
    fit(trainer := make_trainer(schedule="constant"), tmp_path, resume=True, epochs=3)
    straight = make_trainer(schedule="constant")
    fit(straight, epochs=3)
    assert outcome(trainer) == outcome(straight)


def test_a_stopped_run_stays_stopped(tmp_path):
    stop = callbacks.LambdaCallback(epoch_end=lambda trainer, epoch, record: trainer.stop() if epoch == 2 else None)
    assert len(fit(make_trainer(stop), tmp_path)) == 2
    assert len(fit(make_trainer(stop), tmp_path, resume=True)) == 2


def test_a_new_run_replaces_the_old_one(tmp_path, uninterrupted):
    fit(make_trainer(), tmp_path)
    with pytest.raises(Crash):
        fit(make_trainer(at_step(2, crash)), tmp_path)
    trainer = make_trainer()
    fit(trainer, tmp_path, resume=True)
    assert trainer.steps == EPOCHS * STEPS
    assert outcome(trainer) == uninterrupted


def test_resuming_from_an_empty_folder_begins(tmp_path, uninterrupted):
    trainer = make_trainer()
    fit(trainer, tmp_path / "new", resume=True)
    assert outcome(trainer) == uninterrupted
    assert len(checkpoint.paths(tmp_path / "new")) == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: make_trainer(optimizer=SGD(0.1)), r"optimizer was Adam\(.*and is SGD\("),
        (lambda: make_trainer(seed=4), "seed was 3 and is 4"),
        (lambda: make_trainer(schedule="constant"), r"another run: schedule was Cosine.*and is Constant\(\)\."),
        (lambda: Trainer(nc.Sequential([nc.Dense(3), nc.GlobalAveragePool2D()]).build((4, 4, 2))), "model was"),
    ],
)
def test_another_configuration_is_refused(tmp_path, other, message):
    fit(make_trainer(), tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=message):
        fit(other(), tmp_path, resume=True)


def test_divergence_leaves_the_checkpoints(tmp_path, uninterrupted):
    trainer = make_trainer()
    poison = at_step(6, lambda: trainer.model.store.trainable.fill(np.nan))
    trainer.callbacks.append(poison)
    with pytest.raises(DivergenceError, match="loss of step 7 is nan"):
        fit(trainer, tmp_path)
    resumed = make_trainer()
    fit(resumed, tmp_path, resume=True)
    assert outcome(resumed) == uninterrupted


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, uninterrupted):
    trainer = make_trainer()
    trainer.callbacks.append(at_step(STEPS, lambda: trainer.model.store.trainable.fill(np.inf)))
    with pytest.raises(DivergenceError, match=r"after step 4; the checkpoints in .* are from before"):
        trainer.fit(data(), None, EPOCHS, BATCH, tmp_path, progress=False)
    resumed = make_trainer()
    fit(resumed, tmp_path, resume=True)
    assert outcome(resumed) == uninterrupted


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Cosine(),
        schedules.Polynomial(),
        schedules.OneCycle(),
        schedules.LinearWarmup(1, then=schedules.Cosine()),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_another_number_of_epochs_would_change_the_rates(tmp_path, schedule):
    fit(make_trainer(schedule=schedule), tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=r"another run: number of epochs \(on which the schedule depends\) was 1 and is 2\."):
        fit(make_trainer(schedule=schedule), tmp_path, resume=True, epochs=2)
    assert len(fit(make_trainer(schedule=schedule), tmp_path, resume=True, epochs=1)) == 1


@pytest.mark.parametrize("name", ["step", "multi_step", "exponential", "reduce_on_plateau", "linear_warmup"])
def test_schedules_that_do_not_ask_how_long_the_run_is(name):
    schedule = schedules.resolve(name)
    assert not schedule.uses_total
    places = [schedules.Progress(step, step // 4, 4, 0, [{"val_loss": 1.0}] * (step // 4)) for step in range(80)]
    for epochs in (20, 200):
        assert [schedule.factor(dataclasses.replace(at, epochs=epochs)) for at in places] == [schedule.factor(at) for at in places]


def test_validation_data_that_comes_when_a_run_is_resumed(tmp_path, monkeypatch):
    def watched():
        schedule = schedules.ReduceOnPlateau("val_loss", patience=0, cooldown=9)
        return make_trainer(callbacks.EarlyStopping("val_loss", patience=9), schedule=schedule)

    blind = make_trainer(schedule=watched().schedule)
    with monkeypatch.context() as patch:
        patch.setattr(schedules.ReduceOnPlateau, "check", lambda self, record: None)  # which would have ended the run
        blind.fit(data(), None, 2, BATCH, tmp_path, progress=False)
    history = fit(watched(), tmp_path, resume=True)
    assert ["val_loss" in record for record in history] == [False, False, True, True]


def test_an_epoch_is_saved_before_it_is_told(tmp_path, uninterrupted, monkeypatch):
    lines = []

    def tell(line, flush):
        lines.append(line)
        if len(lines) == 2:
            raise BrokenPipeError

    monkeypatch.setattr(progress, "print", tell, raising=False)
    with pytest.raises(BrokenPipeError):
        make_trainer().fit(data(), data(9, 1), EPOCHS, BATCH, tmp_path)
    assert len(checkpoint.newest(tmp_path).state["history"]) == 2
    trainer = make_trainer()
    fit(trainer, tmp_path, resume=True)
    assert outcome(trainer) == uninterrupted


def test_a_seed_of_numpy(tmp_path, uninterrupted):
    trainer = make_trainer(seed=np.int64(3))
    fit(trainer, tmp_path)
    assert outcome(trainer) == uninterrupted


def test_a_record_may_hold_numbers_of_numpy(tmp_path):
    note = callbacks.LambdaCallback(epoch_end=lambda trainer, epoch, record: record.update(note=np.float32(epoch)))
    fit(make_trainer(note), tmp_path)
    assert fit(make_trainer(note), tmp_path, resume=True).column("note") == [1.0, 2.0, 3.0, 4.0]


# Ctrl-C --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 8])
def test_interrupting_saves_and_says_how_to_go_on(tmp_path, uninterrupted, step):
    handler = signal.getsignal(signal.SIGINT)
    interrupt = at_step(step, lambda: os.kill(os.getpid(), signal.SIGINT))
    trainer = make_trainer(interrupt)
    with pytest.raises(TrainingInterrupted, match=rf"after step {step} .*resume=True") as caught:
        fit(trainer, tmp_path)
    assert trainer.steps == step
    assert caught.value.checkpoint == str(tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    trainer = make_trainer()
    fit(trainer, tmp_path, resume=True)
    assert outcome(trainer) == uninterrupted


def test_interrupting_without_a_folder():
    trainer = make_trainer(at_step(5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(TrainingInterrupted, match=r"epoch 2 of 4, batch 1 of 4.*checkpoint folder") as caught:
        fit(trainer)
    assert caught.value.checkpoint is None


def test_an_interrupt_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = make_trainer(at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
        fit(trainer)
        assert trainer.epochs == EPOCHS
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_cannot_be_put_back_stays(monkeypatch):
    touched = []
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    fit(make_trainer(at_step(2, lambda: touched.append(signal.signal(signal.SIGINT, signal.default_int_handler)))))
    assert touched == [signal.default_int_handler]


def test_a_second_interrupt_ends_at_once(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        fit(make_trainer(at_step(2, twice)), tmp_path)


def test_fit_works_in_another_thread():
    trainer = make_trainer()
    thread = threading.Thread(target=fit, args=(trainer,))
    thread.start()
    thread.join()
    assert trainer.epochs == EPOCHS


# Files ---------------------------------------------------------------------------------------------------------------


def sample(value=1.0):
    return Checkpoint({"a": np.full((3, 2), value), "b": np.arange(3, dtype=np.int64)}, {"steps": 3, "history": [{"loss": 0.1 + 0.2}]})


def test_round_trip(tmp_path):
    path = checkpoint.save(tmp_path, 3, sample())
    found = checkpoint.read(path)
    assert found.state == sample().state
    assert all(np.array_equal(found.arrays[name], array) for name, array in sample().arrays.items())
    assert checkpoint.newest(tmp_path / "none") is None


def test_only_the_last_two_are_kept(tmp_path):
    for step in (1, 2, 4, 1_000_000_000):
        checkpoint.save(tmp_path, step, sample())
    assert [path.name for path in checkpoint.paths(tmp_path)] == ["checkpoint-1000000000.safetensors", "checkpoint-000000004.safetensors"]
    assert len(list(tmp_path.iterdir())) == 2
    half = tmp_path / ".checkpoint-000000005.safetensors.1.tmp"
    half.write_bytes(b"half")
    checkpoint.clear(tmp_path)
    assert not list(tmp_path.iterdir())
    half.write_bytes(b"half")
    checkpoint.save(tmp_path, 6, sample())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000006.safetensors"]


def test_a_damaged_checkpoint_takes_no_place(tmp_path):
    for step in (1, 4, 8):
        path = checkpoint.save(tmp_path, step, sample())
    truncate(path)
    checkpoint.save(tmp_path, 6, sample())
    assert [path.name for path in checkpoint.paths(tmp_path)] == ["checkpoint-000000006.safetensors", "checkpoint-000000004.safetensors"]


def test_what_the_state_may_hold(tmp_path):
    state = {"a": np.float32(0.5), "b": [np.int64(3)]}
    assert checkpoint.read(checkpoint.save(tmp_path, 1, Checkpoint({}, state))).state == {"a": 0.5, "b": [3]}
    with pytest.raises(ConfigError, match=r"holds .*complex"):
        checkpoint.save(tmp_path, 2, Checkpoint({}, {"a": complex}))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    checkpoint.save(tmp_path, 1, sample(1.0))
    damage(checkpoint.save(tmp_path, 2, sample(2.0)))
    with pytest.warns(CheckpointWarning, match=r"checkpoint-000000002.*damaged.*Going on from checkpoint-000000001"):
        assert checkpoint.newest(tmp_path).arrays["a"][0, 0] == 1.0
    damage(checkpoint.paths(tmp_path)[1])
    with pytest.raises(WeightsError, match=r"damaged.*no other one"):
        checkpoint.newest(tmp_path)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, uninterrupted):
    with pytest.raises(Crash):
        fit(make_trainer(at_step(10, crash)), tmp_path)
    flip(checkpoint.paths(tmp_path)[0])
    trainer = make_trainer()
    with pytest.warns(CheckpointWarning):
        fit(trainer, tmp_path, resume=True)
    assert outcome(trainer) == uninterrupted


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be made"):
        fit(make_trainer(), tmp_path / "file" / "folder")


# kill -9 -------------------------------------------------------------------------------------------------------------

KILLED_RUN = """
import sys, time
from numbacnn.training import callbacks
from tests.test_checkpoint import fit, make_trainer

def step_end(trainer, step, loss):
    if trainer.steps == first + 1:
        print("running", flush=True)
    time.sleep(0.003)

def begin(trainer):
    global first
    first = trainer.steps

trainer = make_trainer(callbacks.LambdaCallback(train_begin=begin, step_end=step_end))
fit(trainer, sys.argv[1], resume=True, epochs=KILLED_EPOCHS)
print("done", flush=True)
"""
KILLED_EPOCHS = 60


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path):
    generator = random.Random(0)
    kills = 0
    folder = tmp_path / "run"
    script = KILLED_RUN.replace("KILLED_EPOCHS", str(KILLED_EPOCHS))
    while kills < 10:
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "running\n"
        time.sleep(generator.uniform(0.0, 0.12))
        process.kill()
        assert process.communicate()[0] == "", "the run ended before it was killed: make it longer"
        kills += 1
    trainer = make_trainer()
    fit(trainer, folder, resume=True, epochs=KILLED_EPOCHS)
    straight = make_trainer()
    fit(straight, epochs=KILLED_EPOCHS)
    assert outcome(trainer) == outcome(straight)
