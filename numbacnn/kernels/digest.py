"""A fast hash of an array's bytes, to notice that somebody wrote into it."""

from __future__ import annotations

import numpy as np

from .jit import kernel

BLOCK = 1 << 16  # words hashed by one task: a fixed partition
_STEP, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_SHIFT, _ONE = np.uint64(32), np.uint64(1)


@kernel(parallel=True)
def block_digests(words, digests, threads, thread):
    """``digests[k]`` becomes a hash of the k-th block of uint64 ``words``. Each word is mixed with its position, so that
    equal changes in two places don't cancel."""
    for block in range(thread, digests.size, threads):
        digest = np.uint64(0)
        position = np.uint64(block) * _STEP
        for k in range(block * BLOCK, min(words.size, (block + 1) * BLOCK)):
            position += _STEP
            mixed = (words[k] ^ position) * _MIX
            digest += (mixed ^ (mixed >> _SHIFT)) * (position | _ONE)
        digests[block] = digest


def digest(array: np.ndarray) -> bytes:
    """A hash of a C-contiguous array whose size in bytes is a multiple of 8."""
    words = array.reshape(-1).view(np.uint64)
    digests = np.zeros(-(-words.size // BLOCK), np.uint64)
    block_digests(words, digests)
    return digests.tobytes()
