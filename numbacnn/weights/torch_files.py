"""PyTorch checkpoints, read without PyTorch and without running anything that they hold.

Two formats are read. Since PyTorch 1.6 a checkpoint is a zip archive: in one folder, ``data.pkl`` is a pickle of the containers, and
``data/0``, ``data/1``... are the bytes of the *storages* that the tensors are views of. Before, it was one file: pickles of a magic number,
of the protocol, of the machine and of the containers, then the storages one after the other, each behind its length.

The pickles are read by :mod:`numbacnn.weights.pickles`, which knows the few names below and nothing else.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError
from .pickles import NAME_LENGTH, Global, RefusedError, Unpickler, checked_key

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".th", ".tar")
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model")
"""Where training scripts keep a module's state dict, the most wanted first: averaged weights are those that a run is judged by."""

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DIMENSIONS = 32
"""How many a tensor may have."""

STORAGES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "c8",
    "torch.ComplexDoubleStorage": "c16",
}
"""Types of numbers, as NumPy writes them, by the class of a storage."""
_BITS = {"bfloat16": "u2", "bool": "u1"}  # in which numbers that NumPy has not, or does not check, are read
_DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128"


@dataclasses.dataclass(frozen=True)
class Storage:
    """``count`` numbers of a type (a value of :data:`STORAGES`), ``start`` numbers into the ``whole`` that the file has under ``key``."""

    key: str
    type: str
    whole: int
    start: int
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name from the state dict in a checkpoint, which may lie in the usual wrappers (:data:`WRAPPERS`). bfloat16 comes as
    float32, the other types as NumPy's. Tensors that share memory share it still; none can be written to.

    Raises WeightsError, in a sentence, for a file that is damaged, of another kind, or asks for more than tensors and containers."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
        if start.startswith(b"PK"):
            return _read_zip(path)
        if start[257:262] == b"ustar":
            raise RefusedError("is in PyTorch's tar format of before 2017; load and save it once with PyTorch to have it in the newer one")
        return _read_legacy(path.read_bytes())
    except RefusedError as problem:
        raise WeightsError(f"{str(path)!r} {problem}.") from problem
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error


# The two formats -----------------------------------------------------------------------------------------------------


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            records = _Records(archive, path.stat().st_size)
            pickle = _Pickle(records.read("data.pkl"))
            tensors = state_dict(pickle.load())
            order = records.byte_order()
            contents = {key: records.read(f"data/{key}") for key in {tensor.storage.key for tensor in tensors.values()}}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise RefusedError(f"is not a complete zip archive, as PyTorch's files are: {str(error).rstrip('.')}") from error
    except (ValueError, RuntimeError, LookupError, OverflowError, MemoryError) as error:  # zipfile's, for nonsense in its tables
        raise RefusedError(f"is damaged: its archive cannot be followed ({type(error).__name__})") from error
    return _arrays(tensors, contents, order)


class _Records:
    """The files in a checkpoint's archive, by their names in its one folder. PyTorch stores them as they are, so nothing unpacks to more
    than there is; and as tables may list the same bytes many times, what is read in all is counted."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self._archive, self._left, self._names = archive, size, set(archive.namelist())
        pickles = [name for name in self._names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise RefusedError("is a zip archive but no PyTorch checkpoint: these have data.pkl in their one folder")
        self._folder = pickles[0].removesuffix("data.pkl")
        if "constants.pkl" in self or any(name.startswith(f"{self._folder}code/") for name in self._names):
            raise RefusedError(
                "is a TorchScript archive, which is a program; torch.save(torch.jit.load(path).state_dict(), ...) makes data of it"
            )

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._names

    def byte_order(self) -> str:
        """Of all numbers, as NumPy writes it."""
        named = self.read("byteorder") if "byteorder" in self else b"little"
        if named not in (b"little", b"big"):
            raise RefusedError("is damaged: its byte order is neither little nor big")
        return "<" if named == b"little" else ">"

    def read(self, name: str) -> bytes:
        if name not in self:
            raise RefusedError(f"is damaged: its archive lacks {name[:NAME_LENGTH]!r}")
        record = self._archive.getinfo(self._folder + name)
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise RefusedError(f"has {name[:NAME_LENGTH]!r} compressed, which PyTorch never does")
        self._left -= record.file_size
        if self._left < 0:
            raise RefusedError("is damaged: its archive lists more bytes than it has")
        return self._archive.read(record)


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    if not data.startswith(b"\x80"):
        raise RefusedError("is not a PyTorch checkpoint, which is a zip archive or starts with a pickle")
    pickle = _Pickle(data)
    if pickle.load() != MAGIC:
        raise RefusedError("is not a PyTorch checkpoint: it does not start with PyTorch's magic number")
    if pickle.load() != PROTOCOL:
        raise RefusedError(f"is not in PyTorch's protocol {PROTOCOL}")
    pickle.load()  # about the machine that wrote it; the storages are little-endian on all of them
    tensors = state_dict(pickle.load())
    return _arrays(tensors, _legacy_contents(pickle), "<")


def _legacy_contents(pickle: _Pickle) -> dict[str, bytes]:
    """The bytes of the storages, which stand behind a list of their keys."""
    keys = pickle.load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedError("is damaged: its list of storages cannot be read")
    contents: dict[str, bytes] = {}
    for key in keys:
        storage = pickle.storages.get(key)
        if storage is None or key in contents or pickle.number("<q") != storage.whole:
            raise RefusedError("is damaged: its storages are not those that its tensors are views of")
        contents[key] = pickle.take(storage.whole * _itemsize(storage.type))
    return contents


# Pickles of tensors --------------------------------------------------------------------------------------------------


class _Pickle(Unpickler):
    """Pickles of tensors and containers. ``storages`` has those that were referred to, by key."""

    def __init__(self, data: bytes):
        self.storages: dict[str, Storage] = {}
        self._pairs_left = len(data)
        builders: dict[str, Callable[..., Any] | None] = {
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch.Size": _whole_numbers,
            "torch.device": lambda *place: None,
            "collections.OrderedDict": self._ordered,
            "collections.defaultdict": lambda factory=None: {},
            "collections.Counter": lambda counts: counts,
        }
        words = [*STORAGES, *(f"torch.{name}" for name in _DTYPES.split())]
        words += [f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "list", "int", "float")]
        super().__init__(data, builders | dict.fromkeys(words), self._storage, (dict, Tensor))

    def _ordered(self, pairs: Any = ()) -> dict[Any, Any]:
        """An OrderedDict; Python 2 gives its pairs at once. One list can be given many times, so all pairs are counted."""
        self._pairs_left -= len(pairs)
        if self._pairs_left < 0:
            raise RefusedError("is damaged: its containers hold more than the file can")
        return {checked_key(key): value for key, value in pairs}

    def _storage(self, reference: Any) -> Storage:
        """What stands outside the pickle: ``("storage", type, key, device, count)``, in the older format followed by None or by a view
        ``(key, start, count)`` of it."""
        match reference:
            case ("storage", Global(kind), str(key), _, int(whole), *view) if kind in STORAGES and whole >= 0 and len(view) < 2:
                pass
            case _:
                raise RefusedError("refers to something other than numbers in a storage; nothing was run")
        storage = Storage(key, STORAGES[kind], whole, 0, whole)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedError("is damaged: it speaks of one storage as of two types or lengths")
        match view:
            case [] | [None]:
                return storage
            case [(_, int(start), int(count))] if 0 <= start <= start + count <= whole:
                return dataclasses.replace(storage, start=start, count=count)
            case _:
                raise RefusedError("is damaged: a view of a storage lies outside of it")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    size, stride = _whole_numbers(size), _whole_numbers(stride)
    if not isinstance(storage, Storage) or not isinstance(offset, int) or len(size) != len(stride):
        raise RefusedError("is damaged: a tensor is not a view of a storage")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if offset < 0 or (0 not in size and last >= storage.count):
        raise RefusedError(f"is damaged: a tensor of shape {size} does not lie within its storage of {storage.count} numbers")
    return Tensor(storage, offset, size, stride)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise RefusedError("is damaged: a parameter is no tensor")
    return tensor


def _whole_numbers(numbers: Any) -> tuple[int, ...]:
    """A shape, or strides."""
    if not isinstance(numbers, tuple | list) or len(numbers) > DIMENSIONS or not all(_is_length(number) for number in numbers):
        raise RefusedError("is damaged: a tensor's shape or strides are not a few whole numbers")
    return tuple(numbers)


def _is_length(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 48


# State dicts ---------------------------------------------------------------------------------------------------------


def state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors by name in what a checkpoint holds. Raises RefusedError where there are none, or several such dicts."""
    if not isinstance(content, dict):
        raise RefusedError(f"holds no tensors by name, only a {type(content).__name__}")
    inner = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, dict) and _tensors(value)}
    for key in WRAPPERS:
        if key in inner:
            return _tensors(inner[key])
    if _tensors(content):
        return _tensors(content)
    if len(inner) == 1:
        return _tensors(*inner.values())
    keys = ", ".join(repr(str(key)[:NAME_LENGTH]) for key in list(inner or content)[:4])
    raise RefusedError(f"holds {'several dicts of tensors' if inner else 'no tensors by name'}, under {keys or 'no keys'}")


def _tensors(mapping: dict[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in mapping.items() if isinstance(name, str) and isinstance(value, Tensor)}


# Numbers -------------------------------------------------------------------------------------------------------------


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 from the 16 bits of bfloat16, which are its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _arrays(tensors: Mapping[str, Tensor], contents: Mapping[str, bytes], order: str) -> dict[str, np.ndarray]:
    numbers = {key: _numbers(storage, contents, order) for key, storage in {t.storage.key: t.storage for t in tensors.values()}.items()}
    return {name: _view(tensor, numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def _numbers(storage: Storage, contents: Mapping[str, bytes], order: str) -> np.ndarray:
    """All numbers under the storage's key."""
    content = contents.get(storage.key, b"")
    if len(content) < storage.whole * _itemsize(storage.type):
        raise RefusedError(f"is truncated or damaged: a storage of {storage.whole} numbers is not all there")
    numbers = np.frombuffer(content, order + _BITS.get(storage.type, storage.type), storage.whole)
    if storage.type == "bfloat16":
        return from_bfloat16(numbers)
    if storage.type == "bool":
        return numbers != 0
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def _view(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    start = tensor.storage.start + tensor.offset
    stride = tuple(step * numbers.itemsize for step in tensor.stride)
    try:
        return np.lib.stride_tricks.as_strided(numbers[start:], tensor.size, stride, writeable=False)
    except ValueError as error:  # of NumPy, for more elements than memory has addresses
        raise RefusedError(f"is damaged: a tensor has the shape {tensor.size}") from error


def _itemsize(kind: str) -> int:
    return np.dtype(_BITS.get(kind, kind)).itemsize
