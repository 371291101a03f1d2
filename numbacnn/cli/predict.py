"""`numbacnn predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import DataError
from . import options, outputs
from .models import pretrained_model, saved_model


@click.command(
    epilog=options.examples(
        "numbacnn predict runs/lenet5-digits seven.png",
        "numbacnn predict model.safetensors photos/ --top 3",
        "numbacnn predict model.safetensors *.jpg --json",
        "numbacnn predict efficientnet_lite0 --weights imagenet photo.jpg",
        "numbacnn predict resnet50 --weights imagenet photos/ --device cuda --precision bf16",
    )
)
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", metavar="NAME|FILE", help="MODEL is an architecture, with these weights, such as imagenet.")
@click.option("--top", type=options.POSITIVE, help="Number of classes to show for each image.  [default: 3, with --weights 5]")
@options.batch_size
@options.machine
@options.precision
@options.as_json
def command(
    model: str,
    files: tuple[Path, ...],
    weights: str | None,
    top: int | None,
    batch_size: int,
    threads: int | None,
    device: str,
    precision: str,
    as_json: bool,
) -> None:
    """Name what is on images, with a saved MODEL (a file, or the folder that training wrote) or an architecture and its pretrained
    weights. FILES are image files, or folders in which all images are taken. They are converted to grey or colour, resized, cropped and
    scaled as the model needs them."""
    options.use(threads, device, precision)
    network = saved_model(model) if weights is None else pretrained_model(model, weights)
    paths = _image_files(files)
    network.to(device, precision)
    top = top or (3 if weights is None else 5)
    results: list[dict[str, Any]] = [
        {"file": str(path), "predictions": predictions}
        for at in range(0, len(paths), batch_size)
        for path, predictions in _predict(network, paths[at : at + batch_size], top)
    ]
    if as_json:
        options.print_json(results)
        return
    for result in results:
        if weights is not None:
            _print_table(result)
            continue
        shown = ", ".join(f"{p['class']} {100 * p['probability']:.1f} %" for p in result["predictions"])
        click.echo(f"{result['file']}: {shown}")


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "label", "class", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.columns[0].justify = table.columns[1].justify = "right"
    for prediction in result["predictions"]:
        table.add_row(f"{100 * prediction['probability']:.1f} %", str(prediction["label"]), Text(prediction["class"]))
    console = Console()
    console.print(result["file"], markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def _image_files(given: tuple[Path, ...]) -> list[Path]:
    """The files, and the images in the folders. Raises DataError for a folder without any."""
    from ..data.images import SUFFIXES

    paths: list[Path] = []
    for path in given:
        if not path.is_dir():
            paths.append(path)
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise DataError(f"The folder {path} holds no image files ({', '.join(sorted(SUFFIXES))}).")
        paths += found
    return paths


def _predict(network: Any, paths: list[Path], top: int) -> list[tuple[Path, list[dict[str, Any]]]]:
    """For each image its most probable classes, the first one first."""
    import numpy as np

    from ..data.images import read_image

    shape = network.graph.inputs[0].shape
    single = len(network.graph.inputs) == len(network.graph.outputs) == 1
    if not single or len(shape) != 3 or len(network.graph.outputs[0].shape) != 1:
        raise DataError(f"Only models that classify images can name what is on them; this one takes shape {shape}.")
    prepare = network.preprocessing or (lambda path: read_image(path, shape[2], shape[:2]))
    images = np.stack([prepare(path) for path in paths])
    probabilities = outputs.probabilities(network, outputs.only(network.predict(images)))
    names = network.classes or [str(k) for k in range(probabilities.shape[1])]
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        (path, [{"class": names[k], "label": int(k), "probability": float(row[k])} for k in order])
        for path, order, row in zip(paths, best, probabilities)
    ]
