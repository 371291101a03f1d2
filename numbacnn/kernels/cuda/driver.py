"""The compiler of device code. No other file imports :mod:`numba.cuda`.

Code is made in two steps, neither of which needs a GPU: Numba turns a kernel into PTX for a compute capability, nvJitLink turns that into
machine code. With ``NUMBA_ENABLE_CUDASIM=1`` kernels run as Python instead (``simulator.py``).

``cuda`` and the types are what kernels are written with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import re
import threading
import types as python_types
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import types
from numba.core import config as numba_config

from ...errors import DeviceError

SIMULATED = bool(numba_config.ENABLE_CUDASIM)
INSTALL = "pip install 'numbacnn[gpu]' installs them"

if SIMULATED:
    from .simulator import Cuda

    _names: dict[str, Any] = {"cuda": Cuda(), "int32": int, "int64": int, "float32": np.float32, "float64": np.float64}
    _names |= {f"uint{bits}": getattr(np, f"uint{bits}") for bits in (8, 16, 32, 64)}  # which wrap around
elif importlib.util.find_spec("numba_cuda") is None:
    raise DeviceError(f"No GPU can be used: Numba's package for CUDA, numba-cuda, is not installed; {INSTALL}.")
else:
    import numba.cuda

    _names = {"cuda": numba.cuda, **{name: getattr(types, name) for name in ("int32", "int64", "float32", "float64")}}
    _names |= {f"uint{bits}": getattr(types, f"uint{bits}") for bits in (8, 16, 32, 64)}

cuda: Any = _names["cuda"]
int32, int64, float32, float64 = (_names[name] for name in ("int32", "int64", "float32", "float64"))
uint8, uint16, uint32, uint64 = (_names[f"uint{bits}"] for bits in (8, 16, 32, 64))

__all__ = ["cuda", "device_function", "float32", "float64", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]

Capability = tuple[int, int]
"""Major and minor compute capability of a GPU, such as ``(9, 0)``."""


def device_function(function: Any) -> Any:
    """Mark a helper that kernels call."""
    return cuda.jit(function, device=True)


@dataclasses.dataclass(frozen=True)
class MachineCode:
    """What a kernel is compiled to: its ``name``, the ``cubin`` that a driver loads, and what nvJitLink says of it: registers per thread,
    bytes of shared memory, bytes that were spilled, and bytes of local arrays that are in memory and not in registers."""

    name: str
    cubin: bytes
    registers: int
    shared: int
    spilled: int
    stack: int


_targets = threading.local()


@contextlib.contextmanager
def _target(capability: Capability) -> Iterator[None]:
    """Within the block, helpers are compiled for that capability; numba-cuda would take the present device's, and fail without one."""
    from numba.cuda import dispatcher

    found = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: python_types.SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = found


@contextlib.contextmanager
def _row_stack() -> Iterator[None]:
    """Within the block, NumPy has its old name of ``vstack``: numba-cuda up to 0.30 asks for it when it compiles for the first time, NumPy
    from 2.5 on lacks it."""
    missing = not hasattr(np, "row_stack")
    if missing:
        np.row_stack = np.vstack  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if missing:
            del np.row_stack  # type: ignore[attr-defined]


_compiling = threading.Lock()


def to_ptx(function: Any, kinds: tuple, capability: Capability, threads: int, blocks: int = 1) -> tuple[str, str]:
    """A kernel's entry point and PTX, for arguments of those Numba types and blocks of at most ``threads`` threads, of which at least
    ``blocks`` shall be resident on a multiprocessor at once."""
    signature = types.void(*kinds)
    with _compiling, _row_stack(), _target(capability):
        bounds = {"launch_bounds": (threads, blocks)} if "launch_bounds" in inspect.signature(cuda.compile).parameters else {}
        ptx, _ = cuda.compile(function, signature, device=False, abi="numba", cc=capability, **bounds)
    found = re.search(r"\.entry\s+([\w$]+)", ptx)
    assert found is not None
    name = re.sub(r"\W", "_", function.__name__)
    return name, ptx.replace(found.group(1), name)


def to_machine_code(name: str, ptx: str, capability: Capability) -> MachineCode:
    """PTX, assembled."""
    from cuda.bindings import nvjitlink

    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-Xptxas=-v", "-verbose"]
    linker = nvjitlink.create(len(options), options)
    try:
        source = ptx.encode()
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, source, len(source), name)
        nvjitlink.complete(linker)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(linker))
        nvjitlink.get_linked_cubin(linker, cubin)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(linker))
        nvjitlink.get_error_log(linker, log)
        raise DeviceError(f"The kernel {name} cannot be assembled: {log.decode(errors='replace').strip()} ({error}).") from error
    finally:
        nvjitlink.destroy(linker)
    text = log.decode(errors="replace")
    patterns = r"Used (\d+) registers", r"(\d+) bytes smem", r"(\d+) bytes spill stores", r"(\d+) bytes stack frame"
    told = (_number(text, pattern) for pattern in patterns)
    return MachineCode(name, bytes(cubin), *told)


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0
