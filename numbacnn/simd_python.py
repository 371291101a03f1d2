"""What kernels are made of, in plain Python: used with ``NUMBA_DISABLE_JIT=1``, to step through kernels and to measure coverage.

The functions have the names and meaning of those in ``simd.py`` and ``dual.py``; a Tile is a small NumPy array. :func:`plain` makes a
kernel or a helper run on them. An access outside its array raises IndexError.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import math
import operator
import types as python_types
from collections.abc import Callable
from typing import Any

import numpy as np

from .simd import LANES

# Tiles ---------------------------------------------------------------------------------------------------------------


class PyTile:
    """A Tile: ``values`` has shape ``(rows, columns)``."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def __bool__(self) -> bool:
        raise TypeError("a comparison of Tiles is not one truth value: use where")

    def _with(self, values: np.ndarray) -> PyTile:
        """Other values of this kind."""
        return PyTile(values)

    def _number(self, other: Any) -> np.ndarray:
        """An operand in this Tile's type; whole numbers wrap."""
        if isinstance(other, PyTile):
            return other.values
        if self.values.dtype.kind in "iu":
            size = self.values.dtype.itemsize
            return np.array(int(other) % 2 ** (8 * size), f"u{size}").view(self.values.dtype)
        return np.asarray(other, self.values.dtype)


class PyMask(PyTile):
    """The outcome of comparing Tiles of numbers of type ``dtype``; its values are true or false."""

    def __init__(self, values: np.ndarray, dtype: np.dtype):
        super().__init__(values)
        self.dtype = dtype

    def _with(self, values: np.ndarray) -> PyMask:
        return PyMask(values, self.dtype)


def _binary(operation: Callable, of: str = "iufb") -> tuple[Callable, Callable]:
    """An operation, and the one for a Tile on the right, between values of the kinds ``of``."""

    def forward(self: PyTile, other: Any) -> Any:
        if isinstance(other, Dual) or self.values.dtype.kind not in of:
            return NotImplemented
        return self._with(operation(self.values, self._number(other)))

    def reflected(self: PyTile, other: Any) -> Any:
        return self._with(operation(self._number(other), self.values)) if self.values.dtype.kind in of else NotImplemented

    return forward, reflected


def _comparison_of_tiles(operation: Callable) -> Callable:
    def compare(self: PyTile, other: Any) -> Any:
        return NotImplemented if isinstance(other, Dual) else PyMask(operation(self.values, self._number(other)), self.values.dtype)

    return compare


def _unary(operation: Callable, of: str = "iuf") -> Callable:
    """A function of one Tile of values of the kinds ``of``."""

    def function(self: PyTile) -> PyTile:
        if self.values.dtype.kind not in of:
            raise TypeError(f"a Tile of {self.values.dtype} does not take {operation.__name__}")
        return PyTile(operation(self.values))

    return function


for _name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor", "lshift", "rshift"):
    _operation = getattr(operator, {"and": "and_", "or": "or_"}.get(_name, _name))
    for _prefix, _method in zip(("__", "__r"), _binary(_operation, of="f" if _name in ("truediv", "pow") else "iufb")):
        setattr(PyTile, f"{_prefix}{_name}__", _method)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(PyTile, f"__{_name}__", _comparison_of_tiles(getattr(operator, _name)))
for _name in ("neg", "pos", "abs"):
    setattr(PyTile, f"__{_name}__", _unary(getattr(operator, _name), of="f" if _name == "abs" else "iuf"))
PyTile.__hash__ = object.__hash__  # type: ignore[method-assign]


# Making and moving them ----------------------------------------------------------------------------------------------


def _flat(array: np.ndarray) -> np.ndarray:
    """All memory from an array's first element to its last, as one axis."""
    extent = 1 + sum((length - 1) * step for length, step in zip(array.shape, array.strides)) // array.itemsize if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (extent,), (array.itemsize,))


def _places(offset: int, row_stride: int, rows: int, count: int) -> np.ndarray:
    places = offset + np.arange(rows)[:, None] * row_stride + np.arange(count)
    if places.size and places.min() < 0:
        raise IndexError("a SIMD access lies before its array")
    return places


def zeros(like, rows, vectors):
    return PyTile(np.zeros((rows, vectors * LANES), like.dtype))


def splat(like, value, rows, vectors):
    return zeros(like, rows, vectors) + value


def columns(rows, vectors):
    return PyTile(np.tile(np.arange(vectors * LANES, dtype=np.uint32), (rows, 1)))


def load(array, offset, row_stride, rows, vectors):
    return PyTile(_flat(array)[_places(offset, row_stride, rows, vectors * LANES)])


def load_part(array, offset, row_stride, count, rows, vectors):
    tile = zeros(array, rows, vectors)
    count = builtins.min(count, vectors * LANES)
    tile.values[:, :count] = _flat(array)[_places(offset, row_stride, rows, count)]
    return tile


def store(tile, array, offset, row_stride):
    store_part(tile, array, offset, row_stride, tile.values.shape[1])


def store_part(tile, array, offset, row_stride, count):
    rows, width = tile.values.shape
    count = builtins.min(count, width)
    _flat(array)[_places(offset, row_stride, rows, count)] = tile.values[:, :count]


def outer(sums, a, a_offset, a_stride, b, b_offset):
    rows, width = sums.values.shape
    left = _flat(a)[_places(a_offset, a_stride, rows, 1)]
    return PyTile(sums.values + left * _flat(b)[_places(b_offset, 0, 1, width)])


@dataclasses.dataclass
class PyRows:
    """Places of rows of a flat array."""

    array: np.ndarray
    offset: int
    stride: int


def rows_of(array, offset, row_stride, rows, length):
    return PyRows(array, offset, row_stride)


def moved(rows, count):
    return PyRows(rows.array, rows.offset + count, rows.stride)


def outer_of(sums, rows, column, b, b_offset):
    return outer(sums, rows.array, rows.offset + column, rows.stride, b, b_offset)


def add_rows(sums, a, a_offset, tile):
    values = sums.values
    for factor, row in zip(_flat(a)[_places(a_offset, 1, len(tile.values), 1)], tile.values):
        values = values + factor * row
    return PyTile(values)


def prefetch(array, offset, row_stride, rows):
    pass


def prefetch_for_writing(array, offset, row_stride, rows):
    pass


def prefetch_later(array, offset, row_stride, rows):
    pass


def prefetch_once(array, offset, row_stride, rows):
    pass


def stride(array, axis):
    return array.strides[axis] // array.itemsize


def memory(array):
    return _flat(array)


def take(queue, amount):
    before = int(queue[0])
    queue[0] += amount
    return before


# Arithmetic ----------------------------------------------------------------------------------------------------------


def negative(tile):
    return -tile


def absolute(tile):
    return abs(tile)


square_root = _unary(np.sqrt, of="f")
floor = _unary(np.floor, of="f")


def power(a, b):
    return a**b


def fma(a, b, c):
    return a * b + c


def clamp(tile, low, high):
    values, dtype = tile.values, tile.values.dtype.type
    return PyTile(np.where(values < low, dtype(low), np.where(values > high, dtype(high), values)))


def bits(tile):
    return PyTile(tile.values.view(f"i{tile.values.itemsize}"))


def from_bits(tile):
    return PyTile(tile.values.view(f"f{tile.values.itemsize}"))


def convert(tile, like):
    return PyTile(tile.values.astype(like.values.dtype if isinstance(like, PyTile) else like.dtype))


def select(mask, a, b):
    return where(mask, a, b)


def where(condition, a, b):
    """``a`` where ``condition`` holds, else ``b``: for Tiles, dual numbers and numbers alike."""
    if isinstance(a, Dual) or isinstance(b, Dual):
        return Dual(where(condition, value(a), value(b)), where(condition, slope(a), slope(b)))
    if not isinstance(condition, PyMask):
        return a if condition else b
    tile = next((x for x in (a, b) if isinstance(x, PyTile)), PyTile(np.zeros(condition.values.shape, condition.dtype)))
    return PyTile(np.where(condition.values, tile._number(a), tile._number(b)))


def apply(function, x):
    """``function(x)``, element by element where a Tile cannot go through the function."""
    if not isinstance(x, PyTile):
        return function(x)
    try:
        result = function(x)
    except TypeError:
        return each(function, x)
    return result if isinstance(result, PyTile) else each(function, x)


def each(function, tile):
    results = [float(function(float(element))) for element in tile.values.ravel()]
    return PyTile(np.array(results, tile.values.dtype).reshape(tile.values.shape))


def transpose(tile):
    return PyTile(tile.values.T.copy())


def outer_of_pairs(sums, rows, column, b, b_offset):
    height, width = sums.values.shape
    pairs = _flat(rows.array)[_places(rows.offset + column, rows.stride, height, 2)]
    return PyTile(sums.values + np.tile(pairs, width // 2) * _flat(b)[_places(b_offset, 0, 1, width)])


def pair_sums(tile):
    rows, width = tile.values.shape
    result = PyTile(np.full((rows, -(-width // (2 * LANES)) * LANES), np.nan, tile.values.dtype))
    result.values[:, : width // 2] = tile.values[:, ::2] + tile.values[:, 1::2]
    return result


def interleaved(tile):
    return PyTile(tile.values.T.reshape(1, -1))


def row_sum(tile):
    return PyTile(tile.values.sum(0, keepdims=True))


def total(tile):
    return tile.values.sum()


def largest(tile):
    return tile.values.max()


OF_TILES: dict[str, Callable] = {"floor": floor, "square_root": square_root} | {
    function.__name__: function
    for function in (
        absolute, add_rows, apply, bits, clamp, columns, convert, each, fma, from_bits, largest, load, load_part, memory, moved,
        negative, outer, outer_of, power, prefetch, prefetch_for_writing, prefetch_later, prefetch_once, row_sum, rows_of,
        select, splat, store, store_part, stride, take, total, transpose, where, zeros,
    )
}  # fmt: skip
"""What takes the place of ``simd.py``'s functions, by name."""
OF_PAIRS: dict[str, Callable] = {function.__name__: function for function in (interleaved, outer_of_pairs, pair_sums)}
"""And of those of ``kernels/conv/pairs.py``."""


# Dual numbers --------------------------------------------------------------------------------------------------------


class Dual:
    """A value and its slope."""

    def __init__(self, value: Any, slope: Any):
        self.value, self.slope = value, slope

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    def __pos__(self) -> Dual:
        return self

    def __abs__(self) -> Dual:
        return Dual(abs(self.value), where(self.value > 0, self.slope, where(self.value < 0, -self.slope, 0.0)))


def dual(value, slope):
    tile = next((x for x in (value, slope) if isinstance(x, PyTile)), None)
    if tile is None:
        return Dual(value, slope)
    return Dual(*(PyTile(np.broadcast_to(tile._number(x), tile.values.shape)) for x in (value, slope)))


def value(x):
    return x.value if isinstance(x, Dual) else x


def slope(x):
    return x.slope if isinstance(x, Dual) else 0.0


def _quotient(a, b):
    return Dual(value(a) / value(b), (slope(a) - value(a) / value(b) * slope(b)) / value(b))


def _comparison(operation: Callable) -> Callable:
    return lambda a, b: operation(value(a), value(b))


def _power(a, b):
    if isinstance(b, Dual):
        return shim.exp(b * shim.log(a))
    if isinstance(b, int) and b in (0, 1):
        return a if b else Dual(a.value**0, 0.0)
    return Dual(a.value**b, b * a.value ** (b - 1) * a.slope)


for _name, _rule in {
    "add": lambda a, b: Dual(value(a) + value(b), slope(a) + slope(b)),
    "sub": lambda a, b: Dual(value(a) - value(b), slope(a) - slope(b)),
    "mul": lambda a, b: Dual(value(a) * value(b), slope(a) * value(b) + value(a) * slope(b)),
    "truediv": _quotient,
    "pow": _power,
}.items():
    setattr(Dual, f"__{_name}__", _rule)
    setattr(Dual, f"__r{_name}__", lambda b, a, rule=_rule: rule(a, b))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Dual, f"__{_name}__", _comparison(getattr(operator, _name)))
Dual.__hash__ = object.__hash__  # type: ignore[method-assign]


# math, max and min ---------------------------------------------------------------------------------------------------

_NUMPY_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
_FUNCTIONS = (
    "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "fabs", "floor", "erf", "erfc", "sin", "cos", "tan", "sinh", "cosh", "tanh",
    *_NUMPY_NAMES,
)  # fmt: skip


def _function(name: str) -> Callable:
    """A function of math on Tiles, dual numbers and numbers, which gives infinity and NaN where math raises."""
    on_array = getattr(np, _NUMPY_NAMES.get(name, name), None) or np.vectorize(getattr(math, name), otypes=[float])

    def of(x: Any) -> Any:
        if isinstance(x, PyTile):
            return PyTile(on_array(x.values).astype(x.values.dtype))
        if isinstance(x, Dual):
            return _of_dual(name, of, x)
        return math.floor(x) if name == "floor" else float(on_array(x))

    return of


def _of_dual(name: str, of: Callable, x: Dual) -> Dual:
    from .dual import LARGEST_EXPONENT, SLOPES

    if name == "fabs":
        return abs(x)
    if name == "floor":
        return Dual(of(x.value), 0.0)
    if name in ("exp", "expm1"):
        highest = LARGEST_EXPONENT[x.value.values.itemsize if isinstance(x.value, PyTile) else 8]
        y = of(where(x.value > highest, highest, x.value))
        return Dual(y, (y + (1.0 if name == "expm1" else 0.0)) * x.slope)
    y = of(x.value)
    return Dual(y, plain(SLOPES[getattr(math, name)])(x.value, y) * x.slope)


def _extreme(name: str) -> Callable:
    on_array, sign = {"max": (np.maximum, operator.gt), "min": (np.minimum, operator.lt)}[name]

    def of(*given: Any) -> Any:
        if not any(isinstance(x, PyTile | Dual) for x in given):
            return getattr(builtins, name)(*given)
        if len(given) > 2:
            return functools.reduce(of, given)
        a, b = given
        if isinstance(a, Dual) or isinstance(b, Dual):
            a_wins = sign(value(a), value(b))
            slopes = (slope(a), slope(b))
            if isinstance(b, Dual) and not isinstance(a, Dual):
                slopes = (0.0, where(sign(b.value, a), b.slope, 0.0))
            return Dual(of(value(a), value(b)), where(a_wins, *slopes))
        tile = a if isinstance(a, PyTile) else b
        return PyTile(on_array(tile._number(a), tile._number(b)))

    return of


shim = python_types.ModuleType("numbacnn.simd_python.math", "math, for Tiles and dual numbers too.")
shim.__dict__.update({name: thing for name, thing in vars(math).items() if not name.startswith("__")})
_BUILTINS = {"max": _extreme("max"), "min": _extreme("min")}
shim.__dict__.update({name: _function(name) for name in _FUNCTIONS} | _BUILTINS)
_TWINS = {math: shim, builtins.max: _BUILTINS["max"], builtins.min: _BUILTINS["min"]}
_TWINS |= {getattr(math, name): getattr(shim, name) for name in _FUNCTIONS}


def plain(function: Callable) -> Callable:
    """The function in plain Python: math, max and min in it take Tiles, and arithmetic gives infinity and NaN as compiled code does."""
    twins: list[Callable] = []

    @functools.wraps(function)
    def call(*given: Any) -> Any:
        if not twins:  # at the first call, when its module is complete
            twins.append(_twin(function))
        with np.errstate(all="ignore"):
            return twins[0](*given)

    return call


def _twin(function: Callable) -> Callable:
    names = {name: _replacement(thing) for name, thing in function.__globals__.items()}
    closure = tuple(_replaced_cell(cell) for cell in function.__closure__ or ())
    return python_types.FunctionType(function.__code__, _BUILTINS | names, function.__name__, function.__defaults__, closure)


def _replaced_cell(cell: python_types.CellType) -> python_types.CellType:
    try:
        return python_types.CellType(_replacement(cell.cell_contents))
    except ValueError:  # empty: a name that has no value yet
        return cell


def _replacement(thing: Any) -> Any:
    try:
        return _TWINS.get(thing, thing)
    except TypeError:  # not hashable, so not one of them
        return thing
