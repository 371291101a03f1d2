"""What must be right on the GPU: results beside the CPU's, and memory that does not grow."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np

import numbacnn as nc
from numbacnn.errors import NumbacnnError
from numbacnn.kernels.cuda import runtime
from tests import zoo
from tests.cuda.test_layers import BATCH, CASES, model_of, samples, trained

from ..peers.networks import drawn, peers

FLOAT32 = 1e-4  # of the largest value, how far results may be from the CPU's
GRADIENTS = 1e-3  # likewise of gradients, which go through a network twice
SMALL = {"lenet5": (28, 28, 1), "cnn": (32, 32, 3)}  # architectures that no other library has
LEAK_STEPS, LEAK_BYTES = 1000, 1 << 20
EPOCHS, MARGIN = 3, 0.02  # of training, and how much less accurate the GPU may be

Left = Callable[[], float]


def _error(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max(initial=0) / max(1e-3, np.abs(expected).max(initial=0)))


def layers(left: Left) -> list[dict[str, Any]]:
    """Each registered layer in training and in inference, over the table of the tests: the largest error of all that it computes."""
    rows = []
    for name, cases in CASES.items():
        worst, why = 0.0, ""
        for case in cases:
            try:
                worst = max(worst, _layer_error(name, case))
            except NumbacnnError as error:
                worst, why = float("inf"), str(error)
        rows.append({"layer": name, "error": worst, "ok": worst < FLOAT32, "why": why})
    return [row for row in rows if not row["ok"]] or [{"layer": f"all {len(rows)}", "error": max(row["error"] for row in rows), "ok": True}]


def _layer_error(name: str, case: Any) -> float:
    rng = np.random.default_rng(7)
    model = model_of(name, case)
    inputs = samples(model, case, rng)
    slopes = [rng.standard_normal((BATCH, *tensor.shape)).astype("float32") for tensor in model.graph.outputs]
    given: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
    expected = _flat(model.predict(given)) + _flat(trained(model, inputs, slopes, "cpu"))
    model = model_of(name, case).to("cuda")
    found = _flat(model.predict(given)) + _flat(trained(model, inputs, slopes, "cuda"))
    return max(_error(*pair) for pair in zip(found, expected, strict=True))


def _flat(results: Any) -> list[np.ndarray]:
    if isinstance(results, dict):
        return [array for _, array in sorted(results.items())]
    return [array for part in results for array in _flat(part)] if isinstance(results, (tuple, list)) else [results]


def architectures(left: Left) -> list[dict[str, Any]]:
    """Outputs and gradients of every architecture on small images, beside the CPU's: same weights, same batch. One of each family comes
    before the rest."""
    rows = []
    for name in dict.fromkeys((*SMALL, *zoo.first_of_each_family(), *peers())):
        if left() < 0:
            rows.append({"architecture": name, "why": "no time was left"})
            continue
        row: dict[str, Any] = {"architecture": name}
        try:
            row |= _architecture_errors(name)
            row["ok"] = row["logits"] < FLOAT32 and row["gradients"] < GRADIENTS
        except NumbacnnError as error:
            row |= {"ok": False, "why": str(error)}
        rows.append(row)
    return rows


def _architecture_errors(name: str) -> dict[str, float]:
    peer = None if name in SMALL else peers()[name][0]
    shape = SMALL[name] if peer is None else peer.shape(peer.small)
    model = nc.create(name, input_shape=shape, seed=2, **({} if peer is None else peer.options))
    images = drawn(name, shape, BATCH, 1)
    classes = model.graph.outputs[0].shape[-1]
    labels = np.arange(BATCH) % classes
    expected, gradients = _flat(model.predict(images)), nc.Trainer(model).gradients(images, labels)
    model.to("cuda")
    found, on_gpu = _flat(model.predict(images)), nc.Trainer(model).gradients(images, labels)
    return {
        "logits": max(_error(*pair) for pair in zip(found, expected, strict=True)),
        "gradients": max(_error(on_gpu[key], gradients[key]) for key in gradients),
    }


def accuracy(left: Left) -> list[dict[str, Any]]:
    """Accuracy on the digits after some epochs, on both devices, from the same weights and batches."""
    rows = []
    for name, shape in (("lenet5", (28, 28, 1)), ("resnet18", (32, 32, 1))):
        found = {}
        for device in ("cpu", "cuda"):
            model = nc.create(name, input_shape=shape, classes=10, seed=1)
            trainer = nc.Trainer(model, optimizer=nc.SGD(0.05, momentum=0.9), device=device)
            trainer.fit("digits", epochs=EPOCHS, batch_size=64, progress=False)
            found[device] = trainer.evaluate("digits")["accuracy"]
        rows.append({"network": name, **found, "ok": found["cuda"] > found["cpu"] - MARGIN})
    return rows


def memory(left: Left) -> list[dict[str, Any]]:
    """Memory of the device before and after many steps."""
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((32, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 32)
    trainer = nc.Trainer(nc.create("cnn", input_shape=(32, 32, 3), classes=10), device="cuda")
    for _ in range(3):
        trainer.step(images, labels)
    gc.collect()
    before = runtime.device().memory()[0]
    for _ in range(LEAK_STEPS):
        trainer.step(images, labels)
    gc.collect()
    grown = before - runtime.device().memory()[0]
    return [{"steps": LEAK_STEPS, "bytes more": grown, "ok": grown < LEAK_BYTES}]
