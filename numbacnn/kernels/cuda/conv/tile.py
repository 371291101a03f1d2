"""What the kernels for tensor cores share: which pixels a block's tile has, and how its sums come to memory.

A block's tile has 128 rows and 128 or 64 columns; each warp has ``16 * tall`` rows and ``8 * across`` columns of it. The four sums that a
thread holds of the ``i``-th 16 rows and the ``j``-th 8 columns (``ptx.py`` says which) are those from ``sums[(i * across + j) * 4]`` on.
"""

from __future__ import annotations

import functools
from typing import Any

from ..driver import cuda, device_function, int32
from ..ending import Ending, ended
from ..ptx import load4, store2, store4
from .gather import CHUNK

ROWS = 128  # of a tile
NO_ENDING = Ending().kind


@device_function
def locate(m, rows, pixels, per_image, image, target_image, origins, insides, targets, at):
    """Put into three shared arrays, at ``at``, where output pixel ``m`` begins to read, the bits of the taps that are there, and where it
    goes: -1 beyond the last of ``rows`` pixels. ``pixels`` is a table of :func:`~.gather.pixels`, ``image`` and ``target_image`` are the
    elements of an image."""
    origins[at], insides[at], targets[at] = int32(0), int32(0), int32(-1)
    if m < rows:
        number = m // per_image
        place = m - number * per_image
        origins[at] = number * image + pixels[place]
        insides[at] = pixels[per_image + place]
        targets[at] = number * target_image + pixels[int32(2) * per_image + place]


@functools.cache
def finish(kind: Any, columns: int, threads: int, tall: int, across: int) -> Any:
    """The device function ``(sums, warp_m, warp_n, column, valid, channel, buffer, targets, y, scale, shift, addend)``: by way of shared
    memory, so that neighbouring threads write neighbouring elements, 16 bytes each, ``y[targets[row] + column]`` gets the sums, ended.

    The warp's rows and columns begin at ``warp_m`` and ``warp_n``. Of each row a thread writes four columns, from the tile's number
    ``4 * (thread % (columns / 4))`` on: those from ``column`` on of the row in ``y``, where ``channel`` begins, if ``valid``. ``buffer``
    has room for the tile, ``targets`` has the first element of each row in ``y``, or -1."""
    ending = ended(kind)
    per_row = columns // CHUNK
    rows_at_once = threads // per_row
    lines = 2 * tall

    @device_function
    def finished(sums, warp_m, warp_n, column, valid, channel, buffer, targets, y, scale, shift, addend):
        thread = int32(cuda.threadIdx.x)
        g, t = (thread & int32(31)) >> int32(2), thread & int32(3)
        cuda.syncthreads()  # nobody reads the buffer any more
        # Rows of equal remainders modulo 4 share banks: exclusive or spreads them
        spread = (g & int32(3)) << int32(1)
        for i in range(lines):
            line = (warp_m + g + int32(i * 8)) * int32(columns) + warp_n + ((t & int32(1)) << int32(1))
            for j in range(across):
                c = ((i >> 1) * across + j) * 4 + (i & 1) * 2
                store2(buffer, line + (((int32(2 * j) + (t >> int32(1))) ^ spread) << int32(2)), (sums[c], sums[c + 1]))
        cuda.syncthreads()
        if valid:
            chunk = thread % int32(per_row)
            for row in range(thread // int32(per_row), int32(ROWS), int32(rows_at_once)):
                if targets[row] >= int32(0):
                    at = int32(targets[row] + column)
                    found = load4(buffer, row * int32(columns) + ((chunk ^ ((row & int32(3)) << int32(1))) << int32(2)))
                    first = ending(found[0], scale, shift, addend, channel, at)
                    second = ending(found[1], scale, shift, addend, channel + int32(1), at + int32(1))
                    third = ending(found[2], scale, shift, addend, channel + int32(2), at + int32(2))
                    fourth = ending(found[3], scale, shift, addend, channel + int32(3), at + int32(3))
                    store4(y, at, (first, second, third, fourth))

    return finished
