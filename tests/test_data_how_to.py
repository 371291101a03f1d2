"""docs/how-to/data.md says nothing that does not run."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from numbacnn.cli.main import main

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
    plugin, data = {}, {"Stripes": list}
    for block, module in zip(BLOCKS["Give it a name"], (plugin, data), strict=True):
        exec(block, module)
    (spec,) = plugin["numbacnn_datasets"]()
    assert spec.factory == "numbacnn_stripes.data:stripes"
    assert callable(data["stripes"])
