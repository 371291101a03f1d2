"""CIFAR-10 and CIFAR-100, from their binary version (no pickle is read)."""

from __future__ import annotations

import dataclasses
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from numbacnn.data.dataset import ArrayDataset
from numbacnn.data.files import RemoteFile, download, missing, search_folders
from numbacnn.errors import DataError

_SIDE, _CHANNELS = 32, 3
_PIXELS = _SIDE * _SIDE * _CHANNELS
_URL = "https://www.cs.toronto.edu/~kriz"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the archive of one data set holds. ``labels`` is the number of bytes in front of an image; the last is the class."""

    dataset: str
    archive: RemoteFile
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    classes: int
    labels: int


# SHA-256 as tensorflow_datasets/url_checksums/{cifar10,cifar100}.txt publish them.
CIFAR10 = Layout(
    "cifar10",
    RemoteFile(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        (f"{_URL}/cifar-10-binary.tar.gz",),
    ),
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    names="batches.meta.txt",
    classes=10,
    labels=1,
)
CIFAR100 = Layout(
    "cifar100",
    RemoteFile(
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        (f"{_URL}/cifar-100-binary.tar.gz",),
    ),
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    names="fine_label_names.txt",
    classes=100,
    labels=2,
)


def cifar10(split: str = "train", folder: str | os.PathLike | None = None) -> ArrayDataset:
    """CIFAR-10: 50,000 training and 10,000 test photographs, ``(32, 32, 3)``, 10 classes. A. Krizhevsky, "Learning Multiple Layers of
    Features from Tiny Images", 2009.

    The archive ``cifar-10-binary.tar.gz``, or the folder ``cifar-10-batches-bin`` that it unpacks to, is searched in ``folder``, or else
    where :func:`numbacnn.data.files.search_folders` says, or else downloaded."""
    return _open(CIFAR10, split, folder)


def cifar100(split: str = "train", folder: str | os.PathLike | None = None) -> ArrayDataset:
    """CIFAR-100: 50,000 training and 10,000 test photographs, ``(32, 32, 3)``, 100 (fine) classes. A. Krizhevsky, "Learning Multiple
    Layers of Features from Tiny Images", 2009.

    The archive ``cifar-100-binary.tar.gz``, or the folder ``cifar-100-binary`` that it unpacks to, is searched in ``folder``, or else
    where :func:`numbacnn.data.files.search_folders` says, or else downloaded."""
    return _open(CIFAR100, split, folder)


def _open(layout: Layout, split: str, folder: str | os.PathLike | None) -> ArrayDataset:
    wanted = layout.test if split == "test" else layout.train
    source = _find(layout, search_folders(layout.dataset, folder), (*wanted, layout.names))
    if source is None and folder is not None:
        raise missing(layout.dataset, [layout.archive], folder)
    if source is None:
        source = download(layout.dataset, [layout.archive]) / layout.archive.name
    *parts, names = _read_all(layout, source, (*wanted, layout.names))
    images, labels = zip(*(_records(layout, source, name, part) for name, part in zip(wanted, parts, strict=True)), strict=True)
    return ArrayDataset(np.concatenate(images), np.concatenate(labels), _class_names(layout, source, names))


def _find(layout: Layout, folders: Sequence[Path], wanted: tuple[str, ...]) -> Path | None:
    """The unpacked folder, or the archive; unpacked is faster to read."""
    for folder in folders:
        for unpacked in (folder / layout.folder, folder):
            if all((unpacked / name).is_file() for name in wanted):
                return unpacked
        if (folder / layout.archive.name).is_file():
            return folder / layout.archive.name
    return None


def _read_all(layout: Layout, source: Path, wanted: tuple[str, ...]) -> list[bytes]:
    try:
        if source.is_dir():
            return [(source / name).read_bytes() for name in wanted]
        found: dict[str, bytes] = {}
        with tarfile.open(source, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("./").removeprefix(f"{layout.folder}/")
                content = archive.extractfile(member) if name in wanted else None
                if content is not None:
                    found[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} is truncated or damaged: {str(error).rstrip('.')}.") from error
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise DataError(f"{source} does not hold {layout.folder}/{lacking[0]}.")
    return [found[name] for name in wanted]


def _records(layout: Layout, source: Path, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 32, 32, 3)`` and labels of one file: records of label bytes and the three colour planes."""
    length = layout.labels + _PIXELS
    if not data or len(data) % length:
        raise DataError(f"{source}: {name} has {len(data)} bytes, which is no multiple of a record's {length}.")
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    planes = records[:, layout.labels :].reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, layout.labels - 1]


def _class_names(layout: Layout, source: Path, data: bytes) -> list[str]:
    names = data.decode("utf-8", "replace").split()
    if len(names) != layout.classes:
        raise DataError(f"{source}: {layout.names} has {len(names)} class names; {layout.classes} are expected.")
    return names
