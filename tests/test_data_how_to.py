"""docs/how-to/data.md says nothing that does not run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from numbacnn.cli.main import main
from numbacnn.data.dataset import Dataset
from numbacnn.data.files import download_folder, search_folders
from numbacnn.data.loader import Loader

TEXT = (Path(__file__).parent.parent / "docs" / "how-to" / "data.md").read_text()
BLOCKS = {
    chapter.partition("\n")[0]: re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    for chapter in re.split(r"^## ", TEXT, flags=re.MULTILINE)
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder as the text has it: bright cats, dark dogs."""
    random = np.random.default_rng(0)
    for name, brightness in (("cat", 150), ("dog", 0)):
        for number in range(15):
            path = tmp_path / "photos" / name / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(brightness, brightness + 100, (40, 30 + number, 3), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)


def test_the_folder_in_python(photos, capsys):
    exec(BLOCKS["A folder of images"][0], {})
    assert "24 images of shape (32, 32, 3)" in capsys.readouterr().out


def test_the_folder_on_the_command_line(photos):
    command = re.search(r"^numbacnn (train cnn photos .*)$", TEXT, re.MULTILINE).group(1)
    done = CliRunner().invoke(main, [*command.split(), "--epochs", "1"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("chapter", ["Arrays", "A data set of another kind"])
def test_examples_learn(chapter, capsys):
    exec(BLOCKS[chapter][0], {})
    accuracy = re.search(r"'accuracy': ([\d.]+)", capsys.readouterr().out)
    assert float(accuracy.group(1)) > 0.9


def test_the_plugin_is_well_formed():
    plugin, data = {}, {}
    exec(BLOCKS["A data set of another kind"][0].partition("\ntrainer")[0], data)
    for block, module in zip(BLOCKS["Give it a name"], (plugin, data), strict=True):
        exec(block, module)
    (spec,) = plugin["numbacnn_datasets"]()
    assert spec.factory == "numbacnn_stripes.data:stripes"
    train, test = data["stripes"]("train", folder=None), data["stripes"]("test")
    assert isinstance(train, Dataset)
    assert (len(train), len(test)) == (2048, 256)
    images, labels = next(Loader(train, 16).epoch())
    for image, label in zip(images[..., 0], labels):
        along = image if train.classes[label] == "horizontal" else image.T
        assert (along == along[:, :1]).all()
        assert set(np.unique(along)) == {0, 1}


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    """The order in which the text names the folders."""
    named = re.findall(r"^\d\. (.*(?:\n   .*)*)", TEXT, re.MULTILINE)
    monkeypatch.setenv("NUMBACNN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "cache"))
    assert search_folders("mnist", tmp_path) == [tmp_path, tmp_path / "mnist"]
    assert "a folder `NAME` there" in named[0]
    assert search_folders("mnist", None, ["/debian"]) == [tmp_path / "data/mnist", Path("/debian"), tmp_path / "cache/datasets/mnist"]
    for part, said in zip(named[1:], ("NUMBACNN_DATA_DIR/NAME", "Debian", "datasets/NAME")):
        assert said in part
    monkeypatch.delenv("NUMBACNN_DATA_DIR")
    assert download_folder("mnist") == search_folders("mnist")[0] == tmp_path / "cache/datasets/mnist"
    folder = json.loads(CliRunner().invoke(main, ["cache", "info", "--json"]).stdout)["folder"]
    assert folder == str(tmp_path / "cache" / "kernels")
