"""Dense layers that read their weights where they lie: against NumPy, PyTorch and the packed route."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.graph import sections
from numbacnn.kernels import dense, jit
from numbacnn.kernels.channels import WIDTH
from numbacnn.layers import dense as dense_layers
from numbacnn.layers.activation import ReLU6
from numbacnn.layers.dense import Dense
from tests.driver import Driver

SIZES = [
    (1, 1), (1, WIDTH), (2, 3), (3, 2 * WIDTH), (7, 5), (dense.HELD, WIDTH + 1), (dense.HELD + 1, 31), (dense.DEPTH_ALONE + 1, 67),
    (64, 129), (101, 6 * WIDTH + 7),
]  # fmt: skip
ROWS = [1, 2, 3, 5, 16, 33]


@pytest.fixture
def in_place(monkeypatch):
    """Small weights are read where they lie, too, by tasks of a few columns."""
    for name, value in (("LEAST_WEIGHTS", 1), ("LEAST_COLUMNS", 1), ("LEAST_TASK_COLUMNS", 1), ("TASK_COLUMNS", 3 * WIDTH)):
        monkeypatch.setattr(dense, name, value)


def softsign(x):
    """A scalar function as a plugin may bring it."""
    return x / (1.0 + abs(x))


def within(rng, shape, dtype, fill=None):
    """An array, random or filled, and the wider one around it: rows have gaps between them."""
    around = np.full((shape[0], shape[1] + 5), 7, dtype)
    inner = around[:, 3:-2]
    inner[...] = rng.standard_normal(shape) if fill is None else fill
    return inner, around


def scratch_for(rows, columns, dtype):
    return np.full(dense.scratch_shape(rows, columns, jit.num_threads()), np.nan, dtype)


def reference(x, w, scale, bias, addend):
    x, w, bias = (array.astype(np.float64) for array in (x, w, bias))
    return x @ w * (1 if scale is None else scale) + bias + (0 if addend is None else addend)


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("channels", "columns"), SIZES)
def test_products_agree_with_numpy(channels, columns, dtype):
    rng = np.random.default_rng(channels * columns)
    w, bias, factors = (rng.standard_normal(shape).astype(dtype) for shape in ((channels, columns), (columns,), (columns,)))
    for rows, scale, residual in itertools.product(ROWS, (None, factors), (False, True)):
        x, _ = within(rng, (rows, channels), dtype)
        y, around = within(rng, (rows, columns), dtype, np.nan)
        addend = within(rng, (rows, columns), dtype)[0] if residual else None
        dense.dense(x, w, scale, bias, y, scratch_for(rows, columns, dtype), addend)
        expected = reference(x, w, scale, bias, addend)
        np.testing.assert_allclose(y, expected, rtol=0, atol=(1e-5 if dtype == "float32" else 1e-13) * np.abs(expected).max())
        assert (around[:, :3] == 7).all()
        assert (around[:, -2:] == 7).all()


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize(("scalar", "function"), [(ReLU6().scalar(), lambda y: np.clip(y, 0, 6)), (softsign, softsign)])
def test_activations_follow_the_residual_sum(scalar, function):
    rng = np.random.default_rng(0)
    x, w, scale, bias, addend = (rng.standard_normal(shape) for shape in ((5, 19), (19, 45), (45,), (45,), (5, 45)))
    y = np.full((5, 45), np.nan)
    dense.dense(x, w, scale, bias, y, scratch_for(5, 45, x.dtype), addend, scalar)
    np.testing.assert_allclose(y, function(reference(x, w, scale, bias, addend)), rtol=1e-12, atol=1e-13)


@pytest.mark.oracle
@pytest.mark.usefixtures("in_place")
def test_dense_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    for rows, channels, columns in rng.integers(1, 200, (20, 3)):
        x, w, bias = (
            rng.standard_normal(shape).astype(np.float32) for shape in ((rows % 33 + 1, channels), (channels, columns), (columns,))
        )
        y = Driver(Dense(int(columns)), x, weight=w, bias=bias).forward(training=False)
        expected = torch.nn.functional.linear(torch.tensor(x), torch.tensor(w.T.copy()), torch.tensor(bias)).numpy()
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_bits_are_those_of_packed_weights(monkeypatch, rows):
    """However the columns are cut into tasks, and what is fetched ahead."""
    rng = np.random.default_rng(2)
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, 333), (333, 5 * WIDTH + 3), (5 * WIDTH + 3,)))
    driver = Driver(Dense(w.shape[1]), x, weight=w, bias=bias)
    packed = driver.forward(training=False)
    assert "packed" in driver.b
    monkeypatch.setattr(dense, "LEAST_WEIGHTS", 1)
    monkeypatch.setattr(dense, "LEAST_COLUMNS", 1)
    for columns in (1, WIDTH, 2 * WIDTH, 4096):
        monkeypatch.setattr(dense, "TASK_COLUMNS", columns)
        if dense.by_channels(rows, w.shape[1]):
            continue
        np.testing.assert_array_equal(driver.forward(training=False), packed)
        assert "packed" not in driver.b


def test_sums_for_one_row_do_not_depend_on_threads(monkeypatch):
    """Nor on whether caches keep the weights."""
    rng = np.random.default_rng(4)
    channels, columns = 333, 5 * WIDTH + 3
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, channels), (channels, columns), (columns,)))
    y = np.full((2, 1, columns), np.nan, np.float32)
    dense.dense(x, w, None, bias, y[0], scratch_for(1, columns, x.dtype))
    threads = jit.num_threads()
    jit.set_num_threads(1)
    try:
        for once in (0, w.nbytes + 1):
            monkeypatch.setattr(dense, "ONCE", once)
            dense.dense(x, w, None, bias, y[1], scratch_for(1, columns, x.dtype))
            np.testing.assert_array_equal(y[1], y[0])
    finally:
        jit.set_num_threads(threads)


def test_which_weights_are_packed():
    rows, channels, columns = dense.MOST_ROWS, dense.LEAST_WEIGHTS // dense.LEAST_COLUMNS, dense.LEAST_COLUMNS
    layer = Dense(columns)
    assert layer.prepared((channels,), rows, 2, False) == {}
    assert layer.prepared((2, channels), rows // 2, 2, False) == {}
    for packing in (
        layer.prepared((channels,), rows + 1, 2, False),
        layer.prepared((2, channels), rows, 2, False),
        layer.prepared((channels - 1,), rows, 2, False),
        Dense(columns - 1).prepared((2 * channels,), rows, 2, False),
    ):
        assert list(packing) == ["packed"]
    assert layer.prepared((channels,), rows, 2, True) == {}
    assert layer.scratch((channels,), rows, 2, True)["packed_chunk"].shape[0] <= dense_layers.CHUNK_WEIGHTS


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
@pytest.mark.parametrize("rows", [1, 2, 16, 32])
def test_tasks_fit_the_caches(rows, threads):
    for columns in (1, 100, 4096, 4100, 30_000):
        task = dense._task_columns(rows, columns, threads)
        assert task % WIDTH == 0
        assert task <= dense.TASK_COLUMNS + WIDTH
        assert rows * task <= dense.TASK_SUMS + rows * WIDTH
        assert task < max(dense.LEAST_TASK_COLUMNS, -(-columns // threads)) + WIDTH


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_what_follows_is_fused_and_changes_are_seen(bias, dtype):
    """Some channels of a wider array, through a dense layer with batch norm, a residual sum and an activation behind it."""
    x, z = nc.Input((3, 12)), nc.Input((3, 21))
    part = nc.Split((5, 7))(x)[1]
    h = nc.BatchNorm()(Dense(21, bias=bias)(part, name="dense"), name="norm")
    model = nc.Model([x, z], nc.Activation("relu")(h + z), dtype=dtype)
    rng = np.random.default_rng(3)
    for _ in range(2):
        for name in model.parameters:
            model.parameters[name] = rng.uniform(0.5, 1.5, model.parameters[name].shape)
        images, more = (rng.standard_normal((4, *shape)).astype(dtype) for shape in ((3, 12), (3, 21)))
        p = {name: np.array(array, np.float64) for name, array in model.parameters.items()}
        product = images[..., 5:] @ p["dense.weight"] + p.get("dense.bias", 0)
        normalised = (product - p["norm.running_mean"]) / np.sqrt(p["norm.running_var"] + 1e-5) * p["norm.weight"] + p["norm.bias"]
        expected = np.maximum(normalised + more, 0)
        np.testing.assert_allclose(model.predict((images, more)), expected, rtol=1e-5, atol=1e-5 if dtype == "float32" else 1e-12)
    plan = model._inference_plan(4).plan
    assert [run.node.name for run in plan.forward if run.node.layer.fusable or "Epilogue" in type(run.node.layer).__name__] == ["dense"]
    assert not any("packed" in prepared for prepared in plan.prepared.values())


@pytest.mark.usefixtures("in_place")
def test_frozen_layers_run_as_in_inference():
    x = nc.Input((19,))
    h = nc.Activation("relu")(nc.BatchNorm()(Dense(21)(x, name="first"), name="norm"))
    model = nc.Model(x, Dense(3)(h, name="head"), dtype="float64")
    model.freeze_until("head")
    plan = model.training_plan(5)
    constant = [node for node, prepared in plan.plan.prepared.items() if node.constant and "packed" not in prepared]
    assert [node.name for node in constant] == ["first"]
    rng = np.random.default_rng(5)
    for _ in range(2):
        model.parameters["first.weight"] = rng.standard_normal((19, 21))
        plan.inputs[0][...] = rng.standard_normal((5, 19))
        images = np.array(plan.inputs[0])
        plan.forward()
        np.testing.assert_allclose(plan.outputs[0], model.predict(images), rtol=1e-12, atol=1e-13)


def test_large_weights_are_held_once():
    channels, columns = dense.LEAST_WEIGHTS // dense.LEAST_COLUMNS, dense.LEAST_COLUMNS
    x = nc.Input((channels,))
    model = nc.Model(x, Dense(columns)(x))
    for batch in (1, dense.MOST_ROWS):
        assert model.memory(batch, training=False) < 1.2 * model.store.nbytes
        assert model._inference_plan(batch).prepared_nbytes == 0
    images = np.random.default_rng(4).standard_normal((2, channels)).astype(np.float32)
    p = model.parameters
    expected = images.astype(np.float64) @ p["dense1.weight"] + p["dense1.bias"]
    np.testing.assert_allclose(model.predict(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_sections_count_weights_that_are_not_packed():
    """But not a table, of which few rows are read."""
    ids = nc.Input((4,), dtype="int64")
    columns = dense.LEAST_COLUMNS
    h = nc.Flatten()(nc.Embedding(1000, dense.LEAST_WEIGHTS // columns // 4)(ids))
    model = nc.Model(ids, Dense(columns, bias=False)(h))
    nodes, _ = model._inference_nodes()
    costs = sections._Costs(nodes, [1], 1, 1, np.dtype(np.float32))
    table, _, weights = (costs._weights(node, 1) for node in nodes)
    assert (table, weights) == (0, dense.LEAST_WEIGHTS * 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2 * WIDTH + 3,), (3, 4 * WIDTH)])
def test_training_packs_large_weights_in_chunks(monkeypatch, shape, bias):
    """Also where the last chunk is smaller."""
    monkeypatch.setattr(dense_layers, "CHUNK_WEIGHTS", 40 * WIDTH)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((5, *shape)), rng.standard_normal((5, *shape[:-1], 40))
    weight, shift = rng.standard_normal((shape[-1], 40)), rng.standard_normal(40) * bias
    driver = Driver(Dense(40, bias=bias), x, weight=weight, **({"bias": shift} if bias else {}))
    np.testing.assert_allclose(driver.forward(), x @ weight + shift, rtol=1e-12, atol=1e-12)
    dx, dp = driver.backward(dy)
    assert driver.b["packed_transposed"].size < weight.size
    np.testing.assert_allclose(dx, dy @ weight.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dp["weight"], x.reshape(-1, shape[-1]).T @ dy.reshape(-1, 40), rtol=1e-12, atol=1e-12)
