"""Layers that move numbers without changing them (Flatten, Permute, ZeroPad, DepthToSpace...), and Scale.

Axes are those of the shape without the batch axis; -1 is the channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import ConfigError, ShapeError
from . import checks
from .base import Buffer, Layer, Parameter, Shape
from .checks import is_integer
from .initializers import Constant
from .padding import Pairs

ORDERS = ("DCR", "CRD")


def resolve_axis(axis: int, shape: Shape) -> int:
    """``axis``, which may be negative, as an index into ``shape``; ShapeError if there is none."""
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(f"given shape {tuple(shape)}, needs an axis {axis} without the batch axis; there are {len(shape)}.")
    return axis % len(shape)


def cut(array: np.ndarray, axis: int, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Views of the parts of ``array`` that lie one after the other along ``axis``."""
    start = 0
    for size in sizes:
        yield array[(slice(None),) * axis + (slice(start, start + size),)]
        start += size


def is_same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape and type are the same memory."""
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides


def _spatial(x: Shape, what: str) -> Shape:
    """The spatial axes of ``x``; ShapeError if there are none."""
    if len(x) < 2:
        raise ShapeError(f"given shape {tuple(x)}, needs (spatial axes..., channels): {what}.")
    return tuple(x[:-1])


# Views ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Identity(Layer):
    """``y = x``."""

    alias: ClassVar[bool] = True
    inference_identity: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()
    stem: ClassVar[str] = "identity"


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """All axes but the batch as one: ``(H, W, C)`` becomes ``(H * W * C,)``, channels fastest. A view; nothing is copied."""

    alias: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()
    stem: ClassVar[str] = "flatten"

    def output_shape(self, x: Shape) -> Shape:
        return (math.prod(x),)


@dataclasses.dataclass(frozen=True)
class Reshape(Layer):
    """The same numbers in the same order in another ``shape`` (without the batch axis); one entry may be -1, which
    takes what is left. A view; nothing is copied."""

    shape: tuple[int, ...] = (-1,)

    alias: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()
    stem: ClassVar[str] = "reshape"

    def __post_init__(self) -> None:
        checks.settle(self, "shape")
        valid = isinstance(self.shape, tuple) and self.shape and all(n == -1 or is_integer(n, 1) for n in self.shape)
        if not valid or self.shape.count(-1) > 1:
            raise ConfigError(f"shape of Reshape is {self.shape!r}; it takes positive integers, one of which may be -1.")

    def output_shape(self, x: Shape) -> Shape:
        size, known = math.prod(x), math.prod(n for n in self.shape if n != -1)
        if size % known or (-1 not in self.shape and size != known):
            multiple = "a multiple of " if -1 in self.shape else ""
            raise ShapeError(f"given shape {tuple(x)} with {size} elements, needs {multiple}{known} for the new shape {self.shape}.")
        return tuple(size // known if n == -1 else n for n in self.shape)


# Copies between views ------------------------------------------------------------------------------------------------


class _Move(Layer):
    """A layer that copies its input into a view of its output, so that backward is the copy the other way."""

    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.shape:Move"

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Views of ``x`` and ``y`` of one shape whose elements correspond."""
        raise NotImplementedError(f"{type(self).__name__} does not define views")

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        source, target = self.views(x, y)
        if target.size < y.size:
            kernels.rearrange.clear(y)
        kernels.rearrange.copy(source, target)

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is None:
            return
        target, source = self.views(dx, dy)
        if target.size < dx.size:
            kernels.rearrange.clear(dx)
        kernels.rearrange.copy(source, target)


@dataclasses.dataclass(frozen=True)
class Permute(_Move):
    """Axes in another order, as :func:`numpy.transpose`: axis ``k`` of the output is axis ``order[k]`` of the input, both
    without the batch axis. None reverses them."""

    order: tuple[int, ...] | None = None

    stem: ClassVar[str] = "permute"

    def __post_init__(self) -> None:
        checks.settle(self, "order")
        if self.order is not None and (not isinstance(self.order, tuple) or not all(map(is_integer, self.order))):
            raise ConfigError(f"order of Permute is {self.order!r}; it takes the axes of the input, such as (1, 0, 2), or None.")

    def _order(self, axes: int) -> tuple[int, ...]:
        return tuple(range(axes))[::-1] if self.order is None else tuple(axis % axes for axis in self.order)

    def output_shape(self, x: Shape) -> Shape:
        if self.order is not None and sorted(k + len(x) if k < 0 else k for k in self.order) != list(range(len(x))):
            raise ShapeError(f"given shape {tuple(x)}, needs as order each of its axes 0 to {len(x) - 1} once, not {self.order}.")
        return tuple(x[axis] for axis in self._order(len(x)))

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x.transpose(0, *(1 + axis for axis in self._order(x.ndim - 1))), y


def _border(value: Any, layer: str, field: str) -> int | Pairs:
    """What ZeroPad and Crop take, checked: an int for both sides of every axis, or ``(before, after)`` per axis."""
    if is_integer(value, 0):
        return int(value)
    entries = value if isinstance(value, tuple) else (None,)
    pairs = [(entry, entry) if is_integer(entry) else entry for entry in entries]
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 and all(is_integer(n, 0) for n in pair) for pair in pairs):
        raise ConfigError(
            f"{field} of {layer} is {value!r}; it takes an integer of at least 0, or one entry per spatial axis, each an integer "
            "or a pair (before, after)."
        )
    return tuple((before, after) for before, after in pairs)  # type: ignore[misc]


def _border_pairs(border: int | Pairs, x: Shape, field: str) -> Pairs:
    spatial = _spatial(x, f"{field} applies to the spatial axes")
    if isinstance(border, int):
        return ((border, border),) * len(spatial)
    if len(border) != len(spatial):
        raise ShapeError(f"given shape {tuple(x)} with {len(spatial)} spatial axes, needs as many entries of {field}, not {len(border)}.")
    return border


def _interior(array: np.ndarray, border: Pairs) -> np.ndarray:
    return array[(slice(None), *(slice(before, n - after) for n, (before, after) in zip(array.shape[1:], border)))]


@dataclasses.dataclass(frozen=True)
class ZeroPad(_Move):
    """Zeros around the spatial axes, any number of them, and around the channels.

    Args:
        padding: of the spatial axes: an integer for both sides of each axis, one per axis, or ``((before, after), ...)``.
        channels: channels of zeros: an integer for both sides, or ``(before, after)``.
    """

    padding: int | tuple = 1
    channels: int | tuple = 0

    stem: ClassVar[str] = "pad"

    def __post_init__(self) -> None:
        checks.settle(self, "padding", "channels")
        _border(self.padding, "ZeroPad", "padding")
        self._channel_pair()

    def _pairs(self, x: Shape) -> Pairs:
        return _border_pairs(_border(self.padding, "ZeroPad", "padding"), x, "padding")

    def _channel_pair(self) -> tuple[int, int]:
        pair = (self.channels, self.channels) if is_integer(self.channels) else self.channels
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(is_integer(n, 0) for n in pair):
            raise ConfigError(f"channels of ZeroPad is {self.channels!r}; it takes an integer of at least 0, or a pair (before, after).")
        before, after = pair
        return before, after

    def output_shape(self, x: Shape) -> Shape:
        pairs = (*self._pairs(x), self._channel_pair())
        return tuple(n + before + after for n, (before, after) in zip(x, pairs))

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        ones = (1,) * (len(x) - 1)
        return ones, ones, tuple(before for before, _ in self._pairs(x))

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, _interior(y, (*self._pairs(x.shape[1:]), self._channel_pair()))


@dataclasses.dataclass(frozen=True)
class Crop(_Move):
    """The spatial axes without their borders. ``cropping`` is an integer for both sides of each axis, one per axis, or
    ``((before, after), ...)``."""

    cropping: int | tuple = 1

    stem: ClassVar[str] = "crop"

    def __post_init__(self) -> None:
        checks.settle(self, "cropping")
        _border(self.cropping, "Crop", "cropping")

    def _pairs(self, x: Shape) -> Pairs:
        return _border_pairs(_border(self.cropping, "Crop", "cropping"), x, "cropping")

    def output_shape(self, x: Shape) -> Shape:
        pairs = self._pairs(x)
        for axis, (n, (before, after)) in enumerate(zip(x, pairs)):
            if before + after >= n:
                raise ShapeError(
                    f"given shape {tuple(x)}, needs more than {before + after} along axis {axis}, as cropping takes {before} and {after}."
                )
        return (*(n - before - after for n, (before, after) in zip(x, pairs)), x[-1])

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        ones = (1,) * (len(x) - 1)
        return ones, ones, tuple(-before for before, _ in self._pairs(x))

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _interior(x, self._pairs(x.shape[1:])), y


@dataclasses.dataclass(frozen=True)
class Slice(_Move):
    """``start:stop`` of one axis, as in Python: negative numbers count from the end, ``stop`` None is the end."""

    axis: int = -1
    start: int = 0
    stop: int | None = None

    stem: ClassVar[str] = "slice"

    def __post_init__(self) -> None:
        checks.integer(self, "axis")
        checks.integer(self, "start")
        if self.stop is not None:
            checks.integer(self, "stop")

    def output_shape(self, x: Shape) -> Shape:
        axis = resolve_axis(self.axis, x)
        length = len(range(*slice(self.start, self.stop).indices(x[axis])))
        if not length:
            raise ShapeError(f"given shape {tuple(x)}, needs a slice that is not empty; {self.start}:{self.stop} of axis {self.axis} is.")
        return (*x[:axis], length, *x[axis + 1 :])

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        axis, ones = resolve_axis(self.axis, x), (1,) * (len(x) - 1)
        start = range(x[axis])[self.start : self.stop].start
        return ones, ones, tuple(-start if k == axis else 0 for k in range(len(ones)))

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axis = resolve_axis(self.axis, x.shape[1:])
        return x[(slice(None),) * (axis + 1) + (slice(self.start, self.stop),)], y


@dataclasses.dataclass(frozen=True)
class ChannelShuffle(_Move):
    """Channels of ``groups`` groups taken in turn: output channel ``k * groups + g`` is the k-th of group ``g``.

    X. Zhang et al., "ShuffleNet" (2018); as :func:`torch.channel_shuffle`.
    """

    groups: int = 2

    stem: ClassVar[str] = "shuffle"

    def __post_init__(self) -> None:
        checks.integer(self, "groups", 1)

    def output_shape(self, x: Shape) -> Shape:
        if x[-1] % self.groups:
            raise ShapeError(f"given shape {tuple(x)}, needs channels in a multiple of {self.groups}, so that all groups are of one size.")
        return x

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grouped = x.reshape(*x.shape[:-1], self.groups, -1)
        return grouped.swapaxes(-1, -2), y.reshape(*y.shape[:-1], -1, self.groups)


class _Blocks(_Move):
    """DepthToSpace and SpaceToDepth: ``block`` pixels along each spatial axis against channels."""

    block: int
    order: str

    def _check(self) -> None:
        checks.integer(self, "block", 1)
        if self.order not in ORDERS:
            raise ConfigError(f"order of {type(self).__name__} is {self.order!r}; it takes {' or '.join(map(repr, ORDERS))}.")

    def _block_views(self, deep: np.ndarray, wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both arrays as ``(N, D, block, H, block, ..., C)``: ``deep`` has the blocks in its channels, ``wide`` in its spatial axes."""
        batch, *spatial, channels = deep.shape
        axes = len(spatial)
        block = (self.block,) * axes
        if self.order == "DCR":
            split = deep.reshape(batch, *spatial, *block, channels // self.block**axes)
            first, last = 1 + axes, -1
        else:
            split = deep.reshape(batch, *spatial, channels // self.block**axes, *block)
            first, last = 2 + axes, 1 + axes
        pairs = [axis for k in range(axes) for axis in (1 + k, first + k)]
        lengths = [n for pair in zip(spatial, block) for n in pair]
        return split.transpose(0, *pairs, last % split.ndim), wide.reshape(batch, *lengths, wide.shape[-1])


@dataclasses.dataclass(frozen=True)
class DepthToSpace(_Blocks):
    """Channels to blocks of ``block`` pixels along each spatial axis: ``(H, W, C * block**2)`` becomes ``(H * block, W * block, C)``.

    With ``order`` "DCR" input channel ``(i * block + j) * C + c`` is pixel ``(i, j)`` of its block, as in TensorFlow and ONNX;
    with "CRD" it is channel ``(c * block + i) * block + j``, as in PyTorch's pixel_shuffle (W. Shi et al., 2016).
    """

    block: int = 2
    order: str = "DCR"

    stem: ClassVar[str] = "depth_to_space"

    def __post_init__(self) -> None:
        self._check()

    def output_shape(self, x: Shape) -> Shape:
        spatial = _spatial(x, "channels become pixels")
        count = self.block ** len(spatial)
        if x[-1] % count:
            raise ShapeError(f"given shape {tuple(x)}, needs channels in a multiple of {count}, the pixels of a block of {self.block}.")
        return (*(n * self.block for n in spatial), x[-1] // count)

    def window(self, x: Shape) -> tuple[Any, Any, Any]:
        """``block`` places see one: the stride is ``1 / block``."""
        axes, rest = len(x) - 1, Fraction(self.block - 1, self.block)
        return (1 + rest,) * axes, (Fraction(1, self.block),) * axes, (rest,) * axes

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._block_views(x, y)


@dataclasses.dataclass(frozen=True)
class SpaceToDepth(_Blocks):
    """Blocks of ``block`` pixels along each spatial axis to channels: ``(H, W, C)`` becomes ``(H / block, W / block, C * block**2)``.

    The inverse of :class:`DepthToSpace` of the same ``order``; "CRD" is PyTorch's pixel_unshuffle.
    """

    block: int = 2
    order: str = "DCR"

    stem: ClassVar[str] = "space_to_depth"

    def __post_init__(self) -> None:
        self._check()

    def output_shape(self, x: Shape) -> Shape:
        spatial = _spatial(x, "pixels become channels")
        if any(n % self.block for n in spatial):
            raise ShapeError(f"given shape {tuple(x)}, needs a multiple of {self.block} along each spatial axis, so that blocks fill it.")
        return (*(n // self.block for n in spatial), x[-1] * self.block ** len(spatial))

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        axes = len(x) - 1
        return (self.block,) * axes, (self.block,) * axes, (0,) * axes

    def views(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide, deep = x, y
        source, target = self._block_views(deep, wide)
        return target, source


@dataclasses.dataclass(frozen=True)
class Split(Layer):
    """Cut ``axis`` into outputs that lie one after the other: ``parts`` equal ones, or parts of the given sizes."""

    parts: int | tuple[int, ...] = 2
    axis: int = -1

    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.shape:Split"
    stem: ClassVar[str] = "split"

    def __post_init__(self) -> None:
        checks.integer(self, "axis")
        checks.settle(self, "parts")
        sizes = self.parts if isinstance(self.parts, tuple) else (self.parts,)
        if not sizes or not all(is_integer(n, 1) for n in sizes):
            raise ConfigError(
                f"parts of Split is {self.parts!r}; it takes a number of equal parts, or the sizes of all parts, such as (8, 24)."
            )

    def output_shape(self, x: Shape) -> list[Shape]:
        axis = resolve_axis(self.axis, x)
        if isinstance(self.parts, int):
            if x[axis] % self.parts:
                raise ShapeError(
                    f"given shape {tuple(x)}, needs a multiple of {self.parts} along axis {self.axis} for as many equal parts."
                )
            sizes = (x[axis] // self.parts,) * self.parts
        else:
            sizes = self.parts
        if sum(sizes) != x[axis]:
            raise ShapeError(f"given shape {tuple(x)}, needs {sum(sizes)} along axis {self.axis}, the sum of the parts {sizes}.")
        return [(*x[:axis], size, *x[axis + 1 :]) for size in sizes]

    def _pieces(self, whole: np.ndarray, pieces: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pieces = (pieces,) if isinstance(pieces, np.ndarray) else pieces
        axis = resolve_axis(self.axis, whole.shape[1:]) + 1
        return zip(cut(whole, axis, [piece.shape[axis] for piece in pieces]), pieces)

    def forward(self, x: np.ndarray, y: Any, p: dict, b: dict, training: bool) -> None:
        for part, piece in self._pieces(x, y):
            if not is_same(part, piece):
                kernels.rearrange.copy(part, piece)

    def backward(self, x: Any, y: Any, dy: Any, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is None:
            return
        for part, piece in self._pieces(dx, dy):
            kernels.rearrange.copy(piece, part)


# Scale ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scale(Layer):
    """Multiply by a learned ``weight`` per channel, or per place along ``axis``, which starts at ``initial``.

    Layer scale: H. Touvron et al., "Going deeper with image transformers" (2021), and ConvNeXt, with ``initial=1e-6``.
    """

    initial: float = 1.0
    axis: int = -1

    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    in_place: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.shape:Scale"
    stem: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        checks.integer(self, "axis")
        checks.number(self, "initial")

    def output_shape(self, x: Shape) -> Shape:
        resolve_axis(self.axis, x)
        return x

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return {"weight": Parameter((x[resolve_axis(self.axis, x)],), Constant(float(self.initial)), decay=False)}

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        """Sums per sample and place along the first axis: enough tasks for all threads."""
        axis = resolve_axis(self.axis, x)
        return {"sums": Buffer(tuple(n if k in (0, axis) else 1 for k, n in enumerate(x)))} if training else {}

    def flops(self, x: Shape) -> int:
        return math.prod(x)

    def _weight(self, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        axis = resolve_axis(self.axis, x.shape[1:]) + 1
        return weight.reshape([weight.size if k == axis else 1 for k in range(x.ndim)])

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        kernels.merge.multiply(x, self._weight(p["weight"], x), y)

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if "weight" in dp:
            sums = b["sums"]
            kernels.merge.sum_product(dy, x, sums)
            kernels.merge.sum_product(sums, np.ones((1,) * x.ndim, x.dtype), self._weight(dp["weight"], x))
        if dx is not None:
            kernels.merge.multiply(dy, self._weight(p["weight"], x), dx)
