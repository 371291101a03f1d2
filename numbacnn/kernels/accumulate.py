"""Adding up gradients that reach one array from several places."""

from __future__ import annotations

from numba import prange

from .jit import kernel


@kernel(parallel=True)
def add_into(target, source, queue, threads):
    """``target += source``, both flat and of one size."""
    for thread in prange(threads):
        for k in range(target.size * thread // threads, target.size * (thread + 1) // threads):
            target[k] += source[k]


@kernel(parallel=True)
def copy_into(target, source, queue, threads):
    """``target = source``, both flat and of one size."""
    for thread in prange(threads):
        for k in range(target.size * thread // threads, target.size * (thread + 1) // threads):
            target[k] = source[k]
