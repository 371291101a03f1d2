"""What a launch costs."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from numbacnn.kernels.cuda import launch, memory, pointwise, runtime

from . import theirs, timing
from .sizes import Sizes

Item = dict[str, Any]


def items(sizes: Sizes) -> list[Item]:
    return [{"kernel": "x += y of 32 numbers"}]


def rows(item: Item, sizes: Sizes) -> list[Item]:
    """Microseconds per launch of a kernel that does next to nothing: called from Python one by one, as a recorded step, within a captured
    graph, and of PyTorch's."""
    x, count = memory.zeros((32,), np.float32), sizes.launches

    def called() -> None:
        for _ in range(count):
            pointwise.add(x, x)

    with launch.record() as steps:
        called()

    def recorded() -> None:
        for step in steps:
            step()

    recorded()
    runtime.device().synchronize()
    works: dict[str, Any] = {"called": called, "recorded": recorded, "graph": runtime.device().captured(recorded)}
    timed = {name: (work, timing.ours) for name, work in works.items()}
    if theirs.there():
        import torch

        y = torch.zeros(32, device=theirs.place())

        def eager() -> None:
            for _ in range(count):
                y.add_(y)

        timed["PyTorch"] = eager, timing.torch
    times = timing.in_turn(timed, sizes)
    return [{"launch": name, "microseconds": 1e3 * statistics.median(values) / count} for name, values in times.items()]
