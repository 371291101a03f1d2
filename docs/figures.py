"""Draw the pictures of the documentation: python docs/figures.py (needs the extra ``plot``)."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

import numbacnn as nc
from numbacnn.data.sources import open_dataset

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGES = Path(__file__).parent / "images"


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


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    digits()
