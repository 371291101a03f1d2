"""Everything that needs a GPU, in one run of some minutes and without a network: python -m asv_benchmarks.gpu.check --json gpu.json

First it compiles all kernels, in as many processes as there are cores. Then come the proofs: every registered layer, every architecture,
training, memory over a thousand steps; then the times: launches, convolutions and whole networks, beside PyTorch where it is installed
(eager, channels-last; in float32, with TF32, and with bf16 autocast). A part that fails or finds no time is told of, and the others run.
``--only layers --only launches`` runs some parts. It takes the versions of Numba, numba-cuda and PyTorch that it finds, and runs from a
checkout that is not installed. The exit status is 1 where a result is wrong, 2 where there is no GPU.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 9.0
PACKAGES = ("numbacnn", "numpy", "numba", "numba-cuda", "cuda-bindings", "nvidia-nvjitlink", "torch", "torchvision")


def ensure_registered() -> None:
    """Start again with the checkout on the path, and with what an installation would leave there: the entry points of its plugins."""
    try:
        metadata.distribution("numbacnn")
        return
    except metadata.PackageNotFoundError:
        pass
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = Path(tempfile.mkdtemp())
    described = place / "numbacnn-0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: numbacnn\nVersion: 0\n")
    points = "\n".join(f"{name} = {target}" for name, target in project["entry-points"]["numbacnn"].items())
    (described / "entry_points.txt").write_text(f"[numbacnn]\n{points}\n")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), str(place), os.environ.get("PYTHONPATH", "")])
    os.execv(sys.executable, [sys.executable, "-m", "asv_benchmarks.gpu.check", *sys.argv[1:]])


def environment(_: Any) -> list[dict[str, Any]]:
    """Versions, and the device."""
    from numbacnn.kernels.cuda import runtime

    device = runtime.device()
    found: dict[str, Any] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    capability = ".".join(map(str, device.capability))
    found |= {"gpu": device.name, "capability": capability, "memory GiB": device.memory()[1] / 2**30, "cores": os.cpu_count()}
    return [{"what": name, "found": value} for name, value in found.items()]


def parts() -> dict[str, Callable[[Callable[[], float]], list[dict[str, Any]]]]:
    """By name, in their order, what is run. Each takes a function that gives the seconds that are left, and gives rows of a table; a row
    with ``ok`` False is a wrong result."""
    from . import proofs, speed

    return {
        "environment": environment,
        "compilation": speed.compilation,
        "layers": proofs.layers,
        "architectures": proofs.architectures,
        "launches": speed.launches,
        "convolutions": speed.convolutions,
        "networks": speed.networks,
        "accuracy": proofs.accuracy,
        "memory": proofs.memory,
    }


def shown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table."""
    if not rows:
        return "  nothing"
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_cell(row.get(name, "")) for name in names] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command(help=__doc__)
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write all rows to this file, after each part.")
@click.option("--only", multiple=True, help="Run these parts only.")
@click.option("--minutes", default=MINUTES, show_default=True, help="After which no part begins.")
def command(path: str | None, only: tuple[str, ...], minutes: float) -> None:
    from asv_benchmarks.peers.rounds import write
    from numbacnn.errors import DeviceError
    from numbacnn.kernels.cuda import runtime

    started = time.perf_counter()
    results: dict[str, Any] = {}
    try:
        found = parts()
        runtime.device()
    except DeviceError as error:
        click.echo(f"check: {error}", err=True)
        sys.exit(2)
    wrong = []
    for name, part in found.items():
        if only and name not in only:
            continue
        left = 60 * minutes - (time.perf_counter() - started)
        print(f"\n== {name} ({time.perf_counter() - started:.0f} s)", flush=True)
        if left <= 0:
            results[name] = {"skipped": "no time was left"}
            print("  skipped: no time was left")
            continue
        try:
            rows = part(lambda: 60 * minutes - (time.perf_counter() - started))
            results[name] = rows
            wrong += [f"{name}: {row}" for row in rows if row.get("ok") is False]
            print(shown(rows), flush=True)
        except Exception as error:
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
            wrong.append(f"{name}: {error}")
            traceback.print_exc()
        write(path, results)
    print(f"\n{len(wrong)} wrong, after {time.perf_counter() - started:.0f} s", *wrong, sep="\n  ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    ensure_registered()
    command()
