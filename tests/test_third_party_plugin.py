"""The example plugin, installed by pip into an environment of its own: found, checked, trained, saved, loaded, uninstalled."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import numbacnn

EXAMPLE = Path(numbacnn.__file__).resolve().parents[1] / "examples" / "third_party_plugin"
pytestmark = [pytest.mark.install, pytest.mark.slow]

TRAIN = """
import sys
import numpy as np
import numbacnn as nc
from numbacnn.data.sources import open_dataset

images, labels = open_dataset("digits").batch(np.arange(256))
model = nc.create("blurnet", input_shape=images.shape[1:], classes=10, seed=1)
trainer = nc.Trainer(model, optimizer=nc.Adam(0.01), seed=1)
losses = [trainer.step(images, labels) for _ in range(20)]
assert losses[-1] < 0.7 * losses[0], losses
model.save("blurnet.safetensors")
np.testing.assert_array_equal(nc.load("blurnet.safetensors").predict(images), model.predict(images))
"""
LOAD = "import numbacnn as nc; nc.load('blurnet.safetensors')"


class Environment:
    """A virtual environment that also sees what is installed beside the running Python."""

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
        self.python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        ours = self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        theirs = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()})
        lines = [f"import site; site.addsitedir({path!r})" for path in theirs]
        Path(ours, "beside.pth").write_text("\n".join(lines) + "\n")

    def run(self, *args, check: bool = True) -> subprocess.CompletedProcess:
        result = subprocess.run([self.python, *map(str, args)], cwd=self.folder, capture_output=True, text=True, check=False)
        assert result.returncode == 0 or not check, result.stdout + result.stderr
        return result


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("third_party"))


def test_a_third_party_plugin_lives_like_a_builtin(environment, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(EXAMPLE, source)
    environment.run("-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check", source)

    plugins = {p["name"]: p for p in json.loads(environment.run("-m", "numbacnn.cli.main", "plugins", "--json").stdout)}
    assert plugins["blurpool"]["status"] == "ok"
    assert plugins["blurpool"]["distribution"] == "numbacnn-blurpool"
    assert plugins["blurpool"]["provides"] == {"layer": ["BlurPool2D"], "architecture": ["blurnet"], "activation": ["squareplus"]}

    environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", source / "tests")
    environment.run("-c", TRAIN)
    environment.run("-c", LOAD)

    environment.run("-m", "pip", "uninstall", "--yes", "--quiet", "numbacnn-blurpool")
    failed = environment.run("-c", LOAD, check=False)
    assert failed.returncode == 1
    assert "pip install numbacnn-blurpool" in failed.stderr.strip().splitlines()[-1]
    told = environment.run("-m", "numbacnn.cli.main", "evaluate", "blurnet.safetensors", "digits", check=False)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
