"""Training on the GPU: all that a trainer does, against the CPU's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numbacnn_architectures.capsules import CapsuleLength, CapsuleRouting

import numbacnn as nc
from numbacnn.errors import ConfigError, DeviceError, DivergenceError
from numbacnn.training.losses import Loss, MeanSquaredError

from .test_layers import simulated

pytestmark = simulated

SHAPE = (2, 3, 2)


def network(statistics: bool = True) -> nc.Model:
    """With running statistics or without, something random, and logits of four classes."""
    x = nc.Input(SHAPE)
    y = nc.Activation("silu")(nc.BatchNorm()(x, name="first") if statistics else x)
    y = nc.Dropout(0.25)(nc.PReLU()(y, name="second"))
    y = CapsuleLength()(CapsuleRouting(4, width=3, iterations=2)(nc.Reshape((4, 3))(y), name="route"))
    return nc.Model(x, y, seed=1)


def two_outputs() -> nc.Model:
    x = nc.Input(SHAPE)
    y = nc.BatchNorm()(x)
    return nc.Model(x, {"classes": nc.Flatten()(nc.Activation("tanh")(y)), "values": nc.PReLU()(y)})


def batch(size: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((size, *SHAPE)).astype(np.float32), rng.integers(0, 4, size)


def trainer_of(device: str, model: nc.Model | None = None, **options: Any) -> nc.Trainer:
    return nc.Trainer(model or network(), **{"optimizer": nc.SGD(0.3, momentum=0.9), "device": device} | options)


def parameters_of(model: nc.Model) -> dict[str, np.ndarray]:
    """Copies, without holding an array of the model."""
    return {name: model.store.view(name).copy() for name in model.store.specs}


def assert_alike(found: nc.Model, expected: nc.Model, tolerance: float = 2e-5) -> None:
    ours, theirs = parameters_of(found), parameters_of(expected)
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


def both(act: Callable[[nc.Trainer], Any], make: Callable[[str], nc.Trainer] = trainer_of) -> tuple[Any, Any]:
    """What an act gives on the GPU and on the CPU, whose models are alike afterwards."""
    trainers = [make("cuda"), make("cpu")]
    results = [act(trainer) for trainer in trainers]
    assert_alike(trainers[0].model, trainers[1].model)
    for name, array in trainers[1].updater.arrays().items():
        np.testing.assert_allclose(trainers[0].updater.arrays()[name], array, rtol=1e-4, atol=2e-5, err_msg=name)
    return results[0], results[1]


def steps(count: int, size: int = 5) -> Callable[[nc.Trainer], list[float]]:
    return lambda trainer: [trainer.step(*batch(size, seed)) for seed in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2},
        {"recompute": "cheap"},
        {"recompute": "blocks", "optimizer": nc.AdamW(0.05, clip_norm=0.1)},
        {"accumulate": 3, "recompute": "cheap", "optimizer": nc.Adam(0.05, clip_norm=0.1, clip_value=0.05)},
        {"loss": nc.SoftmaxCrossEntropy(0.1, (1.0, 2.0, 0.5, 1.0), ignore_index=3), "accumulate": 2},
    ],
    ids=str,
)
def test_steps(options: dict[str, Any]) -> None:
    found, expected = both(steps(3), lambda device: trainer_of(device, **options))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(set(found)) == 3


def test_same_bits_every_time() -> None:
    models = [network(), network()]
    for model in models:
        steps(3)(trainer_of("cuda", model))
    for name, array in parameters_of(models[0]).items():
        np.testing.assert_array_equal(array, models[1].store.view(name), err_msg=name)


def test_batch_sizes_that_change() -> None:
    found, expected = both(lambda trainer: [trainer.step(*batch(size, size)) for size in (4, 3, 4, 1 + 1, 4)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients(accumulate: int) -> None:
    def act(trainer: nc.Trainer) -> dict[str, np.ndarray]:
        trainer.step(*batch())
        before = parameters_of(trainer.model)
        found = trainer.gradients(*batch(seed=9))
        for name, array in parameters_of(trainer.model).items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)
        trainer.step(*batch(seed=2))
        return found

    found, expected = both(act, lambda device: trainer_of(device, accumulate=accumulate))
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_gradients_of_what_is_frozen_are_zeros_again() -> None:
    trainer = trainer_of("cuda", accumulate=2)
    assert trainer.gradients(*batch())["first.weight"].any()
    trainer.model.freeze("first")
    found = trainer.gradients(*batch())
    assert not found["first.weight"].any()
    assert found["second.weight"].any()


def test_several_outputs_with_several_losses() -> None:
    def make(device: str) -> nc.Trainer:
        return trainer_of(device, two_outputs(), loss=["softmax_cross_entropy", nc.Huber(0.5)], loss_weights=(0.5, 2.0), metrics=())

    def act(trainer: nc.Trainer) -> list[float]:
        rng = np.random.default_rng(3)
        values = rng.standard_normal((4, *SHAPE)).astype(np.float32)
        return [trainer.step(batch(4, seed)[0], (rng.integers(0, 12, 4), values)) for seed in range(3)]

    found, expected = both(act, make)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Losses that are not finite ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accumulate", "bad"), [(1, 0), (2, 0), (2, -1)])
def test_divergence_leaves_all_as_it_was(accumulate: int, bad: int) -> None:
    """Also where only the second of two micro-batches is bad, and the first one has moved running statistics."""

    def act(trainer: nc.Trainer) -> list[float]:
        losses = [trainer.step(*batch(seed=1))]
        before, state = parameters_of(trainer.model), trainer.updater.state.copy()
        images, labels = batch(seed=2)
        images[bad] = np.nan
        with pytest.raises(DivergenceError, match="The loss of step 2 is nan"):
            trainer.step(images, labels)
        for name, array in parameters_of(trainer.model).items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)
        trainer.updater.arrays()
        assert trainer.device == "cuda" or (trainer.updater.state == state).all()
        assert trainer.steps == 1
        return [*losses, trainer.step(*batch(seed=3))]

    found, expected = both(act, lambda device: trainer_of(device, accumulate=accumulate))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Runs ----------------------------------------------------------------------------------------------------------------


def data(size: int = 14) -> tuple[np.ndarray, np.ndarray]:
    return batch(size, seed=4)


def entries(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if "second" not in name} for entry in history]


def test_fit_and_evaluate_with_a_schedule() -> None:
    def act(trainer: nc.Trainer) -> Any:
        history = trainer.fit(data(), batch(6, 8), epochs=2, batch_size=4, progress=False, workers=1)
        return entries(history), trainer.evaluate(batch(6, 8), batch_size=4)

    found, expected = both(act, lambda device: trainer_of(device, schedule="cosine", metrics=("accuracy",)))
    for got, wanted in zip((*found[0], found[1]), (*expected[0], expected[1])):
        assert got == pytest.approx(wanted, rel=1e-4)
    assert found[0][0]["rate"] != found[0][1]["rate"]


def test_resumed_runs_have_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 4, "progress": False, "workers": 1}
    whole, first, second = (trainer_of("cuda", optimizer=nc.Adam(0.05)) for _ in range(3))
    whole.fit(data(), epochs=2, **options)
    first.fit(data(), epochs=1, checkpoint=tmp_path, **options)
    second.step(*batch(4))  # what it has learned, and its graphs, are from before
    second.fit(data(), epochs=2, checkpoint=tmp_path, resume=True, **options)
    for name, array in parameters_of(whole.model).items():
        np.testing.assert_array_equal(second.model.store.view(name), array, err_msg=name)
    on_cpu = trainer_of("cpu", optimizer=nc.Adam(0.05))
    on_cpu.fit(data(), epochs=3, checkpoint=tmp_path, resume=True, **options)
    assert on_cpu.epochs == 3


# The host's side -----------------------------------------------------------------------------------------------------


def test_parameters_are_read_and_written_between_steps() -> None:
    def act(trainer: nc.Trainer) -> list[float]:
        parameters = trainer.model.parameters
        held, losses = parameters["second.weight"], []
        for seed in range(4):
            losses.append(trainer.step(*batch(seed=seed)))
            held *= 0.9  # without asking for it again
            parameters["first.bias"] = parameters["first.bias"] + 0.1
            losses.append(float(held.sum()))
        del held
        losses.append(trainer.step(*batch(seed=9)))
        losses.append(float(trainer.model.predict(batch()[0]).sum()))
        return losses

    found, expected = both(act)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def folding() -> nc.Model:
    """Where a first part that is frozen has a normalisation folded into a convolution."""
    x = nc.Input(SHAPE)
    y = nc.BatchNorm()(nc.Conv2D(2, 1, bias=False)(x), name="first")
    y = CapsuleRouting(4, width=3, iterations=1)(nc.PReLU()(y, name="second"), name="route")
    return nc.Model(x, CapsuleLength()(y), seed=1)


@pytest.mark.parametrize("make", [network, folding])
def test_freezing_between_steps(make: Callable[[], nc.Model]) -> None:
    """A first part that is frozen runs as in inference, with folded vectors, which must follow what was learned meanwhile."""
    try:
        make().to("cuda")
    except DeviceError as error:  # until convolutions have kernels
        pytest.skip(str(error))

    def act(trainer: nc.Trainer) -> list[float]:
        model, losses = trainer.model, []
        for change in (lambda: model.freeze_until("second"), model.unfreeze, lambda: model.freeze_until("second"), model.unfreeze):
            change()
            losses += steps(2)(trainer)
        model.freeze("second", "route.*", statistics=False)
        return losses + steps(1)(trainer)

    found, expected = both(act, lambda device: trainer_of(device, make()))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_all_frozen() -> None:
    def act(trainer: nc.Trainer) -> list[float]:
        trainer.model.freeze()
        return steps(2)(trainer)

    before = parameters_of(network())
    trainer = trainer_of("cuda", optimizer=nc.SGD(0.1, clip_norm=1.0))
    act(trainer)
    for name, array in before.items():
        np.testing.assert_array_equal(trainer.model.store.view(name), array, err_msg=name)


@pytest.mark.parametrize("statistics", [False, True])
def test_back_and_forth_between_devices(statistics: bool) -> None:
    model, images = network(statistics), batch()[0]
    old, on_cpu = trainer_of("cpu", model), trainer_of("cpu", network(statistics))
    reference = on_cpu.model
    for trainer in (old, on_cpu):
        trainer.step(*batch(seed=1))
    model.predict(images)  # a plan on the CPU from before
    new = trainer_of("cuda", model, optimizer=nc.SGD(0.1))
    again = trainer_of("cpu", reference, optimizer=nc.SGD(0.1))
    for trainer in (new, again):
        trainer.step(*batch(seed=2))
    np.testing.assert_allclose(model.predict(images), reference.predict(images), rtol=1e-5)
    for trainer in (old, on_cpu):  # whose plans are from before
        trainer.step(*batch(seed=3))
    model.to("cpu")
    np.testing.assert_allclose(model.predict(images), reference.predict(images), rtol=1e-5)
    for trainer in (new, again):
        trainer.step(*batch(seed=4))
    assert_alike(model, reference)
    np.testing.assert_allclose(model.to("cuda").predict(images), reference.predict(images), rtol=1e-5)


def test_saved_after_training(tmp_path: Path) -> None:
    trainer = trainer_of("cuda")
    steps(2)(trainer)
    trainer.model.save(tmp_path / "model.safetensors")
    loaded = nc.load(tmp_path / "model.safetensors")
    assert loaded.device == "cpu"
    np.testing.assert_allclose(loaded.predict(batch()[0]), trainer.model.predict(batch()[0]), rtol=1e-5)


def test_predictions_of_several_threads() -> None:
    model = network().to("cuda")
    sizes = [1, 2, 3, 2] * 3
    expected = {size: model.predict(batch(size)[0]) for size in set(sizes)}
    model._plans.clear()
    wrong: list[Any] = []

    def predict(size: int) -> None:
        try:
            for _ in range(2):
                np.testing.assert_array_equal(model.predict(batch(size)[0]), expected[size])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=predict, args=(size,)) for size in sizes]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# What is refused -----------------------------------------------------------------------------------------------------


class Mystery(nc.Layer):
    """Has no kernels."""

    recordable: ClassVar[bool] = True

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        y[...] = x


class Riddle(MeanSquaredError):
    """Computes something else than its base."""

    def compute(self, *arguments: Any) -> None:
        super().compute(*arguments)


def test_a_layer_without_kernels_is_named() -> None:
    x = nc.Input(SHAPE)
    model = nc.Model(x, nc.Flatten()(Mystery()(x, name="odd")))
    with pytest.raises(DeviceError, match=r"'odd': Mystery layers, of tests, have no kernels for the GPU"):
        model.to("cuda")
    assert model.device == "cpu"
    assert model.predict(batch()[0]).shape == (5, 12)


@pytest.mark.parametrize("loss", [Loss, Riddle])
def test_a_loss_without_kernels_is_named(loss: type[Loss]) -> None:
    trainer = trainer_of("cuda", loss=loss(), metrics=())
    with pytest.raises(DeviceError, match=f"The loss {loss.__name__}, of .*, has no kernels for the GPU"):
        trainer.step(batch()[0], np.zeros((5, 4), np.float32))


def test_double_precision_is_refused() -> None:
    x = nc.Input(SHAPE)
    with pytest.raises(ConfigError, match="A model in float64 was to run on the GPU"):
        nc.Model(x, nc.Flatten()(x), dtype="float64").to("cuda")


def test_released_parameters_are_refused() -> None:
    trainer = trainer_of("cuda")
    with pytest.raises(ConfigError, match="the model runs on the GPU"):
        trainer.model.release_parameters()
    released = nc.Sequential([nc.Dense(3)]).build((4,))
    released.release_parameters(2)
    with pytest.raises(ConfigError, match="has released its parameters"):
        released.to("cuda")
