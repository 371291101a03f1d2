"""The checks must find what they are for: one layer in plain NumPy that is right, and one per way to be wrong."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from numbacnn.errors import ConfigError, ShapeError
from numbacnn.layers.base import Buffer, Layer, Parameter
from numbacnn.layers.conv import Conv2D
from numbacnn.testing import CHECKS, check_architecture, check_layer, gradient_check

SHAPE = (3, 4, 2)


@dataclasses.dataclass(frozen=True)
class Tilt(Layer):
    """``y = sin(weight * x)``, over any axes."""

    in_place: ClassVar[bool] = False
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    stem: ClassVar[str] = "tilt"

    def output_shape(self, x):
        if not x:
            raise ShapeError(f"given shape {x}, needs a channel axis.")
        return x

    def parameters(self, x):
        return {"weight": Parameter((x[-1],), "ones")}

    def buffers(self, x):
        return {"slope": Buffer(x)}

    def forward(self, x, y, p, b, training):
        y[...] = np.sin(p["weight"] * x)
        if training:
            b["slope"][...] = np.cos(p["weight"] * x)

    def backward(self, x, y, dy, dx, p, dp, b):
        if dx is not None:
            dx[...] = dy * b["slope"] * p["weight"]
        if "weight" in dp:
            dp["weight"][...] = (dy * b["slope"] * x).reshape(-1, x.shape[-1]).sum(0)


@dataclasses.dataclass(frozen=True)
class Noise(Layer):
    """``y = x * m`` where m is 0 or 2, drawn anew at every step."""

    random: ClassVar[bool] = True
    in_place: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()

    def buffers(self, x):
        return {"mask": Buffer(x)}

    def forward(self, x, y, p, b, training):
        mask = np.ones(x.shape)
        if training:
            b["mask"][...] = mask = 2.0 * np.random.Generator(np.random.Philox(key=b["random"])).integers(0, 2, x.shape)
        np.multiply(x, mask, out=y, casting="unsafe")

    def backward(self, x, y, dy, dx, p, dp, b):
        if dx is not None:
            np.multiply(dy, b["mask"], out=dx)


class WrongGradient(Tilt):
    def backward(self, x, y, dy, dx, p, dp, b):
        super().backward(x, y, dy, dx, p, dp, b)
        if dx is not None:
            dx[0, -1, -1, -1] += 1e-3


class WrongParameterGradient(Tilt):
    def backward(self, x, y, dy, dx, p, dp, b):
        super().backward(x, y, dy, dx, p, dp, b)
        if "weight" in dp:
            dp["weight"] *= 1.001


class Accumulating(Tilt):
    def backward(self, x, y, dy, dx, p, dp, b):
        if dx is not None:
            dx += dy * b["slope"] * p["weight"]
        super().backward(x, y, dy, None, p, dp, b)


class Unfinished(Tilt):
    def forward(self, x, y, p, b, training):
        before = y[-1, -1, -1, -1].copy()
        super().forward(x, y, p, b, training)
        y[-1, -1, -1, -1] = before


class Undeclared(Tilt):
    backward_reads: ClassVar[tuple[str, ...]] = ()


class NeedsGradient(Tilt):
    def backward(self, x, y, dy, dx, p, dp, b):
        dx[...] = dy * b["slope"] * p["weight"]
        super().backward(x, y, dy, None, p, dp, b)


class Greedy(Tilt):
    def backward(self, x, y, dy, dx, p, dp, b):
        super().backward(x, y, dy, dx, p, dp, b)
        dy[...] = 0


class Spoiling(Tilt):
    def forward(self, x, y, p, b, training):
        super().forward(x, y, p, b, training)
        x *= 2


class NotInPlace(Tilt):
    in_place: ClassVar[bool] = True

    def forward(self, x, y, p, b, training):
        y[...] = 0
        super().forward(x, y, p, b, training)


class NeverAdds(Tilt):
    adds_gradients: ClassVar[bool] = True

    def backward(self, x, y, dy, dx, p, dp, b, adds=False):
        super().backward(x, y, dy, dx, p, dp, b)


class OutOfBounds(Tilt):
    def forward(self, x, y, p, b, training):
        super().forward(x, y, p, b, training)
        behind = np.lib.stride_tricks.as_strided(y.reshape(-1)[-1:], (2,), y.strides[-1:])
        behind[1] = 0


class Leaning(Tilt):
    """Mixes the samples of a batch."""

    def forward(self, x, y, p, b, training):
        super().forward(x, y, p, b, training)
        if not training:
            y += x.mean(0)


class Imprecise(Tilt):
    def forward(self, x, y, p, b, training):
        super().forward(x.astype(np.float16) if x.dtype == np.float32 else x, y, p, b, training)


class ByThreads(Tilt):
    def forward(self, x, y, p, b, training):
        from numbacnn.kernels import jit

        super().forward(x, y, p, b, training)
        y *= 1 + 1e-7 * jit.num_threads()


class Crashing(Tilt):
    def output_shape(self, x):
        return (*x[:2], x[2])


class Unequal(Tilt):
    def __eq__(self, other):
        return self is other

    __hash__ = Layer.__hash__


class SameNoise(Noise):
    def forward(self, x, y, p, b, training):
        if training:
            b = {**b, "random": np.zeros(2, np.uint64)}
        super().forward(x, y, p, b, training)


def as_if_dense(array):
    return np.lib.stride_tricks.as_strided(array, array.shape, np.empty(array.shape, array.dtype).strides)


class ReadsGaps(Tilt):
    reads_views = True

    def forward(self, x, y, p, b, training):
        super().forward(as_if_dense(x), y, p, b, training)


class WritesGaps(Tilt):
    writes_views = True

    def forward(self, x, y, p, b, training):
        super().forward(x, as_if_dense(y), p, b, training)


class EverNewAgain(Noise):
    def forward_again(self, x, y, p, b):
        y[...] = x * np.random.default_rng().random()


class MovesAgain(Tilt):
    def forward_again(self, x, y, p, b):
        self.forward(x, y, p, b, False)
        p["weight"] += 1


class SpoilsBuffers(Tilt):
    def forward_again(self, x, y, p, b):
        self.forward(x, y, p, {**b}, False)
        b["slope"][...] = 0


class EverNewNoise(Noise):
    def forward(self, x, y, p, b, training):
        if training:
            b = {**b, "random": np.random.default_rng().integers(0, 2**60, 2).astype(np.uint64)}
        super().forward(x, y, p, b, training)


@pytest.mark.parametrize("layer", [Tilt(), Noise()])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1), (5,)])
def test_a_right_layer_passes_every_check(layer, shape):
    check_layer(layer, shape)
    gradient_check(layer, shape)


@pytest.mark.parametrize(
    ("layer", "check", "words"),
    [
        (WrongGradient, "gradients", "central differences"),
        (WrongParameterGradient, "gradients", "dp['weight']"),
        (Accumulating, "overwrites", "nan in dx"),
        (Unfinished, "overwrites", "nan in y"),
        (Undeclared, "overwrites", "TypeError"),
        (NeedsGradient, "overwrites", "TypeError"),
        (Greedy, "overwrites", "changes dy"),
        (Spoiling, "overwrites", "changes its input"),
        (NotInPlace, "in place", "in place of input 0 against apart"),
        (NeverAdds, "adds", "dx of backward that adds"),
        (OutOfBounds, "overwrites", "outside of an array"),
        (Leaning, "inference", "alone against within a batch"),
        (Imprecise, "precision", "float32 against float64"),
        (ReadsGaps, "views", "x_views=True"),
        (WritesGaps, "views", "outside of an array"),
        (ByThreads, "threads", "with 1 thread(s)"),
        (Crashing, "messages", "IndexError"),
        (Unequal, "config", "equal layer"),
        (SameNoise, "random", "same numbers"),
        (EverNewNoise, "random", "drawn twice"),
        (EverNewAgain, "again", "forward_again against forward"),
        (MovesAgain, "again", "forward_again changes the parameter 'weight'"),
        (SpoilsBuffers, "again", "dx after forward_again"),
    ],
)
def test_a_wrong_layer_is_found(layer, check, words):
    if check == "threads":
        from numbacnn.kernels import jit

        if jit.num_threads() < 2:
            pytest.skip("needs two threads")
    with pytest.raises(AssertionError) as caught:
        check_layer(layer(), SHAPE, skip=[name for name in CHECKS if name != check])
    message = str(caught.value)
    assert f"check {check!r} fails for {layer.__name__}() on input shape (3, 4, 2)" in message
    assert words in message


@dataclasses.dataclass(frozen=True)
class Difference(Layer):
    """``y = x[0] - x[1]``, in place over either."""

    arity: ClassVar[int] = 2
    in_place: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()
    stem: ClassVar[str] = "difference"

    def output_shape(self, x):
        if x[0] != x[1]:
            raise ShapeError(f"given shapes {x}, needs equal ones.")
        return x[0]

    def forward(self, x, y, p, b, training):
        np.subtract(x[0], x[1], out=y)

    def backward(self, x, y, dy, dx, p, dp, b):
        negative = -dy
        if dx[0] is not None:
            dx[0][...] = dy
        if dx[1] is not None:
            dx[1][...] = negative


class OverwritesTheSecond(Difference):
    def forward(self, x, y, p, b, training):
        y[...] = x[0]
        y -= x[1]


class GradientOverTheSecond(Difference):
    def backward(self, x, y, dy, dx, p, dp, b):
        if dx[1] is not None:
            np.negative(dy, out=dx[1])
        if dx[0] is not None:
            dx[0][...] = dy


def test_in_place_is_tried_over_every_input():
    check_layer(Difference(), [SHAPE, SHAPE])
    for layer, words in ((OverwritesTheSecond, "forward in place of input 1"), (GradientOverTheSecond, "backward in place of input 1")):
        with pytest.raises(AssertionError, match=words):
            check_layer(layer(), [SHAPE, SHAPE], skip=[name for name in CHECKS if name != "in place"])


def test_a_layer_whose_activation_has_parameters_is_right():
    check_layer(Conv2D(4, 3, activation="prelu"), (5, 6, 2), skip=["threads"])


@pytest.mark.parametrize("layer", [WrongGradient, WrongParameterGradient])
def test_gradient_check_finds_wrong_gradients_in_large_arrays_too(layer):
    with pytest.raises(AssertionError, match="gradient_check"):
        gradient_check(layer(), SHAPE, elements=0)


def test_unknown_checks_are_refused():
    with pytest.raises(ConfigError, match="'gradient'"):
        check_layer(Tilt(), SHAPE, skip=["gradient"])


def test_an_architecture_is_checked():
    check_architecture("lenet5", (28, 28, 1))


def test_a_wrong_architecture_is_found():
    with pytest.raises(AssertionError, match=r"check 'architecture' fails for 'lenet5' on input shape \(2, 2, 1\): ShapeError"):
        check_architecture("lenet5", (2, 2, 1))
