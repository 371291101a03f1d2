"""Draw the pictures of the documentation: python docs/figures.py (needs the extra ``plot``)."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np

import numbacnn as nc
from numbacnn.data.sources import open_dataset

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGES = Path(__file__).parent / "images"
DATA = Path(__file__).parent / "data"


def digits() -> None:
    """What the README's network says about digits that it has not seen, and how its accuracy grew."""
    x = nc.Input((8, 8, 1))
    h = nc.Conv2D(16, 3, padding="same", activation="relu")(x)
    h = nc.Conv2D(32, 3, padding="same", activation="relu")(h)
    h = nc.MaxPool2D(2)(h)
    h = nc.Dropout(0.3)(nc.Flatten()(h))
    model = nc.Model(x, nc.Dense(10)(h), seed=0)
    history = nc.Trainer(model, optimizer=nc.AdamW(0.003)).fit("digits", validation="digits", epochs=12, batch_size=32)

    test = open_dataset("digits", "test")
    images, labels = test.batch(np.arange(len(test)))
    logits = model.predict(images)
    guesses = logits.argmax(1)
    wrong = np.flatnonzero(guesses != labels)
    shown = np.concatenate([wrong, np.setdiff1d(np.arange(len(test)), wrong)])[:40]

    figure = plt.figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    left.suptitle(f"{len(test)} digits it has not seen: {len(wrong)} mistakes, shown first")
    for axis, k in zip(left.subplots(4, 10).flat, shown):
        axis.imshow(images[k, :, :, 0], cmap="gray_r", interpolation="nearest")
        right_guess = guesses[k] == labels[k]
        axis.set_title(str(guesses[k]), fontsize=10, color="tab:green" if right_guess else "tab:red")
        axis.set_axis_off()
    axis = right.subplots()
    epochs = np.arange(1, len(history) + 1)
    for column, label in (("accuracy", "training"), ("val_accuracy", "test")):
        axis.plot(epochs, 100 * np.array(history.column(column)), marker="o", markersize=3, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(80, 100.5)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    figure.savefig(IMAGES / "digits.png", dpi=110)


def profile() -> None:
    """A training step of ResNet-20: when which layer runs, and which kinds of layers take how long."""
    model = nc.create("resnet20")
    images = np.random.default_rng(0).random((8, *model.inputs[0].shape), np.float32)
    found = nc.Trainer(model, optimizer=nc.SGD(0.01, momentum=0.9)).profile(images, np.arange(8) % 10, steps=99)
    times = {row: 1e3 * row.seconds for row in found.rows}
    ends = dict(zip(found.rows, np.cumsum(list(times.values()))))
    kinds = sorted({row.type for row in found.rows}, key=lambda kind: -sum(time for row, time in times.items() if row.type == kind))
    colours = dict(zip(kinds, plt.get_cmap("tab20").colors))
    stages = ["update", "loss", "head", "stage3", "stage2", "stage1", "stem", "input"]

    figure, (timeline, shares) = plt.subplots(2, 1, figsize=(11, 5), layout="constrained", height_ratios=(3, 1))
    for row, time in times.items():
        stage = row.phase if row.phase in stages else row.layer.partition(".")[0]
        timeline.broken_barh([(ends[row] - time, time)], (stages.index(stage) - 0.4, 0.8), facecolor=colours[row.type])
    timeline.set_yticks(range(len(stages)), stages)
    timeline.set_xlabel("ms")
    title = f"A training step of ResNet-20 on {found.batch} images, {found.threads} thread{'s' if found.threads > 1 else ''}"
    timeline.set_title(f"{title}: forward from top to bottom, then back")
    timeline.grid(alpha=0.3, axis="x")
    for place, phase in enumerate(("backward", "forward")):
        left = 0.0
        for kind in kinds:
            width = sum(time for row, time in times.items() if (row.type, row.phase) == (kind, phase))
            shares.barh(place, width, left=left, color=colours[kind], label=kind if place == 0 else None)
            left += width
    shares.set_yticks((0, 1), ("backward", "forward"))
    shares.set_xlabel("ms")
    shares.legend(*_shown(shares, 6), ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.45), frameon=False)
    figure.savefig(IMAGES / "profile.png", dpi=110)


def fashion() -> None:
    """How the residual network of ``examples/fashion_mnist.py`` learned, here and in PyTorch (``asv_benchmarks.peers.fashion``; its epochs
    are in ``docs/data``)."""
    epochs = json.loads((DATA / "fashion_mnist.json").read_text())
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for engine, colour, label in (("numbacnn", "tab:blue", "numbacnn"), ("torch channels-last", "tab:orange", "PyTorch")):
        minutes = np.cumsum([record[engine]["seconds"] for record in epochs]) / 60
        for column, line, images in (("accuracy", ":", "training images, augmented"), ("val_accuracy", "-", "test images")):
            percent = [100 * record[engine][column] for record in epochs]
            axis.plot(minutes, percent, line, color=colour, marker="o", markersize=3, label=f"{label}, {images}")
    axis.axhline(94, color="gray", linewidth=0.8, linestyle="--")
    axis.set_xlabel("minutes")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(75, 97)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    figure.savefig(IMAGES / "fashion_mnist.png", dpi=110)


def curves() -> None:
    """Losses of the same steps here and in PyTorch (``asv_benchmarks.peers.training --curves --dtype float64``; they are in
    ``docs/data``, and those in float32)."""
    rows = [row for row in json.loads((DATA / "curves.json").read_text())["rows"] if row["type"] == "float64"]
    figure, axes = plt.subplots(1, len(rows), figsize=(3.2 * len(rows), 3), layout="constrained")
    for axis, row in zip(axes, rows):
        axis.plot(row["losses"]["torch"], color="tab:orange", linewidth=3, alpha=0.5, label="PyTorch")
        axis.plot(row["losses"]["numbacnn"], color="tab:blue", linewidth=0.8, label="numbacnn")
        axis.set_title(f"{row['network']}: {row['apart']['numbacnn']:.0e} apart", fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss")
    axes[0].legend()
    figure.savefig(IMAGES / "curves.png", dpi=110)


def _shown(axis: plt.Axes, count: int) -> tuple[list, list]:
    """The first entries of a legend."""
    handles, labels = axis.get_legend_handles_labels()
    return handles[:count], labels[:count]


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    digits()
    profile()
    fashion()
    curves()
