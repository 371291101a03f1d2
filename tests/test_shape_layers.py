"""Layers that move numbers (Flatten, Permute, ZeroPad, Slice, Split, DepthToSpace...) and the copy kernel under them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from numbacnn import kernels
from numbacnn.errors import ConfigError, ShapeError
from numbacnn.layers.shape import (
    ChannelShuffle,
    Crop,
    DepthToSpace,
    Flatten,
    Identity,
    Permute,
    Reshape,
    Slice,
    SpaceToDepth,
    Split,
    ZeroPad,
)
from numbacnn.testing import Trial, gradient_check
from tests.naive import rearrange as naive

SHAPES = {1: (7, 6), 2: (5, 3, 4), 3: (3, 2, 5, 4)}


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def check_moves(layer, shape, reference, batch=3):
    """``forward`` is ``reference`` exactly; ``backward`` brings every gradient back to where its element came from."""
    trial = Trial(layer, [shape], batch)
    x, (y,) = trial.x[0], trial.forward()
    np.testing.assert_array_equal(y, reference(x))
    assert y.shape[1:] == layer.output_shape(shape)
    numbers = np.arange(1.0, x.size + 1).reshape(x.shape)
    sources = reference(numbers).astype(int).ravel()
    expected = np.zeros(x.size + 1)
    np.add.at(expected, sources, trial.dy[0].ravel())
    ((dx,), _) = trial.backward()
    np.testing.assert_array_equal(dx.ravel(), expected[1:])


# The kernel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 3, 2), (0, 2, 1, 3)])
def test_copy_into_any_order_of_axes(dtype, order, rng):
    for shape in ((2, 5, 7, 3), (3, 41, 37, 40), (1, 1, 1, 1), (1, 67, 1, 33)):
        x = rng.standard_normal(shape).astype(dtype)
        y = np.full([shape[axis] for axis in order], np.nan, dtype)
        kernels.rearrange.copy(x.transpose(order), y)
        np.testing.assert_array_equal(y, x.transpose(order))
        back = np.full_like(x, np.nan)
        kernels.rearrange.copy(y, back.transpose(order))
        np.testing.assert_array_equal(back, x)
    small = rng.standard_normal((2, 3, 2, 2)).astype(dtype)
    y = np.empty([small.shape[axis] for axis in order], dtype)
    kernels.rearrange.copy(small.transpose(order), y)
    np.testing.assert_array_equal(y, naive.copy(small.transpose(order)))


def test_copy_between_strided_views_leaves_the_rest_alone(rng):
    whole = rng.standard_normal((2, 9, 8, 70))
    for part in (np.s_[:, 2:5, 1:, 20:53], np.s_[1:, :, ::2, 1::3], np.s_[..., 5:6], np.s_[:, 4:5]):
        source, target = rng.standard_normal(whole[part].shape), whole.copy()
        kernels.rearrange.copy(source, target[part])
        expected = whole.copy()
        expected[part] = source
        np.testing.assert_array_equal(target, expected)
        kernels.rearrange.clear(target[part])
        expected[part] = naive.clear(source)
        np.testing.assert_array_equal(target, expected)


def test_copy_takes_whole_numbers(rng):
    x = rng.integers(0, 255, (3, 5, 70))
    y = np.zeros((3, 70, 5), np.int64)
    kernels.rearrange.copy(x.swapaxes(1, 2), y)
    np.testing.assert_array_equal(y, x.swapaxes(1, 2))


def test_copy_refuses_other_shapes():
    with pytest.raises(ShapeError, match=re.escape("(2, 3) was to be copied into one of shape (3, 2)")):
        kernels.rearrange.copy(np.zeros((2, 3)), np.zeros((3, 2)))


# The layers ----------------------------------------------------------------------------------------------------------


def test_views():
    assert Flatten().output_shape((3, 4, 5)) == (60,)
    assert Flatten().output_shape((7,)) == (7,)
    assert Reshape((4, 6)).output_shape((3, 4, 2)) == (4, 6)
    assert Reshape((4, -1, 2)).output_shape((3, 4, 2)) == (4, 3, 2)
    assert Reshape().output_shape((3, 4, 2)) == (24,)
    assert Identity().output_shape((3, 4)) == (3, 4)
    assert Flatten.alias
    assert Reshape.alias
    assert Identity.alias


@pytest.mark.parametrize(
    ("order", "shape"),
    [(None, (3, 4, 5)), ((1, 0, 2), (3, 4, 33)), ((2, 0, 1), (3, 4, 5)), ((-1, 0), (3, 5)), ((0,), (7,)), ((3, 1, 0, 2), (2, 3, 4, 5))],
)
def test_permute(order, shape):
    axes = range(len(shape))[::-1] if order is None else [axis % len(shape) for axis in order]
    check_moves(Permute(order), shape, lambda x: naive.permute(x, axes))


@pytest.mark.parametrize("axes", SHAPES)
def test_zero_pad_and_crop(axes):
    for value in (1, ((1, 0), (0, 2), (1, 1))[:axes], ((2, 1), 0, (0, 0))[:axes], 0):
        entries = (value,) * axes if isinstance(value, int) else value
        pairs = [(entry, entry) if isinstance(entry, int) else entry for entry in entries]
        small, large = SHAPES[axes], (*(n + 4 for n in SHAPES[axes][:-1]), 17)
        check_moves(ZeroPad(value), small, lambda x: naive.zero_pad(x, pairs))
        check_moves(Crop(value), large, lambda x: naive.crop(x, pairs))
    check_moves(ZeroPad(2), (*(1,) * axes, 1), lambda x: naive.zero_pad(x, [(2, 2)] * axes), batch=1)
    check_moves(ZeroPad(1, channels=(3, 2)), SHAPES[axes], lambda x: naive.zero_pad(x, [(1, 1)] * axes, (3, 2)))
    check_moves(ZeroPad(0, channels=16), SHAPES[axes], lambda x: naive.zero_pad(x, [(0, 0)] * axes, (16, 16)))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"start": 1, "stop": 3}, np.s_[..., 1:3]),
        ({"axis": 0, "start": 2}, np.s_[:, 2:]),
        ({"axis": -2, "stop": -1}, np.s_[..., :-1, :]),
        ({"start": -2}, np.s_[..., -2:]),
        ({"axis": 0, "stop": 99}, np.s_[:, :99]),
    ],
)
def test_slice(fields, part):
    check_moves(Slice(**fields), (5, 3, 4), lambda x: x[part].copy())


@pytest.mark.parametrize(
    ("fields", "shape", "cuts"),
    [
        ({"parts": 2}, (3, 5, 34), [17]),
        ({"parts": (1, 4, 2)}, (3, 7), [1, 5]),
        ({"parts": 3, "axis": 0}, (3, 5), [1, 2]),
        ({"parts": 1}, (4,), []),
    ],
)
def test_split(fields, shape, cuts):
    layer = Split(**fields)
    trial = Trial(layer, [shape], batch=2)
    axis = layer.axis if layer.axis < 0 else layer.axis + 1
    for part, expected in zip(trial.forward(), np.split(trial.x[0], cuts, axis), strict=True):
        np.testing.assert_array_equal(part, expected)
    ((dx,), _) = trial.backward()
    np.testing.assert_array_equal(dx, np.concatenate(trial.dy, axis))


@pytest.mark.parametrize("order", ["DCR", "CRD"])
@pytest.mark.parametrize(("axes", "block"), [(1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 2)])
def test_depth_to_space_and_back(order, axes, block):
    spatial = (3, 2, 1)[:axes]
    deep = (*spatial, 5 * block**axes)
    wide = (*(n * block for n in spatial), 5)
    check_moves(DepthToSpace(block, order), deep, lambda x: naive.depth_to_space(x, block, order))
    check_moves(SpaceToDepth(block, order), wide, lambda x: naive.space_to_depth(x, block, order))
    assert SpaceToDepth(block, order).output_shape(DepthToSpace(block, order).output_shape(deep)) == deep


@pytest.mark.parametrize(("shape", "groups"), [((3, 4, 12), 3), ((5, 8), 4), ((6,), 2), ((1, 1, 5), 5), ((2, 2, 7), 1)])
def test_channel_shuffle(shape, groups):
    check_moves(ChannelShuffle(groups), shape, lambda x: naive.channel_shuffle(x, groups))


@pytest.mark.parametrize("layer", [Permute(), ZeroPad(), Crop(), Slice(stop=3), DepthToSpace(), SpaceToDepth(), ChannelShuffle(), Split()])
def test_gradients(layer):
    gradient_check(layer, (4, 6, 8))


# What cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reshape((-1, -1)), "shape of Reshape is (-1, -1)"),
        (lambda: Reshape((0, 3)), "shape of Reshape is (0, 3)"),
        (lambda: Permute((0, "x")), "order of Permute is (0, 'x')"),
        (lambda: ZeroPad(-1), "padding of ZeroPad is -1"),
        (lambda: ZeroPad("same"), "padding of ZeroPad is 'same'"),
        (lambda: ZeroPad(channels=-1), "channels of ZeroPad is -1; it takes an integer of at least 0, or a pair (before, after)."),
        (lambda: ZeroPad(channels=(1, 2, 3)), "channels of ZeroPad is (1, 2, 3)"),
        (lambda: Crop(((1, 2, 3),)), "cropping of Crop is ((1, 2, 3),)"),
        (lambda: Slice(start=1.5), "Slice: start is 1.5"),
        (lambda: Split(0), "parts of Split is 0"),
        (lambda: Split(()), "parts of Split is ()"),
        (lambda: DepthToSpace(0), "DepthToSpace: block is 0; it takes an integer of at least 1."),
        (lambda: SpaceToDepth(order="RCD"), "order of SpaceToDepth is 'RCD'; it takes 'DCR' or 'CRD'."),
        (lambda: ChannelShuffle(0), "ChannelShuffle: groups is 0"),
    ],
)
def test_fields_that_cannot_be(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Reshape((5, -1)), (3, 4), "given shape (3, 4) with 12 elements, needs a multiple of 5 for the new shape (5, -1)."),
        (Reshape((5, 2)), (3, 4), "given shape (3, 4) with 12 elements, needs 10 for the new shape (5, 2)."),
        (Permute((0, 0, 1)), (3, 4, 5), "needs as order each of its axes 0 to 2 once, not (0, 0, 1)."),
        (ZeroPad(((1, 1),)), (3, 4, 5), "given shape (3, 4, 5) with 2 spatial axes, needs as many entries of padding, not 1."),
        (ZeroPad(), (5,), "given shape (5,), needs (spatial axes..., channels)"),
        (Crop(2), (4, 5, 3), "given shape (4, 5, 3), needs more than 4 along axis 0"),
        (Slice(start=7), (4, 3), "needs a slice that is not empty; 7:None of axis -1 is."),
        (Slice(axis=2), (4, 3), "given shape (4, 3), needs an axis 2"),
        (Split(2), (4, 3), "given shape (4, 3), needs a multiple of 2 along axis -1"),
        (Split((1, 1)), (4, 3), "given shape (4, 3), needs 2 along axis -1, the sum of the parts (1, 1)."),
        (DepthToSpace(), (4, 4, 6), "given shape (4, 4, 6), needs channels in a multiple of 4"),
        (SpaceToDepth(), (4, 5, 6), "given shape (4, 5, 6), needs a multiple of 2 along each spatial axis"),
        (ChannelShuffle(4), (4, 5, 6), "given shape (4, 5, 6), needs channels in a multiple of 4"),
    ],
)
def test_shapes_that_cannot_be(layer, shape, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        layer.output_shape(shape)


@pytest.mark.oracle
@pytest.mark.parametrize("block", [2, 3])
def test_blocks_against_torch(block, rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 4, 5 * block**2)).astype(np.float32)
    y = np.empty((2, 3 * block, 4 * block, 5), np.float32)
    DepthToSpace(block, "CRD").forward(x, y, {}, {}, False)
    expected = torch.nn.functional.pixel_shuffle(torch.tensor(x).permute(0, 3, 1, 2), block).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(y, expected.numpy())
    back = np.empty_like(x)
    SpaceToDepth(block, "CRD").forward(y, back, {}, {}, False)
    expected = torch.nn.functional.pixel_unshuffle(torch.tensor(y).permute(0, 3, 1, 2), block).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(back, expected.numpy())


@pytest.mark.oracle
def test_channel_shuffle_against_torch(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 4, 12)).astype(np.float32)
    y = np.empty_like(x)
    ChannelShuffle(3).forward(x, y, {}, {}, False)
    expected = torch.nn.functional.channel_shuffle(torch.tensor(x).permute(0, 3, 1, 2), 3).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(y, expected.numpy())
