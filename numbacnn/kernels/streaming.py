"""Stores past the caches, for arrays that no cache holds until they are read.

An ordinary store reads the cache line that it is about to overwrite, and pushes another line out; a non-temporal one does neither. It
costs more where the array would have stayed in a cache. The CPU may complete such stores late, but before the thread's next atomic
operation: at the latest that with which :func:`numbacnn.simd.take` finds the work queue empty.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..simd import JIT_DISABLED, LANES, Tile, store

CACHE_LINE = 64  # bytes
LARGE = 8 << 20  # bytes: to read one array of this size and to write another takes half of a common last-level cache


def past_caches(array: np.ndarray) -> bool:
    """Whether a kernel that writes all of ``array`` had better do so by :func:`stream`: it is large, and its lines of channels are whole
    cache lines."""
    lengths = array.ctypes.data, *array.strides[:-1], array.shape[-1] * array.itemsize
    return array.nbytes >= LARGE and not any(length % CACHE_LINE for length in lengths)


@intrinsic
def stream(typing_context, tile, array, offset, row_stride):
    """As :func:`numbacnn.simd.store`, past the caches; the rows of the Tile must be aligned to their vectors."""
    if not isinstance(tile, Tile):
        return None

    def generate(context, builder, sig, args):
        size = context.get_abi_sizeof(context.get_data_type(tile.dtype))
        once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        first = builder.gep(context.make_array(sig.args[1])(context, builder, args[1]).data, [args[2]])
        for k in range(tile.rows * tile.vectors):
            row, vector = divmod(k, tile.vectors)
            step = builder.add(builder.mul(args[3], ir.Constant(args[3].type, row)), ir.Constant(args[3].type, vector * LANES))
            place = builder.bitcast(builder.gep(first, [step]), tile.vector(context).as_pointer())
            builder.store(builder.extract_value(args[0], k), place, align=LANES * size).set_metadata("nontemporal", once)
        return context.get_dummy_value()

    return types.void(tile, array, types.intp, types.intp), generate


if JIT_DISABLED:
    stream = store
