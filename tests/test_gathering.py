"""In training, convolutions gather the statistics of the batch norm behind them while what they wrote is still in a cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn import arrays
from numbacnn.graph import passes
from numbacnn.kernels import conv, jit, norm, statistics
from numbacnn.kernels.conv import minimal
from numbacnn.kernels.conv.tiles import MAX_ROWS
from numbacnn.layers.base import GATHERED
from tests.norm_networks import branches, relu, residual

BATCH = 3


def window(size: tuple, stride: int = 1, dilation: int = 1, padding: tuple = (0, 0, 0), groups: int = 1) -> conv.Window:
    strides, dilations = ((step if k > 1 else 1 for k in size) for step in (stride, dilation))
    return conv.Window(size, tuple(strides), tuple(dilations), padding, groups)


SAME = (0, 1, 1)
DIRECT = {  # window, places of input, channels, output channels, batch
    "pointwise": (window((1, 1, 1)), (1, 13, 11), 7, 37, 3),
    "pointwise, several tasks": (window((1, 1, 1)), (1, 31, 29), 70, 16, 2),
    "pointwise, of one pixel": (window((1, 1, 1)), (1, 1, 1), 5, 3, 1),
    "pointwise, stride": (conv.Window((1, 1, 1), (1, 2, 2), (1, 1, 1), (0, 0, 0)), (1, 13, 11), 40, 33, 3),
    "3x3": (window((1, 3, 3), padding=SAME), (1, 17, 13), 5, 70, 2),
    "3x3, narrow pieces": (window((1, 3, 3), padding=SAME), (1, 5, 3), 130, 24, 3),
    "3x3, stride": (window((1, 3, 3), stride=2, padding=SAME), (1, 31, 29), 9, 31, 3),
    "3x3, dilation": (window((1, 3, 3), dilation=2), (1, 17, 19), 3, 5, 2),
    "groups": (window((1, 3, 3), padding=SAME, groups=3), (1, 9, 11), 6, 120, 2),
    "narrow groups": (window((1, 3, 3), padding=SAME, groups=3), (1, 9, 11), 6, 9, 2),
    "a channel of each group": (window((1, 3, 3), padding=SAME, groups=4), (1, 9, 11), 4, 8, 2),
    "a long line": (window((1, 1, 3)), (1, 1, 2503), 2, 5, 2),
    "folded pixels": (window((1, 3, 3), padding=SAME), (1, 17, 12), 7, 6, 3),
    "folded pixels, stride": (window((2, 5, 5), stride=2, padding=(0, 2, 2)), (3, 31, 32), 3, 3, 2),
    "a column": (window((1, 3, 1)), (1, 703, 1), 2, 5, 1),
    "planes": (window((3, 3, 3), padding=(1, 1, 1)), (4, 7, 6), 3, 18, 2),
}
MINIMAL = {
    "a line of tiles": (window((1, 3, 3), padding=SAME), (1, 11, 61), 12, 37, 2),
    "lines of tiles": (window((1, 3, 3), padding=SAME), (1, 19, 14), 20, 32, 3),
    "a tile": (window((1, 3, 3), padding=SAME), (1, 2, 3), 12, 16, 2),
    "planes": (window((3, 3, 3), padding=(1, 1, 1)), (3, 9, 10), 16, 70, 2),
}


def places_of(seen: conv.Window, size: tuple) -> Any:
    spans = zip(size, seen.padding, seen.dilation, seen.extent, seen.stride)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in spans)


def gathered_by(case: tuple, method: conv.Method, threads: int, dtype: Any = np.float32, mean: float = 0) -> tuple[np.ndarray, ...]:
    """Output, and the statistics that the convolution gathers of it."""
    seen, size, channels, outputs, batch = case
    places, rng = places_of(seen, size), np.random.default_rng(0)
    x = arrays.empty((batch, *size, channels), dtype)
    x[...] = rng.standard_normal(x.shape)
    fan_in = channels // seen.groups
    w = (rng.standard_normal((*seen.extent, fan_in, outputs)) / math.sqrt(seen.taps * fan_in)).astype(dtype)
    forward = conv.Forward(seen, size, channels, places, outputs, batch, False, method)
    scratch = np.full((threads, forward.scratch_elements(threads, gathers=True)), np.nan, dtype)
    packing = np.full((threads, forward.packing_elements), np.nan, dtype)
    packed, y = np.full(forward.packed_elements, np.nan, dtype), np.full((batch, *places, outputs), np.nan, dtype)
    found = np.full((statistics.STATISTICS, 1, math.prod(forward.gathered_shape), outputs), np.nan, dtype)
    with jit.record(threads=threads) as steps:
        forward.pack(w, np.ones(outputs, dtype), packed, packing)
        forward.run(x, packed, np.full(outputs, mean, dtype), y, scratch, gathered=found)
    jit.run(steps)
    return y, found


def merged(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel."""
    channels = found.shape[-1]
    mean, rstd, nothing, totals = np.zeros((1, channels)), np.zeros((1, channels)), np.zeros(0), np.zeros(statistics.TOTALS * channels)
    statistics.merge_statistics(found, totals, channels, 1.0, mean, rstd, 0.0, nothing, nothing)
    return mean[0], 1 / rstd[0] ** 2 - 1


METHODS = {"direct": (DIRECT, conv.Method()), **{f"F({t}x{t}) fused": (MINIMAL, conv.Method(t)) for t in (2, 4)}} | {
    f"F({t}x{t}) phased": (MINIMAL, conv.Method(t, 0)) for t in (2, 4)
}
each_kind = pytest.mark.parametrize(
    ("case", "method"),
    [
        pytest.param(case, method, id=f"{name}: {kind}", marks=[pytest.mark.nightly] if method.tile == 2 else [])
        for name, (cases, method) in METHODS.items()
        for kind, case in cases.items()
    ],
)


each_scale = pytest.mark.parametrize(
    ("dtype", "mean"),
    [(np.float32, 0), (np.float32, 1e4), pytest.param(np.float64, 1e4, marks=pytest.mark.nightly)],
    ids=["float32", "scaled", "float64"],
)


@each_scale
@each_kind
def test_gathered_statistics_are_those_of_the_output(case: tuple, method: conv.Method, dtype: Any, mean: float) -> None:
    check_statistics(*gathered_by(case, method, 2, dtype, mean))


def check_statistics(y: np.ndarray, found: np.ndarray) -> None:
    """What is found are the statistics of ``y``, as NumPy and the pass over the array find them."""
    rows = y.reshape(-1, y.shape[-1]).astype(np.float64)
    np.testing.assert_array_equal(found[0].sum(axis=(0, 1)), len(rows))
    average, variance = merged(found)
    precise = y.dtype == np.float64
    np.testing.assert_allclose(average, rows.mean(axis=0), rtol=1e-9 if precise else 1e-7, atol=1e-9 if precise else 1e-6)
    np.testing.assert_allclose(variance, rows.var(axis=0), rtol=1e-8 if precise else 2e-6, atol=1e-9)
    apart = np.full((statistics.STATISTICS, 1, norm.chunks(len(rows)), y.shape[-1]), np.nan, y.dtype)
    norm.partial_statistics(y.reshape(1, *rows.shape), apart)
    for a, b in zip((average, variance), merged(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8 if precise else 2e-6, atol=1e-9 if precise else 1e-6)


@each_kind
def test_bits_do_not_depend_on_threads(case: tuple, method: conv.Method) -> None:
    y, found = gathered_by(case, method, 1)
    for threads in (2, 3):
        for a, b in zip((y, found), gathered_by(case, method, threads), strict=True):
            np.testing.assert_array_equal(a, b)


def test_fused_and_phased_gather_the_same_bits() -> None:
    """Which of them runs depends on the number of threads."""
    for case in MINIMAL.values():
        for a, b in zip(gathered_by(case, conv.Method(4), 2), gathered_by(case, conv.Method(4, 0), 1), strict=True):
            np.testing.assert_array_equal(a, b)


def test_phases_of_some_images_and_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    case = MINIMAL["planes"]
    expected = gathered_by(case, conv.Method(4, 0), 1)
    monkeypatch.setattr(minimal, "PHASED_BYTES", 1)
    for a, b in zip(gathered_by(case, conv.Method(4, 0), 1), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_parts_are_few() -> None:
    """Their statistics are little beside the pixels, and large enough to be shared among threads."""
    for size, channels in ((112, 32), (56, 64), (56, 256), (28, 512), (14, 1024)):
        for method in (conv.Method(), conv.Method(4)):
            forward = conv.Forward(window((1, 3, 3), padding=SAME), (1, size, size), channels, (1, size, size), channels, 4, False, method)
            assert math.prod(forward.gathered_shape) * MAX_ROWS <= 4 * size * size


DEPTHWISE = {
    "3x3": (window((1, 3, 3), padding=SAME), (1, 17, 13), 70, 3),
    "a wide map": (window((1, 3, 3), padding=SAME), (1, 5, 301), 37, 2),
    "5x5, stride": (window((1, 5, 5), stride=2, padding=(0, 2, 2)), (1, 31, 29), 24, 3),
    "dilation": (window((1, 3, 3), dilation=2), (1, 11, 29), 5, 1),
    "a pixel": (window((1, 3, 3), padding=SAME), (1, 1, 1), 3, 2),
    "a line": (window((1, 1, 3)), (1, 1, 1000), 3, 2),
    "planes": (window((3, 3, 3), padding=(1, 1, 1)), (4, 9, 6), 66, 2),
}


def gathered_depthwise(case: tuple, threads: int, dtype: Any = np.float32, mean: float = 0) -> tuple[np.ndarray, ...]:
    """As :func:`gathered_by`."""
    seen, size, channels, batch = case
    places, rng = places_of(seen, size), np.random.default_rng(0)
    x, w = rng.standard_normal((batch, *size, channels)).astype(dtype), rng.standard_normal((*seen.extent, 1, channels)).astype(dtype) / 3
    scratch = np.full((threads, conv.depthwise_elements(seen, channels, places, batch, threads)), np.nan, dtype)
    packed, y = np.empty(conv.depthwise_packed_elements(channels, seen.taps), dtype), np.full((batch, *places, channels), np.nan, dtype)
    parts = math.prod(conv.depthwise_gathered_shape(seen, channels, places, batch))
    found = np.full((statistics.STATISTICS, 1, parts, channels), np.nan, dtype)
    with jit.record(threads=threads) as steps:
        conv.pack_depthwise(w, seen, np.ones(channels, dtype), packed)
        conv.depthwise_convolve(x, packed, np.full(channels, mean, dtype), y, seen, scratch, gathered=found)
    jit.run(steps)
    return y, found


@each_scale
@pytest.mark.parametrize("case", DEPTHWISE.values(), ids=DEPTHWISE)
def test_depthwise_convolutions_gather_too(case: tuple, dtype: Any, mean: float) -> None:
    y, found = gathered_depthwise(case, 1, dtype, mean)
    check_statistics(y, found)
    for threads in (2, 3):
        for a, b in zip((y, found), gathered_depthwise(case, threads, dtype, mean), strict=True):
            np.testing.assert_array_equal(a, b)


# In networks -----------------------------------------------------------------------------------------------------------

SHAPE = (9, 11, 5)


def plain(x: Any) -> Any:
    h = relu(nc.BatchNorm()(nc.Conv2D(16, 3, padding="same", bias=False)(x)))
    h = relu(nc.BatchNorm()(nc.Conv2D(20, 3, padding="same")(h)))  # minimal filtering
    return nc.BatchNorm()(nc.Conv2D(5, 3, stride=2)(h))


def others(x: Any) -> Any:
    h = relu(nc.BatchNorm()(nc.SeparableConv2D(6, 3)(x)))
    h = nc.BatchNorm()(nc.DepthwiseConv2D(3, multiplier=2)(h))
    return nc.BatchNorm()(nc.DepthwiseConv2D(3, stride=2)(h))


NETWORKS = {"plain": plain, "residual": residual, "branches": branches, "others": others}
each_network = pytest.mark.parametrize("head", NETWORKS.values(), ids=NETWORKS)


def network(head: Callable[[Any], Any], dtype: str = "float32") -> nc.Model:
    x = nc.Input(SHAPE)
    model = nc.Model(x, nc.Dense(3)(nc.GlobalAveragePool2D()(head(x))), seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    for name, array in model.parameters.items():
        model.parameters[name] = array + rng.uniform(0.05, 0.2, array.shape)
    return model


def passes_over_outputs(model: nc.Model, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    """How many passes find statistics in a training step."""
    counted, kernel = [], norm.partial_statistics

    def counting(*arguments: Any) -> None:
        counted.append(arguments)
        kernel(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(norm, "partial_statistics", counting)
        model.training_plan(BATCH, **options)
    return len(counted)


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nobody gathers."""
    monkeypatch.setattr(passes, "gather_statistics", lambda nodes: nodes)


def trained(model: nc.Model, **options: Any) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of two steps, and parameters and running statistics afterwards."""
    trainer = nc.Trainer(model, optimizer=nc.SGD(0.1), **options)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((BATCH, *SHAPE)).astype(model.dtype), rng.integers(0, 3, BATCH)
    return [trainer.step(images, labels) for _ in range(2)], {name: model.store.view(name).copy() for name in model.store.specs}


@each_network
def test_no_pass_over_the_output(head: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for recompute in (None, "cheap", "blocks"):
        assert passes_over_outputs(network(head), monkeypatch, recompute=recompute) == 0
    apart(monkeypatch)
    norms = sum(isinstance(node.layer, nc.BatchNorm) for node in network(head).graph.nodes)
    assert passes_over_outputs(network(head), monkeypatch) == norms


@each_network
def test_steps_are_those_with_a_pass(head: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, found = trained(network(head, "float64"))
    apart(monkeypatch)
    expected_losses, expected = trained(network(head, "float64"))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-10)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-8, atol=1e-10, err_msg=name)


@each_network
def test_gradients_are_differences_of_the_loss(head: Callable) -> None:
    model = network(head, "float64")
    images = np.random.default_rng(0).standard_normal((BATCH, *SHAPE))
    plan = model.training_plan(BATCH, input_gradients=True)
    plan.inputs[0][...] = images
    seed = np.random.default_rng(1).standard_normal(plan.outputs[0].shape)

    def loss(moved: np.ndarray) -> float:
        plan.inputs[0][...] = moved
        plan.forward()
        return float((plan.outputs[0] * seed).sum())

    loss(images)
    plan.output_gradients[0][...] = seed
    plan.backward()
    gradient = plan.input_gradients[0].copy()
    direction = np.random.default_rng(3).standard_normal(images.shape)
    step = 1e-6
    difference = (loss(images + step * direction) - loss(images - step * direction)) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-6)


@pytest.mark.parametrize("mode", [pytest.param("cheap", marks=pytest.mark.nightly), "blocks"])
@each_network
def test_recomputation_gives_the_same_bits(head: Callable, mode: str) -> None:
    expected, found = trained(network(head)), trained(network(head), recompute=mode)
    assert found[0] == expected[0]
    for name, array in expected[1].items():
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)


def test_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, found = trained(network(residual), accumulate=2)
    apart(monkeypatch)
    expected_losses, expected = trained(network(residual), accumulate=2)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


def test_who_gathers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions behind which there is no norm, or one that needs no statistics of the batch, and what is no convolution."""

    def head(x: Any) -> Any:
        h = nc.BatchNorm(frozen=True)(nc.Conv2D(4, 3)(x))
        return nc.BatchNorm()(nc.MaxPool2D(2)(nc.GroupNorm(groups=2)(nc.Conv2D(4, 1)(h))))

    model = network(head)
    assert not any(GATHERED in run.scratch for run in model.training_plan(BATCH).plan.forward)
    assert passes_over_outputs(network(head), monkeypatch) == 2


def test_frozen_weights_before_a_norm_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution in front runs as in inference."""
    model = network(plain)
    model.freeze("conv1")
    assert passes_over_outputs(model, monkeypatch) == 1
    _, found = trained(model)
    apart(monkeypatch)
    model = network(plain)
    model.freeze("conv1")
    for name, array in trained(model)[1].items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


class Doubled(nc.Conv2D):
    """Computes something else than its base, which says that it gathers."""

    def run(self, x: Any, y: np.ndarray, *others: Any) -> None:
        super().run(x, y, *others)
        nc.kernels.merge.add(y, y, y)


def test_layers_of_plugins_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes_over_outputs(network(lambda x: nc.BatchNorm()(Doubled(8, 3)(x))), monkeypatch) == 1


def test_memory_is_kept_from_one_to_the_other() -> None:
    plan = network(branches).training_plan(BATCH).plan
    waiting = [run.scratch[GATHERED].block for run in plan.forward if GATHERED in run.scratch and run.node.layer.takes_statistics]
    assert waiting
    for block in waiting:
        for other in plan.blocks:
            at_other_times = block.last < other.first or other.last < block.first
            elsewhere = block.offset + block.nbytes <= other.offset or other.offset + other.nbytes <= block.offset
            assert other is block or at_other_times or elsewhere
