"""Tiles that take two inputs at a time.

Of one and a half vectors of output channels, two whole ones would be computed, a quarter of them for nothing. Here each channel has two
lanes, one for each of two inputs that follow each other: three vectors take both, in place of four. What the lanes have summed is added in
pairs at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ... import simd_python
from ...simd import JIT_DISABLED, LANES, VECTOR_BITS, Tile, outer_by, tile_value

SUMS = 3
"""Vectors of a row's sums."""
CHANNELS = SUMS * LANES // 2
"""Output channels that these have lanes for."""

PAIRED_DTYPES = (np.float32,) if VECTOR_BITS == 512 else ()
"""Of which these pay: there are registers for the sums of a tile that is as high as others."""


def _order(lanes: list[int]) -> ir.Constant:
    """Of a shuffle of two vectors: which lanes to take, those of the second one counting on."""
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes)


_EVEN, _ODD = _order(list(range(0, 2 * LANES, 2))), _order(list(range(1, 2 * LANES, 2)))
_IN_TURN = [_order([lane // 2 + lane % 2 * LANES for lane in range(half * LANES, (half + 1) * LANES)]) for half in range(2)]


@intrinsic(prefer_literal=True)
def outer_of_pairs(typing_context, sums, rows, column, b, b_offset):
    """As :func:`numbacnn.simd.outer_of` with the elements at ``column`` and behind it: even lanes get the products of the first, odd lanes
    those of the second."""

    def spread(builder: Any, place: Any) -> Any:
        pair = ir.VectorType(place.type.pointee, 2)
        both = builder.load(builder.bitcast(place, pair.as_pointer()), align=rows.dtype.bitwidth // 8)
        return builder.shuffle_vector(both, ir.Constant(pair, ir.Undefined), _order([0, 1] * (LANES // 2)))

    return outer_by(sums, rows, column, b, spread)


@intrinsic
def pair_sums(typing_context, tile):
    """The sums of each two neighbouring lanes, in vectors of half the number; what is behind the last one has no meaning."""
    if not isinstance(tile, Tile) or not isinstance(tile.dtype, types.Float):
        return None
    result = Tile(tile.dtype, tile.rows, -(-tile.vectors // 2))

    def generate(context, builder, sig, args):
        vectors = []
        for row in range(tile.rows):
            for first in range(0, tile.vectors, 2):
                at = [row * tile.vectors + min(first + further, tile.vectors - 1) for further in range(2)]
                pair = [builder.extract_value(args[0], k) for k in at]
                vectors.append(builder.fadd(*(builder.shuffle_vector(*pair, lanes) for lanes in (_EVEN, _ODD))))
        return tile_value(context, builder, result, vectors)

    return result(tile), generate


@intrinsic
def interleaved(typing_context, tile):
    """The Tile of one row in which the elements of two rows take turns."""
    if not isinstance(tile, Tile) or tile.rows != 2:
        return None
    result = Tile(tile.dtype, 1, 2 * tile.vectors)

    def generate(context, builder, sig, args):
        columns = [[builder.extract_value(args[0], row * tile.vectors + k) for row in range(2)] for k in range(tile.vectors)]
        return tile_value(context, builder, result, [builder.shuffle_vector(*pair, lanes) for pair in columns for lanes in _IN_TURN])

    return result(tile), generate


if JIT_DISABLED:
    globals().update(simd_python.OF_PAIRS)
