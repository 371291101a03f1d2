"""Arrays on the device that go from library to library without a copy: DLPack (https://dmlc.github.io/dlpack), and the CUDA array interface
(https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html)."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import numpy as np

from ...errors import DataError
from ..bfloat16 import BF16
from .memory import DeviceArray
from .runtime import Memory, device

CPU, CUDA = 1, 2  # DLPack's kinds of devices
_KINDS = {"i": 0, "u": 1, "f": 2}  # DLPack's codes of NumPy's kinds of numbers,
_BF16 = 4  # and of one that NumPy has not
_NAME, _USED = b"dltensor", b"used_dltensor"


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", _Deleter))

_python = ctypes.pythonapi
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)

_lent: dict[int, Any] = {}  # by address of what was lent: what keeps it alive until the borrower is done


@_Deleter
def _returned(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _unused(capsule: int) -> None:
    """The end of a capsule; where nobody took what is in it, that is returned."""
    if _python.PyCapsule_IsValid(capsule, _NAME):
        pointer = ctypes.pythonapi.PyCapsule_GetPointer(ctypes.cast(capsule, ctypes.py_object), _NAME)
        _lent.pop(pointer, None)


def device_kind() -> tuple[int, int]:
    """DLPack's kind and number of the device; the simulator's memory is the host's."""
    return (CPU, 0) if device().simulated else (CUDA, device().number)


def lent(array: DeviceArray) -> Any:
    """A DLPack capsule of an array, whose memory lives until the borrower is done with it. What was asked of the device is done before."""
    device().synchronize()
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    code = _BF16 if array.dtype == BF16 else _KINDS[array.dtype.kind]
    steps = [int(step) // array.dtype.itemsize for step in np.empty(array.shape, array.dtype).strides] if array.size else [1] * array.ndim
    strides = (ctypes.c_int64 * array.ndim)(*steps)
    managed = _Managed()
    managed.tensor = _Tensor(
        array.pointer, _Device(*device_kind()), array.ndim, _Type(code, 8 * array.dtype.itemsize, 1), shape, strides, 0
    )
    managed.deleter = _returned
    address = ctypes.addressof(managed)
    _lent[address] = (managed, shape, strides, array)
    return _python.PyCapsule_New(address, _NAME, _unused)


class _Borrowed(Memory):
    """Memory of another library, which gets it back when nobody here needs it any more."""

    def __init__(self, pointer: int, nbytes: int, owner: Any, done: Any = None):
        self.nbytes, self.pointer, self.host = nbytes, pointer, None
        self._owner, self._done = owner, done
        if device().simulated:
            self.host = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint8)), (nbytes,))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # see Memory
            device().synchronize()  # the owner knows nothing of our stream, and may write there as soon as it has it back
        if self._done is not None:
            self._done()


def borrowed(foreign: Any) -> DeviceArray:
    """An array of another library (PyTorch, CuPy, JAX), without a copy. Raises DataError for one that is not dense, or not on this
    device."""
    if isinstance(foreign, DeviceArray):
        return foreign
    if hasattr(foreign, "__dlpack__"):
        return _from_dlpack(foreign)
    return _from_interface(foreign)


def _from_dlpack(foreign: Any) -> DeviceArray:
    kind = tuple(map(int, foreign.__dlpack_device__()))
    if kind != device_kind():
        raise DataError(f"An array on DLPack's device {kind} was given; the model runs on {device_kind()}.")
    capsule = foreign.__dlpack__() if kind[0] == CPU else foreign.__dlpack__(stream=device().order)
    address = _python.PyCapsule_GetPointer(capsule, _NAME)
    managed = ctypes.cast(address, ctypes.POINTER(_Managed)).contents
    tensor = managed.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    steps = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    letter = next((letter for letter, code in _KINDS.items() if code == tensor.dtype.code), None)
    if letter is None or tensor.dtype.lanes != 1 or not _dense(shape, steps):
        raise DataError(f"An array of shape {shape} that is not dense, channels last, or not of plain numbers was given.")
    _python.PyCapsule_SetName(capsule, _USED)
    dtype = np.dtype(f"{letter}{tensor.dtype.bits // 8}")
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    def done() -> None:
        if managed.deleter:
            managed.deleter(ctypes.pointer(managed))

    return DeviceArray(_Borrowed(int(tensor.data or 0) + tensor.byte_offset, nbytes, foreign, done), 0, shape, dtype)


def _from_interface(foreign: Any) -> DeviceArray:
    described = foreign.__cuda_array_interface__
    device().finish()  # not all say on which stream they work
    shape, dtype = tuple(described["shape"]), np.dtype(described["typestr"])
    steps = described.get("strides")
    if not _dense(shape, None if steps is None else tuple(step // dtype.itemsize for step in steps)):
        raise DataError(f"An array of shape {shape} that is not dense, channels last, was given.")
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return DeviceArray(_Borrowed(described["data"][0], nbytes, foreign), 0, shape, dtype)


def _dense(shape: tuple[int, ...], steps: tuple[int, ...] | None) -> bool:
    """Whether elements lie one after the other, the last axis fastest."""
    if steps is None or 0 in shape:
        return True
    wanted = 1
    for length, step in zip(reversed(shape), reversed(steps)):
        if length > 1 and step != wanted:
            return False
        wanted *= length
    return True
