"""Everything that needs a GPU, in one run of some minutes and without a network: python -m asv_benchmarks.gpu.check --json gpu.json

First it compiles all kernels, in as many processes as there are cores. Then it proves and measures, beside PyTorch where that is installed
(eager, channels-last; in float32, with TF32, and with bf16 autocast), what targets speak of first; at the end it says which targets are
met. Each part runs in processes of its own: one that fails, or finds no time, is told of, and the others run. All rows are in the file as
soon as they are there. ``--only layers --only launches`` runs some parts, and leaves what the file has of others. It takes the versions of
Numba, numba-cuda and PyTorch that it finds, and runs from a checkout that is not installed. ``--tiny`` does very little of everything,
which the simulator can do too. The exit status is 1 where a result is wrong, 2 where there is no GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 9.0


def ensure_registered() -> None:
    """Start again with the checkout on the path, and with what an installation would leave there: the entry points of its plugins. Not all
    versions of numba-cuda find a toolkit's compiler by themselves, so they are told where it is."""
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
    toolkit = _toolkit()
    if toolkit:
        os.environ.setdefault("CUDA_HOME", toolkit)
    os.execv(sys.executable, [sys.executable, "-m", "asv_benchmarks.gpu.check", *sys.argv[1:]])


def _toolkit() -> str | None:
    """The folder of a CUDA toolkit that has NVVM: that of nvcc, or where NVIDIA's installer puts it."""
    compiler = shutil.which("nvcc")
    places = [Path(compiler).resolve().parents[1]] if compiler else []
    return next((str(place) for place in (*places, Path("/usr/local/cuda")) if any(place.glob("nvvm/lib64/libnvvm.so*"))), None)


def earlier(path: str | None, only: tuple[str, ...]) -> dict[str, Any]:
    """Where only some parts run: what the file has of the others."""
    if not (path and only and Path(path).exists()):
        return {"results": {}, "seconds": {}}
    return json.loads(Path(path).read_text())


def written(path: str | None, found: dict[str, Any]) -> None:
    """Write the file, all of it or nothing."""
    from .verdicts import verdicts

    if path:
        found["verdicts"] = verdicts(found["results"])
        beside = Path(f"{path}.new")
        beside.write_text(json.dumps(found, indent=1) + "\n")
        beside.replace(path)


@click.command(help=__doc__)
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write all rows to this file, as they come.")
@click.option("--only", multiple=True, help="Run these parts only.")
@click.option("--minutes", default=MINUTES, show_default=True, help="After which what is not done is left out.")
@click.option("--tiny", is_flag=True, help="Very little of everything.")
def command(path: str | None, only: tuple[str, ...], minutes: float, tiny: bool) -> None:
    from numbacnn.kernels.cuda import runtime

    from .parts import Settings, parts
    from .tables import shown
    from .verdicts import verdicts
    from .workers import results

    started, every = time.perf_counter(), parts()
    unknown = set(only) - {part.name for part in every}
    if unknown:
        names = ", ".join(part.name for part in every)
        raise click.UsageError(f"There is no part {', '.join(sorted(unknown))}; there are {names}.")
    problem = runtime.problem()
    if problem:
        click.echo(f"check: {problem}", err=True)
        sys.exit(2)
    found = earlier(path, only)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(tiny, Path(folder))
        for part in every:
            if only and part.name not in only:
                continue
            began = time.perf_counter()
            print(f"\n== {part.name} ({began - started:.0f} s)", flush=True)
            rows = found["results"][part.name] = []
            try:
                for some in results(part, settings, min(part.seconds * settings.patience, 60 * minutes - (began - started))):
                    rows += some
                    written(path, found)
            except Exception as error:  # of what this process does, such as the list of its items: the other parts run
                traceback.print_exc()
                rows.append({"failed": f"{type(error).__name__}: {error}", "ok": False})
            found["seconds"][part.name] = time.perf_counter() - began
            written(path, found)
            print(shown(part.shown(rows)), flush=True)
    bad = [(name, row) for name, rows in found["results"].items() for row in rows if row.get("ok") is False]
    print(f"\n== targets\n{shown(verdicts(found['results']))}\n\n{len(bad)} rows are wrong, after {time.perf_counter() - started:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    ensure_registered()
    command()
