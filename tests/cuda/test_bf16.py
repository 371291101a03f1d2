"""Arrays of bfloat16: pointers to them, copies, and convolutions of them on tensor cores."""

from __future__ import annotations

from importlib.util import find_spec
from math import exp
from typing import Any

import numpy as np
import pytest
from numba import types
from numba.core import config

if not config.ENABLE_CUDASIM and find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda", allow_module_level=True)

from numbacnn.kernels.bfloat16 import BF16, rounded, widened
from numbacnn.kernels.conv.window import POINTWISE, Window
from numbacnn.kernels.cuda import driver, stand_ins
from numbacnn.kernels.cuda.conv import bf16, bf16_stored, tensor
from numbacnn.kernels.cuda.driver import cuda, int32
from numbacnn.kernels.cuda.ending import Ending
from numbacnn.kernels.cuda.launch import kernel
from numbacnn.kernels.cuda.memory import DeviceArray, empty, on_device
from numbacnn.kernels.cuda.ptx import Bf16Pointer, load2, load4, store2, store4

from .test_tensor import Sums

simulated = pytest.mark.skipif(not config.ENABLE_CUDASIM, reason="needs NUMBA_ENABLE_CUDASIM=1")
compiled = pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="needs no simulator")
FLOATS, HALVES, TABLE = types.CPointer(types.float32), Bf16Pointer(), types.CPointer(types.int32)

STEP = 2.0**-7  # from one bfloat16 to the next above 1
NUMBERS = [  # and what is stored for them
    (1, 1), (1 + STEP / 2, 1), (1 + STEP * 0.51, 1 + STEP), (1 + STEP * 1.5, 1 + 2 * STEP), (-1 - STEP * 1.5, -1 - 2 * STEP),
    (-1 - STEP / 2, -1), (0.0, 0.0), (-0.0, -0.0), (np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan), (3.0e38, 226 * 2.0**120),
    (3.4e38, np.inf), (2.0**-133, 2.0**-133), (2.0**-134, 0.0), (1.5 * 2.0**-133, 2.0**-132), (-(2.0**-149), -0.0), (2 - STEP / 4, 2),
]  # fmt: skip


def stored(values: np.ndarray) -> DeviceArray:
    """A copy on the device, rounded."""
    found = empty(values.shape, BF16)
    found.upload(values)
    return found


@kernel(threads=32)
def one_by_one(x, y, count):
    at = int32(cuda.threadIdx.x)
    if at < count:
        y[at] = x[at]


@kernel(threads=32)
def by_twos(x, y, count):
    at = int32(cuda.threadIdx.x) * int32(2)
    if at < count:
        store2(y, at, load2(x, at))


@kernel(threads=32)
def by_fours(x, y, count):
    at = int32(cuda.threadIdx.x) * int32(4)
    if at < count:
        store4(y, at, load4(x, at))


@kernel(threads=32)
def adds(x, y, count):
    at = int32(cuda.threadIdx.x)
    if at < count:
        y[at] += x[at]


WAYS = [one_by_one, by_twos, by_fours]
each_way = pytest.mark.parametrize("copies", WAYS, ids=lambda way: way.function.__name__)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found)[~np.isnan(found)], np.signbit(expected)[~np.isnan(expected)])


@simulated
@each_way
def test_stores_round_to_the_nearest(copies: Any) -> None:
    given, expected = (np.resize(np.array(column, "f"), 20) for column in zip(*NUMBERS))
    y = empty((20,), BF16)
    copies(1, on_device(given), y, 20)
    assert_same_bits(y.download(), expected)


@simulated
@each_way
def test_loads_lose_nothing(copies: Any) -> None:
    given = widened(np.random.default_rng(0).integers(0, 1 << 16, 32).astype(np.uint16))
    given[np.isnan(given)] = 1
    y = empty((32,), np.float32)
    copies(1, stored(given), y, 32)
    assert_same_bits(y.download(), given)


@simulated
def test_sums_are_rounded_when_they_are_stored() -> None:
    y = stored(np.ones(3, "f"))
    adds(1, on_device(np.array([STEP / 4, 0.6 * STEP, 255], "f")), y, 3)
    np.testing.assert_array_equal(y.download(), [1, 1 + STEP, 256])


@simulated
def test_what_lies_outside_is_not_reached() -> None:
    with pytest.raises(IndexError, match="element 3 of 3"):
        one_by_one(1, stored(np.ones(3, "f")), empty((4,), np.float32), 4)
    with pytest.raises(IndexError, match="elements 0 to 4 of 3"):
        by_fours(1, stored(np.ones(3, "f")), empty((4,), np.float32), 4)


def test_rounding_on_the_host_is_that_of_nearest_neighbours() -> None:
    """Of many numbers of any size: none of the two neighbours is nearer, and halves go to even."""
    bits = np.random.default_rng(1).integers(0, 0x7F7F0000, 4000).astype(np.uint32)
    bits[::4] = bits[::4] & 0xFFFF0000 | 0x8000
    given = bits.view("f").astype(np.float64)
    found = rounded(bits.view("f"))
    error = np.abs(widened(found) - given)
    for other in (found - 1, found + 1):
        distance = np.abs(widened(other.astype(np.uint16)) - given)
        assert ((error < distance) | (found % 2 == 0) & (error == distance))[(found > 0) & (found < 0x7F7F)].all()


@simulated
def test_arrays() -> None:
    values = np.random.default_rng(0).standard_normal((4, 3, 2)).astype("f")
    expected = widened(rounded(values))
    array = stored(values)
    assert (array.nbytes, array.size, array.dtype) == (48, 24, BF16)
    np.testing.assert_array_equal(array.download(), expected)
    np.testing.assert_array_equal(array[1:3].reshape(-1, 6).download(), expected[1:3].reshape(2, 6))
    into = np.empty((4, 3, 2), np.float32)
    assert array.download(into) is into
    np.testing.assert_array_equal(into, expected)
    wide, again = empty((4, 3, 2), np.float32), empty((4, 3, 2), BF16)
    wide.copy_from(array)
    np.testing.assert_array_equal(wide.download(), expected)
    again.copy_from(on_device(values))
    np.testing.assert_array_equal(again.download(), expected)
    again.clear()
    again.copy_from(array)
    np.testing.assert_array_equal(again.download(), expected)
    array[:1].clear()
    assert not array.download()[0].any()
    assert not hasattr(array, "__cuda_array_interface__")


@simulated
def test_dlpack_has_a_name_for_them() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal((3, 5)).astype("f")
    found = torch.from_dlpack(stored(values))
    assert found.dtype == torch.bfloat16
    np.testing.assert_array_equal(found.float().numpy(), torch.from_numpy(values).bfloat16().float().numpy())


@compiled
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize("way", range(3))
def test_instructions(capability: tuple[int, int], way: int) -> None:
    used = WAYS[way]
    loads, stores = (["ld.global.u16", "st.global.u16"], ["ld.global.u32", "st.global.u32"], ["ld.global.v2.u32", "st.global.v2.u32"])[way]
    _, text = used.ptx((HALVES, FLOATS, types.int32), capability)
    assert loads in text
    assert "cvt" not in text.replace("cvta", "").replace("cvt.s64.s32", "").replace("cvt.u32.u64", "")  # a shift, no conversion
    _, text = used.ptx((FLOATS, HALVES, types.int32), capability)
    assert stores in text
    assert ("cvt.rn.bf16.f32" if way == 0 else "cvt.rn.bf16x2.f32") in text
    used.machine_code((HALVES, HALVES, types.int32), capability)


@compiled
def test_machine_code_for_them_is_another() -> None:
    paths = {one_by_one._file((kind, FLOATS, types.int32), (8, 0)) for kind in (HALVES, FLOATS, TABLE)}
    assert len(paths) == 3


# Convolutions ------------------------------------------------------------------------------------------------------------

WINDOWS = {
    "dilated": (2, (1, 7, 6), 8, 16, Window((1, 3, 2), (1, 1, 1), (1, 2, 3), (0, 2, 1))),
    "strided": (2, (1, 7, 5), 16, 8, Window((1, 3, 3), (1, 2, 3), (1, 1, 2), (0, 1, 2))),
    "planes": (1, (3, 4, 3), 40, 8, Window((2, 1, 3), (2, 1, 1), (1, 1, 1), (1, 0, 1))),
    "grouped": (1, (1, 5, 5), 16, 48, Window((1, 3, 3), (1, 2, 2), (1, 1, 1), (0, 1, 1), 2)),
    "pointwise": (3, (1, 3, 7), 72, 88, POINTWISE),
    "one pixel": (1, (1, 1, 1), 8, 8, POINTWISE),
    "mostly padding": (1, (1, 1, 2), 32, 8, Window((1, 5, 5), (1, 1, 1), (1, 1, 1), (0, 2, 2))),
    "by fours": (1, (1, 5, 3), 12, 20, Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1))),
    "groups by fours": (1, (1, 3, 3), 8, 24, Window((1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), 2)),
}


class Random(Sums):
    """The same with random numbers that are rounded to bfloat16, and results in double precision."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        rng = np.random.default_rng(3)
        for name in ("x", "w", "dy"):
            setattr(self, name, widened(rounded(rng.standard_normal(getattr(self, name).shape))).astype(np.float64))
        for name in ("y", "dx", "dw"):
            setattr(self, name, np.zeros(getattr(self, name).shape))
        self.compute()


def assert_close(found: DeviceArray, expected: np.ndarray, addends: int) -> None:
    """Up to the rounding of float32's sums, and of what is stored."""
    largest = np.abs(expected).max() + 1e-30
    step = 2.0**-8 if found.dtype == BF16 else 0
    error = np.abs(found.download() - expected)
    assert (error <= step * np.abs(expected) * 1.01 + 2.0**-22 * addends**0.5 * largest).all(), error.max() / largest


def check(sums: Random, left: Any = BF16, right: Any = BF16, result: Any = BF16) -> int:
    """The three passes, with operands and results of these types; into how many parts the gradient of weights is cut."""

    def given(values: np.ndarray, kind: Any) -> DeviceArray:
        array = empty(values.shape, kind)
        array.upload(values)
        return array

    x, w, dy = given(sums.x, left), given(sums.w, right), given(sums.dy, left)
    y, dx, dw = empty(sums.y.shape, result), empty(sums.dx.shape, result), empty(sums.dw.shape, np.float32)
    tensor.Forward(sums.problem, "bf16").run(x, w, y, Ending())
    assert_close(y, sums.y, sums.w.size // sums.w.shape[-1])
    tensor.DataGradient(sums.problem, "bf16").run(dy, w, dx, Ending())
    assert_close(dx, sums.dx, sums.w.size // sums.w.shape[-2])
    gradient = tensor.WeightGradient(sums.problem, "bf16")
    scratch = empty((gradient.scratch_elements,), np.float32)
    gradient.run(x, given(sums.dy, right), dw, scratch)
    assert_close(dw, sums.dw, sums.dy.size // sums.dy.shape[-1])
    return scratch.size // dw.size


@simulated
@pytest.mark.parametrize("given", WINDOWS.values(), ids=WINDOWS)
def test_convolutions(given: tuple) -> None:
    check(Random(*given))


@simulated
@pytest.mark.parametrize("columns", [128, 64])
def test_several_blocks(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows and columns than a tile, and a depth of more tiles than are under way, the last ones not whole."""
    monkeypatch.setattr(tensor, "_columns", lambda *_: columns)
    monkeypatch.setattr(tensor, "LEAST_TILES", 1)
    monkeypatch.setattr(tensor, "AT_ONCE", 8)
    parts = check(Random(1, (1, 11, 13), 40, columns + 8, Window((1, 2, 2), (1, 1, 1), (1, 1, 1), (0, 1, 0))))
    assert parts > 1


@simulated
def test_copies_that_land_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is overwritten that is still to be read, in a depth of more tiles than are under way."""
    monkeypatch.setattr(stand_ins, "AT_ONCE", True)
    monkeypatch.setattr(tensor, "_columns", lambda *_: 64)
    monkeypatch.setattr(tensor, "LEAST_TILES", 100)
    check(Random(3, (1, 8, 8), 48, 48, Window((1, 2, 2), (1, 1, 1), (1, 1, 1), (0, 1, 0))))


@simulated
@pytest.mark.parametrize("kinds", [(np.float32, BF16, BF16), (BF16, np.float32, BF16), (BF16, BF16, np.float32), (np.float32,) * 3])
def test_some_arrays_may_be_float32(kinds: tuple) -> None:
    check(Random(*WINDOWS["strided"]), *kinds)


@simulated
def test_which_kernels_take_them() -> None:
    """Whole copies of 16 bytes go to shared memory as they are."""
    window = Window((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0), 2)
    for channels, outputs, expected in ((16, 32, bf16_stored), (8, 32, bf16), (16, 40, bf16)):
        problem = tensor.Problem(window, (1, 1, 1), channels, (1, 1, 1), outputs, 1)
        array, wide = empty((8,), BF16), empty((8,), np.float32)
        assert tensor.Forward(problem, "bf16")._kernels(array, array) is expected
        assert tensor.Forward(problem, "bf16")._kernels(wide, array) is bf16
        assert tensor.Forward(problem, "bf16")._kernels(array, array[4:]) is bf16


@simulated
def test_endings() -> None:
    """The addend is bfloat16, the numbers of channels are float32."""
    sums, rng = Random(*WINDOWS["grouped"]), np.random.default_rng(2)
    scale, shift = (rng.standard_normal(sums.y.shape[-1]).astype("f") for _ in range(2))
    addend = widened(rounded(rng.standard_normal(sums.y.shape)))
    y = empty(sums.y.shape, BF16)
    ending = Ending(on_device(scale), on_device(shift), stored(addend), lambda value: value + value)
    tensor.Forward(sums.problem, "bf16").run(stored(sums.x), stored(sums.w), y, ending)
    assert_close(y, 2 * (sums.y * scale + shift + addend), 100)


@simulated
def test_infinite_numbers_stay_where_they_are() -> None:
    sums = Random(1, (1, 1, 2), 8, 8, POINTWISE)
    for array in (sums.x, sums.w, sums.dy):
        array.flat[0] = np.inf
    y, dx, dw = empty(sums.y.shape, BF16), empty(sums.dx.shape, BF16), empty(sums.dw.shape, np.float32)
    x, w, dy = stored(sums.x), stored(sums.w), stored(sums.dy)
    tensor.Forward(sums.problem, "bf16").run(x, w, y, Ending())
    tensor.DataGradient(sums.problem, "bf16").run(dy, w, dx, Ending())
    tensor.WeightGradient(sums.problem, "bf16").run(x, dy, dw, None)
    for found in (y, dx, dw):
        assert np.isfinite(found.download().reshape(-1, 8)[1:, 1:]).all()
        assert not np.isfinite(found.download().reshape(-1, 8)[0, 0])


def _silu(x: Any) -> Any:
    return x / (1 + exp(-x))


REGISTERS = {128: 128, 64: 128}  # of 256 threads: two blocks are resident


@compiled
@pytest.mark.parametrize("columns", [128, 64])
def test_registers(columns: int) -> None:
    """Operands go past registers, sums stay in them, for two generations of GPUs."""
    wanted: list[tuple] = []
    for transposed in (False, True):
        plain = bf16_stored.convolution((False, True, True, None), columns, transposed, False)
        wanted.append((plain, (HALVES,) * 3 + (FLOATS,) * 2 + (HALVES, FLOATS, types.int32) + (TABLE,) * 2 + (types.int32,) * 9))
    fused = bf16_stored.convolution((True, True, True, _silu), columns, False, False)
    wanted.append((fused, wanted[0][1]))
    wanted.append((bf16_stored.weight_gradient(columns), (HALVES,) * 2 + (FLOATS,) + (TABLE,) * 2 + (types.int32,) * 11))
    for used, kinds in wanted:
        name, text = used.ptx(kinds, (9, 0))
        assert "__local_depot" not in text
        for instruction in ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "cp.async.ca", "cp.async.cg", "ldmatrix.sync"):
            assert instruction in text
        assert "cvt.rn.bf16x2.f32" in text or used is wanted[-1][0]
        for code in (used.machine_code(kinds, (8, 0)), driver.to_machine_code(name, text, (9, 0))):
            assert code.spilled == 0
            assert code.stack == 0
            assert code.registers <= REGISTERS[columns]
