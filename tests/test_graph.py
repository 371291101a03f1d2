"""Symbolic tensors, names, shape errors, sharing, initializers, parameters, and graphs as data."""

import json
import math

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import ConfigError, PluginError, ShapeError, UnknownNameError, WeightsError
from numbacnn.graph.build import Graph
from numbacnn.graph.config import from_config, to_config
from numbacnn.layers import initializers
from tests.small_layers import Affine, Bend, Halves, Product, Sum, Tanh, Twice


def names(model):
    return [node.name for node in model.graph.nodes]


# Building ------------------------------------------------------------------------------------------------------------


def test_automatic_names_count_within_scopes():
    x = nc.Input((4,))
    h = Twice()(Twice()(x))
    with nc.scope("stage2"):
        h = Twice()(h)
        with nc.scope("block1"):
            h = Tanh()(Twice()(h))
        h = Twice()(h)
    model = nc.Model(x, Affine()(h))
    assert names(model) == ["twice1", "twice2", "stage2.twice1", "stage2.block1.twice1", "stage2.block1.tanh1", "stage2.twice2", "affine1"]
    assert list(model.parameters) == ["affine1.weight", "affine1.bias", "affine1.count"]


def test_names_do_not_depend_on_other_models_or_order_of_outputs():
    def build(flip):
        x = nc.Input((4,))
        a, b = Affine()(x), Affine()(x)
        return nc.Model(x, [b, a] if flip else [a, b], seed=1)

    first, second = build(False), build(True)
    assert list(first.parameters) == list(second.parameters)
    np.testing.assert_array_equal(first.parameters["affine2.weight"], second.parameters["affine2.weight"])


def test_given_names():
    x = nc.Input((4,))
    with nc.scope("stem"):
        h = Twice()(x, name="a")
        h = Twice()(h, name="twice1")
        h = Twice()(h)
    assert names(nc.Model(x, h)) == ["stem.a", "stem.twice1", "stem.twice2"]
    with pytest.raises(ConfigError, match=r"2 layers of the model are named 'stem.a'"), nc.scope("stem"):
        nc.Model(x, Twice()(h, name="a"))
    with pytest.raises(ConfigError, match=r"'a\.\.b'"):
        Twice()(x, name="a..b")
    with pytest.raises(ConfigError, match="''"), nc.scope(""):
        pass


def test_scope_ends_with_its_block():
    with pytest.raises(RuntimeError), nc.scope("a"):
        raise RuntimeError
    x = nc.Input((4,))
    assert names(nc.Model(x, Twice()(x))) == ["twice1"]


def test_shape_error_says_where_and_comes_at_once():
    x, y = nc.Input((4,)), nc.Input((5,))
    with pytest.raises(ShapeError, match=r"^Sum layer 'stage1.add': given shapes \(\(4,\), \(5,\)\), needs equal ones"), nc.scope("stage1"):
        Sum()(x, y, name="add")
    with pytest.raises(ShapeError, match=r"^Sum layer in 'stage1.block2': given"), nc.scope("stage1"), nc.scope("block2"):
        Sum()(x, y)
    with pytest.raises(ShapeError, match=r"^Sum layer: given"):
        Sum()(x, y)
    with pytest.raises(ShapeError, match=r"^Conv2D layer 'c'.*5"):
        nc.Conv2D(8, 7)(nc.Input((5, 5, 3)), name="c")


def test_impossible_outputs_of_a_layer():
    with pytest.raises(ShapeError, match="as many elements"):
        Bend((7,))(nc.Input((6,)))
    with pytest.raises(ShapeError, match="no axis may be empty"):
        Bend((0, 6))(nc.Input((6,)))


@pytest.mark.parametrize("shape", [(), (0, 3), (-1,), (2.5, 3), "ab", None, ((1, 2),)])
def test_impossible_input_shapes(shape):
    with pytest.raises(ShapeError, match="positive whole numbers"):
        nc.Input(shape)


def test_arithmetic_between_tensors():
    x = nc.Input((4,))
    a, b = Twice()(x), Tanh()(x)
    model = nc.Model(x, (a + b) * (a - b))
    assert [type(node.layer).__name__ for node in model.graph.nodes] == ["Twice", "Tanh", "Add", "Subtract", "Multiply"]
    with pytest.raises(TypeError):
        a + 1


def test_disconnected_models():
    x, z = nc.Input((4,), name="x"), nc.Input((4,), name="z")
    y = Twice()(x)
    with pytest.raises(ConfigError, match="the Input 'z' of shape"):
        nc.Model([x, z], y)
    with pytest.raises(ConfigError, match="depend on the Input 'z'"):
        nc.Model(x, Sum()(y, z))
    with pytest.raises(ConfigError, match="given twice"):
        nc.Model(x, [y, y])
    with pytest.raises(ConfigError, match="at least one output"):
        nc.Model(x, [])
    with pytest.raises(ConfigError, match="as output of a model"):
        nc.Model(x, np.zeros(3))
    with pytest.raises(ConfigError, match="'z'"):
        nc.Model([nc.Input((4,), name="z"), z], Sum()(z, z))


def test_an_input_that_the_model_computes_too():
    x = nc.Input((4,))
    a, b = nc.Split(2)(x)
    with pytest.raises(
        ConfigError, match=r"the tensor of shape \(2,\) was given as an input of the model, which computes it too, as Split"
    ):
        nc.Model([x, a], a + b)


def test_automatic_input_names_step_aside():
    x, y, z = nc.Input((4,), name="input2"), nc.Input((4,)), nc.Input((4,))
    assert nc.Model([x, y, z], nc.Add()(x, y, z)).graph.input_names == ("input2", "input3", "input4")
    assert nc.Model(y, Twice()(y, name="input")).graph.input_names == ("input1",)
    with pytest.raises(ConfigError, match="Two parts of the model are named 'input2'"):
        nc.Model(x, Twice()(x, name="input2"))


def test_two_parameters_of_one_name():
    x = nc.Input((4,))
    h = nc.Dense(4, activation="prelu")(x, name="a")
    h = nc.PReLU()(h, name="a.activation")
    with pytest.raises(ConfigError, match=r"^PReLU layer 'a\.activation': another layer has a parameter named 'a\.activation\.weight' too"):
        nc.Model(x, h)


def test_model_from_the_middle_of_a_graph():
    x = nc.Input((4,))
    h = Twice()(x)
    model = nc.Model(h, Tanh()(h))
    assert names(model) == ["tanh1"]
    np.testing.assert_allclose(model.predict(np.ones((1, 4))), np.tanh(np.ones((1, 4))), rtol=1e-6)


def test_shared_layer_has_one_set_of_parameters():
    x = nc.Input((4,))
    affine = Affine()
    model = nc.Model(x, affine(Twice()(affine(x))))
    assert list(model.parameters) == ["affine1.weight", "affine1.bias", "affine1.count"]
    assert names(model) == ["affine1", "twice1", "affine2"]
    z = nc.Input((3,))
    with pytest.raises(ShapeError, match=r"Affine layer 'affine2' shares its parameters with 'affine1'.*\(4,\).*\(3,\)"):
        nc.Model([x, z], [affine(x), affine(z)])
    equal = nc.Model(x, Affine()(Affine()(x)))
    assert len(equal.parameters) == 6


def test_activation_field_with_parameters_of_its_own():
    x = nc.Input((4, 4, 2))
    model = nc.Model(x, nc.Conv2D(3, 1, activation=nc.PReLU())(x, name="c"))
    assert "c.activation.weight" in model.parameters
    assert {local for step in model._plan(1, True, False, 1).backward for local in step.dp} == {"weight", "bias"}
    assert list(model._plan(1, True, False, 1).backward[0].dp.values()) == ["c.activation.weight"]
    with pytest.raises(UnknownNameError, match=r"^Conv2D layer 'c': .*'relu'"):
        nc.Conv2D(3, 1, activation="rleu")(x, name="c")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (nc.Flatten(), r"its activation Flatten\(\) makes shape \(48,\) of \(4, 4, 3\); an activation keeps the shape"),
        (nc.MaxPool2D(2), "makes shape"),
        (nc.MaxPool1D(2), "its activation MaxPool1D"),
        (nc.Split(3), "makes shape"),
        (nc.Add(), "as a layer of its own"),
        (nc.Dense(3, activation="relu"), "as a layer of its own"),
    ],
)
def test_an_activation_keeps_the_shape(given, words):
    with pytest.raises(ConfigError, match=f"^Conv2D layer 'c': .*{words}"):
        nc.Conv2D(3, 1, activation=given)(nc.Input((4, 4, 2)), name="c")


@pytest.mark.parametrize("given", [np.tanh, lambda x: x, nc.Dense, 3, ["relu"], dict])
def test_what_is_no_activation(given):
    with pytest.raises(ConfigError, match=r"was given as an activation; it is a name such as 'relu'.*nc\.activation\(name, function\)"):
        nc.Conv2D(3, 1, activation=given)(nc.Input((4, 4, 2)), name="c")


# Parameters ----------------------------------------------------------------------------------------------------------


def test_store_layout():
    x = nc.Input((5,))
    model = nc.Model(x, Affine()(Affine()(x)))
    store = model.store
    assert store.trainable.ctypes.data % 64 == store.state.ctypes.data % 64 == 0
    for name, (start, stop) in store.slices.items():
        flat = store.trainable if store.specs[name].trainable else store.state
        assert start * flat.itemsize % 64 == 0
        assert np.shares_memory(flat[start:stop], model.parameters[name])
    used = {k for name, ends in store.slices.items() if store.specs[name].trainable for k in range(*ends)}
    assert not store.trainable[[k for k in range(store.trainable.size) if k not in used]].any()


def test_parameters_mapping():
    x = nc.Input((4,))
    model = nc.Model(x, Affine()(x))
    model.parameters["affine1.weight"] = [1, 2, 3, 4]
    np.testing.assert_array_equal(model.parameters["affine1.weight"], [1, 2, 3, 4])
    model.parameters["affine1.weight"][1:] += 1
    np.testing.assert_array_equal(model.parameters["affine1.weight"], [1, 3, 4, 5])
    with pytest.raises(ShapeError, match=r"'affine1.weight' has shape \(4,\); an array of shape \(3,\)"):
        model.parameters["affine1.weight"] = np.zeros(3)
    with pytest.raises(WeightsError, match="takes numbers"):
        model.parameters["affine1.weight"] = "abcd"
    with pytest.raises(UnknownNameError, match=r"Did you mean 'affine1\.weight'"):
        model.parameters["affine1.weigth"]
    with pytest.raises(TypeError):
        del model.parameters["affine1.weight"]
    assert model.parameters.get("nothing") is None
    assert len(model.parameters) == 3
    assert "affine1.weight: (4,)" in repr(model.parameters)


def test_changes_through_views_are_noticed():
    x = nc.Input((4,))
    model = nc.Model(x, Affine()(x), dtype="float64")
    images = np.ones((1, 4))
    view = model.parameters["affine1.weight"][2:]
    before = model.predict(images)
    view[0] += 1
    np.testing.assert_array_equal(model.predict(images), before + np.array([0, 0, 1, 0]))
    view[1] -= 2
    del view
    np.testing.assert_array_equal(model.predict(images), before + np.array([0, 0, 1, -2]))
    version = model.store.version
    model.predict(images)
    assert model.store.version == version
    model.store.trainable[...] = 0
    model.store.touch()
    np.testing.assert_array_equal(model.predict(images), np.zeros((1, 4)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digest_sees_every_element_and_swaps(dtype):
    from numbacnn.kernels.digest import digest

    array = np.random.default_rng(0).standard_normal(200_000).astype(dtype)
    first = digest(array)
    assert digest(array.copy()) == first
    for k in (0, 1, 65_535, 131_072, 199_999):
        array[k] = np.nextafter(array[k], 9)
        assert digest(array) != first
        first = digest(array)
    array[[3, 150_000]] = array[[150_000, 3]]
    assert digest(array) != first


# Initializers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_normal", 2 / (9 * 20 + 9 * 50)),
        ("glorot_uniform", 2 / (9 * 20 + 9 * 50)),
        ("he_normal", 2 / (9 * 20)),
        ("he_uniform", 2 / (9 * 20)),
        ("lecun_normal", 1 / (9 * 20)),
        ("lecun_uniform", 1 / (9 * 20)),
        ("normal", 0.05**2),
        ("uniform", 0.05**2 / 3),
    ],
)
def test_variance(name, variance):
    values = initializers.resolve(name)((3, 3, 20, 50), initializers.stream(0, "w"), "float64")
    assert abs(values.mean()) < 4 * math.sqrt(variance / values.size)
    assert values.var() == pytest.approx(variance, rel=0.06)
    if "uniform" in name:
        assert abs(values).max() <= math.sqrt(3 * variance)


def test_truncated_normal_stays_within_two_deviations():
    values = initializers.TruncatedNormal(1.0, 0.1)((50_000,), initializers.stream(0, "w"), "float64")
    assert abs(values - 1).max() <= 0.2
    assert values.std() == pytest.approx(0.088, rel=0.02)


@pytest.mark.parametrize("shape", [(3, 3, 4, 7), (2, 30), (30, 2), (5, 5)])
def test_orthogonal(shape):
    matrix = initializers.Orthogonal(2.0)(shape, initializers.stream(0, "w"), "float64").reshape(-1, shape[-1])
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)


def test_initial_values_depend_on_seed_and_name_only():
    draw = initializers.resolve("he_normal")
    first = draw((4, 5), initializers.stream(3, "a"), "float64")
    np.testing.assert_array_equal(first, draw((4, 5), initializers.stream(3, "a"), "float64"))
    assert (first != draw((4, 5), initializers.stream(4, "a"), "float64")).all()
    assert (first != draw((4, 5), initializers.stream(3, "b"), "float64")).all()
    np.testing.assert_array_equal(first.astype("float32"), draw((4, 5), initializers.stream(3, "a"), "float32"))


def test_large_draws_come_in_chunks_without_a_seam():
    values = initializers.Normal()((initializers._CHUNK + 5,), initializers.stream(0, "w"), "float32")
    assert np.unique(values[-5:]).size == 5
    assert values[: initializers._CHUNK].std() == pytest.approx(0.05, rel=0.01)


def test_wrong_initializers():
    with pytest.raises(UnknownNameError, match="'he_normal'"):
        initializers.resolve("he_norma")
    with pytest.raises(ConfigError, match="3 was given as an initializer"):
        initializers.resolve(3)
    with pytest.raises(ConfigError, match="fan='up'"):
        initializers.VarianceScaling(1.0, "up")
    with pytest.raises(ConfigError, match="two axes"):
        initializers.Orthogonal()((3,), initializers.stream(0, "w"), "float32")
    with pytest.raises(
        UnknownNameError, match=r"^Dense layer 'd': parameter 'weight': There is no initializer named 'he_norml'. Did you mean"
    ):
        nc.Dense(3, initializer="he_norml")(nc.Input((4,)), name="d")
    with pytest.raises(ConfigError, match=r"^Dense layer: parameter 'bias': 0.5 was given as an initializer"):
        nc.Dense(3, bias_initializer=0.5)(nc.Input((4,)))


def test_fans():
    assert initializers.fans((3, 3, 4, 8)) == (36, 72)
    assert initializers.fans((10, 20)) == (10, 20)
    assert initializers.fans((7,)) == (7, 7)


# As data -------------------------------------------------------------------------------------------------------------


def test_config_round_trip():
    x, z = nc.Input((8, 8, 3), name="image"), nc.Input((4,))
    conv = nc.Conv2D(
        3, (3, 3), padding=((1, 1), (1, 1)), activation=nc.Activation("leaky_relu", alpha=0.2), initializer=initializers.Normal(0, 0.1)
    )
    with nc.scope("stage1"):
        h = conv(conv(x))
    y = nc.Dense(4, activation="relu")(nc.MaxPool2D(2)(h))
    graph = Graph([x, z], [y, nc.Dense(2)(z)])
    text = json.dumps(to_config(graph))
    again = Graph(*from_config(json.loads(text)))
    assert [node.name for node in again.nodes] == [node.name for node in graph.nodes]
    assert [node.layer for node in again.nodes] == [node.layer for node in graph.nodes]
    assert again.nodes[0].layer is again.nodes[1].layer
    assert again.input_names == graph.input_names == ("image", "input2")
    assert again.specs == graph.specs
    assert [tensor.shape for tensor in again.outputs] == [tensor.shape for tensor in graph.outputs]
    assert json.dumps(to_config(again)) == text


def test_damaged_config():
    x = nc.Input((4,))
    config = nc.Model(x, nc.Dense(3)(x)).to_config()
    with pytest.raises(WeightsError, match="format 99"):
        nc.Model.from_config({**config, "graph": {**config["graph"], "format": 99}})
    with pytest.raises(WeightsError, match="damaged"):
        nc.Model.from_config({**config, "graph": {key: value for key, value in config["graph"].items() if key != "nodes"}})


def _damages(value):
    """Copies of a configuration in each of which one value, at any depth, is another or gone."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, item in items:
        copies = [None, -1, "?", 1.5, float("inf"), [], {}, {"layer": 3}, {"initializer": "fans", "config": {}}, *_damages(item)]
        for damaged in copies:
            copy = value.copy()
            copy[key] = damaged
            yield copy
        copy = value.copy()
        del copy[key]
        yield copy


def test_a_damaged_config_is_a_model_or_an_error_of_ours():
    x = nc.Input((4,))
    config = nc.Model(x, nc.Dense(3, activation=nc.Activation("elu", 0.1), initializer=initializers.Normal())(x)).to_config()
    errors = set()
    for damaged in _damages(json.loads(json.dumps(config))):
        try:
            nc.Model.from_config(damaged)
        except nc.NumbacnnError as error:
            errors.add(type(error))
    assert errors <= {WeightsError, PluginError}


def test_several_outputs_and_products_of_halves():
    x = nc.Input((3,))
    a, b = Halves()(x)
    model = nc.Model(x, [Product()(a, b), a], dtype="float64")
    product, half = model.predict(np.full((2, 3), 4.0))
    np.testing.assert_array_equal(product, 2)
    np.testing.assert_array_equal(half, 2)
