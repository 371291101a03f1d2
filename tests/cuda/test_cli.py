"""The command line's ``--device cuda --precision``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import numbacnn as nc
from numbacnn.cli.warming import Use, wanted
from numbacnn.errors import ConfigError
from numbacnn.kernels import compiling

from ..test_cli import run
from .test_layers import compiled, simulated


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    """A model, and a folder of class folders with an image each."""
    x = nc.Input((4, 4, 1))
    model = nc.Model(x, nc.Dense(4)(nc.Flatten()(x)), seed=2)
    model.classes = ("a", "b", "c", "d")
    model.save(tmp_path / "model.safetensors")
    for number, name in enumerate(model.classes):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "one.png")
    return [tmp_path / "model.safetensors", tmp_path / "images"]


def told(*arguments: Any) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@simulated
def test_predictions_in_another_precision(saved: list[Path]) -> None:
    model, folder = saved
    given = ["predict", model, folder / "a"]
    (expected,), (float32,), (bf16,) = (
        told(*given, *more) for more in ([], ["--device", "cuda"], ["--device", "cuda", "--precision", "bf16"])
    )
    first, same, rounded = (found["predictions"][0]["probability"] for found in (expected, float32, bf16))
    assert same == pytest.approx(first, rel=1e-5)
    assert 1e-6 < abs(rounded - same) < 2e-2


@simulated
def test_evaluation_in_another_precision(saved: list[Path]) -> None:
    given = ["evaluate", *saved, "--split", "train", "--device", "cuda"]
    same, rounded = told(*given)["loss"], told(*given, "--precision", "bf16")["loss"]
    assert 1e-6 < abs(rounded - same) < 2e-2


@simulated
def test_training_in_another_precision(saved: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fit(trainer: nc.Trainer, *_: Any, **__: Any) -> None:
        raise ConfigError(f"{trainer.device} {trainer.model.precision}")

    monkeypatch.setattr(nc.Trainer, "fit", fit)
    given = ["train", "lenet5", "digits", "--device", "cuda", "--precision", "tf32", "--output", tmp_path / "run"]
    assert "cuda tf32" in run(*given).stderr


@compiled
def test_warming_for_another_precision() -> None:
    for precision in ("float32", "tf32", "bf16"):
        found = wanted(Use("cnn", (8, 8, 4), 10, 4, True, (9, 0), precision))
        modules = {each.kernel.function.__module__.rpartition(".")[2] for each in found}
        assert modules & {"tf32", "bf16"} == {precision} - {"float32"}


@compiled
def test_a_kernel_is_compiled_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    kernel = wanted(Use("cnn", (8, 8, 4), 10, 4, False, (9, 0)))[0]
    with compiling._helpers(1) as (helper,):
        assert helper.build(compiling._sent(kernel)).found is False
    assert kernel.kept
