"""`numbacnn cache info|clear|warm`."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import click

from ..paths import cache_folder
from . import options
from .models import new_model


@click.group(
    "cache",
    epilog=options.examples(
        "numbacnn cache info", "numbacnn cache warm lenet5", "numbacnn cache clear", "NUMBACNN_CACHE_DIR=/fast/disk numbacnn cache info"
    ),
)
def command() -> None:
    """Compiled kernels, which are kept on disk so that the next process need not compile them again."""


@command.command(epilog=options.examples("numbacnn cache info", "numbacnn cache info --json"))
@options.as_json
def info(as_json: bool) -> None:
    """Where the compiled kernels lie, how many there are, and how large."""
    result = cache_state()
    if as_json:
        options.print_json(result)
        return
    note = "" if result["writable"] else ", which cannot be written to: every process compiles anew"
    click.echo(f"{result['kernels']} kernels, {result['bytes'] / 2**20:.1f} MiB, in {result['folder']}{note}")


@command.command(epilog=options.examples("numbacnn cache clear"))
@options.as_json
def clear(as_json: bool) -> None:
    """Remove all compiled kernels. Nothing but time is lost."""
    removed = 0
    for path in kernel_files():
        size = _size(path)
        path.unlink(missing_ok=True)
        removed += size
    if as_json:
        options.print_json({"folder": str(kernel_folder()), "removed_bytes": removed})
    else:
        click.echo(f"Removed {removed / 2**20:.1f} MiB from {kernel_folder()}")


@command.command(epilog=options.examples("numbacnn cache warm lenet5", "numbacnn cache warm cnn --input-shape 32x32x3 --classes 100"))
@click.argument("architecture")
@options.input_shape
@options.class_count
@options.machine
@options.as_json
def warm(architecture: str, input_shape: tuple[int, ...] | None, classes: int, threads: int | None, device: str, as_json: bool) -> None:
    """Compile all kernels that training and using ARCHITECTURE take."""
    options.use(threads, device)
    import numpy as np

    from ..training.trainer import Trainer

    before, start = len(kernel_files()), time.perf_counter()
    model = new_model(architecture, input_shape, classes)
    batches = tuple(np.zeros((2, *tensor.shape), np.float32) for tensor in model.graph.inputs)
    images = batches if len(batches) > 1 else batches[0]
    for optimizer in ("sgd", "adam"):
        Trainer(model, optimizer=optimizer).step(images, np.arange(2) % classes)
    model.predict(images)
    new, seconds = len(kernel_files()) - before, time.perf_counter() - start
    if as_json:
        options.print_json({"architecture": architecture, "new_kernels": new, "seconds": seconds})
    else:
        click.echo(f"{architecture}: {new} kernels compiled in {seconds:.1f} s, kept in {kernel_folder()}")


def kernel_folder() -> Path:
    return cache_folder() / "kernels"


def kernel_files() -> list[Path]:
    """Compiled kernels, and what processes that were killed left of them; none where the folder cannot be looked at."""
    try:
        return sorted(path for path in kernel_folder().iterdir() if path.suffix in (".nbc", ".tmp"))
    except OSError:
        return []


def _size(path: Path) -> int:
    """0 for a file that another process has removed by now."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def cache_state() -> dict:
    """Folder, number and size of compiled kernels, and whether new ones can be kept."""
    files = kernel_files()
    return {
        "folder": str(kernel_folder()),
        "kernels": sum(path.suffix == ".nbc" for path in files),
        "bytes": sum(map(_size, files)),
        "writable": _writable(kernel_folder()),
    }


def _writable(folder: Path) -> bool:
    """Whether a file can be made there, or the folder itself where it is yet to come. Leaves nothing behind."""
    existing = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False
