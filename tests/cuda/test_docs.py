"""The layer of docs/how-to/gpu.md, with kernels of its own."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import numbacnn as nc

from .test_layers import simulated

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "gpu.md").read_text()


@dataclasses.dataclass(frozen=True)
class Double(nc.Layer):
    cuda: ClassVar[str | None] = "my_package.cuda:Double"

    backward_reads: ClassVar[tuple[str, ...]] = ()

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        np.multiply(x, 2, out=y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        np.multiply(dy, 2, out=dx)


@simulated
def test_how_to_give_a_layer_kernels_for_the_gpu(monkeypatch):
    (code,) = re.findall(r"```python\n(# my_package/cuda.py.*?)```", TEXT, re.DOTALL)
    module = types.ModuleType("my_package.cuda")
    exec(compile(code, "my_package/cuda.py", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "my_package", types.ModuleType("my_package"))
    monkeypatch.setitem(sys.modules, "my_package.cuda", module)
    x = nc.Input((7,))
    model = nc.Model(x, Double()(nc.Activation("tanh")(x)))
    images, labels = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32), np.array([0, 3, 6])
    expected, gradients = model.predict(images), nc.Trainer(model).gradients(images, labels)
    model.to("cuda")
    np.testing.assert_allclose(model.predict(images), expected, atol=1e-6)
    np.testing.assert_allclose(nc.Trainer(model).gradients(images, labels)["input"], gradients["input"], atol=1e-6)
