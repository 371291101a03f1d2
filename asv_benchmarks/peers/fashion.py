"""Learning Fashion-MNIST beside PyTorch: python -m asv_benchmarks.peers.fashion

Needs PyTorch and Fashion-MNIST. Both engines train the network of ``examples/fashion_mnist.py`` by its recipe, in a process each: the same
initial weights, batches (of our loader, with the example's augmentation), loss, optimizer and rate of each step. They take turns, an
epoch each; the seconds of an epoch are those of its steps, preparing batches included, without the test after it. After each epoch the
figures are printed, and written to the file of ``--json``. Losses of single steps agree to the last digits at first; then they drift
apart, as those of PyTorch's two memory layouts do.
"""

from __future__ import annotations

import os
import runpy
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np

from .networks import channels_first
from .processes import started
from .rounds import write

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist.py"
ENGINES = ("numbacnn", "torch", "torch channels-last")
TEST_BATCH = 256
COMPARED = 3, 20  # so many first steps have losses that are compared one by one


def recipe() -> SimpleNamespace:
    """What the example defines."""
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


# Engines, each in a process of its own: a message asks for an epoch, the answer is its record -----------------------------


def learn(engine: str, folder: Path, options: SimpleNamespace, line: Any) -> None:
    """Train for ``options.epochs``, each when a message asks for it, and send for each loss and accuracy of its steps, ``val_accuracy``
    of the test after it, its ``seconds``, and the ``losses`` of the single steps."""
    example = recipe()
    train, test = example.opened(options.images, options.held_out, options.seed)
    if engine == "numbacnn":
        _learn_numbacnn(example, train, test, folder, options, line)
    else:
        _learn_torch(engine, example, train, test, folder, options, line)


def _learn_numbacnn(example: SimpleNamespace, train: Any, test: Any, folder: Path, options: SimpleNamespace, line: Any) -> None:
    import numbacnn as nc

    nc.set_num_threads(options.threads)
    model = example.residual_network(options.width, options.seed)
    model.load_weights(folder / "weights.safetensors")
    losses: list[float] = []

    def begin(*_: Any) -> None:
        line.recv()
        losses.clear()

    turns = nc.callbacks.LambdaCallback(
        epoch_begin=begin,
        step_end=lambda trainer, step, loss: losses.append(loss),
        epoch_end=lambda trainer, epoch, record: line.send({**record, "losses": list(losses)}),
    )
    trainer = nc.Trainer(model, example.LOSS, example.OPTIMIZER, schedule=example.SCHEDULE, seed=options.seed, callbacks=[turns])
    trainer.fit(train, test, options.epochs, example.BATCH, progress=False)


def _learn_torch(engine: str, example: SimpleNamespace, train: Any, test: Any, folder: Path, options: SimpleNamespace, line: Any) -> None:
    import torch
    from torch.nn import functional

    from numbacnn.data.loader import Loader
    from numbacnn.training.schedules import Progress

    torch.set_num_threads(options.threads)
    layout = torch.channels_last if engine == "torch channels-last" else torch.contiguous_format
    module = twin(example.STEM, options.width)
    load(module, folder / "weights.safetensors")
    module = module.to(memory_format=layout)
    optimizer = torch.optim.SGD(groups(module, example.OPTIMIZER), momentum=example.OPTIMIZER.momentum, nesterov=example.OPTIMIZER.nesterov)
    loader = Loader(train, example.BATCH, seed=options.seed)

    def logits(images: np.ndarray) -> Any:
        return module(torch.from_numpy(channels_first(images)).contiguous(memory_format=layout))

    def step(images: np.ndarray, labels: np.ndarray, rate: float) -> tuple[float, int]:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        outputs, targets = logits(images), torch.from_numpy(labels)
        loss = functional.cross_entropy(outputs, targets, label_smoothing=example.LOSS.label_smoothing)
        loss.backward()
        optimizer.step()
        return float(loss.detach()), int((outputs.argmax(1) == targets).sum())

    def accuracy() -> float:
        module.eval()
        with torch.inference_mode():
            right = [
                np.count_nonzero(logits(images).argmax(1).numpy() == labels)
                for images, labels in Loader(test, TEST_BATCH, shuffle=False).epoch()
            ]
        module.train()
        return sum(right) / len(test)

    for epoch in range(options.epochs):
        line.recv()
        losses, right, start = [], 0, time.perf_counter()
        for number, (images, labels) in enumerate(loader.epoch(epoch)):
            place = Progress(epoch * len(loader) + number, epoch, len(loader), options.epochs)
            loss, good = step(images, labels, example.OPTIMIZER.rate * example.SCHEDULE.factor(place))
            losses.append(loss)
            right += good
        seconds = time.perf_counter() - start
        figures = {"loss": float(np.mean(losses)), "accuracy": right / len(train), "val_accuracy": accuracy()}
        line.send({"epoch": epoch + 1, **figures, "seconds": seconds, "losses": losses})


def twin(stem: int, width: int) -> Any:
    """The example's network as a PyTorch module with our names of parameters."""
    from torch import nn
    from torch.nn import functional

    class ConvNorm(nn.Module):
        def __init__(self, inputs: int, width: int, size: int, stride: int = 1) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, width, size, stride, size // 2, bias=False)
            self.norm = nn.BatchNorm2d(width)

        def forward(self, x: Any) -> Any:
            return self.norm(self.conv(x))

    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
            self.shortcut = ConvNorm(inputs, width, 1, stride) if stride > 1 or inputs != width else nn.Identity()

        def forward(self, x: Any) -> Any:
            h = functional.relu(self.norm1(self.conv1(x)))
            return functional.relu(self.norm2(self.conv2(h)) + self.shortcut(x))

    class ResidualNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = ConvNorm(1, stem, 3)
            self.stage1, self.stage2 = Block(stem, width, 1), Block(width, 2 * width, 2)
            self.stage3 = Block(2 * width, 4 * width, 2)
            self.head = nn.ModuleDict({"logits": nn.Linear(4 * width, 10)})

        def forward(self, x: Any) -> Any:
            h = functional.max_pool2d(functional.relu(self.stem(x)), 2)
            h = self.stage3(self.stage2(self.stage1(h)))
            return self.head["logits"](h.mean((2, 3)))

    return ResidualNetwork()


def load(module: Any, path: Path) -> None:
    """Give a module the weights of a file, with PyTorch's layouts."""
    import torch

    from numbacnn.weights.files import read_weights

    missing, unexpected = module.load_state_dict(
        {name: torch.from_numpy(array) for name, array in read_weights(path).items()}, strict=False
    )
    strangers = [*unexpected, *(name for name in missing if not name.endswith("num_batches_tracked"))]
    if strangers:
        raise SystemExit(f"The networks differ in {', '.join(strangers)}.")


def groups(module: Any, optimizer: Any) -> list[dict[str, Any]]:
    """Parameters with weight decay and without: ours spares biases and normalisation."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "lr": optimizer.rate, "weight_decay": optimizer.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "lr": optimizer.rate, "weight_decay": 0.0},
    ]


# Comparing -----------------------------------------------------------------------------------------------------------


def apart(losses: list[float], wanted: list[float], steps: int) -> float:
    """The largest relative difference of the losses of the first steps."""
    ours, theirs = np.array(losses[:steps]), np.array(wanted[:steps])
    return float(np.max(np.abs(ours - theirs) / theirs))


def told(epoch: int, records: dict[str, dict[str, Any]]) -> str:
    """A line of text for an epoch."""
    cells = [
        f"{engine}: loss {record['loss']:.4f}, accuracy {100 * record['accuracy']:.2f} %, test {100 * record['val_accuracy']:.2f} %, "
        f"{record['seconds']:.1f} s"
        for engine, record in records.items()
    ]
    return f"epoch {epoch:2}  " + " | ".join(cells)


@click.command(epilog="Example: python -m asv_benchmarks.peers.fashion --epochs 30 --json fashion.json")
@click.option("--epochs", default=30, show_default=True, help="Passes over the images.")
@click.option("--width", type=int, help="Filters of the first block. [default: the example's]")
@click.option("--images", type=int, help="Train on the first so many only, for a trial.")
@click.option("--held-out", default=0, help="Test on the last so many training images, in place of the test images.")
@click.option("--seed", default=0, show_default=True, help="Of weights, order and augmentation.")
@click.option("--threads", type=int, help="[default: all cores]")
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), help="One or several. [default: all]")
@click.option("--json", "path", help="Write the figures to this file after each epoch.")
def main(
    epochs: int,
    width: int | None,
    images: int | None,
    held_out: int,
    seed: int,
    threads: int | None,
    engines: tuple[str, ...],
    path: str | None,
) -> None:
    """Learn Fashion-MNIST in both, and tell accuracy and seconds of each epoch."""
    chosen = engines or ENGINES
    count = threads or len(os.sched_getaffinity(0))
    example = recipe()
    options = SimpleNamespace(epochs=epochs, width=width or example.WIDTH, images=images, held_out=held_out, seed=seed, threads=count)
    epoch_records: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as place:
        model = example.residual_network(options.width, seed)
        model.export(Path(place) / "weights.safetensors", "pytorch")
        workers = {engine: started(learn, engine, Path(place), options) for engine in chosen}
        for epoch in range(1, epochs + 1):
            records = {}
            for engine in chosen[:: 1 if epoch % 2 else -1]:
                _, line = workers[engine]
                line.send(epoch)
                records[engine] = line.recv()
            records = {engine: records[engine] for engine in chosen}
            epoch_records.append(records)
            click.echo(told(epoch, records))
            write(
                path,
                {"threads": count, "seed": seed, "width": options.width, "images": images, "held out": held_out, "epochs": epoch_records},
            )
        for process, _ in workers.values():
            process.join()
    reference = "torch" if "torch" in chosen else chosen[-1]
    for engine in chosen:
        seconds = sum(records[engine]["seconds"] for records in epoch_records)
        losses, wanted = (epoch_records[0][each]["losses"] for each in (engine, reference))
        far = " and ".join(f"{apart(losses, wanted, steps):.1e} (first {steps} steps)" for steps in COMPARED)
        final = 100 * epoch_records[-1][engine]["val_accuracy"]
        click.echo(f"{engine:20} test {final:.2f} % after {seconds:.0f} s of training; losses within {far} of {reference}'s")


if __name__ == "__main__":
    main()
