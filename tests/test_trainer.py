"""The trainer: steps, gradients, runs, evaluation, metrics, callbacks, schedules."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import numbacnn as nc
from numbacnn.data.loader import Loader
from numbacnn.errors import ConfigError, DataError, DivergenceError, ShapeError, UnknownNameError
from numbacnn.training import callbacks, losses, metrics, schedules
from numbacnn.training.history import History
from numbacnn.training.optimizers import SGD, Adam
from numbacnn.training.progress import describe
from numbacnn.training.schedules import Progress
from numbacnn.training.trainer import Trainer

SHAPE, CLASSES = (6, 6, 2), 3


def linear_model(dtype="float64", inputs=5, outputs=CLASSES):
    x = nc.Input((inputs,))
    return nc.Model(x, nc.Dense(outputs)(x), seed=1, dtype=dtype)


def small_model(seed=0, dtype="float32"):
    x = nc.Input(SHAPE)
    h = nc.BatchNorm()(nc.Conv2D(4, 3, padding="same", activation="relu")(x))
    h = nc.Dropout(0.2)(nc.GlobalAveragePool2D()(nc.MaxPool2D(2)(h)))
    return nc.Model(x, nc.Dense(CLASSES)(h), seed=seed, dtype=dtype)


def small_data(count=25, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    images = generator.standard_normal((count, *SHAPE)).astype(np.float32)
    images += labels[:, None, None, None]
    return images, labels


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def snapshot(model):
    return model.store.trainable.copy(), model.store.state.copy()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other))


# Steps ---------------------------------------------------------------------------------------------------------------


def test_steps_follow_the_gradient_of_the_mean_loss():
    model = linear_model()
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((8, 5)), generator.integers(0, CLASSES, 8)
    weight, bias = (np.array(model.parameters[name]) for name in ("dense1.weight", "dense1.bias"))
    trainer = Trainer(model, optimizer=SGD(0.3))
    for _ in range(3):
        z = x @ weight + bias
        expected = -np.log(softmax(z)[np.arange(8), y]).mean()
        assert trainer.step(x, y) == pytest.approx(expected, rel=1e-12)
        slope = (softmax(z) - np.eye(CLASSES)[y]) / 8
        weight, bias = weight - 0.3 * x.T @ slope, bias - 0.3 * slope.sum(axis=0)
    np.testing.assert_allclose(model.parameters["dense1.weight"], weight, rtol=1e-12)
    np.testing.assert_allclose(model.parameters["dense1.bias"], bias, rtol=1e-12, atol=1e-15)
    assert trainer.steps == 3


def test_gradients_change_nothing_and_are_slopes():
    model = linear_model()
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((4, 5)), generator.integers(0, CLASSES, 4)
    trainer = Trainer(model, loss="multi_class_hinge", optimizer=SGD(0.3))
    before = snapshot(model)
    found = trainer.gradients(x, y)
    assert same(before, snapshot(model))
    assert trainer.steps == 0
    assert set(found) == {"dense1.weight", "dense1.bias", "input"}

    def loss():
        return losses.MultiClassHinge()(model.predict(x), y)

    for array, gradient in ((model.parameters["dense1.weight"], found["dense1.weight"]), (x, found["input"])):
        for index in ((0, 0), (1, 2), (3, 1)):
            value, step = array[index], 1e-6
            array[index] = value + step
            above = loss()
            array[index] = value - step
            slope = (above - loss()) / (2 * step)
            array[index] = value
            assert gradient[index] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_gradients_leave_running_statistics_alone():
    model = small_model()
    trainer = Trainer(model)
    before = snapshot(model)
    first = trainer.gradients(*small_data(7))
    assert same(before, snapshot(model))
    second = trainer.gradients(*small_data(7))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["input"].shape == (7, *SHAPE)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.02)], ids=str)
def test_steps_learn(optimizer):
    images, labels = small_data(32)
    trainer = Trainer(small_model(), optimizer=optimizer)
    values = [trainer.step(images, labels) for _ in range(40)]
    assert values[-1] < 0.6 * values[0]


def test_a_loss_that_is_not_finite_stops_before_the_update():
    model = small_model()
    trainer = Trainer(model, optimizer=SGD(0.25, momentum=0.9))
    images, labels = small_data(8)
    trainer.step(images, labels)
    before = snapshot(model)
    bad = images.copy()
    bad[3, 2, 1, 0] = np.nan
    with pytest.raises(DivergenceError, match=r"loss of step 2 is nan at rate 0\.25.*smaller rate"):
        trainer.step(bad, labels)
    assert same(before, snapshot(model))
    assert trainer.steps == 1
    assert math.isfinite(trainer.step(images, labels))


def test_any_batch_size_and_kind_of_label():
    trainer = Trainer(small_model(), optimizer=SGD(0.01))
    images, labels = small_data(9)
    soft = np.eye(CLASSES)[labels]
    one = Trainer(small_model(), optimizer=SGD(0.01))
    assert trainer.step(images, labels) == pytest.approx(one.step(images, soft), rel=1e-6)
    for count in (1, 9, 4, 3, 2, 5, 9):
        assert math.isfinite(trainer.step(images[:count], labels[:count]))
        assert math.isfinite(trainer.step(images[:count], soft[:count]))


def test_several_outputs():
    def build():
        x = nc.Input((5,))
        return nc.Model(x, [nc.Dense(CLASSES)(x), nc.Dense(2)(x)], seed=0, dtype="float64")

    generator = np.random.default_rng(0)
    x, y, t = generator.standard_normal((6, 5)), generator.integers(0, CLASSES, 6), generator.standard_normal((6, 2))
    both = Trainer(build(), loss=["softmax_cross_entropy", "mean_squared_error"], loss_weights=[1.0, 0.25])
    found = both.gradients(x, (y, t))
    z, r = build().predict(x)
    first, second = losses.SoftmaxCrossEntropy().value_and_gradient(z, y), losses.MeanSquaredError().value_and_gradient(r, t)
    np.testing.assert_allclose(found["dense1.bias"], first[1].sum(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found["dense2.bias"], 0.25 * second[1].sum(axis=0), rtol=1e-12, atol=1e-15)
    assert both.step(x, (y, t)) == pytest.approx(first[0] + 0.25 * second[0], rel=1e-12)
    shared = Trainer(build(), loss=["softmax_cross_entropy", "softmax_cross_entropy"])
    assert math.isfinite(shared.step(x, generator.integers(0, 2, 6)))


def test_an_author_writes_a_loss_in_numpy():
    @dataclasses.dataclass(frozen=True)
    class Cubed(losses.Loss):
        def compute(self, outputs, targets, gradient, total, scale=1.0):
            difference = outputs - targets
            total[:] = scale * np.mean(np.abs(difference) ** 3), outputs.size
            gradient[...] = scale * 3 * difference * np.abs(difference) / outputs.size

    model = linear_model(outputs=1)
    trainer = Trainer(model, loss=Cubed(), optimizer=SGD(0.05), metrics=["mean_absolute_error"])
    x = np.random.default_rng(0).standard_normal((16, 5))
    values = [trainer.step(x, x[:, :1]) for _ in range(60)]
    assert values[-1] < 0.2 * values[0]
    assert trainer.evaluate((x, x[:, :1]))["loss"] == pytest.approx(Cubed()(model.predict(x), x[:, :1]), rel=1e-6)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (np.zeros((2, 6, 6, 3)), [0, 1], ShapeError, r"needs \(N, 6, 6, 2\)"),
        (np.zeros((2, *SHAPE)), [0, 3], DataError, "label 3; the model has 3 outputs"),
        (np.zeros((2, *SHAPE)), [0, 1, 1], ShapeError, r"labels of shape \(3,\)"),
    ],
)
def test_wrong_batches(images, labels, error, message):
    model = small_model()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        Trainer(model).step(images, np.array(labels))
    assert same(before, snapshot(model))


def test_wrong_configuration():
    model = linear_model()
    with pytest.raises(UnknownNameError, match="huber"):
        Trainer(model, loss="huberr")
    with pytest.raises(ConfigError, match=r"1 output.*2 losses"):
        Trainer(model, loss=["huber", "huber"])
    with pytest.raises(ConfigError, match="loss_weights"):
        Trainer(model, loss_weights=[1, 2])
    with pytest.raises(UnknownNameError, match="accuracy"):
        Trainer(model, metrics=["acuracy"])
    with pytest.raises(ConfigError, match="not a callback"):
        Trainer(model, callbacks=[print])
    with pytest.raises(UnknownNameError, match="early_stopping"):
        Trainer(model, callbacks=["lambda"])
    with pytest.raises(ConfigError, match="seed -1"):
        Trainer(model, seed=-1)
    with pytest.raises(ConfigError, match="epochs=0"):
        Trainer(small_model()).fit(small_data(), epochs=0)
    with pytest.raises(ConfigError, match="without a checkpoint folder"):
        Trainer(small_model()).fit(small_data(), resume=True, progress=False)


# Runs ----------------------------------------------------------------------------------------------------------------


def fitted(seed=0, **options):
    model = small_model()
    trainer = Trainer(model, optimizer=SGD(0.05, momentum=0.9), seed=seed)
    history = trainer.fit(small_data(), epochs=3, batch_size=8, progress=False, **options)
    return model, trainer, history


def test_fit_gives_a_record_per_epoch():
    _, trainer, history = fitted(validation=small_data(12, seed=1))
    assert [record["epoch"] for record in history] == [1, 2, 3]
    names = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "rate", "seconds", "waited_seconds", "images_per_second"]
    assert all(list(record) == names for record in history)
    assert trainer.steps == 3 * 4  # 25 images in batches of 8: the last one is short
    assert history is trainer.history
    assert history[-1]["val_loss"] == trainer.evaluate(small_data(12, seed=1))["loss"]


def test_the_same_seeds_give_the_same_bits():
    one, other, third = fitted(), fitted(), fitted(seed=1)
    assert same(snapshot(one[0]), snapshot(other[0]))
    assert one[2].column("loss") == other[2].column("loss")
    assert not same(snapshot(one[0]), snapshot(third[0]))


def test_fit_is_steps_in_the_loaders_order():
    from numbacnn.data.loader import Loader
    from numbacnn.data.sources import open_dataset

    model = small_model()
    trainer = Trainer(model, optimizer=SGD(0.05, momentum=0.9))
    for epoch in range(3):
        for images, labels in Loader(open_dataset(small_data()), 8, True, 0).epoch(epoch):
            trainer.step(images, labels)
    assert same(snapshot(model), snapshot(fitted()[0]))


def test_evaluate_means_over_all_samples():
    model = small_model()
    trainer = Trainer(model, loss=losses.SoftmaxCrossEntropy(class_weights=(1, 2, 5)), metrics=["accuracy", metrics.TopKAccuracy(2)])
    images, labels = small_data(23)
    whole = trainer.evaluate((images, labels), batch_size=23)
    parts = trainer.evaluate((images, labels), batch_size=5)
    outputs = model.predict(images)
    assert whole == pytest.approx(parts, rel=1e-6)
    assert whole["loss"] == pytest.approx(trainer.losses[0](outputs, labels), rel=1e-6)
    assert whole["accuracy"] == np.mean(outputs.argmax(1) == labels)
    assert set(whole) == {"loss", "accuracy", "top_2_accuracy"}


def test_the_schedule_sets_the_rate():
    model = small_model()
    seen = []
    trainer = Trainer(
        model,
        optimizer=SGD(0.1),
        schedule="cosine",
        callbacks=[callbacks.LambdaCallback(step_end=lambda trainer, *_: seen.append(trainer.updater.numbers[0]))],
    )
    history = trainer.fit(small_data(), epochs=2, batch_size=8, progress=False)
    expected = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert seen == pytest.approx(expected)
    assert history.column("rate") == pytest.approx([0.1 * expected[3], 0.1 * expected[7]])


def test_callbacks_are_called_in_order():
    calls = []
    names = ("train_begin", "epoch_begin", "step_end", "epoch_end", "train_end")
    recorder = callbacks.LambdaCallback(**{name: lambda trainer, *a, name=name: calls.append((name, *a[:1])) for name in names})
    trainer = Trainer(small_model(), callbacks=[recorder])
    trainer.fit(small_data(), epochs=2, batch_size=16, progress=False)
    epoch = [[("epoch_begin", n), ("step_end", 2 * n - 1), ("step_end", 2 * n), ("epoch_end", n)] for n in (1, 2)]
    assert calls[:-1] == [("train_begin",), *epoch[0], *epoch[1]]
    assert calls[-1][0] == "train_end"


def test_early_stopping():
    stopper = callbacks.EarlyStopping("loss", patience=2)
    trainer = Trainer(small_model(), optimizer=SGD(0.0), callbacks=[stopper, callbacks.LambdaCallback()])
    history = trainer.fit(small_data(), epochs=20, batch_size=25, progress=False)
    losses_seen = history.column("loss")
    assert len(history) == losses_seen.index(min(losses_seen)) + 3 < 20
    seen = []
    stopper = callbacks.EarlyStopping("val_loss", patience=2)
    for value in (None, None, math.nan, 1.0, math.nan, 2.0):
        seen.append({"loss": 1.0} if value is None else {"val_loss": value})
        trainer = Trainer(small_model())
        trainer.history.extend(seen)
        if value is not None:
            stopper.on_epoch_end(trainer, len(seen), seen[-1])
        assert trainer._stopped == (len(seen) == 6)
    with pytest.raises(ConfigError, match="watches 'val_loss'; the epochs have epoch, loss"):
        Trainer(small_model(), callbacks=["early_stopping"]).fit(small_data(), progress=False)


@dataclasses.dataclass(frozen=True)
class Strangeness(metrics.Metric):
    """How little the outputs say; its sums are not Python's numbers."""

    name = "strangeness"
    smaller_is_better = True

    def measure(self, outputs, labels):
        return np.float32(1.0 / len(outputs)), np.int64(1)


def called(name):
    return dataclasses.make_dataclass("Called", [], bases=(metrics.Metric,), namespace={"name": name}, frozen=True)()


def test_a_metric_says_which_way_it_improves(tmp_path):
    trainer = Trainer(small_model(), metrics=[Strangeness(), "accuracy"], callbacks=[callbacks.EarlyStopping("strangeness", patience=2)])
    assert trainer.history.falling == {"loss", "strangeness"}
    history = trainer.fit(small_data(), epochs=9, batch_size=8, checkpoint=tmp_path, progress=False)
    assert len(history) == 3
    assert json.loads(history.to_json()) == list(history)
    history = History([{"val_strangeness": value} for value in (3.0, math.nan, 1.0, 2.0)], falling=["strangeness"])
    assert history.best("val_strangeness") is history[2]
    assert history.best("val_strangeness", "max") is history[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["accuracy", metrics.Accuracy(ignore_index=1)], "Two metrics are called 'accuracy'"),
        ([called("loss")], "'loss'; the records"),
        ([called("val_x")], "'val_x'; the records"),
    ],
)
def test_metrics_need_names_of_their_own(given, message):
    with pytest.raises(ConfigError, match=message):
        Trainer(small_model(), metrics=given)


def test_modes_that_are_none():
    for make in (callbacks.EarlyStopping, callbacks.ModelCheckpoint, schedules.ReduceOnPlateau):
        with pytest.raises(ConfigError, match="mode is 'least'"):
            make(mode="least")
    with pytest.raises(ConfigError, match="mode is 'least'"):
        History([{"loss": 1.0}]).best("loss", "least")


def test_csv_logger_and_model_checkpoint(tmp_path):
    trainer = Trainer(
        small_model(),
        optimizer=SGD(0.05),
        callbacks=[
            callbacks.CSVLogger(tmp_path / "h.csv"),
            callbacks.ModelCheckpoint(tmp_path / "new" / "best.safetensors", "val_accuracy"),
        ],
    )
    history = trainer.fit(small_data(), small_data(12, 1), epochs=3, batch_size=8, progress=False)
    with open(tmp_path / "h.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == history.column("loss")
    best = nc.load(tmp_path / "new" / "best.safetensors")
    assert Trainer(best).evaluate(small_data(12, 1))["accuracy"] == max(history.column("val_accuracy"))


def test_a_model_checkpoint_passes_over_what_is_no_number(tmp_path):
    path = tmp_path / "best.safetensors"
    saver = callbacks.ModelCheckpoint(path, "val_loss", mode="max")
    seen = []
    trainer = Trainer(small_model())
    for value in (1.0, math.nan, 0.5, 2.0):
        path.unlink(missing_ok=True)
        trainer.history.append({"val_loss": value})
        saver.on_epoch_end(trainer, 1, trainer.history[-1])
        seen.append(path.exists())
    assert seen == [True, False, False, True]


def test_parameters_are_checked_after_the_steps_of_an_epoch():
    calls = []
    for array, what in (("trainable", "Parameters are"), ("state", "Running statistics are")):

        def poison(trainer, step, loss, array=array):
            if step == 4:
                getattr(trainer.model.store, array).fill(np.inf)

        recorder = callbacks.LambdaCallback(step_end=poison, epoch_end=lambda *_: calls.append(1))
        trainer = Trainer(small_model(), callbacks=[recorder])
        with pytest.raises(DivergenceError, match=f"{what} no longer finite after step 4. Try"):
            trainer.fit(small_data(), small_data(9, 1), epochs=2, batch_size=8, progress=False)
    assert calls == []


def test_the_losses_of_batches_count_by_what_they_were_divided_by():
    images, labels = small_data(24)
    labels[:20] = 2  # most batches have few labels that count
    loss = losses.SoftmaxCrossEntropy(ignore_index=2, class_weights=(1.0, 3.0, 1.0))
    model = linear_image_model()
    trainer = Trainer(model, loss, SGD(0.0), metrics=[metrics.Accuracy(2), metrics.TopKAccuracy(2, ignore_index=2)])
    record = trainer.fit((images, labels), (images, labels), batch_size=8, progress=False)[0]
    for name in ("loss", "accuracy", "top_2_accuracy"):
        assert record[name] == pytest.approx(record[f"val_{name}"], rel=1e-6)
    assert record["loss"] == pytest.approx(loss(model.predict(images), labels), rel=1e-6)


def linear_image_model():
    x = nc.Input(SHAPE)
    return nc.Model(x, nc.Dense(CLASSES)(nc.Flatten()(x)), seed=1)


@pytest.mark.parametrize("named", [False, True])
def test_data_for_several_inputs_and_outputs(named):
    def build():
        a, b = nc.Input((5,)), nc.Input((3, 2))
        h = nc.Concatenate()([a, nc.Flatten()(b)])
        outputs = {"kind": nc.Dense(CLASSES)(h), "place": nc.Dense(2)(h)}
        return nc.Model([a, b], outputs if named else list(outputs.values()), seed=0)

    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((20, 5)).astype("f"), generator.standard_normal((20, 3, 2)).astype("f")
    kinds, places = generator.integers(0, CLASSES, 20), generator.standard_normal((20, 2)).astype("f")
    both, weights = ["softmax_cross_entropy", "mean_squared_error"], [1.0, 0.25]
    model = build()
    trainer = Trainer(model, both, SGD(0.05), loss_weights=weights)
    data = ((a, b), (kinds, places))
    history = trainer.fit(data, data, epochs=3, batch_size=8, progress=False)
    assert history[-1]["val_loss"] < history[0]["loss"]
    z, r = list(found.values()) if isinstance(found := model.predict((a, b)), dict) else found
    expected = losses.SoftmaxCrossEntropy()(z, kinds) + 0.25 * losses.MeanSquaredError()(r, places)
    assert trainer.evaluate(data, batch_size=7)["loss"] == pytest.approx(expected, rel=1e-6)
    by_hand = Trainer(build(), both, SGD(0.05), loss_weights=weights)
    for epoch in range(3):
        for images, labels in Loader(nc.ArrayDataset(*data), 8).epoch(epoch):
            by_hand.step(images, labels)
    assert same(snapshot(model), snapshot(by_hand.model))
    with pytest.raises(DataError, match=r"shape \(5,\); the model takes \(\(5,\), \(3, 2\)\)"):
        trainer.evaluate((a, kinds))
    with pytest.raises(ShapeError, match="2 outputs; 3 arrays of labels"):
        trainer.evaluate(((a, b), (kinds, places, places)))


def test_an_output_with_a_name():
    x = nc.Input((5,))
    model = nc.Model(x, {"kind": nc.Dense(CLASSES)(x)}, seed=1)
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((9, 5)), generator.integers(0, CLASSES, 9)
    plain = Trainer(nc.Model(x, nc.Dense(CLASSES)(x), seed=1)).evaluate((images, labels))
    assert Trainer(model).evaluate((images, labels)) == plain


def test_the_model_learns_the_names_of_the_classes(tmp_path):
    for name, brightness in (("dark", 20), ("light", 220)):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (8, 8), brightness + number).save(tmp_path / name / f"{number}.png")
    model = nc.Sequential([nc.Flatten(), nc.Dense(2)]).build((8, 8, 1))
    trainer = Trainer(model, optimizer=Adam(0.02))
    trainer.fit(tmp_path, epochs=15, batch_size=8, progress=False)
    assert model.classes == ("dark", "light")
    (tmp_path / "dark").rename(tmp_path.parent / "dark")
    only_light = trainer.evaluate(tmp_path)
    assert only_light["accuracy"] == 1.0  # its label is still 1
    own = nc.ArrayDataset(np.zeros((4, 8, 8, 1), np.float32), [0, 1, 0, 1], ["a", "b"])
    trainer.fit(own, progress=False)
    assert model.classes == ("dark", "light")


def test_resuming_from_nothing_says_so(tmp_path, capsys):
    trainer = Trainer(small_model())
    trainer.fit(small_data(), batch_size=8, checkpoint=tmp_path, resume=True)
    assert capsys.readouterr().out.splitlines()[0] == f"There is no checkpoint in {str(tmp_path)!r} to resume from; the run begins anew."
    trainer = Trainer(small_model())
    trainer.fit(small_data(), epochs=2, batch_size=8, checkpoint=tmp_path / "new", resume=True, progress=True)
    assert "no checkpoint" in capsys.readouterr().out
    Trainer(small_model(), schedule="constant").fit(small_data(), batch_size=8, checkpoint=tmp_path, resume=True)
    assert "no checkpoint" not in capsys.readouterr().out


def test_waiting_for_data_is_told(capsys):
    class Slow(nc.ArrayDataset):
        def batch(self, indices):
            time.sleep(0.02)
            return super().batch(indices)

    trainer = Trainer(small_model())
    history = trainer.fit(Slow(*small_data()), epochs=2, batch_size=8, workers=1)
    assert all(0.02 < record["waited_seconds"] <= record["seconds"] for record in history)
    assert "% of it waiting for data)" in capsys.readouterr().out
    assert "waiting" not in describe({**history[0], "waited_seconds": 0.04 * history[0]["seconds"]}, 2)


def test_plain_lines_where_there_is_no_terminal(capsys):
    trainer = Trainer(small_model())
    trainer.fit(small_data(), epochs=2, batch_size=8)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2: loss ")
    assert "images/s" in lines[1]
    trainer.fit(small_data(), batch_size=8, progress=False)
    assert capsys.readouterr().out == ""


def test_a_bar_on_request(capsys):
    Trainer(small_model()).fit(small_data(), small_data(), epochs=2, batch_size=8, progress=True)
    assert "epoch 2/2: loss" in capsys.readouterr().out


def test_fitting_again_goes_on():
    trainer = Trainer(small_model(), optimizer=SGD(0.05, momentum=0.9))
    trainer.fit(small_data(), epochs=1, batch_size=8, progress=False)
    history = trainer.fit(small_data(), epochs=2, batch_size=8, progress=False)
    assert trainer.epochs == 3
    assert len(history) == 2
    assert same(snapshot(trainer.model), snapshot(fitted()[0]))


def test_namespaces():
    assert (nc.schedules, nc.metrics, nc.callbacks) == (schedules, metrics, callbacks)
    assert nc.schedules.Constant is not nc.Constant


def test_importing_the_trainer_does_not_import_numba():
    code = "import sys, numbacnn.training.trainer; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Metrics and history -------------------------------------------------------------------------------------------------


def test_metrics():
    outputs = np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0], [0.0, 1.0, 2.0]])
    labels = np.array([1, 1, 0])
    assert metrics.Accuracy().measure(outputs, labels) == (1, 3)
    assert metrics.Accuracy(ignore_index=0).measure(outputs, labels) == (1, 2)
    assert metrics.Accuracy().measure(outputs, np.eye(3)[labels]) == (1, 3)
    assert metrics.Accuracy().measure(np.array([[0.3], [-2.0]]), np.array([[1.0], [1.0]])) == (1, 2)
    assert metrics.TopKAccuracy(2).measure(outputs, labels) == (2, 3)
    assert metrics.TopKAccuracy().measure(outputs, labels) == (3, 3)
    assert metrics.MeanAbsoluteError().measure(outputs, outputs + 2) == (18, 9)
    assert metrics.MeanSquaredError().measure(np.ones((4, 1)), np.zeros(4)) == (4, 4)
    with pytest.raises(ShapeError, match=r"mean_absolute_error got labels of shape \(3,\).*the outputs' shape \(3, 3\)"):
        metrics.MeanAbsoluteError().measure(outputs, labels)
    assert metrics.TopKAccuracy(2, ignore_index=0).measure(outputs, labels) == (2, 2)
    assert metrics.TopKAccuracy(2, ignore_index=-1).measure(outputs, np.array([1, 1, -1])) == (2, 2)
    assert metrics.TopKAccuracy(2, ignore_index=1).measure(outputs, np.eye(3)[labels]) == (2, 3)
    binary = np.array([[0.3], [-2.0], [-2.0]])
    assert metrics.Accuracy(ignore_index=255).measure(binary, np.array([1, 1, 255])) == (1, 2)
    assert metrics.Accuracy(ignore_index=0).measure(binary, np.array([0.4, 0.0, 1.0])) == (0, 2)
    assert metrics.resolve("top_k_accuracy").name == "top_5_accuracy"


def test_history(tmp_path):
    history = History([{"epoch": 1, "loss": 0.5, "accuracy": 0.1}, {"epoch": 2, "loss": 0.7, "accuracy": 0.9}])
    assert history.column("loss") == [0.5, 0.7]
    assert history.best("loss")["epoch"] == 1
    assert history.best("accuracy")["epoch"] == 2
    text = history.to_json(tmp_path / "h.json")
    assert json.loads(text) == list(history) == json.loads((tmp_path / "h.json").read_text())
    with pytest.raises(UnknownNameError, match="loss"):
        history.column("los")


# Schedules -----------------------------------------------------------------------------------------------------------


def factors(schedule, epochs=6, steps_per_epoch=5):
    return [schedule.factor(Progress(step, step // steps_per_epoch, steps_per_epoch, epochs)) for step in range(epochs * steps_per_epoch)]


def test_schedules_of_epochs():
    assert factors(schedules.Constant(), 2, 1) == [1, 1]
    assert factors(schedules.Step(2, 0.5), 5, 1) == [1, 1, 0.5, 0.5, 0.25]
    assert factors(schedules.MultiStep([1, 3], 0.1), 5, 1) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert factors(schedules.Exponential(0.5), 3, 2) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_schedules_of_steps():
    cosine = factors(schedules.Cosine(warmup=1, final=0.1))
    assert cosine[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert cosine[5] == 1
    assert cosine[-1] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 24 / 25)))
    assert factors(schedules.Polynomial(2), 4, 1) == pytest.approx([1, 9 / 16, 4 / 16, 1 / 16])
    warmed = factors(schedules.LinearWarmup(1, 0.5, then=schedules.Step(2, 0.1)), 3, 2)
    assert warmed == pytest.approx([0.5 + 0.5 / 3, 0.5 + 1 / 3, 1, 1, 0.1, 0.1])
    assert factors(schedules.LinearWarmup(1, then="exponential"), 2, 1)[1] == 0.95


def test_reduce_on_plateau():
    schedule = schedules.ReduceOnPlateau("val_loss", gamma=0.5, patience=1)
    history = [{"val_loss": value} for value in (1.0, 0.9, 0.95, 0.93, 0.92, 0.91, 0.5)]
    seen = [schedule.factor(Progress(0, 0, 1, 9, history[:count])) for count in range(len(history) + 1)]
    assert seen == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    with pytest.raises(ConfigError, match="watches 'val_loss'; the epochs have loss"):
        schedules.LinearWarmup(1, then=schedule).check({"loss": 1.0})
    trainer = Trainer(small_model(), schedule=schedule)
    with pytest.raises(ConfigError, match="watches 'val_loss'; the epochs have epoch, loss, accuracy"):
        trainer.fit(small_data(), epochs=2, progress=False)


@pytest.mark.parametrize(("falling", "better", "worse"), [(True, 0.5, 2.0), (False, 2.0, 0.5)])
def test_which_way_a_plateau_lies(falling, better, worse):
    def bad_epochs(name, mode, values):
        history = History([{name: 1.0}, *({name: value} for value in values)], falling=["fit"] if falling else [])
        return schedules.ReduceOnPlateau(name, 0.5, patience=0, mode=mode).factor(Progress(0, 0, 1, 9, history)) < 1

    for name, mode in (("fit", "auto"), ("val_fit", "auto"), ("other_error", "min" if falling else "max")):
        assert not bad_epochs(name, mode, [better])
        assert bad_epochs(name, mode, [worse])
        assert bad_epochs(name, mode, [math.nan])


def test_a_plateau_after_a_value_that_is_no_number():
    schedule = schedules.ReduceOnPlateau("loss", 0.5, patience=0)

    def factor(*values):
        return schedule.factor(Progress(0, 0, 1, 9, [{"loss": value} for value in values]))

    assert factor(1.0, math.nan) == 0.5
    assert factor(math.nan, 1.0) == factor(math.nan) == 0.5
    assert factor(math.nan, 1.0, 0.5) == 0.5
    assert factor(1.0, math.nan, 0.9) == 0.5


def test_epochs_without_the_watched_value_do_not_count():
    schedule = schedules.ReduceOnPlateau("val_loss", 0.5, patience=0)
    history = [{"loss": 1.0}, {"loss": 1.0}, {"val_loss": 1.0}]
    assert schedule.factor(Progress(0, 0, 1, 9, history)) == 1
    assert schedule.factor(Progress(0, 0, 1, 9, [*history, {"val_loss": 1.0}])) == 0.5


@pytest.mark.parametrize("name", ["constant", "step", "multi_step", "exponential", "cosine", "polynomial", "linear_warmup", "one_cycle"])
def test_schedule_names(name):
    assert all(0 <= factor <= 1 for factor in factors(schedules.resolve(name)))


def test_wrong_schedules():
    for make in (lambda: schedules.Step(0), lambda: schedules.Cosine(-1), lambda: schedules.OneCycle(1.5), lambda: schedules.resolve(3)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(UnknownNameError, match="cosine"):
        schedules.resolve("cosinus")


@pytest.mark.oracle
def test_torch_schedules():
    torch = pytest.importorskip("torch")

    def rates(make, steps, values=None):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler, found = make(optimizer), []
        for step in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step(*([] if values is None else [values[step]]))
        return found

    of = torch.optim.lr_scheduler
    assert factors(schedules.Cosine()) == pytest.approx(rates(lambda o: of.CosineAnnealingLR(o, 30), 30))
    assert factors(schedules.OneCycle()) == pytest.approx(rates(lambda o: of.OneCycleLR(o, 1.0, 30), 30))
    values = np.random.default_rng(0).random(40).tolist()
    theirs = rates(lambda o: of.ReduceLROnPlateau(o, factor=0.5, patience=2, cooldown=1), 40, values)
    schedule = schedules.ReduceOnPlateau("loss", 0.5, 2, cooldown=1)
    history = [{"loss": value} for value in values]
    assert [schedule.factor(Progress(0, 0, 1, 40, history[:k])) for k in range(40)] == pytest.approx(theirs)
