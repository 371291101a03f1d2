"""Training networks in which convolutions gather the statistics of the batch norms behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.kernels.cuda.conv import launch
from numbacnn.kernels.cuda.conv.tiles import TILES, Cut
from numbacnn.kernels.cuda.ending import Ending
from numbacnn.kernels.cuda.pointwise import add
from numbacnn.layers.cuda.conv import Convolution
from tests.norm_networks import branches, relu, residual

from .test_layers import simulated

pytestmark = simulated

BATCH = 3
SHAPE = (4, 5, 4)
TILE = TILES[4]
PASS = "_partial_statistics"  # the kernel that reads what it finds statistics of


def network(head: Callable[[Any], Any]) -> nc.Model:
    x = nc.Input(SHAPE)
    y = head(x)
    model = nc.Model(x, nc.Dense(3)(nc.GlobalAveragePool2D()(y) if len(y.shape) > 1 else y), seed=1)
    rng = np.random.default_rng(2)
    for name, array in model.parameters.items():
        model.parameters[name] = array + rng.uniform(0.05, 0.2, array.shape)
    return model


def plain(x: Any) -> Any:
    h = relu(nc.BatchNorm()(nc.Conv2D(8, 3, padding="same", bias=False)(x)))
    return nc.BatchNorm()(nc.Conv2D(5, 3, stride=2)(h))


def others(x: Any) -> Any:
    h = relu(nc.BatchNorm()(nc.SeparableConv2D(6, 3)(x)))
    h = nc.BatchNorm()(nc.Conv2DTranspose(3, 3, stride=2)(h))
    return nc.BatchNorm()(nc.Dense(7)(nc.Flatten()(h)))


NETWORKS = {"plain": plain, "residual": residual, "branches": branches, "others": others}
each_network = pytest.mark.parametrize("head", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(autouse=True)
def sums_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of networks whose layers have work for a whole GPU."""
    cut_into(False, monkeypatch)


def cut_into(parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each block add up a part of a product's sums, or all of them."""

    def cut_so(rows: int, columns: int, depth: int, *_: Any) -> Cut:
        steps = -(-depth // TILE.depth)
        return Cut(TILE, steps, TILE.depth) if parts else Cut(TILE, 1, steps * TILE.depth)

    monkeypatch.setattr(launch, "cut", cut_so)


def launched(model: nc.Model, **options: Any) -> list[str]:
    """Names of the kernels of a forward pass in training."""
    plan = model.training_plan(BATCH, device="cuda", **options)
    return [step.kernel.function.__name__ for step, _ in plan._forward_steps if hasattr(step, "kernel")]


def trained(model: nc.Model, device: str, **options: Any) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of two steps, and parameters and running statistics afterwards."""
    trainer = nc.Trainer(model, optimizer=nc.SGD(0.1), device=device, **options)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((BATCH, *SHAPE)).astype(np.float32), rng.integers(0, 3, BATCH)
    return [trainer.step(images, labels) for _ in range(2)], {name: model.store.view(name).copy() for name in model.store.specs}


@each_network
def test_steps_are_those_of_the_cpu(head: Callable) -> None:
    (losses, found), (expected_losses, expected) = trained(network(head), "cuda"), trained(network(head), "cpu")
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


@each_network
def test_no_pass_over_the_output(head: Callable) -> None:
    model = network(head)
    norms = sum(isinstance(node.layer, nc.BatchNorm) for node in model.graph.nodes)
    names = launched(model.to("cuda"))
    assert names.count(PASS) == 0
    assert names.count("_merge_statistics") == norms


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_on_tensor_cores(precision: str) -> None:
    """As with float32, up to rounding."""
    model = network(residual).to("cuda", precision)
    assert launched(model).count(PASS) == 0
    losses, _ = trained(model, "cuda")
    expected, _ = trained(network(residual), "cpu")
    np.testing.assert_allclose(losses, expected, rtol=5e-2)


@pytest.mark.parametrize(
    ("head", "mode"),
    [(branches, "cheap"), (others, "blocks"), *(pytest.param(residual, mode, marks=pytest.mark.nightly) for mode in ("cheap", "blocks"))],
)
def test_recomputation_gives_the_same_bits(head: Callable, mode: str) -> None:
    expected, found = trained(network(head), "cuda"), trained(network(head), "cuda", recompute=mode)
    assert found[0] == expected[0]
    for name, array in expected[1].items():
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)


def test_micro_batches() -> None:
    (losses, found), (expected_losses, expected) = (trained(network(residual), device, accumulate=2) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


def test_who_gathers_nothing() -> None:
    """Convolutions behind which there is no norm, or one that needs no statistics of the batch."""

    def head(x: Any) -> Any:
        h = nc.BatchNorm(frozen=True)(nc.Conv2D(4, 3)(x))
        return nc.GroupNorm(groups=2)(nc.Conv2D(4, 1)(h))

    model = network(head).to("cuda")
    plan = model.training_plan(BATCH, device="cuda")
    assert not any("gathered" in run.scratch for run in plan.plan.forward)
    model = network(plain)
    model.freeze()
    assert launched(model.to("cuda")).count(PASS) == launched(model).count("_merge_statistics") == 0


def test_frozen_weights_before_a_norm_that_is_trained() -> None:
    """The convolution runs as in inference; its output's statistics are still those of the batch."""
    results = []
    for device in ("cuda", "cpu"):
        model = network(plain)
        model.freeze("conv*")
        results.append(trained(model, device))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for name, array in results[1][1].items():
        np.testing.assert_allclose(results[0][1][name], array, rtol=2e-5, atol=2e-5, err_msg=name)


def test_sums_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into(True, monkeypatch)
    names = launched(network(plain).to("cuda"))
    assert names.count("add_parts_and_gather") == names.count("_merge_statistics") == 2
    assert PASS not in names
    (losses, found), (expected, _) = trained(network(plain), "cuda"), trained(network(plain), "cpu")
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    _, again = trained(network(plain), "cuda", recompute="blocks")
    for name, array in found.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


class DoubledOnCuda(Convolution):
    """Computes something else than its base, which says that it gathers."""

    def run(self, x: Any, y: Any, ending: Any, p: dict, b: dict) -> None:
        super().run(x, y, Ending(shift=ending.shift), p, b)
        add(y, y)


class Doubled(nc.Conv2D):
    cuda: ClassVar[str | None] = f"{__name__}:DoubledOnCuda"


def test_layers_of_plugins_are_not_asked() -> None:
    def head(x: Any) -> Any:
        return nc.BatchNorm()(Doubled(8, 3)(x))

    model = network(head).to("cuda")
    assert launched(model).count(PASS) == 1
    losses, _ = trained(model, "cuda")
    expected, _ = trained(network(lambda x: nc.BatchNorm(epsilon=0.25e-5)(nc.Conv2D(8, 3)(x))), "cpu")  # a norm sees no factor
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-4)


def test_memory_is_kept_from_one_to_the_other() -> None:
    plan = network(branches).to("cuda").training_plan(BATCH, device="cuda").plan
    waiting = [run.scratch["gathered"].block for run in plan.forward if isinstance(getattr(run.node.layer, "layer", None), nc.BatchNorm)]
    assert waiting
    for block in waiting:
        for other in plan.blocks:
            apart = block.last < other.first or other.last < block.first
            assert other is block or apart or block.offset + block.nbytes <= other.offset or other.offset + other.nbytes <= block.offset
