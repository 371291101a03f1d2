"""Winograd's minimal filtering against the definition of convolution, on shapes with remainders of every kind."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.kernels import jit
from numbacnn.kernels.conv import DataGradient, Forward, Method, WeightGradient, Window, minimal, winograd
from numbacnn.simd import LANES
from tests.naive import conv as naive

SHAPES = [  # batch, height, width, channels, outputs, padding of 3 x 3 kernels
    (1, 8, 8, LANES, 2 * LANES, 1),
    (2, 7, 9, 5, 3, 1),
    (1, 13, 6, 24, 17, 0),
    (3, 5, 5, 33, 40, 1),
    (1, 3, 3, 8, 16, 0),
    (1, 1, 1, 16, 16, 1),
    (2, 21, 11, 16, 49, 2),
]
FILTERS = [(2, 3), (4, 3), (2, 5)]  # M and the kernel's taps in a line, of F(M x M, taps x taps)
TOLERANCE = {2: {"float32": 2e-6, "float64": 1e-14}, 4: {"float32": 2e-5, "float64": 1e-13}}


def padding_of(shape, taps):
    """That gives kernels of any size the same outputs."""
    return shape[-1] + (taps - 3) // 2


def window(padding, taps=3):
    return Window((1, taps, taps), (1, 1, 1), (1, 1, 1), (0, padding, padding))


def made(kind, shape, tile, blocks, taps=3):
    """The pass for a shape, by F(tile x tile, taps x taps) in one go or in phases."""
    batch, height, width, channels, outputs, padding = shape
    places = (1, height + 2 * padding - 2, width + 2 * padding - 2)
    method = Method(tile, 5 if blocks else 0)
    return kind(window(padding_of(shape, taps), taps), (1, height, width), channels, places, outputs, batch, False, method)


def numbers(shape, dtype, taps=3):
    batch, height, width, channels, outputs, padding = shape
    random = np.random.default_rng(0)
    x = random.normal(size=(batch, height, width, channels)).astype(dtype)
    weight = random.normal(size=(taps, taps, channels, outputs)).astype(dtype)
    bias, scale = random.normal(size=(2, outputs)).astype(dtype)
    addend = random.normal(size=(batch, height + 2 * padding - 2, width + 2 * padding - 2, outputs)).astype(dtype)
    return x, weight, bias, scale, addend


def scratch(method, dtype, threads=None):
    """Garbage, so that what is read without having been written shows."""
    threads = threads or jit.num_threads()
    elements = max(method.scratch_elements(threads), method.packing_elements)
    return np.full((threads, elements), np.nan, dtype)


@pytest.mark.parametrize("blocks", [True, False], ids=["fused", "phased"])
@pytest.mark.parametrize(("tile", "taps"), FILTERS)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, dtype, tile, taps, blocks):
    x, weight, bias, scale, addend = numbers(shape, dtype, taps)
    method = made(Forward, shape, tile, blocks, taps)
    packed, y = np.full(method.packed_elements, np.nan, dtype), np.full_like(addend, np.nan)
    space = scratch(method, dtype)
    method.pack(weight, scale, packed, space)
    method.run(x[:, None], packed, bias, y[:, None], space, addend[:, None], nc.Activation("relu").scalar())
    padding = ((padding_of(shape, taps),) * 2,) * 2
    wide = [array.astype(np.float64) for array in (x, weight * scale, bias, addend)]
    wanted = np.maximum(naive.convolve(wide[0], wide[1], wide[2], (1, 1), padding, (1, 1), 1) + wide[3], 0)
    assert abs(y - wanted).max() <= TOLERANCE[4][dtype] * abs(wanted).max()


@pytest.mark.parametrize("blocks", [True, False], ids=["fused", "phased"])
@pytest.mark.parametrize(("tile", "taps"), FILTERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_data_gradient_is_the_adjoint(shape, tile, taps, blocks):
    """``<dy, conv(x)> = <data gradient of dy, x>`` for all x, that is, for the unit vectors' sums with random numbers."""
    dtype = "float64"
    x, weight, _, _, dy = numbers(shape, dtype, taps)
    method = made(DataGradient, shape, tile, blocks, taps)
    packed, dx = np.full(method.packed_elements, np.nan, dtype), np.full_like(x, np.nan)
    space = scratch(method, dtype)
    method.pack(weight, np.ones(x.shape[-1]), packed, space)
    method.run(dy[:, None], packed, np.zeros(x.shape[-1]), dx[:, None], space)
    onto = x.copy()
    method.run(dy[:, None], packed, np.zeros(x.shape[-1]), onto[:, None], space, onto[:, None])
    np.testing.assert_array_equal(onto, dx + x, "a gradient that is added to what is there")
    padding = ((padding_of(shape, taps),) * 2,) * 2
    for k in range(3):
        probe = np.random.default_rng(k + 1).normal(size=x.shape)
        y = naive.convolve(probe, weight, np.zeros(weight.shape[-1]), (1, 1), padding, (1, 1), 1)
        np.testing.assert_allclose((dx * probe).sum(), (dy * y).sum(), rtol=1e-9, atol=1e-9)


def test_the_same_bits_for_any_number_of_threads_blocks_and_groups(monkeypatch):
    shape, dtype = (5, 21, 11, 16, 49, 2), "float32"
    x, weight, bias, scale, addend = numbers(shape, dtype)
    results = []
    for blocks, nbytes in ((True, None), (False, 1 << 30), (False, 1 << 20)):  # which three images nearly fill
        monkeypatch.setattr(minimal, "PHASED_BYTES", nbytes)
        method = made(Forward, shape, 4, blocks)
        for threads in range(1, jit.num_threads() + 1):
            packed, y = np.empty(method.packed_elements, dtype), np.empty_like(addend)
            space = scratch(method, dtype, threads)
            with jit.record(threads=threads) as steps:
                method.pack(weight, scale, packed, space)
                method.run(x[:, None], packed, bias, y[:, None], space, addend[:, None])
            for function, arguments in steps:
                function(*arguments)
            results.append(y)
    for y in results[1:]:
        np.testing.assert_array_equal(y, results[0])


def test_images_that_come_from_memory_have_the_bits_of_each_one_alone():
    shape, dtype = (9, 96, 98, 16, 24, 1), "float32"
    x, weight, bias, scale, _ = numbers(shape, dtype)
    assert x.size + x.size // 16 * 24 > winograd.FAR

    def outputs(images):
        method = made(Forward, (len(images), *shape[1:]), 4, True)
        packed, y = np.empty(method.packed_elements, dtype), np.empty((len(images), 1, 96, 98, 24), dtype)
        method.pack(weight, scale, packed, scratch(method, dtype))
        method.run(images[:, None], packed, bias, y, scratch(method, dtype))
        return y

    np.testing.assert_array_equal(outputs(x), np.concatenate([outputs(x[n : n + 1]) for n in range(len(x))]))


def weight_gradient(shape, dtype, threads):
    """``x``, ``dy`` and what the kernels make of them."""
    batch, height, width, channels, outputs, padding = shape
    x, *_, dy = numbers(shape, dtype)
    method = WeightGradient(window(padding), (1, height, width), channels, (1, *dy.shape[1:3]), outputs, batch, False, True)
    dw = np.full((1, 3, 3, channels, outputs), np.nan, dtype)
    space = np.full((threads, method.scratch_elements(threads)), np.nan, dtype)
    with jit.record(threads=threads) as steps:
        method.run(x[:, None], dy[:, None], dw, space)
    for function, arguments in steps:
        function(*arguments)
    return x, dy, dw[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [*SHAPES[:-3], (40, 9, 6, 12, 20, 1), (5, 19, 16, 72, 130, 1), (7, 40, 41, 24, 40, 1), SHAPES[-1]], ids=str
)
def test_weight_gradient(shape, dtype):
    """Also of several parts, blocks of tiles, channels and panels, and of so many inputs that they come from memory."""
    x, dy, found = weight_gradient(shape, dtype, jit.num_threads())
    wide = [array.astype("float64") for array in (x, dy)]
    padded = np.pad(wide[0], ((0, 0), (shape[-1],) * 2, (shape[-1],) * 2, (0, 0)))
    places = dy.shape[1:3]
    for i, j in np.ndindex(3, 3):
        wanted = np.einsum("nhwc,nhwo->co", padded[:, i : i + places[0], j : j + places[1]], wide[1], optimize=True)
        assert abs(found[i, j] - wanted).max() <= TOLERANCE[4][dtype] * abs(wanted).max()


def test_the_same_bits_of_a_weight_gradient_for_any_number_of_threads():
    one, three = (weight_gradient((40, 9, 6, 64, 80, 1), "float32", threads)[2] for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def layer_tile(x, filters, batch=1, **options):
    layer = nc.Conv2D(filters, 3, padding=1, **options)
    return Forward(*layer._shapes(x, batch)).tile


def test_the_choice():
    """Where there is much to save it is taken, where it does not apply or would only read more weights it is not."""
    assert layer_tile((56, 56, 64), 64) == 4
    assert layer_tile((224, 224, 64), 64) == 4
    assert layer_tile((10, 10, 512), 512) == 2
    assert layer_tile((4, 4, 512), 512, batch=128) == 4
    assert layer_tile((1, 1, 512), 512) == 0
    blocks = [Forward(*nc.Conv2D(512, 3, padding=1)._shapes((28, 28, channels), 4)).settled(2).block for channels in (128, 512)]
    assert blocks[0] > blocks[1] == 0  # weights larger than the caches are read once, in phases
    seven = nc.Conv2D(512, 3, padding=1)._shapes((7, 7, 512), 1)
    assert DataGradient(*seven).tile == 0  # whose weights are transformed each time
    assert DataGradient(*seven[:-2], 32, False).tile == 4
    assert layer_tile((224, 224, 3), 64) == 0
    for options in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"exact": True}):
        assert layer_tile((56, 56, 64), 64, **options) == 0
    assert Forward(*nc.Conv2D(64, 5)._shapes((56, 56, 64), 1)).tile == 2
    assert Forward(*nc.Conv2D(16, 5)._shapes((14, 14, 6), 64)).tile == 0
    assert not WeightGradient(*nc.Conv2D(64, 5)._shapes((56, 56, 64), 1)).minimally
    assert Forward(*nc.Conv2D(64, 7)._shapes((56, 56, 64), 1)).tile == 0
    assert Forward(*nc.Conv3D(64, 3)._shapes((9, 56, 56, 64), 1)).tile == 4
    assert Forward(*nc.Conv3D(64, 3, stride=(2, 1, 1))._shapes((9, 56, 56, 64), 1)).tile == 4
    assert DataGradient(*nc.Conv3D(64, 3, stride=(2, 1, 1))._shapes((9, 56, 56, 64), 1)).tile == 0  # which is two convolutions
    assert Forward(*nc.Conv3D(64, (3, 5, 3))._shapes((9, 56, 56, 64), 1)).tile == 0


DEEP = [  # batch, size, channels, outputs, planes of the kernel, stride, dilation and padding along depth
    (2, (5, 7, 9), 13, 20, 3, 1, 1, 1),
    (1, (6, 5, 6), 24, 33, 3, 1, 2, 1),
    (3, (7, 4, 5), 12, 16, 2, 3, 1, 2),
    (1, (4, 9, 6), 16, 12, 4, 2, 2, 4),
    (2, (5, 6, 3), 17, 12, 1, 2, 1, 1),
    (1, (9, 6, 7), 12, 14, 3, 2, 1, -1),
]


def deep(kind, shape, method):
    """A pass over several planes, and arrays of its inputs, weights and outputs."""
    batch, size, channels, outputs, planes, stride, dilation, padding = shape
    window = Window((planes, 3, 3), (stride, 1, 1), (dilation, 1, 1), (padding, 1, 2))
    places = (size[0] + 2 * padding - dilation * (planes - 1) - 1) // stride + 1, size[1], size[2] + 2
    random = np.random.default_rng(0)
    arrays = (batch, *size, channels), (planes, 3, 3, channels, outputs), (batch, *places, outputs)
    made = kind(window, size, channels, places, outputs, batch, False, method)
    return made, [random.normal(size=each) for each in arrays]


def passed(kind, shape, method, threads):
    """What a pass over several planes makes of its input, onto which it adds."""
    made, (x, weight, y) = deep(kind, shape, method)
    source, onto = (x, y) if kind is Forward else (y, x)
    packed, out, zeros = np.full(made.packed_elements, np.nan), np.full_like(onto, np.nan), np.zeros(onto.shape[-1])
    space = np.full((threads, max(made.scratch_elements(threads), made.packing_elements)), np.nan)
    with jit.record(threads=threads) as steps:
        made.pack(weight, zeros + 1, packed, space)
        made.run(source, packed, zeros, out, space, onto)
    for function, arguments in steps:
        function(*arguments)
    return out - onto


@pytest.mark.parametrize("shape", DEEP, ids=str)
def test_kernels_of_several_planes(monkeypatch, shape):
    """Forward, data gradient (of what is one convolution) and weight gradient, planes in the padding and several groups of phases included:
    the same as by definition, and the same bits for any number of threads, blocks and groups."""
    stride, dilation, padding = shape[5:]
    x, weight, dy = deep(Forward, shape, None)[1]
    pad = (padding, padding), (1, 1), (2, 2)
    within = slice(max(0, -padding), x.shape[1] - max(0, -padding))
    wanted = naive.convolve(x[:, within], weight, None, (stride, 1, 1), np.maximum(pad, 0), (dilation, 1, 1), 1)
    dx, dw, _ = naive.gradients(x[:, within], weight, dy, (stride, 1, 1), np.maximum(pad, 0), (dilation, 1, 1), 1)
    wanted_dx = np.zeros_like(x)
    wanted_dx[:, within] = dx
    kinds = [(Forward, wanted)] + ([(DataGradient, wanted_dx)] if stride == 1 else [])
    for (kind, right), tile in itertools.product(kinds, (2, 4)):
        results = []
        for blocks, nbytes, threads in ((3, None, 1), (2, None, 2), (0, 1 << 30, 2), (0, 1 << 14, 1)):
            monkeypatch.setattr(minimal, "PHASED_BYTES", nbytes)
            results.append(passed(kind, shape, Method(tile, blocks), threads))
        np.testing.assert_allclose(results[0], right, rtol=0, atol=1e-11)
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
    found = []
    for threads in (1, 3):
        made = deep(WeightGradient, shape, True)[0]
        assert made.minimally
        found.append(np.full_like(weight, np.nan))
        with jit.record(threads=threads) as steps:
            made.run(x, dy, found[-1], np.full((threads, made.scratch_elements(threads)), np.nan))
        for function, arguments in steps:
            function(*arguments)
    np.testing.assert_allclose(found[0], dw, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(*found)


def test_a_layer_trains_and_predicts_as_an_exact_one():
    x = np.random.default_rng(0).normal(size=(3, 12, 14, 16)).astype(np.float32)
    models = []
    for exact in (False, True):
        tensor = nc.Input(x.shape[1:])
        h = nc.Conv2D(32, 3, padding="same", bias=False, exact=exact)(tensor, name="conv1")
        h = nc.Activation("relu")(nc.BatchNorm()(h, name="norm"))
        models.append(nc.Model(tensor, nc.Conv2D(16, 3, exact=exact)(h, name="conv2"), seed=3))
    assert any("packing" in node.layer.prepared(node.shapes, 3, 2, False) for node in models[0].graph.nodes)
    fast, exact = (model.predict(x) for model in models)
    assert 0 < abs(fast - exact).max() < 1e-4 * abs(exact).max()
    models[0].exact = True
    np.testing.assert_array_equal(models[0].predict(x), exact)
    models[0].exact = False
    np.testing.assert_array_equal(models[0].predict(x), fast)
    found = []
    for model in models:
        plan = model.training_plan(3, input_gradients=True)
        plan.inputs[0][...] = x
        plan.forward()
        plan.output_gradients[0][...] = np.random.default_rng(1).normal(size=plan.outputs[0].shape)
        plan.backward()
        found.append([plan.input_gradients[0], *plan.gradients.values()])
    for a, b in zip(*found):
        assert abs(a - b).max() < 1e-4 * abs(b).max() + 1e-6
