"""`numbacnn evaluate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from . import options, outputs
from .models import saved_model


@click.command(
    epilog=options.examples(
        "numbacnn evaluate runs/lenet5-digits digits",
        "numbacnn evaluate model.safetensors photos/ --split test --json",
        "numbacnn evaluate model.safetensors photos/ --device cuda --precision tf32",
    )
)
@click.argument("model")
@click.argument("dataset")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True, help="Part of the data set.")
@options.data_folder
@options.batch_size
@options.machine
@options.precision
@options.as_json
def command(
    model: str, dataset: str, split: str, data_folder: Path | None, batch_size: int, threads: int | None, device: str, precision: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure loss and accuracy of a saved MODEL (a file, or the folder that training wrote) on a DATASET (a registered name or a
    folder of class folders of images). Images are resized to what the model takes."""
    options.use(threads, device, precision)
    from ..data.sources import open_dataset

    network = saved_model(model).to(device, precision)
    data = open_dataset(dataset, split, data_folder, network.graph.inputs[0].shape, network.classes)
    start = time.perf_counter()
    metrics = measure(network, data, batch_size)
    seconds = time.perf_counter() - start
    if as_json:
        options.print_json({"model": model, "dataset": dataset, "split": split, "images": len(data), **metrics, "seconds": seconds})
    else:
        click.echo(f"accuracy {options.percent(metrics['accuracy'])}, loss {metrics['loss']:.4f}, {len(data):,} images, {seconds:.1f} s")


def measure(network: Any, data: Any, batch_size: int = options.BATCH_SIZE) -> dict[str, float]:
    """Mean cross-entropy and accuracy of a classifier on a data set: ``{"loss": ..., "accuracy": ...}``."""
    from ..data.loader import Loader
    from ..data.sources import open_dataset
    from ..training.metrics import Accuracy, Means

    data = open_dataset(data, input_shape=network.graph.inputs[0].shape, preprocessing=network.preprocessing)
    loss, accuracy, means = outputs.loss(network), Accuracy(), Means()
    for images, labels in Loader(data, batch_size, shuffle=False).epoch():
        logits = outputs.logits(network, outputs.only(network.predict(images)))
        means.add("loss", loss(logits, labels) * len(images), len(images))
        means.add("accuracy", *accuracy.measure(logits, labels))
    return means.values()
