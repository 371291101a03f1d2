"""Where files of our own lie."""

from pathlib import Path

import numpy as np
import pytest

from numbacnn.errors import ConfigError
from numbacnn.kernels.jit import kernel
from numbacnn.paths import cache_folder


@pytest.fixture
def homeless(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    for name in ("NUMBACNN_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


def test_a_chosen_folder(homeless, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path


def test_users_without_a_home(homeless):
    """They are told what to do where they need a folder; kernels are compiled and not kept."""
    with pytest.raises(ConfigError, match="set NUMBACNN_CACHE_DIR"):
        cache_folder()

    @kernel
    def negate(x, y):
        y[0] = -x[0]

    y = np.zeros(1)
    negate(np.ones(1), y)
    assert y[0] == -1
