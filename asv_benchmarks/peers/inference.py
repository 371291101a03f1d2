"""Whole networks beside PyTorch, ONNX Runtime and OpenVINO: python -m asv_benchmarks.peers.inference

Needs PyTorch, torchvision, timm, onnx, onnxscript, onnxruntime and openvino; of the last two a missing one is left out. Every engine runs
in a process of its own, with the same weights (PyTorch's initial ones) and images; PyTorch exports the ONNX file. Engines take turns: in
each round each one runs for a moment, while the others wait for a message and their threads sleep. What counts is the ratio within a
round.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from .rounds import write

BATCH1 = (
    "lenet5", "alexnet", "vgg16", "googlenet", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "convnext_tiny",
    "xception",
)  # fmt: skip
BATCH16 = ("resnet18", "resnet50", "vgg16", "mobilenet_v2")
ENGINES = ("numbacnn", "torch", "torch channels-last", "onnxruntime", "openvino")
MODULES = {"torch": "torch", "torch channels-last": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
TOLERANCE = 1e-3


# Engines, each in a process of its own ----------------------------------------------------------------------------


def prepared(engine: str, name: str, folder: Path, threads: int) -> Any:
    """A function without arguments that runs the network once and gives its logits."""
    images = np.load(folder / "images.npy")
    if engine == "numbacnn":
        return _numbacnn(name, folder, images, threads)
    if engine == "onnxruntime":
        return _onnxruntime(folder, images, threads)
    if engine == "openvino":
        return _openvino(folder, images, threads)
    return _torch(name, folder, images, threads, channels_last=engine != "torch")


def _numbacnn(name: str, folder: Path, images: np.ndarray, threads: int) -> Any:
    import numbacnn as nc

    nc.set_num_threads(threads)
    model = nc.create(name, input_shape=images.shape[1:], **options_of(name))
    model.load_weights(folder / "weights.pth")
    return lambda: model.predict(images, batch_size=len(images))


def _torch(name: str, folder: Path, images: np.ndarray, threads: int, channels_last: bool) -> Any:
    import torch

    torch.set_num_threads(threads)
    module = peer_of(name)
    module.load_state_dict(torch.load(folder / "weights.pth"))
    module.eval()
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    if channels_last:
        module, batch = module.to(memory_format=torch.channels_last), batch.contiguous(memory_format=torch.channels_last)
    else:
        batch = batch.contiguous()

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
    batch = {given.name: np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, batch)[0]


def _openvino(folder: Path, images: np.ndarray, threads: int) -> Any:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(folder / "network.onnx"), "CPU", settings).create_infer_request()
    batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return lambda: request.infer([batch])[0]


def work(engine: str, name: str, folder: Path, threads: int, line: Any) -> None:
    """Answer messages: a number of seconds asks for the times of as many runs as fit, None ends the process."""
    started = time.perf_counter()
    run = prepared(engine, name, folder, threads)
    logits = np.array(run())
    line.send((logits, time.perf_counter() - started))
    while (seconds := line.recv()) is not None:
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        line.send(times)


# The networks ------------------------------------------------------------------------------------------------------


@functools.cache
def peers() -> dict[str, Any]:
    from tests import zoo

    return zoo.family_tables("PEERS")


def options_of(name: str) -> dict[str, Any]:
    return {} if name == "lenet5" else dict(peers()[name][0].options)


def peer_of(name: str) -> Any:
    """The PyTorch module."""
    if name != "lenet5":
        return peers()[name][0].make()
    from torch import nn

    class LeNet5(nn.Module):
        """Names as ours, so that its weights load."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
            self.dense1, self.dense2, self.dense3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

        def forward(self, x: Any) -> Any:
            h = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
            h = nn.functional.max_pool2d(self.conv2(h).relu(), 2).flatten(1)
            return self.dense3(self.dense2(self.dense1(h).relu()).relu())

    return LeNet5()


def shape_of(name: str) -> tuple[int, int, int]:
    return (28, 28, 1) if name == "lenet5" else (peers()[name][0].size,) * 2 + (3,)


def export(name: str, batch: int, folder: Path) -> None:
    """Images, weights and ONNX file of a network."""
    import torch

    module = peer_of(name).eval()
    torch.save(module.state_dict(), folder / "weights.pth")
    images = np.random.default_rng(0).normal(size=(batch, *shape_of(name))).astype(np.float32)
    np.save(folder / "images.npy", images)
    example = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    torch.onnx.export(module, (example,), folder / "network.onnx", dynamo=True, verbose=False)


def compare(name: str, batch: int, threads: int, engines: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Times of a network in all engines, after their logits have been found to agree."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        export(name, batch, folder)
        lines, processes = {}, []
        for engine in engines:
            lines[engine], end = context.Pipe()
            processes.append(context.Process(target=work, args=(engine, name, folder, threads, end), daemon=True))
            processes[-1].start()
        first = {engine: line.recv() for engine, line in lines.items()}
        wanted = first["torch"][0]
        for engine, (logits, _) in first.items():
            apart = float(abs(logits - wanted).max() / abs(wanted).max())
            if apart > TOLERANCE:
                raise SystemExit(f"{name}: the logits of {engine} are {apart:.1e} from PyTorch's")
        times: dict[str, list[float]] = {engine: [] for engine in engines}
        for turn in range(rounds):
            for engine in engines[:: 1 if turn % 2 == 0 else -1]:
                lines[engine].send(seconds)
                times[engine].append(statistics.median(lines[engine].recv()))
        for line in lines.values():
            line.send(None)
        for process in processes:
            process.join()
    return {
        "network": name,
        "batch": batch,
        "milliseconds": {engine: 1e3 * statistics.median(values) for engine, values in times.items()},
        "best milliseconds": {engine: 1e3 * min(values) for engine, values in times.items()},
        "first seconds": {engine: found for engine, (_, found) in first.items()},
        "ratio to the best": _ratio(times, [engine for engine in engines if engine != "numbacnn"]),
        "ratio to PyTorch": _ratio(times, [engine for engine in engines if engine.startswith("torch")]),
    }


def _ratio(times: dict[str, list[float]], others: list[str]) -> float:
    """The median over rounds of how many times as fast we are as the fastest of the others."""
    rounds = range(len(times["numbacnn"]))
    return statistics.median(min(times[other][k] for other in others) / times["numbacnn"][k] for k in rounds)


@click.command(epilog="Example: python -m asv_benchmarks.peers.inference --network resnet50 --batch 1 --json inference.json")
@click.option("--network", "networks", multiple=True, help="One or several of ours. [default: a list for each batch size]")
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 16), show_default=True)
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=0.5, show_default=True, help="That an engine runs in a round.")
@click.option("--json", "path", help="Write the figures to this file.")
def main(networks: tuple[str, ...], batches: tuple[int, ...], threads: int, rounds: int, seconds: float, path: str | None) -> None:
    """Time whole networks beside other engines."""
    engines = [engine for engine in ENGINES if engine == "numbacnn" or importlib.util.find_spec(MODULES[engine])]
    click.echo(f"{'network':16} {'batch':>5}  " + "  ".join(f"{engine:>19}" for engine in engines) + "   to the best  to PyTorch")
    rows = []
    for batch in batches:
        for name in networks or (BATCH1 if batch == 1 else BATCH16):
            row = compare(name, batch, threads, engines, rounds, seconds)
            rows.append(row)
            figures = "  ".join(f"{row['milliseconds'][engine]:16.2f} ms" for engine in engines)
            click.echo(f"{name:16} {batch:5}  {figures}   {row['ratio to the best']:11.2f}  {row['ratio to PyTorch']:10.2f}")
            write(path, {"threads": threads, "rows": rows})
    for ratio in ("ratio to the best", "ratio to PyTorch"):
        click.echo(f"geometric mean, {ratio}: {math.exp(statistics.mean(math.log(row[ratio]) for row in rows)):.2f}")


if __name__ == "__main__":
    main()
