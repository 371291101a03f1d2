"""Models: predict, training plans, memory figures, freezing, saving, threads, and what importing costs."""

import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError, ShapeError, UnknownNameError
from numbacnn.graph.run import InferencePlan
from numbacnn.kernels import disk_cache, jit
from numbacnn.layers.initializers import Initializer, Normal
from tests.small_layers import Affine, Noise, Sum, Tanh, Twice


def small_network(dtype="float64", seed=0):
    x = nc.Input((7, 5, 3))
    h = nc.Conv2D(6, 3, padding="same", activation="relu")(x)
    h = nc.MaxPool2D(2)(h)
    h = nc.Conv2D(4, 1)(h)
    return nc.Model(x, nc.Dense(5)(h), seed=seed, dtype=dtype)


def images(count, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal((count, 7, 5, 3)).astype(dtype)


# Predict -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predict_is_the_same_for_any_batch_size(dtype):
    model = small_network(dtype)
    batch = images(10, dtype)
    whole = model.predict(batch)
    assert whole.dtype == dtype
    assert whole.shape == (10, 3, 2, 5)
    for size in (1, 3, 4, 100):
        np.testing.assert_array_equal(model.predict(batch, batch_size=size), whole)
    np.testing.assert_array_equal(model(batch), whole)


def test_predict_takes_what_numpy_takes():
    model = small_network()
    batch = np.random.default_rng(0).integers(0, 255, (4, 7, 5, 3), np.uint8)
    expected = model.predict(batch.astype(np.float64))
    np.testing.assert_array_equal(model.predict(batch), expected)
    np.testing.assert_array_equal(model.predict(batch.tolist()), expected)
    np.testing.assert_array_equal(model.predict(batch.astype(np.float32)), expected)
    np.testing.assert_array_equal(model.predict(np.repeat(batch, 2, axis=0)[::2]), expected)
    np.testing.assert_array_equal(model.predict(np.asfortranarray(batch)), expected)


@pytest.mark.parametrize("size", [None, 2])
def test_inputs_are_read_where_they_lie(size):
    model = small_network("float32")
    batch = images(5, "float32")
    expected = model.predict(batch.tolist())
    unaligned = np.frombuffer(b"0123" + batch.tobytes(), np.float32, offset=4).reshape(batch.shape)
    shifted = np.frombuffer(b"0" + batch.tobytes(), np.uint8, offset=1).view(np.float32).reshape(batch.shape)
    assert not shifted.flags.aligned
    for given in (batch, unaligned, shifted, np.repeat(batch, 2, axis=0)[::2], batch.astype(np.float64), batch):
        before = given.copy()
        for _ in range(2):
            np.testing.assert_array_equal(model.predict(given, batch_size=size), expected)
        np.testing.assert_array_equal(given, before)
        model.predict(given + 1, batch_size=size)


@pytest.mark.parametrize(
    "layers", [[nc.Activation("relu")], [nc.Flatten()], [nc.Flatten(), nc.Activation("relu")], [nc.Activation("relu"), nc.Conv2D(4, 3)]]
)
def test_nothing_is_written_to_what_is_given(layers):
    h = x = nc.Input((7, 5, 3))
    for layer in layers:
        h = layer(h)
    model = nc.Model(x, (h, x), seed=1)
    batch = images(2, "float32")
    before = batch.copy()
    for _ in range(2):
        found = model.predict(batch)[1]
        np.testing.assert_array_equal(found, before)
        np.testing.assert_array_equal(batch, before)
        np.testing.assert_array_equal(nc.Model(x, h, seed=1).predict(batch), model.predict(batch)[0])


def test_predict_gives_arrays_of_its_own():
    model = small_network()
    first = model.predict(images(2))
    kept = first.copy()
    model.predict(images(2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_no_images():
    assert small_network().predict(np.zeros((0, 7, 5, 3))).shape == (0, 3, 2, 5)


def test_wrong_input():
    model = small_network()
    with pytest.raises(ShapeError, match=r"single image of shape \(7, 5, 3\).*batch axis"):
        model.predict(np.zeros((7, 5, 3)))
    with pytest.raises(ShapeError, match=r"Input 'input' was given shape \(2, 7, 5, 4\); it needs \(N, 7, 5, 3\)"):
        model.predict(np.zeros((2, 7, 5, 4)))
    with pytest.raises(ShapeError, match="unequal shapes"):
        model.predict([np.zeros((7, 5, 3)), np.zeros((7, 5, 2))])
    with pytest.raises(ConfigError, match="it takes numbers"):
        model.predict(np.full((1, 7, 5, 3), "x"))
    for size in (0, -1, 2.5):
        with pytest.raises(ConfigError, match="batch_size"):
            model.predict(images(1), batch_size=size)
    with pytest.raises(ConfigError, match="batch size of 0"):
        model.memory(0)


def test_several_inputs_and_outputs():
    x, z = nc.Input((4,), name="x"), nc.Input((4,))
    model = nc.Model([x, z], [Sum()(x, Twice()(z)), x], dtype="float64")
    a, b = np.ones((3, 4)), np.full((3, 4), 2.0)
    total, same = model.predict((a, b))
    np.testing.assert_array_equal(total, 5)
    np.testing.assert_array_equal(same, a)
    with pytest.raises(ShapeError, match=r"2 inputs \(x, input2\)"):
        model.predict(a)
    with pytest.raises(ShapeError, match="batches of 3 and 2"):
        model.predict((a, b[:2]))


def test_dropped_layer_may_be_an_output():
    x = nc.Input((4,))
    model = nc.Model(x, [Noise()(x), Noise()(Noise()(Twice()(x)))], dtype="float64")
    same, twice = model.predict(np.ones((2, 4)))
    np.testing.assert_array_equal(same, 1)
    np.testing.assert_array_equal(twice, 2)
    assert len(model.graph.nodes) == 4


@pytest.mark.parametrize(
    "options", [{"dtype": "float16"}, {"dtype": "float33"}, {"dtype": None}, {"seed": -1}, {"seed": "x"}, {"seed": True}]
)
def test_wrong_options(options):
    x = nc.Input((4,))
    with pytest.raises(ConfigError, match="was given"):
        nc.Model(x, Twice()(x), **options)


# Fusion --------------------------------------------------------------------------------------------------------------


def layers_of(model):
    return [type(run.node.layer).__name__ for run in model._plan(1, False, False, 1).forward]


def unfused(model, batch):
    """The outputs of the training plan, which fuses nothing."""
    plan = model.training_plan(len(batch))
    plan.inputs[0][...] = batch
    plan.forward()
    return [array.copy() for array in plan.outputs]


def test_activation_becomes_the_epilogue():
    model = small_network()
    assert layers_of(model) == ["FusedEpilogue", "MaxPool2D", "Conv2D", "Dense"]
    np.testing.assert_allclose(model.predict(images(3)), unfused(model, images(3))[0], rtol=1e-10, atol=1e-12)


def frozen_norm(x, number):
    return nc.BatchNorm(frozen=True)(x, name=f"norm{number}")


def residual_network():
    x = nc.Input((6, 5, 4))
    h = frozen_norm(nc.Conv2D(8, 3, padding="same", bias=False)(x), 1)
    shortcut = frozen_norm(nc.Conv2D(8, 1)(x), 2)
    h = nc.Activation("relu")(nc.Add()(shortcut, h))
    g = nc.DepthwiseConv2D(3, padding="same")(h)
    g = nc.Activation("silu")(frozen_norm(g, 3))
    g = nc.Conv2DTranspose(8, 3, padding="same")(g)
    h = nc.Activation("relu")(frozen_norm(g, 4) + h)
    y = frozen_norm(nc.Dense(3)(h), 5)
    return nc.Model(x, y, dtype="float64")


def test_an_activation_that_cannot_be_compiled_is_explained_when_it_is_fused():
    x = nc.Input((4,))
    strange = nc.activation("strange", lambda x: str(x))
    model = nc.Model(x, nc.Dense(3, activation=strange())(x, name="d"))
    assert layers_of(model) == ["FusedEpilogue"]
    if jit.JIT_DISABLED:
        pytest.skip("nothing is compiled")
    with pytest.raises(ConfigError, match=r"^Dense layer 'd': The scalar function `.*str\(x\).*` cannot be compiled"):
        model.predict(np.zeros((1, 4)))


def test_a_fusable_layer_without_an_epilogue_is_told_of_the_base_class():
    class Half(Twice):
        fusable = True
        activation = None

    x = nc.Input((4,))
    model = nc.Model(x, nc.Activation("relu")(Half()(x)))
    with pytest.raises(NotImplementedError, match=r"Half is fusable but does not define with_epilogue; .*epilogue\.Fusable"):
        model.predict(np.zeros((1, 4)))


def test_norm_residual_and_activation_become_the_epilogue():
    model = residual_network()
    rng = np.random.default_rng(1)
    for name in model.parameters:
        if "norm" in name:
            model.parameters[name] = rng.uniform(0.5, 1.5, model.parameters[name].shape)
    assert layers_of(model) == ["FusedEpilogue"] * 5
    batch = rng.standard_normal((2, 6, 5, 4))
    np.testing.assert_allclose(model.predict(batch), unfused(model, batch)[0], rtol=1e-10)
    model.parameters["norm4.running_var"][...] = 3
    model.parameters["norm1.bias"][...] = -0.2
    np.testing.assert_allclose(model.predict(batch), unfused(model, batch)[0], rtol=1e-10)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_sum_in_place_over_the_first_two_inputs(position):
    x = nc.Input((3, 4))
    parts = [nc.Dense(4)(x), x, x]
    parts[0], parts[position] = parts[position], parts[0]
    model = nc.Model(x, nc.Dense(2)(nc.Add()(*parts)), dtype="float64")
    batch = np.random.default_rng(0).standard_normal((2, 3, 4))
    p = model.parameters
    total = batch @ p["dense1.weight"] + p["dense1.bias"] + 2 * batch
    np.testing.assert_allclose(unfused(model, batch)[0], total @ p["dense2.weight"] + p["dense2.bias"], rtol=1e-12)
    add = model.training_plan(2).plan.forward[1]
    assert (add.y[0].block is add.x[position].block) == (position < 2)  # over a third one it would round otherwise
    plan = model.training_plan(2, input_gradients=True)
    plan.inputs[0][...] = batch
    plan.forward()
    plan.output_gradients[0][...] = 1
    plan.backward()
    dy = np.ones((2, 3, 2)) @ p["dense2.weight"].T
    np.testing.assert_allclose(plan.input_gradients[0], dy @ p["dense1.weight"].T + 2 * dy, rtol=1e-12)


def test_nothing_is_fused_that_somebody_else_reads():
    x = nc.Input((4, 4, 2))
    h = nc.Conv2D(2, 1)(x)
    model = nc.Model(x, [h, nc.Activation("relu")(h)])
    assert layers_of(model) == ["Conv2D", "Activation"]
    h = nc.Conv2D(2, 1)(x)
    model = nc.Model(x, [nc.Activation("relu")(h), nc.Activation("tanh")(h)])
    assert layers_of(model) == ["Conv2D", "Activation", "Activation"]
    h = nc.Conv2D(2, 1)(x)
    assert layers_of(nc.Model(x, nc.Add()(h, h))) == ["Conv2D", "Add"]
    h = nc.Conv2D(2, 1, activation="relu")(x)
    assert layers_of(nc.Model(x, nc.BatchNorm()(h))) == ["FusedEpilogue", "BatchNorm"]


def test_identities_are_dropped():
    x = nc.Input((4, 4, 2))
    h = nc.Dropout(0.5)(nc.Identity()(nc.Conv2D(2, 1)(x)))
    h = nc.StochasticDepth(0.1)(nc.SpatialDropout(0.2)(h))
    model = nc.Model(x, nc.Activation("relu")(h))
    assert layers_of(model) == ["FusedEpilogue"]
    assert [type(run.node.layer).__name__ for run in model._plan(1, True, False, 1).forward][-1] == "Activation"


# Training plans ------------------------------------------------------------------------------------------------------


def step(model, batch, number=0):
    plan = model.training_plan(len(batch))
    plan.set_step(number)
    plan.inputs[0][...] = batch
    plan.forward()
    plan.output_gradients[0][...] = plan.outputs[0]
    plan.backward()
    return {name: array.copy() for name, array in plan.gradients.items()}


def test_gradients_agree_with_differences():
    model = small_network()
    batch = images(3)
    gradients = step(model, batch)

    def loss():
        return 0.5 * (model.predict(batch) ** 2).sum()

    rng = np.random.default_rng(0)
    for name, gradient in gradients.items():
        array = model.parameters[name]
        for _ in range(3):
            place = tuple(rng.integers(0, n) for n in array.shape)
            old, eps = array[place], 1e-6
            array[place] = old + eps
            above = loss()
            array[place] = old - eps
            below = loss()
            array[place] = old
            assert gradient[place] == pytest.approx((above - below) / (2 * eps), rel=1e-6, abs=1e-6)


def test_same_seed_same_bits():
    first, second = step(small_network(seed=5), images(4)), step(small_network(seed=5), images(4))
    for name, gradient in first.items():
        np.testing.assert_array_equal(gradient, second[name])
    other = step(small_network(seed=6), images(4))
    assert any((first[name] != other[name]).any() for name in first)


def test_gradients_are_laid_out_like_the_parameters():
    model = small_network()
    plan = model.training_plan(2)
    assert plan.flat_gradients.shape == model.store.trainable.shape
    for name, (start, stop) in model.store.slices.items():
        assert np.shares_memory(plan.gradients[name], plan.flat_gradients[start:stop])
        assert plan.gradients[name].shape == model.parameters[name].shape


def test_plans_are_kept_and_give_way():
    model = small_network()
    plan = model.training_plan(2)
    assert model.training_plan(2) is plan
    assert model.training_plan(3) is not plan
    assert model.training_plan(2, input_gradients=True) is not plan
    model.freeze("conv1")
    assert model.training_plan(2) is not plan
    model.unfreeze("conv1")
    assert model.training_plan(2) is plan
    for size in range(1, 30):
        model.memory(size)
    for size in range(3, 12):
        model.training_plan(size)
    assert len(model._plans) == 8
    assert model.training_plan(2) is not plan


def test_large_plans_give_way_and_small_ones_stay(monkeypatch):
    model = small_network()
    small, middle, large = model.training_plan(1), model.training_plan(40), model.training_plan(50)
    monkeypatch.setattr("numbacnn.graph.devices.Host.plan_bytes", small.nbytes + middle.nbytes)
    newest = model.training_plan(60)
    assert model._plans.plans() == [small, middle, newest]
    assert model.training_plan(1) is small
    monkeypatch.setattr("numbacnn.graph.devices.Host.plan_bytes", 0)
    assert model._plans.plans() == [middle, newest, small], "what is asked for again costs nothing"
    last = model.training_plan(50)
    assert last is not large
    assert model._plans.plans() == [last]


@pytest.mark.parametrize("size", [[2], 2.0, 0, True, "2", None])
def test_impossible_batch_sizes(size):
    model = small_network()
    for use in (model.training_plan, model.memory):
        with pytest.raises(ConfigError, match=r"batch size of .* was asked for"):
            use(size)
    assert model.training_plan(np.int64(2)) is model.training_plan(2)


def test_another_batch_size_compiles_nothing():
    model = small_network()
    batch = images(8)
    model.predict(batch)
    step(model, batch)
    compiled = []
    original = disk_cache.DiskCache.load_overload
    try:
        disk_cache.DiskCache.load_overload = lambda self, *rest: compiled.append(self) or original(self, *rest)
        for size in (1, 2, 3, 5, 7):
            model.predict(batch[:size])
            step(model, batch[:size])
    finally:
        disk_cache.DiskCache.load_overload = original
    assert not compiled


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 5])
def test_memory_figure_is_what_is_allocated(training, size):
    model = small_network()
    figure = model.memory(size, training)
    plan = model.training_plan(size) if training else model._inference_plan(size)
    assert figure == model.store.nbytes + plan.nbytes
    assert plan.arena.memory.nbytes == plan.plan.arena_bytes > 0


def test_large_arenas_are_aligned_and_writable():
    from numbacnn import arrays

    for nbytes in (1, 1000, 5 << 20):
        memory = arrays.allocate(nbytes)
        assert memory.nbytes == nbytes
        assert memory.ctypes.data % 64 == 0
        memory[:] = 7
        assert (memory == 7).all()
    assert arrays.zeros((3, 5), "float64").sum() == 0


def test_training_moves_running_statistics_and_predict_notices():
    x = nc.Input((4,))
    model = nc.Model(x, Affine()(x), dtype="float64")
    version = model.store.version
    plan = model.training_plan(2)
    plan.forward()
    assert model.parameters["affine1.count"] == 1
    assert model.store.version > version


def test_running_statistics_are_noticed_though_a_later_layer_raises():
    class Failing(Twice):
        def forward(self, x, y, p, b, training):
            if training:
                raise ArithmeticError
            y[...] = x

    x = nc.Input((4,))
    model = nc.Model(x, Failing()(nc.BatchNorm(momentum=1.0)(x)), dtype="float64")
    before = model.predict(np.ones((1, 4)))
    plan = model.training_plan(2)
    plan.inputs[0][...] = [[2] * 4, [4] * 4]
    with pytest.raises(ArithmeticError):
        plan.forward()
    assert not np.allclose(model.predict(np.ones((1, 4))), before)


def test_error_in_training_names_the_layer():
    x = nc.Input((4,))
    model = nc.Model(x, nc.BatchNorm()(nc.Dense(4)(x), name="norm"), dtype="float64")
    with pytest.raises(ShapeError, match="BatchNorm layer 'norm': "):
        model.training_plan(1)


# Freezing, threads, use ----------------------------------------------------------------------------------------------


def test_freeze_patterns():
    x = nc.Input((4,))
    h = x
    for stage in ("stage1", "stage2"):
        with nc.scope(stage), nc.scope("block1"):
            h = Tanh()(Affine()(h))
    model = nc.Model(x, h)
    model.freeze("stage1", statistics=False)
    assert model.store.frozen == {"stage1.block1.affine1.weight", "stage1.block1.affine1.bias"}
    model.unfreeze("*.bias")
    assert model.store.frozen == {"stage1.block1.affine1.weight"}
    model.unfreeze()
    assert not model.store.frozen
    model.freeze()
    assert model.store.frozen == set(model.parameters)
    model.freeze_until("stage2")
    assert model.store.frozen == {name for name in model.parameters if name.startswith("stage1.")}
    model.freeze_until("stage2.block1.tanh1")
    assert model.store.frozen == set(model.parameters)
    model.freeze_until("stage1")
    assert not model.store.frozen
    model.freeze("stage?.block1.affine1.weight", "stage2.*")
    assert len(model.store.frozen) == 4
    with pytest.raises(UnknownNameError, match="stage3"):
        model.freeze("stage3")
    with pytest.raises(UnknownNameError, match="Did you mean 'stage2'"):
        model.freeze_until("stage22")
    with pytest.raises(ConfigError, match="patterns of parameters' names"):
        model.freeze(["stage1"])


def test_kernels_run_on_as_many_threads_as_have_scratch(monkeypatch):
    """Also where another number is set between planning and binding."""
    model = nc.Sequential([nc.Conv2D(30, 3)]).build((96, 96, 2))
    monkeypatch.setattr(jit, "_thread_count", 3)
    plan = model._plan(1, False, False, jit.num_threads())
    monkeypatch.setattr(jit, "_thread_count", 5)
    ((step,),) = InferencePlan(plan, model.store)._turns
    *_, scratch, queue, thread = step[1]
    assert (len(scratch), len(queue), thread) == (3, 3 * jit.QUEUE_STEP, 0)


def test_threads_may_predict_at_once():
    model = small_network()
    batches = [images(n + 1, seed=n) for n in range(3)] + [images(2, seed=9)]
    expected = [model.predict(batch) for batch in batches]
    failures = []

    def work(k):
        for _ in range(20):
            if not np.array_equal(model.predict(batches[k]), expected[k]):
                failures.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_sequential():
    block = nc.Sequential([nc.Dense(6), nc.Dense(4)])
    model = nc.Sequential([nc.Dense(8, activation="relu"), block]).build((3,), seed=4, dtype="float64")
    assert [node.name for node in model.graph.nodes] == ["dense1", "dense2", "dense3"]
    assert model.predict(np.zeros((2, 3))).shape == (2, 4)
    assert "3 layers" in repr(model)
    assert "Dense" in repr(block)
    with pytest.raises(ConfigError, match="takes layers"):
        nc.Sequential([3])
    with pytest.raises(ConfigError, match="takes one list of layers"):
        nc.Sequential(nc.Flatten(), nc.Dense(10))


def test_save_and_load(tmp_path):
    model = small_network(seed=3)
    model.save(tmp_path / "m.safetensors")
    again = nc.load(tmp_path / "m.safetensors")
    assert again.seed == 3
    np.testing.assert_array_equal(again.predict(images(2)), model.predict(images(2)))
    other = small_network(seed=4)
    other.load_weights(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(other.predict(images(2)), model.predict(images(2)))
    other.load_weights({name: array * 0 for name, array in model.parameters.items()})
    assert not other.predict(images(2)).any()


def test_load_within_a_scope(tmp_path):
    model = small_network()
    model.save(tmp_path / "m.safetensors")
    with nc.scope("outer"):
        again = nc.load(tmp_path / "m.safetensors")
        assert nc.Model(x := nc.Input((3,)), Twice()(x)).graph.nodes[0].name == "outer.twice1"
    assert list(again.parameters) == list(model.parameters)


def test_saving_warns_of_layers_that_cannot_be_loaded(tmp_path):
    x = nc.Input((3,))
    mine = nc.activation("of_mine", lambda x: x * x)
    model = nc.Model(x, Twice()(nc.Dense(3, activation=mine())(x)))
    with pytest.warns(UserWarning, match=r"registers the layer\(s\) Twice, of_mine: nc\.load cannot.*load_weights") as caught:
        model.save(tmp_path / "m.safetensors")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_network().save(tmp_path / "m.safetensors")


def test_an_initializer_of_ones_own_may_be_saved(tmp_path):
    class Halves(Initializer):  # not even a dataclass
        def __call__(self, shape, generator, dtype):
            return np.full(shape, 0.5, dtype)

    x = nc.Input((3,))
    model = nc.Model(x, nc.Dense(2, initializer=Halves(), bias_initializer=Normal(np.float32(0.0), 0.5))(x))
    model.save(tmp_path / "m.safetensors")
    again = nc.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.parameters["dense1.weight"], 0.5)
    assert again.to_config() == model.to_config()


def test_unknown_architecture():
    with pytest.raises(UnknownNameError, match="architecture"):
        nc.create("lenet55")


# Importing -----------------------------------------------------------------------------------------------------------

SMALL = """
import sys
import numbacnn as nc
import numbacnn.model, numbacnn.graph.run
from tests.small_layers import Affine, Twice
x = nc.Input((4,))
model = nc.Model(x, Twice()(Affine()(x)))
assert model.memory(8) > 0
assert model.memory(8, training=False) > 0
nc.Conv2D, nc.Dense, nc.MaxPool2D, nc.BatchNorm
heavy = {"numba", "llvmlite", "click", "rich", "numbacnn_architectures", "numbacnn_datasets"} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""


def test_planning_imports_nothing_heavy():
    outcome = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_import_brings_only_itself():
    code = "import sys, numbacnn; print(*sorted(m for m in sys.modules if m.startswith('numbacnn') or m == 'numpy'))"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == ["numbacnn"]


@pytest.mark.parametrize("name", nc.__all__)
def test_public_names(name):
    assert getattr(nc, name) is not None
    assert name in dir(nc)


def test_public_names_are_written_out_for_type_checkers():
    functions = {"list_architectures", "list_augmentations", "list_datasets", "list_layers", "list_plugins", "set_num_threads"}
    assert set(nc.__all__) == {*nc._HOME, *functions, "__version__"}
    source = Path(nc.__file__).read_text().partition("if TYPE_CHECKING:")[2]
    assert all(re.search(rf"\b{name}\b", source) for name in nc._HOME)


def test_unknown_name():
    with pytest.raises(AttributeError, match="Conv9D"):
        nc.Conv9D  # noqa: B018
