"""Pooling in one, two and three dimensions: max, average and Lp, over sliding, adaptive and global windows.

Inputs are ``(length, channels)``, ``(height, width, channels)`` or ``(depth, height, width, channels)``; every channel is pooled
by itself. A window that reaches over the edge of the input holds only what lies inside.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import ConfigError, ShapeError
from . import checks
from .base import Buffer, Layer, Shape, document
from .lifting import lifted
from .padding import check_padding, per_axis, resolve_padding, window_places

AXIS_NAMES = ("depth", "height", "width")


# Windows -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _AxisWindows:
    """Where the windows of one axis lie: places ``i`` hold the pixels ``range(start, stop, step)`` inside ``0..size``."""

    size: int
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    step: int = 1
    counts: tuple[int, ...] | None = None  # what each window counts as in an average; None: its pixels

    @property
    def apart(self) -> bool:
        """Whether each pixel is in exactly one window."""
        windows = (range(start, stop, self.step) for start, stop in zip(self.starts, self.stops))
        return sorted(pixel for window in windows for pixel in window if 0 <= pixel < self.size) == list(range(self.size))


def _sliding_windows(
    size: int, kernel: int, stride: int, dilation: int, padding: tuple[int, int], places: int, count_padding: bool
) -> _AxisWindows:
    starts = tuple(place * stride - padding[0] for place in range(places))
    stops = tuple(start + dilation * (kernel - 1) + 1 for start in starts)
    counts = tuple(min(stop, size + padding[1]) - start for start, stop in zip(starts, stops)) if count_padding else None
    return _AxisWindows(size, starts, stops, dilation, counts)


def _adaptive_windows(size: int, places: int) -> _AxisWindows:
    return _AxisWindows(size, tuple(i * size // places for i in range(places)), tuple(-(-(i + 1) * size // places) for i in range(places)))


@functools.lru_cache(maxsize=256)
def _tables(axes: tuple[_AxisWindows, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See :meth:`_Pool.tables`."""
    axes = (_AxisWindows(1, (0,), (1,)),) * (3 - len(axes)) + axes
    windows = np.zeros((3, max(len(axis.starts) for axis in axes), 3), np.int64)
    shares = np.zeros(windows.shape[:2])
    covers = np.zeros((3, max(axis.size for axis in axes), 2), np.int64)
    for axis, window, cover, share in zip(axes, windows, covers, shares):
        starts, stops = np.array(axis.starts), np.minimum(axis.stops, axis.size)
        inside = starts + axis.step * np.maximum(0, -(starts // axis.step))
        pixels = np.maximum(0, -((inside - stops) // axis.step))
        window[: starts.size] = np.stack([inside, pixels, np.full(starts.size, axis.step)], axis=1)
        share[: starts.size] = 1 / np.maximum(1, pixels if axis.counts is None else axis.counts)
        every = np.arange(axis.size)
        cover[: axis.size, 0] = np.searchsorted(stops, every, side="right")
        cover[: axis.size, 1] = np.maximum(0, np.searchsorted(starts, every, side="right") - cover[: axis.size, 0])
    return windows, covers, shares


# What all pooling layers have ----------------------------------------------------------------------------------------


class _Pool(Layer):
    """A layer whose outputs each stand for one window of the input."""

    axes: ClassVar[int]
    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ()

    def axis_windows(self, x: Shape) -> tuple[_AxisWindows, ...]:
        """The windows along each axis of an input of shape ``x``."""
        raise NotImplementedError

    def output_shape(self, x: Shape) -> Shape:
        self._check_rank(x)
        return (*self.places(x), x[-1])

    def flops(self, x: Shape) -> int:
        windows, _, _ = self.tables(x)
        return x[-1] * math.prod(windows[..., 1].sum(axis=1).tolist())

    def tables(self, x: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tables ``windows``, ``covers`` and ``shares`` that :mod:`numbacnn.kernels.pool` describes."""
        return _tables(self.axis_windows(x))

    def places(self, x: Shape) -> Shape:
        """Windows along each axis."""
        return tuple(len(axis.starts) for axis in self.axis_windows(x))

    def _check_rank(self, x: Shape) -> None:
        names = ("length",) if self.axes == 1 else AXIS_NAMES[-self.axes :]
        if len(x) != self.axes + 1 or min(x) < 1:
            raise ShapeError(f"given shape {tuple(x)}, needs ({', '.join(names)}, channels), each at least 1.")

    def _views(self, x: Shape, of_x: Sequence[np.ndarray], of_y: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Arrays of the input's shape ``x``, then of the output's, as the kernels take them."""
        places = self.places(x)
        return [lifted(array, x[:-1]) for array in of_x] + [lifted(array, places) for array in of_y]


class _Max(_Pool):
    """The largest element; not a number, if there is one. The gradient goes to the first of equal ones."""

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.pool:MaxPool"

    def buffers(self, x: Shape) -> dict[str, Buffer]:
        windows, _, _ = self.tables(x)
        most_taps = math.prod(windows[..., 1].max(axis=1).tolist())
        return {"argmax": Buffer(self.output_shape(x), "uint8" if most_taps <= 256 else "int32")}

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        shape = x.shape[1:]
        argmax = b["argmax"] if training else np.empty((0, *y.shape[1:]), np.uint8)
        x, y, argmax = self._views(shape, [x], [y, argmax])
        kernels.pool.max_forward(x, y, argmax, self.tables(shape)[0])

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is None:
            return
        shape = dx.shape[1:]
        dx, dy, argmax = self._views(shape, [dx], [dy, b["argmax"]])
        axes = self.axis_windows(shape)
        windows, covers, _ = _tables(axes)
        if all(axis.apart for axis in axes):
            kernels.pool.max_backward_apart(dy, argmax, dx, windows)
        else:
            kernels.pool.max_backward(dy, argmax, dx, windows, covers)


class _Average(_Pool):
    """The arithmetic mean."""

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.pool:AveragePool"
    adds_gradients: ClassVar[bool] = True

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        shape = x.shape[1:]
        x, y = self._views(shape, [x], [y])
        windows, _, shares = self.tables(shape)
        kernels.pool.average_forward(x, y, windows, shares)

    def backward(
        self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict, adds: bool = False
    ) -> None:  # fmt: skip
        if dx is None:
            return
        shape = dx.shape[1:]
        dx, dy = self._views(shape, [dx], [dy])
        _, covers, shares = self.tables(shape)
        kernels.pool.average_backward(dy, dx, adds, covers, shares)


# Sliding windows -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _SlidingPool(_Pool):
    """Windows of one size, a stride apart."""

    size: Any = 2
    stride: Any = None
    padding: Any = "valid"
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        checks.settle(self, *(name for name in ("size", "stride", "padding", "dilation") if hasattr(self, name)))
        try:
            self._numbers()
            check_padding(self.padding, self.axes)
        except ConfigError as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from None

    def _numbers(self) -> tuple[Shape, Shape, Shape]:
        """Size, stride and dilation along each axis."""
        size = per_axis(self.size, self.axes, "size")
        stride = size if self.stride is None else per_axis(self.stride, self.axes, "stride")
        return size, stride, per_axis(getattr(self, "dilation", 1), self.axes, "dilation")

    def _geometry(self, x: Shape) -> tuple[tuple[tuple[int, int], ...], Shape]:
        """Padding and places along each axis for input shape ``x``."""
        size, stride, dilation = self._numbers()
        padding = resolve_padding(self.padding, x[:-1], size, stride, dilation)
        if not self.ceil_mode:
            return padding, window_places(x, x[:-1], size, stride, dilation, padding)
        return padding, tuple(map(_ceil_places, [x] * self.axes, x[:-1], size, stride, dilation, padding))

    def axis_windows(self, x: Shape) -> tuple[_AxisWindows, ...]:
        padding, places = self._geometry(x)
        return tuple(map(_sliding_windows, x[:-1], *self._numbers(), padding, places, [self._counts_padding()] * self.axes))

    def _counts_padding(self) -> bool:
        return False

    def output_shape(self, x: Shape) -> Shape:
        shape = super().output_shape(x)
        windows, _, _ = self.tables(x)
        for axis, places in enumerate(shape[:-1], 3 - self.axes):
            if not windows[axis, :places, 1].all():
                raise ShapeError(
                    f"given shape {tuple(x)}, padding {self.padding!r} is so wide that a window of size {self.size} holds padding only."
                )
        return shape

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        size, stride, dilation = self._numbers()
        extent = tuple(d * (k - 1) + 1 for k, d in zip(size, dilation))
        return extent, stride, tuple(before for before, _ in self._geometry(x)[0])


def _ceil_places(x: Shape, size: int, kernel: int, stride: int, dilation: int, padding: tuple[int, int]) -> int:
    """Places of a window that may end behind the padded input, but must start inside it, as in PyTorch."""
    before, after = padding
    extent = dilation * (kernel - 1) + 1
    places = -(-(size + before + after - extent) // stride) + 1
    if (places - 1) * stride >= size + before:
        places -= 1
    if places < 1:
        raise ShapeError(f"given shape {tuple(x)}, a window of {extent} and padding {padding} leave no place along an axis of {size}.")
    return places


@dataclasses.dataclass(frozen=True)
class _MaxPool(_Max, _SlidingPool):
    """Maximum over sliding windows. Padding never wins: it counts as minus infinity.

    Args:
        size: of the window, one number or one per axis.
        stride: distance of windows, likewise; by default the size.
        padding: see :func:`numbacnn.layers.padding.resolve_padding`.
        ceil_mode: keep a last window that ends behind the input, as long as it starts inside it (or in the padding before it).
        dilation: distance of the pixels of a window.
    """

    dilation: Any = 1

    stem: ClassVar[str] = "max_pool"


@dataclasses.dataclass(frozen=True)
class _AveragePool(_Average, _SlidingPool):
    """Mean over sliding windows.

    Args:
        size: of the window, one number or one per axis.
        stride: distance of windows, likewise; by default the size.
        padding: see :func:`numbacnn.layers.padding.resolve_padding`.
        ceil_mode: keep a last window that ends behind the input, as long as it starts inside it (or in the padding before it).
        count_include_padding: whether padding counts as zeros (PyTorch's default). What lies even behind the padding, in
            windows that ``ceil_mode`` keeps, never counts.
    """

    count_include_padding: bool = True

    stem: ClassVar[str] = "average_pool"
    cuda: ClassVar[str | None] = _Average.cuda  # whose computation this is

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        chosen = self._chosen(x.shape[1:])
        if chosen is None:
            super().forward(x, y, p, b, training)
        else:
            kernels.rearrange.copy(x[:, *chosen], y)

    def _chosen(self, x: Shape) -> tuple[slice, ...] | None:
        """The pixels that windows of one pixel choose; None of larger ones."""
        padding, places = self._geometry(x)
        size, stride, _ = self._numbers()
        if math.prod(size) > 1 or any(map(any, padding)):
            return None
        return tuple(slice(0, (count - 1) * step + 1, step) for count, step in zip(places, stride))

    def _counts_padding(self) -> bool:
        return self.count_include_padding


@dataclasses.dataclass(frozen=True)
class _LpPool(_SlidingPool):
    """``y = (sum of |x| ** p over the window) ** (1 / p)``: the sum of absolute values for 1, the Euclidean norm for 2.

    PyTorch's ``lp_pool`` agrees for non-negative ``x`` and for even ``p``; it takes ``x ** p`` without the absolute value, and scales
    up the partial windows of ``ceil_mode``, which are plain sums here. Where ``x`` is 0 the gradient is 0.

    Args:
        size: of the window, one number or one per axis.
        stride: distance of windows, likewise; by default the size.
        padding: see :func:`numbacnn.layers.padding.resolve_padding`; padding adds nothing.
        ceil_mode: keep a last window that ends behind the input, as long as it starts inside it (or in the padding before it).
        p: the exponent, any positive number.
    """

    p: float = 2.0

    stem: ClassVar[str] = "lp_pool"
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.pool:LpPool"
    backward_reads: ClassVar[tuple[str, ...]] = ("x", "y")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "p", above=0)

    def flops(self, x: Shape) -> int:
        return 3 * super().flops(x)

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        shape = x.shape[1:]
        x, y = self._views(shape, [x], [y])
        kernels.pool.lp_forward(x, y, self.tables(shape)[0], float(self.p))

    def backward(self, x: np.ndarray, y: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is None:
            return
        shape = dx.shape[1:]
        x, dx, y, dy = self._views(shape, [x, dx], [y, dy])
        kernels.pool.lp_backward(x, y, dy, dx, self.tables(shape)[1], float(self.p))


# Adaptive and global windows -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _AdaptivePool(_Pool):
    """Output of a given size, whatever the input's: window ``i`` of ``n`` holds the pixels from ``floor(i * size / n)`` up to, not
    including, ``ceil((i + 1) * size / n)``, as in PyTorch.

    Args:
        size: of the output, one number or one per axis; None keeps an axis.
    """

    size: Any = 1

    def __post_init__(self) -> None:
        checks.settle(self, "size")
        sizes = self.size if isinstance(self.size, tuple) else (self.size,) * self.axes
        try:
            per_axis([1 if size is None else size for size in sizes], self.axes, "size")
        except ConfigError:
            raise ConfigError(
                f"{type(self).__name__}: size is {self.size!r}; it takes a positive integer or None, or {self.axes} of them."
            ) from None

    def axis_windows(self, x: Shape) -> tuple[_AxisWindows, ...]:
        sizes = self.size if isinstance(self.size, tuple) else (self.size,) * self.axes
        return tuple(_adaptive_windows(size, size if places is None else places) for size, places in zip(x, sizes))

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        axes = self.axis_windows(x)
        extent = tuple(max(stop - start for start, stop in zip(axis.starts, axis.stops)) for axis in axes)
        return extent, tuple(max(1, axis.size // len(axis.starts)) for axis in axes), (0,) * self.axes


@dataclasses.dataclass(frozen=True)
class _AdaptiveAveragePool(_Average, _AdaptivePool):
    """Mean over adaptive windows."""

    stem: ClassVar[str] = "adaptive_average_pool"


@dataclasses.dataclass(frozen=True)
class _AdaptiveMaxPool(_Max, _AdaptivePool):
    """Maximum over adaptive windows."""

    stem: ClassVar[str] = "adaptive_max_pool"


@dataclasses.dataclass(frozen=True)
class _GlobalPool(_Pool):
    """One window that holds everything. The output is ``(channels,)``.

    Args:
        keepdims: keep the spatial axes, with size 1.
    """

    keepdims: bool = False

    def output_shape(self, x: Shape) -> Shape:
        self._check_rank(x)
        return ((1,) * self.axes if self.keepdims else ()) + (x[-1],)

    def axis_windows(self, x: Shape) -> tuple[_AxisWindows, ...]:
        return tuple(_adaptive_windows(size, 1) for size in x[:-1])

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        return tuple(x[:-1]), (1,) * self.axes, (0,) * self.axes


@dataclasses.dataclass(frozen=True)
class _GlobalAveragePool(_Average, _GlobalPool):
    """Mean over everything."""

    stem: ClassVar[str] = "global_average_pool"


@dataclasses.dataclass(frozen=True)
class _GlobalMaxPool(_Max, _GlobalPool):
    """Maximum over everything."""

    stem: ClassVar[str] = "global_max_pool"


# The layers ----------------------------------------------------------------------------------------------------------


class MaxPool1D(_MaxPool):
    """Max pooling of ``(length, channels)``."""

    axes: ClassVar[int] = 1


class MaxPool2D(_MaxPool):
    """Max pooling of ``(height, width, channels)``."""

    axes: ClassVar[int] = 2


class MaxPool3D(_MaxPool):
    """Max pooling of ``(depth, height, width, channels)``."""

    axes: ClassVar[int] = 3


class AveragePool1D(_AveragePool):
    """Average pooling of ``(length, channels)``."""

    axes: ClassVar[int] = 1


class AveragePool2D(_AveragePool):
    """Average pooling of ``(height, width, channels)``."""

    axes: ClassVar[int] = 2


class AveragePool3D(_AveragePool):
    """Average pooling of ``(depth, height, width, channels)``."""

    axes: ClassVar[int] = 3


class LpPool1D(_LpPool):
    """Lp pooling of ``(length, channels)``."""

    axes: ClassVar[int] = 1


class LpPool2D(_LpPool):
    """Lp pooling of ``(height, width, channels)``."""

    axes: ClassVar[int] = 2


class LpPool3D(_LpPool):
    """Lp pooling of ``(depth, height, width, channels)``."""

    axes: ClassVar[int] = 3


class AdaptiveAveragePool1D(_AdaptiveAveragePool):
    """Average pooling of ``(length, channels)`` to a given size."""

    axes: ClassVar[int] = 1


class AdaptiveAveragePool2D(_AdaptiveAveragePool):
    """Average pooling of ``(height, width, channels)`` to a given size."""

    axes: ClassVar[int] = 2


class AdaptiveAveragePool3D(_AdaptiveAveragePool):
    """Average pooling of ``(depth, height, width, channels)`` to a given size."""

    axes: ClassVar[int] = 3


class AdaptiveMaxPool1D(_AdaptiveMaxPool):
    """Max pooling of ``(length, channels)`` to a given size."""

    axes: ClassVar[int] = 1


class AdaptiveMaxPool2D(_AdaptiveMaxPool):
    """Max pooling of ``(height, width, channels)`` to a given size."""

    axes: ClassVar[int] = 2


class AdaptiveMaxPool3D(_AdaptiveMaxPool):
    """Max pooling of ``(depth, height, width, channels)`` to a given size."""

    axes: ClassVar[int] = 3


class GlobalAveragePool1D(_GlobalAveragePool):
    """Mean of each channel of ``(length, channels)``."""

    axes: ClassVar[int] = 1


class GlobalAveragePool2D(_GlobalAveragePool):
    """Mean of each channel of ``(height, width, channels)``."""

    axes: ClassVar[int] = 2


class GlobalAveragePool3D(_GlobalAveragePool):
    """Mean of each channel of ``(depth, height, width, channels)``."""

    axes: ClassVar[int] = 3


class GlobalMaxPool1D(_GlobalMaxPool):
    """Maximum of each channel of ``(length, channels)``."""

    axes: ClassVar[int] = 1


class GlobalMaxPool2D(_GlobalMaxPool):
    """Maximum of each channel of ``(height, width, channels)``."""

    axes: ClassVar[int] = 2


class GlobalMaxPool3D(_GlobalMaxPool):
    """Maximum of each channel of ``(depth, height, width, channels)``."""

    axes: ClassVar[int] = 3


document((MaxPool1D, MaxPool2D, MaxPool3D), _MaxPool)
document((AveragePool1D, AveragePool2D, AveragePool3D), _AveragePool)
document((LpPool1D, LpPool2D, LpPool3D), _LpPool)
document((AdaptiveAveragePool1D, AdaptiveAveragePool2D, AdaptiveAveragePool3D), _AdaptivePool)
document((AdaptiveMaxPool1D, AdaptiveMaxPool2D, AdaptiveMaxPool3D), _AdaptivePool)
document((GlobalAveragePool1D, GlobalAveragePool2D, GlobalAveragePool3D), _GlobalPool)
document((GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D), _GlobalPool)
