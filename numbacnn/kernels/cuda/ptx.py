"""Instructions of NVIDIA's GPUs that Python has no words for: tensor cores, asynchronous copies, 128-bit loads and stores.

No other file writes PTX. Each primitive is a function that kernels call by its name; simulated, the function of that name in
``stand_ins.py`` takes its place. *Tiles* are one-dimensional arrays of 32-bit elements in shared memory, *pointers* are those that kernels
get; ``at`` counts elements from the first one. What is loaded from pointers to bfloat16 are float32, which are rounded where they are
stored (:class:`Bf16Pointer`).

A warp's 32 threads hold a matrix together, in *fragments*. With ``g = lane // 4`` and ``t = lane % 4`` (PTX ISA, "Matrix fragments"):

=====================  ========================================================================
accumulator, 16 x 8    ``(g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)``
tf32 A, 16 x 8         ``(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)``
tf32 B, 8 x 8          ``(t, g), (t + 4, g)``
bf16 A, 16 x 16        pairs ``(g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)``
bf16 B, 16 x 8         pairs ``(2t.., g), (2t + 8.., g)``
=====================  ========================================================================

A pair is two bfloat16 of neighbouring columns of A or rows of B in one uint32, the first in the lower half. All 32 threads of a warp must
call what exchanges fragments (``mma``, ``ldmatrix``) together.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from numba import types

from .driver import SIMULATED

if SIMULATED:
    from . import stand_ins
else:
    from llvmlite import ir
    from numba.cuda import cgutils, cudaimpl
    from numba.cuda.extending import intrinsic, lower_builtin, models, register_model

    _FLOAT, _SHORT, _INT, _LONG, _VOID = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.VoidType()


def _primitive(define: Callable) -> Any:
    """What kernels call, of a definition for Numba's ``intrinsic``."""
    if SIMULATED:
        return getattr(stand_ins, define.__name__)
    found = intrinsic(define)
    found.py_func = lambda name=define.__name__: name  # by which the disk cache knows it, and by this file
    return found


# Larger and smaller ------------------------------------------------------------------------------------------------------


if not SIMULATED:

    def _extreme(sign: str) -> Callable:
        """What makes ``max`` or ``min`` of two numbers. What is not a number wins on either side, as on the CPU: numba-cuda's own take
        instructions that lose it, and an activation would turn it into 0."""

        def chosen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, b = arguments
            kept = builder.select(builder.fcmp_unordered(sign, a, b), a, b)
            return builder.select(builder.fcmp_unordered("uno", b, b), b, kept)

        return chosen

    for _kind in (types.float32, types.float64):
        for _operation, _sign in ((max, ">"), (min, "<")):
            cudaimpl.registry.lower(_operation, _kind, _kind)(_extreme(_sign))


# Products ----------------------------------------------------------------------------------------------------------------


@_primitive
def mma_tf32(context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a @ b + c`` of 16 x 8, 8 x 8 and 16 x 8 numbers: ``a`` four and ``b`` two of :func:`to_tf32`, ``c`` and the result four float32."""
    return _mma("m16n8k8.row.col.f32.tf32.tf32.f32", a, b, c)


@_primitive
def mma_bf16(context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a @ b + c`` of 16 x 16, 16 x 8 and 16 x 8 numbers: ``a`` four and ``b`` two of :func:`to_bf16x2`, ``c`` and the result four
    float32."""
    return _mma("m16n8k16.row.col.f32.bf16.bf16.f32", a, b, c)


def _mma(shape: str, a: Any, b: Any, c: Any) -> Any:
    text = f"mma.sync.aligned.{shape} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        operands = [builder.extract_value(values, i) for values, count in zip(arguments, (4, 2, 4)) for i in range(count)]
        found = _assembly(builder, [_FLOAT] * 4, text, "=f,=f,=f,=f," + "r," * 6 + "f,f,f,f", operands, pure=True)
        return _tuple(builder, found, 4)

    return types.UniTuple(types.float32, 4)(a, b, c), generate


@_primitive
def to_tf32(context: Any, x: Any) -> Any:
    """A float32 rounded to tf32 (8 bits of exponent, 10 of mantissa; halves away from zero), as the bits of a uint32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _assembly(builder, [_INT], "cvt.rna.tf32.f32 $0, $1;", "=r,f", arguments, pure=True)

    return types.uint32(types.float32), generate


@_primitive
def to_bf16x2(context: Any, low: Any, high: Any) -> Any:
    """Two float32 rounded to bfloat16 (halves to even), as a pair."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _pair(builder, *arguments)

    return types.uint32(types.float32, types.float32), generate


@_primitive
def from_bf16x2(context: Any, pair: Any) -> Any:
    """The two float32 of a pair, the lower half first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.pack_array(builder, _halves(builder, arguments[0]))

    return types.UniTuple(types.float32, 2)(types.uint32), generate


# Loads and stores --------------------------------------------------------------------------------------------------------


@_primitive
def ldmatrix(context: Any, tile: Any, at: Any) -> Any:
    """Four matrices of 8 x 8 16-bit numbers from shared memory, four uint32. Lane ``8 i + r`` says where row ``r`` (16 bytes) of matrix
    ``i`` starts; it gets pair ``t`` of row ``g`` of each: of bfloat16 in rows of A, its fragment, if the matrices are those from rows 0 and
    8 of the first 8 columns, then of the others."""
    return _ldmatrix("", tile, at)


@_primitive
def ldmatrix_transposed(context: Any, tile: Any, at: Any) -> Any:
    """As :func:`ldmatrix`, but each matrix is transposed: the pair is ``(2t, g), (2t + 1, g)``, as of bfloat16 in rows of B."""
    return _ldmatrix(".trans", tile, at)


def _ldmatrix(transposed: str, tile: Any, at: Any) -> Any:
    text = f"ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{$0,$1,$2,$3}}, [$4];"

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _shared_address(context, builder, signature.args[0], *arguments)
        return _tuple(builder, _assembly(builder, [_INT] * 4, text, "=r,=r,=r,=r,r,~{memory}", [address]), 4)

    return types.UniTuple(types.uint32, 4)(tile, types.int32), generate


@_primitive
def load2(context: Any, source: Any, at: Any) -> Any:
    """Two neighbouring elements of a pointer or a tile, ``at`` even."""
    return _load(2, source)


@_primitive
def load4(context: Any, source: Any, at: Any) -> Any:
    """Four neighbouring elements of a pointer or a tile, ``at`` a multiple of 4."""
    return _load(4, source)


def _load(count: int, source: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _vector_address(context, builder, count, signature.args[0], *arguments)
        vector = builder.load(address)
        vector.align = 4 * vector.type.count
        words = [builder.extract_element(vector, _INT(i)) for i in range(vector.type.count)]
        if isinstance(source, Bf16Pointer):
            words = [half for pair in words for half in _halves(builder, pair)]
        return cgutils.pack_array(builder, words)

    return types.UniTuple(source.dtype, count)(source, types.int32), generate


@_primitive
def store2(context: Any, target: Any, at: Any, values: Any) -> Any:
    """Write two neighbouring elements, ``at`` even."""
    return _store(2, target)


@_primitive
def store4(context: Any, target: Any, at: Any, values: Any) -> Any:
    """Write four neighbouring elements, ``at`` a multiple of 4."""
    return _store(4, target)


def _store(count: int, target: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _vector_address(context, builder, count, signature.args[0], *arguments[:2])
        words = [builder.extract_value(arguments[2], i) for i in range(count)]
        if isinstance(target, Bf16Pointer):
            words = [_pair(builder, *words[i : i + 2]) for i in range(0, count, 2)]
        vector: Any = ir.Constant(address.type.pointee, ir.Undefined)
        for i, word in enumerate(words):
            vector = builder.insert_element(vector, word, _INT(i))
        builder.store(vector, address).align = 4 * len(words)
        return context.get_dummy_value()

    return types.void(target, types.int32, types.UniTuple(target.dtype, count)), generate


# Bfloat16 in memory ------------------------------------------------------------------------------------------------------


class Bf16Pointer(types.CPointer):
    """Numba's type of a pointer to bfloat16: ``x[i]`` is a float32, and ``x[i] = v`` rounds to nearest, halves to even."""

    def __init__(self) -> None:
        super().__init__(types.float32)
        self.name = "bfloat16*"


if not SIMULATED:

    @register_model(Bf16Pointer)
    class _Bf16PointerModel(models.PrimitiveModel):
        def __init__(self, manager: Any, kind: Any):
            super().__init__(manager, kind, ir.PointerType(_SHORT))

    @lower_builtin(operator.getitem, Bf16Pointer, types.Integer)
    def _load_bf16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _widened(builder, builder.load(builder.gep(arguments[0], [arguments[1]])))

    @lower_builtin(operator.setitem, Bf16Pointer, types.Integer, types.Any)
    def _store_bf16(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        builder.store(_rounded(builder, arguments[2]), builder.gep(arguments[0], [arguments[1]]))


@_primitive
def as_stored(context: Any, target: Any, value: Any) -> Any:
    """A float32 as it would be read again from that pointer: rounded, if it points to bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _widened(builder, _rounded(builder, arguments[1])) if isinstance(target, Bf16Pointer) else arguments[1]

    return types.float32(target, types.float32), generate


def _widened(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(bits, _INT), _INT(16)), _FLOAT)


def _rounded(builder: Any, value: Any) -> Any:
    return _assembly(builder, [_SHORT], "cvt.rn.bf16.f32 $0, $1;", "=h,f", [value], pure=True)


def _halves(builder: Any, pair: Any) -> list:
    low, high = builder.shl(pair, _INT(16)), builder.and_(pair, _INT(0xFFFF0000))
    return [builder.bitcast(half, _FLOAT) for half in (low, high)]


def _pair(builder: Any, low: Any, high: Any) -> Any:
    return _assembly(builder, [_INT], "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [low, high], pure=True)


# Asynchronous copies -----------------------------------------------------------------------------------------------------


@_primitive
def cp_async(context: Any, tile: Any, at: Any, source: Any, offset: Any, valid: Any) -> Any:
    """Begin to copy 16 bytes (four float32, or eight bfloat16) from a pointer's element number ``offset`` on to a tile, past the
    first-level cache; zeros where not ``valid``, and nothing is read (``offset`` must be within the array all the same)."""
    return _cp_async("cg", tile, source)


@_primitive
def cp_async_cached(context: Any, tile: Any, at: Any, source: Any, offset: Any, valid: Any) -> Any:
    """As :func:`cp_async`, through the first-level cache: of use where the block reads the same elements again soon."""
    return _cp_async("ca", tile, source)


def _cp_async(cache: str, tile: Any, source: Any) -> Any:
    text = f"cp.async.{cache}.shared.global [$0], [$1], 16, $2;"

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, at, source, offset, valid = arguments
        target = _shared_address(context, builder, signature.args[0], tile, at)
        origin = builder.ptrtoint(_element(context, builder, signature.args[2], source, offset), _LONG)
        _assembly(builder, [], text, "r,l,r,~{memory}", [target, origin, builder.select(valid, _INT(16), _INT(0))])
        return context.get_dummy_value()

    return types.void(tile, types.int32, source, types.int32, types.boolean), generate


@_primitive
def cp_async_commit(context: Any) -> Any:
    """Make a group of this thread's copies since the last one."""
    return _statement("cp.async.commit_group;", ())


@_primitive
def cp_async_wait(context: Any, pending: Any) -> Any:
    """Wait until at most the last ``pending`` (a constant) groups of this thread are under way. The others' copies are seen by this
    thread; by all, after ``syncthreads``."""
    if not isinstance(pending, types.IntegerLiteral):
        return None
    return _statement(f"cp.async.wait_group {pending.literal_value};", (pending,))


def _statement(text: str, kinds: tuple) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assembly(builder, [], text, "~{memory}", [])
        return context.get_dummy_value()

    return types.void(*kinds), generate


# LLVM --------------------------------------------------------------------------------------------------------------------


def _assembly(builder: Any, results: list, text: str, constraints: str, operands: Any, pure: bool = False) -> Any:
    """Call inline assembly; ``pure``: it may be moved and left out."""
    kind = _VOID if not results else results[0] if len(results) == 1 else ir.LiteralStructType(results)
    signature = ir.FunctionType(kind, [operand.type for operand in operands])
    # Convergent: it must not move to where only some threads of a warp come
    return builder.call(ir.InlineAsm(signature, text, constraints, side_effect=not pure), operands, attrs=("convergent",))


def _tuple(builder: Any, found: Any, count: int) -> Any:
    return cgutils.pack_array(builder, [builder.extract_value(found, i) for i in range(count)])


def _element(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """The address of an element of a pointer or a tile."""
    first = array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data
    return builder.gep(first, [builder.sext(at, _LONG)])


def _shared_address(context: Any, builder: Any, kind: Any, tile: Any, at: Any) -> Any:
    """The same of a tile, as a 32-bit address in the window of shared memory."""
    first = context.make_array(kind)(context, builder, tile).data
    base = builder.ptrtoint(builder.addrspacecast(first, ir.PointerType(first.type.pointee, 3)), _INT)
    return builder.add(base, builder.shl(at, _INT(2)))


def _vector_address(context: Any, builder: Any, count: int, kind: Any, array: Any, at: Any) -> Any:
    """The address of ``count`` elements, or of so many bfloat16 in pairs, which tells where they are: then one instruction takes them
    all."""
    address = _element(context, builder, kind, array, at)
    space = 1 if isinstance(kind, types.CPointer) else 3
    there = builder.addrspacecast(address, ir.PointerType(address.type.pointee, space))
    vector = ir.VectorType(_INT, count // 2) if isinstance(kind, Bf16Pointer) else ir.VectorType(address.type.pointee, count)
    return builder.bitcast(there, ir.PointerType(vector, space))
