"""Normalisation on the GPU beyond the table of layers: several blocks, chunks and slices, what is fused, badly scaled numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ShapeError

from .test_layers import assert_close, compiled, no_device, simulated  # noqa: F401

BATCH = 2
NORMS = {
    "batch": nc.BatchNorm(),
    "plain": nc.BatchNorm(center=False, scale=False),
    "frozen": nc.BatchNorm(frozen=True),
    "group": nc.GroupNorm(groups=3),
}
ACTIVATIONS = ["linear", "relu", "elu", "silu", "mish"]  # each finds its gradient in another way


def fused(norm: str, activation: str, residual: bool, learned: bool = True) -> nc.Model:
    """A normalisation with what the planner makes part of it. With ``learned`` a layer that learns is before it."""
    inputs = [nc.Input((3, 5, 6)) for _ in range(1 + residual)]
    y: Any = NORMS[norm](nc.PReLU()(inputs[0]) if learned else inputs[0])
    if residual:
        y = nc.Add()(y, inputs[1])
    y = nc.Activation(activation)(y)
    return changed(nc.Model(inputs, y, seed=3))


def changed(model: nc.Model) -> nc.Model:
    rng = np.random.default_rng(5)
    for parameter, array in model.parameters.items():
        model.parameters[parameter] = array + rng.uniform(0.1, 0.5, array.shape)
    return model


def trained(model: nc.Model, device: str, input_gradients: bool = True, recompute: str | None = None) -> dict[str, np.ndarray]:
    """All that two training steps leave."""
    rng = np.random.default_rng(7)
    plan = model.training_plan(BATCH, input_gradients, device=device, recompute=recompute)
    if device != "cpu":
        plan.refresh()
    for array in plan.inputs:
        plan.device.upload((3 * rng.standard_normal(array.shape)).astype("float32"), array)
    for _ in range(2):
        plan.forward()
        slopes = np.random.default_rng(8).standard_normal(plan.outputs[0].shape).astype("float32")
        plan.device.upload(slopes, plan.output_gradients[0])
        plan.backward()
    found = {"output": plan.device.copies(plan.outputs)[0], "state": model.store.state.copy()}
    found |= {f"gradient of {name}": plan.device.copies([array])[0] for name, array in plan.gradients.items()}
    found |= {f"gradient of input {k}": array for k, array in enumerate(plan.device.copies(plan.input_gradients or []))}
    return found


def assert_as_on_the_cpu(make: Any, *more: Any) -> None:
    found, expected = trained(make().to("cuda"), "cuda", *more), trained(make(), "cpu", *more)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_close(found[name], array, name)


@simulated
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_follows_is_fused(activation: str, residual: bool) -> None:
    assert_as_on_the_cpu(lambda: fused("batch", activation, residual))


@simulated
@pytest.mark.parametrize(
    ("norm", "activation", "residual"),
    [("plain", "relu", True), ("frozen", "silu", True), ("frozen", "elu", False), ("group", "mish", True), ("group", "relu", False)],
)
def test_other_options_fused(norm: str, activation: str, residual: bool) -> None:
    assert_as_on_the_cpu(lambda: fused(norm, activation, residual))


@simulated
@pytest.mark.parametrize("activation", ["relu", "mish"])
@pytest.mark.parametrize("learned", [False, True])
def test_without_gradients_of_inputs(learned: bool, activation: str) -> None:
    """Nobody wants the addend's gradient, nor, with nothing learned before, that of what is normalised."""
    assert_as_on_the_cpu(lambda: fused("batch", activation, True, learned), False)


@simulated
def test_recomputation_moves_running_statistics_once() -> None:
    def make() -> nc.Model:
        x = nc.Input((3, 5, 4))
        y: Any = x
        for _ in range(3):
            y = nc.Activation("relu")(nc.BatchNorm()(nc.PReLU()(y)))
        return changed(nc.Model(x, y, seed=3)).to("cuda")

    expected = trained(make(), "cuda")
    for mode in ("cheap", "blocks"):
        found = trained(make(), "cuda", recompute=mode)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{mode} {name}")


@pytest.fixture
def many_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums in as many parts as otherwise only large arrays have."""
    from numbacnn.kernels.cuda import blocks, sums

    cached = blocks.cut_for_sums, sums._plan
    for module in (blocks, sums):
        monkeypatch.setattr(module, "SUMMED", 1)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@simulated
@pytest.mark.parametrize("layer", [nc.BatchNorm(), nc.GroupNorm(groups=2)], ids=str)
def test_more_parts_than_rows_of_threads(layer: nc.Layer, many_parts: None) -> None:
    x = nc.Input((16, 17, 64) if isinstance(layer, nc.BatchNorm) else (9, 17, 64))
    assert_as_on_the_cpu(lambda: changed(nc.Model(x, layer(x), seed=3)))


@simulated
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nc.GroupNorm(groups=2), (5, 3, 70)),  # slices of 40 channels; groups that are wider than the lanes that merge them
        (nc.GroupNorm(groups=10), (2, 3, 30)),  # several groups side by side
        (nc.LayerNorm(), (9, 20)),
        (nc.LayerNorm(), (3, 300)),  # a row for several warps
        (nc.LocalResponseNorm(size=4, alpha=0.5), (2, 2, 300)),
    ],
    ids=str,
)
def test_several_blocks(layer: nc.Layer, shape: tuple[int, ...]) -> None:
    def make() -> nc.Model:
        x = nc.Input(shape)
        return changed(nc.Model(x, layer(x), seed=3))

    assert_as_on_the_cpu(make)


@simulated
def test_rows_that_no_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from numbacnn.kernels.cuda import layer_norm

    monkeypatch.setattr(layer_norm, "LONGEST", 128)
    x = nc.Input((2, 5, 13))
    assert_as_on_the_cpu(lambda: changed(nc.Model(x, nc.LayerNorm(axes="all")(x), seed=3)))


@simulated
def test_a_large_mean_costs_no_digits(many_parts: None) -> None:
    from numbacnn.kernels.cuda import layer_norm, statistics
    from numbacnn.kernels.cuda.memory import empty, on_device

    x = (1e4 + 1e-2 * np.random.default_rng(3).standard_normal((2, 700, 5))).astype("float32")
    x[1] *= np.array([1, -1, 1e-3, 0, 1], "float32")
    exact = x.astype(float)
    partials = empty(statistics.statistics_shape(*x.shape), np.float32)
    mean, rstd = empty((2, 5), np.float32), empty((2, 5), np.float32)
    statistics.partial_statistics(on_device(x), partials)
    for groups, axes in ((5, 1), (1, (1, 2))):
        statistics.merge_statistics(partials, 700, groups, 1e-12, mean, rstd)
        average, variance = exact.mean(axes, keepdims=True), exact.var(axes, keepdims=True)
        np.testing.assert_allclose(mean.download(), np.broadcast_to(average[:, 0], (2, 5)), rtol=1e-7)
        np.testing.assert_allclose(rstd.download(), np.broadcast_to((variance + 1e-12)[:, 0] ** -0.5, (2, 5)), rtol=1e-4)
    rows = x[0].reshape(50, 70)
    mean, rstd, y = empty((50,), np.float32), empty((50,), np.float32), empty(rows.shape, np.float32)
    layer_norm.forward(on_device(rows), y, None, None, 1e-12, mean, rstd, {})
    np.testing.assert_allclose(rstd.download(), rows.astype(float).var(1) ** -0.5, rtol=1e-4)


@simulated
def test_one_value_per_channel_is_the_same_error() -> None:
    x = nc.Input((4,))
    model = nc.Model(x, nc.BatchNorm()(x)).to("cuda")
    with pytest.raises(ShapeError, match="BatchNorm of 4 channels was given one value per channel; training needs more than one"):
        model.training_plan(1, device="cuda").forward()


@compiled
@pytest.mark.parametrize("norm", NORMS)
def test_fused_kernels_compile_without_spills(norm: str, no_device: Any, monkeypatch: pytest.MonkeyPatch, capabilities: tuple) -> None:  # noqa: F811
    no_device.wanted.clear()
    for activation in ("relu", "mish") if norm == "batch" else ("silu",):
        for residual in (False, True):
            for input_gradients in (False, True):
                fused(norm, activation, residual).to("cuda").training_plan(BATCH, input_gradients, device="cuda")
    if norm == "group":
        monkeypatch.setattr("numbacnn.kernels.cuda.layer_norm.LONGEST", 64)
        x = nc.Input((2, 5, 13))
        nc.Model(x, nc.LayerNorm(axes="all")(x)).to("cuda").training_plan(BATCH, True, device="cuda")
    for kernel, kinds in no_device.wanted:
        for capability in capabilities:
            assert kernel.machine_code(kinds, capability).spilled == 0, kernel.function.__qualname__
