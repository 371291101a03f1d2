"""The first-party data sets: digits, the IDX files of MNIST and Fashion-MNIST, CIFAR's binary archives, downloads."""

import functools
import gzip
import hashlib
import http.server
import io
import socket
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from numbacnn_datasets import cifar, mnist
from numbacnn_datasets.digits import digits

from numbacnn.data import files as data_files
from numbacnn.data.files import RemoteFile, download, search_folders
from numbacnn.data.sources import open_dataset
from numbacnn.errors import DataError
from numbacnn.plugin import registry

RNG = np.random.default_rng(3)
DEBIAN = Path(mnist.DEBIAN_FOLDER)


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No data set lies in the usual places, and nothing is downloaded from outside."""
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBACNN_DATA_DIR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mnist, "DEBIAN_FOLDER", str(tmp_path / "debian"))


def test_the_data_sets_are_registered():
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100"} <= set(registry.names("dataset"))
    assert registry.origin("dataset", digits).distribution == "numbacnn"


# Digits ----------------------------------------------------------------------------------------------------------------


def test_digits():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.input_shape == (8, 8, 1)
    assert train.classes == tuple("0123456789")
    images, labels = train.batch(np.arange(len(train)))
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert np.bincount(labels).min() >= 139
    assert set(np.bincount(test.batch(np.arange(len(test)))[1])) <= {34, 35, 36}
    # The first image of the UCI file is this zero.
    np.testing.assert_array_equal(images[0, :, :, 0] * 16, ZERO)
    assert labels[0] == 0


ZERO = [
    [0, 0, 5, 13, 9, 1, 0, 0],
    [0, 0, 13, 15, 10, 15, 5, 0],
    [0, 3, 15, 2, 0, 11, 8, 0],
    [0, 4, 12, 0, 0, 8, 8, 0],
    [0, 5, 8, 0, 0, 9, 8, 0],
    [0, 4, 11, 0, 1, 12, 7, 0],
    [0, 2, 14, 5, 10, 12, 0, 0],
    [0, 0, 6, 13, 10, 0, 0, 0],
]


def test_digits_are_small_in_the_wheel():
    assert Path(sys.modules["numbacnn_datasets"].__file__).with_name("digits.npz").stat().st_size < 60_000


# IDX -------------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_idx_dataset(folder: Path, spelling="{}-{}-idx{}-ubyte.gz") -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for prefix, count in (("train", 12), ("t10k", 5)):
        images, labels = RNG.integers(0, 256, (count, 28, 28), np.uint8), RNG.integers(0, 10, count).astype(np.uint8)
        contents[prefix] = images, labels
        for what, array in (("images", images), ("labels", labels)):
            name = spelling.format(prefix, what, array.ndim)
            data = idx(array)
            (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return contents


@pytest.mark.parametrize("spelling", ["{}-{}-idx{}-ubyte.gz", "{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_in_a_folder(tmp_path, name, spelling):
    contents = write_idx_dataset(tmp_path / "here", spelling)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        dataset = open_dataset(name, split, tmp_path / "here")
        images, labels = dataset.batch(np.arange(len(dataset)))
        np.testing.assert_array_equal(images[..., 0], contents[prefix][0].astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(labels, contents[prefix][1])
        assert len(dataset.classes) == 10


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    write_idx_dataset(tmp_path / "cache" / "datasets" / "mnist")
    assert len(open_dataset("mnist", "test")) == 5
    write_idx_dataset(tmp_path / "data" / "fashion_mnist")
    monkeypatch.setenv("NUMBACNN_DATA_DIR", str(tmp_path / "data"))
    assert len(open_dataset("fashion_mnist", "test")) == 5
    assert len(open_dataset("mnist", "test")) == 5  # NUMBACNN_DATA_DIR has no MNIST: the cache still counts
    assert len(open_dataset("fashion_mnist", "test", tmp_path / "data")) == 5  # the folder above the data set's own
    monkeypatch.delenv("NUMBACNN_DATA_DIR")
    write_idx_dataset(tmp_path / "debian")
    assert len(open_dataset("fashion_mnist")) == 12


def test_a_folder_that_is_given_is_the_only_one(tmp_path):
    write_idx_dataset(tmp_path / "cache" / "datasets" / "mnist")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty does not hold mnist, which is train-images-idx3-ubyte\.gz and train-labels"):
        open_dataset("mnist", folder=tmp_path / "empty")
    with pytest.raises(DataError, match="There is no folder"):
        open_dataset("mnist", folder=tmp_path / "absent")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: gzip.compress(data)[:-200], "truncated or damaged"),
        (lambda data: gzip.compress(data)[:5], "truncated or damaged"),
        (lambda data: gzip.compress(data)[:40] + b"xxxx" + gzip.compress(data)[44:], "truncated or damaged"),
        (lambda data: data[:-1], "12 x 28 x 28 = 9408 bytes, but holds 9407"),
        (lambda data: data + b"x", "but holds 9409"),
        (lambda data: b"<html>not found</html>", "starts with 3c 68 74 6d"),
        (lambda data: b"", "starts with nothing"),
        (lambda data: data[:9], "is truncated: its header takes 16 bytes, but it has 9"),
        (lambda data: idx(np.zeros(12, np.uint8)), "1 axes; 3 are expected"),
        (lambda data: idx(np.zeros((11, 28, 28), np.uint8)), "11 images, but .* 12 labels"),
        (lambda data: b"\0\0\x0d" + data[3:], "starts with 00 00 0d 03"),
    ],
)
def test_damaged_idx_files(tmp_path, damage, says):
    write_idx_dataset(tmp_path / "here")
    path = tmp_path / "here" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))
    with pytest.raises(DataError, match=says) as caught:
        open_dataset("mnist", folder=tmp_path / "here")
    assert str(path) in str(caught.value)


def test_a_label_beyond_the_classes(tmp_path):
    write_idx_dataset(tmp_path / "here")
    (tmp_path / "here" / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.full(12, 10, np.uint8)))
    with pytest.raises(DataError, match="Label 10 occurs"):
        open_dataset("mnist", folder=tmp_path / "here")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist():
    train, test = (open_dataset("fashion_mnist", split, DEBIAN) for split in ("train", "test"))
    assert (len(train), len(test), train.input_shape) == (60_000, 10_000, (28, 28, 1))
    np.testing.assert_array_equal(np.bincount(test.batch(np.arange(10_000))[1]), [1000] * 10)


# CIFAR -----------------------------------------------------------------------------------------------------------------


def cifar_files(layout: cifar.Layout) -> dict[str, bytes]:
    members = {}
    for name in (*layout.train, *layout.test):
        records = RNG.integers(0, layout.classes, (4, layout.labels + 3072)).astype(np.uint8)
        members[name] = records.tobytes()
    members[layout.names] = "\n".join(f"class{number}" for number in range(layout.classes)).encode() + b"\n\n"
    return members


def write_archive(path: Path, members: dict[str, bytes], folder: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("layout", [cifar.CIFAR10, cifar.CIFAR100], ids=lambda layout: layout.dataset)
@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar(tmp_path, layout, unpacked):
    members = cifar_files(layout)
    if unpacked:
        (tmp_path / layout.folder).mkdir()
        for name, data in members.items():
            (tmp_path / layout.folder / name).write_bytes(data)
    else:
        write_archive(tmp_path / layout.archive.name, members, layout.folder)
    for split, names in (("train", layout.train), ("test", layout.test)):
        dataset = open_dataset(layout.dataset, split, tmp_path)
        assert dataset.input_shape == (32, 32, 3)
        assert dataset.classes[:2] == ("class0", "class1")
        images, labels = dataset.batch(np.arange(len(dataset)))
        records = np.concatenate([np.frombuffer(members[name], np.uint8).reshape(4, -1) for name in names])
        np.testing.assert_array_equal(labels, records[:, layout.labels - 1])
        for channel in range(3):
            plane = records[:, layout.labels + channel * 1024 :][:, :1024].reshape(-1, 32, 32)
            np.testing.assert_array_equal(images[..., channel], plane.astype(np.float32) / np.float32(255))


def test_damaged_cifar_archives(tmp_path):
    layout, path = cifar.CIFAR10, tmp_path / "cifar-10-binary.tar.gz"
    members = cifar_files(layout)
    write_archive(path, members, layout.folder)
    whole = path.read_bytes()
    for damaged in (whole[:-4000], whole[:10], b"not a tar file"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is truncated or damaged"):
            open_dataset("cifar10", folder=tmp_path)
    write_archive(path, members | {"data_batch_2.bin": bytes(3072)}, layout.folder)
    with pytest.raises(DataError, match=r"data_batch_2\.bin has 3072 bytes"):
        open_dataset("cifar10", folder=tmp_path)
    del members["data_batch_3.bin"]
    write_archive(path, members, layout.folder)
    with pytest.raises(DataError, match=r"does not hold cifar-10-batches-bin/data_batch_3\.bin"):
        open_dataset("cifar10", folder=tmp_path)
    with pytest.raises(DataError, match="does not hold cifar100, which is cifar-100-binary"):
        open_dataset("cifar100", folder=tmp_path)


# Downloads -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A web server that has the files of one folder."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "served")) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield tmp_path / "served", f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_download_is_checked_and_kept(server):
    pytest.importorskip("pooch")
    served, url = server
    (served / "a.bin").write_bytes(b"the data" * 1000)
    file = RemoteFile("a.bin", hashlib.sha256(b"the data" * 1000).hexdigest(), (f"{url}/missing.bin", f"{url}/a.bin"))
    folder = download("things", [file])
    assert folder in search_folders("things")
    assert [path.name for path in folder.iterdir()] == ["a.bin"]
    (served / "a.bin").unlink()
    assert download("things", [file]) == folder  # it is there; nothing is asked of the server


def test_downloads_go_to_the_data_folder(server, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    served, url = server
    (served / "a.bin").write_bytes(b"data")
    monkeypatch.setenv("NUMBACNN_DATA_DIR", str(tmp_path / "mine"))
    download("things", [RemoteFile("a.bin", hashlib.sha256(b"data").hexdigest(), (f"{url}/a.bin",))])
    assert (tmp_path / "mine" / "things" / "a.bin").read_bytes() == b"data"


def test_a_download_with_a_wrong_checksum_leaves_nothing(server):
    pytest.importorskip("pooch")
    served, url = server
    (served / "a.bin").write_bytes(b"tampered")
    with pytest.raises(DataError, match=r"could not be downloaded \(its checksum is wrong\): put a\.bin") as caught:
        download("things", [RemoteFile("a.bin", hashlib.sha256(b"data").hexdigest(), (f"{url}/a.bin",))])
    folder = data_files.download_folder("things")
    assert str(folder) in str(caught.value)
    assert not list(folder.iterdir())


def test_a_download_that_the_server_refuses(server):
    pytest.importorskip("pooch")
    _, url = server
    with pytest.raises(DataError, match="HTTP status 404"):
        download("things", [RemoteFile("a.bin", "0" * 64, (f"{url}/a.bin",))])


def test_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setattr(mnist, "MNIST_URLS", (f"http://127.0.0.1:{closed_port()}",))
    with pytest.raises(DataError, match=r"no connection\): put train-images.* and train-labels-.* into .*mnist") as caught:
        open_dataset("mnist")
    assert "\n" not in str(caught.value)


def test_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(
        DataError, match=r'pip install "numbacnn\[download\]"` to have it downloaded, or put cifar-10-binary\.tar\.gz \(from https'
    ):
        open_dataset("cifar10")


def test_downloaded_files_are_used(server, monkeypatch):
    pytest.importorskip("pooch")
    served, url = server
    write_idx_dataset(served)
    monkeypatch.setattr(mnist, "FASHION_URLS", (url,))
    sums = {name: hashlib.sha256((served / name).read_bytes()).hexdigest() for name in mnist.FASHION_SHA256}
    monkeypatch.setattr(mnist, "FASHION_SHA256", sums)
    assert len(open_dataset("fashion_mnist", "test")) == 5
    assert sorted(path.name for path in data_files.download_folder("fashion_mnist").iterdir()) == sorted(
        name for name in sums if name.startswith("t10k")
    )
