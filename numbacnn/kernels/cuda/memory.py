"""Arrays on the device: dense, and views of whole memory; copies to and from the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bfloat16 import BF16, rounded, widened
from . import launch
from .driver import cuda, int32
from .ptx import load4, store4
from .runtime import Memory, device


class DeviceArray:
    """A C-contiguous array on the device, ``offset`` bytes into its ``memory``.

    It has NumPy's ``shape``, ``ndim``, ``size``, ``dtype``, ``nbytes``, ``reshape`` and slices of its first axis; other work is up to
    kernels. Copies within a recording are recorded. CuPy, PyTorch and others take it as it is (``__cuda_array_interface__``).

    Elements of type :data:`~numbacnn.kernels.bfloat16.BF16` are float32 to kernels, and on the host: they are rounded when they are
    stored.
    """

    def __init__(self, memory: Memory, offset: int, shape: Sequence[int], dtype: Any):
        self.memory, self.offset, self.shape, self.dtype = memory, offset, tuple(shape), np.dtype(dtype)
        self.size = math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def pointer(self) -> int:
        """Address on the device."""
        return self.memory.pointer + self.offset

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self.dtype} array of shape {self.shape} on {device().name}>"

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same elements in another shape; one of its numbers may be -1."""
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], Sequence) else tuple(shape)
        if -1 in wanted:
            rest = -math.prod(wanted)
            wanted = tuple(self.size // max(rest, 1) if length == -1 else length for length in wanted)
        if math.prod(wanted) != self.size:
            raise ValueError(f"an array of shape {self.shape} cannot take the shape {wanted}")
        return DeviceArray(self.memory, self.offset, wanted, self.dtype)

    def __getitem__(self, part: slice) -> DeviceArray:
        """Some neighbours along the first axis."""
        start, stop, step = part.indices(len(self))
        assert step == 1
        stop = max(start, stop)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(self.memory, self.offset + start * row, (stop - start, *self.shape[1:]), self.dtype)

    def upload(self, values: np.ndarray) -> None:
        """Copy from the host, at once."""
        values = rounded(values) if self.dtype == BF16 else np.ascontiguousarray(values, self.dtype)
        assert values.size == self.size
        device().upload(self.memory, self.offset, values)
        device().synchronize()

    def download(self, into: np.ndarray | None = None) -> np.ndarray:
        """A copy on the host."""
        if self.dtype == BF16:
            found = widened(self._downloaded(np.empty(self.shape, np.uint16)))
            if into is None:
                return found
            into[...] = found
            return into
        return self._downloaded(np.empty(self.shape, self.dtype) if into is None else into)

    def _downloaded(self, into: np.ndarray) -> np.ndarray:
        device().download(self.memory, self.offset, into)
        device().synchronize()
        return into

    def copy_from(self, source: DeviceArray) -> None:
        """Take over the elements of another array of as many."""
        if self.dtype != source.dtype:
            blocks, fours = cut_in_fours(source, self)
            _convert(blocks, source, self, fours, self.size)
            return
        launch.perform(launch.Copy(source.memory, source.offset, self.memory, self.offset, self.nbytes))

    def clear(self) -> None:
        """Fill with zeros."""
        launch.perform(launch.Clear(self.memory, self.offset, self.nbytes))

    @property
    def host(self) -> np.ndarray:
        """Simulated: the elements, flat; of bfloat16 the bits."""
        assert self.memory.host is not None
        return self.memory.host[self.offset : self.offset + self.nbytes].view(np.uint16 if self.dtype == BF16 else self.dtype)

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        from .interchange import lent

        return lent(self)

    def __dlpack_device__(self) -> tuple[int, int]:
        from .interchange import device_kind

        return device_kind()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype == BF16:
            raise AttributeError("The CUDA array interface has no name for bfloat16; DLPack has.")
        device().synchronize()  # PyTorch, for one, takes no notice of a stream
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": None,  # what somebody borrows is done
        }


def cut_in_fours(*arrays: DeviceArray) -> tuple[int, int]:
    """``(blocks, fours)`` for a kernel over arrays of one size: threads before number ``fours`` take four neighbours at once, as long as
    there are four, thread ``t`` behind them element ``t + 3 * fours``. There are no fours where an array begins at no multiple of them."""
    count = arrays[0].size
    fours = 0 if any(array.pointer % (4 * array.dtype.itemsize) for array in arrays) else count // 4
    return launch.blocks_for(count - 3 * fours), fours


@launch.kernel
def _convert(source, target, fours, count):
    thread = int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)
    if thread < fours:
        store4(target, int32(thread * 4), load4(source, int32(thread * 4)))
    elif thread + 3 * fours < count:
        target[thread + 3 * fours] = source[thread + 3 * fours]


def empty(shape: Sequence[int], dtype: Any) -> DeviceArray:
    """A new array, uninitialised."""
    return DeviceArray(Memory(math.prod(shape) * np.dtype(dtype).itemsize), 0, shape, dtype)


def zeros(shape: Sequence[int], dtype: Any) -> DeviceArray:
    """A new array of zeros."""
    found = empty(shape, dtype)
    device().clear(found.memory, 0, found.nbytes)
    return found


def on_device(values: np.ndarray) -> DeviceArray:
    """A copy of an array of the host."""
    found = empty(values.shape, values.dtype)
    found.upload(values)
    return found


class DeviceArena:
    """One piece of memory, and arrays at given offsets of it (compare :class:`numbacnn.arrays.Arena`)."""

    def __init__(self, nbytes: int):
        self.memory = Memory(nbytes)

    def view(self, offset: int, shape: Sequence[int], dtype: Any) -> DeviceArray:
        """The array of ``shape`` that starts ``offset`` bytes into the arena."""
        return DeviceArray(self.memory, offset, shape, dtype)
