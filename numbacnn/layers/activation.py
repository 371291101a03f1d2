"""Activations: elementwise functions, the parametric rectifier, softmax and its logarithm.

An elementwise activation is one scalar Python function. Forward pass, derivative, SIMD code and fusion into the layer before follow
from it; :func:`activation` makes a layer of anybody's function.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
import types
from collections.abc import Callable
from typing import Any, ClassVar

from .. import kernels
from ..errors import ConfigError
from ..plugin import registry
from . import checks
from .base import Buffer, Layer, Parameter, Shape
from .initializers import Constant
from .lifting import lines

Scalar = Callable[[Any], Any]
Gradient = Callable[[Any, Any], Any]


class Elementwise(Layer):
    """Base of layers that apply a scalar function to each element; :meth:`scalar` gives the function.

    NaN goes through. Infinities give the limit, but for minus infinity times zero: gelu, hard_swish, mish and silu give NaN there, as they
    do in PyTorch.
    """

    elementwise: ClassVar[bool] = True
    in_place: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True
    writes_views: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.activation:Elementwise"
    stem: ClassVar[str] = "activation"

    def scalar(self) -> Scalar:
        """The function of one number, the same object for equal layers. Kernels compile it for numbers, Tiles and dual numbers."""
        raise NotImplementedError(f"{type(self).__name__} does not define scalar")

    def derivative(self) -> Scalar | None:
        """The derivative, a function of x; None means that dual numbers give it."""
        return None

    def gradient_from_output(self) -> Gradient | None:
        """``(dy, y) -> dx``, for functions whose derivative follows from their result; None means that x is needed."""
        return None

    @property
    def backward_reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x",) if self.gradient_from_output() is None else ("y",)

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        with kernels.scalar.explained(self.scalar()):
            kernels.pointwise.forward(self.scalar())(*lines(x, y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is None:
            return
        from_output = self.gradient_from_output()
        if from_output is not None:
            kernels.pointwise.backward_from_output(from_output)(dy.reshape(-1), y.reshape(-1), dx.reshape(-1))
            return
        with kernels.scalar.explained(self.derivative() or self.scalar()):
            kernels.pointwise.backward(self.scalar(), self.derivative())(dy.reshape(-1), x.reshape(-1), dx.reshape(-1))

    def flops(self, x: Shape) -> int:
        return math.prod(x)


@dataclasses.dataclass(frozen=True)
class Linear(Elementwise):
    """``x``, unchanged."""

    cuda: ClassVar[str | None] = Elementwise.cuda

    @property
    def backward_reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ()

    def scalar(self) -> Scalar:
        return kernels.activations.identity

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.pointwise.forward(self.scalar())(*lines(dy, dx))


@dataclasses.dataclass(frozen=True)
class ReLU(Elementwise):
    """``max(x, 0)``; the derivative at 0 is 0."""

    def scalar(self) -> Scalar:
        return kernels.activations.relu

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.relu_gradient


@dataclasses.dataclass(frozen=True)
class ReLU6(Elementwise):
    """``min(max(x, 0), 6)``; the derivative at 0 and 6 is 0."""

    def scalar(self) -> Scalar:
        return kernels.activations.relu6

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.relu6_gradient


@dataclasses.dataclass(frozen=True)
class LeakyReLU(Elementwise):
    """``x`` above 0, ``alpha * x`` elsewhere."""

    alpha: float = 0.01

    def __post_init__(self) -> None:
        checks.number(self, "alpha")

    def scalar(self) -> Scalar:
        return kernels.activations.leaky_relu(float(self.alpha))

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.leaky_relu_gradient(float(self.alpha)) if self.alpha >= 0 else None


@dataclasses.dataclass(frozen=True)
class ELU(Elementwise):
    """``x`` above 0, ``alpha * (exp(x) - 1)`` elsewhere (Clevert et al. 2016)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        checks.number(self, "alpha")

    def scalar(self) -> Scalar:
        return kernels.activations.elu(float(self.alpha))

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.elu_gradient(float(self.alpha)) if self.alpha >= 0 else None


@dataclasses.dataclass(frozen=True)
class SELU(Elementwise):
    """``scale * elu(x)`` with the constants that keep mean 0 and variance 1 (Klambauer et al. 2017)."""

    def scalar(self) -> Scalar:
        return kernels.activations.elu(kernels.activations.SELU_ALPHA, kernels.activations.SELU_SCALE)

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.elu_gradient(kernels.activations.SELU_ALPHA, kernels.activations.SELU_SCALE)


@dataclasses.dataclass(frozen=True)
class GELU(Elementwise):
    """``x * (1 + erf(x / sqrt 2)) / 2`` (Hendrycks & Gimpel 2016), or with ``approximate="tanh"`` their
    ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x**3))) / 2``."""

    approximate: str = "none"

    def __post_init__(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise ConfigError(f"GELU was given approximate={self.approximate!r}; it is 'none' or 'tanh'.")

    def scalar(self) -> Scalar:
        return kernels.activations.gelu if self.approximate == "none" else kernels.activations.gelu_tanh


def gelu_tanh() -> GELU:
    """GELU by tanh, for ``activation="gelu_tanh"``."""
    return GELU("tanh")


@dataclasses.dataclass(frozen=True)
class SiLU(Elementwise):
    """``x * sigmoid(x)``, also called swish (Ramachandran et al. 2017)."""

    def scalar(self) -> Scalar:
        return kernels.activations.silu

    def derivative(self) -> Scalar | None:
        return kernels.activations.silu_derivative


@dataclasses.dataclass(frozen=True)
class HardSwish(Elementwise):
    """``x * relu6(x + 3) / 6`` (Howard et al. 2019)."""

    def scalar(self) -> Scalar:
        return kernels.activations.hard_swish


@dataclasses.dataclass(frozen=True)
class HardSigmoid(Elementwise):
    """``relu6(x + 3) / 6`` (Howard et al. 2019)."""

    def scalar(self) -> Scalar:
        return kernels.activations.hard_sigmoid

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.hard_sigmoid_gradient


@dataclasses.dataclass(frozen=True)
class Mish(Elementwise):
    """``x * tanh(softplus(x))`` (Misra 2019)."""

    def scalar(self) -> Scalar:
        return kernels.activations.mish


@dataclasses.dataclass(frozen=True)
class Sigmoid(Elementwise):
    """``1 / (1 + exp(-x))``."""

    def scalar(self) -> Scalar:
        return kernels.activations.sigmoid

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.sigmoid_gradient


@dataclasses.dataclass(frozen=True)
class Tanh(Elementwise):
    """``tanh(x)``."""

    def scalar(self) -> Scalar:
        return kernels.activations.tanh

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.tanh_gradient


@dataclasses.dataclass(frozen=True)
class Softplus(Elementwise):
    """``ln(1 + exp(x))``."""

    def scalar(self) -> Scalar:
        return kernels.activations.softplus

    def gradient_from_output(self) -> Gradient | None:
        return kernels.activations.softplus_gradient


# Layers that are not elementwise functions of x alone -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PReLU(Layer):
    """``x`` above 0, ``weight * x`` elsewhere, the weight learned (He et al. 2015).

    ``weight`` has shape ``(channels,)``, or ``(1,)`` with ``shared=True``; it starts at ``initial``.
    """

    shared: bool = False
    initial: float = 0.25

    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    in_place: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.activation:PReLU"
    stem: ClassVar[str] = "prelu"

    def __post_init__(self) -> None:
        checks.number(self, "initial")

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        return {"weight": Parameter((1,) if self.shared else (x[-1],), Constant(float(self.initial)), decay=False)}

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if not training:
            return {}
        parts = -(-batch * math.prod(x[:-1]) // kernels.pointwise.SUM_ROWS)
        return {"partial": Buffer((parts, x[-1]), per_sample=False)}

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        kernels.pointwise.prelu(_rows(x), p["weight"], _rows(y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if "weight" in dp:  # first, as dx may take the place of dy
            kernels.pointwise.prelu_weight_gradient(_rows(dy), _rows(x), b["partial"], dp["weight"])
        if dx is not None:
            kernels.pointwise.prelu_backward(_rows(dy), _rows(x), p["weight"], _rows(dx))

    def flops(self, x: Shape) -> int:
        return 2 * math.prod(x)


@dataclasses.dataclass(frozen=True)
class Softmax(Layer):
    """``exp(x) / sum(exp(x))`` over the channels, the last axis. Large numbers are safe, entries of ``-inf`` give 0."""

    backward_reads: ClassVar[tuple[str, ...]] = ("y",)
    in_place: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.activation:Softmax"
    stem: ClassVar[str] = "softmax"

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        kernels.pointwise.softmax(_rows(x), _rows(y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.pointwise.softmax_backward(_rows(dy), _rows(y), _rows(dx))

    def flops(self, x: Shape) -> int:
        return 5 * math.prod(x)


@dataclasses.dataclass(frozen=True)
class LogSoftmax(Softmax):
    """``x - ln(sum(exp(x)))`` over the channels, the last axis."""

    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.activation:LogSoftmax"
    stem: ClassVar[str] = "log_softmax"

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        kernels.pointwise.log_softmax(_rows(x), _rows(y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.pointwise.log_softmax_backward(_rows(dy), _rows(y), _rows(dx))


def _rows(array: Any) -> Any:
    return array.reshape(-1, array.shape[-1])


# By name -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Activation(Elementwise):
    """An elementwise activation by its registered name: ``Activation("leaky_relu", alpha=0.2)``.

    ``alpha`` goes to activations that have one; None keeps their default.
    Raises UnknownNameError for a name that nobody registers, PluginError for one that several plugins provide, and ConfigError for an
    activation that isn't elementwise.
    """

    function: str = "relu"
    alpha: float | None = None

    cuda: ClassVar[str | None] = Elementwise.cuda

    def __post_init__(self) -> None:
        if not isinstance(self.function, str):
            raise ConfigError(
                f"Activation: function is {self.function!r}; it takes the registered name of an activation, such as 'relu'. "
                "nc.activation(name, function) makes a layer of a function."
            )
        if self.alpha is not None:
            checks.number(self, "alpha")
        self._layer  # noqa: B018  a name that cannot be found is an error here, not in the first forward pass

    @property
    def _layer(self) -> Elementwise:
        return _by_name(self.function, self.alpha)

    def scalar(self) -> Scalar:
        return self._layer.scalar()

    def derivative(self) -> Scalar | None:
        return self._layer.derivative()

    def gradient_from_output(self) -> Gradient | None:
        return self._layer.gradient_from_output()

    @property
    def backward_reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._layer.backward_reads

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        self._layer.backward(x, y, dy, dx, p, dp, b)


@functools.cache
def _by_name(function: str, alpha: float | None) -> Elementwise:
    make = registry.load("activation", function)
    if alpha is not None and "alpha" not in inspect.signature(make).parameters:
        raise ConfigError(f"The activation {function!r} has no alpha, but alpha={alpha!r} was given.")
    layer = make() if alpha is None else make(alpha=alpha)
    if not getattr(layer, "elementwise", False):
        raise ConfigError(f"The activation {function!r} isn't elementwise: use the layer {type(layer).__name__}().")
    return layer


def resolve(activation: Any) -> Layer | None:
    """The layer that an ``activation=`` argument means: a registered name, a layer, a class of layers (or another callable that
    makes one), or None for no activation. Raises UnknownNameError, PluginError where several plugins provide the name, or ConfigError."""
    if activation is None or isinstance(activation, Layer):
        return activation
    if isinstance(activation, str):
        return registry.load("activation", activation)()
    try:
        layer = activation()
    except TypeError:  # no callable, or one that wants arguments, such as a function of numbers
        layer = None
    if not isinstance(layer, Layer):
        raise ConfigError(
            f"{activation!r} was given as an activation; it is a name such as 'relu', a layer such as nc.PReLU(), or None. "
            "nc.activation(name, function) makes a layer of a function."
        )
    return layer


# Of one's own --------------------------------------------------------------------------------------------------------


def activation(name: str, function: Scalar, derivative: Scalar | None = None) -> type[Elementwise]:
    """A layer class called ``name`` that applies a scalar ``function`` to each element.

    ``function`` takes and gives one number. It may use arithmetic, ``abs``, ``max``, ``min``, ``nc.where(condition, a, b)``, functions of
    :mod:`math` or NumPy's of the same name, other such functions, and numbers of an enclosing function. One with ``if`` works too, but
    slower, as it is called for each element. Its derivative comes by forward differentiation; ``derivative``, a function of x, is only
    for one that is cheaper. At a kink the branch that is taken counts.

    Example::

        Mish = nc.activation("mish2", lambda x: x * math.tanh(math.log1p(math.exp(x))))
        h = nc.Conv2D(32, 3, activation=Mish)(x)

    Raises ConfigError if ``name`` is not a name, or a function does not take one argument.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"An activation was given the name {name!r}; it needs one of letters, digits and underscores.")
    of_x = _plain(name, function)
    slope = None if derivative is None else _plain(name, derivative)

    @dataclasses.dataclass(frozen=True)
    class Custom(Elementwise):
        stem: ClassVar[str] = name

        def scalar(self) -> Scalar:
            return of_x

        def derivative(self) -> Scalar | None:
            return slope

    Custom.__name__ = Custom.__qualname__ = name
    Custom.__module__ = sys._getframe(1).f_globals.get("__name__", __name__)  # where it is assigned, for registries and pickle
    Custom.__doc__ = getattr(function, "__doc__", None) or f"The activation {name}."
    return Custom


def _plain(name: str, function: Any) -> Scalar:
    """A Python function of one argument, from that, a function compiled by Numba, or one of math's or NumPy's."""
    function = getattr(function, "py_func", function)
    if not callable(function):
        raise ConfigError(f"The activation {name!r} was given {function!r}; it needs a function of one number.")
    if not isinstance(function, types.FunctionType):
        return lambda x: function(x)
    if len(inspect.signature(function).parameters) != 1:
        raise ConfigError(f"The function of the activation {name!r} takes {inspect.signature(function)}; it must take one number.")
    return function
