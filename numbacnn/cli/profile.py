"""`numbacnn profile`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..errors import ConfigError
from ..inspect.profile import ORDERS, ROWS
from ..plugin import registry
from . import options
from .models import is_saved, new_model, saved_model


@click.command(
    epilog=options.examples(
        "numbacnn profile lenet5",
        "numbacnn profile resnet18 --input-shape 32x32x3 --batch-size 32 --sort network",
        "numbacnn profile mobilenet_v2 --batch-size 8 --trace trace.json    # for https://ui.perfetto.dev",
        "numbacnn profile runs/lenet5-digits --optimizer adamw --json",
        "numbacnn profile resnet18 --device cuda --precision tf32",
    )
)
@click.argument("model", metavar="ARCHITECTURE|MODEL")
@options.input_shape
@options.class_count
@click.option("--batch-size", "--batch", type=options.POSITIVE, default=64, show_default=True, help="Samples of the step.")
@click.option("--optimizer", default="sgd", show_default=True, help="A registered name: sgd, adam, adamw, rmsprop...")
@click.option("--steps", type=options.POSITIVE, default=5, show_default=True, help="Steps to time; figures are medians over them.")
@click.option(
    "--sort", type=click.Choice(ORDERS), default=ORDERS[0], show_default=True, help="Order of the rows: slowest first, or as they run."
)
@click.option("--rows", type=options.POSITIVE, default=ROWS, show_default=True, help="Rows to show.")
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path), help="Write a trace of all calls of kernels to this file.")
@options.machine
@options.precision
@options.as_json
@click.pass_context
def command(
    context: click.Context, model: str, input_shape: tuple[int, ...] | None, classes: int, batch_size: int, optimizer: str, steps: int,
    sort: str, rows: int, trace: Path | None, threads: int | None, device: str, precision: str, as_json: bool,
) -> None:  # fmt: skip
    """Tell where the time of a training step of an architecture or of a saved model goes: layer by layer, forward and backward, with
    operations and bytes per second. The images are random numbers."""
    options.use(threads, device, precision)
    from ..training.trainer import Trainer

    saved = is_saved(model)
    if saved and (input_shape is not None or context.get_parameter_source("classes") is not ParameterSource.DEFAULT):
        raise ConfigError(f"{model!r} is a saved model with a shape and classes; --input-shape and --classes are for architectures.")
    network = saved_model(model) if saved else new_model(model, input_shape, classes)
    trainer = Trainer(network.to(device, precision), _loss(network), optimizer)
    profile = trainer.profile(*_batch(network, batch_size), steps=steps, progress=not as_json)
    if trace is not None:
        profile.save(trace)
    if as_json:
        options.print_json(profile.to_dict())
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(profile.rich_table(sort, rows))
    else:
        click.echo(profile.table(sort, rows))
    if trace is not None and not as_json:
        click.echo(f"trace      {trace}; https://ui.perfetto.dev opens it")


def _loss(network: Any) -> Any:
    """The loss that the architecture's recipe names, else the one that fits a classifier's outputs."""
    from . import outputs

    recipe: Any = {} if network.architecture is None else registry.find("architecture", network.architecture).spec
    named = getattr(recipe, "recipe", {}).get("loss")
    return named or outputs.loss(network)


def _batch(network: Any, size: int) -> tuple[Any, Any]:
    """Random images, zeros where the network takes whole numbers, and labels: classes in turn, or one number for each sample."""
    import numpy as np

    random = np.random.default_rng(0)
    shapes = [((size, *tensor.shape), tensor.dtype) for tensor in network.inputs]
    images = tuple(random.random(shape, np.float32) if dtype is None else np.zeros(shape, dtype) for shape, dtype in shapes)
    classes = network.graph.outputs[0].shape[-1]
    shape = (size, *network.graph.outputs[0].shape[:-1])
    labels = np.resize(np.arange(classes), shape) if classes > 1 else np.zeros(shape, np.float32)
    return images if len(images) > 1 else images[0], labels
