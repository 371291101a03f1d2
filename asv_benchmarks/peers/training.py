"""Training steps beside PyTorch: the same network, batch, loss and optimizer: python -m asv_benchmarks.peers.training"""

from __future__ import annotations

import click
import numpy as np
import torch
from torch import nn

import numbacnn as nc
from numbacnn.kernels import jit

from .rounds import interleave, milliseconds, ratio, write


def lenet5():
    """The twin of ``nc.create("lenet5")``."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def cnn(channels, size):
    """The twin of ``nc.create("cnn")``."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * (size // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


CASES = {  # name, input shape, batch, twin
    "lenet5, 28x28x1, batch 64": ("lenet5", (28, 28, 1), 64, lenet5),
    "cnn, 28x28x1, batch 64": ("cnn", (28, 28, 1), 64, lambda: cnn(1, 28)),
    "cnn, 32x32x3, batch 32": ("cnn", (32, 32, 3), 32, lambda: cnn(3, 32)),
}


def our_step(name, shape, images, labels):
    model = nc.create(name, input_shape=shape, classes=10, seed=0)
    trainer = nc.Trainer(model, optimizer=nc.SGD(0.01, momentum=0.9))
    return model, lambda: trainer.step(images, labels)


def their_step(network, images, labels, last):
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    if last:
        network = network.to(memory_format=torch.channels_last)
    else:
        x = x.contiguous()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    loss_function = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss = loss_function(network(x), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


@click.command(epilog="Example: python -m asv_benchmarks.peers.training --json training.json")
@click.option("--rounds", default=15, show_default=True)
@click.option("--json", "path", help="Write the figures to this file.")
def main(rounds, path):
    """Time training steps beside PyTorch eager, both memory layouts."""
    torch.set_num_threads(jit.num_threads())
    rows = []
    for title, (name, shape, batch, twin) in CASES.items():
        rng = np.random.default_rng(0)
        images, labels = rng.random((batch, *shape), dtype=np.float32), rng.integers(0, 10, batch)
        model, ours = our_step(name, shape, images, labels)
        network = twin()
        parameters = sum(p.numel() for p in network.parameters())
        if parameters != sum(array.size for array in model.parameters.values()):
            raise SystemExit(f"{title}: the networks differ in their number of parameters")
        work = {
            "ours": ours,
            "contiguous": their_step(network, images, labels, False),
            "channels_last": their_step(twin(), images, labels, True),
        }
        times = interleave(work, rounds, seconds=0.2)
        speed = ratio(times, "ours", ["contiguous", "channels_last"])
        row = {key: milliseconds(values) for key, values in times.items()}
        rows.append({"case": title, "ratio": speed, "images per second": batch / row["ours"] * 1e3, **row})
        figures = "  ".join(f"{key} {value:7.2f} ms ({batch / value * 1e3:7.0f} images/s)" for key, value in row.items())
        print(f"{title:28} {figures}  ratio {speed:.2f}", flush=True)
    write(path, {"rows": rows, "threads": jit.num_threads(), "torch": torch.__version__})


if __name__ == "__main__":
    main()
