"""Weight files: what is written is read, never half, and what is wrong is said in a sentence."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import NumbacnnError, PluginError, WeightsError
from numbacnn.layers.conv import Conv2D
from numbacnn.layers.dense import Dense
from numbacnn.layers.pool import GlobalAveragePool2D, MaxPool2D
from numbacnn.weights import files


def small_model(seed: int = 0, filters: int = 4) -> nc.Model:
    x = nc.Input((7, 5, 2))
    h = Conv2D(filters, 3, padding="same")(x, name="stem")
    h = GlobalAveragePool2D()(MaxPool2D(2)(h))
    return nc.Model(x, Dense(3)(h, name="head"), seed=seed, name="small")


def values(model: nc.Model) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in model.parameters.items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_saved_model_is_loaded_with_graph_and_weights(tmp_path):
    model = small_model(seed=3)
    model.save(tmp_path / "m.safetensors")
    loaded = nc.load(tmp_path / "m.safetensors")
    assert same(values(loaded), values(model))
    assert [node.layer for node in loaded.graph.nodes] == [node.layer for node in model.graph.nodes]
    assert (loaded.name, loaded.seed, loaded.dtype) == ("small", 3, model.dtype)
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copied", "pickled"])
def test_a_copy_is_the_same_model(again):
    model = small_model(seed=3)
    model.freeze_until("head")
    model.classes, model.exact = ("a", "b"), True
    found, images = again(model), np.ones((1, *model.inputs[0].shape), "f4")
    assert same(values(found), values(model))
    assert [node.layer for node in found.graph.nodes] == [node.layer for node in model.graph.nodes]
    assert (found.name, found.classes, found.exact, found.store.frozen) == (model.name, model.classes, True, model.store.frozen)
    assert found.store.frozen
    before = model.predict(images)
    np.testing.assert_array_equal(found.predict(images), before)
    for name in found.parameters:
        found.parameters[name] = np.zeros_like(found.parameters[name])
    np.testing.assert_array_equal(model.predict(images), before)


def test_a_model_without_parameters_is_not_copied():
    model = small_model()
    model.release_parameters(1)
    with pytest.raises(nc.ConfigError, match="has released its parameters"):
        copy.deepcopy(model)


def test_a_model_file_is_an_ordinary_safetensors_file_and_records_who_provides_each_layer(tmp_path):
    from safetensors import safe_open

    small_model().save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        assert sorted(file.keys()) == ["head.bias", "head.weight", "stem.bias", "stem.weight"]
        record = json.loads(file.metadata()["numbacnn"])
    assert record["format"] == files.FORMAT
    layers = record["model"]["graph"]["layers"]
    assert {layer["name"] for layer in layers} == {"Conv2D", "MaxPool2D", "GlobalAveragePool2D", "Dense"}
    assert all(layer["distribution"] == "numbacnn" and layer["version"] == 1 for layer in layers)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_weights_come_from_files_and_mappings(tmp_path, suffix):
    given = values(small_model(seed=1))
    path = tmp_path / f"w.{suffix}"
    np.savez(path, **given) if suffix == "npz" else files.write_weights(path, given)
    for source in (path, str(path), given, {name: array.tolist() for name, array in given.items()}):
        model = small_model(seed=2)
        report = model.load_weights(source)
        assert report.complete
        assert report.assigned == tuple(given)
        assert same(values(model), given)


def test_arrays_of_any_layout_and_rank_survive(tmp_path):
    generator = np.random.default_rng(0)
    given = {
        "scalar": np.float32(2.5),
        "transposed": generator.standard_normal((3, 4, 5)).T,
        "strided": generator.standard_normal((4, 6)).astype(np.float32)[::2, ::3],
        "empty": np.zeros((0, 3), np.float32),
        "integers": np.arange(5),
    }
    files.write_weights(tmp_path / "w.safetensors", given)
    read = files.read_weights(tmp_path / "w.safetensors")
    assert set(read) == set(given)
    for name, array in given.items():
        assert read[name].dtype == np.asarray(array).dtype
        assert np.array_equal(read[name], array)


def test_float64_weights_of_a_float32_model_are_rounded():
    model = small_model()
    given = {name: array.astype(np.float64) + 1e-12 for name, array in values(model).items()}
    model.load_weights(given)
    assert all(array.dtype == np.float32 for array in model.parameters.values())


# What does not fit -----------------------------------------------------------------------------------------------------


def wrong_shape(given: dict) -> None:
    given["stem.weight"] = given["stem.weight"][:2]


def wrong_kind(given: dict) -> None:
    given["stem.bias"] = np.array(["a", "b", "c", "d"])


def misnamed(given: dict) -> None:
    given["stem.wieght"] = given.pop("stem.weight")


def too_many(given: dict) -> None:
    given["tail.bias"] = np.zeros(3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wrong_shape, ["'stem.weight'", "(2, 3, 2, 4)", "(3, 3, 2, 4)"]),
        (wrong_kind, ["'stem.bias'", "real numbers"]),
        (misnamed, ["1 missing", "'stem.weight' (near 'stem.wieght')", "1 unexpected"]),
        (too_many, ["1 unexpected", "'tail.bias'"]),
        (dict.clear, ["4 missing"]),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_as_it_was(change, words):
    model = small_model(seed=1)
    before, given = values(model), values(small_model(seed=2))
    change(given)
    with pytest.raises(WeightsError) as caught:
        model.load_weights(given)
    for word in words:
        assert word in str(caught.value)
    assert same(values(model), before)


def test_not_strict_skips_names_but_never_shapes():
    model, given = small_model(seed=1), values(small_model(seed=2))
    before = values(model)
    extra = {"head.weight": given["head.weight"], "other": np.zeros(2)}
    report = model.load_weights(extra, strict=False)
    assert report.assigned == ("head.weight",)
    assert report.missing == ("stem.weight", "stem.bias", "head.bias")
    assert report.unexpected == ("other",)
    assert np.array_equal(model.parameters["head.weight"], given["head.weight"])
    assert np.array_equal(model.parameters["stem.weight"], before["stem.weight"])
    with pytest.raises(WeightsError, match="needs"):
        model.load_weights({"head.weight": np.zeros((2, 2))}, strict=False)


def test_integers_half_precision_and_bfloat16_are_converted(tmp_path):
    model = small_model()
    given = {name: np.full(array.shape, 2.0) for name, array in values(model).items()}
    for dtype in ("float16", "float64", "int64", "uint8", "bool"):
        model.load_weights({name: array.astype(dtype) for name, array in given.items()})
        assert all((array == (1 if dtype == "bool" else 2)).all() for array in model.parameters.values())
    (tmp_path / "w.safetensors").write_bytes(bfloat16_file({name: array.shape for name, array in given.items()}, 0x4040))
    model.load_weights(tmp_path / "w.safetensors")
    assert all((array == 3).all() for array in model.parameters.values())


def bfloat16_file(shapes: dict, bits: int) -> bytes:
    """A safetensors file of tensors all of whose numbers are the same."""
    header, data = {}, b""
    for name, shape in shapes.items():
        start, data = len(data), data + np.full(shape, bits, "<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


# Weights of other networks ---------------------------------------------------------------------------------------------


def reduced(name: str, classes: int = 7, **options) -> nc.Model:
    return nc.create(name, input_shape=(32, 32, 3), classes=classes, width=8, **options)


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    reduced("resnet18").export(path)
    return path


def test_the_convention_is_in_the_report(resnet18_file, tmp_path):
    model = reduced("resnet18", seed=1)
    assert model.load_weights(resnet18_file).convention == "torchvision"
    assert "in torchvision" in str(model.load_weights(resnet18_file))
    model.save(tmp_path / "m.safetensors")
    assert model.load_weights(tmp_path / "m.safetensors").convention == "numbacnn"


def test_another_number_of_classes_is_reported_and_skipped_by_choice(resnet18_file):
    model, donor = reduced("resnet18", classes=10, seed=1), values(reduced("resnet18"))
    before = values(model)
    with pytest.raises(
        WeightsError, match=r"2 of the wrong shape: 'fc.weight' has shape \(7, 64\).*number of classes.*skip_mismatched=True"
    ):
        model.load_weights(resnet18_file)
    assert same(values(model), before)
    report = model.load_weights(resnet18_file, skip_mismatched=True)
    assert [name for name, _, _ in report.shapes] == ["fc.weight", "fc.bias"]
    for name, array in values(model).items():
        assert np.array_equal(array, before[name] if name.startswith("head.") else donor[name])


def test_the_layer_of_the_classes_may_have_others_behind_it():
    x = nc.Input((5, 5, 2))
    h = nc.Conv2D(4, 1)(nc.Conv2D(3, 1)(x, name="body"), name="classes")
    model = nc.Model(x, nc.Softmax()(nc.GlobalAveragePool2D()(nc.Activation("relu")(h))))
    assert files.output_parameters(model) == {"classes.weight", "classes.bias"}


@pytest.mark.parametrize("other", ["vgg11", "resnet50", "convnext_tiny", "lenet5"])
@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_another_network_get_one_short_sentence(resnet18_file, other, strict):
    model = nc.create(other, classes=7) if other == "lenet5" else reduced(other)
    before = values(model)
    with pytest.raises(WeightsError, match="another network") as caught:
        model.load_weights(resnet18_file, strict=strict)
    assert len(str(caught.value)) < 320
    assert same(values(model), before)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_torchvision_loads_what_is_exported_with_all_its_strictness(tmp_path, name):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    from tests import zoo

    theirs = zoo.randomised(getattr(zoo.torchvision().models, name)())
    torch.save(theirs.state_dict(), tmp_path / "given.pth")
    model = nc.create(name)
    model.load_weights(tmp_path / "given.pth")
    model.export(tmp_path / "exported.safetensors")
    exported = safetensors_torch.load_file(tmp_path / "exported.safetensors")
    getattr(zoo.torchvision().models, name)().load_state_dict(exported, strict=True)
    for key, array in theirs.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(exported[key], array)


# Files that cannot be read ---------------------------------------------------------------------------------------------


def test_a_truncated_or_altered_file_is_refused_at_every_length(tmp_path):
    model = small_model(seed=1)
    path, before = tmp_path / "m.safetensors", values(model)
    model.save(path)
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        for action in (model.load_weights, nc.load):
            with pytest.raises(WeightsError, match=r"m\.safetensors"):
                action(path)
    path.write_bytes(whole[:8] + b"x" * 40 + whole[48:])
    with pytest.raises(WeightsError):
        nc.load(path)
    assert same(values(model), before)


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 broken"])
def test_a_broken_npz_is_refused(tmp_path, content):
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.npz"):
        files.read_weights(path)


def test_a_truncated_npz_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, **values(small_model()))
    whole = path.read_bytes()
    for length in (len(whole) // 3, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            files.read_weights(path)


def test_pickled_objects_are_not_read(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(WeightsError):
        files.read_weights(tmp_path / "w.npz")


@pytest.mark.parametrize(("name", "words"), [("none.npz", "no file"), ("w.pth", "no file"), ("w.txt", "not a weights file")])
def test_other_files_get_a_sentence(tmp_path, name, words):
    with pytest.raises(WeightsError, match=words):
        files.read_weights(tmp_path / name)


def test_a_folder_gets_a_sentence(tmp_path):
    with pytest.raises(WeightsError, match="folder"):
        nc.load(tmp_path)


def test_weights_without_a_graph_cannot_be_loaded_as_a_model(tmp_path):
    files.write_weights(tmp_path / "w.safetensors", values(small_model()))
    with pytest.raises(WeightsError, match="load_weights"):
        nc.load(tmp_path / "w.safetensors")


def rewrite(path, change) -> None:
    """Change the description in a model's file."""
    config, weights = files.load_parts(path)
    record = {"format": files.FORMAT, "model": config}
    change(record)
    files.write_weights(path, weights, {files.METADATA_KEY: json.dumps(record)})


def test_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    small_model().save(path)
    rewrite(path, lambda record: record.update(format=files.FORMAT + 1))
    with pytest.raises(WeightsError, match=f"format {files.FORMAT + 1}"):
        nc.load(path)


def test_a_newer_layer_and_a_missing_plugin_say_what_to_install(tmp_path):
    path = tmp_path / "m.safetensors"
    small_model().save(path)
    rewrite(path, lambda record: record["model"]["graph"]["layers"][0].update(version=99))
    with pytest.raises(PluginError, match=r"99.*pip install"):
        nc.load(path)
    rewrite(path, lambda record: record["model"]["graph"]["layers"][0].update(name="Swirl", distribution="swirlnet"))
    with pytest.raises(PluginError, match=r"'Swirl'.*pip install swirlnet"):
        nc.load(path)


@pytest.mark.parametrize(
    "damage", [lambda r: r.pop("model"), lambda r: r["model"].pop("graph"), lambda r: r["model"]["graph"].update(layers=[])]
)
def test_a_damaged_description_gets_a_sentence(tmp_path, damage):
    path = tmp_path / "m.safetensors"
    small_model().save(path)
    rewrite(path, damage)
    with pytest.raises(NumbacnnError, match="damaged"):
        nc.load(path)


# Writing ---------------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(b"old")
    with contextlib.suppress(KeyboardInterrupt), files.atomic_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.bin"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "latest").symlink_to(tmp_path / "m.safetensors")
    small_model(seed=2).save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert same(values(nc.load(tmp_path / "m.safetensors")), values(small_model(seed=2)))


@pytest.mark.parametrize("path", [".", "", "/"])
def test_a_folder_is_not_written_over(path):
    with pytest.raises(WeightsError, match="is a folder; it takes the name of a file"):
        small_model().save(path)


def test_weights_under_another_suffix_are_read(tmp_path):
    small_model(seed=2).save(tmp_path / "m.pth")
    model = small_model(seed=5)
    model.load_weights(tmp_path / "m.pth")
    assert same(values(model), values(small_model(seed=2)))


def test_a_folder_that_does_not_exist_gets_a_sentence(tmp_path):
    with pytest.raises(WeightsError, match="cannot be written"):
        small_model().save(tmp_path / "none" / "m.safetensors")


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "w.safetensors"
    files.write_weights(path, {"a": np.zeros(4)})
    code = (
        "import os, sys; from numbacnn.weights import files\n"
        "with files.atomic_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert np.array_equal(files.read_weights(path)["a"], np.zeros(4))


def test_saved_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    files.write_weights(tmp_path / "w.safetensors", {"a": np.zeros(4)})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_any_model_speaks_pytorch_layouts(tmp_path):
    """A network without rules has our names, and PyTorch's order of axes where that is asked for or found."""
    x = nc.Input((6, 5, 3))
    h = nc.Conv2D(4, 3)(x, name="conv")
    model = nc.Model(x, nc.Dense(7)(nc.Flatten()(h), name="dense"), seed=3)
    model.export(tmp_path / "theirs.safetensors", "pytorch")
    theirs = files.read_weights(tmp_path / "theirs.safetensors")
    assert theirs["conv.weight"].shape == (4, 3, 3, 3)
    dense = theirs["dense.weight"].reshape(7, 4, 4, 3)  # PyTorch flattens channels first
    np.testing.assert_array_equal(dense[2, 1, 3, 0], model.parameters["dense.weight"].reshape(4, 3, 4, 7)[3, 0, 1, 2])
    other = nc.Model(x, model.outputs, seed=9)
    assert other.load_weights(tmp_path / "theirs.safetensors").convention == "pytorch"
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(other.parameters[name], array)
