"""Merging layers, layers of shape, softmax and learned weights on the GPU, beyond the table of layers: sizes beyond a block or a tile,
sums in several parts, broadcasting of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbacnn as nc

from .test_layers import compiled, no_device, simulated  # noqa: F401
from .test_norm import assert_as_on_the_cpu, changed, many_parts, trained  # noqa: F401

BROADCAST = {
    "gate": [(7, 5, 9), (1, 1, 9)],
    "attention": [(2, 6, 33), (2, 6, 1)],
    "single": [(300,), (1,)],
    "both ways": [(3, 1, 4), (1, 5, 4)],
    "between": [(3, 4, 2, 3), (1, 4, 1, 3)],
    "three": [(3, 2), (2,), (1, 1)],
}


def of(layer: nc.Layer, *shapes: tuple[int, ...]) -> nc.Model:
    inputs = [nc.Input(shape) for shape in shapes]
    return changed(nc.Model(inputs, layer(*inputs), seed=3))


@simulated
@pytest.mark.parametrize("shapes", BROADCAST.values(), ids=BROADCAST)
@pytest.mark.parametrize("layer", [nc.Add(), nc.Subtract(), nc.Multiply(), nc.Maximum()], ids=lambda layer: layer.stem)
def test_broadcasting(layer: nc.Layer, shapes: list[tuple[int, ...]]) -> None:
    shapes = shapes[: layer.arity]
    assert_as_on_the_cpu(lambda: of(layer, *(shapes if layer.backward_reads else shapes[::-1])))


@simulated
def test_sums_in_parts(many_parts: None) -> None:  # noqa: F811
    from numbacnn.kernels.cuda import sums
    from numbacnn.kernels.cuda.memory import empty, on_device

    rng = np.random.default_rng(3)
    for shape, kept in [((160, 60), (1, 60)), ((3, 300, 2), (3, 1, 2)), ((2, 1300), (2, 1)), ((2, 20, 3, 30), (1, 20, 1, 1))]:
        a, b = (rng.standard_normal(shape).astype("float32") for _ in range(2))
        axes = tuple(k for k, n in enumerate(kept) if n == 1)
        size = sums.partials_size(shape, shape, kept)
        y, partials = empty(kept, np.float32), empty((size,), np.float32)
        sums.sum_product(on_device(a), on_device(b), y, partials, -2.0)
        np.testing.assert_allclose(y.download(), -2 * (a * b).astype(float).sum(axes, keepdims=True), atol=1e-3)


@simulated
def test_add_to_its_input_once() -> None:
    """In blocks with threads that are left over."""
    from numbacnn.kernels.cuda import merge
    from numbacnn.kernels.cuda.memory import on_device

    a, b = (np.random.default_rng(3).standard_normal(shape).astype("float32") for shape in ((40, 5, 3), (40, 1, 3)))
    for operands, expected in (((0, 1), a + b), ((1, 0), b + a)):
        y = on_device(a)
        merge.pairwise(merge.add, *((y, on_device(b))[k] for k in operands), y)
        np.testing.assert_array_equal(y.download(), expected)


@simulated
def test_maximum_of_nan_and_ties() -> None:
    def run(device: str) -> list[Any]:
        model = of(nc.Maximum(), (4,), (4,), (1,))
        plan = (model if device == "cpu" else model.to(device)).training_plan(1, True, device=device)
        if device != "cpu":
            plan.refresh()
        for array, values in zip(plan.inputs, ([1, np.nan, 2, 0], [1, 0, np.nan, -np.inf], [1])):
            plan.device.upload(np.array([values], "float32"), array)
        plan.forward()
        plan.device.upload(np.array([[1, 2, 3, 4]], "float32"), plan.output_gradients[0])
        plan.backward()
        return [*plan.device.copies(plan.outputs), *plan.device.copies(plan.input_gradients)]

    for found, expected in zip(run("cuda"), run("cpu"), strict=True):
        np.testing.assert_array_equal(found, expected)


@simulated
@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (nc.Permute((1, 0)), [(37, 35)]),  # tiles
        (nc.Permute((2, 0, 1)), [(9, 10, 3)]),  # too narrow for tiles
        (nc.Permute((3, 1, 0, 2)), [(9, 2, 3, 11)]),  # tiles in planes
        (nc.Permute((2, 4, 0, 3, 1)), [(2, 3, 2, 2, 3)]),
        (nc.ZeroPad(((1, 2), (0, 1)), channels=(2, 1)), [(5, 7, 9)]),
        (nc.Crop(((1, 2), (0, 3))), [(9, 8, 40)]),
        (nc.DepthToSpace(2, "CRD"), [(3, 4, 36)]),
        (nc.SpaceToDepth(3), [(6, 9, 8)]),
        (nc.ChannelShuffle(3), [(3, 5, 60)]),
        (nc.Slice(axis=0, start=1), [(3, 5, 70)]),
        (nc.Concatenate(axis=0), [(2, 3, 5), (1, 3, 5), (4, 3, 5)]),
        (nc.Concatenate(), [(9, 9, 3), (9, 9, 80)]),
        (nc.Split((5, 65)), [(5, 6, 70)]),
        (nc.Scale(), [(5, 9, 70)]),
        (nc.Scale(axis=1), [(3, 5, 20)]),
        (nc.PReLU(), [(5, 9, 70)]),
        (nc.PReLU(shared=True), [(5, 70)]),
        (nc.Softmax(), [(5, 300)]),
        (nc.Softmax(), [(9, 9)]),
        (nc.LogSoftmax(), [(2100,)]),
    ],
    ids=str,
)
def test_sizes(layer: nc.Layer, shapes: list[tuple[int, ...]]) -> None:
    def make() -> nc.Model:
        inputs = [nc.Input(shape) for shape in shapes]
        y = layer(*inputs)
        return changed(nc.Model(inputs, nc.Concatenate()(y[::-1]) if isinstance(y, (list, tuple)) else y, seed=3))

    assert_as_on_the_cpu(make)


@simulated
@pytest.mark.filterwarnings("ignore:invalid value")
def test_softmax_of_infinities() -> None:
    x = np.array([[1000.0, -np.inf, 999.0], [-np.inf, -np.inf, -np.inf], [np.nan, 0, 1]], "float32")
    for layer in (nc.Softmax(), nc.LogSoftmax()):
        expected = of(layer, (3,)).predict(x)
        np.testing.assert_allclose(of(layer, (3,)).to("cuda").predict(x), expected, rtol=1e-6)


@simulated
def test_add_over_its_input_in_inference() -> None:
    x = nc.Input((4, 3))
    y = nc.Add()(nc.Activation("relu")(x), nc.Add()(nc.Activation("tanh")(x), nc.Activation("silu")(x)), nc.Scale(2.0)(x))
    model, batch = nc.Model(x, y), np.random.default_rng(3).standard_normal((3, 4, 3)).astype("float32")
    expected = model.predict(batch)
    np.testing.assert_allclose(model.to("cuda").predict(batch), expected, rtol=1e-5, atol=1e-6)


@compiled
def test_kernels_compile_without_spills(no_device: Any, capabilities: tuple) -> None:  # noqa: F811
    no_device.wanted.clear()
    for layer in (nc.Add(), nc.Subtract(), nc.Multiply(), nc.Maximum()):
        for shapes in BROADCAST.values():
            trained(of(layer, *shapes[: layer.arity]).to("cuda"), "cuda")
    for moving in (nc.Permute((1, 0)), nc.Scale(axis=0)):
        trained(of(moving, (37, 35)).to("cuda"), "cuda")
    for kernel, kinds in no_device.wanted:
        for capability in capabilities:
            assert kernel.machine_code(kinds, capability).spilled == 0, kernel.function.__qualname__


@simulated
@pytest.mark.parametrize("count", [1, 4, 1023, 1026])
@pytest.mark.parametrize("begin", [0, 1])
def test_elements_by_fours(count: int, begin: int) -> None:
    """Also where there is no four, and of arrays that begin anywhere."""
    from numbacnn.kernels.bfloat16 import BF16
    from numbacnn.kernels.cuda import pointwise
    from numbacnn.kernels.cuda.memory import cut_in_fours, empty, on_device

    a, b = (np.random.default_rng(k).integers(-9, 9, count + 2).astype("float32") for k in range(2))
    for kind in (np.float32, BF16):
        x, y, z = on_device(a), empty(a.shape, kind), empty(a.shape, kind)
        y.upload(b)
        z.clear()
        x, part, z_part = (array[begin : begin + count] for array in (x, y, z))
        assert cut_in_fours(x, part) == (-(-(count if begin else count // 4 + count % 4) // 256), 0 if begin else count // 4)
        pointwise.backward(_square, None, x, part, z_part)
        pointwise.add(x, part)
        inside = slice(begin, begin + count)
        expected_y, expected_z = b.copy(), np.zeros_like(b)
        expected_y[inside] += a[inside]
        expected_z[inside] = 2 * a[inside] * b[inside]
        np.testing.assert_array_equal(y.download(), expected_y)
        np.testing.assert_allclose(z.download(), expected_z, rtol=2.0**-8)
        pointwise.forward(_square, part, z_part)
        expected_z[inside] = expected_y[inside] ** 2
        np.testing.assert_allclose(z.download(), expected_z, rtol=2.0**-8)


def _square(x: Any) -> Any:
    return x * x
