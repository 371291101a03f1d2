"""What must be right on the GPU: layers and architectures beside the CPU's, and training to the CPU's accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

import numbacnn as nc
from numbacnn.errors import DeviceError, NumbacnnError
from numbacnn.plugin import registry
from tests import zoo
from tests.cuda.test_layers import BATCH, CASES, model_of, samples, trained

from ..peers.networks import drawn, peers
from .sizes import Sizes

LIMITS = {"float32": 1e-4, "tf32": 2.5e-3, "bf16": 2e-2}
"""Of the largest value, how far results may be from the CPU's. TF32 has three bits more than bf16."""
LEAST = 1e-3  # of a network's largest gradient: parameters whose own is smaller are judged by this
MARGIN = 0.02  # how much less accurate than on the CPU a network may become
RATE, MOMENTUM = 0.02, 0.9

Item = dict[str, Any]


def apart(found: Any, expected: Any, least: float = 1e-3) -> float:
    """The largest difference, relative to the largest value, or to ``least``; infinite where something is not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max(initial=0) / max(least, np.abs(expected).max(initial=0)))


def arrays_of(results: Any) -> list[np.ndarray]:
    """All arrays in tuples, lists and mappings."""
    if isinstance(results, dict):
        return [array for _, array in sorted(results.items())]
    return [array for part in results for array in arrays_of(part)] if isinstance(results, (tuple, list)) else [results]


# Layers --------------------------------------------------------------------------------------------------------------


def layer_items(sizes: Sizes) -> list[Item]:
    """Every registered layer that the table of the tests knows."""
    return [{"layer": name} for name in CASES if sizes.takes(name)]


def layer_rows(item: Item, sizes: Sizes) -> list[Item]:
    """The largest error of all that a layer computes, in training and in inference, in all of its cases."""
    worst, why = 0.0, ""
    for number, case in enumerate(CASES[item["layer"]]):
        try:
            error = _layer_error(item["layer"], case)
        except DeviceError as problem:  # after which this process may be of no use any more
            raise DeviceError(f"case {number}: {problem}") from problem
        except NumbacnnError as problem:
            error, why = float("inf"), f"case {number}: {problem}"
        worst = max(worst, error)
    return [{"error": worst, "ok": worst < LIMITS["float32"], "why": why}]


def _layer_error(name: str, case: Any) -> float:
    expected, found = (layer_results(name, case, device) for device in ("cpu", "cuda"))
    return max(apart(*pair) for pair in zip(found, expected, strict=True))


def layer_results(name: str, case: Any, device: str) -> list[np.ndarray]:
    """Outputs in inference and in training, and all gradients, of one case."""
    rng = np.random.default_rng(7)
    model = model_of(name, case)
    inputs = samples(model, case, rng)
    slopes = [rng.standard_normal((BATCH, *tensor.shape)).astype("float32") for tensor in model.graph.outputs]
    model.to(device)
    given: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
    return arrays_of(model.predict(given)) + arrays_of(trained(model, inputs, slopes, device))


# Architectures -------------------------------------------------------------------------------------------------------


def architecture_items(sizes: Sizes) -> list[Item]:
    """Every architecture, one of each family before the rest."""
    names = dict.fromkeys((*dict(sizes.shapes), *zoo.first_of_each_family(), *peers()))
    return [{"architecture": name} for name in names if sizes.takes(name)]


def architecture_rows(item: Item, sizes: Sizes) -> list[Item]:
    """Logits and gradients on small images, beside the CPU's: same weights, same batch, in each precision.

    Gradients are judged by the largest of the network's (``gradients``), and one by one by the largest of the parameter's own
    (``worst parameter``): rectifiers make those of deep networks jump with the last bits, so that these are told, not judged."""
    expected, gradients = architecture_results(item["architecture"], "cpu", "float32", sizes)
    largest = max(float(np.abs(array).max(initial=0)) for array in gradients.values())
    rows = []
    for precision in sizes.precisions:
        found, own = architecture_results(item["architecture"], "cuda", precision, sizes)
        logits = max(apart(*pair) for pair in zip(found, expected, strict=True))
        whole = max(apart(own[key], array, largest) for key, array in gradients.items())
        single = max(apart(own[key], array, LEAST * largest) for key, array in gradients.items())
        right = logits < LIMITS[precision] and np.isfinite(whole) and (precision != "float32" or whole < LIMITS[precision])
        rows.append({"precision": precision, "logits": logits, "gradients": whole, "worst parameter": single, "ok": bool(right)})
    return rows


def architecture_results(name: str, device: str, precision: str, sizes: Sizes) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """What a network predicts, and the gradients of all its parameters and of its input."""
    own = dict(sizes.shapes)
    peer = None if name in own else peers()[name][0]
    shape = own[name] if peer is None else peer.shape(peer.small)
    model = nc.create(name, input_shape=shape, seed=2, **({} if peer is None else peer.options))
    rng = np.random.default_rng(5)
    for key, array in model.parameters.items():
        if array.ndim == 1:  # no ones and zeros, which hide mistakes
            model.parameters[key] = array + rng.uniform(-0.2, 0.2, array.shape)
    images = drawn(name, shape, BATCH, 1)
    labels = np.arange(BATCH) % model.graph.outputs[0].shape[-1]
    model.to(device, precision)
    logits = arrays_of(model.predict(images))
    gradients = nc.Trainer(model).gradients(images, labels)
    return logits, {key: array for key, array in gradients.items() if array.size and array.dtype.kind == "f"}


# Training ------------------------------------------------------------------------------------------------------------


def accuracy_items(sizes: Sizes) -> list[Item]:
    """Networks that learn the digits."""
    return [{"network": name} for name, _ in sizes.learners]


def accuracy_rows(item: Item, sizes: Sizes) -> list[Item]:
    """Accuracy after some epochs on both devices, from the same weights, on the same batches."""
    size = dict(sizes.learners)[item["network"]]
    on_cpu = learned(item["network"], size, "cpu", "float32", sizes)
    rows = []
    for precision in sizes.precisions:
        found = learned(item["network"], size, "cuda", precision, sizes)
        right = found["accuracy"] > on_cpu["accuracy"] - MARGIN
        compared = {f"{device} {name}": of[name] for device, of in (("cpu", on_cpu), ("gpu", found)) for name in ("accuracy", "loss")}
        rows.append({"precision": precision, **compared, "ok": right})
    return rows


def learned(name: str, size: int, device: str, precision: str, sizes: Sizes) -> dict[str, float]:
    """Loss and accuracy on digits that the network has not seen."""
    model = nc.create(name, input_shape=(size, size, 1), classes=10, seed=1).to(device, precision)
    trainer = nc.Trainer(model, optimizer=nc.SGD(RATE, momentum=MOMENTUM), metrics=("accuracy",))
    trainer.fit(digits("train", size, sizes.samples), epochs=sizes.epochs, batch_size=sizes.batch, progress=False)
    return trainer.evaluate(digits("test", size, sizes.samples), batch_size=sizes.batch)


def digits(split: str, size: int, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` digits (None: all), of 8 x 8, made larger: each pixel a square, and black around them."""
    dataset = registry.load("dataset", "digits")(split)
    images, labels = dataset.batch(np.arange(count or len(dataset)))
    images = images.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    edge = size % 8 // 2, size % 8 - size % 8 // 2
    return np.pad(images, ((0, 0), edge, edge, (0, 0))), labels
