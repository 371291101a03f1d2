"""How fast a network could be on this machine at best: by its arithmetic, and by the memory that it moves.

Both bounds are of the direct way to compute it. Winograd's minimal filtering takes fewer products than the direct count, so a time may
lie below the arithmetic bound; and what stays in a cache from one run to the next isn't read from memory again, so that the time of a
small network may lie below the memory bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from numbacnn import arrays
from numbacnn.kernels import jit
from numbacnn.kernels.channels import VECTORS, WIDTH
from numbacnn.kernels.conv.tiles import MAX_ROWS
from numbacnn.kernels.jit import kernel
from numbacnn.simd import fma, load, store, take, zeros

TILE = MAX_ROWS * WIDTH  # numbers in the register tile of a convolution
UNROLLED = 4
BLOCK = 2048 * TILE  # elements that a thread reads between two looks at the queue
BLOCKS = (1 << 26) // BLOCK  # of some 256 MiB in all, several times what a cache holds
MATRIX_LAYERS = ("numbacnn.layers.conv", "numbacnn.layers.dense")  # whose operations are multiply-adds


@kernel(parallel=True, serial=0)
def multiply_add(results, repeats, threads, thread):
    """``UNROLLED * repeats`` times ``tile * 0.5 + 1`` in each thread, on as many sums as a convolution keeps in registers. ``results``
    float32 ``(threads, TILE)``."""
    tile = load(results, thread * TILE, WIDTH, MAX_ROWS, VECTORS)
    for _ in range(repeats):
        tile = fma(tile, 0.5, 1.0)
        tile = fma(tile, 0.5, 1.0)
        tile = fma(tile, 0.5, 1.0)
        tile = fma(tile, 0.5, 1.0)
    store(tile, results, thread * TILE, WIDTH)


@kernel(parallel=True, serial=0)
def read_all(x, results, queue, thread):
    """Add up float32 ``x``, whole blocks of ``BLOCK`` elements, so that all of it is read. ``results`` as of :func:`multiply_add`."""
    tile = zeros(x, MAX_ROWS, VECTORS)
    while True:
        at = take(queue, 1) * BLOCK
        if at >= x.size:
            break
        for place in range(at, at + BLOCK, TILE):
            tile = tile + load(x, place, WIDTH, MAX_ROWS, VECTORS)
    store(tile, results, thread * TILE, WIDTH)


def peak(threads: int, seconds: float = 0.5) -> float:
    """Floating-point operations per second of float32 multiply-adds between registers."""
    results, repeats = arrays.zeros((threads, TILE), np.float32), 1 << 18
    return 2 * UNROLLED * repeats * results.size / _least(lambda: multiply_add(results, repeats), seconds)


def bandwidth(threads: int, seconds: float = 0.5) -> float:
    """Bytes per second that are read from memory."""
    x, results = arrays.empty(BLOCKS * BLOCK, np.float32), arrays.zeros((threads, TILE), np.float32)
    x.fill(1)
    return x.nbytes / _least(lambda: read_all(x, results), seconds)


def _least(run: Callable[[], Any], seconds: float) -> float:
    """The least seconds of a call, of calls for about so many; the first one compiles."""
    run()
    times: list[float] = []
    while sum(times) < seconds:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(threads: int) -> dict[str, float]:
    """What the bounds are made of, at so many threads: ``{"flops": per second, "bytes": per second}``."""
    jit.set_num_threads(threads)
    return {"flops": peak(threads), "bytes": bandwidth(threads)}


def work(model: Any, batch: int) -> dict[str, int]:
    """What running a batch takes: ``flops``, twice the multiply-adds of convolutions and dense layers computed directly, and ``bytes``
    that move at least once: parameters, inputs and outputs."""
    nodes = [node for node in model.graph.nodes if type(node.layer).__module__ in MATRIX_LAYERS]
    elements = sum(math.prod(tensor.shape) for tensor in (*model.graph.inputs, *model.graph.outputs))
    return {
        "flops": batch * sum(int(node.layer.flops(node.shapes)) for node in nodes),
        "bytes": model.store.nbytes + batch * elements * model.dtype.itemsize,
    }


def bounds(taken: dict[str, int], machine: dict[str, float]) -> dict[str, float]:
    """Milliseconds that :func:`work` takes at least on what :func:`measure` found."""
    return {"arithmetic": 1e3 * taken["flops"] / machine["flops"], "memory": 1e3 * taken["bytes"] / machine["bytes"]}
