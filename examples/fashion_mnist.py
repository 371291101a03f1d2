"""A residual network that learns Fashion-MNIST from pictures that are never twice the same.

    python examples/fashion_mnist.py                                # ten to twenty minutes on two cores
    python examples/fashion_mnist.py --epochs 3 --held-out 5000     # compare recipes on training images, not on the test images

After every epoch it prints a line and writes the history. Needs Fashion-MNIST (Debian's package dataset-fashion-mnist, or a connection).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import numbacnn as nc
from numbacnn.data.dataset import Dataset
from numbacnn.data.sources import open_dataset

BATCH = 128
LOSS = nc.SoftmaxCrossEntropy(label_smoothing=0.1)
OPTIMIZER = nc.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
SCHEDULE = nc.schedules.OneCycle(rise=0.2)
STEM, WIDTH = 32, 48  # filters of the first convolution and of the first block
PADDING = 2  # pixels of black around an image, of which a part of the old size is cut out


class Part:
    """Samples ``start .. stop`` of a data set."""

    def __init__(self, dataset: Dataset, start: int, stop: int):
        self._dataset, self._start, self._stop = dataset, start, stop
        self.input_shape, self.classes = dataset.input_shape, dataset.classes

    def __len__(self) -> int:
        return self._stop - self._start

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._dataset.batch(np.asarray(indices) + self._start)


class Augmented:
    """A data set of images ``(height, width, channels)`` whose images are shifted and mirrored, in each epoch otherwise: an image is framed
    with ``padding`` black pixels, cut to its size somewhere, and mirrored with a probability of one half.

    What happens to an image follows from ``(seed, epoch, index)`` alone, so that a run that was interrupted goes on with the same images,
    whatever thread prepares them.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, epoch: int = 0, padding: int = PADDING):
        self._dataset, self._seed, self._padding = dataset, seed, padding
        self.input_shape, self.classes = dataset.input_shape, dataset.classes
        # Raw Philox output never changes between versions of NumPy. Three numbers in [0, 1) for each image.
        raw = np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw((len(dataset), 3))
        self._drawn = (raw >> np.uint64(11)) * 2.0**-53

    def __len__(self) -> int:
        return len(self._dataset)

    def at_epoch(self, number: int) -> Augmented:
        """The data set in epoch ``number``."""
        return Augmented(self._dataset, self._seed, number, self._padding)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._dataset.batch(indices)
        down, right, turned = self._drawn[indices].T
        images = shifted(images, self._padding, down, right)
        mirrored = turned < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        return images, labels


def shifted(images: np.ndarray, padding: int, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Images cut out of those with a black frame, where ``down`` and ``right``, in [0, 1), say."""
    height, width = images.shape[1:3]
    framed = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (height, width), axis=(1, 2))  # (n, places, places, channels, height, width)
    places = 2 * padding + 1
    chosen = windows[np.arange(len(images)), (places * down).astype(int), (places * right).astype(int)]
    return np.ascontiguousarray(np.moveaxis(chosen, 1, -1))


def residual_network(width: int = WIDTH, seed: int = 0) -> nc.Model:
    """A 3 x 3 convolution at full size, a max pooling, and three residual blocks (K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning
    for Image Recognition", CVPR 2016) of two 3 x 3 convolutions with ``width`` filters, twice and four times as many; each but the first
    halves the size."""
    x = nc.Input((28, 28, 1))
    with nc.scope("stem"):
        h = nc.MaxPool2D(2)(conv_norm(x, STEM, 3), name="pool")
    for k in range(3):
        with nc.scope(f"stage{k + 1}"):
            h = block(h, width << k, stride=2 if k else 1)
    with nc.scope("head"):
        logits = nc.Dense(10)(nc.GlobalAveragePool2D()(h, name="pool"), name="logits")
    return nc.Model(x, logits, seed=seed, name="residual network")


def block(h: nc.Tensor, width: int, stride: int) -> nc.Tensor:
    """Two convolutions beside a shortcut, which is a 1 x 1 convolution where the block changes the shape."""
    shortcut = h
    if stride > 1 or h.shape[-1] != width:
        with nc.scope("shortcut"):
            shortcut = conv_norm(h, width, 1, stride, activation=None)
    h = conv_norm(h, width, 3, stride, number="1")
    h = conv_norm(h, width, 3, activation=None, number="2")
    return nc.Activation("relu")(nc.Add()(h, shortcut, name="add"), name="activation")


def conv_norm(h: nc.Tensor, width: int, size: int, stride: int = 1, activation: str | None = "relu", number: str = "") -> nc.Tensor:
    """Convolution without bias, batch norm, activation."""
    h = nc.Conv2D(width, size, stride=stride, padding=size // 2, bias=False, initializer="he_normal")(h, name=f"conv{number}")
    h = nc.BatchNorm()(h, name=f"norm{number}")
    return h if activation is None else nc.Activation(activation)(h, name=f"activation{number}")


def opened(images: int | None = None, held_out: int = 0, seed: int = 0) -> tuple[Dataset, Dataset]:
    """What to train on, the first ``images`` of the training images if that is given, and what to test on: the test images, or the last
    ``held_out`` of the training images, which are then not trained on."""
    train, test = (open_dataset("fashion_mnist", split) for split in ("train", "test"))
    count = len(train) - held_out
    if held_out:
        test = Part(train, count, len(train))
    return Augmented(Part(train, 0, min(count, images or count)), seed), test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="passes over the images (default 30)")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"filters of the first block (default {WIDTH}; 32 is half the work)")
    parser.add_argument("--images", type=int, help="train on the first so many images only")
    parser.add_argument("--held-out", type=int, default=0, metavar="N", help="test on the last N training images, and don't train on them")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the order of images and what is done to them (default 0)")
    parser.add_argument(
        "--history", type=Path, default=Path("fashion_mnist.json"), help="file for the history (default fashion_mnist.json)"
    )
    parser.add_argument("--model", type=Path, default=Path("fashion_mnist.safetensors"), help="file for the model that it ends with")
    options = parser.parse_args()
    train, test = opened(options.images, options.held_out, options.seed)
    model = residual_network(options.width, options.seed)
    flops = 3 * model.summary().flops * len(train) * options.epochs
    print(f"{model!r}; {len(train):,} images to train with, {len(test):,} to test with; some {flops / 1e12:.2f} TFLOP in all", flush=True)
    history = nc.callbacks.LambdaCallback(epoch_end=lambda trainer, epoch, record: trainer.history.to_json(options.history))
    trainer = nc.Trainer(model, LOSS, OPTIMIZER, schedule=SCHEDULE, seed=options.seed, callbacks=[history])
    start = time.perf_counter()
    trainer.fit(train, test, options.epochs, BATCH)
    model.save(options.model)
    seconds = time.perf_counter() - start
    print(f"accuracy {100 * trainer.history[-1]['val_accuracy']:.2f} % after {seconds:.0f} s")
    print(f"model and history are in {options.model} and {options.history}")


if __name__ == "__main__":
    main()
