"""Convolution, transposed, depthwise and separable convolution against the definition, PyTorch and themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numbacnn.errors import ConfigError, ShapeError
from numbacnn.kernels import jit
from numbacnn.kernels.channels import WIDTH
from numbacnn.kernels.conv import launch, minimal, weight_launch
from numbacnn.kernels.conv.window import NOTHING, POINTWISE, Window
from numbacnn.layers import conv
from numbacnn.layers.activation import Activation
from numbacnn.layers.dense import Dense
from numbacnn.layers.padding import resolve_padding, window_places
from tests.driver import Driver
from tests.naive import conv as naive

PLAIN = (conv.Conv1D, conv.Conv2D, conv.Conv3D)
TRANSPOSED = (conv.Conv1DTranspose, conv.Conv2DTranspose, conv.Conv3DTranspose)
DEPTHWISE = (conv.DepthwiseConv1D, conv.DepthwiseConv2D, conv.DepthwiseConv3D)


def random_parameters(layer, shape, dtype, rng):
    return {name: rng.standard_normal(p.shape).astype(dtype) for name, p in layer.parameters(shape).items()}


def forward_backward(layer, x, p, dy=None):
    """``y, dx, dp`` of a layer in training; ``dy`` defaults to ones."""
    driver = Driver(layer, x, **p)
    y = driver.forward()
    return (y, *driver.backward(np.ones_like(y) if dy is None else dy))


@dataclasses.dataclass
class Case:
    """A convolution and an input that it can take."""

    layer: conv._Convolution
    shape: tuple[int, ...]
    batch: int

    def padding(self):
        numbers = self.layer._numbers()
        return resolve_padding(self.layer.padding, self.shape[:-1], numbers.size, numbers.stride, numbers.dilation)


def random_case(rng: np.random.Generator) -> Case:
    axes = int(rng.integers(1, 4))
    longest = (24, 12, 6)[axes - 1]
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    channels = groups * int(rng.choice([1, 2, 3, 5, 8, 16, 17]))
    filters = groups * int(rng.choice([1, 2, 4, 7, 16, 19, 33]))
    padding = ["valid", "same", "full", 1, 2, tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (axes, 2)))]
    if axes == 1:
        padding.append("causal")
    while True:
        numbers = [tuple(map(int, rng.integers(1, high, axes))) for high in (5, 4, 3)]
        size, stride, dilation = numbers
        layer = PLAIN[axes - 1](filters, size, stride, padding[rng.integers(len(padding))], dilation, groups, bias=bool(rng.integers(2)))
        shape = (*map(int, rng.integers(1, longest, axes)), channels)
        try:
            layer.output_shape(shape)
        except ShapeError:
            continue
        return Case(layer, shape, int(rng.integers(1, 4)))


def close(ours, reference, tolerance):
    scale = max(float(np.abs(reference).max(initial=0)), 1e-30)
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max(initial=0) <= tolerance * scale


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_convolution_agrees_with_its_definition(seed):
    rng = np.random.default_rng(seed)
    case = random_case(rng)
    x = rng.standard_normal((case.batch, *case.shape))
    p = random_parameters(case.layer, case.shape, x.dtype, rng)
    numbers = case.layer._numbers()
    geometry = (numbers.stride, case.padding(), numbers.dilation, case.layer.groups)
    expected = naive.convolve(x, p["weight"], p.get("bias"), *geometry)
    dy = rng.standard_normal(expected.shape)
    y, dx, dp = forward_backward(case.layer, x, p, dy)
    expected_dx, expected_dw, expected_db = naive.gradients(x, p["weight"], dy, *geometry)
    close(y, expected, 1e-12)
    close(dx, expected_dx, 1e-12)
    close(dp["weight"], expected_dw, 1e-12)
    if "bias" in dp:
        close(dp["bias"], expected_db, 1e-12)


def to_torch(torch, array):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1)), requires_grad=True)


def torch_weight(torch, weight):
    axes = weight.ndim - 2
    return torch.tensor(np.ascontiguousarray(weight.transpose(axes + 1, axes, *range(axes))), requires_grad=True)


def from_torch_weight(weight):
    return np.moveaxis(weight.numpy(), (0, 1), (-1, -2))


@pytest.mark.oracle
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
def test_300_random_convolutions_agree_with_pytorch(dtype, tolerance):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2026)
    for _ in range(300):
        case = random_case(rng)
        axes = case.layer.axes
        x = rng.standard_normal((case.batch, *case.shape)).astype(dtype)
        p = random_parameters(case.layer, case.shape, dtype, rng)
        numbers = case.layer._numbers()
        tx, tw = to_torch(torch, x), torch_weight(torch, p["weight"])
        tb = torch.tensor(p["bias"], requires_grad=True) if "bias" in p else None
        pads = [n for pair in reversed(case.padding()) for n in pair]
        function = (torch.conv1d, torch.conv2d, torch.conv3d)[axes - 1]
        ty = function(torch.nn.functional.pad(tx, pads), tw, tb, numbers.stride, 0, numbers.dilation, case.layer.groups)
        dy = rng.standard_normal((case.batch, *case.layer.output_shape(case.shape))).astype(dtype)
        ty.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
        y, dx, dp = forward_backward(case.layer, x, p, dy)
        close(y, np.moveaxis(ty.detach().numpy(), 1, -1), tolerance)
        close(dx, np.moveaxis(tx.grad.numpy(), 1, -1), tolerance)
        close(dp["weight"], from_torch_weight(tw.grad), tolerance)
        if tb is not None:
            close(dp["bias"], tb.grad.numpy(), tolerance)


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(30))
def test_transposed_convolution_agrees_with_pytorch(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 4))
    while True:
        groups = int(rng.integers(1, 3))
        size, stride, dilation = (tuple(map(int, rng.integers(1, 4, axes))) for _ in range(3))
        padding = tuple(map(int, rng.integers(0, 2, axes)))
        extra = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation))
        layer = TRANSPOSED[axes - 1](groups * int(rng.integers(1, 9)), size, stride, padding, extra, dilation, groups)
        shape = (*map(int, rng.integers(1, 6, axes)), groups * int(rng.integers(1, 9)))
        try:
            layer.output_shape(shape)
        except ShapeError:
            continue
        break
    x = rng.standard_normal((2, *shape))
    p = random_parameters(layer, shape, x.dtype, rng)
    tx, tw, tb = to_torch(torch, x), torch_weight(torch, p["weight"]), torch.tensor(p["bias"], requires_grad=True)
    functional = torch.nn.functional
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[axes - 1]
    ty = function(tx, tw, tb, stride, padding, extra, groups, dilation)
    dy = rng.standard_normal((2, *layer.output_shape(shape)))
    ty.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
    y, dx, dp = forward_backward(layer, x, p, dy)
    close(y, np.moveaxis(ty.detach().numpy(), 1, -1), 1e-12)
    close(dx, np.moveaxis(tx.grad.numpy(), 1, -1), 1e-12)
    close(dp["weight"], from_torch_weight(tw.grad), 1e-12)
    close(dp["bias"], tb.grad.numpy(), 1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_transposed_convolution_is_the_adjoint_of_same_convolution(size, stride):
    rng = np.random.default_rng(0)
    up = conv.Conv2DTranspose(3, size, stride, "same", bias=False)
    down = conv.Conv2D(5, size, stride, "same", bias=False)
    assert up.output_shape((4, 3, 5)) == (4 * stride, 3 * stride, 3)
    x, z = rng.standard_normal((1, 4, 3, 5)), rng.standard_normal((1, 4 * stride, 3 * stride, 3))
    p = random_parameters(up, x.shape[1:], x.dtype, rng)
    above = forward_backward(up, x, p)[0]
    below = forward_backward(down, z, p)[0]
    assert np.vdot(above, z) == pytest.approx(np.vdot(x, below))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_depthwise_convolution_agrees_with_grouped(seed):
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 4))
    while True:
        size, stride, dilation = (tuple(map(int, rng.integers(1, high, axes))) for high in (6, 4, 3))
        padding = ["valid", "same", 1, 3, tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (axes, 2)))][rng.integers(5)]
        layer = DEPTHWISE[axes - 1](size, stride, padding, dilation, int(rng.choice([1, 1, 1, 2])), bias=bool(rng.integers(2)))
        shape = (*map(int, rng.integers(1, (40, 16, 8)[axes - 1], axes)), int(rng.choice([1, 3, 8, 13, 16, 37])))
        try:
            layer.output_shape(shape)
        except ShapeError:
            continue
        break
    x = rng.standard_normal((2, *shape))
    p = random_parameters(layer, shape, x.dtype, rng)
    dy = rng.standard_normal((2, *layer.output_shape(shape)))
    grouped = layer._grouped(shape)
    for ours, reference in zip(forward_backward(layer, x, p, dy), forward_backward(grouped, x, p, dy)):
        if isinstance(ours, dict):
            for name in reference:
                close(ours[name], reference[name], 1e-12)
        else:
            close(ours, reference, 1e-12)


@pytest.mark.parametrize(
    ("image", "channels", "size", "stride", "padding", "dilation"),
    [
        ((15, 13), 72, 3, 2, "same", 1),  # residues with one line and one column less than the first one
        ((9, 17), 40, 5, 3, 4, 1),
        ((7, 7), 33, 5, 2, "same", 2),  # some residues have no taps
        ((6, 5), 20, 1, 2, "valid", 1),
        ((7, 7), 48, 7, 1, "same", 1),  # each tile of the weight gradient leaves the line somewhere
        ((5, 31), 16, 3, 1, 3, 2),  # padding that is no multiple of the dilation
        ((6, 4), 37, 5, 1, "same", 1),  # lines that are shorter than a kernel
        ((3, 30), 16, (2, 9), 1, 4, 1),  # kernel lines in two tiles, which overlap
        ((5, 1), 8, 1, 1, 40, 1),  # tasks that see nothing but padding
        ((65, 64), 64, 3, 1, "same", 1),  # large enough for prefetching
        ((9, 11), 3 * WIDTH, 3, 2, "same", 1),  # a block of one panel behind a whole one
        ((65, 128), WIDTH, 3, 1, "same", 1),  # the same alone, and large enough for prefetching
    ],
)
def test_depthwise_convolution_of_awkward_shapes(image, channels, size, stride, padding, dilation):
    rng = np.random.default_rng(3)
    layer = conv.DepthwiseConv2D(size, stride, padding, dilation)
    x = rng.standard_normal((2, *image, channels))
    p = random_parameters(layer, x.shape[1:], x.dtype, rng)
    dy = rng.standard_normal((2, *layer.output_shape(x.shape[1:])))
    y, dx, dp = forward_backward(layer, x, p, dy)
    expected_y, expected_dx, expected_dp = forward_backward(layer._grouped(x.shape[1:]), x, p, dy)
    close(y, expected_y, 1e-12)
    close(dx, expected_dx, 1e-12)
    close(dp["weight"], expected_dp["weight"], 1e-12)


def test_separable_convolution_is_depthwise_then_pointwise():
    rng = np.random.default_rng(0)
    layer = conv.SeparableConv2D(6, 3, stride=2, padding="same", multiplier=2)
    x = rng.standard_normal((2, 7, 6, 3))
    p = random_parameters(layer, x.shape[1:], x.dtype, rng)
    dy = rng.standard_normal((2, 4, 3, 6))
    y, dx, dp = forward_backward(layer, x, p, dy)
    first, second = conv.DepthwiseConv2D(3, 2, "same", 1, 2, bias=False), conv.Conv2D(6, 1)
    middle = forward_backward(first, x, {"weight": p["depthwise_weight"]})[0]
    pointwise = {"weight": p["pointwise_weight"], "bias": p["bias"]}
    expected, d_middle, later = forward_backward(second, middle, pointwise, dy)
    _, expected_dx, earlier = forward_backward(first, x, {"weight": p["depthwise_weight"]}, d_middle)
    close(y, expected, 1e-12)
    close(dx, expected_dx, 1e-12)
    close(dp["depthwise_weight"], earlier["weight"], 1e-12)
    close(dp["pointwise_weight"], later["weight"], 1e-12)
    close(dp["bias"], later["bias"], 1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        conv.Conv2D(19, 3, padding="same"),
        conv.Conv2D(7, 1),
        conv.Conv2D(7, 1, stride=2),
        conv.Conv2DTranspose(7, 3, stride=2),
        conv.DepthwiseConv2D(3, padding=1),
        conv.SeparableConv2D(9, 3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("residual", [False, True])
def test_epilogue_is_scale_shift_residual_activation(layer, residual):
    rng = np.random.default_rng(0)
    shape = (9, 7, 11)
    x = rng.standard_normal((2, *shape))
    p = random_parameters(layer, shape, x.dtype, rng)
    plain = forward_backward(layer, x, p)[0]
    filters = plain.shape[-1]
    p["fold_scale"], p["fold_shift"] = rng.standard_normal(filters), rng.standard_normal(filters)
    # Folding replaces the shift of the convolution's bias, which it scales.
    bias = p.get("bias", np.zeros(filters))
    expected = (plain - bias) * p["fold_scale"] + bias * p["fold_scale"] + p["fold_shift"]
    addend = rng.standard_normal(plain.shape)
    expected = np.maximum(expected + addend if residual else expected, 0)
    fused = layer.with_epilogue(Activation("relu"), residual, True)
    shapes = (shape, plain.shape[1:]) if residual else shape
    wanted = {**fused.scratch(shapes, 2, jit.num_threads(), False), **fused.prepared(shapes, 2, jit.num_threads(), False)}
    b = {name: np.full(((2,) if buffer.per_sample else ()) + buffer.shape, 77.0) for name, buffer in wanted.items()}
    y = np.full_like(plain, np.nan)
    fused.prepare(shapes, 2, p, b, False)
    fused.forward((x, addend) if residual else x, y, p, b, False)
    close(y, expected, 1e-12)


@pytest.mark.parametrize(("filters", "size", "channels"), [(40, 3, 20), (6, 5, 1)])
def test_same_bits_whatever_the_number_of_threads(filters, size, channels):
    rng = np.random.default_rng(0)
    layer = conv.Conv2D(filters, size, padding="same")
    x = rng.standard_normal((30, 13, 11, channels)).astype("float32")
    p = random_parameters(layer, x.shape[1:], x.dtype, rng)
    dy = rng.standard_normal((30, 13, 11, filters)).astype("float32")
    before = jit.num_threads()
    results = []
    for threads in {1, before}:
        jit.set_num_threads(threads)
        y, dx, dp = forward_backward(layer, x, p, dy)
        results.append((y, dx, dp["weight"], dp["bias"]))
    jit.set_num_threads(before)
    for ours, reference in zip(results[0], results[-1]):
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize(
    ("padding", "size", "kernel", "stride", "dilation", "expected"),
    [
        ("valid", 7, 3, 2, 1, (0, 0)),
        ("same", 7, 3, 2, 1, (1, 1)),
        ("same", 6, 3, 2, 1, (0, 1)),
        ("same", 5, 4, 1, 1, (1, 2)),
        ("same", 8, 2, 3, 1, (0, 0)),
        ("same", 5, 3, 1, 2, (2, 2)),
        ("full", 5, 3, 1, 2, (4, 4)),
        ("causal", 5, 3, 1, 2, (4, 0)),
        (3, 5, 3, 1, 1, (3, 3)),
        (((1, 2),), 5, 3, 1, 1, (1, 2)),
    ],
)
def test_padding(padding, size, kernel, stride, dilation, expected):
    assert resolve_padding(padding, (size,), (kernel,), (stride,), (dilation,)) == (expected,)


def test_same_padding_keeps_ceil_of_size_over_stride():
    for size in range(1, 12):
        for kernel in range(1, 6):
            for stride in range(1, 5):
                padding = resolve_padding("same", (size,), (kernel,), (stride,), (1,))
                assert window_places((size, 1), (size,), (kernel,), (stride,), (1,), padding) == (-(-size // stride),)


@pytest.mark.parametrize(
    "make",
    [
        lambda: conv.Conv2D(0, 3),
        lambda: conv.Conv2D(8, 3, stride=-1),
        lambda: conv.Conv2D(8, (3, 3, 3)),
        lambda: conv.Conv2D(8, 3, padding="sane"),
        lambda: conv.Conv2D(8, 3, padding="causal"),
        lambda: conv.Conv2D(8, 3, padding=-1),
        lambda: conv.Conv2D(8, 3, groups=0),
        lambda: conv.Conv2DTranspose(8, 3, padding="full"),
        lambda: conv.Conv2DTranspose(8, 3, stride=2, output_padding=2),
        lambda: conv.Conv2DTranspose(8, 3, stride=2, padding="same", output_padding=1),
        lambda: conv.Conv2D(True, 3),
        lambda: conv.Conv2D(8, np.float64(3)),
        lambda: conv.Conv2D(8, 3, padding=True),
        lambda: conv.DepthwiseConv2D(3, multiplier=0),
    ],
)
def test_wrong_numbers_are_refused_with_a_sentence(make):
    with pytest.raises(ConfigError, match=r"(Conv2D|DepthwiseConv2D).*\."):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (conv.Conv2D(8, 5), (4, 4, 3), "does not fit into 4"),
        (conv.Conv2D(8, 3), (4, 4), "height, width, channels"),
        (conv.Conv2D(8, 3, groups=2), (4, 4, 3), "groups"),
        (conv.Conv2DTranspose(8, 3, padding=2), (1, 1, 3), "cuts off"),
    ],
)
def test_wrong_shapes_are_refused_with_a_sentence(layer, shape, words):
    with pytest.raises(ShapeError, match=words):
        layer.output_shape(shape)


def test_numbers_of_numpy_are_numbers():
    eight, three = np.int64(8), np.uint8(3)
    layer = conv.Conv2D(eight, [three, three], stride=np.int32(1), padding=((three, 0), [1, three]), groups=np.int8(1))
    same = conv.Conv2D(8, (3, 3), padding=((3, 0), (1, 3)))
    assert layer == same
    assert hash(layer) == hash(same)
    assert repr(layer) == repr(same)
    assert layer.output_shape((5, 6, 3)) == same.output_shape((5, 6, 3))
    units = np.array([0, 3, 9]).max() + 1
    assert Dense(units) == Dense(10)
    assert type(Dense(units).units) is int


def test_output_padding_may_be_less_than_the_dilation():
    assert conv.Conv1DTranspose(2, 3, dilation=3, output_padding=2).output_shape((4, 1)) == (4 - 1 + 2 * 3 + 1 + 2, 2)
    with pytest.raises(ConfigError, match="smaller than the stride 2 or the dilation 3"):
        conv.Conv1DTranspose(2, 3, stride=2, dilation=3, output_padding=3)
    with pytest.raises(ConfigError, match='with padding "same" the output has size \\* stride places'):
        conv.Conv1DTranspose(2, 3, stride=2, padding="same", output_padding=1)


def test_tasks_are_bounded():
    """Where there are few channels, and where there is nothing to add up at all."""
    for window in (POINTWISE, NOTHING, Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1))):
        for size in ((1, 512, 512), (1, 1, 100_000), (1, 3000, 3)):
            for even in (False, True):
                cut = launch.blocks(window, size, 1, size, 8, 2, 4, even)
                assert 0 < cut.rows * cut.columns <= launch.TASK_PIXELS
                assert cut.scratch <= 2 * launch.PATCH_ELEMENTS


def test_a_sum_without_terms_takes_the_same_compiled_kernel():
    x, y, scratch = np.zeros((1, 1, 4, 4, 2)), np.zeros((1, 1, 4, 4, 2)), np.zeros((jit.num_threads(), 4096))
    with jit.record() as steps:
        launch.convolve(x, np.zeros(0), np.zeros(2), y, NOTHING, scratch)
    arrays = [argument for argument in steps[0][1] if isinstance(argument, np.ndarray)]
    assert {array.dtype for array in arrays} == {np.dtype(np.int64), x.dtype}


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(("size", "channels", "stride"), [((56, 56), 256, 2), ((29, 31), 320, 3), ((14, 14), 1030, 1)])
def test_patches_of_pointwise_convolutions_fit_their_scratch(size, channels, stride, batch):
    """Scratch is sized before the places that a stride leaves out are known to be left out."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *size, channels)).astype(np.float32)
    layer = conv.Conv2D(40, 1, stride=stride)
    p = random_parameters(layer, x.shape[1:], np.float32, rng)
    y = Driver(layer, x, **p).forward()
    close(y, x[:, ::stride, ::stride] @ p["weight"][0, 0] + p["bias"], 1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("width", [256, 257, 515])
def test_wide_depthwise_convolutions_write_their_own_lines_only(width, stride):
    """A line is cut into tasks, the last of which may be narrower than a tile."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, width * stride, 5))
    layer = conv.DepthwiseConv2D(3, stride=(1, stride), padding="same")
    p = random_parameters(layer, x.shape[1:], x.dtype, rng)
    padding = resolve_padding("same", x.shape[1:3], (3, 3), (1, stride), (1, 1))
    y = Driver(layer, x, **p).forward()
    close(y, naive.convolve(x, p["weight"], p["bias"], (1, stride), padding, (1, 1), 5), 1e-12)


def weight_gradient_by_definition(x, dy, window):
    """In float64, a tap at a time, on padded input; ``(kd, kh, kw, C / groups, CO)``."""
    margins = [
        (p, (n - 1) * s + d * (k - 1) + 1)
        for p, n, s, d, k in zip(window.padding, dy.shape[1:4], window.stride, window.dilation, window.extent)
    ]
    padded = np.zeros((x.shape[0], *(before + max(size, needed) for (before, needed), size in zip(margins, x.shape[1:4])), x.shape[4]))
    padded[(slice(None), *(slice(before, before + size) for (before, _), size in zip(margins, x.shape[1:4])))] = x
    inputs, outputs = x.shape[4] // window.groups, dy.shape[4] // window.groups
    found = np.zeros((*window.extent, inputs, dy.shape[4]))
    for tap in np.ndindex(*window.extent):
        cut = [slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in zip(tap, window.dilation, dy.shape[1:4], window.stride)]
        seen = padded[(slice(None), *cut)]
        for group in range(window.groups):
            to = slice(group * outputs, (group + 1) * outputs)
            found[tap][:, to] = np.einsum("ndhwi,ndhwo->io", seen[..., group * inputs : (group + 1) * inputs], dy[..., to])
    return found


def weight_gradient_of(x, dy, window, threads):
    """What the kernels make of it."""
    channels, outputs = x.shape[4], dy.shape[4]
    elements = weight_launch.weight_gradient_elements(window, x.shape[1:4], channels, dy.shape[1:4], outputs, len(x), threads)
    dw = np.full((*window.extent, channels // window.groups, outputs), np.nan)
    with jit.record(threads=threads) as steps:
        weight_launch.weight_gradients(x, dy, dw, window, np.full((threads, elements), np.nan))
    for function, arguments in steps:
        function(*arguments)
    return dw


@pytest.mark.parametrize("seed", range(1, 71))
def test_weight_gradient_agrees_with_its_definition(monkeypatch, seed):
    """Also of maps so small that whole taps meet nothing but padding, of lines of many images at once, of few channels, and of sums of
    many parts."""
    monkeypatch.setattr(weight_launch, "NARROW_PIXELS", seed)
    monkeypatch.setattr(weight_launch, "NARROW_ELEMENTS", 100 * seed)
    monkeypatch.setattr(weight_launch, "NARROW_COLUMNS", 1 + seed % 6)
    monkeypatch.setattr(weight_launch, "NARROW_BLOCK", 1)
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    extent, stride = tuple(rng.integers(1, (3, 6, 6))), tuple(rng.integers(1, 4, 3))
    dilation, padding = tuple(rng.integers(1, 3, 3)), tuple(rng.integers(0, 4, 3))
    places = tuple(rng.integers(1, (3, 5, 6)))
    size = tuple(
        max(1, (n - 1) * s + d * (k - 1) + 1 - 2 * p + int(rng.integers(0, s)))
        for n, s, d, k, p in zip(places, stride, dilation, extent, padding)
    )
    window = Window(*(tuple(map(int, each)) for each in (extent, stride, dilation, padding)), groups)
    channels, outputs, batch = (int(n) for n in rng.integers(1, (40, 50 if seed < 40 else 17, 9)))
    x = rng.standard_normal((batch, *size, channels * groups))
    dy = rng.standard_normal((batch, *places, outputs * groups))
    dw = weight_gradient_of(x, dy, window, jit.num_threads())
    np.testing.assert_allclose(dw, weight_gradient_by_definition(x, dy, window), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("channels", "outputs"), [(37, 50), (16, 33), (1, 40), (96, 17)])
@pytest.mark.parametrize(
    ("batch", "size", "stride"),
    [
        (3, (1, 15, 15), (1, 1, 1)),
        (2, (1, 27, 30), (1, 2, 2)),
        (1, (1, 1, 401), (1, 1, 1)),
        (2, (3, 4, 700), (2, 1, 3)),
        (3, (1, 200, 201), (2, 1, 1)),  # which come from memory
        (1, (1, 1, 1), (1, 1, 1)),
    ],
)
def test_pointwise_weight_gradient_agrees_with_its_definition(batch, size, stride, channels, outputs):
    """Of several blocks of pixels, panels that are not full, and inputs that a stride leaves out."""
    window = dataclasses.replace(POINTWISE, stride=stride)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *size, channels))
    dy = rng.standard_normal((batch, *(-(-n // s) for n, s in zip(size, stride)), outputs))
    dw = weight_gradient_of(x, dy, window, jit.num_threads())
    np.testing.assert_allclose(dw, weight_gradient_by_definition(x, dy, window), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(weight_gradient_of(x, dy, window, 3), dw, "the same bits for any number of threads")


@pytest.mark.parametrize(("outputs", "size", "stride"), [(70, 7, 2), (33, 3, 1), (64, 5, 3)])
def test_weight_gradient_of_few_inputs_agrees_with_its_definition(outputs, size, stride):
    """It is made panel by panel, all lines of the kernel together."""
    window = Window((1, size, size), (1, stride, stride), (1, 1, 1), (0, size // 2, size // 2), 1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 1, 29, 31, 3))
    places = [(n + 2 * (size // 2) - size) // stride + 1 for n in x.shape[2:4]]
    dy = rng.standard_normal((3, 1, *places, outputs))
    dw = weight_gradient_of(x, dy, window, jit.num_threads())
    np.testing.assert_allclose(dw, weight_gradient_by_definition(x, dy, window), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(weight_gradient_of(x, dy, window, 3), dw, "the same bits for any number of threads")


@pytest.mark.parametrize("size", [(1, 6, 5), (1, 1, 7), (2, 1, 1), (1, 1, 1), (1, 2, 1), (3, 2, 2)])
@pytest.mark.parametrize("layer", [conv.Conv3D(14, 3, padding=1), conv.Conv3DTranspose(14, 3, padding=1), conv.Conv3D(14, 5, padding=2)])
def test_small_maps_whose_padding_is_met_by_whole_taps(monkeypatch, layer, size):
    """Also where the taps that are left look like a two-dimensional convolution, whose weights lie elsewhere."""
    always = lambda window, size, channels, places, outputs, batch, packs: 2 * minimal.applies(window, channels, outputs)  # noqa: E731
    monkeypatch.setattr(minimal, "tile_size", always)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 13))
    p = random_parameters(layer, x.shape[1:], np.float64, rng)
    exact = dataclasses.replace(layer, exact=True)
    wide = np.zeros((2, *(n + 4 for n in size), 13))
    wide[:, 2:-2, 2:-2, 2:-2] = x
    y, dx, dp = forward_backward(layer, x, p)
    inner = (slice(None), *(slice(2, -2),) * 3)
    dy = np.zeros((2, *(n + 4 for n in size), 14))
    dy[inner] = 1
    around, wide_dx, wide_dp = forward_backward(exact, wide, p, dy)
    np.testing.assert_allclose(y, around[inner], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dx, wide_dx[inner], rtol=1e-9, atol=1e-9)
    for name, gradient in dp.items():
        np.testing.assert_allclose(gradient, wide_dp[name], rtol=1e-9, atol=1e-9)
