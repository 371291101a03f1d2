"""What `numbacnn cache warm` does: find out which kernels a use of architectures takes, and compile those that the disk cache lacks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import ConfigError
from ..kernels import jit, team
from ..kernels.compiling import build_all
from ..paths import kernel_folder, writable
from .models import new_model

OPTIMIZERS = ("sgd", "adam")  # that training is prepared for


@dataclasses.dataclass(frozen=True)
class Use:
    """An architecture and what is to be done with it. ``input_shape`` None is the architecture's own. ``capability`` is that of the GPU
    that it is for, None for the CPU; ``precision`` that of its products."""

    architecture: str
    input_shape: tuple[int, ...] | None
    classes: int
    batch: int
    training: bool
    capability: tuple[int, int] | None = None
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Result:
    """What was compiled, the slowest first, by so many processes, how many kernels the disk cache had, and how many of those that were
    compiled it does not have by now."""

    compiled: tuple[jit.Build, ...]
    found: int
    processes: int
    lost: int


def warmed(uses: Sequence[Use], processes: int, show: bool) -> Result:
    """Have all kernels in the disk cache, compiled by up to so many processes; ``show`` a bar on a terminal. Raises as making the models
    does, and ConfigError where nothing is compiled, or nothing can be kept that would have to be."""
    if jit.JIT_DISABLED:
        raise ConfigError("NUMBA_DISABLE_JIT is set, so kernels are not compiled.")
    kernels = {kernel.key: kernel for use in uses for kernel in wanted(use)}
    missing = [kernel for kernel in kernels.values() if not kernel.kept]
    if missing and not writable(kernel_folder()):
        raise ConfigError(f"The folder {kernel_folder()} cannot be written to; set NUMBACNN_CACHE_DIR to another one.")
    processes = max(1, min(processes, len(missing)))
    builds = []
    with _bar(len(missing), show) as advance:

        def done(build: jit.Build) -> None:
            builds.append(build)
            advance(build)

        build_all(missing, processes, done)
    lost = sum(kernel.keepable and not kernel.kept for kernel in missing)
    return Result(tuple(sorted(builds, key=lambda build: -build.seconds)), len(kernels) - len(missing), processes, lost)


def wanted(use: Use) -> list[Any]:
    """The kernels that a use takes (:class:`~numbacnn.kernels.jit.Wanted`, or for a GPU
    :class:`~numbacnn.kernels.cuda.launch.Wanted`)."""
    if use.capability is None:
        with jit.postponed() as noted:
            team.compile_all()
            _run(use, "cpu")
        return list(noted)
    from ..kernels.cuda import launch, runtime

    with runtime.pretended(runtime.Blueprint(use.capability)) as blueprint:
        _run(use, "cuda")
    return [launch.Wanted(kernel, kinds, use.capability) for kernel, kinds in blueprint.wanted]


def _run(use: Use, device: str) -> None:
    """Do what is to be prepared, on a device where nothing runs."""
    import numpy as np

    from ..training.trainer import Trainer

    model = new_model(use.architecture, use.input_shape, use.classes)
    batches = tuple(np.zeros((use.batch, *tensor.shape), tensor.dtype or model.dtype) for tensor in model.graph.inputs)
    images = batches if len(batches) > 1 else batches[0]
    model.to(device, use.precision).predict(images, use.batch)
    for optimizer in OPTIMIZERS if use.training else ():
        Trainer(model, optimizer=optimizer).step(images, np.arange(use.batch) % use.classes)


@contextlib.contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[jit.Build], Any]]:
    """A bar of so many kernels on a terminal, and the function that says that one is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal and total)) as progress:
        task = progress.add_task("", total=total)
        yield lambda build: progress.update(task, advance=1, description=build.name.replace("<locals>.", ""))
