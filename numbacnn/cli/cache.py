"""`numbacnn cache info|clear|warm`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..cores import core_count
from ..errors import ConfigError
from ..paths import cache_folder, kernel_folder, writable
from . import options

COMPILED = (".nbc", ".ncu")  # suffixes of compiled kernels


@click.group(
    "cache",
    epilog=options.examples(
        "numbacnn cache info", "numbacnn cache warm resnet50", "numbacnn cache clear", "NUMBACNN_CACHE_DIR=/fast/disk numbacnn cache info"
    ),
)
def command() -> None:
    """Compiled kernels, which are kept on disk so that the next process need not compile them again.

    Up to four processes compile what a network needs, or as many as NUMBACNN_COMPILE_PROCESSES says.
    """


@command.command(epilog=options.examples("numbacnn cache info", "numbacnn cache info --json"))
@options.as_json
def info(as_json: bool) -> None:
    """Where the compiled kernels lie, how many there are, and how large."""
    result = cache_state()
    if as_json:
        options.print_json(result)
        return
    note = "" if result["writable"] else ", which cannot be written to: every process compiles what is not there"
    click.echo(f"{result['kernels']} kernels, {result['bytes'] / 2**20:.1f} MiB, in {result['folder']}{note}")


@command.command(epilog=options.examples("numbacnn cache clear"))
@options.as_json
def clear(as_json: bool) -> None:
    """Remove all compiled kernels, and what `numbacnn optimize` chose for them. Nothing but time is lost."""
    removed = 0
    for path in [*kernel_files(), *choice_files()]:
        size = _size(path)
        path.unlink(missing_ok=True)
        removed += size
    if as_json:
        options.print_json({"folder": str(kernel_folder()), "removed_bytes": removed})
    else:
        click.echo(f"Removed {removed / 2**20:.1f} MiB from {kernel_folder()}")


@command.command(
    epilog=options.examples(
        "numbacnn cache warm lenet5",
        "numbacnn cache warm resnet50 mobilenet_v2 --batch 1 --batch 16",
        "numbacnn cache warm cnn --input-shape 32x32x3 --training --batch 64",
        "numbacnn cache warm resnet18 --training --device cuda --precision tf32",
        "numbacnn cache warm vgg16 --processes 1 --json",
    )
)
@click.argument("architectures", nargs=-1, required=True, metavar="ARCHITECTURE...")
@click.option(
    "--batch",
    "--batch-size",
    "batches",
    type=options.POSITIVE,
    multiple=True,
    default=(1,),
    show_default=True,
    help="Images at once, on which the choice of methods depends; may be repeated.",
)
@click.option("--training", is_flag=True, help="Also what training takes, with SGD and with Adam.")
@click.option("--processes", type=options.POSITIVE, help="That compile at the same time; one for each core by default.")
@options.input_shape
@options.class_count
@options.machine
@options.precision
@options.as_json
def warm(
    architectures: tuple[str, ...],
    batches: tuple[int, ...],
    training: bool,
    processes: int | None,
    input_shape: tuple[int, ...] | None,
    classes: int,
    threads: int | None,
    device: str,
    precision: str,
    as_json: bool,
) -> None:
    """Compile all kernels that using ARCHITECTURES takes, so that nobody waits for them later. Nothing is computed."""
    options.use(threads, device, precision)
    from .warming import Use, warmed

    capability = None if device == "cpu" else gpu_capability()
    uses = [
        Use(name, input_shape, classes, batch, training, capability, precision)
        for name in dict.fromkeys(architectures)
        for batch in batches
    ]
    start = time.perf_counter()
    result = warmed(uses, processes or core_count(), show=not as_json)
    seconds = time.perf_counter() - start
    if result.lost:
        raise ConfigError(
            f"{result.lost} of {len(result.compiled)} compiled kernels could not be kept in {cache_folder()}: is there no room left?"
        )
    if as_json:
        told = {"compiled": len(result.compiled), "found": result.found, "seconds": seconds, "processes": result.processes}
        kernels = [{"name": build.name, "seconds": build.seconds} for build in result.compiled]
        options.print_json({"architectures": architectures, "batches": batches, "training": training, **told, "kernels": kernels})
        return
    by = f" by {result.processes} processes" if result.processes > 1 else ""
    click.echo(f"{len(result.compiled)} kernels compiled{by}, {result.found} found, in {seconds:.1f} s; they are kept in {kernel_folder()}")


def gpu_capability() -> tuple[int, int]:
    """Of the GPU that is used."""
    from ..kernels.cuda import runtime

    return runtime.device().capability


def kernel_files() -> list[Path]:
    """Compiled kernels, for the CPU and for GPUs, and what processes that were killed left of them; none where a folder cannot be looked
    at."""
    return _files(kernel_folder(), COMPILED[0]) + _files(cache_folder() / "cuda", COMPILED[1])


def choice_files() -> list[Path]:
    """Measured choices between ways of computing (:mod:`numbacnn.kernels.choices`)."""
    return _files(cache_folder() / "tuning", ".json")


def _files(folder: Path, suffix: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (suffix, ".tmp"))
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
        "kernels": sum(path.suffix in COMPILED for path in files),
        "bytes": sum(map(_size, files)),
        "writable": writable(kernel_folder()),
    }
