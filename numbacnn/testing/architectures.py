"""All that is checked of an architecture."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..layers.base import Shape
from .comparing import assert_same, named, require, same
from .trial import Sampler


def check_architecture(
    name: str, input_shape: Shape = (32, 32, 3), classes: int = 10, batch: int = 2, sample: Sampler | None = None, **options: Any
) -> None:
    """Check a registered architecture: it builds, twice the same from one seed, predicts finite numbers of the right shape, changes every
    trained parameter in two steps on random images (or what ``sample`` draws), with finite losses, and is saved and loaded. Raises
    AssertionError."""
    from ..model import create, load
    from ..training.optimizers import SGD
    from ..training.trainer import Trainer

    generator = np.random.default_rng(0)
    shape = (batch, *input_shape)
    images = generator.standard_normal(shape).astype(np.float32) if sample is None else sample(generator, shape)
    labels = generator.integers(0, classes, batch)
    with named("architecture", name, input_shape):
        model = create(name, input_shape=input_shape, classes=classes, seed=0, **options)
        twin = create(name, input_shape=input_shape, classes=classes, seed=0, **options)
        for parameter, array in model.parameters.items():
            assert_same(array, twin.parameters[parameter], f"{parameter} of two models of one seed")
        logits = model.predict(images)
        require(logits.shape == (batch, classes), f"predict gives shape {logits.shape}, {(batch, classes)} is needed")
        require(np.isfinite(logits).all(), "predict gives numbers that are not finite")
        trainer = Trainer(model, optimizer=SGD(0.01))
        before = {parameter: np.array(array) for parameter, array in model.parameters.items()}
        losses = [trainer.step(images, labels) for _ in range(2)]
        require(np.isfinite(losses).all(), f"the first losses are {losses}")
        still = [p for p, spec in model.graph.specs.items() if spec.trainable and same(before[p], model.parameters[p])]
        require(not still, f"a training step leaves {', '.join(still[:4])} as before")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            model.save(path)
            assert_same(load(path).predict(images), model.predict(images), "predictions of the saved and loaded model")
