"""The machine code of kernels: that what is meant to be one wide or special instruction is one, and that all numbers are in registers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numba import types
from numba.core import config

if config.ENABLE_CUDASIM or find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda, and no simulator", allow_module_level=True)

import numbacnn as nc
from numbacnn.kernels.cuda import runtime
from numbacnn.kernels.cuda.driver import cuda, float32, int32
from numbacnn.kernels.cuda.launch import kernel

from .sass import Listing, needs_nvdisasm
from .test_layers import BATCH, CASES, model_of, samples

pytestmark = needs_nvdisasm

HOPPER = (9, 0)
FLOATS = types.CPointer(types.float32)


@pytest.fixture(scope="module")
def hopper() -> Iterator[Any]:
    with runtime.pretended(runtime.Blueprint(HOPPER)) as blueprint:
        yield blueprint


def listings(blueprint: Any, capability: tuple[int, int] = HOPPER) -> list[tuple[str, Listing]]:
    """All kernels that were wanted, with their names."""
    wanted = [(kernel.function.__qualname__, kernel.machine_code(kinds, capability)) for kernel, kinds in blueprint.wanted]
    return [(name, Listing(code.cubin)) for name, code in wanted]


def of_a_convolution(blueprint: Any, precision: str, taps: int, capability: tuple[int, int] = HOPPER) -> list[Listing]:
    """The kernels of a large convolution that multiply: those of its three passes."""
    blueprint.wanted.clear()
    x = nc.Input((28, 28, 128))
    model = nc.Model(x, nc.Conv2D(128, taps, padding="same")(x)).to("cuda", precision)
    model.predict(np.zeros((16, 28, 28, 128), np.float32))
    model.training_plan(16, True, device="cuda")
    multiplies = "FFMA" if precision == "float32" else "HMMA"
    found = [listing for _, listing in listings(blueprint, capability) if listing.count(multiplies) >= 16]
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("taps", [1, 3])
def test_products_of_float32_load_and_store_four_numbers_at_once(hopper: Any, taps: int) -> None:
    found = of_a_convolution(hopper, "float32", taps)
    assert sum(listing.count("STG.128") > 0 for listing in found) >= 2  # but for the gradient of the weights, which writes little
    for listing in found:
        loop = listing.hottest("FFMA")
        assert loop != (0, len(listing.opcodes))
        assert listing.count("FFMA", within=loop) >= 64
        assert listing.count("FFMA", within=loop) >= 0.6 * (loop[1] - loop[0])
        assert listing.count("LDS.128", within=loop) == listing.count("LDS", within=loop) > 0
        assert listing.count("LDG.128") >= 2


@pytest.mark.parametrize("capability", [(8, 0), HOPPER], ids=["8.0", "9.0"])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize(("precision", "product"), [("tf32", "HMMA.1688.F32.TF32"), ("bf16", "HMMA.16816.F32.BF16")])
def test_products_on_tensor_cores(hopper: Any, precision: str, product: str, taps: int, capability: tuple[int, int]) -> None:
    for listing in of_a_convolution(hopper, precision, taps, capability):
        assert listing.count(product) >= 16
        assert listing.count("STG.128") > 0
        if precision == "bf16":
            assert listing.count("LDSM") >= 4  # fragments by ldmatrix
            assert listing.count("LDG.128", "LDGSTS") >= 2
        else:
            assert listing.count("LDGSTS.128") > 0  # tiles come past the registers


@pytest.mark.nightly  # what the linker says of local arrays is asserted of every layer already
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_in_local_memory(hopper: Any, name: str) -> None:
    hopper.wanted.clear()
    case = CASES[name][0]
    model = model_of(name, case).to("cuda")
    inputs = samples(model, case, np.random.default_rng(7))
    model.predict(tuple(inputs) if len(inputs) > 1 else inputs[0])
    model.training_plan(BATCH, True, device="cuda")
    for what, listing in listings(hopper):
        assert listing.count("LDL", "STL") == 0, what


@kernel(threads=32)
def _from_memory(x, y, count):
    """What the compiler cannot keep in registers."""
    kept = cuda.local.array(64, float32)
    for i in range(count):
        kept[(i * i) & 63] += x[i]
    for i in range(64):
        y[i] = kept[i]


@kernel(threads=32)
def _sums(x, y, count):
    total = float32(0)
    for i in range(count):
        total += x[i] * y[i]
    y[int32(0)] = total


def test_the_listing_shows_what_is_there() -> None:
    listing = Listing(_from_memory.machine_code((FLOATS, FLOATS, types.int32), HOPPER).cubin)
    assert listing.count("STL") > 0
    assert listing.count("LDL") > 0
    assert listing.count("LDL.128") <= listing.count("LDL")
    listing = Listing(_sums.machine_code((FLOATS, FLOATS, types.int32), HOPPER).cubin)
    first, last = listing.hottest("FFMA")
    assert 0 < first < last < len(listing.opcodes)
    assert listing.count("LDG", within=(first, last)) >= 2
    assert listing.count("EXIT") > 0
    assert listing.count("EXIT", within=(first, last)) == 0
