"""Memory for arrays: aligned, in one piece, and in huge pages where the system gives them."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes to which every array is aligned: a cache line, and a register of the widest SIMD."""

_HUGE_PAGE = 2 << 20


def aligned_size(count: int, itemsize: int = 1) -> int:
    """``count`` elements of ``itemsize`` bytes, rounded up in elements so that what follows is aligned again."""
    step = max(1, ALIGNMENT // itemsize)
    return -(-count // step) * step


def allocate(nbytes: int, zero: bool = False) -> np.ndarray:
    """``nbytes`` bytes (uint8), aligned, uninitialised unless ``zero``. Zeros take no memory before they are written to.

    From some megabytes on, huge pages are asked for: a network walks through all of its memory at every step, and small pages cost
    translation."""
    if nbytes >= 2 * _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # without private mappings, or short of address space: plain memory below
            return _allocate_huge(nbytes)
    memory = (np.zeros if zero else np.empty)(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]


def _allocate_huge(nbytes: int) -> np.ndarray:
    mapping = mmap.mmap(-1, nbytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapping, np.uint8)
    start = -memory.ctypes.data % _HUGE_PAGE
    return memory[start : start + nbytes]


def empty(shape: int | Sequence[int], dtype: Any, zero: bool = False) -> np.ndarray:
    """An aligned, C-contiguous array, uninitialised unless ``zero``."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype = np.dtype(dtype)
    return allocate(math.prod(shape) * dtype.itemsize, zero).view(dtype).reshape(shape)


def zeros(shape: int | Sequence[int], dtype: Any) -> np.ndarray:
    """As :func:`empty`, filled with zeros; they take no memory before they are written to."""
    return empty(shape, dtype, zero=True)


def discard(array: np.ndarray) -> None:
    """Give the memory of a C-contiguous array back to the system, as far as it fills whole pages of a large array of :func:`empty` or
    :func:`zeros`. The array may be overwritten but not read before that."""
    mapping = _mapping(array)
    if mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    offset = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (offset + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)


def _mapping(array: Any) -> mmap.mmap | None:
    """What :func:`_allocate_huge` mapped for an array, or for that which it is a view of."""
    while isinstance(array, np.ndarray):
        array = array.base
    owner = array.obj if isinstance(array, memoryview) else None
    return owner if isinstance(owner, mmap.mmap) else None


class Arena:
    """One piece of memory, new or given, and arrays at given offsets of it."""

    def __init__(self, nbytes: int, memory: np.ndarray | None = None):
        self.memory = allocate(nbytes) if memory is None else memory[:nbytes]

    def part(self, offset: int, nbytes: int) -> Arena:
        """The piece of ``nbytes`` that starts ``offset`` bytes into the arena."""
        return Arena(nbytes, self.memory[offset:])

    def view(self, offset: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """The C-contiguous array of ``shape`` that starts ``offset`` bytes into the arena."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        return self.memory[offset : offset + size].view(dtype).reshape(shape)
