"""Pooling against its naive reference, against PyTorch, and against what each option promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import numbacnn as nc
from numbacnn.errors import ConfigError, ShapeError
from numbacnn.kernels import jit
from numbacnn.kernels import pool as pool_kernels
from numbacnn.layers import pool as layers
from tests.driver import Driver, check_gradients
from tests.naive import pool as naive

KINDS = ("MaxPool", "AveragePool", "LpPool", "AdaptiveAveragePool", "AdaptiveMaxPool", "GlobalAveragePool", "GlobalMaxPool")


def layer_class(kind, axes):
    return getattr(layers, f"{kind}{axes}D")


def random(shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# Against the naive reference -----------------------------------------------------------------------------------------


@st.composite
def sliding_cases(draw):
    """Axes, channels, batch, and per axis size, kernel, stride, padding, dilation; ceil mode."""
    axes = draw(st.integers(1, 3))
    side = st.integers(1, (40, 9, 5)[axes - 1])
    each = [
        (
            draw(side),
            draw(st.integers(1, 4)),
            draw(st.integers(1, 4)),
            (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
            draw(st.integers(1, 3)),
        )
        for _ in range(axes)
    ]
    return each, draw(st.sampled_from([1, 3, 16, 37])), draw(st.integers(1, 2)), draw(st.booleans()), draw(st.booleans())


def prepared_case(case, kind, dilated):
    """A layer, an input with ties, the naive windows, and their sizes; skips cases that cannot be."""
    each, channels, batch, ceil_mode, single = case
    sizes, kernels, strides, paddings, dilations = zip(*each)
    dilations = dilations if dilated else (1,) * len(each)
    options = {"dilation": dilations} if dilated else {}
    layer = layer_class(kind, len(each))(kernels, strides, padding=paddings, ceil_mode=ceil_mode, **options)
    windows, counted = zip(
        *(naive.sliding_windows(s, k, t, p, d, ceil_mode) for s, k, t, p, d in zip(sizes, kernels, strides, paddings, dilations))
    )
    x = np.round(random((batch, *sizes, channels)) * 2).astype("float32" if single else "float64")
    try:
        layer.output_shape(x.shape[1:])
    except ShapeError:
        assert not all(windows) or any(not window for axis in windows for window in axis) or ceil_mode
        assume(False)
    return layer, x, windows, counted


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sliding_cases())
def test_max_agrees_with_naive(case):
    layer, x, windows, _ = prepared_case(case, "MaxPool", dilated=True)
    driver = Driver(layer, x)
    expected = naive.max_forward(x, windows)
    np.testing.assert_array_equal(driver.forward(training=False), expected)
    np.testing.assert_array_equal(driver.forward(), expected)
    dy = random(expected.shape, x.dtype, 1)
    np.testing.assert_allclose(driver.backward(dy)[0], naive.max_backward(x, dy, windows), rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sliding_cases(), st.booleans())
def test_average_agrees_with_naive(case, count_include_padding):
    layer, x, windows, counted = prepared_case(case, "AveragePool", dilated=False)
    layer = type(layer)(layer.size, layer.stride, layer.padding, layer.ceil_mode, count_include_padding)
    counts = counted if count_include_padding else None
    driver = Driver(layer, x)
    expected = naive.average_forward(x, windows, counts)
    np.testing.assert_allclose(driver.forward(), expected, rtol=1e-6, atol=1e-6)
    dy = random(expected.shape, x.dtype, 1)
    np.testing.assert_allclose(driver.backward(dy)[0], naive.average_backward(x, dy, windows, counts), rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sliding_cases(), st.sampled_from([0.5, 1, 1.5, 2, 3, 4.7]))
def test_lp_agrees_with_naive(case, p):
    layer, x, windows, _ = prepared_case(case, "LpPool", dilated=False)
    layer = type(layer)(layer.size, layer.stride, layer.padding, layer.ceil_mode, p)
    driver = Driver(layer, x)
    expected = naive.lp_forward(x, windows, p)
    np.testing.assert_allclose(driver.forward(), expected, rtol=1e-5, atol=1e-6)
    dy = random(expected.shape, x.dtype, 1)
    np.testing.assert_allclose(driver.backward(dy)[0], naive.lp_backward(x, dy, windows, p), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spatial", "size"), [((1,), 1), ((13,), 5), ((5,), 13), ((7, 11), (3, None)), ((6, 6), 2), ((3, 5, 4), (2, 1, 3))]
)
@pytest.mark.parametrize("kind", ["Average", "Max"])
def test_adaptive_agrees_with_naive(kind, spatial, size):
    x = random((2, *spatial, 19))
    sizes = size if isinstance(size, tuple) else (size,) * len(spatial)
    windows = [naive.adaptive_windows(s, s if n is None else n) for s, n in zip(spatial, sizes)]
    driver = Driver(layer_class(f"Adaptive{kind}Pool", len(spatial))(size), x)
    forward, backward = getattr(naive, f"{kind.lower()}_forward"), getattr(naive, f"{kind.lower()}_backward")
    np.testing.assert_allclose(driver.forward(), forward(x, windows), rtol=1e-12, atol=1e-12)
    dy = random(driver.y.shape, seed=1)
    np.testing.assert_allclose(driver.backward(dy)[0], backward(x, dy, windows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spatial", [(1,), (101,), (7, 5), (2, 3, 5)])
@pytest.mark.parametrize("kind", ["Average", "Max"])
def test_global_agrees_with_numpy(kind, spatial):
    x = random((3, *spatial, 70), "float32")
    axes = tuple(range(1, x.ndim - 1))
    for keepdims in (False, True):
        driver = Driver(layer_class(f"Global{kind}Pool", len(spatial))(keepdims), x)
        expected = (np.mean if kind == "Average" else np.max)(x, axis=axes, keepdims=keepdims)
        np.testing.assert_allclose(driver.forward(), expected, rtol=1e-5, atol=1e-6)
        dy = random(expected.shape, "float32", 1)
        np.testing.assert_allclose(driver.backward(dy)[0].sum(axis=axes, keepdims=keepdims), dy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "layer", "chosen"),
    [
        ((7, 9, 5), nc.AveragePool2D(1, stride=2), np.s_[:, ::2, ::2]),
        ((7, 9, 40), nc.AveragePool2D(1, stride=(3, 1)), np.s_[:, ::3]),
        ((8, 3), nc.AveragePool1D(1, stride=3, ceil_mode=True), np.s_[:, ::3]),
        ((4, 6, 5, 2), nc.AveragePool3D(1, stride=2), np.s_[:, ::2, ::2, ::2]),
    ],
)
def test_windows_of_one_pixel_choose_it(shape, layer, chosen):
    x = nc.Input(shape)
    images = np.random.default_rng(0).standard_normal((3, *shape)).astype("float32")
    np.testing.assert_array_equal(nc.Model(x, layer(x)).predict(images), images[chosen])


def test_global_average_of_many_pixels_keeps_its_digits():
    x = (random((1, 500, 400, 3), "float32") + 10).astype("float32")
    mean = Driver(layers.GlobalAveragePool2D(), x).forward()
    np.testing.assert_allclose(mean, x.astype("float64").mean(axis=(1, 2)), rtol=1e-6)


# Gradients and determinism -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPool2D(3, 2, padding=1, ceil_mode=True),
        layers.AveragePool2D(3, 2, padding="same", count_include_padding=False),
        layers.LpPool2D(2, p=3.0),
        layers.LpPool2D(2, 1, p=1.5),
        layers.AdaptiveAveragePool2D((2, 3)),
        layers.AdaptiveMaxPool2D(3),
        layers.GlobalAveragePool2D(),
        layers.GlobalMaxPool2D(keepdims=True),
    ],
)
def test_gradients(layer):
    check_gradients(Driver(layer, random((2, 5, 7, 3))))


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads(kind):
    x = random((2, 17, 40, 33), "float32")
    outcomes = []
    before = jit.num_threads()
    for threads in {1, before}:
        jit.set_num_threads(threads)
        driver = Driver(layer_class(kind, 2)(), x)
        y = driver.forward()
        outcomes.append((y, driver.backward(random(y.shape, "float32", 1))[0]))
    jit.set_num_threads(before)
    for y, dx in outcomes[1:]:
        np.testing.assert_array_equal(y, outcomes[0][0])
        np.testing.assert_array_equal(dx, outcomes[0][1])


# Special numbers -----------------------------------------------------------------------------------------------------


def test_first_of_equal_values_gets_the_gradient():
    driver = Driver(layers.MaxPool1D(3), np.zeros((1, 6, 2)))
    driver.forward()
    np.testing.assert_array_equal(driver.backward(np.ones((1, 2, 2)))[0][0, :, 0], [1, 0, 0, 1, 0, 0])


def test_not_a_number_wins_and_gets_the_gradient():
    x = np.array([1, np.nan, np.inf, 2, 3, -np.inf]).reshape(1, 6, 1)
    for training in (False, True):
        y = Driver(layers.MaxPool1D(3), x).forward(training)
        np.testing.assert_array_equal(y[0, :, 0], [np.nan, 3])
    driver = Driver(layers.MaxPool1D(3), x)
    driver.forward()
    np.testing.assert_array_equal(driver.backward(np.ones((1, 2, 1)))[0][0, :, 0], [0, 1, 0, 0, 1, 0])


def test_windows_of_minus_infinity_give_their_gradient_to_the_first():
    driver = Driver(layers.MaxPool1D(2), np.full((1, 4, 1), -np.inf))
    np.testing.assert_array_equal(driver.forward(), np.full((1, 2, 1), -np.inf))
    np.testing.assert_array_equal(driver.backward(np.ones((1, 2, 1)))[0][0, :, 0], [1, 0, 1, 0])


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.5])
def test_lp_gradient_of_zeros_is_zero(p):
    driver = Driver(layers.LpPool1D(2, p=p), np.array([0.0, 0.0, 0.0, 2.0]).reshape(1, 4, 1))
    np.testing.assert_allclose(driver.forward()[0, :, 0], [0, 2])
    np.testing.assert_allclose(driver.backward(np.ones((1, 2, 1)))[0][0, :, 0], [0, 0, 0, 1])


# Shapes, messages, and what the layer says of itself -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "given", "wanted"),
    [
        (layers.MaxPool2D(2), (32, 32, 3), (16, 16, 3)),
        (layers.MaxPool2D(3, 2, padding=1), (112, 112, 64), (56, 56, 64)),
        (layers.MaxPool2D(3, 2, ceil_mode=True), (55, 56, 1), (27, 28, 1)),
        (layers.MaxPool2D(2, ceil_mode=True), (5, 4, 2), (3, 2, 2)),
        (layers.AveragePool2D(3, 1, padding="same"), (5, 4, 2), (5, 4, 2)),
        (layers.AveragePool2D((2, 3), padding=(1, (0, 2))), (5, 4, 2), (3, 2, 2)),
        (layers.MaxPool1D(3, 1, padding="causal"), (9, 2), (9, 2)),
        (layers.MaxPool3D(2), (5, 6, 7, 1), (2, 3, 3, 1)),
        (layers.GlobalMaxPool3D(), (5, 6, 7, 4), (4,)),
        (layers.GlobalAveragePool2D(True), (6, 7, 4), (1, 1, 4)),
        (layers.AdaptiveAveragePool2D((7, None)), (6, 9, 4), (7, 9, 4)),
    ],
)
def test_output_shapes(layer, given, wanted):
    assert layer.output_shape(given) == wanted
    assert layer.flops(given) > 0
    assert len(layer.window(given)) == 3
    assert type(layer)(**layer.config()) == layer
    assert hash(layer) == hash(type(layer)(**layer.config()))


def test_flops_count_the_pixels_of_all_windows():
    assert layers.MaxPool2D(2).flops((4, 6, 3)) == 4 * 6 * 3
    assert layers.AveragePool2D(3, 1, padding=1).flops((2, 2, 1)) == 16


def test_every_class_says_what_it_is():
    text = layers.AdaptiveMaxPool2D.__doc__
    assert text.startswith("Max pooling of ``(height, width, channels)`` to a given size.\n\nOutput of a given size")
    assert "\nArgs:\n    size: of the output" in text


def test_lists_are_taken_as_tuples():
    assert layers.MaxPool2D([2, 3], padding=[[0, 1], [1, 0]]) == layers.MaxPool2D((2, 3), padding=((0, 1), (1, 0)))


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: layers.MaxPool2D(0), "size is 0"),
        (lambda: layers.MaxPool2D(2, stride=-1), "stride is -1"),
        (lambda: layers.MaxPool2D((2, 2, 2)), "size is (2, 2, 2)"),
        (lambda: layers.MaxPool2D(2, dilation=0), "dilation is 0"),
        (lambda: layers.AveragePool2D(2, padding="some"), "padding is 'some'"),
        (lambda: layers.AveragePool2D(2, padding=-1), "padding is -1"),
        (lambda: layers.LpPool2D(2, p=0), "p is 0"),
        (lambda: layers.LpPool2D(2, p=float("nan")), "p is nan"),
        (lambda: layers.AdaptiveMaxPool2D((1, 2, 3)), "size is (1, 2, 3)"),
        (lambda: layers.AdaptiveMaxPool2D(0), "size is 0"),
    ],
)
def test_wrong_options_are_told(make, part):
    with pytest.raises(ConfigError) as caught:
        make()
    assert part in str(caught.value)
    assert "Pool2D" in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "given", "part"),
    [
        (layers.MaxPool2D(2), (8, 3), "(height, width, channels)"),
        (layers.GlobalMaxPool1D(), (8, 3, 3), "(length, channels)"),
        (layers.MaxPool2D(9), (8, 8, 3), "does not fit"),
        (layers.MaxPool2D(9, 2, ceil_mode=True), (4, 8, 3), "leave no place"),
        (layers.MaxPool2D(2, padding=3), (8, 8, 3), "padding only"),
        (layers.AdaptiveMaxPool2D(2), (0, 8, 3), "at least 1"),
    ],
)
def test_wrong_shapes_are_told(layer, given, part):
    with pytest.raises(ShapeError) as caught:
        layer.output_shape(given)
    assert part in str(caught.value)
    assert str(given) in str(caught.value)


# Against PyTorch -----------------------------------------------------------------------------------------------------


def torch_agrees(layer, x, function, tolerance=1e-12):
    """Forward and backward against a function of PyTorch, which has channels first."""
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    result = function(torch.nn.functional, theirs)
    driver = Driver(layer, x)
    expected = np.moveaxis(result.detach().numpy(), 1, -1).reshape(driver.forward().shape)
    np.testing.assert_allclose(driver.y, expected, rtol=tolerance, atol=tolerance)
    dy = random(result.shape, x.dtype, 1)
    result.backward(torch.tensor(dy))
    dx, _ = driver.backward(np.moveaxis(dy, 1, -1).reshape(driver.y.shape))
    np.testing.assert_allclose(dx, np.moveaxis(theirs.grad.numpy(), 1, -1), rtol=tolerance, atol=tolerance)


@pytest.mark.oracle
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("size", "stride", "padding", "dilation"), [(2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 2), (5, 3, 2, 1), (2, 3, 0, 1)])
def test_sliding_pools_agree_with_torch(axes, ceil_mode, size, stride, padding, dilation):
    x = random((2, *(11, 9, 8)[:axes], 5))
    make = {"padding": padding, "ceil_mode": ceil_mode}
    torch_agrees(
        layer_class("MaxPool", axes)(size, stride, dilation=dilation, **make),
        x,
        lambda f, t: getattr(f, f"max_pool{axes}d")(t, size, stride, padding, dilation, ceil_mode),
    )
    for count in (False, True):
        torch_agrees(
            layer_class("AveragePool", axes)(size, stride, count_include_padding=count, **make),
            x,
            lambda f, t: getattr(f, f"avg_pool{axes}d")(t, size, stride, padding, ceil_mode, count),
        )
    if not padding and not ceil_mode:
        for p in (1.0, 2.0, 2.5):
            torch_agrees(
                layer_class("LpPool", axes)(size, stride, p=p),
                abs(x),
                lambda f, t: getattr(f, f"lp_pool{axes}d")(t, p, size, stride, ceil_mode),
                1e-9,
            )


@pytest.mark.oracle
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_adaptive_pools_agree_with_torch(axes, size):
    x = random((2, *(11, 9, 5)[:axes], 5))
    torch_agrees(layer_class("AdaptiveAveragePool", axes)(size), x, lambda f, t: getattr(f, f"adaptive_avg_pool{axes}d")(t, size))
    torch_agrees(layer_class("AdaptiveMaxPool", axes)(size), x, lambda f, t: getattr(f, f"adaptive_max_pool{axes}d")(t, size))


@pytest.mark.oracle
def test_torch_treats_not_a_number_alike():
    torch = pytest.importorskip("torch")
    x = random((1, 8, 8, 3))
    x[0, 2, 3], x[0, 5, 5, 1], x[0, 6, 6] = np.nan, np.nan, np.inf
    expected = torch.nn.functional.max_pool2d(torch.tensor(np.moveaxis(x, -1, 1)), 3, 2, 1)
    np.testing.assert_array_equal(Driver(layers.MaxPool2D(3, 2, padding=1), x).forward(), np.moveaxis(expected.numpy(), 1, -1))


def test_windows_with_gaps_along_every_axis():
    """Average and Lp read them as maxima do."""
    windows = np.array([[[0, 1, 1]], [[0, 2, 3]], [[1, 2, 3]]], np.int64)
    x = np.arange(42.0).reshape(1, 1, 6, 7, 1)
    expected = x[0, 0, ::3, 1::3, 0][:2, :2]
    y = np.zeros((1, 1, 1, 1, 1))
    pool_kernels.average_forward(x, y, windows, np.array([[1.0], [0.5], [0.5]]))
    assert y[0, 0, 0, 0, 0] == expected.mean()
    pool_kernels.lp_forward(x, y, windows, 1.0)
    assert y[0, 0, 0, 0, 0] == expected.sum()


def test_of_several_that_are_not_numbers_the_last_gets_the_gradient():
    x, y, argmax = np.array([np.nan, 5, np.nan, 1]).reshape(1, 1, 1, 4, 1), np.zeros((1, 1, 1, 1, 1)), np.zeros((1, 1, 1, 1, 1), np.int32)
    pool_kernels.max_forward(x, y, argmax, np.array([[[0, 1, 1]], [[0, 1, 1]], [[0, 4, 1]]], np.int64))
    assert argmax.ravel() == [2]


@pytest.mark.parametrize("side", [16, 17])
def test_taps_of_small_windows_are_kept_in_a_byte(side):
    x = np.random.default_rng(0).permutation(np.arange(side * side * 3.0)).reshape(1, side, side, 3)
    layer = layers.GlobalMaxPool2D()
    driver = Driver(layer, x)
    y = driver.forward()
    assert layer.buffers(x.shape[1:])["argmax"].dtype == ("uint8" if side == 16 else "int32")
    dx, _ = driver.backward(np.ones_like(y))
    np.testing.assert_array_equal(dx, (x == x.max(axis=(1, 2))[:, None, None]).astype(float))


@pytest.mark.parametrize("channels", [1, 3, 6, 11, 19])
def test_cut_vectors_stay_within_their_lines(channels):
    """Whole vectors are read and written where channels fill none: what surrounds views must neither count nor change."""
    windows = np.array([[[0, 1, 1]] * 40, [[2 * i, 2, 1] for i in range(40)], [[2 * i, 2, 1] for i in range(40)]], np.int64)
    guarded = np.full((2, 1, 5, 82, channels), np.nan, np.float32)
    x = guarded[:, :, :4, :80]
    x[...] = random(x.shape, np.float32)
    expected = x.reshape(2, 1, 2, 2, 40, 2, channels).max((3, 5))
    around = np.full((2, 1, 3, 42, channels), 7, np.float32)
    y, argmax = around[:, :, :2, :40], np.zeros((2, 1, 2, 40, channels), np.uint8)
    for places in (argmax, argmax[:0]):
        y[...] = 0
        pool_kernels.max_forward(x, y, places, windows)
        np.testing.assert_array_equal(y, expected)
        assert (around[:, :, 2:] == 7).all()
        assert (around[:, :, :, 40:] == 7).all()
    flat = np.full(x.size + 16, 7, np.float32)
    dx = flat[: x.size].reshape(x.shape)
    pool_kernels.max_backward_apart(np.ascontiguousarray(y), argmax, dx, windows)
    np.testing.assert_array_equal(dx, np.where(x == expected.repeat(2, 2).repeat(2, 3), x, 0))
    assert (flat[x.size :] == 7).all()
