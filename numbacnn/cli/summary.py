"""`numbacnn summary`."""

from __future__ import annotations

import sys

import click
from click.core import ParameterSource

from ..errors import ConfigError
from . import options
from .models import is_saved, new_model, saved_model


@click.command(
    epilog=options.examples(
        "numbacnn summary lenet5", "numbacnn summary cnn --input-shape 32x32x3 --classes 100", "numbacnn summary runs/lenet5-digits --json"
    )
)
@click.argument("model", metavar="ARCHITECTURE|MODEL")
@options.input_shape
@options.class_count
@click.option("--batch-size", type=options.POSITIVE, default=64, show_default=True, help="Batch size of the memory figures.")
@options.as_json
@click.pass_context
def command(context: click.Context, model: str, input_shape: tuple[int, ...] | None, classes: int, batch_size: int, as_json: bool) -> None:
    """Show the layers of an architecture or of a saved model: shapes, parameters, operations, receptive field, memory."""
    saved = is_saved(model)
    if saved and (input_shape is not None or context.get_parameter_source("classes") is not ParameterSource.DEFAULT):
        raise ConfigError(f"{model!r} is a saved model with a shape and classes; --input-shape and --classes are for architectures.")
    network = saved_model(model) if saved else new_model(model, input_shape, classes)
    summary = network.summary()
    memory = {"training": network.memory(batch_size, training=True), "prediction": network.memory(batch_size, training=False)}
    if as_json:
        options.print_json({**summary.to_dict(), "batch_size": batch_size, "memory": memory})
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(summary)
    else:
        click.echo(str(summary))
    figures = ", ".join(f"{use} {size / 2**20:.1f} MiB" for use, size in memory.items())
    click.echo(f"memory           {figures}, at batch size {batch_size}")
