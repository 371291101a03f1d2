"""Convolution in one, two and three dimensions: plain, grouped, depthwise, separable and transposed.

With ``x`` channels last, ``y[i, o] = bias[o] + sum over k, c of x[i * stride + k * dilation - padding, c] * weight[k, c, o]`` (a
cross-correlation, as everywhere in the field). Output places: ``(size + padding - dilation * (kernel - 1) - 1) // stride + 1``.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np

from .. import kernels
from ..errors import ConfigError, ShapeError
from . import checks
from .base import GATHERED, Buffer, Layer, Methods, Parameter, Shape, document
from .epilogue import Fusable, constant_vector
from .lifting import lifted
from .padding import check_padding, per_axis, resolve_padding, window_places


@dataclasses.dataclass(frozen=True)
class Window:
    """The numbers of a layer that slides over its input, one per axis."""

    size: Shape
    stride: Shape
    dilation: Shape

    @property
    def extent(self) -> Shape:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.size, self.dilation))


class _AnyConvolution(Fusable):
    """What convolution layers share: fields that hold one number per axis, and their checks."""

    axes: ClassVar[int]
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    prepared_for_forward: ClassVar[bool] = True

    size: Any
    stride: Any
    padding: Any
    dilation: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.settle(self, *(name for name in ("size", "stride", "padding", "dilation", "output_padding") if hasattr(self, name)))
        for name in ("filters", "groups", "multiplier"):
            if hasattr(self, name):
                checks.integer(self, name, 1)
        try:
            self._numbers()
            check_padding(self.padding, self.axes)
        except ConfigError as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from None

    def _numbers(self) -> Window:
        return Window(
            per_axis(self.size, self.axes, "size"),
            per_axis(self.stride, self.axes, "stride"),
            per_axis(self.dilation, self.axes, "dilation"),
        )

    def _check_axes(self, x: Shape) -> None:
        if len(x) != self.axes + 1:
            axes = ("length", "height, width", "depth, height, width")[self.axes - 1]
            raise ShapeError(f"given shape {x}, needs ({axes}, channels): {self.axes + 1} axes besides the batch.")

    def _check_groups(self, channels: int, filters: int, groups: int, x: Shape) -> None:
        if channels % groups or filters % groups:
            raise ShapeError(f"given shape {x}, needs channels ({channels}) and filters ({filters}) that {groups} groups divide.")

    def torch_order(self, name: str, axes: int) -> Shape:
        return (axes - 1, axes - 2, *range(axes - 2)) if axes > 1 else (0,)


class _ChannelMixing(_AnyConvolution):
    """What plain and transposed convolutions share: a kernel that sees all channels of a group, and parameters made of it."""

    filters: int
    groups: int

    adds_gradients: ClassVar[bool] = True
    method: ClassVar[Any] = None  # of the forward pass; only layers that :meth:`_by` made for a plan have one

    def _geometry(self, x: Shape) -> tuple[Any, Shape]:
        """Padding and output places for input shape ``x``."""
        raise NotImplementedError

    def _pass(self, x: Shape, batch: int) -> Any:
        """The kernels' pass that the layer's forward pass is."""
        raise NotImplementedError

    def inference_methods(self, x: Shape, batch: int, threads: int, dtype: Any) -> Methods | None:
        found = self._pass(x, batch)
        candidates = found.candidates(threads)
        if len(candidates) == 1:
            return None
        default = next(name for name, method in candidates.items() if method == found.settled(threads))
        layers: dict[str, Layer] = {name: self._by(method) for name, method in candidates.items()}
        return Methods(found.key(threads, dtype), default, layers)

    def packing(self, x: Shape, batch: int) -> int:
        """M of Winograd's F(M x M, taps), 0 for the direct convolution."""
        return self._pass(x, batch).tile

    def with_packing(self, x: Shape, packing: int) -> Self:
        return self._by(kernels.conv.Method(packing))

    def _by(self, method: Any) -> Self:
        """This layer, which runs by that method. It is no field: how a layer runs is not part of what it is."""
        twin = copy.copy(self)
        object.__setattr__(twin, "method", method)
        return twin

    def output_shape(self, x: Shape) -> Shape:
        self._check_axes(x)
        self._check_groups(x[-1], self.filters, self.groups, x)
        return (*self._geometry(x)[1], self.filters)

    def lifted_window(self, x: Shape) -> Any:
        """The window over three axes, as the kernels take it."""
        conv, numbers = kernels.conv, self._numbers()
        before = tuple(before for before, _ in self._geometry(x)[0])
        lift = conv.lift
        return conv.Window(lift(numbers.size, 1), lift(numbers.stride, 1), lift(numbers.dilation, 1), lift(before, 0), self.groups)


@dataclasses.dataclass(frozen=True)
class _Convolution(_ChannelMixing):
    """Common to Conv1D, Conv2D and Conv3D.

    Args:
        filters: output channels.
        size: of the kernel, one number or one per axis.
        stride, dilation: likewise.
        padding: see :func:`numbacnn.layers.padding.resolve_padding`.
        groups: the channels fall into that many groups that do not see each other.
        bias: whether a learned vector is added.
        activation: name, layer or class of layers applied to the output.
        initializer, bias_initializer: names or initializers.
        exact: compute directly even where Winograd's minimal filtering is faster; that rounds some ten times as much (to about 1e-5 of the
            largest output in float32).

    Parameters: ``weight (kernel..., C / groups, filters)``, ``bias (filters,)``.
    """

    filters: int
    size: Any
    stride: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    groups: int = 1
    bias: bool = True
    activation: Any = None
    initializer: Any = "he_normal"
    bias_initializer: Any = "zeros"
    exact: bool = False

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.conv:Convolution"
    stem: ClassVar[str] = "conv"

    def _geometry(self, x: Shape) -> tuple[Any, Shape]:
        numbers = self._numbers()
        padding = resolve_padding(self.padding, x[:-1], numbers.size, numbers.stride, numbers.dilation)
        return padding, window_places(x, x[:-1], numbers.size, numbers.stride, numbers.dilation, padding)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return self._weight_and_bias((*self._numbers().size, x[-1] // self.groups, self.filters), self.filters)

    def flops(self, x: Shape) -> int:
        return 2 * math.prod(self.output_shape(x)) * math.prod(self._numbers().size) * (x[-1] // self.groups)

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        numbers = self._numbers()
        return numbers.extent, numbers.stride, tuple(before for before, _ in self._geometry(x)[0])

    def _shapes(self, x: Shape, batch: int) -> tuple:
        """What the kernels' passes are made for."""
        lift = kernels.conv.lift
        size, places = lift(x[:-1], 1), lift(self.output_shape(x)[:-1], 1)
        return self.lifted_window(x), size, x[-1], places, self.filters, batch, self.exact

    def _pass(self, x: Shape, batch: int) -> Any:
        return kernels.conv.Forward(*self._shapes(x, batch), self.method)

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return _packing(self._pass(x, batch), threads)

    def statistics_parts(self, x: Shape, batch: int) -> int:
        return math.prod(self._pass(x, batch).gathered_shape)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        conv, shapes = kernels.conv, self._shapes(x, batch)
        elements = self._pass(x, batch).scratch_elements(threads, gathers=training)
        if not training:
            return {"scratch": Buffer((threads, elements), per_sample=False)}
        backward = conv.DataGradient(*shapes)
        elements = max(elements, backward.scratch_elements(threads), conv.WeightGradient(*shapes).scratch_elements(threads))
        return {
            "scratch": Buffer((threads, elements), per_sample=False),
            "packed_transposed": Buffer((backward.packed_elements,), per_sample=False),
        }

    def pack(self, x: Shape, batch: int, p: dict, b: dict, scale: np.ndarray | None) -> None:
        scale = constant_vector(scale, 1, self.filters, p["weight"])
        self._pass(x, batch).pack(p["weight"], scale, b["packed"], b.get("packing"))

    def takes_prologue(self, x: Shape) -> bool:
        return self._pass(x, 1).takes_prologue

    def makes_expansion(self, x: Shape) -> bool:
        return kernels.conv.makes_expansion(*self._shapes(x, 1)[:5])

    def run(
        self, x: np.ndarray, y: np.ndarray, shift: np.ndarray | None, addend: np.ndarray | None, scalar: Any, b: dict, prologue: Any = None
    ) -> None:
        forward, shift = self._pass(x.shape[1:], len(x)), constant_vector(shift, 0, self.filters, y)
        forward.run(lifted(x), b["packed"], shift, lifted(y), b["scratch"], lifted(addend), scalar, prologue, b.get(GATHERED))

    def backward(
        self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict, adds: bool = False
    ) -> None:  # fmt: skip
        conv, shapes = kernels.conv, self._shapes(x.shape[1:], len(x))
        if "weight" in dp:
            conv.WeightGradient(*shapes).run(lifted(x), lifted(dy), dp["weight"], b["scratch"])
        if "bias" in dp:
            conv.channel_sums(dy.reshape(-1, self.filters), dp["bias"])
        if dx is not None:
            gradient = conv.DataGradient(*shapes)
            ones, zeros = constant_vector(None, 1, x.shape[-1], x), constant_vector(None, 0, x.shape[-1], x)
            gradient.pack(p["weight"], ones, b["packed_transposed"], b["scratch"])
            gradient.run(lifted(dy), b["packed_transposed"], zeros, lifted(dx), b["scratch"], lifted(dx) if adds else None)


def _packing(method: Any, threads: int) -> dict[str, Buffer]:
    """Room for packed weights, and for packing them."""
    buffers = {"packed": Buffer((method.packed_elements,), per_sample=False)}
    if method.packing_elements:
        buffers["packing"] = Buffer((threads, method.packing_elements), per_sample=False)
    return buffers


class Conv1D(_Convolution):
    """Convolution of ``(length, channels)``."""

    axes = 1


class Conv2D(_Convolution):
    """Convolution of ``(height, width, channels)``."""

    axes = 2


class Conv3D(_Convolution):
    """Convolution of ``(depth, height, width, channels)``."""

    axes = 3


document((Conv1D, Conv2D, Conv3D), _Convolution)


@dataclasses.dataclass(frozen=True)
class _TransposedConvolution(_ChannelMixing):
    """Common to Conv1DTranspose, Conv2DTranspose and Conv3DTranspose: the data gradient of a convolution, used as a layer.

    Output places: ``(size - 1) * stride + dilation * (kernel - 1) + 1 - padding + output_padding``; padding ``"same"`` gives
    ``size * stride``.

    Args:
        filters, size, stride, dilation, groups, bias, activation: as for a convolution.
        padding: an integer, one per axis, a pair per axis, ``"valid"`` or ``"same"``; it is cut off.
        output_padding: places added behind, one number or one per axis, each less than the stride or the dilation, whichever is
            larger; 0 with padding ``"same"``, which says how many places there are.
        exact: as for a convolution.

    Parameters: ``weight (kernel..., filters / groups, C)``, as of the convolution whose gradient this is; ``bias (filters,)``.
    """

    filters: int
    size: Any
    stride: Any = 1
    padding: Any = "valid"
    output_padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    bias: bool = True
    activation: Any = None
    initializer: Any = "he_normal"
    bias_initializer: Any = "zeros"
    exact: bool = False

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.conv:TransposedConvolution"
    stem: ClassVar[str] = "conv_transpose"

    def _numbers(self) -> Window:
        if self.padding in ("full", "causal"):
            raise ConfigError(
                f'padding is {self.padding!r}; a transposed convolution takes "valid", "same", an integer, or one entry per axis.'
            )
        extra = per_axis(self.output_padding, self.axes, "output_padding", minimum=0)
        if self.padding == "same" and any(extra):
            raise ConfigError(
                f'output_padding is {self.output_padding!r}; with padding "same" the output has size * stride places, and it must be 0.'
            )
        numbers = super()._numbers()
        if any(e >= max(s, d) for e, s, d in zip(extra, numbers.stride, numbers.dilation)):
            raise ConfigError(
                f"output_padding is {self.output_padding!r}; it must be smaller than the stride {self.stride!r} or the dilation "
                f"{self.dilation!r}, whichever is larger."
            )
        return numbers

    def _geometry(self, x: Shape) -> tuple[Any, Shape]:
        numbers = self._numbers()
        extra = per_axis(self.output_padding, self.axes, "output_padding", minimum=0)
        if self.padding == "same":
            places = tuple(n * s for n, s in zip(x, numbers.stride))
            return resolve_padding("same", places, numbers.size, numbers.stride, numbers.dilation), places
        padding = resolve_padding(self.padding, x[:-1], numbers.size, numbers.stride, numbers.dilation)
        places = tuple(
            (n - 1) * s + extent - before - after + more
            for n, s, extent, (before, after), more in zip(x, numbers.stride, numbers.extent, padding, extra)
        )
        if min(places) < 1:
            raise ShapeError(f"given shape {x}, needs more places than padding {self.padding!r} cuts off: the output would have {places}.")
        return padding, places

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return self._weight_and_bias((*self._numbers().size, self.filters // self.groups, x[-1]), self.filters)

    def flops(self, x: Shape) -> int:
        return 2 * math.prod(x) * math.prod(self._numbers().size) * (self.filters // self.groups)

    def window(self, x: Shape) -> tuple[Any, Any, Any]:
        """Output ``o`` sees the inputs from ``(o + padding - extent + 1) / stride`` to ``(o + padding) / stride``: a window in
        fractions of an input place, which moves on by ``1 / stride``."""
        numbers = self._numbers()
        before = tuple(before for before, _ in self._geometry(x)[0])
        return (
            tuple(1 + Fraction(extent - 1, s) for extent, s in zip(numbers.extent, numbers.stride)),
            tuple(Fraction(1, s) for s in numbers.stride),
            tuple(Fraction(extent - 1 - cut, s) for extent, s, cut in zip(numbers.extent, numbers.stride, before)),
        )

    def _shapes(self, x: Shape, batch: int) -> tuple:
        """What the kernels' passes are made for: the convolution from the output to the input."""
        lift = kernels.conv.lift
        size, places = lift(self.output_shape(x)[:-1], 1), lift(x[:-1], 1)
        return self.lifted_window(x), size, self.filters, places, x[-1], batch, self.exact

    def _pass(self, x: Shape, batch: int) -> Any:
        return kernels.conv.DataGradient(*self._shapes(x, batch), self.method)

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return _packing(self._pass(x, batch), threads)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        conv, shapes = kernels.conv, self._shapes(x, batch)
        elements = self._pass(x, batch).scratch_elements(threads)
        if not training:
            return {"scratch": Buffer((threads, elements), per_sample=False)}
        backward = conv.Forward(*shapes)
        needed = backward.scratch_elements(threads), backward.packing_elements, conv.WeightGradient(*shapes).scratch_elements(threads)
        return {
            "scratch": Buffer((threads, max(elements, *needed)), per_sample=False),
            "packed_back": Buffer((backward.packed_elements,), per_sample=False),
        }

    def pack(self, x: Shape, batch: int, p: dict, b: dict, scale: np.ndarray | None) -> None:
        scale = constant_vector(scale, 1, self.filters, p["weight"])
        self._pass(x, batch).pack(p["weight"], scale, b["packed"], b.get("packing"))

    def run(self, x: np.ndarray, y: np.ndarray, shift: np.ndarray | None, addend: np.ndarray | None, scalar: Any, b: dict) -> None:
        forward = self._pass(x.shape[1:], len(x))
        forward.run(lifted(x), b["packed"], constant_vector(shift, 0, self.filters, y), lifted(y), b["scratch"], lifted(addend), scalar)

    def backward(
        self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict, adds: bool = False
    ) -> None:  # fmt: skip
        conv, shapes = kernels.conv, self._shapes(x.shape[1:], len(x))
        if "weight" in dp:
            conv.WeightGradient(*shapes).run(lifted(dy), lifted(x), dp["weight"], b["scratch"])
        if "bias" in dp:
            conv.channel_sums(dy.reshape(-1, self.filters), dp["bias"])
        if dx is not None:
            gradient = conv.Forward(*shapes)
            ones, zeros = constant_vector(None, 1, x.shape[-1], x), constant_vector(None, 0, x.shape[-1], x)
            gradient.pack(p["weight"], ones, b["packed_back"], b["scratch"])
            gradient.run(lifted(dy), b["packed_back"], zeros, lifted(dx), b["scratch"], lifted(dx) if adds else None)


class Conv1DTranspose(_TransposedConvolution):
    """Transposed convolution of ``(length, channels)``."""

    axes = 1


class Conv2DTranspose(_TransposedConvolution):
    """Transposed convolution of ``(height, width, channels)``."""

    axes = 2


class Conv3DTranspose(_TransposedConvolution):
    """Transposed convolution of ``(depth, height, width, channels)``."""

    axes = 3


document((Conv1DTranspose, Conv2DTranspose, Conv3DTranspose), _TransposedConvolution)


@dataclasses.dataclass(frozen=True)
class _DepthwiseConvolution(_AnyConvolution):
    """Common to DepthwiseConv1D, DepthwiseConv2D and DepthwiseConv3D: each channel has its own kernel(s).

    Args:
        size, stride, padding, dilation, bias, activation: as for a convolution.
        multiplier: outputs per input channel; output ``c * multiplier + j`` comes from input channel ``c``.

    Parameters: ``weight (kernel..., 1, C * multiplier)``, ``bias (C * multiplier,)``.
    """

    size: Any
    stride: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    multiplier: int = 1
    bias: bool = True
    activation: Any = None
    initializer: Any = "he_normal"
    bias_initializer: Any = "zeros"

    stem: ClassVar[str] = "depthwise"
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.depthwise:DepthwiseConvolution"
    plain: ClassVar[type]

    def _grouped(self, x: Shape) -> Any:
        """The grouped convolution that computes the same."""
        return self.plain(
            x[-1] * self.multiplier, self.size, self.stride, self.padding, self.dilation, x[-1], self.bias,
            initializer=self.initializer, bias_initializer=self.bias_initializer,
        )  # fmt: skip

    def lifted_window(self, x: Shape) -> Any:
        """The window over three axes, as the kernels take it."""
        return self._grouped(x).lifted_window(x)

    def output_shape(self, x: Shape) -> Shape:
        self._check_axes(x)
        return self._grouped(x).output_shape(x)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return self._grouped(x).parameters(x)

    def flops(self, x: Shape) -> int:
        return self._grouped(x).flops(x)

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        return self._grouped(x).window(x)

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if self.multiplier > 1:
            return self._grouped(x).prepared(x, batch, threads, training)
        return {"packed": self._packed(x)}

    def _packed(self, x: Shape) -> Buffer:
        return Buffer((kernels.conv.depthwise_packed_elements(x[-1], math.prod(self._numbers().size)),), per_sample=False)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if self.multiplier > 1:
            return self._grouped(x).scratch(x, batch, threads, training)
        conv, window = kernels.conv, self.lifted_window(x)
        size, places = conv.lift(x[:-1], 1), conv.lift(self.output_shape(x)[:-1], 1)
        elements = conv.depthwise_elements(window, x[-1], places, batch, threads)
        if not training:
            return {"scratch": Buffer((threads, elements), per_sample=False)}
        back = conv.depthwise_data_gradient_elements(window, size, x[-1], batch, threads)
        elements = max(elements, back, conv.depthwise_gradient_elements(window, x[-1], places, batch, threads))
        return {
            "scratch": Buffer((threads, elements), per_sample=False),
            "packed_back": self._packed(x),
        }

    def pack(self, x: Shape, batch: int, p: dict, b: dict, scale: np.ndarray | None) -> None:
        if self.multiplier > 1:
            self._grouped(x).pack(x, batch, p, b, scale)
        else:
            kernels.conv.pack_depthwise(p["weight"], self.lifted_window(x), constant_vector(scale, 1, x[-1], p["weight"]), b["packed"])

    def packing(self, x: Shape, batch: int) -> int:
        return self._grouped(x).packing(x, batch) if self.multiplier > 1 else 0

    def statistics_parts(self, x: Shape, batch: int) -> int:
        if self.multiplier > 1:
            return self._grouped(x).statistics_parts(x, batch)
        places = kernels.conv.lift(self.output_shape(x)[:-1], 1)
        return math.prod(kernels.conv.depthwise_gathered_shape(self.lifted_window(x), x[-1], places, batch))

    def summed_stretches(self, x: Shape) -> int:
        if self.multiplier > 1:
            return 0
        places = kernels.conv.lift(self.output_shape(x)[:-1], 1)
        return kernels.conv.depthwise_stretches(self.lifted_window(x), places)

    def takes_expansion(self, x: Shape) -> bool:
        return self.multiplier == 1 and kernels.conv.takes_expansion(kernels.conv.lift(self.output_shape(x)[:-1], 1))

    def run(
        self, x: np.ndarray, y: np.ndarray, shift: np.ndarray | None, addend: np.ndarray | None, scalar: Any, b: dict, sums: Any = None,
        expansion: Any = None,
    ) -> None:  # fmt: skip
        shape = x.shape[1:] if expansion is None else (*x.shape[1:-1], y.shape[-1])
        grouped = self._grouped(shape)
        if self.multiplier > 1:
            grouped.run(x, y, shift, addend, scalar, b)
            return
        conv, window = kernels.conv, grouped.lifted_window(shape)
        shift = constant_vector(shift, 0, shape[-1], y)
        conv.depthwise_convolve(
            lifted(x), b["packed"], shift, lifted(y), window, b["scratch"], lifted(addend), scalar, sums, expansion, b.get(GATHERED)
        )  # fmt: skip

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        grouped = self._grouped(x.shape[1:])
        if self.multiplier > 1:
            grouped.backward(x, y, dy, dx, p, dp, b)
            return
        conv, window = kernels.conv, grouped.lifted_window(x.shape[1:])
        x5, dy5 = lifted(x), lifted(dy)
        if "weight" in dp:
            conv.depthwise_weight_gradients(x5, dy5, dp["weight"], window, b["scratch"])
        if "bias" in dp:
            conv.channel_sums(dy.reshape(-1, x.shape[-1]), dp["bias"])
        if dx is not None:
            conv.depthwise_data_gradient(dy5, p["weight"], b["packed_back"], lifted(dx), window, b["scratch"])


class DepthwiseConv1D(_DepthwiseConvolution):
    """Depthwise convolution of ``(length, channels)``."""

    axes = 1
    plain = Conv1D


class DepthwiseConv2D(_DepthwiseConvolution):
    """Depthwise convolution of ``(height, width, channels)``."""

    axes = 2
    plain = Conv2D


class DepthwiseConv3D(_DepthwiseConvolution):
    """Depthwise convolution of ``(depth, height, width, channels)``."""

    axes = 3
    plain = Conv3D


document((DepthwiseConv1D, DepthwiseConv2D, DepthwiseConv3D), _DepthwiseConvolution)


@dataclasses.dataclass(frozen=True)
class _SeparableConvolution(_AnyConvolution):
    """Common to SeparableConv1D, SeparableConv2D and SeparableConv3D: a depthwise convolution, then a pointwise one (F. Chollet,
    "Xception", 2017), with nothing in between.

    Args:
        filters: output channels.
        size, stride, padding, dilation, multiplier: of the depthwise convolution.
        bias, activation: of the pointwise one.

    Parameters: ``depthwise_weight (kernel..., 1, C * multiplier)``, ``pointwise_weight (1..., C * multiplier, filters)``,
    ``bias (filters,)``.
    """

    filters: int
    size: Any
    stride: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    multiplier: int = 1
    bias: bool = True
    activation: Any = None
    initializer: Any = "he_normal"
    bias_initializer: Any = "zeros"

    stem: ClassVar[str] = "separable"
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.depthwise:SeparableConvolution"
    plain: ClassVar[type]
    depthwise: ClassVar[type]

    def stages(self, x: Shape) -> tuple[Any, Any, Shape]:
        """The two convolutions, and the shape between them."""
        first = self.depthwise(
            self.size, self.stride, self.padding, self.dilation, self.multiplier, bias=False, initializer=self.initializer
        )
        second = self.plain(self.filters, 1, bias=self.bias, initializer=self.initializer, bias_initializer=self.bias_initializer)
        return first, second, first.output_shape(x)

    def output_shape(self, x: Shape) -> Shape:
        self._check_axes(x)
        _, second, middle = self.stages(x)
        return second.output_shape(middle)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        first, second, middle = self.stages(x)
        renamed = {"weight": "pointwise_weight", "bias": "bias"}
        later = {renamed[name]: parameter for name, parameter in second.parameters(middle).items()}
        return {"depthwise_weight": first.parameters(x)["weight"], **later}

    def flops(self, x: Shape) -> int:
        first, second, middle = self.stages(x)
        return first.flops(x) + second.flops(middle)

    def window(self, x: Shape) -> tuple[Shape, Shape, Shape]:
        return self.stages(x)[0].window(x)

    def buffers(self, x: Shape) -> dict[str, Buffer]:
        return {"middle": Buffer(self.stages(x)[2])}

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        first, second, middle = self.stages(x)
        return prefixed(first.prepared(x, batch, threads, training), second.prepared(middle, batch, threads, training))

    def packing(self, x: Shape, batch: int) -> tuple[int, int]:
        first, second, middle = self.stages(x)
        return first.packing(x, batch), second.packing(middle, batch)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        first, second, middle = self.stages(x)
        both = prefixed(first.scratch(x, batch, threads, training), second.scratch(middle, batch, threads, training))
        return {**both, "d_middle" if training else "middle": Buffer(middle)}

    def statistics_parts(self, x: Shape, batch: int) -> int:
        _, second, middle = self.stages(x)
        return second.statistics_parts(middle, batch)

    def pack(self, x: Shape, batch: int, p: dict, b: dict, scale: np.ndarray | None) -> None:
        first, second, middle = self.stages(x)
        first.pack(x, batch, {"weight": p["depthwise_weight"]}, of_stage(b, "first"), None)
        second.pack(middle, batch, {"weight": p["pointwise_weight"]}, of_stage(b, "second"), scale)

    def run(self, x: np.ndarray, y: np.ndarray, shift: np.ndarray | None, addend: np.ndarray | None, scalar: Any, b: dict) -> None:
        first, second, _ = self.stages(x.shape[1:])
        first.run(x, b["middle"], None, None, None, of_stage(b, "first"))
        gathered = {GATHERED: b[GATHERED]} if GATHERED in b else {}
        second.run(b["middle"], y, shift, addend, scalar, {**of_stage(b, "second"), **gathered})

    def backward(self, x: Any, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        first, second, _ = self.stages(x.shape[1:])
        needed = b["d_middle"] if dx is not None or "depthwise_weight" in dp else None
        later = {name.removeprefix("pointwise_"): dp[name] for name in ("pointwise_weight", "bias") if name in dp}
        second.backward(b["middle"], None, dy, needed, {"weight": p["pointwise_weight"]}, later, of_stage(b, "second"))
        if needed is not None:
            earlier = {"weight": dp["depthwise_weight"]} if "depthwise_weight" in dp else {}
            first.backward(x, None, needed, dx, {"weight": p["depthwise_weight"]}, earlier, of_stage(b, "first"))


def prefixed(first: dict[str, Buffer], second: dict[str, Buffer]) -> dict[str, Buffer]:
    """The arrays of both stages, under names of their own."""
    return {**{f"first_{k}": v for k, v in first.items()}, **{f"second_{k}": v for k, v in second.items()}}


def of_stage(b: dict, stage: str) -> dict:
    """Those of one stage, ``"first"`` or ``"second"``, under the names that it knows."""
    return {name.removeprefix(f"{stage}_"): array for name, array in b.items() if name.startswith(f"{stage}_")}


class SeparableConv1D(_SeparableConvolution):
    """Separable convolution of ``(length, channels)``."""

    axes = 1
    plain, depthwise = Conv1D, DepthwiseConv1D


class SeparableConv2D(_SeparableConvolution):
    """Separable convolution of ``(height, width, channels)``."""

    axes = 2
    plain, depthwise = Conv2D, DepthwiseConv2D


class SeparableConv3D(_SeparableConvolution):
    """Separable convolution of ``(depth, height, width, channels)``."""

    axes = 3
    plain, depthwise = Conv3D, DepthwiseConv3D


document((SeparableConv1D, SeparableConv2D, SeparableConv3D), _SeparableConvolution)
