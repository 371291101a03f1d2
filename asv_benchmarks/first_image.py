"""How long a new process takes to its first prediction, and with what: python -m asv_benchmarks.first_image

Each measurement is a process of its own, from the start of Python to the first result: once with an empty disk cache, where all kernels
are compiled, and then with the cache that this has filled. ``benchmarks/bench_start.py`` follows the sum over commits for two small
networks; this says, for a large one, where the time goes.

Several processes compile (:mod:`numbacnn.kernels.compiling`), and what another has compiled is found in the cache. The first kernel that
a process compiles counts what Numba does before: it loads all that it can compile.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

PROGRAM = """
import json, sys, time

name, batch, threads, launched = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
seconds, last = {}, launched

def done(phase):
    global last
    now = time.time()
    seconds[phase], last = now - last, now

done("start Python")
import numpy as np
import numbacnn as nc
done("import NumPy and numbacnn")
from numbacnn.kernels import jit
if threads:
    jit.set_num_threads(threads)
done("import Numba")
model = nc.create(name)
images = np.zeros((batch, *model.inputs[0].shape), np.float32)
done("build the network")
with jit.builds() as builds:
    plan = model._inference_plan(batch)
    done("plan, kernels")
    with plan.weights:
        pass
    done("pack weights")
    model.predict(images, batch)
    done("run")
kernels = [{"name": build.name, "found": build.found, "seconds": build.seconds} for build in builds]
print(json.dumps({"seconds": seconds, "total": last - launched, "kernels": kernels}))
"""
PHASES = (
    "start Python",
    "import NumPy and numbacnn",
    "import Numba",
    "build the network",
    "plan, kernels",
    "pack weights",
    "run",
)


def first_prediction(folder: Path, network: str, batch: int, threads: int | None) -> dict[str, Any]:
    """Seconds of each phase of a process with that cache folder, ``total``, and the ``kernels`` that it compiled or found there."""
    command = [sys.executable, "-c", PROGRAM, network, str(batch), str(threads or 0), str(time.time())]
    done = subprocess.run(command, check=True, env={**os.environ, "NUMBACNN_CACHE_DIR": str(folder)}, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(network: str, batch: int, threads: int | None, rounds: int) -> dict[str, Any]:
    """One process with an empty cache (``cold``), and so many with what it leaves there (``warm``)."""
    with tempfile.TemporaryDirectory() as folder:
        cold, *warm = (first_prediction(Path(folder), network, batch, threads) for _ in range(1 + rounds))
    return {"network": network, "batch": batch, "threads": threads, "cold": cold, "warm": warm}


def report(result: dict[str, Any], longest: int) -> None:
    """Print the phases, the warm ones as medians, and the kernels that took longest to compile."""
    cold, warm = result["cold"], result["warm"]
    click.echo(f"{result['network']}, batch {result['batch']}: seconds to the first prediction")
    click.echo(f"{'':26}{'cold':>9}{'warm':>9}")
    for phase in PHASES:
        median = statistics.median(run["seconds"][phase] for run in warm)
        click.echo(f"{phase:26}{cold['seconds'][phase]:9.3f}{median:9.3f}")
    click.echo(f"{'in all':26}{cold['total']:9.3f}{statistics.median(run['total'] for run in warm):9.3f}")
    for title, run in (("cold", cold), ("warm", warm[0])):
        compiled = [kernel["seconds"] for kernel in run["kernels"] if not kernel["found"]]
        found = len(run["kernels"]) - len(compiled)
        click.echo(f"{title}: {len(compiled)} kernels compiled, in {sum(compiled):.1f} s of all processes, {found} found in the cache")
        for kernel in sorted(run["kernels"], key=lambda kernel: -kernel["seconds"])[:longest]:
            click.echo(f"  {kernel['seconds']:8.3f}  {kernel['name'].replace('.<locals>', '')}")


@click.command(epilog="Example: python -m asv_benchmarks.first_image --network mobilenet_v2 --rounds 9 --json first.json")
@click.option("--network", default="resnet50", show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="[default: all cores]")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Processes with a warm cache.")
@click.option("--longest", default=5, show_default=True, help="Kernels to name.")
@click.option("--json", "path", help="Write the figures to this file.")
def main(network: str, batch: int, threads: int | None, rounds: int, longest: int, path: str | None) -> None:
    """Take apart the time from the start of Python to the first prediction."""
    result = measure(network, batch, threads, rounds)
    report(result, longest)
    if path:
        Path(path).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
