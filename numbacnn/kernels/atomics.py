"""Words of memory that several threads read and write: elements of int64 arrays, by their places."""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

_I64 = ir.IntType(64)
_PAUSES = dict.fromkeys(("x86_64", "amd64"), "llvm.x86.sse2.pause") | dict.fromkeys(("aarch64", "arm64"), "llvm.aarch64.hint")


def _word(context, builder, array_type, array, place):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [place])


@intrinsic
def get(typing_context, array, place):
    """The word, and with it all that was written before it was :func:`put`."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_word(context, builder, signature.args[0], *arguments), "acquire", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def put(typing_context, array, place, value):
    """Write the word, after all that was written before."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], _word(context, builder, signature.args[0], *arguments[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def add(typing_context, array, place, amount):
    """Add to the word, and give its old value."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _word(context, builder, signature.args[0], *arguments[:2]), arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def replace(typing_context, array, place, old, new):
    """Write ``new`` if the word is ``old``; whether it was."""

    def generate(context, builder, signature, arguments):
        pointer = _word(context, builder, signature.args[0], *arguments[:2])
        return builder.extract_value(builder.cmpxchg(pointer, *arguments[2:], "seq_cst", "seq_cst"), 1)

    return types.boolean(array, types.int64, types.int64, types.int64), generate


@intrinsic
def clear(typing_context, address):
    """Write 0 at an address."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(ir.Constant(_I64, 0), builder.inttoptr(arguments[0], _I64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def pause(typing_context):
    """A moment, for a thread that looks at a word again and again: the core gives its resources to others."""

    def generate(context, builder, signature, arguments):
        name = _PAUSES.get(platform.machine().lower())
        if name:
            given = [ir.Constant(ir.IntType(32), 1)] if name.endswith("hint") else []  # hint 1: yield
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), given)
        return context.get_dummy_value()

    return types.void(), generate
