"""Measuring the ways in which the layers of an inference plan can run, for the fastest to be remembered.

Layers of one kind and shape are measured once, each way on arrays of the real size: rounds in which all ways run in turn, and the median
over the rounds, since machines' speed drifts. Before each run other memory is read, as much as the rest of the network has: a layer
finds its weights in a cache only where it would within the network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..arrays import Arena
from ..layers.base import Methods, Shape
from .build import Node
from .parameters import ParameterStore
from .plan import make_plan
from .run import InferencePlan
from .sections import Section

GAIN = 0.03  # of its time, by which a way must be faster than the default to be chosen: less is noise
LEAST_ROUNDS, MOST_ROUNDS = 3, 100
OTHER_BYTES = 64 << 20  # read between two runs at most: last-level caches are rarely larger
SEED = 0  # of the numbers that layers run on


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found for ``layers`` (by name), which share a kind and a shape.

    ``milliseconds`` are medians of one run by name of the way; empty where there was no time to measure. ``default`` is the way that the
    cost model takes, ``choice`` that which is taken from now on."""

    layers: tuple[str, ...]
    inputs: Shape
    outputs: Shape
    milliseconds: dict[str, float]
    default: str
    choice: str


@dataclasses.dataclass(frozen=True)
class _Group:
    """Nodes that share a choice."""

    nodes: list[Node]
    methods: Methods
    batch: int

    @property
    def flops(self) -> int:
        return sum(node.layer.flops(node.shapes) for node in self.nodes)


class Measurement:
    """Measures the nodes of ``sections``, each for a group of its size, with their parameters in ``store``.

    ``budget`` are seconds for all of it; compiling kernels comes on top. Each shape gets a share of what is left, by its operations; what
    has a choice already (``recall`` gives one for its key) comes after what has none. ``other_bytes`` is the memory of the network."""

    def __init__(
        self, sections: Sequence[Section], store: ParameterStore, threads: int, budget: float, other_bytes: int,
        recall: Callable[[str], str | None],
    ):  # fmt: skip
        self._store, self._threads = store, threads
        self._left = float(budget)
        self._recall = recall
        self._other = np.ones(min(other_bytes, OTHER_BYTES) // 8)  # ones: pages of zeros may all be the same
        self._groups = sorted(self._grouped(sections), key=lambda group: (recall(group.methods.key) is not None, -group.flops))

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[tuple[str, Measured]]:
        """The key of each shape, and what was found."""
        flops = sum(group.flops for group in self._groups)
        for group in self._groups:
            share = self._left * group.flops / max(flops, 1)
            flops -= group.flops
            yield group.methods.key, self._measured(group, share)

    def _grouped(self, sections: Sequence[Section]) -> list[_Group]:
        groups: dict[str, _Group] = {}
        for section in sections:
            for node in section.nodes:
                methods = node.layer.inference_methods(node.shapes, section.group, self._threads, self._store.dtype)
                if methods is not None:
                    groups.setdefault(methods.key, _Group([], methods, section.group)).nodes.append(node)
        return list(groups.values())

    def _measured(self, group: _Group, share: float) -> Measured:
        node, methods = group.nodes[0], group.methods
        times = self._times(group, share) if self._left > 0 else {}
        choice = _choice(times, methods.default) if times else self._recall(methods.key)
        return Measured(
            layers=tuple(node.name for node in group.nodes),
            inputs=node.inputs[0].shape,
            outputs=node.outputs[0].shape,
            milliseconds={name: 1e3 * seconds for name, seconds in times.items()},
            default=methods.default,
            choice=choice if choice in methods.layers else methods.default,
        )

    def _times(self, group: _Group, share: float) -> dict[str, float]:
        """Median seconds of a run by name; none where the time was too short for :data:`LEAST_ROUNDS`."""
        plans = self._plans(group)
        start = time.perf_counter()
        random = np.random.default_rng(SEED)
        given = [random.standard_normal(array.shape).astype(array.dtype) for array in next(iter(plans.values())).inputs]
        for plan in plans.values():
            self._seconds(plan, given)  # packs weights, and takes pages from the system
        found: dict[str, list[float]] = {name: [] for name in plans}
        for done in range(MOST_ROUNDS):
            spent = time.perf_counter() - start
            if spent >= self._left or (spent >= share and done >= LEAST_ROUNDS):
                break
            for name, plan in plans.items():
                found[name].append(self._seconds(plan, given))
        self._left -= time.perf_counter() - start
        if len(found[next(iter(found))]) < LEAST_ROUNDS:
            return {}
        return {name: statistics.median(seconds) for name, seconds in found.items()}

    def _plans(self, group: _Group) -> dict[str, InferencePlan]:
        """A node by itself as a plan, once for each layer in its place; all in one arena."""
        node, layers = group.nodes[0], group.methods.layers
        inputs = list(dict.fromkeys(node.inputs))
        options: Any = {"batch": group.batch, "training": False, "threads": self._threads, "dtype": self._store.dtype}
        plans = {
            name: make_plan([dataclasses.replace(node, layer=layer)], inputs, node.outputs, self._store.specs, **options)
            for name, layer in layers.items()
        }
        arena = Arena(max(plan.arena_bytes for plan in plans.values()))
        return {name: InferencePlan(plan, self._store, arena) for name, plan in plans.items()}

    def _seconds(self, plan: InferencePlan, given: Sequence[np.ndarray]) -> float:
        self._other.max(initial=0)
        for array, numbers in zip(plan.inputs, given, strict=True):
            np.copyto(array, numbers)
        with plan.weights:
            start = time.perf_counter()
            plan.run()
            return time.perf_counter() - start


@contextlib.contextmanager
def progress_bar(total: int, text: str = "measuring layers") -> Iterator[Callable[[], None]]:
    """A bar over so many pieces of work, drawn by rich on standard error; nothing where there are none, or that is no terminal. Gives what
    is called after each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (total and console.is_terminal)) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)


def _choice(times: dict[str, float], default: str) -> str:
    """The fastest, if it is faster than the default by more than what may be noise."""
    fastest = min(times, key=times.__getitem__)
    return fastest if times[fastest] <= (1 - GAIN) * times[default] else default
