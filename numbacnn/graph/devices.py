"""Where a plan runs: what differs between the host and a GPU, as far as plans are concerned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import arrays, kernels
from ..errors import ConfigError

DEVICES = ("cpu", "cuda")
PRECISIONS = ("float32", "tf32", "bf16")
"""Of products on a GPU: float32, or on tensor cores numbers rounded to 10 bits of mantissa (tf32) or to 7 (bf16), added up in float32. With
bf16, activations and their gradients are stored so too."""
TENSOR_CORES = 8, 0  # compute capability from which on a GPU has them for these
CUDA_IN_DLPACK = 2  # DLPack's number of this kind of device


class Host:
    """The CPU, whose arrays are NumPy's."""

    name = "cpu"
    plan_bytes = 1 << 31  # of the arrays of all plans that a model keeps, the newest apart

    def arena(self, nbytes: int) -> Any:
        """Memory for the arrays of a plan."""
        return arrays.Arena(nbytes)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """A new array, uninitialised."""
        return arrays.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Any:
        """A new array of zeros."""
        return arrays.zeros(shape, dtype)

    def counterpart(self, array: np.ndarray) -> Any:
        """The array on the device to which :meth:`upload` copies a small array of the host."""
        return array

    def upload(self, values: np.ndarray, into: Any) -> None:
        """Fill an array with values of the host."""
        if values is not into:
            np.copyto(into, values, casting="unsafe")

    def copies(self, found: Iterable[Any]) -> list[np.ndarray]:
        """Copies of arrays, on the host."""
        return [array.copy() for array in found]

    def clear(self, array: Any) -> None:
        """Fill an array with zeros."""
        array.fill(0)

    def record(self, threads: int | None = None) -> contextlib.AbstractContextManager[list]:
        """Within the block, what is launched is collected."""
        return kernels.jit.record(threads)

    def program(self, steps: Sequence[tuple]) -> Sequence[tuple]:
        """What was collected, made ready to be run again and again."""
        return kernels.program.Program(steps)

    def run(self, steps: Sequence[tuple]) -> None:
        """Run what was collected."""
        kernels.program.run(steps)

    def copy(self, source: Any, target: Any) -> None:
        """``target = source``."""
        kernels.rearrange.copy(source, target)

    def add(self, source: Any, target: Any) -> None:
        """``target += source``."""
        kernels.merge.add(target, source, target)


class Cuda:
    """The first GPU, through numba.cuda. Raises DeviceError where there is none, with the reason."""

    name = "cuda"
    capability: tuple[int, int]

    def __init__(self) -> None:
        from ..kernels.cuda import launch, memory, pointwise, runtime

        self._gpu = runtime.device()
        self.capability = self._gpu.capability
        self._launch, self._memory, self._pointwise = launch, memory, pointwise

    @property
    def plan_bytes(self) -> int:
        """Of the arrays of all plans that a model keeps here, the newest apart: it costs more than on the host to make them again."""
        _, total = self._gpu.memory()
        return total // 2

    def arena(self, nbytes: int) -> Any:
        return self._memory.DeviceArena(nbytes)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        return self._memory.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Any:
        return self._memory.zeros(shape, dtype)

    def counterpart(self, array: np.ndarray) -> Any:
        return self._memory.on_device(array)

    def upload(self, values: Any, into: Any) -> None:
        if isinstance(values, np.ndarray):
            into.upload(values)
        else:
            into.copy_from(values)

    def download(self, array: Any, into: Any) -> None:
        """Copy an array to the host, or to another one on the device."""
        if isinstance(into, np.ndarray):
            array.download(into)
        else:
            into.copy_from(array)

    def copies(self, found: Iterable[Any]) -> list[np.ndarray]:
        return [array.download() for array in found]

    def clear(self, array: Any) -> None:
        array.clear()

    @contextlib.contextmanager
    def record(self, threads: int | None = None) -> Any:
        with self._launch.record() as launches:
            steps: list[tuple] = []
            yield steps
            steps += [(launch, ()) for launch in launches]

    def program(self, steps: Sequence[tuple]) -> Sequence[tuple]:
        return steps

    def run(self, steps: Sequence[tuple]) -> None:
        for step, arguments in steps:
            step(*arguments)

    def copy(self, source: Any, target: Any) -> None:
        target.copy_from(source)

    def add(self, source: Any, target: Any) -> None:
        self._pointwise.add(source, target)

    def scale(self, array: Any, factor: float) -> None:
        """``array *= factor``."""
        self._pointwise.scale(array, factor)


def checked_precision(precision: Any, device: Any) -> str:
    """One of :data:`PRECISIONS` that the device has. Raises ConfigError."""
    if precision not in PRECISIONS:
        raise ConfigError(f"{precision!r} was given as a precision; it is one of {', '.join(map(repr, PRECISIONS))}.")
    if precision != "float32" and isinstance(device, Host):
        raise ConfigError(f"precision={precision!r} was given for the CPU, which computes in float32: it is for model.to('cuda').")
    if precision != "float32" and device.capability < TENSOR_CORES:
        raise ConfigError(f"precision={precision!r} needs a GPU of compute capability 8.0; this one has {device.capability}.")
    return precision


def stored_between(precision: str) -> np.dtype | None:
    """The data type of what plans in that precision keep between their inputs and outputs; None: the model's working type."""
    return kernels.bfloat16.BF16 if precision == "bf16" else None


def is_on_gpu(array: Any) -> bool:
    """Whether an array is one of a GPU, of whatever library."""
    if hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) == CUDA_IN_DLPACK:
        return True
    return hasattr(array, "__cuda_array_interface__")


HOST = Host()


def device_named(name: Any) -> Host | Cuda:
    """The device that ``"cpu"`` or ``"cuda"`` means. Raises ConfigError for another name, and DeviceError where it cannot be used."""
    if name not in DEVICES:
        raise ConfigError(f"{name!r} was given as a device; it is 'cpu' or 'cuda'.")
    return HOST if name == "cpu" else Cuda()
