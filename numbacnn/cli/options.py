"""Options and arguments that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError


class Number(click.FloatRange):
    """A finite number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Sizes(click.ParamType):
    """Positive whole numbers with ``x`` or ``,`` between them, as a tuple; a single one counts for height and width
    unless ``exact``."""

    name = "size"

    def __init__(self, exact: bool = False):
        self.exact = exact

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = value.replace(",", "x").split("x")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a size such as 28 or 28x32.", param, ctx)
        sizes = tuple(map(int, parts))
        return sizes * 2 if len(sizes) == 1 and not self.exact else sizes


BATCH_SIZE = 256  # images that evaluate and predict compute at once, unless told otherwise
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**32 - 1)
RATE = Number(min=0, min_open=True)
NOT_NEGATIVE = Number(min=0)
FOLDER = click.Path(file_okay=False, path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else, on standard output.")
data_folder = click.option("--data-folder", type=FOLDER, help="Where the data set's files lie, if not in the usual places.")
batch_size = click.option("--batch-size", type=POSITIVE, default=BATCH_SIZE, show_default=True, help="Images that are computed at once.")
input_shape = click.option(
    "--input-shape",
    type=Sizes(exact=True),
    metavar="HxWxC",
    help="Shape of one input, such as 32x32x3; the architecture's own by default.",
)
precision = click.option(
    "--precision",
    type=click.Choice(("float32", "tf32", "bf16")),
    default="float32",
    show_default=True,
    help="With --device cuda: of what convolutions and dense layers multiply, on tensor cores with 10 (tf32) or 7 (bf16) bits of mantissa.",
)
class_count = click.option("--classes", type=POSITIVE, default=10, show_default=True, help="Number of classes.")


def machine(command: Callable) -> Callable:
    """The options ``threads`` and ``device``."""
    command = click.option("--threads", type=POSITIVE, help="Number of threads; all of the machine's by default.")(command)
    return click.option(
        "--device", type=click.Choice(("cpu", "cuda")), default="cpu", show_default=True, help="What to compute on: cuda is an NVIDIA GPU."
    )(command)


def use(threads: int | None, device: str, precision: str = "float32") -> None:
    """Act on the options of :func:`machine`, and see that ``precision`` is one of the device's. Raises ConfigError, and DeviceError where
    there is no such device."""
    if device == "cpu" and precision != "float32":
        raise ConfigError(f"--precision {precision} was given; the CPU computes in float32, and --device cuda has other precisions.")
    if device != "cpu":
        from ..graph.devices import device_named

        device_named(device)
    if threads is not None:
        from ..kernels import jit

        jit.set_num_threads(threads)


def refuse_gpu(device: str, why: str) -> None:
    """Raise ConfigError for a command that is about the CPU."""
    if device != "cpu":
        raise ConfigError(f"--device {device} was given; {why}.")


def print_json(result: Any) -> None:
    click.echo(json.dumps(result, indent=2, default=str))


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def examples(*lines: str) -> str:
    """An epilog of help, one example a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
