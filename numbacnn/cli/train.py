"""`numbacnn train`."""

from __future__ import annotations

import dataclasses
import inspect
import math
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, DataError
from ..plugin import registry
from . import options
from .evaluate import measure
from .models import new_model

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "rate": 4e-3,
    "weight_decay": 0.02,
    "schedule": "one_cycle",
    "batch_size": 64,
    "label_smoothing": 0.1,
}
"""What counts where neither the command line nor the architecture's recipe says otherwise."""
LEAST_EPOCHS, LEAST_STEPS = 10, 900  # of a run for which nobody chose the number of epochs
OPTIMIZER_OPTIONS = ("rate", "momentum", "weight_decay")


@click.command(
    epilog=options.examples(
        "numbacnn train lenet5 digits",
        "numbacnn train cnn fashion_mnist --epochs 10 --optimizer sgd --rate 0.05 --momentum 0.9",
        "numbacnn train cnn photos/ --input-size 64 --output runs/photos",
        "numbacnn train efficientnet_lite0 photos/ --weights imagenet --freeze-until head --rate 1e-3",
        "numbacnn train resnet18 photos/ --device cuda --precision tf32",
        "numbacnn train lenet5 digits --resume",
        "numbacnn train lenet5 digits --json",
    )
)
@click.argument("architecture")
@click.argument("dataset")
@click.option(
    "--epochs", type=options.POSITIVE, help=f"Passes over the data. [default: {LEAST_EPOCHS}, or what makes {LEAST_STEPS:,} steps]"
)
@click.option("--batch-size", type=options.POSITIVE, help=f"Images per step. [default: {RECIPE['batch_size']}]")
@click.option("--optimizer", help=f"A registered name: sgd, adam, adamw, rmsprop... [default: {RECIPE['optimizer']}]")
@click.option(
    "--rate",
    type=options.RATE,
    help=f"Learning rate, at its highest. [default: {RECIPE['rate']} for {RECIPE['optimizer']}, else the optimizer's own]",
)
@click.option("--momentum", type=options.NOT_NEGATIVE, help="Momentum, for an optimizer that has it.")
@click.option(
    "--weight-decay",
    type=options.NOT_NEGATIVE,
    help=f"Spares biases and normalisation. [default: {RECIPE['weight_decay']} for {RECIPE['optimizer']}, else the optimizer's own]",
)
@click.option(
    "--label-smoothing",
    type=options.Number(min=0, max=1, max_open=True),
    help=f"Share of each label that goes to all classes alike. [default: {RECIPE['label_smoothing']}]",
)
@click.option("--schedule", help=f"How the rate changes, a registered name: one_cycle, cosine, constant... [default: {RECIPE['schedule']}]")
@click.option("--weights", help="What to start from: a file, or a name such as imagenet. [default: random weights]")
@click.option("--freeze-until", metavar="LAYER", help="Train this layer or scope and what follows it (stage3, head) and nothing before.")
@click.option(
    "--input-size",
    type=options.Sizes(),
    metavar="N|HxW",
    help="What images are resized to. [default: what the architecture says, or nothing]",
)
@click.option(
    "--accumulate",
    type=options.POSITIVE,
    default=1,
    show_default=True,
    help="Micro-batches that a step cuts its batch into, to save memory; batch normalisation sees each by itself.",
)
@click.option(
    "--recompute",
    metavar="cheap|blocks",
    help="Save memory, and compute twice: outputs of layers with little arithmetic (cheap), or most of the forward pass (blocks).",
)
@options.data_folder
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Of the initial weights, the order of images, and dropout.")
@click.option("--output", type=options.FOLDER, help="Folder for model, history and checkpoints. [default: runs/ARCHITECTURE-DATASET]")
@click.option("--workers", type=options.POSITIVE, help="Threads that prepare images. [default: one per core, up to 8]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the output folder, if there is one.")
@options.machine
@options.precision
@options.as_json
@click.pass_context
def command(context: click.Context, architecture: str, dataset: str, as_json: bool, **given: Any) -> int:
    """Train an ARCHITECTURE on a DATASET (a registered name, or a folder of class folders of images), testing it after every epoch.

    The output folder gets model.safetensors, history.json, and a checkpoint after every epoch. Ctrl-C finishes the step, saves,
    and says how to go on.
    """
    options.use(given["threads"], given["device"], given["precision"])
    from ..graph.recompute import checked_recompute
    from ..training.trainer import Trainer, TrainingInterrupted

    spec: Any = registry.find("architecture", architecture).spec
    recipe = chosen(given, spec.recipe)
    saving = {"recompute": checked_recompute(given["recompute"]), "accumulate": given["accumulate"]}
    shape = pretrained_shape(architecture, given["weights"])
    size = given["input_size"] or (None if shape is None else shape[:-1]) or spec.input_size
    train, test = open_splits(dataset, given["data_folder"], size, None if shape is None else shape[-1])
    model = new_model(architecture, train.input_shape, len(train.classes), given["seed"], given["weights"])
    model.to(given["device"], given["precision"])
    if given["freeze_until"] is not None:
        model.freeze_until(given["freeze_until"])
    loss = make_loss(recipe, given["label_smoothing"])
    trainer = Trainer(model, loss, make_optimizer(recipe), schedule=recipe["schedule"], seed=given["seed"], **saving)
    epochs = given["epochs"] or recipe.get("epochs") or default_epochs(len(train), recipe["batch_size"])
    output = given["output"] or Path("runs", f"{architecture}-{Path(dataset).resolve().name}".replace(":", "-"))
    if not as_json:
        click.echo(f"{model!r}")
        click.echo(f"{dataset}: {len(train):,} images to train with, {len(test):,} to test with, {len(train.classes)} classes")
        plural = "s" if epochs > 1 else ""
        click.echo(f"{brief(trainer.optimizer)}, {brief(trainer.schedule)}, {epochs} epoch{plural}, batches of {recipe['batch_size']}")
    start = time.perf_counter()
    try:
        history = trainer.fit(
            train,
            test,
            epochs,
            recipe["batch_size"],
            checkpoint=output / "checkpoints",
            resume=given["resume"],
            progress=False if as_json else None,
            workers=given["workers"],
        )
    except TrainingInterrupted:
        click.echo(f"numbacnn: interrupted after step {trainer.steps}, and saved. To go on: {resuming(context)}", err=True)
        return 130
    seconds = time.perf_counter() - start
    model.save(output / "model.safetensors")
    history.to_json(output / "history.json")
    result: dict[str, Any] = {
        "architecture": architecture,
        "dataset": dataset,
        "epochs": len(history),
        "test": measure(model, test),
        "seconds": seconds,
        "model": str(output / "model.safetensors"),
        "history": list(history),
    }
    if as_json:
        options.print_json(result)
    else:
        click.echo(f"Model and history are in {output}")
        click.echo(f"Test accuracy {options.percent(result['test']['accuracy'])}, loss {result['test']['loss']:.4f}, after {seconds:.1f} s")
    return 0


def chosen(given: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line says, else the architecture's recipe, else ours."""
    names = (*OPTIMIZER_OPTIONS, "optimizer", "schedule", "batch_size", "label_smoothing")
    return _over(_over(RECIPE, recipe), {name: given[name] for name in names if given[name] is not None})


def _over(base: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """``choice`` over ``base``, whose options of an optimizer count only together with that optimizer."""
    if choice.get("optimizer", base["optimizer"]) != base["optimizer"]:
        base = {name: value for name, value in base.items() if name not in OPTIMIZER_OPTIONS}
    return {**base, **choice}


def make_loss(recipe: Mapping[str, Any], smoothing: float | None) -> Any:
    """The recipe's loss, else cross-entropy. Raises ConfigError for a ``smoothing`` asked for beside a loss that lacks it."""
    from ..training.losses import SoftmaxCrossEntropy

    if "loss" not in recipe:
        return SoftmaxCrossEntropy(label_smoothing=recipe["label_smoothing"])
    if smoothing is not None:
        raise ConfigError(
            f"--label-smoothing was given; this architecture is trained with the loss {recipe['loss']!r}, which does not have it."
        )
    return recipe["loss"]


def make_optimizer(recipe: Mapping[str, Any]) -> Any:
    """The recipe's optimizer with those of its options that the recipe has. Raises ConfigError for one that it doesn't know."""
    name = recipe["optimizer"]
    factory = registry.load("optimizer", name)
    accepted = inspect.signature(factory).parameters
    found = {option: recipe[option] for option in OPTIMIZER_OPTIONS if option in recipe}
    for option in found:
        if option not in accepted:
            raise ConfigError(f"--{option.replace('_', '-')} was given; the optimizer {name!r} does not have it.")
    return factory(**found)


def pretrained_shape(architecture: str, weights: str | None) -> tuple[int, ...] | None:
    """Shape of the images that weights were trained on, where that is known."""
    from ..weights import pretrained

    return None if weights is None else pretrained.resolve(architecture, weights).options.get("input_shape")


def open_splits(dataset: str, folder: Path | None, size: tuple[int, ...] | None, channels: int | None = None) -> tuple[Any, Any]:
    """The train and the test split, resized to ``size`` and with as many ``channels`` unless these are None. Raises DataError where
    classes have no names."""
    from ..data.sources import open_dataset

    train = open_dataset(dataset, "train", folder)
    if train.classes is None:
        raise DataError(f"The data set {dataset!r} names no classes; this command trains classifiers.")
    shape = (*(train.input_shape[:-1] if size is None else size), train.input_shape[-1] if channels is None else channels)
    if shape != train.input_shape:
        train = open_dataset(dataset, "train", folder, shape)
    return train, open_dataset(dataset, "test", folder, shape)


def default_epochs(images: int, batch_size: int) -> int:
    return max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / math.ceil(images / batch_size)))


def brief(thing: Any) -> str:
    """A dataclass as it was written: the rate, and the fields that differ from their defaults."""
    shown = [f.name for f in dataclasses.fields(thing) if f.name == "rate" or getattr(thing, f.name) != f.default]
    return f"{type(thing).__name__}({', '.join(f'{name}={getattr(thing, name)!r}' for name in shown)})"


def resuming(context: click.Context) -> str:
    """The command line that goes on with this run."""
    arguments = list(context.find_root().obj)
    if "--resume" not in arguments:
        arguments.insert(arguments.index("--") if "--" in arguments else len(arguments), "--resume")
    return shlex.join(["numbacnn", *arguments])
