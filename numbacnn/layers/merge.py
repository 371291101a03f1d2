"""Layers with several inputs: Add, Subtract, Multiply, Maximum, Concatenate.

The first four work element by element and broadcast as NumPy does, the batch axis apart: axes of length 1 are repeated, and axes that a
shape lacks in front count as 1. So squeeze-and-excitation (J. Hu et al., 2018) multiplies ``(H, W, C)`` by ``(1, 1, C)`` or ``(C,)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import ShapeError
from . import checks
from .base import Buffer, Layer, Shape
from .shape import cut, is_same, resolve_axis

Arrays = Sequence[np.ndarray]


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """The shape that ``shapes`` broadcast to; ShapeError if they do not."""
    axes = max(len(shape) for shape in shapes)
    lengths = list(zip(*((1,) * (axes - len(shape)) + tuple(shape) for shape in shapes)))
    for axis, column in enumerate(lengths):
        if len({n for n in column if n != 1}) > 1:
            given = " and ".join(str(tuple(shape)) for shape in shapes)
            raise ShapeError(
                f"given shapes {given}, needs along each axis one length, or 1, which is repeated; "
                f"axis {axis - axes} has {', '.join(map(str, column))}."
            )
    return tuple(max(column) for column in lengths)


def _aligned(array: np.ndarray, axes: int) -> np.ndarray:
    """``array`` with axes of length 1 between batch and the rest, so that it has ``axes`` in all."""
    return array.reshape(array.shape[0], *(1,) * (axes - array.ndim), *array.shape[1:])


def _pass_on(dy: np.ndarray, dx: np.ndarray) -> None:
    """``dx = dy``, summed over the axes along which ``dx`` is repeated."""
    dx = _aligned(dx, dy.ndim)
    if dx.ctypes.data == dy.ctypes.data:  # made in place, nothing is left to do
        return
    if dx.shape == dy.shape:
        kernels.rearrange.copy(dy, dx)
    else:
        kernels.merge.sum_product(dy, np.ones((1,) * dy.ndim, dy.dtype), dx)


class _Broadcasting(Layer):
    """What Add, Subtract, Multiply and Maximum have in common."""

    arity: ClassVar[int | None] = None
    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True

    def output_shape(self, x: Sequence[Shape]) -> Shape:
        return broadcast_shape(x)

    def flops(self, x: Sequence[Shape]) -> int:
        return (len(x) - 1) * math.prod(broadcast_shape(x))


def _fold(operation: Any, x: Arrays, y: np.ndarray) -> None:
    """``y = operation(operation(x[0], x[1]), x[2])...`` over all inputs."""
    x = [_aligned(array, y.ndim) for array in x]
    if len(x) == 1:
        kernels.rearrange.copy(x[0], y)
        return
    operation(x[0], x[1], y)
    for array in x[2:]:
        operation(y, array, y)


@dataclasses.dataclass(frozen=True)
class Add(_Broadcasting):
    """Sum of any number of inputs: ``y = x[0] + x[1] + ...``, element by element, with broadcasting."""

    backward_reads: ClassVar[tuple[str, ...]] = ()
    in_place: ClassVar[bool] = True
    residual_sum: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.merge:Add"
    stem: ClassVar[str] = "add"

    def forward(self, x: Arrays, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        _fold(kernels.merge.add, sorted(x, key=lambda array: array.ctypes.data != y.ctypes.data), y)  # one that y overwrites is read first

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: Sequence[np.ndarray | None], p: dict, dp: dict, b: dict) -> None:
        for gradient in dx:
            if gradient is not None:
                _pass_on(dy, gradient)


@dataclasses.dataclass(frozen=True)
class Subtract(_Broadcasting):
    """Difference of two inputs: ``y = x[0] - x[1]``, element by element, with broadcasting."""

    arity: ClassVar[int | None] = 2
    backward_reads: ClassVar[tuple[str, ...]] = ()
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.merge:Subtract"
    stem: ClassVar[str] = "subtract"

    def forward(self, x: Arrays, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        _fold(kernels.merge.subtract, x, y)

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: Sequence[np.ndarray | None], p: dict, dp: dict, b: dict) -> None:
        if dx[0] is not None:
            _pass_on(dy, dx[0])
        if dx[1] is not None:
            kernels.merge.sum_product(dy, np.full((1,) * dy.ndim, -1, dy.dtype), _aligned(dx[1], dy.ndim))


@dataclasses.dataclass(frozen=True)
class Multiply(_Broadcasting):
    """Product of any number of inputs: ``y = x[0] * x[1] * ...``, element by element, with broadcasting."""

    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.merge:Multiply"
    stem: ClassVar[str] = "multiply"

    def scratch(self, x: Sequence[Shape], batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return {"others": Buffer(broadcast_shape(x))} if training and len(x) > 2 else {}

    def forward(self, x: Arrays, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        _fold(kernels.merge.multiply, x, y)

    def backward(self, x: Arrays, y: Any, dy: np.ndarray, dx: Sequence[np.ndarray | None], p: dict, dp: dict, b: dict) -> None:
        if len(x) == 1:
            if dx[0] is not None:
                _pass_on(dy, dx[0])
            return
        for k, gradient in enumerate(dx):
            if gradient is None:
                continue
            others = [array for j, array in enumerate(x) if j != k]
            if len(others) > 1:
                _fold(kernels.merge.multiply, others, b["others"])
            factor = _aligned(others[0], dy.ndim) if len(others) == 1 else b["others"]
            kernels.merge.sum_product(dy, factor, _aligned(gradient, dy.ndim))


@dataclasses.dataclass(frozen=True)
class Maximum(_Broadcasting):
    """Largest of any number of inputs, element by element, with broadcasting; NaN wins.

    The gradient goes to the first input that holds the largest value (to the last one where that is NaN).
    """

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.merge:Maximum"
    stem: ClassVar[str] = "maximum"

    def scratch(self, x: Sequence[Shape], batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if not training or len(x) == 1:
            return {}
        whole = broadcast_shape(x)
        repeated = any(tuple(shape) != whole for shape in x[:-1])
        return {"left": Buffer(whole), **({"taken": Buffer(whole)} if repeated else {})}

    def forward(self, x: Arrays, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        _fold(kernels.merge.maximum, x, y)

    def backward(self, x: Arrays, y: np.ndarray, dy: np.ndarray, dx: Sequence[np.ndarray | None], p: dict, dp: dict, b: dict) -> None:
        left = dy
        for array, gradient in zip(x[:-1], dx[:-1]):
            taken = b["left"] if gradient is None else gradient if gradient.shape == dy.shape else b["taken"]
            kernels.merge.claim(_aligned(array, dy.ndim), y, left, taken, b["left"])
            left = b["left"]
            if gradient is not None and taken is not gradient:
                _pass_on(taken, gradient)
        if dx[-1] is not None:
            _pass_on(left, dx[-1])


@dataclasses.dataclass(frozen=True)
class Concatenate(Layer):
    """Inputs one after the other along ``axis`` (of the shape without the batch axis; -1 is the channels). All other axes agree."""

    axis: int = -1

    arity: ClassVar[int | None] = None
    backward_reads: ClassVar[tuple[str, ...]] = ()
    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    concatenates: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.merge:Concatenate"
    stem: ClassVar[str] = "concatenate"

    def __post_init__(self) -> None:
        checks.integer(self, "axis")

    def output_shape(self, x: Sequence[Shape]) -> Shape:
        axis = resolve_axis(self.axis, x[0])
        if len({(*shape[:axis], *shape[axis + 1 :]) for shape in x}) > 1 or len({len(shape) for shape in x}) > 1:
            given = " and ".join(str(tuple(shape)) for shape in x)
            raise ShapeError(
                f"given shapes {given}, needs shapes that agree on all axes but axis {self.axis}, along which they are joined."
            )
        return (*x[0][:axis], sum(shape[axis] for shape in x), *x[0][axis + 1 :])

    def scratch(self, x: Sequence[Shape], batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        """Nothing is written there: their lengths tell the backward pass, which sees neither inputs nor unwanted gradients, where
        each input lies."""
        if not training:
            return {}
        axis = resolve_axis(self.axis, x[0])
        return {f"extent{k}": Buffer((shape[axis],), "uint8", per_sample=False) for k, shape in enumerate(x)}

    def forward(self, x: Arrays, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        axis = resolve_axis(self.axis, y.shape[1:]) + 1
        for array, part in zip(x, cut(y, axis, [array.shape[axis] for array in x])):
            if not is_same(array, part):
                kernels.rearrange.copy(array, part)

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: Sequence[np.ndarray | None], p: dict, dp: dict, b: dict) -> None:
        axis = resolve_axis(self.axis, dy.shape[1:]) + 1
        for gradient, part in zip(dx, cut(dy, axis, [b[f"extent{k}"].size for k in range(len(dx))])):
            if gradient is not None:
                kernels.rearrange.copy(part, gradient)
