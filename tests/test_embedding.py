"""Embedding, and models whose inputs are whole numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

import numbacnn as nc
from numbacnn import kernels
from numbacnn.data.dataset import ArrayDataset
from numbacnn.errors import ConfigError, DataError, ShapeError, UnknownNameError
from numbacnn.testing import Trial, gradient_check, whole
from tests.naive import embedding as naive

CASES = [
    ((5,), {"vocabulary": 7, "width": 3}),
    ((4, 3), {"vocabulary": 3, "width": 8, "padding_index": 0}),
    ((2, 1, 3), {"vocabulary": 40, "width": 19, "padding_index": -1}),
    ((1,), {"vocabulary": 1, "width": 1}),
    ((33,), {"vocabulary": 11, "width": 300}),
]


def trial(layer, shape, batch=3, dtype="float64"):
    return Trial(layer, [shape], batch, dtype, sample=whole(layer.vocabulary))


@pytest.mark.parametrize(("shape", "fields"), CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_against_the_reference(shape, fields, dtype):
    layer = nc.Embedding(**fields)
    one = trial(layer, shape, dtype=dtype)
    np.testing.assert_array_equal(one.forward()[0], naive.rows(one.p["weight"], one.x[0]))
    (dx,), dp = one.backward()
    assert dx is None
    wanted = naive.row_sums(one.dy[0], one.x[0], layer.vocabulary, layer.padding_index)
    np.testing.assert_allclose(dp["weight"], wanted, rtol=0, atol=1e-13 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize(("shape", "fields"), CASES[:3], ids=str)
def test_gradients(shape, fields):
    layer = nc.Embedding(**{**fields, "padding_index": None})
    gradient_check(layer, shape, sample=whole(layer.vocabulary))


@pytest.mark.oracle
@pytest.mark.parametrize(("shape", "fields"), CASES, ids=str)
def test_against_torch(shape, fields):
    torch = pytest.importorskip("torch")
    layer = nc.Embedding(**fields)
    one = trial(layer, shape)
    theirs = torch.nn.Embedding(layer.vocabulary, layer.width, padding_idx=layer.padding_index, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(one.p["weight"]))
    y = theirs(torch.tensor(one.x[0]))
    y.backward(torch.tensor(one.dy[0]))
    np.testing.assert_array_equal(one.forward()[0], y.detach().numpy())
    np.testing.assert_allclose(one.backward()[1]["weight"], theirs.weight.grad.numpy(), rtol=0, atol=1e-13)


def test_the_number_of_threads_changes_no_bit():
    before = kernels.jit.num_threads()
    found = []
    try:
        for threads in (1, before):
            kernels.jit.set_num_threads(threads)
            one = Trial(nc.Embedding(300, 150), [(900,)], 7, "float32", sample=lambda generator, shape: generator.geometric(0.1, shape))
            found.append([one.forward()[0], one.backward()[1]["weight"]])
    finally:
        kernels.jit.set_num_threads(before)
    for alone, together in zip(*found):
        np.testing.assert_array_equal(alone, together)


def test_the_row_of_padding_starts_at_zero_and_stays():
    x = nc.Input((6,), dtype="int64")
    h = nc.GlobalAveragePool1D()(nc.Embedding(9, 4, padding_index=2)(x, name="embedding"))
    model = nc.Model(x, nc.Dense(3)(h))
    table = model.parameters["embedding.weight"].copy()
    assert not table[2].any()
    assert 0.5 < table.std() < 1.5
    ids = np.arange(12).reshape(2, 6) % 9
    nc.Trainer(model, optimizer=nc.SGD(0.1, momentum=0.9)).step(ids, [0, 1])
    changed = (model.parameters["embedding.weight"] != table).any(axis=1)
    np.testing.assert_array_equal(changed, np.arange(9) != 2)


# Models ----------------------------------------------------------------------------------------------------------------


def words_and_numbers(seed=0):
    words, numbers = nc.Input((4,), "words", "int64"), nc.Input((3,), "numbers")
    h = nc.Flatten()(nc.Embedding(6, 5)(words, name="embedding"))
    return nc.Model([words, numbers], nc.Dense(2)(nc.Concatenate()(h, numbers)), seed=seed)


def samples(count=24):
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 6, (count, 4))
    return ids, generator.standard_normal((count, 3)).astype(np.float32), (ids == 3).any(axis=1).astype(np.int64)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_ids_of_any_integer_type(dtype):
    ids, numbers, _ = samples()
    model = words_and_numbers()
    np.testing.assert_array_equal(model.predict((ids.astype(dtype), numbers)), model.predict((ids, numbers)))


def test_a_model_of_words_and_numbers_learns_from_a_data_set():
    ids, numbers, labels = samples()
    trainer = nc.Trainer(words_and_numbers(), optimizer=nc.Adam(0.05))
    trainer.fit(((ids.astype(np.uint8), numbers), labels), epochs=60, batch_size=8, progress=False)
    assert trainer.evaluate(((ids, numbers), labels))["accuracy"] > 0.95


def test_gradients_of_inputs_are_those_of_real_numbers():
    ids, numbers, labels = samples()
    model = words_and_numbers()
    of_ids, of_numbers = nc.Trainer(model).gradients((ids, numbers), labels)["input"]
    assert of_ids.shape == ids.shape
    assert not of_ids.any()
    assert of_numbers.any()


def test_the_type_of_inputs_is_saved(tmp_path):
    ids, numbers, _ = samples()
    model = words_and_numbers()
    model.save(tmp_path / "model.safetensors")
    loaded = nc.load(tmp_path / "model.safetensors")
    assert [tensor.dtype for tensor in loaded.graph.inputs] == ["int64", None]
    np.testing.assert_array_equal(loaded.predict((ids, numbers)), model.predict((ids, numbers)))


def test_a_sequence_of_layers_takes_what_its_first_layer_takes():
    model = nc.Sequential([nc.Sequential([nc.Embedding(5, 2)]), nc.Flatten(), nc.Dense(3)]).build((4,))
    assert model.predict(np.zeros((2, 4), np.int64)).shape == (2, 3)


def test_receptive_fields_count_words():
    model = nc.create("text_cnn", input_shape=(20,), vocabulary=9, windows=(2, 4))
    sizes = {row.name: row.receptive_field.size for row in model.summary().rows}
    assert [sizes[name] for name in ("embedding", "window2.conv", "window4.conv", "head.logits")] == [(1,), (2,), (4,), (20,)]


def test_a_data_set_keeps_whole_numbers_where_it_is_told_to():
    ids = np.array([[300, 2], [3, 4]], np.int32)
    images, _ = ArrayDataset(ids, [0, 1], whole_numbers=[True]).batch(np.array([1, 0]))
    assert images.dtype == np.int64
    np.testing.assert_array_equal(images, ids[::-1])
    with pytest.raises(DataError, match="must be uint8"):
        ArrayDataset(ids, [0, 1])
    with pytest.raises(DataError, match="must be whole numbers, such as ids of words; these are float64"):
        ArrayDataset(ids / 2, [0, 1], whole_numbers=[True])


# Mistakes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 6, 2**40])
def test_ids_outside_the_vocabulary(wrong):
    ids, numbers, labels = samples()
    ids[1, 2] = wrong
    message = re.escape(f"Embedding layer 'embedding': given the id {wrong}, which the vocabulary lacks; its ids are from 0 to 5.")
    with pytest.raises(DataError, match=message):
        words_and_numbers().predict((ids, numbers))
    with pytest.raises(DataError, match=message):
        nc.Trainer(words_and_numbers()).step((ids, numbers), labels)


def test_inputs_of_the_wrong_type():
    with pytest.raises(ConfigError, match=r"its input holds real numbers; it takes whole ones: nc\.Input\(shape, dtype='int64'\)\."):
        nc.Embedding(5, 2)(nc.Input((4,)))
    with pytest.raises(ConfigError, match=r"its input holds whole numbers \(int64\), which it does not take"):
        nc.Dense(5)(nc.Input((4,), dtype="int64"))
    with pytest.raises(ConfigError, match="'int8' was given as the dtype of an Input"):
        nc.Input((4,), dtype="int8")
    ids, numbers, _ = samples()
    with pytest.raises(ConfigError, match=r"Input 'words' was given an array of type float64; it takes whole numbers \(int64\)"):
        words_and_numbers().predict((ids * 1.0, numbers))
    with pytest.raises(ShapeError, match=r"needs \(N, 4\)"):
        words_and_numbers().predict((ids[:, :2], numbers))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary": 0, "width": 2}, "vocabulary is 0"),
        ({"vocabulary": 2, "width": 1.5}, "width is 1.5"),
        ({"vocabulary": 2, "width": 2, "padding_index": 2}, "padding_index is 2"),
        ({"vocabulary": 2, "width": 2, "padding_index": "0"}, "padding_index is '0'"),
    ],
)
def test_fields_that_cannot_be(fields, message):
    with pytest.raises(ConfigError, match=message):
        nc.Embedding(**fields)


def test_an_initializer_that_nobody_knows():
    with pytest.raises(UnknownNameError, match="he_norml"):
        nc.Embedding(3, 2, padding_index=0, initializer="he_norml")(nc.Input((4,), dtype="int64"))
