"""How long training steps wait for data: python -m asv_benchmarks.feeding

Trains for two epochs, the first of which warms up, on Fashion-MNIST (small images in memory) and on a folder of JPEG files of 500 x 375
pixels that are decoded and resized to 224 x 224, and tells of the second how many milliseconds of a step are spent waiting for its
batch. The threads that prepare batches share the cores with the steps: what they take shows in the step's time, not as waiting.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from .peers.rounds import write

PHOTOS = "photos"
CASES = (  # network, data, input shape, batch
    ("lenet5", "fashion_mnist", (28, 28, 1), 64),
    ("mobilenet_v2", PHOTOS, (224, 224, 3), 8),
    ("resnet18", PHOTOS, (224, 224, 3), 8),
)
CLASSES = 4


def make_photos(folder: Path, count: int) -> None:
    """Smooth pictures with noise, as large as a photograph's JPEG file of that size."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        (folder / str(number % CLASSES)).mkdir(exist_ok=True)
        smooth = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth, np.int16) + random.integers(-12, 13, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / str(number % CLASSES) / f"{number}.jpg", quality=90)


def measured(network: str, data: Any, shape: tuple[int, ...], batch: int, workers: int | None) -> dict[str, Any]:
    """Milliseconds of a step, and of them those that it waited for its batch."""
    import numbacnn as nc

    trainer = nc.Trainer(nc.create(network, input_shape=shape, classes=10))
    record = trainer.fit(data, epochs=2, batch_size=batch, progress=False, workers=workers)[-1]
    steps = trainer.steps / 2
    step, waited = (1e3 * record[name] / steps for name in ("seconds", "waited_seconds"))
    return {"network": network, "batch": batch, "workers": workers, "milliseconds": step, "waited": waited, "share": waited / step}


@click.command(epilog="Example: python -m asv_benchmarks.feeding --workers 1 --workers 2 --json feeding.json")
@click.option("--images", default=600, show_default=True, help="JPEG files.")
@click.option("--workers", "counts", type=int, multiple=True, help="Threads that prepare batches; may be repeated. [default: one per core]")
@click.option("--json", "path", help="Write the figures to this file.")
def main(images: int, counts: tuple[int, ...], path: str | None) -> None:
    """Measure how long steps wait for data."""
    rows = []
    click.echo(f"{'network':14} {'data':14} {'batch':>5} {'workers':>7} {'step, ms':>9} {'waited, ms':>10} {'share':>7}")
    with tempfile.TemporaryDirectory() as place:
        make_photos(Path(place), images)
        for network, data, shape, batch in CASES:
            for workers in counts or (len(os.sched_getaffinity(0)),):
                row = {"data": data, **measured(network, place if data == PHOTOS else data, shape, batch, workers)}
                rows.append(row)
                figures = f"{row['milliseconds']:9.2f} {row['waited']:10.3f} {row['share']:7.1%}"
                click.echo(f"{network:14} {data:14} {batch:5} {workers:7} {figures}")
                write(path, {"rows": rows})


if __name__ == "__main__":
    main()
