"""Whole networks beside PyTorch, ONNX Runtime and OpenVINO: python -m asv_benchmarks.peers.inference

Needs PyTorch, torchvision, timm, onnx, onnxscript, onnxruntime and openvino; of the last two a missing one is left out. Every engine runs
in a process of its own, with the same weights (PyTorch's initial ones) and images; PyTorch exports the ONNX file. Engines take turns: in
each round each one runs for a moment, while the others wait for a message and their threads sleep. What counts is the ratio within a
round.

Beside the times stand two bounds of the network on this machine, in milliseconds: ``arithmetic`` (twice its multiply-adds, by what the
cores compute between registers) and ``memory`` (parameters, inputs and outputs once, by what is read from memory per second). Winograd's
minimal filtering takes fewer multiply-adds than the direct count, so a time may lie below the arithmetic bound; parameters that stay
in a cache from one run to the next don't come from memory, so a time may lie below that one too. See ``roofline.py``.

``--memory`` measures memory instead: the most that each engine's process held, loading included, and how much more that is than after the
import of its library.

numbacnn's model releases its parameters before it predicts (``Model.release_parameters``), as it would in a program that only predicts.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import logging
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from .networks import channels_first, channels_last_layout, drawn, options_of, peer_of, peers, shape_of
from .processes import answered, in_turn, process_bytes, started
from .rounds import ratio, write

BATCH1 = (
    "lenet5", "alexnet", "vgg16", "googlenet", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "convnext_tiny",
    "xception",
)  # fmt: skip
BATCH16 = ("resnet18", "resnet50", "vgg16", "mobilenet_v2")
MEMORY, MEMORY_BATCH = ("resnet50", "vgg16"), 16
ENGINES = ("numbacnn", "torch", "torch channels-last", "onnxruntime", "openvino")
MODULES = {"numbacnn": "numbacnn", "torch": "torch", "torch channels-last": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
TOLERANCE = 1e-3


# Engines, each in a process of its own ----------------------------------------------------------------------------


def prepared(engine: str, name: str, options: dict[str, Any], folder: Path, threads: int) -> Any:
    """A function without arguments that runs the network once and gives its logits."""
    images = np.load(folder / "images.npy")
    if engine == "numbacnn":
        return _numbacnn(name, options, folder, images, threads)
    if engine == "onnxruntime":
        return _onnxruntime(folder, images, threads)
    if engine == "openvino":
        return _openvino(folder, images, threads)
    return _torch(name, folder, images, threads, channels_last=engine != "torch")


def _numbacnn(name: str, options: dict[str, Any], folder: Path, images: np.ndarray, threads: int) -> Any:
    import numbacnn as nc

    nc.set_num_threads(threads)
    model = nc.create(name, input_shape=images.shape[1:], **options)
    model.load_weights(folder / "weights.pth")
    model.release_parameters(batch_size=len(images))
    return lambda: model.predict(images, batch_size=len(images))


def _torch(name: str, folder: Path, images: np.ndarray, threads: int, channels_last: bool) -> Any:
    import torch

    torch.set_num_threads(threads)
    module = peer_of(name)
    module.load_state_dict(torch.load(folder / "weights.pth"))
    module.eval()
    batch = torch.from_numpy(channels_first(images))
    layout = channels_last_layout(batch.ndim) if channels_last else None
    if layout is not None:
        module, batch = module.to(memory_format=layout), batch.contiguous(memory_format=layout)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return module(batch).numpy()

    return run


def _onnxruntime(folder: Path, images: np.ndarray, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    batch = {given.name: channels_first(images)}
    return lambda: session.run(None, batch)[0]


def _openvino(folder: Path, images: np.ndarray, threads: int) -> Any:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(folder / "network.onnx"), "CPU", settings).create_infer_request()
    batch = channels_first(images)
    return lambda: request.infer([batch])[0]


def work(engine: str, name: str, options: dict[str, Any], folder: Path, threads: int, line: Any) -> None:
    """Answer messages: a number of seconds asks for the times of as many runs as fit, None ends the process."""
    started = time.perf_counter()
    run = prepared(engine, name, options, folder, threads)
    logits = np.array(run())
    line.send((logits, time.perf_counter() - started))
    while (seconds := line.recv()) is not None:
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        line.send(times)


def work_memory(engine: str, name: str, options: dict[str, Any], folder: Path, threads: int, line: Any) -> None:
    """Send the bytes that this process held after importing the engine's library, and the most that it has held after some runs."""
    importlib.import_module("numbacnn.kernels.jit" if engine == "numbacnn" else MODULES[engine])  # numbacnn alone loads no Numba yet
    imported = process_bytes("VmRSS")
    run = prepared(engine, name, options, folder, threads)
    for _ in range(3):
        run()
    line.send((imported, process_bytes("VmHWM")))


def work_roofline(threads: int, line: Any) -> None:
    from . import roofline

    line.send(roofline.measure(threads))


# The networks ------------------------------------------------------------------------------------------------------


def export(name: str, batch: int, folder: Path) -> None:
    """Images, weights and ONNX file of a network."""
    import torch

    module = peer_of(name).eval()
    torch.save(module.state_dict(), folder / "weights.pth")
    images = drawn(name, shape_of(name), batch)
    np.save(folder / "images.npy", images)
    example = torch.from_numpy(channels_first(images))
    with _quiet():
        torch.onnx.export(module, (example,), folder / "network.onnx", dynamo=True, verbose=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings: the exporter's are about its own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


# Measuring ---------------------------------------------------------------------------------------------------------


def compare(name: str, batch: int, threads: int, engines: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Times of a network in all engines, after their logits have been found to agree."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        export(name, batch, folder)
        workers = {engine: started(work, engine, name, options_of(name), folder, threads) for engine in engines}
        lines = {engine: line for engine, (_, line) in workers.items()}
        first = {engine: line.recv() for engine, line in lines.items()}
        wanted = first["torch"][0]
        for engine, (logits, _) in first.items():
            apart = float(abs(logits - wanted).max() / abs(wanted).max())
            if apart > TOLERANCE:
                raise SystemExit(f"{name}: the logits of {engine} are {apart:.1e} from PyTorch's")
        times, least = in_turn(workers, rounds, seconds)
    return {
        "network": name,
        "batch": batch,
        "threads": threads,
        "milliseconds": {engine: 1e3 * statistics.median(values) for engine, values in times.items()},
        "least milliseconds": {engine: 1e3 * value for engine, value in least.items()},
        "first seconds": {engine: seconds for engine, (_, seconds) in first.items()},
        "ratio to the best": ratio(times, "numbacnn", [engine for engine in engines if engine != "numbacnn"]),
        "ratio to PyTorch": ratio(times, "numbacnn", [engine for engine in engines if engine.startswith("torch")]),
    }


def compare_memory(name: str, batch: int, threads: int, engines: list[str]) -> dict[str, Any]:
    """Bytes of each engine's process, one after the other."""
    with tempfile.TemporaryDirectory() as place:
        export(name, batch, Path(place))
        found = {engine: answered(work_memory, engine, name, options_of(name), Path(place), threads) for engine in engines}
    return {
        "network": name,
        "batch": batch,
        "threads": threads,
        "peak bytes": {engine: most for engine, (_, most) in found.items()},
        "increase bytes": {engine: most - imported for engine, (imported, most) in found.items()},
    }


def bounds_of(name: str, batch: int, machine: dict[str, float]) -> dict[str, Any]:
    """What a network takes, and the milliseconds that it takes at least on the machine."""
    import numbacnn as nc

    from . import roofline

    work = roofline.work(nc.create(name, input_shape=shape_of(name), **options_of(name)), batch)
    return {"work": work, "bounds": roofline.bounds(work, machine)}


# What it tells -----------------------------------------------------------------------------------------------------


def _line(first: Iterable[Any], rest: Iterable[str], widths: Iterable[int]) -> str:
    name, batch, threads = first
    return f"{name:16} {batch:>5} {threads:>7}  " + "  ".join(f"{text:>{width}}" for text, width in zip(rest, widths))


def report_times(cases: list[tuple[int, int, str]], engines: list[str], rounds: int, seconds: float, path: str | None) -> None:
    """Compare, print a line for each network, and write the figures. ``cases`` are (threads, batch, network)."""
    machines = {threads: answered(work_roofline, threads) for threads in dict.fromkeys(threads for threads, _, _ in cases)}
    for threads, machine in machines.items():
        click.echo(
            f"{threads} threads: {machine['flops'] / 1e9:.0f} GFLOP/s between registers, {machine['bytes'] / 1e9:.1f} GB/s from memory"
        )
    click.echo("Milliseconds, the median and (the least).")
    widths = [*(21 for _ in engines), 10, 8, 11, 10]
    click.echo(_line(("network", "batch", "threads"), [*engines, "arithmetic", "memory", "to the best", "to PyTorch"], widths))
    rows = []
    for threads, batch, name in cases:
        row = {**compare(name, batch, threads, engines, rounds, seconds), **bounds_of(name, batch, machines[threads])}
        rows.append(row)
        times = [f"{row['milliseconds'][engine]:.2f} ({row['least milliseconds'][engine]:.2f})" for engine in engines]
        others = (*row["bounds"].values(), row["ratio to the best"], row["ratio to PyTorch"])
        click.echo(_line((name, batch, threads), [*times, *(f"{value:.2f}" for value in others)], widths))
        write(path, {"machine": machines, "rows": rows})
    for (threads, batch), group in itertools.groupby(rows, lambda row: (row["threads"], row["batch"])):
        found = list(group)
        for kind in ("ratio to the best", "ratio to PyTorch"):
            mean = math.exp(statistics.mean(math.log(row[kind]) for row in found))
            click.echo(f"geometric mean, batch {batch}, {threads} threads, {kind}: {mean:.2f}")


def report_memory(networks: Iterable[str], batches: Iterable[int], threads: Iterable[int], engines: list[str], path: str | None) -> None:
    """As :func:`report_times`, of memory."""
    widths = [21] * len(engines)
    click.echo("MiB that the process held at most, and (how much more than after the import of the library).")
    click.echo(_line(("network", "batch", "threads"), engines, widths))
    rows = []
    for count, batch, name in itertools.product(threads, batches, networks):
        row = compare_memory(name, batch, count, engines)
        rows.append(row)
        cells = [f"{row['peak bytes'][engine] / 2**20:.0f} ({row['increase bytes'][engine] / 2**20:.0f})" for engine in engines]
        click.echo(_line((name, batch, count), cells, widths))
        write(path, {"rows": rows})


@click.command(
    epilog="Examples: python -m asv_benchmarks.peers.inference --network resnet50 --batch 1 --threads 1 --threads 2 --json inference.json; "
    "python -m asv_benchmarks.peers.inference --memory --json memory.json"
)
@click.option("--network", "networks", multiple=True, help="One or several of ours. [default: a list for each batch size]")
@click.option("--registered", is_flag=True, help="All registered networks that another library has too, in place of that list.")
@click.option("--batch", "batches", multiple=True, type=int, help="May be repeated. [default: 1 and 16; 16 with --memory]")
@click.option("--threads", multiple=True, type=int, help="May be repeated: --threads 1 --threads 2. [default: all cores]")
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=0.5, show_default=True, help="That an engine runs in a round.")
@click.option("--memory", is_flag=True, help=f"Measure memory instead of time. [default networks: {', '.join(MEMORY)}]")
@click.option("--json", "path", help="Write the figures to this file.")
def main(
    networks: tuple[str, ...],
    registered: bool,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    rounds: int,
    seconds: float,
    memory: bool,
    path: str | None,
) -> None:
    """Time whole networks beside other engines, or measure their memory."""
    if registered:
        networks = ("lenet5", *peers())
    engines = [engine for engine in ENGINES if importlib.util.find_spec(MODULES[engine])]
    counts = threads or (len(os.sched_getaffinity(0)),)
    if memory:
        report_memory(networks or MEMORY, batches or (MEMORY_BATCH,), counts, engines, path)
        return
    cases = [
        (count, batch, name)
        for count, batch in itertools.product(counts, batches or (1, 16))
        for name in networks or (BATCH1 if batch == 1 else BATCH16)
    ]
    report_times(cases, engines, rounds, seconds, path)


if __name__ == "__main__":
    main()
