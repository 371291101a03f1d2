"""Instructions of NVIDIA's GPUs that Python has no words for: tensor cores, asynchronous copies, 128-bit loads and stores.

No other file writes PTX. Each primitive is a function that kernels call by its name; simulated, the function of that name in
``stand_ins.py`` takes its place. *Tiles* are one-dimensional arrays in shared memory, *pointers* are those that kernels get; ``at`` counts
32-bit elements from the first one.

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

from collections.abc import Callable
from typing import Any

from .driver import SIMULATED

if SIMULATED:
    from . import stand_ins
else:
    from llvmlite import ir
    from numba import types
    from numba.cuda import cgutils
    from numba.cuda.extending import intrinsic

    _FLOAT, _INT, _LONG, _VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()


def _primitive(define: Callable) -> Any:
    """What kernels call, of a definition for Numba's ``intrinsic``."""
    if SIMULATED:
        return getattr(stand_ins, define.__name__)
    found = intrinsic(define)
    found.py_func = lambda name=define.__name__: name  # by which the disk cache knows it, and by this file
    return found


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
    return _conversion("cvt.rna.tf32.f32 $0, $1;", types.uint32(types.float32))


@_primitive
def to_bf16x2(context: Any, low: Any, high: Any) -> Any:
    """Two float32 rounded to bfloat16 (halves to even), as a pair."""
    return _conversion("cvt.rn.bf16x2.f32 $0, $2, $1;", types.uint32(types.float32, types.float32))


def _conversion(text: str, signature: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        constraints = ",".join(["=r", *"f" * len(arguments)])
        return _assembly(builder, [_INT], text, constraints, arguments, pure=True)

    return signature, generate


@_primitive
def from_bf16x2(context: Any, pair: Any) -> Any:
    """The two float32 of a pair, the lower half first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low = builder.shl(arguments[0], _INT(16))
        high = builder.and_(arguments[0], _INT(0xFFFF0000))
        return cgutils.pack_array(builder, [builder.bitcast(half, _FLOAT) for half in (low, high)])

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
    """Two neighbouring 32-bit elements of a pointer or a tile, ``at`` even."""
    return _load(2, source)


@_primitive
def load4(context: Any, source: Any, at: Any) -> Any:
    """Four neighbouring 32-bit elements of a pointer or a tile, ``at`` a multiple of 4."""
    return _load(4, source)


def _load(count: int, source: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = builder.load(_vector_address(context, builder, count, signature.args[0], *arguments))
        vector.align = 4 * count
        return cgutils.pack_array(builder, [builder.extract_element(vector, _INT(i)) for i in range(count)])

    return types.UniTuple(source.dtype, count)(source, types.int32), generate


@_primitive
def store2(context: Any, target: Any, at: Any, values: Any) -> Any:
    """Write two neighbouring 32-bit elements, ``at`` even."""
    return _store(2, target)


@_primitive
def store4(context: Any, target: Any, at: Any, values: Any) -> Any:
    """Write four neighbouring 32-bit elements, ``at`` a multiple of 4."""
    return _store(4, target)


def _store(count: int, target: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _vector_address(context, builder, count, signature.args[0], *arguments[:2])
        vector: Any = ir.Constant(address.type.pointee, ir.Undefined)
        for i in range(count):
            vector = builder.insert_element(vector, builder.extract_value(arguments[2], i), _INT(i))
        builder.store(vector, address).align = 4 * count
        return context.get_dummy_value()

    return types.void(target, types.int32, types.UniTuple(target.dtype, count)), generate


# Asynchronous copies -----------------------------------------------------------------------------------------------------


@_primitive
def cp_async(context: Any, tile: Any, at: Any, source: Any, offset: Any, valid: Any) -> Any:
    """Begin to copy four 32-bit elements from a pointer's element number ``offset`` to a tile, past the first-level cache; zeros where not
    ``valid``, and nothing is read (``offset`` must be within the array all the same)."""
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
    """The address of ``count`` elements, which tells where they are: then one instruction takes them all."""
    address = _element(context, builder, kind, array, at)
    space = 1 if isinstance(kind, types.CPointer) else 3
    there = builder.addrspacecast(address, ir.PointerType(address.type.pointee, space))
    return builder.bitcast(there, ir.PointerType(ir.VectorType(address.type.pointee, count), space))
