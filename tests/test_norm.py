"""Normalisation against its naive reference, against PyTorch, and against what each option promises."""

from __future__ import annotations

import numpy as np
import pytest

from numbacnn.errors import ConfigError, ShapeError
from numbacnn.kernels import jit, norm
from numbacnn.kernels.channels import WIDTH
from numbacnn.layers.activation import SiLU
from numbacnn.layers.norm import BatchNorm, FusedNorm, GroupNorm, InstanceNorm, LayerNorm, LocalResponseNorm
from tests.driver import Driver, check_gradients
from tests.naive import norm as naive

SHAPES = [(7, 1), (5, 1, 1, 3), (1, 5, 7, 16), (3, 11, 13, 37), (2, 3, 4, 5, 6), (2, 1100, 33), (3, 8, 4, 24), (2, 16, 4, 3)]
TOLERANCE = {"float32": dict(rtol=2e-5, atol=2e-5), "float64": dict(rtol=1e-11, atol=1e-11)}


def random(shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def affine(shape, dtype="float64"):
    """A weight and a bias that are not neutral."""
    return {"weight": random(shape, dtype, 8) + 1, "bias": random(shape, dtype, 9)}


def assert_all_close(found, expected, dtype):
    for a, b in zip(found, expected, strict=True):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a / scale, b / scale, **TOLERANCE[dtype])


# Against the naive reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_agrees_with_naive(shape, dtype):
    x, channels = random(shape, dtype) * 3 + 2, shape[-1]
    x = x.astype(dtype)
    p = affine((channels,), dtype)
    driver = Driver(BatchNorm(momentum=0.3), x, running_mean=0.5, running_var=2.0, **p)
    y = driver.forward()
    dy = random(shape, dtype, 1)
    dx, dp = driver.backward(dy)
    running = naive.running_statistics(x, 0.3, 0.5, 2.0)
    assert_all_close(
        (y, driver.p["running_mean"], driver.p["running_var"]), (naive.batch_norm(x, p["weight"], p["bias"], 1e-5), *running), dtype
    )
    assert_all_close((dx, dp["weight"], dp["bias"]), naive.batch_norm_backward(x, dy, p["weight"], 1e-5), dtype)
    assert set(dp) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_uses_running_statistics(frozen, dtype):
    x = random((2, 5, 3, 21), dtype)
    mean, var = random(21, dtype, 3), np.abs(random(21, dtype, 4)) + 0.1
    p = affine((21,), dtype)
    driver = Driver(BatchNorm(frozen=frozen), x, running_mean=mean, running_var=var, **p)
    y = driver.forward(training=frozen)
    normal = (x - mean) / np.sqrt(var + 1e-5)
    assert_all_close((y, driver.p["running_mean"], driver.p["running_var"]), (normal * p["weight"] + p["bias"], mean, var), dtype)
    if frozen:
        dy = random(x.shape, dtype, 1)
        dx, dp = driver.backward(dy)
        expected = dy * p["weight"] / np.sqrt(var + 1e-5), (dy * normal).sum(axis=(0, 1, 2)), dy.sum(axis=(0, 1, 2))
        assert_all_close((dx, dp["weight"], dp["bias"]), expected, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "groups"), [((3, 2), 1), ((2, 1, 1, 6), 3), ((1, 5, 7, 16), 16), ((3, 11, 13, 37), 1), ((2, 600, 66), 33), ((3, 8, 8, 12), 4)]
)
def test_group_norm_agrees_with_naive(shape, groups, dtype):
    x = (random(shape, dtype) * 3 + 2).astype(dtype)
    p = affine(shape[-1:], dtype)
    driver = Driver(GroupNorm(groups), x, **p)
    expected = naive.group_norm(x, groups, p["weight"], p["bias"], 1e-5)
    assert_all_close((driver.forward(training=False), driver.forward()), (expected, expected), dtype)
    dy = random(shape, dtype, 1)
    dx, dp = driver.backward(dy)
    assert_all_close((dx, dp["weight"], dp["bias"]), naive.group_norm_backward(x, dy, groups, p["weight"], 1e-5), dtype)


@pytest.mark.parametrize("affine_parameters", [False, True])
def test_instance_norm_is_group_norm_of_single_channels(affine_parameters):
    x = random((2, 5, 3, 19))
    p = affine((19,)) if affine_parameters else {"weight": np.ones(19), "bias": np.zeros(19)}
    driver = Driver(InstanceNorm(affine_parameters), x, **p)
    assert_all_close([driver.forward()], [naive.group_norm(x, 19, p["weight"], p["bias"], 1e-5)], "float64")
    dy = random(x.shape, seed=1)
    dx, dp = driver.backward(dy)
    expected = naive.group_norm_backward(x, dy, 19, p["weight"], 1e-5)
    assert_all_close((dx, *dp.values()), expected if affine_parameters else expected[:1], "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axes", ["channels", "all"])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 5000)])
def test_layer_norm_agrees_with_naive(shape, axes, dtype):
    x = (random(shape, dtype) * 3 + 2).astype(dtype)
    over = tuple(range(1, x.ndim)) if axes == "all" else (-1,)
    layer = LayerNorm(axes)
    p = affine(layer.parameters(shape[1:])["weight"].shape, dtype)
    driver = Driver(layer, x, **p)
    expected = naive.layer_norm(x, over, p["weight"], p["bias"], 1e-5)
    assert_all_close((driver.forward(training=False), driver.forward()), (expected, expected), dtype)
    dy = random(shape, dtype, 1)
    dx, dp = driver.backward(dy)
    expected = naive.layer_norm_backward(x, dy, over, p["weight"], 1e-5)
    if shape[-1] == 1:  # the normalised axis has one element: rounding of 0 * 1 / sqrt(epsilon)
        expected = (np.zeros_like(dx), *expected[1:])
    assert_all_close((dx, dp["weight"], dp["bias"]), expected, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("channels", "size"), [(1, 1), (1, 5), (7, 4), (16, 5), (37, 5), (40, 50)])
def test_local_response_norm_agrees_with_naive(channels, size, dtype):
    x = (random((2, 3, 7, channels), dtype) * 4).astype(dtype)
    numbers = {"size": size, "alpha": 0.3, "beta": 0.75, "k": 2.0}
    driver = Driver(LocalResponseNorm(**numbers), x)
    dy = random(x.shape, dtype, 1)
    expected = naive.local_response_norm(x, **numbers), naive.local_response_norm_backward(x, dy, **numbers)
    assert_all_close((driver.forward(), driver.backward(dy)[0]), expected, dtype)


def test_pixels_are_taken_together_until_channels_fill_panels():
    for pixels, channels in [(1, 3), (64, 3), (60, 6), (49, 24), (3136, 24), (16, WIDTH), (8, WIDTH // 2), (1024, WIDTH + 1)]:
        fold = norm.fold(pixels, channels)
        assert pixels % fold == 0
        assert fold == 1 or fold * channels % WIDTH == 0 or pixels // fold % 2 == 1  # nothing more could be halved
        assert fold == 1 or fold // 2 * channels % WIDTH  # and no more than needed


def test_outputs_with_gaps_between_pixels():
    x, channels = random((2, 4, 8, 24), "float32"), 24
    p = {
        **affine((channels,), "float32"),
        "running_mean": random(channels, "float32", 3),
        "running_var": random(channels, "float32", 4) ** 2,
    }
    layer = BatchNorm()
    b = {name: np.zeros(buffer.shape, "float32") for name, buffer in layer.scratch(x.shape[1:], len(x), 1, False).items()}
    around = np.full((*x.shape[:-1], channels + 5), 7, "float32")
    layer.forward(x, around[..., 3:-2], p, b, training=False)
    expected = (x - p["running_mean"]) / np.sqrt(p["running_var"] + 1e-5) * p["weight"] + p["bias"]
    assert_all_close([around[..., 3:-2]], [expected], "float32")
    assert (np.delete(around, np.s_[3:-2], axis=-1) == 7).all()


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(momentum=0.0),
        BatchNorm(momentum=0.0, center=False),
        BatchNorm(momentum=0.0, scale=False),
        BatchNorm(frozen=True),
        LayerNorm(),
        LayerNorm("all", center=False),
        LayerNorm(scale=False),
        GroupNorm(2),
        GroupNorm(1, center=False, scale=False),
        GroupNorm(3, scale=False),
        InstanceNorm(),
        InstanceNorm(True),
        LocalResponseNorm(3, alpha=0.5),
        LocalResponseNorm(4, alpha=0.5, beta=0.6),
    ],
)
def test_gradients(layer):
    x = random((2, 3, 2, 6))
    shapes = {name: parameter.shape for name, parameter in layer.parameters(x.shape[1:]).items()}
    p = {name: random(shape, seed=len(name)) ** 2 + 0.3 for name, shape in shapes.items()}
    check_gradients(Driver(layer, x, **p), 1e-6)


def test_frozen_parameters_and_unwanted_gradients_are_left_out():
    x = random((2, 5, 7, 6))
    dear = [FusedNorm(norm, False, SiLU()) for norm in (BatchNorm(), BatchNorm(frozen=True))]  # whose gradient the first pass keeps
    for layer in (BatchNorm(), BatchNorm(frozen=True), GroupNorm(2), LayerNorm(), *dear):
        driver = Driver(layer, x)
        y = driver.forward()
        dx, dp = driver.backward(x)
        alone, only = np.empty_like(x), {"bias": np.empty_like(dp["bias"])}
        layer.backward(x, None, x, alone, driver.p, {}, driver.b)
        layer.backward(x, None, x, None, driver.p, only, driver.b)
        assert y.shape == x.shape
        np.testing.assert_array_equal(alone, dx)
        np.testing.assert_array_equal(only["bias"], dp["bias"])


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [BatchNorm(momentum=1.0), GroupNorm(2), InstanceNorm(), LayerNorm("all")])
def test_a_large_mean_costs_no_digits(layer):
    exact = random((2, 90, 80, 4)) + 1e4
    x = exact.astype("float32")
    driver = Driver(layer, x)
    y = driver.forward()
    centred = x.astype("float64") - 1e4
    twin = Driver(type(layer)(**layer.config()), centred)
    np.testing.assert_allclose(y, twin.forward(), atol=2e-3)  # a float32 near 1e4 is known to 1e-3
    if isinstance(layer, BatchNorm):
        rows = x.reshape(-1, 4).astype("float64")
        np.testing.assert_allclose(driver.p["running_mean"], rows.mean(axis=0), rtol=1e-7)
        np.testing.assert_allclose(driver.p["running_var"], rows.var(axis=0, ddof=1), rtol=1e-6)


def test_an_outlier_in_front_costs_no_digits():
    x = random((1, 40, 50, 2), "float32")
    x[0, 0, 0] = 1e6
    driver = Driver(BatchNorm(momentum=1.0), x)
    driver.forward()
    rows = x.reshape(-1, 2).astype("float64")
    np.testing.assert_allclose(driver.p["running_var"], rows.var(axis=0, ddof=1), rtol=2e-5)


def test_constant_input_gives_the_bias():
    for layer in (BatchNorm(), GroupNorm(1), InstanceNorm(True), LayerNorm()):
        y = Driver(layer, np.full((2, 4, 4, 3), 3e4, "float32"), bias=0.25).forward()
        np.testing.assert_array_equal(y, np.full_like(y, 0.25))


@pytest.mark.parametrize("layer", [BatchNorm(), GroupNorm(3), InstanceNorm(True), LayerNorm(), LayerNorm("all"), LocalResponseNorm()])
def test_bits_do_not_depend_on_threads(layer):
    x = random((3, 40, 31, 33), "float32")
    outcomes = []
    before = jit.num_threads()
    for threads in (1, before):
        jit.set_num_threads(threads)
        driver = Driver(layer, x)
        y = driver.forward()
        dx, dp = driver.backward(random(x.shape, "float32", 1))
        outcomes.append((y, dx, *dp.values(), *driver.p.values()))
    jit.set_num_threads(before)
    for one, several in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(one, several)


# Shapes, messages, and what the layer says of itself -----------------------------------------------------------------


@pytest.mark.parametrize("layer", [BatchNorm(), LayerNorm(), GroupNorm(2), InstanceNorm(), LocalResponseNorm()])
def test_shapes_and_configuration(layer):
    assert layer.output_shape((6, 5, 4)) == (6, 5, 4)
    assert layer.flops((6, 5, 4)) > 0
    assert type(layer)(**layer.config()) == layer
    assert layer.window((6, 5, 4)) is None


def test_parameters():
    assert list(BatchNorm().parameters((3, 4))) == ["weight", "bias", "running_mean", "running_var"]
    assert list(BatchNorm(center=False, scale=False).parameters((3, 4))) == ["running_mean", "running_var"]
    assert {name: parameter.trainable for name, parameter in BatchNorm().parameters((4,)).items()} == {
        "weight": True, "bias": True, "running_mean": False, "running_var": False,
    }  # fmt: skip
    assert LayerNorm("all").parameters((3, 4))["weight"].shape == (3, 4)
    assert LayerNorm().parameters((3, 4))["weight"].shape == (4,)
    assert InstanceNorm().parameters((3, 4)) == {}


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: BatchNorm(momentum=1.5), "momentum is 1.5"),
        (lambda: BatchNorm(epsilon=0), "epsilon is 0"),
        (lambda: BatchNorm(epsilon="1e-5"), "epsilon is '1e-5'"),
        (lambda: GroupNorm(0), "groups is 0"),
        (lambda: GroupNorm(2.0), "groups is 2.0"),
        (lambda: InstanceNorm(epsilon=-1), "epsilon is -1"),
        (lambda: LayerNorm("some"), "axes is 'some'"),
        (lambda: LocalResponseNorm(0), "size is 0"),
        (lambda: LocalResponseNorm(k=0), "k is 0"),
        (lambda: LocalResponseNorm(alpha=-1), "alpha is -1"),
        (lambda: LocalResponseNorm(beta=float("inf")), "beta is inf"),
    ],
)
def test_wrong_options_are_told(make, part):
    with pytest.raises(ConfigError) as caught:
        make()
    assert part in str(caught.value)


def test_wrong_shapes_are_told():
    with pytest.raises(ShapeError, match=r"given shape \(4, 5\), needs channels that 2 groups divide"):
        GroupNorm(2).output_shape((4, 5))
    with pytest.raises(ShapeError, match="more than one value per group"):
        InstanceNorm().output_shape((1, 1, 5))
    with pytest.raises(ShapeError, match="more than one value per channel"):
        Driver(BatchNorm(), np.ones((1, 1, 1, 3))).forward()
    Driver(BatchNorm(), np.ones((1, 1, 1, 3))).forward(training=False)
    Driver(BatchNorm(frozen=True), np.ones((1, 1, 1, 3))).forward()


# Against PyTorch -----------------------------------------------------------------------------------------------------


def torch_agrees(driver, module, parameters=True):
    """Forward and backward of a driver against a module of PyTorch, which has channels first."""
    torch = pytest.importorskip("torch")
    if parameters:
        for name in ("weight", "bias"):
            getattr(module, name).data = torch.tensor(driver.p[name])
    theirs = torch.tensor(np.moveaxis(driver.x, -1, 1), requires_grad=True)
    result = module(theirs)
    np.testing.assert_allclose(driver.forward(), np.moveaxis(result.detach().numpy(), 1, -1), rtol=1e-10, atol=1e-10)
    dy = random(driver.y.shape, seed=1)
    result.backward(torch.tensor(np.moveaxis(dy, -1, 1)))
    dx, dp = driver.backward(dy)
    np.testing.assert_allclose(dx, np.moveaxis(theirs.grad.numpy(), 1, -1), rtol=1e-10, atol=1e-10)
    if parameters:
        for name, gradient in dp.items():
            np.testing.assert_allclose(gradient, getattr(module, name).grad.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.oracle
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("spatial", [(), (7,), (5, 6), (3, 4, 2)])
def test_batch_norm_agrees_with_torch(spatial, frozen):
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, f"BatchNorm{max(1, len(spatial))}d")(9, momentum=0.2, dtype=torch.float64)
    x = random((3, *spatial, 9)) * 2 + 1
    driver = Driver(BatchNorm(0.2, frozen=frozen), x, running_mean=0.5, running_var=2.0, **affine((9,)))
    module.running_mean[:], module.running_var[:] = 0.5, 2.0
    module.train(not frozen)
    torch_agrees(driver, module)
    np.testing.assert_allclose(driver.p["running_mean"], module.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(driver.p["running_var"], module.running_var.numpy(), rtol=1e-12)


@pytest.mark.oracle
def test_group_and_instance_norm_agree_with_torch():
    torch = pytest.importorskip("torch")
    x = random((3, 5, 6, 12)) * 2 + 1
    torch_agrees(Driver(GroupNorm(4), x, **affine((12,))), torch.nn.GroupNorm(4, 12, dtype=torch.float64))
    torch_agrees(Driver(InstanceNorm(True), x, **affine((12,))), torch.nn.InstanceNorm2d(12, affine=True, dtype=torch.float64))
    torch_agrees(Driver(InstanceNorm(), x), torch.nn.InstanceNorm2d(12), parameters=False)


@pytest.mark.oracle
def test_layer_norm_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x = random((6, 12))
    torch_agrees(Driver(LayerNorm(), x, **affine((12,))), torch.nn.LayerNorm(12, dtype=torch.float64))


@pytest.mark.oracle
@pytest.mark.parametrize("size", [1, 4, 5])
def test_local_response_norm_agrees_with_torch(size):
    torch = pytest.importorskip("torch")
    x = random((2, 4, 3, 11)) * 3
    torch_agrees(Driver(LocalResponseNorm(size, 0.2, 0.6, 1.5), x), torch.nn.LocalResponseNorm(size, 0.2, 0.6, 1.5), parameters=False)
