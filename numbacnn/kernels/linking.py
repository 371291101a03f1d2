"""Compile a kernel's helpers once instead of four times.

Numba optimises every function that a kernel calls, turns each into machine code, and then does all of it again where they are linked into
the kernel. Only the kernel's own code ever runs, so within
:func:`linked_later` the others are just linked; whoever asks for the address of one still gets it compiled.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from llvmlite.binding import Linkage
from numba import types
from numba.core import cgutils
from numba.core.codegen import CPUCodeLibrary, JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.environment import lookup_environment
from numba.core.registry import cpu_target

PAGE = 4096  # bytes
STACK_PLACE = 1024  # in a page, where frames begin

REFUSAL: int = ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value  # type: ignore[assignment]
"""What runs when Python calls a function that is compiled for kernels only: it raises TypeError."""


class LinkedLater(JITCodeLibrary):
    """A code library that stays unoptimised until somebody asks for an address in it."""

    def __init__(self, codegen: Any, name: str):
        super().__init__(codegen, name)
        self._generated = False

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        if not self._defines(name):
            return REFUSAL
        if not self._generated:
            self._optimize_final_module()
            self._final_module.verify()
            CPUCodeLibrary._finalize_final_module(self)
            self._generated = True
        return super().get_pointer_to_function(name)

    def _defines(self, name: str) -> bool:
        """Whether anybody could call the function."""
        try:
            return not self._final_module.get_function(name).is_declaration
        except NameError:
            return False


class KernelLibrary(JITCodeLibrary):
    """A kernel's code library. Helpers are its own: nobody else calls them, so LLVM drops what they do not read of their arguments. An
    array is seven words and more, which a caller would else lay out on the stack for each call."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr and not function.is_declaration:
                function.linkage = Linkage.internal
        super()._optimize_final_module()


@contextlib.contextmanager
def linked_later(kernel: str, inlined: str) -> Iterator[None]:
    """Within the block, all libraries but the one named ``kernel`` are only linked, and those whose name ends with ``inlined`` get no
    entry point for Python."""
    with global_compiler_lock:  # before looking: another thread may be within the block
        target = cpu_target.target_context
        codegen = target.codegen()
        eager, set_environment, wrap = codegen._library_class, codegen.set_env, target.create_cpython_wrapper

        def library(codegen: Any, name: str, **options: Any) -> Any:
            return KernelLibrary(codegen, name, **options) if name == kernel else LinkedLater(codegen, name, **options)

        library._unserialize = eager._unserialize  # type: ignore[attr-defined]  # for code from the disk cache

        def set_generated(name: str, environment: Any) -> None:
            if codegen._engine.get_global_value_address(name):
                set_environment(name, environment)

        def wrap_public(library: Any, descriptor: Any, *arguments: Any, **options: Any) -> None:
            if not library.name.endswith(inlined):
                wrap(library, descriptor, *arguments, **options)
            if library.name == kernel:
                add_packed_entry(library, descriptor)

        codegen._library_class, codegen.set_env, target.create_cpython_wrapper = library, set_generated, wrap_public
        try:
            yield
        finally:
            codegen._library_class, codegen.set_env, target.create_cpython_wrapper = eager, set_environment, wrap


def packed_entry_name(descriptor: Any) -> str:
    """The symbol of :func:`add_packed_entry`."""
    return f"packed.{descriptor.llvm_func_name}"


def add_packed_entry(library: Any, descriptor: Any) -> None:
    """Add a function to a kernel's library that takes the kernel's arguments from memory, and returns its status: words of 64 bits, one for
    each number, and for each array how many elements it has, their size, its address, shape and strides (in bytes). The function's second
    argument takes the place of the kernel's last one if that is called ``thread``."""
    target = cpu_target.target_context
    module = target.create_module("packed entry")
    kernel = ir.Function(module, target.call_conv.get_function_type(descriptor.restype, descriptor.argtypes), descriptor.llvm_func_name)
    word = ir.IntType(64)
    entry = ir.Function(module, ir.FunctionType(ir.IntType(32), [word.as_pointer(), word]), packed_entry_name(descriptor))
    builder = ir.IRBuilder(entry.append_basic_block())
    words = (builder.load(cgutils.gep_inbounds(builder, entry.args[0], place)) for place in range(1 << 30))
    values = [_unpacked(target, builder, kind, words) for kind in descriptor.argtypes]
    if descriptor.args[-1:] == ("thread",):
        values[-1] = entry.args[1]
    _move_stack(builder)
    status, _ = target.call_conv.call_function(builder, kernel, descriptor.restype, descriptor.argtypes, values)
    builder.ret(status.code)
    library.add_ir_module(module)


def _move_stack(builder: Any) -> None:
    """Let the frames of what is called from here begin at :data:`STACK_PLACE` of a page, wherever the caller's end.

    A frame of a kernel has some kilobytes, and where a page ends among what its loops read and write there, they take up to 1.8 times as
    long (Zen 5): the same launch would be fast or slow by the thread, the process, and how deep a call lies."""
    word, byte = ir.IntType(64), ir.IntType(8)
    pointer = byte.as_pointer()
    top = builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(pointer, []), "llvm.stacksave"), [])
    size = builder.and_(builder.sub(builder.ptrtoint(top, word), ir.Constant(word, STACK_PLACE)), ir.Constant(word, PAGE - 1))
    room = builder.alloca(byte, size=builder.or_(size, ir.Constant(word, 1)))
    fill = builder.module.declare_intrinsic("llvm.memset", (pointer, word))
    builder.call(fill, [room, ir.Constant(byte, 0), ir.Constant(word, 1), ir.Constant(ir.IntType(1), 1)])  # volatile: the room stays


def _unpacked(target: Any, builder: Any, kind: Any, words: Iterator[Any]) -> Any:
    """The next argument, of that type."""
    if isinstance(kind, types.Array):
        array = target.make_array(kind)(target, builder)
        array.meminfo, array.parent = (cgutils.get_null_value(field.type) for field in (array.meminfo, array.parent))
        array.nitems, array.itemsize = next(words), next(words)
        array.data = builder.inttoptr(next(words), array.data.type)
        array.shape, array.strides = (cgutils.pack_array(builder, [next(words) for _ in range(kind.ndim)]) for _ in range(2))
        return array._getvalue()
    value = next(words)
    if kind == types.boolean:
        return builder.icmp_unsigned("!=", value, value.type(0))
    return builder.bitcast(value, ir.DoubleType()) if kind == types.float64 else value


def attach_environments(library: Any) -> None:
    """Give a kernel's machine code the Python environments of the functions that were linked into it."""
    for variable in library._final_module.global_variables:
        if variable.name.startswith("_ZN08NumbaEnv"):
            environment = lookup_environment(variable.name)
            if environment is not None:
                library.codegen.set_env(variable.name, environment)
