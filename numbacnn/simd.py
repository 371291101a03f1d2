"""SIMD values inside kernels: the only file that writes LLVM IR for the CPU.

A *Tile* is ``rows x vectors`` SIMD vectors of :data:`LANES` elements. As a value, not an array, it lives in registers,
through loops too. A kernel is a plain Python loop over :func:`load`, :func:`outer`, :func:`store` and arithmetic::

    sums = zeros(c, ROWS, VECTORS)
    for p in range(depth):
        sums = outer(sums, a, row + p, row_stride, b, panel + p * WIDTH)
    store(sums, c, at, stride)

Arrays are addressed by an offset in elements from their first element, whatever their number of axes; strides are in
elements too (:func:`stride`). ``rows`` and ``vectors`` are literal numbers or constants of an enclosing factory.
Comparisons give a *Mask*, which :func:`where` takes. A Tile of integers takes ``+ - *``, bit operations, comparisons, ``max`` and ``min``;
division and functions are for floats. With ``NUMBA_DISABLE_JIT=1`` the same names come from
``simd_python.py``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.core.errors import NumbaError
from numba.core.imputils import lower_builtin
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import populate_array

JIT_DISABLED = bool(numba_config.DISABLE_JIT)
_FLAGS = ("contract", "nsz")
_i32, _i64 = ir.IntType(32), ir.IntType(64)


def _vector_bits() -> int:
    """Width of the SIMD registers of the CPU that Numba compiles for, found by compiling one addition for it."""
    wide = "<16 x float>"
    text = f"define {wide} @f({wide} %a, {wide} %b) {{ %c = fadd {wide} %a, %b\n ret {wide} %c }}"
    assembly = cpu_target.target_context.codegen()._tm.emit_assembly(binding.parse_assembly(text))
    return 512 if "zmm" in assembly else 256 if "ymm" in assembly else 128


VECTOR_BITS = _vector_bits()
LANES = VECTOR_BITS // 32
"""float32 elements per SIMD register. A float64 Tile has as many lanes, in two registers."""


# Types ---------------------------------------------------------------------------------------------------------------


class Tile(types.Type):
    """Numba type of ``rows x vectors`` SIMD vectors of numbers of type ``dtype``."""

    def __init__(self, dtype: Any, rows: int, vectors: int):
        self.dtype, self.rows, self.vectors = dtype, rows, vectors
        super().__init__(f"Tile({dtype}, {rows}, {vectors}, {LANES})")

    def with_rows(self, rows: int) -> Tile:
        return Tile(self.dtype, rows, self.vectors)

    @property
    def mask(self) -> Mask:
        return Mask(self.dtype, self.rows, self.vectors)

    def vector(self, context: Any) -> ir.VectorType:
        return ir.VectorType(context.get_value_type(self.dtype), LANES)


class Mask(types.Type):
    """Numba type of the outcome of comparing two Tiles of numbers of type ``dtype``."""

    def __init__(self, dtype: Any, rows: int, vectors: int):
        self.dtype, self.rows, self.vectors = dtype, rows, vectors
        super().__init__(f"Mask({dtype}, {rows}, {vectors}, {LANES})")


class Rows(types.Type):
    """Numba type of the places in memory of a matrix's rows, of elements of type ``dtype``: :data:`ROWS_PER_BASE` rows for each address."""

    def __init__(self, dtype: Any, bases: int):
        self.dtype, self.bases = dtype, bases
        super().__init__(f"Rows({dtype}, {bases})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile):
        element = manager.lookup(tile.dtype).get_value_type()
        super().__init__(manager, tile, ir.ArrayType(ir.VectorType(element, LANES), tile.rows * tile.vectors))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, mask: Mask):
        super().__init__(manager, mask, ir.ArrayType(ir.VectorType(ir.IntType(1), LANES), mask.rows * mask.vectors))


@register_model(Rows)
class _RowsModel(models.PrimitiveModel):
    """Addresses, and the distance between rows in bytes."""

    def __init__(self, manager: Any, rows: Rows):
        super().__init__(manager, rows, ir.ArrayType(_i64, rows.bases + 1))


# Helpers for writing IR ----------------------------------------------------------------------------------------------


def _literal(*values: Any) -> bool:
    return all(isinstance(v, types.IntegerLiteral) for v in values)


def _is_float(dtype: Any) -> bool:
    return isinstance(dtype, types.Float)


def _constant(vector: ir.VectorType, value: Any) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _splat(builder: Any, scalar: Any) -> Any:
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_i32, 0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES))


def _call(builder: Any, name: str, vector: Any, *operands: Any) -> Any:
    """LLVM's intrinsic ``name`` on vectors of one type."""
    kind = ir.FunctionType(vector, [vector] * len(operands))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{_suffix(vector)}"), operands)


def _suffix(vector: ir.VectorType) -> str:
    element = {"float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    return f"v{vector.count}{element}"


def tile_value(context: Any, builder: Any, tile: Any, vectors: list) -> Any:
    """For code generation: the value of a Tile or Mask from its vectors."""
    value: Any = ir.Constant(context.get_value_type(tile), ir.Undefined)
    for index, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, index)
    return value


def _vectors(builder: Any, tile: Any, value: Any) -> list:
    return [builder.extract_value(value, k) for k in range(tile.rows * tile.vectors)]


def _scalar(context: Any, builder: Any, value: Any, given: Any, wanted: Any) -> Any:
    return context.cast(builder, value, given, wanted)


def _element_pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _vector_pointer(builder: Any, pointer: Any, row_stride: Any, row: int, vector: int) -> Any:
    offset = builder.add(builder.mul(row_stride, ir.Constant(_i64, row)), ir.Constant(_i64, vector * LANES))
    element = builder.gep(pointer, [offset])
    return builder.bitcast(element, ir.VectorType(pointer.type.pointee, LANES).as_pointer())


def _check_bounds(context: Any, builder: Any, array_type: Any, array: Any, first: Any, last: Any) -> None:
    """With NUMBA_BOUNDSCHECK=1: raise IndexError unless elements first..last lie in the array."""
    if not numba_config.BOUNDSCHECK:
        return
    view = context.make_array(array_type)(context, builder, array)
    shape = cgutils.unpack_tuple(builder, view.shape, array_type.ndim)
    strides = cgutils.unpack_tuple(builder, view.strides, array_type.ndim)
    extent: Any = ir.Constant(_i64, 0)
    for length, step in zip(shape, strides):
        extent = builder.add(extent, builder.mul(builder.sub(length, ir.Constant(_i64, 1)), step))
    extent = builder.sdiv(extent, view.itemsize)
    below = builder.icmp_signed("<", first, ir.Constant(_i64, 0))
    above = builder.icmp_signed(">", last, extent)
    with builder.if_then(builder.or_(below, above), likely=False):
        context.call_conv.return_user_exc(builder, IndexError, ("a SIMD access lies outside its array",))


def _last_offset(builder: Any, offset: Any, row_stride: Any, rows: int, columns: Any) -> Any:
    """Offset of the last element of a tile whose row stride is not negative."""
    within = builder.add(builder.mul(row_stride, ir.Constant(_i64, rows - 1)), builder.sub(columns, ir.Constant(_i64, 1)))
    return builder.add(offset, within)


def _column_mask(builder: Any, count: Any, vector: int) -> Any:
    """Which lanes of the given vector of a row lie before column ``count``."""
    lanes = ir.Constant(ir.VectorType(_i32, LANES), [vector * LANES + k for k in range(LANES)])
    return builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, _i32)))


# Making and moving tiles ---------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def zeros(typing_context, like, rows, vectors):
    """A Tile of zeros of the data type of the array ``like``."""
    if not _literal(rows, vectors):
        return None
    tile = Tile(like.dtype, rows.literal_value, vectors.literal_value)

    def generate(context, builder, sig, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(like, rows, vectors), generate


@intrinsic(prefer_literal=True)
def splat(typing_context, like, value, rows, vectors):
    """A Tile, of the data type of the array ``like``, with ``value`` everywhere."""
    if not _literal(rows, vectors):
        return None
    tile = Tile(like.dtype, rows.literal_value, vectors.literal_value)

    def generate(context, builder, sig, args):
        vector = _splat(builder, _scalar(context, builder, args[1], sig.args[1], tile.dtype))
        return tile_value(context, builder, tile, [vector] * (tile.rows * tile.vectors))

    return tile(like, types.unliteral(value), rows, vectors), generate


@intrinsic(prefer_literal=True)
def columns(typing_context, rows, vectors):
    """The Tile of unsigned 32-bit integers in which every element is the number of its column."""
    if not _literal(rows, vectors):
        return None
    tile = Tile(types.uint32, rows.literal_value, vectors.literal_value)

    def generate(context, builder, sig, args):
        row = [ir.Constant(tile.vector(context), [vector * LANES + k for k in range(LANES)]) for vector in range(tile.vectors)]
        return tile_value(context, builder, tile, row * tile.rows)

    return tile(rows, vectors), generate


@intrinsic(prefer_literal=True)
def load(typing_context, array, offset, row_stride, rows, vectors):
    """The Tile at ``offset``, rows ``row_stride`` apart; 0 repeats one row."""
    if not _literal(rows, vectors):
        return None
    tile = Tile(array.dtype, rows.literal_value, vectors.literal_value)

    def generate(context, builder, sig, args):
        _check_bounds(
            context, builder, sig.args[0], args[0], args[1],
            _last_offset(builder, args[1], args[2], tile.rows, ir.Constant(_i64, tile.vectors * LANES)),
        )  # fmt: skip
        pointer = _element_pointer(context, builder, sig.args[0], args[0], args[1])
        align = context.get_abi_sizeof(context.get_data_type(tile.dtype))
        return tile_value(context, builder, tile, [
            builder.load(_vector_pointer(builder, pointer, args[2], row, vector), align=align)
            for row in range(tile.rows) for vector in range(tile.vectors)
        ])  # fmt: skip

    return tile(array, types.intp, types.intp, rows, vectors), generate


@intrinsic(prefer_literal=True)
def load_part(typing_context, array, offset, row_stride, count, rows, vectors):
    """As :func:`load`, but only the first ``count`` columns; the others are zero and not read."""
    if not _literal(rows, vectors):
        return None
    tile = Tile(array.dtype, rows.literal_value, vectors.literal_value)

    def generate(context, builder, sig, args):
        _check_bounds(context, builder, sig.args[0], args[0], args[1], _last_offset(builder, args[1], args[2], tile.rows, args[3]))
        pointer = _element_pointer(context, builder, sig.args[0], args[0], args[1])
        align = context.get_abi_sizeof(context.get_data_type(tile.dtype))
        vector_type = tile.vector(context)
        suffix = _suffix(vector_type)
        mask_type = ir.VectorType(ir.IntType(1), LANES)
        kind = ir.FunctionType(vector_type, [vector_type.as_pointer(), _i32, mask_type, vector_type])
        read = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.{suffix}.p0")
        masks = [_column_mask(builder, args[3], vector) for vector in range(tile.vectors)]
        return tile_value(context, builder, tile, [
            builder.call(read, [
                _vector_pointer(builder, pointer, args[2], row, vector), ir.Constant(_i32, align), masks[vector],
                ir.Constant(vector_type, None),
            ])
            for row in range(tile.rows) for vector in range(tile.vectors)
        ])  # fmt: skip

    return tile(array, types.intp, types.intp, types.intp, rows, vectors), generate


@intrinsic
def store(typing_context, tile, array, offset, row_stride):
    """Write the Tile at ``offset``, rows ``row_stride`` apart."""

    def generate(context, builder, sig, args):
        columns = ir.Constant(_i64, tile.vectors * LANES)
        _check_bounds(context, builder, sig.args[1], args[1], args[2], _last_offset(builder, args[2], args[3], tile.rows, columns))
        pointer = _element_pointer(context, builder, sig.args[1], args[1], args[2])
        align = context.get_abi_sizeof(context.get_data_type(tile.dtype))
        for k, vector in enumerate(_vectors(builder, tile, args[0])):
            builder.store(vector, _vector_pointer(builder, pointer, args[3], *divmod(k, tile.vectors)), align=align)
        return context.get_dummy_value()

    return types.void(tile, array, types.intp, types.intp), generate


@intrinsic
def store_part(typing_context, tile, array, offset, row_stride, count):
    """As :func:`store`, but only the first ``count`` columns."""

    def generate(context, builder, sig, args):
        _check_bounds(context, builder, sig.args[1], args[1], args[2], _last_offset(builder, args[2], args[3], tile.rows, args[4]))
        pointer = _element_pointer(context, builder, sig.args[1], args[1], args[2])
        vectors = _vectors(builder, tile, args[0])
        places = [_vector_pointer(builder, pointer, args[3], *divmod(k, tile.vectors)) for k in range(len(vectors))]
        if tile.rows > 1 and tile.vectors == 1:
            _store_rows(context, builder, tile, vectors, places, args[3], args[4])
            return context.get_dummy_value()
        for k, (vector, place) in enumerate(zip(vectors, places)):
            _store_columns(context, builder, tile, vector, place, builder.sub(args[4], ir.Constant(_i64, k % tile.vectors * LANES)))
        return context.get_dummy_value()

    return types.void(tile, array, types.intp, types.intp, types.intp), generate


def _store_rows(context: Any, builder: Any, tile: Tile, vectors: list, places: list, row_stride: Any, count: Any) -> None:
    """Write the first ``count`` columns of rows of one vector. Where the next row follows right behind, it may overwrite what is too much,
    but for the last rows."""
    dense = builder.and_(builder.icmp_signed("==", row_stride, count), builder.icmp_signed(">=", count, ir.Constant(_i64, LANES // 2)))
    align = context.get_abi_sizeof(context.get_data_type(tile.dtype))
    with builder.if_else(dense) as (follows, apart):
        with follows:
            for vector, place in zip(vectors[:-1], places):
                builder.store(vector, place, align=align)
            _store_columns(context, builder, tile, vectors[-1], places[-1], count)
        with apart:
            for vector, place in zip(vectors, places):
                _store_columns(context, builder, tile, vector, place, count)


def _store_columns(context: Any, builder: Any, tile: Tile, vector: Any, place: Any, count: Any) -> None:
    """Write the first ``count`` lanes, if there are any, of a vector: in halves, since some CPUs take long for masked stores."""
    align = context.get_abi_sizeof(context.get_data_type(tile.dtype))
    element = context.get_value_type(tile.dtype)
    place = builder.bitcast(place, element.as_pointer())
    whole = builder.icmp_signed(">=", count, ir.Constant(_i64, LANES))
    with builder.if_else(whole) as (all_lanes, some):
        with all_lanes:
            builder.store(vector, builder.bitcast(place, vector.type.as_pointer()), align=align)
        with some:
            written, width = ir.Constant(_i64, 0), LANES // 2
            while width:
                enough = builder.icmp_signed(">=", count, builder.add(written, ir.Constant(_i64, width)))
                kind = ir.VectorType(element, width)
                with builder.if_then(enough):
                    low = builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_i32, width), list(range(width))))
                    builder.store(low, builder.bitcast(builder.gep(place, [written]), kind.as_pointer()), align=align)
                rest = ir.Constant(ir.VectorType(_i32, LANES), [(k + width) % LANES for k in range(LANES)])
                vector = builder.select(enough, builder.shuffle_vector(vector, vector, rest), vector)
                written = builder.select(enough, builder.add(written, ir.Constant(_i64, width)), written)
                width //= 2


@intrinsic
def outer(typing_context, sums, a, a_offset, a_stride, b, b_offset):
    """``sums[i][j] += a[a_offset + i * a_stride] * b[b_offset + j-th vector]`` of floats: one step of a matrix product."""
    if not isinstance(sums, Tile) or not _is_float(sums.dtype):
        return None

    def generate(context, builder, sig, args):
        tile = sig.args[0]
        _check_bounds(
            context, builder, sig.args[1], args[1], args[2], _last_offset(builder, args[2], args[3], tile.rows, ir.Constant(_i64, 1))
        )
        _check_bounds(context, builder, sig.args[4], args[4], args[5], builder.add(args[5], ir.Constant(_i64, tile.vectors * LANES - 1)))
        align = context.get_abi_sizeof(context.get_data_type(tile.dtype))
        vector_type = tile.vector(context)
        a_pointer = _element_pointer(context, builder, sig.args[1], args[1], args[2])
        b_pointer = _element_pointer(context, builder, sig.args[4], args[4], args[5])
        zero = ir.Constant(_i64, 0)
        columns = [builder.load(_vector_pointer(builder, b_pointer, zero, 0, j), align=align) for j in range(tile.vectors)]
        value = args[0]
        for i in range(tile.rows):
            row = _splat(builder, builder.load(builder.gep(a_pointer, [builder.mul(args[3], ir.Constant(_i64, i))])))
            for j, column in enumerate(columns):
                k = i * tile.vectors + j
                value = builder.insert_value(value, _call(builder, "fmuladd", vector_type, row, column, builder.extract_value(value, k)), k)
        return value

    return sums(sums, a, types.intp, types.intp, b, types.intp), generate


def _hidden(builder: Any, number: Any) -> Any:
    """The number, in a register, without LLVM's seeing what it is."""
    return builder.asm(ir.FunctionType(_i64, [_i64]), "", "=r,0", [number], side_effect=False)


ROWS_PER_BASE = 3  # an instruction adds nothing, the distance, or twice the distance to an address


@intrinsic(prefer_literal=True)
def rows_of(typing_context, array, offset, row_stride, rows, length):
    """The places of ``rows`` rows of ``length`` elements at ``array[offset + i * row_stride]``, for :func:`outer_of`.

    LLVM is kept from seeing how the addresses are related: it would compute each row's from the one before, for which there are too few
    registers."""
    if not _literal(rows):
        return None
    result = Rows(array.dtype, -(-rows.literal_value // ROWS_PER_BASE))

    def generate(context, builder, sig, args):
        _check_bounds(context, builder, sig.args[0], args[0], args[1], _last_offset(builder, args[1], args[2], rows.literal_value, args[4]))
        size = ir.Constant(_i64, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        first = builder.ptrtoint(_element_pointer(context, builder, sig.args[0], args[0], args[1]), _i64)
        step = builder.mul(args[2], size)
        bases = [builder.add(first, builder.mul(step, ir.Constant(_i64, ROWS_PER_BASE * base))) for base in range(result.bases)]
        value = ir.Constant(ir.ArrayType(_i64, result.bases + 1), ir.Undefined)
        for place, number in enumerate([*bases, step]):
            value = builder.insert_value(value, _hidden(builder, number), place)
        return value

    return result(array, types.intp, types.intp, rows, types.intp), generate


@intrinsic(prefer_literal=True)
def moved(typing_context, rows, count):
    """The places ``count`` elements further on."""
    if not isinstance(rows, Rows) or not _literal(count):
        return None

    def generate(context, builder, sig, args):
        distance = ir.Constant(_i64, count.literal_value * context.get_abi_sizeof(context.get_data_type(rows.dtype)))
        value = args[0]
        for base in range(rows.bases):
            value = builder.insert_value(value, _hidden(builder, builder.add(builder.extract_value(value, base), distance)), base)
        return value

    return rows(rows, count), generate


@intrinsic(prefer_literal=True)
def outer_of(typing_context, sums, rows, column, b, b_offset):
    """``sums[i][j] += rows[i][column] * b[b_offset + j-th vector]`` of floats, as :func:`outer`."""
    return outer_by(sums, rows, column, b, lambda builder, place: _splat(builder, builder.load(place, align=rows.dtype.bitwidth // 8)))


def outer_by(sums: Any, rows: Any, column: Any, b: Any, spread: Callable) -> Any:
    """For code generation: :func:`outer_of`, with the vector that ``spread`` makes of each row's element, or of what begins there."""
    if not (isinstance(sums, Tile) and isinstance(rows, Rows) and _literal(column)):
        return None

    def generate(context, builder, sig, args):
        tile = sig.args[0]
        _check_bounds(context, builder, sig.args[3], args[3], args[4], builder.add(args[4], ir.Constant(_i64, tile.vectors * LANES - 1)))
        size = context.get_abi_sizeof(context.get_data_type(tile.dtype))
        vector_type, element = tile.vector(context), context.get_value_type(rows.dtype).as_pointer()
        pointer, zero = _element_pointer(context, builder, sig.args[3], args[3], args[4]), ir.Constant(_i64, 0)
        columns = [builder.load(_vector_pointer(builder, pointer, zero, 0, j), align=size) for j in range(tile.vectors)]
        step = builder.extract_value(args[1], rows.bases)
        value = args[0]
        for i in range(tile.rows):
            base, further = divmod(i, ROWS_PER_BASE)
            place = builder.add(builder.extract_value(args[1], base), builder.mul(step, ir.Constant(_i64, further)))
            place = builder.add(place, ir.Constant(_i64, column.literal_value * size))
            row = spread(builder, builder.inttoptr(place, element))
            for j, each in enumerate(columns):
                k = i * tile.vectors + j
                value = builder.insert_value(value, _call(builder, "fmuladd", vector_type, row, each, builder.extract_value(value, k)), k)
        return value

    return sums(sums, rows, column, b, types.intp), generate


@intrinsic
def add_rows(typing_context, sums, a, a_offset, tile):
    """``sums[0][j] += a[a_offset + i] * tile[i][j]`` of floats for each row ``i`` of the Tile, one after the other."""
    if not (isinstance(sums, Tile) and isinstance(tile, Tile)) or not _is_float(sums.dtype) or tile.with_rows(1) != sums:
        return None

    def generate(context, builder, sig, args):
        tile, one = sig.args[3], ir.Constant(_i64, 1)
        _check_bounds(context, builder, sig.args[1], args[1], args[2], _last_offset(builder, args[2], one, tile.rows, one))
        pointer = _element_pointer(context, builder, sig.args[1], args[1], args[2])
        rows = _vectors(builder, tile, args[3])
        columns = _vectors(builder, sums, args[0])
        for i in range(tile.rows):
            factor = _splat(builder, builder.load(builder.gep(pointer, [ir.Constant(_i64, i)])))
            for j in range(tile.vectors):
                columns[j] = _call(builder, "fmuladd", tile.vector(context), factor, rows[i * tile.vectors + j], columns[j])
        return tile_value(context, builder, sums, columns)

    return sums(sums, a, types.intp, tile), generate


@intrinsic(prefer_literal=True)
def prefetch(typing_context, array, offset, row_stride, rows):
    """Ask for the cache lines of the elements at ``offset + i * row_stride``, ``i < rows``, which will be read soon. They may lie outside
    of the array."""
    return _prefetched(array, rows, writing=False)


@intrinsic(prefer_literal=True)
def prefetch_for_writing(typing_context, array, offset, row_stride, rows):
    """As :func:`prefetch`, of elements that will be written: other cores' caches give the lines up."""
    return _prefetched(array, rows, writing=True)


@intrinsic(prefer_literal=True)
def prefetch_later(typing_context, array, offset, row_stride, rows):
    """As :func:`prefetch`, of elements that will be read after much else: only the second-level cache gets the lines."""
    return _prefetched(array, rows, writing=False, level=2)


@intrinsic(prefer_literal=True)
def prefetch_once(typing_context, array, offset, row_stride, rows):
    """As :func:`prefetch`, of elements that will be read once and not soon again: they leave the last-level cache to others."""
    return _prefetched(array, rows, writing=False, level=0)


def _prefetched(array: Any, rows: Any, writing: bool, level: int = 3) -> Any:
    if not _literal(rows):
        return None

    def generate(context, builder, sig, args):
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _i32, _i32, _i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        purpose, levels, data = ir.Constant(_i32, int(writing)), ir.Constant(_i32, level), ir.Constant(_i32, 1)
        first = _element_pointer(context, builder, sig.args[0], args[0], args[1])
        for row in range(rows.literal_value):
            place = builder.gep(first, [builder.mul(args[2], ir.Constant(_i64, row))])
            builder.call(function, [builder.bitcast(place, byte), purpose, levels, data])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, rows), generate


@intrinsic
def stride(typing_context, array, axis):
    """Distance in elements between neighbours along ``axis``."""

    def generate(context, builder, sig, args):
        view = context.make_array(sig.args[0])(context, builder, args[0])
        strides = cgutils.unpack_tuple(builder, view.strides, array.ndim)
        size = context.get_abi_sizeof(context.get_data_type(array.dtype))
        return builder.sdiv(strides[axis.literal_value], ir.Constant(_i64, size), flags=("exact",))

    if not _literal(axis):
        return None
    return types.intp(array, axis), generate


@intrinsic
def memory(typing_context, array):
    """The elements from the first to the last one of an array, with what lies between them, as an array of one axis."""
    line = types.Array(array.dtype, 1, "C")

    def generate(context, builder, sig, args):
        view = context.make_array(sig.args[0])(context, builder, args[0])
        size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        elements = context.get_constant(types.intp, 1)
        for length, step in zip(cgutils.unpack_tuple(builder, view.shape), cgutils.unpack_tuple(builder, view.strides)):
            last = builder.mul(builder.sub(length, context.get_constant(types.intp, 1)), builder.sdiv(step, size, flags=("exact",)))
            elements = builder.add(elements, last)
        result = context.make_array(line)(context, builder)
        populate_array(result, view.data, [elements], [size], size, None)
        return result._getvalue()

    return line(array), generate


@intrinsic
def take(typing_context, queue, amount):
    """Add ``amount`` to the int64 in front of an array, atomically, and give its old value: a work queue for the threads of a launch."""

    def generate(context, builder, sig, args):
        first = _element_pointer(context, builder, sig.args[0], args[0], ir.Constant(_i64, 0))
        return builder.atomic_rmw("add", first, args[1], "monotonic")

    return types.int64(queue, types.int64), generate


# Arithmetic ----------------------------------------------------------------------------------------------------------


def _map(context: Any, builder: Any, result: Any, function: Any, tiles: list, values: Any) -> Any:
    columns = zip(*(_vectors(builder, tile, value) for tile, value in zip(tiles, values)))
    return tile_value(context, builder, result, [function(*column) for column in columns])


def _number(kind: Any) -> bool:
    return isinstance(kind, (types.Float, types.Integer, types.Boolean))


def widened(context: Any, builder: Any, tile: Tile, value: Any, kind: Any) -> Any:
    """For code generation: a Tile's value as it is, a number's spread over a Tile of type ``tile``."""
    if isinstance(kind, Tile):
        return value
    vector = _splat(builder, _scalar(context, builder, value, types.unliteral(kind), tile.dtype))
    return tile_value(context, builder, tile, [vector] * (tile.rows * tile.vectors))


def _operands(args: tuple) -> Tile | None:
    """The common Tile type of two operands, one of which may be a number."""
    if len(args) != 2:
        return None
    a, b = args
    if isinstance(a, Tile) and (a == b or _number(b)):
        return a
    if isinstance(b, Tile) and _number(a):
        return b
    return None


def _binary(operation: Any, function: Any, gives_mask: bool = False, of: Any = types.Number) -> None:
    """Define ``operation`` between Tiles of numbers of kind ``of``, and between such a Tile and a number, by an IR generator of two
    vectors."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            tile = _operands(args)
            if tile is not None and isinstance(tile.dtype, of):
                return signature(tile.mask if gives_mask else tile, *map(types.unliteral, args))
            return None

    infer_global(operation)(Template)

    def lower(context, builder, sig, args):
        tile = _operands(sig.args)
        values = [widened(context, builder, tile, value, kind) for value, kind in zip(args, sig.args)]
        return _map(context, builder, sig.return_type, lambda a, b: function(builder, tile.dtype, a, b), [tile, tile], values)

    for left, right in ((Tile, Tile), (Tile, types.Number), (types.Number, Tile), (Tile, types.Boolean), (types.Boolean, Tile)):
        lower_builtin(operation, left, right)(lower)


def _arithmetic(name: str) -> Any:
    def function(builder, dtype, a, b):
        if _is_float(dtype):
            return getattr(builder, "f" + name)(a, b, flags=_FLAGS)
        return getattr(builder, name)(a, b)

    return function


def _comparison(sign: str) -> Any:
    def function(builder, dtype, a, b):
        if not _is_float(dtype):
            return _compare_integers(builder, sign, dtype, a, b)
        return builder.fcmp_unordered(sign, a, b) if sign == "!=" else builder.fcmp_ordered(sign, a, b)

    return function


def _compare_integers(builder: Any, sign: str, dtype: Any, a: Any, b: Any) -> Any:
    return (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(sign, a, b)


def _extreme(sign: str) -> Any:
    def function(builder, dtype, a, b):
        """Not a number wins on either side, as in NumPy and PyTorch."""
        if not _is_float(dtype):
            return builder.select(_compare_integers(builder, sign, dtype, a, b), a, b)
        kept = builder.select(builder.fcmp_unordered(sign, a, b), a, b)  # with a constant for b, the next line vanishes
        return builder.select(builder.fcmp_unordered("uno", b, b), b, kept)

    return function


for _operation, _name in ((operator.add, "add"), (operator.sub, "sub"), (operator.mul, "mul")):
    _binary(_operation, _arithmetic(_name))
_binary(operator.truediv, _arithmetic("div"), of=types.Float)
for _operation, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _binary(_operation, _comparison(_sign), gives_mask=True)
for _operation, _sign in ((max, ">"), (min, "<")):
    _binary(_operation, _extreme(_sign))


def _bitwise(name: str) -> Any:
    def function(builder, dtype, a, b):
        if name == "shr":
            return builder.ashr(a, b) if dtype.signed else builder.lshr(a, b)
        return getattr(builder, name)(a, b)

    return function


for _operation, _name in (
    (operator.and_, "and_"), (operator.or_, "or_"), (operator.xor, "xor"), (operator.lshift, "shl"), (operator.rshift, "shr"),
):  # fmt: skip
    _binary(_operation, _bitwise(_name), of=types.Integer)


def _unary(name: str, function: Any, of: Any = types.Float) -> Any:
    """An intrinsic on one Tile of numbers of kind ``of`` by an IR generator of one vector."""

    def typer(typing_context, tile):
        if not isinstance(tile, Tile) or not isinstance(tile.dtype, of):
            return None

        def generate(context, builder, sig, args):
            return _map(context, builder, tile, lambda a: function(builder, tile.vector(context), a), [tile], args)

        return tile(tile), generate

    typer.__name__ = typer.__qualname__ = name
    return intrinsic(typer)


negative = _unary(
    "negative",
    lambda builder, vector, a: builder.fneg(a) if str(vector.element) in ("float", "double") else builder.neg(a),
    of=types.Number,
)
absolute = _unary("absolute", lambda builder, vector, a: _call(builder, "fabs", vector, a))
square_root = _unary("square_root", lambda builder, vector, a: _call(builder, "sqrt", vector, a))
floor = _unary("floor", lambda builder, vector, a: _call(builder, "floor", vector, a))


@intrinsic
def bits(typing_context, tile):
    """The bits of a Tile of floats, as signed integers of the same size."""
    return _reinterpreted(tile, {types.float32: types.int32, types.float64: types.int64})


@intrinsic
def from_bits(typing_context, tile):
    """The Tile of floats whose :func:`bits` are given."""
    return _reinterpreted(tile, {types.int32: types.float32, types.int64: types.float64})


def _reinterpreted(tile: Any, twins: dict) -> Any:
    if not isinstance(tile, Tile) or tile.dtype not in twins:
        return None
    result = Tile(twins[tile.dtype], tile.rows, tile.vectors)

    def generate(context, builder, sig, args):
        return _map(context, builder, result, lambda a: builder.bitcast(a, result.vector(context)), [tile], args)

    return result(tile), generate


@intrinsic
def convert(typing_context, tile, like):
    """The numbers of a Tile in the data type of ``like``, an array or a Tile. Integers become the nearest float."""
    if not isinstance(tile, Tile) or not isinstance(like, (Tile, types.Array)):
        return None
    result = Tile(like.dtype, tile.rows, tile.vectors)
    before, after = tile.dtype, like.dtype
    if before == after:
        name = "bitcast"
    elif _is_float(before):
        if not _is_float(after):
            return None  # out of range there is no right answer
        name = "fpext" if after.bitwidth > before.bitwidth else "fptrunc"
    elif _is_float(after):
        name = "sitofp" if before.signed else "uitofp"
    else:
        name = "trunc" if after.bitwidth < before.bitwidth else "sext" if before.signed else "zext"
        name = "bitcast" if after.bitwidth == before.bitwidth else name

    def generate(context, builder, sig, args):
        return _map(context, builder, result, lambda a: getattr(builder, name)(a, result.vector(context)), [tile], args)

    return result(tile, like), generate


@overload(operator.neg)
def _negative(x):
    if isinstance(x, Tile):
        return lambda x: negative(x)


@overload(operator.pos)
def _positive(x):
    if isinstance(x, Tile):
        return lambda x: x


@overload(abs)
def _absolute(x):
    if isinstance(x, Tile):
        return lambda x: absolute(x)


@intrinsic
def fma(typing_context, a, b, c):
    """``a * b + c`` of Tiles, or of Tiles and numbers, in one rounding where the CPU can."""
    tile = next((kind for kind in (a, b, c) if isinstance(kind, Tile)), None)

    def generate(context, builder, sig, args):
        values = [widened(context, builder, tile, value, kind) for value, kind in zip(args, sig.args)]
        return _map(context, builder, tile, lambda p, q, r: _call(builder, "fmuladd", tile.vector(context), p, q, r), [tile] * 3, values)

    if tile is None or not _is_float(tile.dtype) or any(kind != tile and not _number(kind) for kind in (a, b, c)):
        return None
    return tile(*map(types.unliteral, (a, b, c))), generate


@intrinsic
def clamp(typing_context, tile, low, high):
    """``min(max(tile, low), high)`` of floats, for numbers ``low <= high``; not a number stays what it is."""

    def generate(context, builder, sig, args):
        bounds = [_vectors(builder, tile, widened(context, builder, tile, value, kind))[0] for value, kind in zip(args[1:], sig.args[1:])]

        def clamped(vector):
            for sign, bound in zip("<>", bounds):
                vector = builder.select(builder.fcmp_ordered(sign, vector, bound), bound, vector)
            return vector

        return _map(context, builder, tile, clamped, [tile], args[:1])

    if not isinstance(tile, Tile) or not _is_float(tile.dtype) or not (_number(low) and _number(high)):
        return None
    return tile(*map(types.unliteral, (tile, low, high))), generate


@intrinsic
def power(typing_context, a, b):
    """``a ** b`` of Tiles, or of a Tile and a number, element by element."""
    tile = _operands((a, b))

    def generate(context, builder, sig, args):
        values = [widened(context, builder, tile, value, kind) for value, kind in zip(args, sig.args)]
        return _map(context, builder, tile, lambda p, q: _call(builder, "pow", tile.vector(context), p, q), [tile, tile], values)

    if tile is None or not _is_float(tile.dtype):
        return None
    return tile(types.unliteral(a), types.unliteral(b)), generate


@intrinsic
def select(typing_context, mask, a, b):
    """``a`` where the Mask holds, else ``b``; each a Tile or a number. Two numbers become the type that was compared."""
    tile = a if isinstance(a, Tile) else b
    if isinstance(mask, Mask) and _number(a) and _number(b):
        tile = Tile(mask.dtype, mask.rows, mask.vectors)

    def generate(context, builder, sig, args):
        values = [args[0], *(widened(context, builder, tile, value, kind) for value, kind in zip(args[1:], sig.args[1:]))]
        return _map(context, builder, tile, builder.select, [mask, tile, tile], values)

    if not isinstance(mask, Mask) or not isinstance(tile, Tile) or any(kind != tile and not _number(kind) for kind in (a, b)):
        return None
    return tile(mask, types.unliteral(a), types.unliteral(b)), generate


def where(condition, a, b):
    """``a`` where ``condition`` holds, else ``b``: for Tiles and for numbers alike."""
    return a if condition else b


@overload(where, inline=lambda call, caller, callee: isinstance(callee.signature.args[0], Mask))
def _where(condition, a, b):
    if not all(isinstance(kind, Tile) or _number(kind) for kind in (a, b)):
        return None
    if isinstance(condition, Mask):
        return lambda condition, a, b: select(condition, a, b)
    return lambda condition, a, b: a if condition else b


def _mask_operation(operation: Any, name: str) -> None:
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Mask) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    infer_global(operation)(Template)

    @lower_builtin(operation, Mask, Mask)
    def lower(context, builder, sig, args):
        mask = sig.return_type
        return _map(context, builder, mask, getattr(builder, name), [mask, mask], args)


for _operation, _name in ((operator.and_, "and_"), (operator.or_, "or_"), (operator.xor, "xor")):
    _mask_operation(_operation, _name)


# Any function of one number ------------------------------------------------------------------------------------------


def apply(function, x):
    """``function(x)`` for a jitted function of one number, or a function of :mod:`math`, and a number or a Tile. A function that a
    Tile cannot go through (one that branches with ``if``) is called for each element, in double precision."""
    return function(x)


@overload(apply, inline="always")
def _apply(function, x):
    if isinstance(x, Tile):
        return lambda function, x: _apply_to_tile(function, x)
    return lambda function, x: function(x)


@intrinsic
def _apply_to_tile(typing_context, function, tile):
    """Vector by vector: what all vectors of a large tile need at once would not fit the registers."""
    one = Tile(tile.dtype, 1, 1)
    try:
        call = function.get_call_type(typing_context, (one,), {})
    except NumbaError:
        call = None
    if call is not None and call.return_type == one:

        def generate(context, builder, sig, args):
            implementation = context.get_function(function, call)
            of_vectors = [implementation(builder, [tile_value(context, builder, one, [v])]) for v in _vectors(builder, tile, args[1])]
            return tile_value(context, builder, tile, [_vectors(builder, one, value)[0] for value in of_vectors])

        return tile(function, tile), generate
    return tile(function, tile), _each(typing_context, function, tile)


@intrinsic
def each(typing_context, function, tile):
    """As :func:`apply`, but always element by element."""
    return tile(function, tile), _each(typing_context, function, tile)


def _each(typing_context: Any, function: Any, tile: Tile) -> Any:
    call = function.get_call_type(typing_context, (types.float64,), {})

    def generate(context, builder, sig, args):
        implementation = context.get_function(function, call)
        element = context.get_value_type(tile.dtype)
        memory = cgutils.alloca_once_value(builder, args[1])
        first = builder.bitcast(memory, element.as_pointer())
        with cgutils.for_range(builder, ir.Constant(_i64, tile.rows * tile.vectors * LANES)) as loop:
            place = builder.gep(first, [loop.index])
            given = context.cast(builder, builder.load(place), tile.dtype, types.float64)
            result = implementation(builder, [given])
            builder.store(context.cast(builder, result, call.return_type, tile.dtype), place)
        return builder.load(memory)

    return generate


@intrinsic
def transpose(typing_context, tile):
    """The transposed Tile of a square one: as many rows as lanes, one vector wide."""
    if not isinstance(tile, Tile) or (tile.rows, tile.vectors) != (LANES, 1):
        return None

    def generate(context, builder, sig, args):
        rows = _vectors(builder, tile, args[0])
        step = LANES // 2
        while step:
            low = [k if not k & step else LANES + k - step for k in range(LANES)]
            high = [k + step if not k & step else LANES + k for k in range(LANES)]
            for i in range(LANES):
                if not i & step:
                    pair = rows[i], rows[i + step]
                    rows[i] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_i32, LANES), low))
                    rows[i + step] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_i32, LANES), high))
            step //= 2
        return tile_value(context, builder, tile, rows)

    return tile(tile), generate


# Across rows and lanes -----------------------------------------------------------------------------------------------


@intrinsic
def row_sum(typing_context, tile):
    """Sum of floats over the rows: a Tile of one row, added up in pairs."""
    if not isinstance(tile, Tile) or not _is_float(tile.dtype):
        return None
    one = tile.with_rows(1)

    def generate(context, builder, sig, args):
        vectors = _vectors(builder, tile, args[0])
        sums = []
        for j in range(tile.vectors):
            column = vectors[j :: tile.vectors]
            while len(column) > 1:
                pairs = [builder.fadd(a, b, flags=_FLAGS) for a, b in zip(column[::2], column[1::2])]
                column = pairs + column[len(pairs) * 2 :]
            sums.append(column[0])
        return tile_value(context, builder, one, sums)

    return one(tile), generate


def _across(name: str, combine: Any) -> Any:
    """An intrinsic that folds all elements of a Tile into one number."""

    def typer(typing_context, tile):
        if not isinstance(tile, Tile):
            return None

        def generate(context, builder, sig, args):
            vectors = _vectors(builder, tile, args[0])
            while len(vectors) > 1:
                pairs = [combine(builder, tile.dtype, a, b) for a, b in zip(vectors[::2], vectors[1::2])]
                vectors = pairs + vectors[len(pairs) * 2 :]
            folded, lanes = vectors[0], LANES
            while lanes > 1:
                lanes //= 2
                order = ir.Constant(ir.VectorType(_i32, LANES), [(k + lanes) % LANES for k in range(LANES)])
                folded = combine(builder, tile.dtype, folded, builder.shuffle_vector(folded, ir.Constant(folded.type, ir.Undefined), order))
            return builder.extract_element(folded, ir.Constant(_i32, 0))

        return tile.dtype(tile), generate

    typer.__name__ = typer.__qualname__ = name
    return intrinsic(typer)


total = _across("total", _arithmetic("add"))
largest = _across("largest", _extreme(">"))


if JIT_DISABLED:  # the same names in plain Python
    from . import simd_python

    globals().update(simd_python.OF_TILES)
