"""Training steps beside PyTorch: python -m asv_benchmarks.peers.training

Needs PyTorch, torchvision and timm. Each engine trains the same network in a process of its own, with the same initial weights (PyTorch's),
images, labels, loss (softmax cross-entropy) and optimizer (SGD with momentum 0.9); PyTorch eager in both memory layouts, and compiled if
asked for. Engines take turns: in each round each one runs for a moment, while the others wait for a message and their threads sleep. What
counts is the ratio within a round. A step is all of it: images and labels as NumPy arrays in, the loss as a number out.

``--memory`` measures memory instead: the most that each engine's process held, and how much more that is than after the import of its
library. ``--recompute cheap`` and ``--recompute blocks`` add numbacnn with recomputation to the engines. ``--curves`` trains on different
batches in all engines, with nothing dropped at random, and tells how far the losses are apart.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from .networks import channels_first, channels_last_layout, drawn, options_of, peer_of
from .processes import answered, in_turn, process_bytes, started
from .rounds import milliseconds, ratio, write

CASES = (  # name, input shape, batch
    ("lenet5", (28, 28, 1), 64),
    ("cnn", (32, 32, 3), 32),
    ("resnet20", (32, 32, 3), 128),
    ("resnet18", (32, 32, 3), 32),
    ("resnet18", (32, 32, 3), 128),
    ("vgg16_bn", (32, 32, 3), 64),
    ("resnet50", (224, 224, 3), 8),
    ("mobilenet_v2", (224, 224, 3), 8),
    ("densenet121", (32, 32, 3), 32),
    ("efficientnet_b0", (224, 224, 3), 8),
    ("convnext_tiny", (64, 64, 3), 16),
)
CURVE_CASES = (*CASES, ("alexnet", (64, 64, 3), 16), ("capsnet", (28, 28, 1), 16))
CURVES = ("lenet5", "alexnet", "capsnet", "convnext_tiny")
ENGINES = ("numbacnn", "torch", "torch channels-last")
COMPILED = "torch compiled"
RECOMPUTING = {f"numbacnn {mode}": mode for mode in ("cheap", "blocks")}  # engines, and the Trainer's recompute
RATE, MOMENTUM = 0.01, 0.9
CLASSES = 10  # that labels are drawn from
CALM_RATE = 0.002  # for curves, which should tell how engines differ, not how a step that is too large swings
SIGNAL = 0.05  # standard deviation of what the images of a class have in common, that of the rest being 1


Case = tuple[str, tuple[int, ...], int]


# Engines, each in a process of its own ----------------------------------------------------------------------------


def prepared(engine: str, case: Case, folder: Path, threads: int, calm: bool, dtype: str = "float32") -> Any:
    """A function of images and labels that makes a step in working type ``dtype`` and gives the loss."""
    if not engine.startswith("torch"):
        return _numbacnn(case, folder, threads, calm, dtype, RECOMPUTING.get(engine))
    return _torch(engine, case, folder, threads, calm, dtype)


def _numbacnn(case: Case, folder: Path, threads: int, calm: bool, dtype: str, recompute: str | None) -> Any:
    import numbacnn as nc

    name, shape, _ = case
    nc.set_num_threads(threads)
    model = nc.create(name, input_shape=shape, dtype=dtype, **options_of(name, calm))
    model.load_weights(folder / "weights.pth")
    trainer = nc.Trainer(model, optimizer=nc.SGD(CALM_RATE if calm else RATE, momentum=MOMENTUM), recompute=recompute)
    return trainer.step


def _torch(engine: str, case: Case, folder: Path, threads: int, calm: bool, dtype: str) -> Any:
    import torch

    from tests import zoo

    name, shape, _ = case
    torch.set_num_threads(threads)
    module = peer_of(name).train()
    module.load_state_dict(torch.load(folder / "weights.pth"))
    if calm:
        zoo.without_chance(module)
    layout = channels_last_layout(1 + len(shape)) if engine == "torch channels-last" else torch.contiguous_format
    module = module.to(getattr(torch, dtype), memory_format=layout)
    optimizer = torch.optim.SGD(module.parameters(), CALM_RATE if calm else RATE, momentum=MOMENTUM)
    forward = torch.compile(module) if engine == COMPILED else module

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        x = torch.from_numpy(channels_first(images.astype(dtype, copy=False))).contiguous(memory_format=layout)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(x), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def batches(case: Case, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, the same in every process, and never the same twice: noise, and faintly a pattern for each class."""
    name, shape, batch = case
    patterns = SIGNAL * drawn(name, shape, CLASSES, count)
    labels = np.random.default_rng(0).integers(0, CLASSES, (count, batch))
    for seed in range(count):
        yield drawn(name, shape, batch, seed) + patterns[labels[seed]], labels[seed]


def work(engine: str, case: Case, folder: Path, threads: int, line: Any) -> None:
    """Answer messages: a number of seconds asks for the times of as many steps as fit, None ends the process."""
    ((images, labels),) = batches(case, 1)
    began = time.perf_counter()
    step = prepared(engine, case, folder, threads, calm=False)
    step(images, labels)
    first = time.perf_counter() - began
    step(images, labels)
    line.send(first)
    while (seconds := line.recv()) is not None:
        times: list[float] = []
        while sum(times) < seconds or len(times) < 2:
            began = time.perf_counter()
            step(images, labels)
            times.append(time.perf_counter() - began)
        line.send(times)


def work_memory(engine: str, case: Case, folder: Path, threads: int, line: Any) -> None:
    """Send the bytes that this process held after importing the engine's library, and the most that it has held after some steps."""
    ((images, labels),) = batches(case, 1)
    if not engine.startswith("torch"):
        import numbacnn.kernels.jit  # noqa: F401  numbacnn alone loads no Numba yet
    else:
        import torch  # noqa: F401
    imported = process_bytes("VmRSS")
    step = prepared(engine, case, folder, threads, calm=False)
    for _ in range(3):
        step(images, labels)
    line.send((imported, process_bytes("VmHWM")))


def work_curve(engine: str, case: Case, folder: Path, threads: int, steps: int, dtype: str, line: Any) -> None:
    """Send the losses of so many steps."""
    step = prepared(engine, case, folder, threads, True, dtype)
    line.send([step(*batch) for batch in batches(case, steps)])


# Measuring ---------------------------------------------------------------------------------------------------------


def save_weights(case: Case, folder: Path) -> None:
    """What all engines start from."""
    import torch

    torch.manual_seed(0)
    torch.save(peer_of(case[0]).state_dict(), folder / "weights.pth")


def compare(case: Case, threads: int, engines: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Times of a step in all engines."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_weights(case, folder)
        workers = {engine: started(work, engine, case, folder, threads) for engine in engines}
        lines = {engine: line for engine, (_, line) in workers.items()}
        first = {engine: line.recv() for engine, line in lines.items()}
        times, least = in_turn(workers, rounds, seconds)
    row = {
        **_described(case, threads),
        "milliseconds": {engine: milliseconds(values) for engine, values in times.items()},
        "least milliseconds": {engine: 1e3 * value for engine, value in least.items()},
        "first seconds": first,
        "ratio": ratio(times, "numbacnn", [engine for engine in engines if engine in ENGINES[1:]]),
    }
    row["images per second"] = {engine: case[2] / value * 1e3 for engine, value in row["milliseconds"].items()}
    return row


def _described(case: Case, threads: int) -> dict[str, Any]:
    name, shape, batch = case
    return {"network": name, "input": " x ".join(map(str, shape)), "batch": batch, "threads": threads}


def answers(work: Any, case: Case, threads: int, engines: list[str], *arguments: Any) -> dict[str, Any]:
    """What each engine's process sends, one after the other."""
    with tempfile.TemporaryDirectory() as place:
        save_weights(case, Path(place))
        return {engine: answered(work, engine, case, Path(place), threads, *arguments) for engine in engines}


# What it tells -----------------------------------------------------------------------------------------------------


def _line(row: dict[str, Any], cells: list[str]) -> str:
    return f"{row['network']:16} {row['input']:>13} {row['batch']:>4}  " + "  ".join(f"{cell:>21}" for cell in cells)


def _heading(engines: list[str], *more: str) -> str:
    return _line({"network": "network", "input": "input", "batch": "", "threads": ""}, [*engines, *more])


def report_times(cases: list[Case], threads: int, engines: list[str], rounds: int, seconds: float, path: str | None) -> None:
    """Compare, print a line for each case, and write the figures."""
    click.echo("Milliseconds of a step, the median and (the least).")
    click.echo(_heading(engines, "to PyTorch eager"))
    rows = []
    for case in cases:
        row = compare(case, threads, engines, rounds, seconds)
        rows.append(row)
        cells = [f"{row['milliseconds'][engine]:.2f} ({row['least milliseconds'][engine]:.2f})" for engine in engines]
        click.echo(_line(row, [*cells, f"{row['ratio']:.2f}"]))
        write(path, {"rows": rows})
    click.echo(f"geometric mean: {math.exp(statistics.mean(math.log(row['ratio']) for row in rows)):.2f}")


def report_memory(cases: list[Case], threads: int, engines: list[str], path: str | None) -> None:
    """As :func:`report_times`, of memory."""
    click.echo("MiB that the process held at most, and (how much more than after the import of the library).")
    click.echo(_heading(engines))
    rows = []
    for case in cases:
        found = answers(work_memory, case, threads, engines)
        row = {
            **_described(case, threads),
            "peak bytes": {engine: most for engine, (_, most) in found.items()},
            "increase bytes": {engine: most - imported for engine, (imported, most) in found.items()},
        }
        rows.append(row)
        click.echo(_line(row, [f"{most / 2**20:.0f} ({(most - imported) / 2**20:.0f})" for imported, most in found.values()]))
        write(path, {"rows": rows})


def report_curves(cases: list[Case], threads: int, engines: list[str], steps: int, dtype: str, path: str | None) -> None:
    """As :func:`report_times`, of the losses."""
    click.echo(f"The largest relative difference of the loss to PyTorch's within {steps} steps, and the first and last loss.")
    click.echo(_heading(engines))
    rows = []
    for case in cases:
        found = {engine: np.array(losses) for engine, losses in answers(work_curve, case, threads, engines, steps, dtype).items()}
        apart = {engine: float((abs(losses - found["torch"]) / found["torch"]).max()) for engine, losses in found.items()}
        values = {engine: losses.tolist() for engine, losses in found.items()}
        row = {**_described(case, threads), "type": dtype, "losses": values, "apart": apart}
        rows.append(row)
        click.echo(_line(row, [f"{apart[engine]:.1e} ({found[engine][0]:.3f}, {found[engine][-1]:.3f})" for engine in engines]))
        write(path, {"rows": rows})


@click.command(
    epilog="Examples: python -m asv_benchmarks.peers.training --network resnet18 --json training.json; "
    "python -m asv_benchmarks.peers.training --curves --dtype float64"
)
@click.option("--network", "networks", multiple=True, help="One or several of the list. [default: all]")
@click.option("--threads", type=int, help="[default: all cores]")
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="That an engine trains in a round.")
@click.option("--compiled", is_flag=True, help="torch.compile too, which takes minutes.")
@click.option("--recompute", type=click.Choice(list(RECOMPUTING.values())), multiple=True, help="numbacnn with this recomputation too.")
@click.option("--memory", is_flag=True, help="Measure memory instead of time.")
@click.option("--curves", is_flag=True, help=f"Compare losses instead of times. [default networks: {', '.join(CURVES)}]")
@click.option("--steps", default=200, show_default=True, help="Of a curve.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True, help="Of a curve.")
@click.option("--json", "path", help="Write the figures to this file.")
def main(
    networks: tuple[str, ...], threads: int | None, rounds: int, seconds: float, compiled: bool, recompute: tuple[str, ...], memory: bool,
    curves: bool, steps: int, dtype: str, path: str | None,
) -> None:  # fmt: skip
    """Time training steps beside PyTorch, or measure memory, or compare losses."""
    known = CURVE_CASES if curves else CASES
    unknown = set(networks) - {name for name, _, _ in known}
    if unknown:
        raise click.UsageError(f"There is no case of {', '.join(sorted(unknown))}; there are {', '.join(sorted({c[0] for c in known}))}.")
    wanted = networks or (CURVES if curves else [name for name, _, _ in known])
    cases = [case for case in known if case[0] in wanted]
    engines = [*ENGINES, *([COMPILED] if compiled else []), *(engine for engine, mode in RECOMPUTING.items() if mode in recompute)]
    count = threads or len(os.sched_getaffinity(0))
    if curves:
        report_curves(cases, count, engines, steps, dtype, path)
    elif memory:
        report_memory(cases, count, engines, path)
    else:
        report_times(cases, count, engines, rounds, seconds, path)


if __name__ == "__main__":
    main()
