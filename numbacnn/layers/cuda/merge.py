"""Layers with several inputs on the device (compare :mod:`numbacnn.layers.merge`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...kernels.cuda import merge, pointwise, rearrange, sums
from ...kernels.cuda.memory import DeviceArray
from ...kernels.cuda.strided import parts_of, whole_of
from ..base import Buffer, Shape
from ..merge import broadcast_shape
from ..shape import resolve_axis
from .twin import Twin

Arrays = Sequence[DeviceArray]


def _aligned(array: DeviceArray, axes: int) -> DeviceArray:
    """``array`` with axes of length 1 between batch and the rest, so that it has ``axes`` in all."""
    return array.reshape(array.shape[0], *(1,) * (axes - array.ndim), *array.shape[1:])


def _fold(operation: Callable, x: Arrays, y: DeviceArray) -> None:
    """``y = operation(operation(x[0], x[1]), x[2])...`` over all inputs."""
    x = [_aligned(array, y.ndim) for array in x]
    if len(x) == 1:
        pointwise.copy(x[0], y)
        return
    merge.pairwise(operation, x[0], x[1], y)
    for array in x[2:]:
        merge.pairwise(operation, y, array, y)


class _Broadcasting(Twin):
    """What Add, Subtract, Multiply and Maximum have in common: sums of gradients of inputs that are repeated, in scratch ``sums``."""

    def _factor(self, x: Sequence[Shape], k: int) -> Shape | None:
        """Shape of what the gradient of input number ``k`` is multiplied by."""
        return None

    def scratch(self, x: Sequence[Shape], batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if not training:
            return {}
        whole = (batch, *broadcast_shape(x))

        def full(shape: Shape) -> Shape:
            return (batch, *(1,) * (len(whole) - 1 - len(shape)), *shape)

        factors = [self._factor(x, k) for k in range(len(x))]
        sizes = [sums.partials_size(whole, None if each is None else full(each), full(shape)) for shape, each in zip(x, factors)]
        return {"sums": Buffer((max(sizes),), per_sample=False)} if max(sizes) else {}

    @staticmethod
    def _pass_on(dy: DeviceArray, dx: DeviceArray, b: dict, factor: DeviceArray | None = None, sign: float = 1.0) -> None:
        """``dx = sign * dy * factor``, summed over the axes along which ``dx`` is repeated."""
        dx = _aligned(dx, dy.ndim)
        if dx.shape != dy.shape:
            sums.sum_product(dy, factor, dx, b.get("sums"), sign)
        elif factor is not None:
            merge.pairwise(merge.multiply, dy, factor, dx)
        elif sign == 1.0:
            pointwise.copy(dy, dx)
        else:
            merge.negate(dy, dx)


class Add(_Broadcasting):
    """A sum; of its inputs one may be overwritten."""

    def forward(self, x: Arrays, y: DeviceArray, p: dict, b: dict, training: bool) -> None:
        _fold(merge.add, sorted(x, key=lambda array: array.pointer != y.pointer), y)  # one that y overwrites is read first

    def backward(self, x: Any, y: Any, dy: DeviceArray, dx: Any, p: dict, dp: dict, b: dict) -> None:
        for gradient in dx:
            if gradient is not None:
                self._pass_on(dy, gradient, b)


class Subtract(_Broadcasting):
    """A difference."""

    def forward(self, x: Arrays, y: DeviceArray, p: dict, b: dict, training: bool) -> None:
        _fold(merge.subtract, x, y)

    def backward(self, x: Any, y: Any, dy: DeviceArray, dx: Any, p: dict, dp: dict, b: dict) -> None:
        for gradient, sign in zip(dx, (1.0, -1.0)):
            if gradient is not None:
                self._pass_on(dy, gradient, b, sign=sign)


class Multiply(_Broadcasting):
    """A product; ``others`` is that of all inputs but one, where these are several."""

    def _factor(self, x: Sequence[Shape], k: int) -> Shape | None:
        if len(x) == 1:
            return None
        return x[1 - k] if len(x) == 2 else broadcast_shape(x)

    def scratch(self, x: Sequence[Shape], batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return {**self.layer.scratch(x, batch, threads, training), **super().scratch(x, batch, threads, training)}

    def forward(self, x: Arrays, y: DeviceArray, p: dict, b: dict, training: bool) -> None:
        _fold(merge.multiply, x, y)

    def backward(self, x: Arrays, y: Any, dy: DeviceArray, dx: Any, p: dict, dp: dict, b: dict) -> None:
        for k, gradient in enumerate(dx):
            if gradient is None:
                continue
            others = [array for j, array in enumerate(x) if j != k]
            if len(others) > 1:
                _fold(merge.multiply, others, b["others"])
                others = [b["others"]]
            self._pass_on(dy, gradient, b, _aligned(others[0], dy.ndim) if others else None)


class Maximum(_Broadcasting):
    """The largest; inputs take what is ``left`` of the gradient in turn, the last one what the others leave."""

    def scratch(self, x: Sequence[Shape], batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return {**self.layer.scratch(x, batch, threads, training), **super().scratch(x, batch, threads, training)}

    def forward(self, x: Arrays, y: DeviceArray, p: dict, b: dict, training: bool) -> None:
        _fold(merge.maximum, x, y)

    def backward(self, x: Arrays, y: DeviceArray, dy: DeviceArray, dx: Any, p: dict, dp: dict, b: dict) -> None:
        left = dy
        for k, (array, gradient) in enumerate(zip(x[:-1], dx[:-1])):
            taken = b["left"] if gradient is None else gradient if gradient.shape == dy.shape else b["taken"]
            last = k == len(x) - 2 and dx[-1] is not None and dx[-1].shape == dy.shape
            rest = dx[-1] if last else b["left"]
            merge.claim(_aligned(array, dy.ndim), y, left, taken, rest)
            left = rest
            if gradient is not None and taken is not gradient:
                self._pass_on(taken, gradient, b)
        if dx[-1] is not None and left is not dx[-1]:
            self._pass_on(left, dx[-1], b)


class Concatenate(Twin):
    """A copy for each input. As on the host, the lengths of arrays that nobody writes tell the backward pass where each input lies."""

    def scratch(self, x: Sequence[Shape], batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return self.layer.scratch(x, batch, threads, training)

    def forward(self, x: Arrays, y: DeviceArray, p: dict, b: dict, training: bool) -> None:
        axis = resolve_axis(self.layer.axis, y.shape[1:]) + 1
        for part, array in zip(parts_of(y, axis, [array.shape[axis] for array in x]), x):
            rearrange.copy(whole_of(array), part)

    def backward(self, x: Any, y: Any, dy: DeviceArray, dx: Any, p: dict, dp: dict, b: dict) -> None:
        axis = resolve_axis(self.layer.axis, dy.shape[1:]) + 1
        lengths = [b[f"extent{k}"].size for k in range(len(dx))]
        for part, gradient in zip(parts_of(dy, axis, lengths), dx):
            if gradient is not None:
                rearrange.copy(part, whole_of(gradient))
