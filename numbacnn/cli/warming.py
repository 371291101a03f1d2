"""What `numbacnn cache warm` does: find out which kernels a use of architectures takes, and compile those that the disk cache lacks.

Numba compiles under one lock, so threads would wait for each other. Worker processes don't: each finds out by itself which kernels there
are, and is told by the name of its file in the cache which one to compile next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ..errors import ConfigError
from ..kernels import jit, team
from .models import new_model

OPTIMIZERS = ("sgd", "adam")  # that training is prepared for


@dataclasses.dataclass(frozen=True)
class Use:
    """An architecture and what is to be done with it. ``input_shape`` None is the architecture's own, ``threads`` None all of the
    machine's: methods are chosen by it. ``capability`` is that of the GPU that it is for, None for the CPU;
    ``precision`` that of its products."""

    architecture: str
    input_shape: tuple[int, ...] | None
    classes: int
    batch: int
    training: bool
    threads: int | None
    capability: tuple[int, int] | None = None
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Result:
    """What was compiled, the slowest first, by so many processes, and how many kernels the disk cache had."""

    compiled: tuple[jit.Build, ...]
    found: int
    processes: int


def warmed(uses: Sequence[Use], processes: int, show: bool) -> Result:
    """Have all kernels in the disk cache, compiled by up to so many processes; ``show`` a bar on a terminal. Raises as making the models
    does, and ConfigError where nothing is compiled or a process comes to an end."""
    if jit.JIT_DISABLED:
        raise ConfigError("NUMBA_DISABLE_JIT is set, so kernels are not compiled.")
    places = {key: use for use in reversed(uses) for key in wanted(use)}
    missing = [(use, key) for key, use in places.items() if not wanted(use)[key].kept]
    processes = max(1, min(processes, len(missing)))
    builds = []
    with _bar(len(missing), show) as advance:
        for build in _compiled(missing, processes):
            builds.append(build)
            advance(build)
    return Result(tuple(sorted(builds, key=lambda build: -build.seconds)), len(places) - len(missing), processes)


@functools.cache
def wanted(use: Use) -> dict[str, Any]:
    """The kernels that a use takes (:class:`~numbacnn.kernels.jit.Wanted`, or for a GPU :class:`~numbacnn.kernels.cuda.launch.Wanted`), by
    the names of their files in the disk cache."""
    if use.capability is None:
        with jit.postponed() as noted:
            team.compile_all()
            _run(use, "cpu")
        return {kernel.key: kernel for kernel in noted}
    from ..kernels.cuda import launch, runtime

    with runtime.pretended(runtime.Blueprint(use.capability)) as blueprint:
        _run(use, "cuda")
    found = (launch.Wanted(kernel, kinds, use.capability) for kernel, kinds in blueprint.wanted)
    return {kernel.key: kernel for kernel in found}


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


def _compiled(missing: Sequence[tuple[Use, str]], processes: int) -> Iterator[jit.Build]:
    """Compile, here or in processes of their own; gives each kernel when it is done."""
    if processes == 1:
        yield from (_build(*each) for each in missing)
        return
    context = multiprocessing.get_context("spawn")  # a process with threads of Numba's cannot be forked
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            for done in as_completed([pool.submit(_build, *each) for each in missing]):
                yield done.result()
        except BrokenProcessPool:
            raise ConfigError("A process that compiled was ended from outside; with --processes 1 less memory is needed.") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _build(use: Use, key: str) -> jit.Build:
    if use.threads is not None:
        jit.set_num_threads(use.threads)
    return wanted(use)[key].build()


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
