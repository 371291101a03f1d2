"""Dual numbers inside kernels: a value and its slope, which go through a function together.

``dual(x, 1.0)`` is the variable itself; evaluating a function on it gives the function's value and derivative by the chain rule
(Clifford 1873; Griewank & Walther, Evaluating Derivatives, chapter 3). Value and slope are Tiles or floats. Comparisons look at the
values. Where ``max`` or ``min`` meets equal operands, the slope of a plain number among them counts, so that the slope of
``max(x, 0.0)`` at 0 is 0.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_cast
from numba.core.typeconv import Conversion
from numba.extending import intrinsic, make_attribute_wrapper, models, overload, register_jitable, register_model

from . import elementary  # noqa: F401  dual functions are made of functions of Tiles
from .simd import JIT_DISABLED, Mask, Tile, where, widened

LOG2_E, LOG10_E = math.log2(math.e), math.log10(math.e)
TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
LARGEST_EXPONENT = {4: 80.0, 8: 700.0}  # of exp, by bytes per number


class Dual(types.Type):
    """Numba type of a value and its slope, both of type ``kind``: a Tile or a float."""

    def __init__(self, kind: Any):
        self.kind = kind
        super().__init__(f"Dual({kind})")

    def unify(self, context: Any, other: Any) -> Dual | None:
        """The common type of two branches of a function, one of which may give a plain number."""
        given = other.kind if isinstance(other, Dual) else other
        if isinstance(self.kind, types.Float) and isinstance(given, types.Number | types.Boolean):
            kind = context.unify_pairs(self.kind, types.unliteral(given))
            return Dual(kind) if isinstance(kind, types.Float) else None
        return None

    def can_convert_from(self, context: Any, other: Any) -> Any:
        """Plain numbers and duals of another width become duals."""
        if isinstance(self.kind, types.Float) and isinstance(other, Dual) and isinstance(other.kind, types.Float):
            return Conversion.safe
        if isinstance(self.kind, types.Float) and isinstance(other, types.Number | types.Boolean):
            return Conversion.safe
        return None

    def can_convert_to(self, context: Any, other: Any) -> Any:
        """A dual of another width takes this one."""
        return other.can_convert_from(context, self) if isinstance(other, Dual) else None


@register_model(Dual)
class _DualModel(models.StructModel):
    def __init__(self, manager: Any, dual_type: Dual):
        super().__init__(manager, dual_type, [("value", dual_type.kind), ("slope", dual_type.kind)])


make_attribute_wrapper(Dual, "value", "value")
make_attribute_wrapper(Dual, "slope", "slope")


def _typed_dual(typing_context, value, slope):
    kinds = [types.unliteral(kind) for kind in (value, slope)]
    kind = next((k for k in kinds if isinstance(k, Tile)), None) or typing_context.unify_types(*kinds, types.float32)
    if not isinstance(kind, Tile | types.Float) or any(isinstance(k, Tile) and k != kind for k in kinds):
        return None

    def generate(context, builder, sig, args):
        if isinstance(kind, Tile):
            parts = [widened(context, builder, kind, part, given) for part, given in zip(args, sig.args)]
        else:
            parts = [context.cast(builder, part, given, kind) for part, given in zip(args, sig.args)]
        return _packed(context, builder, sig.return_type, *parts)

    return Dual(kind)(*kinds), generate


dual: Any = intrinsic(_typed_dual)
"""``dual(value, slope)``: the dual number of both. A plain number beside a Tile holds for the whole Tile."""


def _packed(context: Any, builder: Any, kind: Dual, value: Any, slope: Any) -> Any:
    pair = cgutils.create_struct_proxy(kind)(context, builder)
    pair.value, pair.slope = value, slope
    return pair._getvalue()


@lower_cast(types.Number, Dual)
@lower_cast(types.Boolean, Dual)
def _number_to_dual(context, builder, given, wanted, value):
    value = context.cast(builder, value, given, wanted.kind)
    return _packed(context, builder, wanted, value, context.get_constant(wanted.kind, 0.0))


@lower_cast(Dual, Dual)
def _dual_to_dual(context, builder, given, wanted, value):
    pair = cgutils.create_struct_proxy(given)(context, builder, value=value)
    parts = [context.cast(builder, part, given.kind, wanted.kind) for part in (pair.value, pair.slope)]
    return _packed(context, builder, wanted, *parts)


def value(x):
    """The value of a dual number; a plain number or Tile is its own."""
    return x


def slope(x):
    """The slope of a dual number; that of a plain number or Tile is 0."""
    return 0.0


@overload(value, inline="always")
def _value(x):
    return (lambda x: x.value) if isinstance(x, Dual) else (lambda x: x)


@overload(slope, inline="always")
def _slope(x):
    return (lambda x: x.slope) if isinstance(x, Dual) else (lambda x: 0.0)


# Arithmetic ----------------------------------------------------------------------------------------------------------

Rule = Callable[[Any, Any], Any]


def _operation(operation: Callable, both: Rule, left: Rule, right: Rule) -> None:
    """Define a binary ``operation`` when both operands are dual, only the left one is, only the right one is."""

    @overload(operation)
    def of_duals(a, b):
        if isinstance(a, Dual):
            return both if isinstance(b, Dual) else left if _plain(b) else None
        return right if isinstance(b, Dual) and _plain(a) else None


def _plain(kind: Any) -> bool:
    return isinstance(kind, types.Number | types.Boolean | Tile)


_operation(
    operator.add,
    lambda a, b: dual(a.value + b.value, a.slope + b.slope),
    lambda a, b: dual(a.value + b, a.slope),
    lambda a, b: dual(a + b.value, b.slope),
)
_operation(
    operator.sub,
    lambda a, b: dual(a.value - b.value, a.slope - b.slope),
    lambda a, b: dual(a.value - b, a.slope),
    lambda a, b: dual(a - b.value, -b.slope),
)
_operation(
    operator.mul,
    lambda a, b: dual(a.value * b.value, a.slope * b.value + a.value * b.slope),
    lambda a, b: dual(a.value * b, a.slope * b),
    lambda a, b: dual(a * b.value, a * b.slope),
)
_operation(
    operator.truediv,
    lambda a, b: dual(a.value / b.value, (a.slope - a.value / b.value * b.slope) / b.value),
    lambda a, b: dual(a.value / b, a.slope / b),
    lambda a, b: dual(a / b.value, -(a / b.value) * b.slope / b.value),
)
_operation(
    max,
    lambda a, b: dual(max(a.value, b.value), where(a.value > b.value, a.slope, b.slope)),
    lambda a, b: dual(max(a.value, b), where(a.value > b, a.slope, 0.0)),
    lambda a, b: dual(max(a, b.value), where(b.value > a, b.slope, 0.0)),
)
_operation(
    min,
    lambda a, b: dual(min(a.value, b.value), where(a.value < b.value, a.slope, b.slope)),
    lambda a, b: dual(min(a.value, b), where(a.value < b, a.slope, 0.0)),
    lambda a, b: dual(min(a, b.value), where(b.value < a, b.slope, 0.0)),
)


def _of_several(operation: Callable) -> None:
    """``max`` or ``min`` of more than two, Tiles or dual numbers among them."""

    @overload(operation)
    def of_several(a, b, c, *more):
        if any(isinstance(kind, Dual | Tile) for kind in (a, b, c, *more)):
            return lambda a, b, c, *more: operation(operation(a, b), c, *more)
        return None


_of_several(max)
_of_several(min)
_operation(operator.lt, *[lambda a, b: value(a) < value(b)] * 3)
_operation(operator.le, *[lambda a, b: value(a) <= value(b)] * 3)
_operation(operator.gt, *[lambda a, b: value(a) > value(b)] * 3)
_operation(operator.ge, *[lambda a, b: value(a) >= value(b)] * 3)
_operation(operator.eq, *[lambda a, b: value(a) == value(b)] * 3)
_operation(operator.ne, *[lambda a, b: value(a) != value(b)] * 3)


@overload(operator.pow, prefer_literal=True)
def _power(a, b):
    if isinstance(a, Dual) and isinstance(b, types.IntegerLiteral):
        n, before = b.literal_value, b.literal_value - 1
        if n == 0:
            return lambda a, b: dual(a.value**n, 0.0)
        if n == 1:
            return lambda a, b: a
        return lambda a, b: dual(a.value**n, n * a.value**before * a.slope)
    if isinstance(a, Dual) and isinstance(b, types.Integer | types.Float):
        return lambda a, b: dual(a.value**b, b * a.value ** (b - 1.0) * a.slope)
    if isinstance(b, Dual) and (_plain(a) or isinstance(a, Dual)):
        return lambda a, b: math.exp(b * math.log(a))
    return None


@overload(operator.neg)
def _negative(x):
    if isinstance(x, Dual):
        return lambda x: dual(-x.value, -x.slope)


@overload(operator.pos)
def _positive(x):
    if isinstance(x, Dual):
        return lambda x: x


@overload(abs)
@overload(math.fabs)
def _absolute(x):
    if isinstance(x, Dual):
        return lambda x: dual(abs(x.value), where(x.value > 0.0, x.slope, where(x.value < 0.0, -x.slope, 0.0)))


@overload(math.floor)
def _floor(x):
    if isinstance(x, Dual):
        return lambda x: dual(math.floor(x.value), 0.0)


@overload(where)
def _where(condition, a, b):
    if isinstance(condition, Mask | types.Boolean) and (isinstance(a, Dual) or isinstance(b, Dual)):
        return lambda condition, a, b: dual(where(condition, value(a), value(b)), where(condition, slope(a), slope(b)))


# Functions: the slope of each in terms of its argument x and its result y ----------------------------------------------

SLOPES: dict[Callable, Rule] = {
    math.log: lambda x, y: 1.0 / x,
    math.log1p: lambda x, y: 1.0 / (1.0 + x),
    math.log2: lambda x, y: LOG2_E / x,
    math.log10: lambda x, y: LOG10_E / x,
    math.sqrt: lambda x, y: 0.5 / y,
    math.erf: lambda x, y: TWO_OVER_SQRT_PI * math.exp(-x * x),
    math.erfc: lambda x, y: -TWO_OVER_SQRT_PI * math.exp(-x * x),
    math.sin: lambda x, y: math.cos(x),
    math.cos: lambda x, y: -math.sin(x),
    math.tan: lambda x, y: 1.0 + y * y,
    math.asin: lambda x, y: 1.0 / math.sqrt(1.0 - x * x),
    math.acos: lambda x, y: -1.0 / math.sqrt(1.0 - x * x),
    math.atan: lambda x, y: 1.0 / (1.0 + x * x),
    math.sinh: lambda x, y: math.cosh(x),
    math.cosh: lambda x, y: math.sinh(x),
    math.tanh: lambda x, y: 1.0 - y * y,
    math.asinh: lambda x, y: 1.0 / math.sqrt(x * x + 1.0),
    math.acosh: lambda x, y: 1.0 / math.sqrt(x * x - 1.0),
    math.atanh: lambda x, y: 1.0 / (1.0 - x * x),
}


def _differentiate(function: Callable, rule: Rule) -> None:
    rule = register_jitable(rule)

    @overload(function)
    def of_dual(x):
        if not isinstance(x, Dual):
            return None

        def evaluated(x):
            y = function(x.value)
            return dual(y, rule(x.value, y) * x.slope)

        return evaluated


for _function, _rule in SLOPES.items():
    _differentiate(_function, _rule)


def _exponential(function: Callable, offset: float) -> None:
    """exp, and expm1 with offset 1. They stop short of infinity: then 1 / (1 + exp(-x)) has slope 0, not NaN, far from 0."""

    @overload(function)
    def of_dual(x):
        if not isinstance(x, Dual):
            return None
        highest = LARGEST_EXPONENT[(x.kind.dtype if isinstance(x.kind, Tile) else x.kind).bitwidth // 8]

        def evaluated(x):
            y = function(where(x.value > highest, highest, x.value))
            return dual(y, (y + offset) * x.slope)

        return evaluated


_exponential(math.exp, 0.0)
_exponential(math.expm1, 1.0)


if JIT_DISABLED:
    from .simd_python import dual, slope, value
