"""Convolutions that take two inputs at a time, and those that just do not: the numbers of the definition."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn import simd, simd_python
from numbacnn.graph import passes
from numbacnn.kernels import activations, conv, jit
from numbacnn.kernels.channels import VECTORS, WIDTH
from numbacnn.kernels.conv import pairs
from numbacnn.kernels.conv.launch import panels_of
from numbacnn.kernels.conv.pairs import SUMS
from numbacnn.kernels.conv.tiles import Panels
from numbacnn.layers.expansion import ExpandedDepthwise
from numbacnn.simd import LANES
from tests.naive import conv as naive

MOST = pairs.CHANNELS
DTYPES = {np.float32: 1e-5, np.float64: 1e-12}  # and their errors, as a part of the largest number
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
EXTENTS = [  # window, channels
    (conv.POINTWISE, 10),
    (conv.POINTWISE, 7),
    (conv.Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1)), 6),
    (conv.Window((1, 2, 4), (1, 2, 1), (1, 1, 1), (0, 1, 2)), 3),
    (conv.Window((2, 3, 3), (1, 2, 2), (1, 1, 2), (1, 2, 2)), 4),
    (conv.Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 3, 3), groups=2), 4),
]


@dataclasses.dataclass
class Case:
    """A convolution of ``batch`` inputs, and what it gives in double precision."""

    window: conv.Window
    channels: int  # of a group
    outputs: int  # of a group
    size: tuple[int, int, int]
    batch: int
    dtype: Any

    def __post_init__(self) -> None:
        seen, rng = self.window, np.random.default_rng(0)
        spans = zip(self.size, seen.padding, seen.dilation, seen.extent, seen.stride)
        self.places = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in spans)
        self.filters = self.outputs * seen.groups
        shapes = (
            (self.batch, *self.size, self.channels * seen.groups),
            (*seen.extent, self.channels, self.filters),
            (self.filters,),
            (self.filters,),
            (self.batch, *self.places, self.filters),
        )
        self.x, self.weight, self.scale, self.bias, self.dy = (rng.standard_normal(shape).astype(self.dtype) for shape in shapes)
        geometry = seen.stride, [(p, p) for p in seen.padding], seen.dilation, seen.groups
        x, weight, dy = (array.astype(np.float64) for array in (self.x, self.weight, self.dy))
        self.y = naive.convolve(x, weight * self.scale, self.bias.astype(np.float64), *geometry)
        self.dx = naive.gradients(x, weight, dy, *geometry)[0]

    def passes(self, kind: type) -> Any:
        return kind(self.window, self.size, self.x.shape[-1], self.places, self.filters, self.batch, True)

    def run(self, activation=None, addend=None, prologue=None, threads=1):
        method, y = self.passes(conv.Forward), np.full(self.dy.shape, np.nan, self.dtype)
        packed, scratch = self._buffers(method, threads)
        with jit.record(threads=threads) as steps:
            method.pack(self.weight, self.scale, packed)
            method.run(self.x, packed, self.bias, y, scratch, addend, activation, prologue)
        jit.run(steps)
        return y

    def data_gradient(self):
        method, dx = self.passes(conv.DataGradient), np.full_like(self.x, np.nan)
        packed, scratch = self._buffers(method, 1)
        channels = self.x.shape[-1]
        with jit.record(threads=1) as steps:
            method.pack(self.weight, np.ones(channels, self.dtype), packed, scratch)
            method.run(self.dy, packed, np.zeros(channels, self.dtype), dx, scratch)
        jit.run(steps)
        return dx

    def _buffers(self, method, threads):
        packed = np.full(method.packed_elements, np.nan, self.dtype)
        return packed, np.full((threads, method.scratch_elements(threads)), np.nan, self.dtype)

    def agrees(self, ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=DTYPES[self.dtype] * max(1, abs(expected).max()))


def test_which_convolutions_take_pairs():
    def takes(outputs, inputs=4, window=conv.POINTWISE, dtype=np.float32):
        return panels_of(window, inputs, outputs, dtype) is Panels.PAIRED

    pays = bool(pairs.PAIRED_DTYPES)
    assert [takes(outputs) for outputs in (LANES, LANES + 1, MOST, MOST + 1)] == [False, pays, pays, False]
    assert not takes(MOST, inputs=5)
    assert not takes(MOST, dtype=np.float64)
    for extent, dilation, inputs, even in ((3, 1, 4, True), (2, 1, 3, True), (2, 2, 3, False), (3, 1, 3, False)):
        window = dataclasses.replace(conv.POINTWISE, extent=(1, 1, extent), dilation=(1, 1, dilation), groups=2)
        assert takes(2 * MOST, inputs, window) == (pays and even)
    assert panels_of(conv.POINTWISE, 4, LANES, np.float32) is Panels.NARROW
    assert panels_of(conv.POINTWISE, 4, MOST + 1, np.float32) is Panels.WIDE


@each_dtype
@pytest.mark.parametrize("outputs", [*range(LANES, MOST + 2)])
@pytest.mark.parametrize(("window", "channels"), EXTENTS, ids=str)
def test_outputs_agree_with_their_definition(window, channels, outputs, dtype):
    case = Case(window, channels, outputs, (window.extent[0], 5, 9), 2, dtype)
    case.agrees(case.run(), case.y)


@each_dtype
@pytest.mark.parametrize("outputs", [LANES + 1, MOST])
@pytest.mark.parametrize(("window", "channels"), EXTENTS, ids=str)
def test_data_gradients_agree_with_their_definition(window, channels, outputs, dtype):
    """Of so many inputs."""
    case = Case(window, outputs, channels, (window.extent[0], 5, 9), 2, dtype)
    case.agrees(case.data_gradient(), case.dx)


@each_dtype
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, activations.relu6, activations.leaky_relu(0.1), activations.silu])
def test_any_number_of_pixels(activation, residual, dtype):
    """A clamp, an activation of few instructions, and one that calls functions."""
    scalars = {None: lambda y: y, activations.relu6: lambda y: np.clip(y, 0, 6), activations.silu: lambda y: y / (1 + np.exp(-y))}
    expected = scalars.get(activation, lambda y: np.where(y > 0, y, 0.1 * y))
    for pixels in range(1, 21):
        case = Case(conv.POINTWISE, 6, MOST, (1, 1, pixels), 1, dtype)
        y = case.run(activation, case.dy if residual else None)
        case.agrees(y, expected(case.y + case.dy if residual else case.y))


@each_dtype
@pytest.mark.parametrize("images", [1, 3])
def test_after_a_prologue(images, dtype):
    case, rng = Case(conv.POINTWISE, 38, MOST - 1, (1, 5, 7), 3, dtype), np.random.default_rng(1)
    gain, offset = rng.standard_normal((images, 38)).astype(dtype), rng.standard_normal(38).astype(dtype)
    y = case.run(activations.relu, case.dy, conv.Prologue(gain, offset, activations.relu6))
    before = np.clip(case.x.astype(np.float64) * gain[:, None, None, None] + offset, 0, 6)
    expected = before @ (case.weight[0, 0, 0] * case.scale).astype(np.float64) + case.bias + case.dy
    case.agrees(y, np.maximum(0, expected))


@pytest.mark.parametrize("window", [conv.POINTWISE, EXTENTS[2][0]], ids=str)
def test_same_bits_whatever_the_number_of_threads(window):
    case = Case(window, 8, MOST, (1, 23, 29), 2, np.float32)
    wanted = case.run(activations.relu, case.dy)
    for threads in (2, 3):
        np.testing.assert_array_equal(case.run(activations.relu, case.dy, threads=threads), wanted)


def test_outputs_in_a_slice_of_something_wider():
    case = Case(EXTENTS[2][0], 8, MOST, (1, 7, 9), 2, np.float32)
    wanted, wider = case.run(), np.full((*case.dy.shape[:-1], MOST + 5), np.nan, np.float32)
    case.x = np.pad(case.x, ((0, 0),) * 4 + ((3, 2),), constant_values=np.nan)[..., 3:-2]
    method = case.passes(conv.Forward)
    packed, scratch = case._buffers(method, jit.num_threads())
    method.pack(case.weight, case.scale, packed)
    method.run(case.x, packed, case.bias, wider[..., 2:-3], scratch)
    np.testing.assert_array_equal(wider[..., 2:-3], wanted)
    assert np.isnan(wider[..., :2]).all()
    assert np.isnan(wider[..., -3:]).all()


def test_paired_weights_are_no_expansion():
    """A depthwise convolution reads other panels of the pointwise one before it."""
    for outputs, joins in ((MOST, False), (MOST + 1, True)):
        x = nc.Input((56, 56, 8))
        model = nc.Model(x, nc.DepthwiseConv2D(3, padding="same")(nc.Conv2D(outputs, 1)(x)))
        nodes, _ = passes.for_inference(model.graph.nodes, model.graph.outputs)
        assert any(isinstance(node.layer, ExpandedDepthwise) for node in nodes) == (joins or not pairs.PAIRED_DTYPES)


def test_training_agrees_with_double_precision():
    """Layers with so many channels on either side."""
    losses = []
    for dtype in ("float32", "float64"):
        x = nc.Input((9, 10, MOST))
        h = nc.Activation("relu6")(nc.BatchNorm()(nc.Conv2D(40, 1, bias=False)(x)))
        h = nc.BatchNorm()(nc.Conv2D(MOST, 1, bias=False)(h))
        y = nc.Dense(3)(nc.GlobalAveragePool2D()(nc.Conv2D(MOST - 2, 3, stride=2)(nc.Add()([x, h]))))
        trainer = nc.Trainer(nc.Model(x, y, dtype=dtype, seed=0), optimizer=nc.SGD(0.05))
        images = np.random.default_rng(0).standard_normal((6, 9, 10, MOST)).astype(dtype)
        losses.append([float(trainer.step(images, np.arange(6) % 3)) for _ in range(5)])
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def product_by(tiles, of_pairs):
    """Seven rows of ``x``, ``step`` apart, times ``w``, of which each two rows take turns in ``packed``."""
    zeros, rows_of, moved, load, store = (getattr(tiles, name) for name in ("zeros", "rows_of", "moved", "load", "store"))
    outer_of_pairs, pair_sums, interleaved = (getattr(of_pairs, name) for name in ("outer_of_pairs", "pair_sums", "interleaved"))

    def product(x, w, packed, y, at, step, depth):
        for k in range(0, depth, 2):
            store(interleaved(load(w, k * WIDTH, WIDTH, 2, VECTORS)), packed, k * WIDTH, 0)
        rows, sums = rows_of(x, at, step, 7, depth), zeros(y, 7, SUMS)
        for k in range(0, depth, 4):
            sums = outer_of_pairs(sums, rows, 0, packed, k * WIDTH)
            if k + 2 < depth:
                sums = outer_of_pairs(sums, rows, 2, packed, (k + 2) * WIDTH)
            rows = moved(rows, 4)
        store(pair_sums(sums), y, 0, WIDTH)

    return product


@each_dtype
@pytest.mark.parametrize("step", [0, 1, 5, 40])
def test_rows_times_pairs(step, dtype):
    """Compiled and in plain Python."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(300).astype(dtype), rng.standard_normal((6, WIDTH)).astype(dtype)
    wanted = np.stack([x[3 + i * step : 9 + i * step] for i in range(7)]) @ w
    for function in (jit.kernel(product_by(simd, pairs)), product_by(simd_python, simd_python)):
        y = np.full((7, WIDTH), np.nan, dtype)
        function(x, w, np.full_like(w, np.nan), y, 3, step, 6)
        np.testing.assert_allclose(y[:, :MOST], wanted[:, :MOST], rtol=1e-5, atol=1e-5)
