"""All kernels of all that follows, compiled on all cores and kept in the disk cache, where the other parts' processes find them."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import numbacnn as nc
from numbacnn.kernels import jit
from numbacnn.kernels.cuda import launch, runtime
from tests.cuda.test_layers import CASES

from . import convolutions, networks, proofs
from .parts import Settings
from .sizes import Layer, Network, Sizes

Item = dict[str, Any]


def items(sizes: Sizes) -> list[Item]:
    """What is prepared: for the GPU, then for the CPU, with which results are compared. The largest come first."""
    if jit.JIT_DISABLED:
        return []
    nets = [{"what": "network", "number": k, "precision": name} for k in range(len(_networks(sizes))) for name in sizes.precisions]
    architectures = [{"what": "architecture", "name": item["architecture"]} for item in proofs.architecture_items(sizes)]
    layers = [{"what": "layer", "name": item["layer"]} for item in proofs.layer_items(sizes)]
    accuracy = [{"what": "accuracy", "name": item["network"]} for item in proofs.accuracy_items(sizes)]
    others = [{"what": "convolution", "number": k} for k in range(len(sizes.layers))]
    on_gpu = [*nets, *others, *accuracy, *layers, *architectures]
    return [{"for": "gpu", **use} for use in on_gpu] + [{"for": "cpu", **use} for use in (*accuracy, *layers, *architectures)]


def rows(item: Item, settings: Settings) -> list[Item]:
    """Compile what it takes and nobody has or is at, and what that took. Processes go through what several of them want in orders of their
    own, and so share it."""
    sizes = settings.sizes
    use = _use(item, sizes)
    began = time.perf_counter()
    precisions = [item["precision"]] if "precision" in item else sizes.precisions
    wanted = _for_gpu(use, precisions) if item["for"] == "gpu" else _for_cpu(use)
    random.Random(str(item)).shuffle(wanted)
    planned = time.perf_counter() - began
    builds, in_memory = [], []
    for kernel in wanted:
        if kernel.kept or not _claimed(settings.folder, kernel.key):
            continue
        builds.append(kernel.build())
        if item["for"] == "gpu":
            code = kernel.kernel.machine_code(kernel.kinds, kernel.capability)
            if code.spilled or code.stack:
                in_memory.append(f"{code.name} {kernel.kinds}: {code.spilled} bytes spilled, {code.stack} of arrays")
    slowest = max(builds, key=lambda build: build.seconds, default=None)
    return [{
        "kernels": len(builds), "planning s": planned, "compiling s": sum(build.seconds for build in builds),
        "slowest": "" if slowest is None else slowest.name, "its s": 0.0 if slowest is None else slowest.seconds,
        "in local memory": "; ".join(in_memory), "ok": not in_memory,
    }]  # fmt: skip


def summary(found: list[Item]) -> list[Item]:
    """The rows, added up."""
    lines = []
    for device in dict.fromkeys(row["for"] for row in found):
        own = [row for row in found if row["for"] == device and "kernels" in row]
        slowest = max(own, key=lambda row: row["its s"], default={"slowest": "", "its s": 0.0})
        sums: dict[str, Any] = {name: sum(row[name] for row in own) for name in ("kernels", "planning s", "compiling s")}
        lines.append({"for": device, **sums, "slowest": slowest["slowest"], "its s": slowest["its s"]})
    return lines


def _networks(sizes: Sizes) -> tuple[Network, ...]:
    return sizes.networks + sizes.small_networks


def _use(item: Item, sizes: Sizes) -> Callable[[str, str], Any]:
    """What runs it on a device in a precision."""
    if item["what"] == "network":
        return lambda device, precision: _network(_networks(sizes)[item["number"]], precision)
    if item["what"] == "convolution":
        return lambda device, precision: _convolution(sizes.layers[item["number"]], precision)
    if item["what"] == "layer":
        return lambda device, precision: [proofs.layer_results(item["name"], case, device) for case in CASES[item["name"]]]
    if item["what"] == "architecture":
        return lambda device, precision: proofs.architecture_results(item["name"], device, precision, sizes)
    briefly = dataclasses.replace(sizes, epochs=1, samples=sizes.batch)
    return lambda device, precision: proofs.learned(item["name"], dict(sizes.learners)[item["name"]], device, precision, briefly)


def _network(network: Network, precision: str) -> None:
    for mode in ("training", "inference"):
        if getattr(network, mode):
            networks.ours(network, mode, precision)


def _convolution(layer: Layer, precision: str) -> None:
    convolutions.ours(layer, precision)


def _for_gpu(use: Callable[[str, str], Any], precisions: Iterable[str]) -> list[Any]:
    """The kernels that a use takes there."""
    capability = runtime.device().capability
    with runtime.pretended(runtime.Blueprint(capability)) as blueprint:
        for precision in precisions:
            with contextlib.suppress(nc.DivergenceError), np.errstate(all="ignore"):  # nothing runs, so that losses are anything
                use("cuda", precision)
    return [launch.Wanted(kernel, kinds, capability) for kernel, kinds in blueprint.wanted]


def _for_cpu(use: Callable[[str, str], Any]) -> list[Any]:
    with jit.postponed() as noted, contextlib.suppress(nc.DivergenceError), np.errstate(all="ignore"):
        use("cpu", "float32")
    return list(noted)


def _claimed(folder: Path, key: str) -> bool:
    """Whether this process is the first that wants to compile it."""
    try:
        (folder / key.replace("/", "_")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
