"""Small layers in NumPy that, between them, use every part of the protocol that the planner looks at."""

import dataclasses
import math

import numpy as np

from numbacnn.errors import ShapeError
from numbacnn.layers.base import Buffer, Layer, Parameter


class Repeatable(Layer):
    """Does the same again when it is run again, though it is not recordable."""

    def repeatable(self, x):
        return True


@dataclasses.dataclass(frozen=True)
class Twice(Repeatable):
    """In place, reads nothing."""

    in_place = True
    backward_reads = ()
    stem = "twice"

    def forward(self, x, y, p, b, training):
        np.multiply(x, 2, out=y)

    def backward(self, x, y, dy, dx, p, dp, b):
        assert x is None
        assert y is None
        np.multiply(dy, 2, out=dx)


@dataclasses.dataclass(frozen=True)
class Square(Repeatable):
    """In place as far as the arithmetic goes, but backward reads the input."""

    in_place = True
    backward_reads = ("x",)
    stem = "square"

    def forward(self, x, y, p, b, training):
        np.multiply(x, x, out=y)

    def backward(self, x, y, dy, dx, p, dp, b):
        assert y is None
        np.multiply(dy, 2 * x, out=dx)


@dataclasses.dataclass(frozen=True)
class Tanh(Repeatable):
    """In place, backward reads the output, and adds where it is asked to."""

    in_place = True
    adds_gradients = True
    backward_reads = ("y",)
    stem = "tanh"

    def forward(self, x, y, p, b, training):
        np.tanh(x, out=y)

    def backward(self, x, y, dy, dx, p, dp, b, adds=False):
        assert x is None
        if adds:
            dx += dy * (1 - y * y)
        else:
            np.multiply(dy, 1 - y * y, out=dx)


@dataclasses.dataclass(frozen=True)
class Gate(Repeatable):
    """Leaves a mask for backward, and needs scratch in both directions."""

    backward_reads = ()
    in_place = True
    stem = "gate"

    def buffers(self, x):
        return {"mask": Buffer(x, "uint8"), "shared": Buffer((3,), per_sample=False)}

    def scratch(self, x, batch, threads, training):
        return {"work": Buffer(x)}

    def forward(self, x, y, p, b, training):
        b["work"][...] = x > 0.1
        if training:
            b["mask"][...] = b["work"]
            b["shared"][...] = 0.5
        np.multiply(x, b["work"], out=y)

    def backward(self, x, y, dy, dx, p, dp, b):
        b["work"][...] = b["mask"] * (b["shared"][0] * 2)
        np.multiply(dy, b["work"], out=dx)


@dataclasses.dataclass(frozen=True)
class Sum(Repeatable):
    """Any number of inputs; in place over any of them."""

    arity = None
    in_place = True
    backward_reads = ()
    stem = "sum"

    def output_shape(self, x):
        if len(set(x)) > 1:
            raise ShapeError(f"given shapes {x}, needs equal ones.")
        return x[0]

    def forward(self, x, y, p, b, training):
        first = next((k for k, array in enumerate(x) if np.shares_memory(y, array)), 0)
        np.copyto(y, x[first])
        for other in x[:first] + x[first + 1 :]:
            y += other

    def backward(self, x, y, dy, dx, p, dp, b):
        for gradient in dx:
            if gradient is not None:
                gradient[...] = dy


@dataclasses.dataclass(frozen=True)
class Product(Repeatable):
    """Two inputs, both read by backward."""

    arity = 2
    backward_reads = ("x",)
    stem = "product"

    def output_shape(self, x):
        return x[0]

    def flops(self, x):
        return 100 * math.prod(x[0])  # not cheap

    def forward(self, x, y, p, b, training):
        np.multiply(*x, out=y)

    def backward(self, x, y, dy, dx, p, dp, b):
        for gradient, other in zip(dx, x[::-1]):
            if gradient is not None:
                np.multiply(dy, other, out=gradient)


@dataclasses.dataclass(frozen=True)
class Bend(Layer):
    """The same bytes in another shape."""

    shape: tuple

    alias = True
    stem = "bend"

    def output_shape(self, x):
        return self.shape


@dataclasses.dataclass(frozen=True)
class Halves(Repeatable):
    """Two outputs."""

    backward_reads = ()
    stem = "halves"

    def output_shape(self, x):
        return [x, x]

    def forward(self, x, y, p, b, training):
        np.multiply(x, 0.5, out=y[0])
        np.multiply(x, 0.25, out=y[1])

    def backward(self, x, y, dy, dx, p, dp, b):
        dx[...] = 0.5 * dy[0] + 0.25 * dy[1]


@dataclasses.dataclass(frozen=True)
class Affine(Layer):
    """``x * weight + bias`` per channel, with a count that isn't learned."""

    stem = "affine"
    backward_reads = ("x",)

    def parameters(self, x):
        return {
            "weight": Parameter((x[-1],), "normal"),
            "bias": Parameter((x[-1],), "ones", decay=False),
            "count": Parameter((1,), "zeros", trainable=False),
        }

    def prepared(self, x, batch, threads, training):
        return {"copy": Buffer((x[-1],), per_sample=False)}

    def prepare(self, x, batch, p, b, training):
        b["copy"][...] = p["weight"]

    def forward(self, x, y, p, b, training):
        y[...] = x * b.get("copy", p["weight"]) + p["bias"]
        if training:
            p["count"][...] += 1

    def forward_again(self, x, y, p, b):
        self.forward(x, y, p, b, False)

    def backward(self, x, y, dy, dx, p, dp, b):
        axes = tuple(range(dy.ndim - 1))
        if "weight" in dp:
            dp["weight"][...] = (x * dy).sum(axes)
        if "bias" in dp:
            dp["bias"][...] = dy.sum(axes)
        if dx is not None:
            np.multiply(dy, p["weight"], out=dx)


@dataclasses.dataclass(frozen=True)
class Noise(Layer):
    """Adds, in training, a number that follows from its random stream."""

    random = True
    inference_identity = True
    backward_reads = ()
    stem = "noise"

    def forward(self, x, y, p, b, training):
        key, step = b["random"]
        y[...] = x + (int(key) % 1000) + 1000 * int(step)

    def backward(self, x, y, dy, dx, p, dp, b):
        dx[...] = dy
