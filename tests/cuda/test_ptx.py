"""The instructions that Python has no words for: simulated, what they compute; compiled, that they are there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numba import types
from numba.core import config

if not config.ENABLE_CUDASIM and find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda", allow_module_level=True)

from numbacnn.kernels.cuda import simulator
from numbacnn.kernels.cuda.driver import cuda, float32, int32, uint32
from numbacnn.kernels.cuda.launch import kernel
from numbacnn.kernels.cuda.memory import empty, on_device
from numbacnn.kernels.cuda.ptx import (
    cp_async,
    cp_async_cached,
    cp_async_commit,
    cp_async_wait,
    from_bf16x2,
    ldmatrix,
    ldmatrix_transposed,
    load4,
    mma_bf16,
    mma_tf32,
    store2,
    store4,
    to_bf16x2,
    to_tf32,
)  # fmt: skip

simulated = pytest.mark.skipif(not config.ENABLE_CUDASIM, reason="needs NUMBA_ENABLE_CUDASIM=1")
compiled = pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="needs no simulator")
FLOATS, WORDS = types.CPointer(types.float32), types.CPointer(types.uint32)


@kernel(threads=64)
def tf32_product(a, b, c, d):
    """``d = a @ b + c`` of 16 x 8, 8 x 8 and 16 x 8 numbers, for each of two warps."""
    lane, warp = int32(cuda.threadIdx.x) % int32(32), int32(cuda.threadIdx.x) // int32(32)
    g, t = lane // int32(4), lane % int32(4)
    left, right, sums = warp * int32(128), warp * int32(64), warp * int32(128) + g * int32(8) + t * int32(2)
    found = mma_tf32(
        (
            to_tf32(a[left + g * int32(8) + t]), to_tf32(a[left + (g + int32(8)) * int32(8) + t]),
            to_tf32(a[left + g * int32(8) + t + int32(4)]), to_tf32(a[left + (g + int32(8)) * int32(8) + t + int32(4)]),
        ),
        (to_tf32(b[right + t * int32(8) + g]), to_tf32(b[right + (t + int32(4)) * int32(8) + g])),
        (c[sums], c[sums + int32(1)], c[sums + int32(64)], c[sums + int32(65)]),
    )  # fmt: skip
    store2(d, sums, (found[0], found[1]))
    store2(d, sums + int32(64), (found[2], found[3]))


@kernel(threads=32)
def bf16_product(a, b, d):
    """``d = a @ b`` of 16 x 16 and 16 x 16 numbers, whose fragments ``ldmatrix`` makes."""
    left, right = cuda.shared.array(128, uint32), cuda.shared.array(128, uint32)
    lane = int32(cuda.threadIdx.x)
    for i in range(4):
        at = lane * int32(4) + int32(i)
        left[at] = to_bf16x2(a[int32(2) * at], a[int32(2) * at + int32(1)])
        right[at] = to_bf16x2(b[int32(2) * at], b[int32(2) * at + int32(1)])
    cuda.syncthreads()
    place = (lane % int32(16)) * int32(8) + lane // int32(16) * int32(4)
    x, w = ldmatrix(left, place), ldmatrix_transposed(right, place)
    zeros = (float32(0), float32(0), float32(0), float32(0))
    first, second = mma_bf16(x, (w[0], w[1]), zeros), mma_bf16(x, (w[2], w[3]), zeros)
    at = lane // int32(4) * int32(16) + lane % int32(4) * int32(2)
    store2(d, at, (first[0], first[1]))
    store2(d, at + int32(128), (first[2], first[3]))
    store2(d, at + int32(8), (second[0], second[1]))
    store2(d, at + int32(136), (second[2], second[3]))


@kernel(threads=32)
def copies(x, y, count):
    """Each thread's four elements, by two asynchronous copies: zeros beyond ``count``, then again, one after the last."""
    tile = cuda.shared.array(256, float32)
    at = int32(cuda.threadIdx.x) * int32(4)
    cp_async(tile, at, x, at if at < count else int32(0), at < count)
    cp_async_commit()
    cp_async_cached(tile, at + int32(128), x, at, True)
    cp_async_commit()
    cp_async_wait(1)
    cuda.syncthreads()
    other = int32(124) - at
    store4(y, at, load4(tile, other))
    cp_async_wait(0)
    cuda.syncthreads()
    store4(y, at + int32(128), load4(tile, other + int32(128)))


@kernel(threads=32)
def conversions(x, words, y):
    """To pairs and back, and to tf32."""
    at = int32(cuda.threadIdx.x) * int32(2)
    pair = to_bf16x2(x[at], x[at + int32(1)])
    store2(y, at, from_bf16x2(pair))
    store2(words, at, (pair, to_tf32(x[at])))


def ran(used: Any, *arguments: np.ndarray | int, shape: tuple[int, ...]) -> np.ndarray:
    result = empty(shape, np.float32)
    used(1, *(argument if isinstance(argument, int) else on_device(argument) for argument in arguments), result)
    return result.download()


@simulated
def test_products_of_tf32() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-8, 9, shape).astype("f") / 4 for shape in ((2, 16, 8), (2, 8, 8), (2, 16, 8)))
    np.testing.assert_array_equal(ran(tf32_product, a, b, c, shape=c.shape), a @ b + c)


@simulated
def test_products_of_bf16() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, (16, 16)).astype("f") / 4 for _ in range(2))
    np.testing.assert_array_equal(ran(bf16_product, a, b, shape=(16, 16)), a @ b)


@simulated
def test_copies_that_are_under_way() -> None:
    x = np.arange(128, dtype="f")
    y = empty((2, 128), np.float32)
    copies(1, on_device(x), y, 100)
    expected = np.stack([np.where(x < 100, x, 0), x]).reshape(2, 32, 4)[:, ::-1].reshape(2, 128)
    np.testing.assert_array_equal(y.download(), expected)


@kernel(threads=32)
def _reads_too_early(x, y):
    tile = cuda.shared.array(128, float32)
    at = int32(cuda.threadIdx.x) * int32(4)
    cp_async(tile, at, x, at, True)
    cp_async_commit()
    cuda.syncthreads()
    store4(y, at, load4(tile, at))


@kernel(threads=32)
def _exchanges_in_part(x, y):
    if int32(cuda.threadIdx.x) < int32(16):
        tile = cuda.shared.array(128, uint32)
        y[int32(cuda.threadIdx.x)] = ldmatrix(tile, int32(0))[0]


@kernel(threads=64)
def _warps_part(x, y):
    tile = cuda.shared.array(128, uint32)
    if int32(cuda.threadIdx.x) < int32(32):
        ldmatrix(tile, int32(0))
    cuda.syncthreads()


@simulated
def test_the_simulator_shows_mistakes() -> None:
    x, y = on_device(np.ones(128, "f")), empty((128,), np.float32)
    _reads_too_early(1, x, y)
    assert np.isnan(y.download()).all()
    with pytest.raises(RuntimeError, match="only some threads of a warp"):
        _exchanges_in_part(1, x, y)
    with pytest.raises(RuntimeError, match="some threads of a block wait at a barrier"):
        _warps_part(1, x, y)
    for at, what in ((2, "no multiple of 4"), (128, "elements 128 to 132 of 128")):
        with pytest.raises(IndexError, match=what):
            load4(simulator.Pointer(np.zeros(128, "f")), at)


@simulated
def test_conversions() -> None:
    step = 2.0**-7  # from one bfloat16 to the next above 1
    given = np.array([1, 1 + step / 2, 1 + 1.5 * step, -1 - 0.51 * step, 3.0e38, np.inf, -np.inf, 0], "f")
    x, y = np.resize(given, 64), empty((64,), np.float32)
    words = empty((32, 2), np.uint32)
    conversions(1, on_device(x), words, y)
    expected = np.array([1, 1, 1 + 2 * step, -1 - step, 226 * 2.0**120, np.inf, -np.inf, 0], "f")
    np.testing.assert_array_equal(y.download()[:8], expected)
    pairs = expected.view(np.uint32).reshape(4, 2) >> 16
    np.testing.assert_array_equal(words.download()[:4, 0], pairs[:, 0] | pairs[:, 1] << 16)
    step = 2.0**-10
    halfway = np.array([1 + step / 2, -1 - step / 2, 1 + 0.49 * step, np.inf], "f")
    tf32 = np.array([to_tf32(value) for value in halfway], np.uint32).view("f")
    np.testing.assert_array_equal(tf32, np.array([1 + step, -1 - step, 1, np.inf], "f"))
    assert np.isnan(np.array([to_tf32(np.float32(np.nan))], np.uint32).view("f")).all()
    assert np.isnan(from_bf16x2(to_bf16x2(np.float32(np.nan), np.float32(0)))[0])


@compiled
@pytest.mark.parametrize(
    ("used", "kinds", "instructions"),
    [
        (tf32_product, (FLOATS,) * 4, ["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "cvt.rna.tf32.f32", "st.global.v2"]),
        (
            bf16_product,
            (FLOATS,) * 3,
            [
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
                "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "cvt.rn.bf16x2.f32",
            ],
        ),
        (
            copies,
            (FLOATS, FLOATS, types.int32),
            [
                "cp.async.cg.shared.global", "cp.async.ca.shared.global", "cp.async.commit_group", "cp.async.wait_group 1;",
                "cp.async.wait_group 0;", "ld.shared.v4", "st.global.v4",
            ],
        ),
        (conversions, (FLOATS, WORDS, FLOATS), ["cvt.rn.bf16x2.f32", "cvt.rna.tf32.f32"]),
    ],
    ids=["tf32", "bf16", "copies", "conversions"],
)  # fmt: skip
def test_instructions(used: Any, kinds: tuple, instructions: list[str]) -> None:
    _, text = used.ptx(kinds, (8, 0))
    for instruction in instructions:
        assert instruction in text
    for capability in ((8, 0), (9, 0)):
        assert used.machine_code(kinds, capability).spilled == 0


@compiled
def test_the_disk_cache_knows_the_instructions() -> None:
    assert copies._file((FLOATS, FLOATS, types.int32), (8, 0)) is not None


@kernel(threads=32)
def extremes(x, y):
    y[int32(0)] = max(x[int32(0)], x[int32(1)])
    y[int32(1)] = min(x[int32(2)], float32(6))


@compiled
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_what_is_no_number_wins(capability: tuple[int, int]) -> None:
    """As on the CPU and in the simulator: ``max.f32`` would lose it."""
    _, text = extremes.ptx((FLOATS, FLOATS), capability)
    assert "max.f32" not in text
    assert "min.f32" not in text
