"""PyTorch's files made by hand, byte by byte, the honest ones and others: no PyTorch is needed, and nothing has to be importable."""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "float64": "Double", "float32": "Float", "float16": "Half", "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char",
    "uint8": "Byte", "bool": "Bool",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Name:
    """A Python object, by module and name."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """What a pickle calls, and with what."""

    function: Any
    arguments: tuple


@dataclasses.dataclass(frozen=True)
class Outside:
    """A persistent reference."""

    reference: Any


@dataclasses.dataclass(frozen=True)
class Raw:
    """Instructions as they are."""

    code: bytes


def pickled(value: Any) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + instructions(value) + b"."


def instructions(value: Any) -> bytes:
    """What pushes ``value``."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            size = value.bit_length() // 8 + 1
            return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(instructions, value)) + b"t"
        case list():
            return b"](" + b"".join(map(instructions, value)) + b"e"
        case dict():
            start = instructions(Call(Name("collections", "OrderedDict"), ())) if isinstance(value, OrderedDict) else b"}"
            return start + b"(" + b"".join(instructions(key) + instructions(item) for key, item in value.items()) + b"u"
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return instructions(value.function) + instructions(value.arguments) + b"R"
        case Outside():
            return instructions(value.reference) + b"Q"
        case Raw():
            return value.code
    raise TypeError(value)


def storage(key: str, kind: str, count: int, *view: Any) -> Outside:
    """A reference to ``count`` numbers of a kind (``"Float"``)."""
    return Outside(("storage", Name("torch", f"{kind}Storage"), key, "cpu", count, *view))


def tensor(place: Any, size: tuple, stride: tuple | None = None, offset: int = 0) -> Call:
    """A view of a storage, of contiguous numbers unless ``stride`` says otherwise."""
    if stride is None:
        stride = tuple(int(np.prod(size[axis + 1 :], dtype=np.int64)) for axis in range(len(size)))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (place, offset, size, stride, False, OrderedDict()))


def zipped(
    content: Any, storages: dict[str, np.ndarray], folder: str = "archive", compression: int = zipfile.ZIP_STORED, **more: bytes
) -> bytes:
    """The format since 1.6. ``content`` is an object, or the bytes of a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", content if isinstance(content, bytes) else pickled(content))
        for name, data in {"byteorder": b"little", **more}.items():
            archive.writestr(f"{folder}/{name}", data)
        for key, data in storages.items():
            archive.writestr(f"{folder}/data/{key}", data.tobytes())
    return file.getvalue()


def legacy(content: Any, storages: dict[str, np.ndarray], magic: int = MAGIC, protocol: int = 1001) -> bytes:
    """The format before. ``content`` is an object, or the bytes of a pickle."""
    start = b"".join(map(pickled, (magic, protocol, {"little_endian": True})))
    body = content if isinstance(content, bytes) else pickled(content)
    end = b"".join(struct.pack("<q", data.size) + data.tobytes() for data in storages.values())
    return start + body + pickled(list(storages)) + end


def checkpoint(arrays: dict[str, np.ndarray], form: Any = zipped) -> bytes:
    """A state dict of arrays as PyTorch writes it."""
    items = enumerate(arrays.items())
    content = OrderedDict((name, tensor(storage(str(key), STORAGES[str(a.dtype)], a.size), a.shape)) for key, (name, a) in items)
    return form(content, {str(key): array for key, array in enumerate(arrays.values())})
