"""The parts of the check, in their order: what targets speak of comes first."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from .sizes import FULL, TINY, Sizes

Item = dict[str, Any]

NO_TIME = "no time was left"
PACKAGES = (
    "numbacnn", "numpy", "numba", "llvmlite", "numba-cuda", "cuda-bindings", "nvidia-nvjitlink", "nvidia-nvvm", "torch", "torchvision",
    "timm",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all processes of a run know: in which sizes it is done, and a folder for what they tell each other."""

    tiny: bool
    folder: Path

    @property
    def sizes(self) -> Sizes:
        """How much is measured."""
        return TINY if self.tiny else FULL

    @property
    def patience(self) -> float:
        """A factor of all limits of time: the simulator may run beside much else."""
        return 5.0 if self.tiny else 1.0


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of results. ``items`` says which there are (what a row is of, without figures), ``rows``, a function that can be pickled,
    measures one in a process of its own; a row with ``ok`` False is a wrong result. ``seconds`` is how long the part may take, ``each`` an
    item, by ``workers`` processes. ``shown`` makes the table of the rows, where that is not the rows themselves."""

    name: str
    items: Callable[[Sizes], list[Item]]
    rows: Callable[[Item, Settings], list[Item]]
    seconds: float
    each: float = 60.0
    workers: int = 1
    shown: Callable[[list[Item]], list[Item]] = list


def environment_rows(item: Item, settings: Settings) -> list[Item]:
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


def wrong(rows: list[Item]) -> list[Item]:
    """Of proofs: the rows that are wrong, and a line on all."""
    bad = [row for row in rows if row.get("ok") is not True]
    largest = {}
    for name in ("error", "logits", "gradients"):
        for precision in dict.fromkeys(row.get("precision") for row in rows):
            values = [row[name] for row in rows if name in row and row.get("precision") == precision]
            if values:
                largest[f"largest of {name}" + (f", {precision}" if precision else "")] = max(values)
    return [*bad, {"rows": len(rows), "right": len(rows) - len(bad), **largest}]


def sized(rows: Callable[[Item, Sizes], list[Item]]) -> Callable[[Item, Settings], list[Item]]:
    """The function ``rows``, of which all that it has to know is in what sizes it is done."""
    return functools.partial(_sized, rows)


def _sized(rows: Callable[[Item, Sizes], list[Item]], item: Item, settings: Settings) -> list[Item]:
    return rows(item, settings.sizes)


def parts() -> list[Part]:
    """All of them."""
    from . import compilation, convolutions, keeping, launches, networks, proofs

    cores = os.cpu_count() or 1
    some = max(1, min(6, cores // 2))  # on the CPU's side they compute on all cores

    return [
        Part("environment", lambda sizes: [{}], environment_rows, 60),
        Part("compilation", compilation.items, compilation.rows, 150, 90, cores, compilation.summary),
        Part("layers", proofs.layer_items, sized(proofs.layer_rows), 60, 30, some, wrong),
        Part("launches", launches.items, sized(launches.rows), 30),
        Part("interchange", keeping.interchange_items, sized(keeping.interchange_rows), 30),
        Part("memory", keeping.leak_items, sized(keeping.leak_rows), 45, 45),
        Part("first networks", networks.first_items, sized(networks.rows), 150),
        Part("accuracy", proofs.accuracy_items, sized(proofs.accuracy_rows), 60, 60, 2),
        Part("architectures", proofs.architecture_items, sized(proofs.architecture_rows), 120, 60, some, wrong),
        Part("convolutions", convolutions.items, sized(convolutions.rows), 150),
        Part("networks", networks.other_items, sized(networks.rows), 180),
    ]
