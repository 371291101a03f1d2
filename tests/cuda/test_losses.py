"""Every registered loss on the GPU, against the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numbacnn.errors import DeviceError, ShapeError
from numbacnn.plugin import registry
from numbacnn.training.cuda import twin_of
from numbacnn.training.losses import Loss, SoftmaxCrossEntropy

from .test_layers import compiled, no_device, simulated  # noqa: F401

ROWS = [(1, 1), (5, 3), (2, 3, 7), (70, 17), (3, 300)]  # a row, rows of several blocks, rows longer than a group of threads
WEIGHTS: dict[str, Any] = {"class_weights": "some"}  # as many as there are classes
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "softmax_cross_entropy": [{}, {"label_smoothing": 0.1}, {"ignore_index": 0}, {"ignore_index": -100, "label_smoothing": 0.2} | WEIGHTS],
    "multi_class_hinge": [{}, {"margin": 0.7, "squared": True} | WEIGHTS, {"average_classes": True}],
    "binary_cross_entropy": [{}, {"positive_weight": 2.5}, {"positive_weight": "some"}],
    "mean_squared_error": [{}],
    "mean_absolute_error": [{}],
    "huber": [{}, {"delta": 0.3}],
    "margin": [{}, {"present": 0.8, "absent": 0.2, "absent_weight": 0.7}],
}
LABELLED = ("softmax_cross_entropy", "multi_class_hinge", "margin")
CASES = [(name, options, shape) for name, entries in OPTIONS.items() for options in entries for shape in ROWS]
each_case = pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)


def loss_of(name: str, options: dict[str, Any], classes: int) -> Loss:
    some = tuple(np.linspace(0.5, 2.0, classes))
    return registry.load("loss", name)(**{option: some if value == "some" else value for option, value in options.items()})


def targets_of(loss: Loss, name: str, outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if name not in LABELLED:
        return loss.targets(rng.random(outputs.shape), outputs.shape, "float32")
    labels = rng.integers(0, outputs.shape[-1], outputs.shape[:-1])
    if getattr(loss, "ignore_index", None) == -100:
        labels.flat[::3] = -100
    return loss.targets(labels, outputs.shape, "float32")


def on_gpu(loss: Loss, outputs: np.ndarray, targets: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """``total`` and the gradient."""
    from numbacnn.kernels.cuda.memory import empty, on_device

    gradient, total = empty(outputs.shape, np.float32), on_device(np.full(2, np.nan))
    twin_of(loss, "loss", "compute")(loss, on_device(outputs), on_device(targets), gradient, total, scale)
    return total.download(), gradient.download()


def check(loss: Loss, outputs: np.ndarray, targets: np.ndarray, scale: float = 0.7) -> None:
    expected, slopes = np.zeros(2), np.empty_like(outputs)
    loss.compute(outputs, targets, slopes, expected, scale)
    total, gradient = on_gpu(loss, outputs, targets, scale)
    np.testing.assert_allclose(total, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, slopes, rtol=2e-5, atol=2e-6 * max(np.abs(slopes).max(), 1 / outputs.size))


def logits(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_the_table_has_every_loss() -> None:
    assert set(OPTIONS) == set(registry.names("loss"))


@simulated
@each_case
def test_same_as_on_the_cpu(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    loss, outputs = loss_of(name, options, shape[-1]), logits(shape)
    check(loss, outputs, targets_of(loss, name, outputs, np.random.default_rng(1)))


@simulated
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_soft_targets(shape: tuple[int, ...], smoothing: float) -> None:
    targets = np.random.default_rng(2).random(shape).astype(np.float32)
    targets /= targets.sum(axis=-1, keepdims=True)
    weights = tuple(np.linspace(0.5, 2.0, shape[-1]))
    check(SoftmaxCrossEntropy(smoothing), logits(shape), targets)
    check(SoftmaxCrossEntropy(smoothing, weights), logits(shape), targets)


@simulated
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "mean_squared_error", "multi_class_hinge"])
def test_blocks_that_go_over_several_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from numbacnn.kernels.cuda import loss as kernels

    monkeypatch.setattr(kernels, "BLOCKS", 2)
    loss, outputs = loss_of(name, {}, 9), logits((301, 9))
    check(loss, outputs, targets_of(loss, name, outputs, np.random.default_rng(1)))


@simulated
def test_nothing_to_average_over() -> None:
    outputs, labels = logits((4, 3)), np.full(4, -1)
    loss = SoftmaxCrossEntropy(ignore_index=-1)
    total, gradient = on_gpu(loss, outputs, loss.targets(labels, outputs.shape, "float32"), 1.0)
    assert total.tolist() == [0, 0]
    assert not gradient.any()


@simulated
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_not_hidden(name: str, value: float) -> None:
    loss, outputs = loss_of(name, {}, 5), logits((6, 5))
    targets = targets_of(loss, name, outputs, np.random.default_rng(1))
    outputs[3, 2] = value
    assert not np.isfinite(on_gpu(loss, outputs, targets, 1.0)[0][0])


@simulated
def test_weights_for_other_classes_are_refused() -> None:
    with pytest.raises(ShapeError, match="has 3 class_weights; the model has 4 outputs"):
        on_gpu(SoftmaxCrossEntropy(class_weights=(1, 2, 3)), logits((2, 4)), np.zeros(2, np.int64), 1.0)


@simulated
def test_a_loss_that_computes_something_else_is_refused() -> None:
    class Twice(SoftmaxCrossEntropy):
        def compute(self, outputs: Any, targets: Any, gradient: Any, total: Any, scale: float = 1.0) -> None:
            super().compute(outputs, targets, gradient, total, 2 * scale)

    with pytest.raises(DeviceError, match="The loss Twice, of tests, has no kernels for the GPU"):
        twin_of(Twice(), "loss", "compute")


@compiled
@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_compile_without_spills(name: str, no_device: Any, capabilities: tuple) -> None:  # noqa: F811
    no_device.wanted.clear()
    loss, outputs = loss_of(name, {}, 9), logits((4, 9))
    on_gpu(loss, outputs, targets_of(loss, name, outputs, np.random.default_rng(1)), 1.0)
    if name == "softmax_cross_entropy":
        on_gpu(SoftmaxCrossEntropy(ignore_index=0), outputs, np.zeros(4, np.int64), 1.0)
        on_gpu(loss, outputs, outputs, 1.0)
    for kernel, kinds in no_device.wanted:
        for capability in capabilities:
            assert kernel.machine_code(kinds, capability).spilled == 0
