"""`numbacnn doctor`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import click

from ..errors import DeviceError
from . import options
from .cache import cache_state

PACKAGES = ("numbacnn", "numpy", "numba", "llvmlite", "pluggy", "click", "rich", "safetensors", "pillow", "numba-cuda")
FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512bf16", "neon", "sve")


@click.command(epilog=options.examples("numbacnn doctor", "numbacnn doctor --device cuda", "numbacnn doctor --json"))
@options.machine
@options.as_json
def command(threads: int | None, device: str, as_json: bool) -> None:
    """Show what numbacnn finds on this machine: versions, CPU, threads, cache folder, GPU. With --device cuda a machine whose GPU cannot be
    used is an error."""
    options.use(threads, device)
    findings = examine()
    if as_json:
        options.print_json(findings)
        return
    width = max(map(len, findings))
    for name, value in findings.items():
        click.echo(f"{name.replace('_', ' '):{width}}  {_shown(value)}")


def examine() -> dict[str, Any]:
    """Findings by name. Loads Numba."""
    from llvmlite import binding

    from .. import simd
    from ..kernels import jit

    features = binding.get_host_cpu_features()
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": binding.get_host_cpu_name(),
        "cpu_features": [name for name in FEATURES if features.get(name)],
        "vector_width": f"{simd.VECTOR_BITS} bits, {simd.LANES} float32 numbers",
        "threads": jit.num_threads(),
        "jit": "off (NUMBA_DISABLE_JIT)" if jit.JIT_DISABLED else "on",
        "cache": cache_state(),
        "gpu": _gpu(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpu() -> str:
    """What there is, or why none can be used."""
    try:
        from ..kernels.cuda import runtime

        device = runtime.device()
    except DeviceError as error:
        return str(error)
    free, total = device.memory()
    major, minor = device.capability
    return f"{device.name}, compute capability {major}.{minor}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "writable" in value:
        state = "writable" if value["writable"] else "not writable: every process compiles what is not there"
        return f"{value['folder']} ({value['kernels']} kernels, {value['bytes'] / 2**20:.1f} MiB, {state})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
