"""Add, Subtract, Multiply, Maximum, Concatenate and Scale, and the kernels under them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from numbacnn import kernels
from numbacnn.errors import ConfigError, ShapeError
from numbacnn.layers.merge import Add, Concatenate, Maximum, Multiply, Subtract
from numbacnn.layers.shape import Scale
from numbacnn.testing import Trial, gradient_check
from tests.naive import merge as naive

OPERATIONS = {
    Add: sum,
    Subtract: lambda values: values[0] - values[1],
    Multiply: math.prod,
    Maximum: max,
}
BROADCASTS = [
    [(3, 5, 2), (3, 5, 2)],
    [(3, 5, 7), (1, 1, 7)],  # squeeze-and-excitation
    [(3, 5, 7), (7,)],
    [(1,), (3, 2)],
    [(3, 1, 7), (1, 5, 1)],
    [(2, 3, 4, 5), (2, 1, 4, 1)],
    [(3, 5, 1), (3, 5, 1)],
    [(1, 1, 1), (1, 1, 1)],
    [(37,), (37,)],
]
REDUCTIONS = [
    ((2, 5, 7, 3), (2, 1, 1, 3)),
    ((2, 5, 7, 70), (2, 5, 7, 1)),
    ((2, 5, 7, 70), (2, 5, 1, 70)),
    ((2, 5, 7, 33), (1, 1, 1, 33)),
    ((3, 13, 11, 37), (1, 1, 1, 1)),
    ((2, 3, 5, 7, 11), (2, 1, 5, 1, 11)),
    ((2, 3, 5, 7, 11), (2, 3, 1, 7, 1)),
    ((1, 200, 3), (1, 1, 3)),
    ((1, 1), (1, 1)),
]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def two_thread_counts(function):
    """The results of ``function`` with one thread and with all."""
    results = []
    before = kernels.jit.num_threads()
    try:
        for threads in (1, before):
            kernels.jit.set_num_threads(threads)
            results.append(function())
    finally:
        kernels.jit.set_num_threads(before)
    return results


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "maximum"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pairwise_kernels(name, dtype, rng):
    for shape, other in REDUCTIONS:
        for a_shape, b_shape in ((shape, other), (other, shape)):
            a, b = rng.standard_normal(a_shape).astype(dtype), rng.standard_normal(b_shape).astype(dtype)
            y = np.full(shape, np.nan, dtype)
            getattr(kernels.merge, name)(a, b, y)
            np.testing.assert_array_equal(y, getattr(naive, name)(a, b))


def test_pairwise_kernels_take_strided_views(rng):
    whole = rng.standard_normal((2, 5, 7, 40)).astype(np.float32)
    a, b = whole[:, 1:4, :, 3:24], whole[:, :3, :, 19:40]
    y = np.zeros((2, 4, 7, 50), np.float32)
    kernels.merge.add(a, b, y[:, 1:, :, 5:26])
    expected = np.zeros_like(y)
    expected[:, 1:, :, 5:26] = a + b
    np.testing.assert_array_equal(y, expected)


def test_pairwise_kernels_cut_large_arrays_into_tasks(rng):
    a, b = rng.standard_normal((3, 41, 37, 40)), rng.standard_normal((3, 1, 1, 40))
    y = np.full(a.shape, np.nan)
    kernels.merge.multiply(a, b, y)
    np.testing.assert_array_equal(y, a * b)
    flat = rng.standard_normal(100_003)
    doubled = flat + flat
    kernels.merge.add(flat, flat, flat)
    np.testing.assert_array_equal(flat, doubled)
    wide = rng.standard_normal((4, 20_011))[:, 3:20_003]  # several blocks of columns in several rows
    y = np.full(wide.shape, np.nan)
    kernels.merge.subtract(wide, wide[:, :1], y)
    np.testing.assert_array_equal(y, wide - wide[:, :1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_product(dtype, rng):
    for shape, kept in REDUCTIONS:
        a = rng.standard_normal(shape).astype(dtype)
        for b_shape in (shape, kept, (1,) * len(shape)):
            b = rng.standard_normal(b_shape).astype(dtype)
            y = np.full(kept, np.nan, dtype)
            kernels.merge.sum_product(a, b, y)
            expected = naive.sum_product(a, b, kept)
            np.testing.assert_allclose(y, expected, rtol=0, atol=np.finfo(dtype).eps * 20 * math.sqrt(a.size))


def test_sum_product_keeps_infinities(rng):
    a, b = np.ones((1, 5, 3), np.float32), np.full((1, 1, 1), np.inf, np.float32)
    y = np.zeros((1, 5, 1), np.float32)
    kernels.merge.sum_product(a, b, y)
    assert np.isposinf(y).all()


def test_long_float32_sums_are_accurate(rng):
    a = rng.random((1, 300, 300, 4), np.float32)
    y = np.zeros((1, 1, 1, 4), np.float32)
    kernels.merge.sum_product(a, np.ones((1, 1, 1, 1), np.float32), y)
    np.testing.assert_allclose(y.ravel(), a.sum((0, 1, 2), np.float64), rtol=2e-6)


def test_sums_do_not_depend_on_the_number_of_threads(rng):
    a, b = rng.standard_normal((5, 23, 19, 67)).astype(np.float32), rng.standard_normal((5, 1, 19, 1)).astype(np.float32)

    def run():
        results = [np.empty(kept, np.float32) for kept in ((5, 1, 1, 67), (1, 23, 1, 1), (1, 1, 1, 67))]
        for y in results:
            kernels.merge.sum_product(a, b, y)
        return np.concatenate([y.ravel() for y in results])

    one, many = two_thread_counts(run)
    np.testing.assert_array_equal(one, many)


def test_claim(rng):
    x, y, given = (rng.integers(0, 3, (2, 5, 7)).astype(np.float32) for _ in range(3))
    taken, left = np.empty_like(x), np.empty_like(x)
    kernels.merge.claim(x, y, given, taken, left)
    np.testing.assert_array_equal([taken, left], naive.claim(x, y, given))


@pytest.mark.parametrize("layer", OPERATIONS)
@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
def test_elementwise_layers_broadcast(layer, shapes):
    operation = OPERATIONS[layer]
    for order in (shapes, shapes[::-1]):
        trial = Trial(layer(), order, batch=3)
        (y,) = trial.forward()
        expected = naive.merge(operation, trial.x)
        np.testing.assert_allclose(y, expected, rtol=1e-14)
        assert layer().output_shape(tuple(order)) == expected.shape[1:]
    gradient_check(layer(), shapes)


@pytest.mark.parametrize("layer", [Add, Multiply, Maximum])
def test_any_number_of_inputs(layer):
    for shapes in ([(3, 2)], [(3, 2), (2,), (3, 1), (3, 2)]):
        trial = Trial(layer(), shapes, batch=2)
        np.testing.assert_allclose(trial.forward()[0], naive.merge(OPERATIONS[layer], trial.x), rtol=1e-14)
        gradient_check(layer(), shapes)


def test_maximum_gives_ties_to_the_first_input():
    def few_values(generator, shape):
        return generator.integers(0, 2, shape).astype(float)

    for shapes in ([(5, 4), (5, 4), (5, 4)], [(5, 4), (4,), (5, 1)]):
        trial = Trial(Maximum(), shapes, batch=3, sample=few_values)
        trial.forward()
        dx, _ = trial.backward()
        for given, expected in zip(dx, naive.maximum_gradients(trial.x, trial.dy[0])):
            np.testing.assert_allclose(given, expected, atol=1e-12)


def test_maximum_passes_not_a_number_on():
    x = np.array([[1.0, np.nan, 3.0]]), np.array([[np.nan, 2.0, 4.0]])
    y = np.empty((1, 3))
    Maximum().forward(x, y, {}, {}, False)
    np.testing.assert_array_equal(y, [[np.nan, np.nan, 4.0]])


@pytest.mark.parametrize("layer", [Add(), Multiply(), Maximum(), Concatenate(axis=0)])
def test_unwanted_gradients_change_nothing(layer):
    shapes = [(3, 5), (3, 5), (3, 5), (3, 5)]
    trial = Trial(layer, shapes)
    trial.forward()
    full, _ = trial.backward()
    for wanted in ((True, False, False, True), (False, False, True, False), (False, True, False, False)):
        some, _ = trial.backward(wanted=wanted)
        for gradient, expected, want in zip(some, full, wanted):
            assert (gradient is not None) == want
            if want:
                np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize(
    ("axis", "shapes"),
    [
        (-1, [(3, 5, 2), (3, 5, 40), (3, 5, 1)]),
        (0, [(2, 3), (5, 3)]),
        (1, [(3, 2, 2), (3, 1, 2)]),
        (-2, [(3, 2, 1), (3, 4, 1)]),
        (0, [(3,)]),
    ],
)
def test_concatenate(axis, shapes):
    trial = Trial(Concatenate(axis=axis), shapes, batch=2)
    np.testing.assert_array_equal(trial.forward()[0], naive.concatenate(trial.x, axis))
    dx, _ = trial.backward()
    np.testing.assert_array_equal(naive.concatenate(dx, axis), trial.dy[0])


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5, 2), -1), ((3, 5, 2), 0), ((3, 5, 2), 1), ((37,), 0), ((1, 1, 1), -1), ((5, 3, 3, 7), -1)]
)
def test_scale(shape, axis):
    trial = Trial(Scale(axis=axis), [shape], batch=3)
    weight = trial.p["weight"].reshape([-1 if k == axis % len(shape) else 1 for k in range(len(shape))])
    np.testing.assert_allclose(trial.forward()[0], trial.x[0] * weight, rtol=1e-14)
    dx, dp = trial.backward()
    np.testing.assert_allclose(dx[0], trial.dy[0] * weight, rtol=1e-14)
    others = tuple(k for k in range(len(shape) + 1) if k != axis % len(shape) + 1)
    np.testing.assert_allclose(dp["weight"], (trial.dy[0] * trial.x[0]).sum(others), rtol=1e-11, atol=1e-12)
    gradient_check(Scale(axis=axis), shape)


def test_scale_starts_at_its_initial_value():
    (spec,) = Scale(initial=1e-6).parameters((4, 4, 3)).values()
    start = spec.initializer(spec.shape, np.random.default_rng(0), np.float32)
    np.testing.assert_array_equal(start, np.full(3, 1e-6, np.float32))


def test_layers_do_not_depend_on_the_number_of_threads():
    def run():
        results = []
        for layer, shapes in ((Multiply(), [(9, 11, 33), (1, 1, 33)]), (Scale(), [(9, 11, 33)]), (Maximum(), [(9, 11, 33), (33,)])):
            trial = Trial(layer, shapes, batch=3, dtype="float32")
            results += [*trial.forward()]
            dx, dp = trial.backward()
            results += [*dx, *dp.values()]
        return np.concatenate([array.ravel() for array in results])

    one, many = two_thread_counts(run)
    np.testing.assert_array_equal(one, many)


def test_messages():
    with pytest.raises(ShapeError, match=r"given shapes \(4, 4, 3\) and \(4, 5, 3\).*axis -2 has 4, 5"):
        Add().output_shape(((4, 4, 3), (4, 5, 3)))
    with pytest.raises(ShapeError, match=r"given shapes \(4, 4, 3\) and \(4, 5, 3\).*axis -1"):
        Concatenate().output_shape(((4, 4, 3), (4, 5, 3)))
    with pytest.raises(ShapeError, match="needs shapes that agree"):
        Concatenate(axis=0).output_shape(((4, 3), (4,)))
    with pytest.raises(ShapeError, match="needs an axis 3"):
        Concatenate(axis=3).output_shape(((4, 4, 3), (4, 4, 3)))
    with pytest.raises(ConfigError, match="Concatenate: axis is"):
        Concatenate(axis=0.5)
    with pytest.raises(ConfigError, match="Scale: initial is nan"):
        Scale(initial=math.nan)
    with pytest.raises(ShapeError, match="needs an axis 2"):
        Scale(axis=2).output_shape((5,))


@pytest.mark.oracle
@pytest.mark.parametrize("layer", OPERATIONS)
@pytest.mark.parametrize("shapes", BROADCASTS[:6], ids=str)
def test_against_torch(layer, shapes):
    torch = pytest.importorskip("torch")
    operations = {Add: torch.add, Subtract: torch.sub, Multiply: torch.mul, Maximum: torch.maximum}
    trial = Trial(layer(), shapes, batch=2)
    axes = max(map(len, shapes)) + 1
    inputs = [torch.tensor(array, requires_grad=True) for array in trial.x]
    y = operations[layer](*(tensor.reshape(naive.aligned(array, axes).shape) for tensor, array in zip(inputs, trial.x)))
    y.backward(torch.tensor(trial.dy[0]))
    np.testing.assert_allclose(trial.forward()[0], y.detach().numpy(), rtol=1e-14)
    for given, expected in zip(trial.backward()[0], inputs):
        np.testing.assert_allclose(given, expected.grad.numpy(), rtol=1e-11, atol=1e-12)
