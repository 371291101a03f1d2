"""`numbacnn optimize`."""

from __future__ import annotations

import click
from click.core import ParameterSource

from ..errors import ConfigError
from ..paths import cache_folder
from . import options
from .models import is_saved, new_model, saved_model


@click.command(
    epilog=options.examples(
        "numbacnn optimize resnet50",
        "numbacnn optimize resnet18 --batch-size 8 --budget 30 --threads 2",
        "numbacnn optimize runs/lenet5-digits --json",
    )
)
@click.argument("model", metavar="ARCHITECTURE|MODEL")
@options.input_shape
@options.class_count
@click.option("--batch-size", type=options.POSITIVE, default=1, show_default=True, help="Batch size that is to be fast.")
@click.option("--budget", type=options.RATE, default=10.0, show_default=True, help="Seconds to measure for; compiling comes on top.")
@options.machine
@options.as_json
@click.pass_context
def command(
    context: click.Context, model: str, input_shape: tuple[int, ...] | None, classes: int, batch_size: int, budget: float,
    threads: int | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Measure the ways in which the convolutions of an architecture or of a saved model can run on this machine. The fastest are
    remembered: predictions with the same shapes, batch size and number of threads take them from then on."""
    options.use(threads, device)
    options.refuse_gpu(device, "this command chooses between ways of computing on the CPU")
    import numpy as np

    from ..kernels import choices

    saved = is_saved(model)
    if saved and (input_shape is not None or context.get_parameter_source("classes") is not ParameterSource.DEFAULT):
        raise ConfigError(f"{model!r} is a saved model with a shape and classes; --input-shape and --classes are for architectures.")
    network = saved_model(model) if saved else new_model(model, input_shape, classes)
    example = tuple(np.zeros((batch_size, *tensor.shape), tensor.dtype or network.dtype) for tensor in network.inputs)
    report = network.optimize(example if len(example) > 1 else example[0], budget)
    if as_json:
        options.print_json(report.to_dict())
    else:
        click.echo(str(report))
    if not choices.measured().written:
        raise ConfigError(f"What was chosen cannot be kept in {cache_folder()}; set NUMBACNN_CACHE_DIR to another folder, or make room.")
