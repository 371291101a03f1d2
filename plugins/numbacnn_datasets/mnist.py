"""MNIST and Fashion-MNIST, which share their file format (IDX) and file names."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from numbacnn.data.dataset import ArrayDataset
from numbacnn.data.files import RemoteFile, download, missing, search_folders
from numbacnn.errors import DataError

MNIST_URLS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
FASHION_URLS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
# SHA-256 as tensorflow_datasets/url_checksums/{mnist,fashion_mnist}.txt publish them; those of the Debian package's files differ, as
# Debian compressed them anew.
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
DIGITS = tuple(str(digit) for digit in range(10))
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"  # of the package dataset-fashion-mnist

_UNSIGNED_BYTE = 0x08


def mnist(split: str = "train", folder: str | os.PathLike | None = None) -> ArrayDataset:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, ``(28, 28, 1)`` grey. Y. LeCun, L. Bottou, Y. Bengio,
    P. Haffner, "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11), 1998.

    The files are searched in ``folder``, or else where :func:`numbacnn.data.files.search_folders` says, or else downloaded."""
    files = [RemoteFile(name, sha256, tuple(f"{url}/{name}" for url in MNIST_URLS)) for name, sha256 in MNIST_SHA256.items()]
    return _open("mnist", files, DIGITS, split, search_folders("mnist", folder), folder)


def fashion_mnist(split: str = "train", folder: str | os.PathLike | None = None) -> ArrayDataset:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothing, ``(28, 28, 1)`` grey, 10 classes. H. Xiao, K. Rasul, R. Vollgraf,
    "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", arXiv:1708.07747, 2017.

    The files are searched in ``folder``, or else where :func:`numbacnn.data.files.search_folders` says and in the folder of Debian's
    package ``dataset-fashion-mnist``, or else downloaded."""
    files = [RemoteFile(name, sha256, tuple(f"{url}/{name}" for url in FASHION_URLS)) for name, sha256 in FASHION_SHA256.items()]
    return _open("fashion_mnist", files, CLOTHES, split, search_folders("fashion_mnist", folder, (DEBIAN_FOLDER,)), folder)


def read_idx(path: str | os.PathLike, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes with that many axes, gzip-compressed or not. Raises DataError for a damaged file."""
    path = Path(path)
    data = _read_maybe_gzip(path)
    if data[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or len(data) < 4:
        raise DataError(f"{path} is no IDX file of bytes: it starts with {data[:4].hex(' ') or 'nothing'}, not 00 00 08.")
    header = 4 + 4 * data[3]
    if data[3] != axes:
        raise DataError(f"{path} has {data[3]} axes; {axes} are expected.")
    if len(data) < header:
        raise DataError(f"{path} is truncated: its header takes {header} bytes, but it has {len(data)}.")
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, header, 4))
    expected = int(np.prod(shape, dtype=object))
    if len(data) - header != expected:
        raise DataError(f"{path} says that it holds {' x '.join(map(str, shape))} = {expected} bytes, but holds {len(data) - header}.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _open(
    dataset: str,
    files: list[RemoteFile],
    classes: tuple[str, ...],
    split: str,
    folders: list[Path],
    given: str | os.PathLike | None,
) -> ArrayDataset:
    prefix = "t10k" if split == "test" else "train"
    wanted = [file for file in files if file.name.startswith(prefix)]
    paths = _find(folders, wanted)
    if paths is None and given is not None:
        raise missing(dataset, wanted, given)
    if paths is None:
        folder = download(dataset, wanted)
        paths = [folder / file.name for file in wanted]
    images, labels = read_idx(paths[0], axes=3), read_idx(paths[1], axes=1)
    if len(images) != len(labels):
        raise DataError(f"{paths[0]} has {len(images)} images, but {paths[1]} has {len(labels)} labels.")
    return ArrayDataset(images[..., None], labels, classes)


def _find(folders: Sequence[Path], wanted: list[RemoteFile]) -> list[Path] | None:
    for folder in folders:
        paths = [next((path for path in _spellings(folder, file.name) if path.is_file()), None) for file in wanted]
        if None not in paths:
            return paths  # type: ignore[return-value]
    return None


def _spellings(folder: Path, name: str) -> list[Path]:
    """Compressed and not, and with the dot that some archives have in place of the dash."""
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    return [folder / name, folder / plain, folder / f"{dotted}.gz", folder / dotted]


def _read_maybe_gzip(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: {str(error).rstrip('.')}.") from error
