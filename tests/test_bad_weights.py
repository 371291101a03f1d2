"""Corrupt, truncated, foreign and malicious weight files: each gets its sentence, changes no bit of the model, and runs nothing."""

from __future__ import annotations

import functools
import io
import json
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import WeightsError
from numbacnn.weights import files
from tests import torch_bytes
from tests.torch_bytes import Call, Name, Outside, Raw, legacy, pickled, storage, tensor, zipped

FLOATS = np.arange(12, dtype=np.float32)
PLACE = storage("0", "Float", 12)
TOUCH = "open('it-ran', 'w').close()"


@functools.cache
def model() -> nc.Model:
    x = nc.Input((5, 4, 2))
    h = nc.Conv2D(3, 3, padding="same")(x, name="stem")
    return nc.Model(x, nc.Dense(4)(nc.GlobalAveragePool2D()(h), name="head"), seed=1, name="small")


def arrays() -> dict[str, np.ndarray]:
    """Weights that fit."""
    return {name: np.ones(array.shape, np.float32) for name, array in model().parameters.items()}


def with_state(change: Callable[[dict], object]) -> dict[str, np.ndarray]:
    given = arrays()
    change(given)
    return given


def in_safetensors(given: dict[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    return save(given)


def in_npz(given: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **given)
    return file.getvalue()


def in_torch(given: dict[str, np.ndarray]) -> bytes:
    return torch_bytes.checkpoint(given)


def in_legacy(given: dict[str, np.ndarray]) -> bytes:
    return torch_bytes.checkpoint(given, legacy)


def header(text: bytes, data: bytes = b"") -> bytes:
    """A safetensors file."""
    return len(text).to_bytes(8, "little") + text + data


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def one(call: object, form: Callable = zipped) -> bytes:
    """A checkpoint that has something in place of a tensor."""
    return form(OrderedDict(w=call), {"0": FLOATS})


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def listed_twice() -> bytes:
    """Storages whose entries in the archive's table all mean the same bytes."""
    count = 50
    file = io.BytesIO(
        zipped({str(k): tensor(storage(str(k), "Float", 1000), (1000,)) for k in range(count)}, {"0": np.zeros(1000, np.float32)})
    )
    with zipfile.ZipFile(file, "a") as archive:
        first = archive.getinfo("archive/data/0")
        for k in range(1, count):
            copy = zipfile.ZipInfo(f"archive/data/{k}")
            copy.file_size, copy.compress_size, copy.CRC, copy.header_offset = (
                first.file_size,
                first.compress_size,
                first.CRC,
                first.header_offset,
            )
            archive.filelist.append(copy)
            archive._didModify = True
    return file.getvalue()


def npy_of(shape: str) -> bytes:
    """An npz whose one array announces a shape and holds nothing."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("stem.weight.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    return file.getvalue()


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("stem.weight.npy", "w") as entry:
        for _ in range(4):
            entry.write(bytes(1 << 20))
    return file.getvalue()


class Malicious:
    def __reduce__(self):
        return exec, (TOUCH,)


def nested(depth: int) -> bytes:
    """A tuple of a tuple twice of a tuple twice...: hashing it takes 2^depth steps."""
    return b")" + b"q\x00h\x00\x86" * depth


SYSTEM = Call(Name("os", "system"), ("touch it-ran",))
GETATTR = Call(Name("builtins", "getattr"), (Call(Name("builtins", "__import__"), ("os",)), "system"))
HUGE = 1 << 40

CASES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    # Corrupt and truncated
    "safetensors: empty": ("safetensors", lambda: b"", "complete"),
    "safetensors: header cut off": ("safetensors", lambda: in_safetensors(arrays())[:20], "complete"),
    "safetensors: data cut off": ("safetensors", lambda: in_safetensors(arrays())[:-1], "complete"),
    "safetensors: header of 2^60 bytes": ("safetensors", lambda: (1 << 60).to_bytes(8, "little") + b"{}", "complete"),
    "safetensors: header is no JSON": ("safetensors", lambda: header(b"{nonsense"), "complete"),
    "safetensors: tensor beyond the end": (
        "safetensors",
        lambda: header(json.dumps({"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}).encode()),
        "complete",
    ),
    "safetensors: offsets that overlap": (
        "safetensors",
        lambda: header(json.dumps({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}).encode(), bytes(4)),
        "complete",
    ),
    "safetensors: type without numbers": (
        "safetensors",
        lambda: header(json.dumps({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode(), b"8"),
        "type that NumPy lacks",
    ),
    "npz: empty": ("npz", lambda: b"", "not a zip file"),
    "npz: cut off": ("npz", lambda: in_npz(arrays())[:-30], "npz"),
    "npz: flipped bit": ("npz", lambda: flipped(in_npz(arrays()), in_npz(arrays()).index(b"\0\0\x80?")), "npz"),
    "npz: no archive": ("npz", lambda: pickled([]), "not a zip file"),
    "npz: objects": ("npz", lambda: in_npz({"a": np.array([Malicious()], dtype=object)}), "plain arrays"),
    "npz: announces 4 TiB": ("npz", lambda: npy_of(f"({HUGE},)"), "npz"),
    "npz: negative shape": ("npz", lambda: npy_of("(-3, 4)"), "npz"),
    "npz: bomb": ("npz", bomb, "times its size"),
    "torch: empty": ("pth", lambda: b"", "not a PyTorch checkpoint"),
    "torch: text": ("pth", lambda: b"<!DOCTYPE html><html>404</html>", "not a PyTorch checkpoint"),
    "torch: cut off": ("pth", lambda: in_torch(arrays())[:-40], "complete zip archive"),
    "torch: flipped bit in numbers": ("pth", lambda: flipped(in_torch(arrays()), in_torch(arrays()).index(b"\0\0\x80?")), "CRC"),
    "torch: an npz": ("pth", lambda: in_npz(arrays()), "no PyTorch checkpoint"),
    "torch: no storages": ("pth", lambda: zipped({"w": tensor(PLACE, (12,))}, {}), "lacks 'data/0'"),
    "torch: storage too short": ("pth", lambda: zipped({"w": tensor(PLACE, (12,))}, {"0": FLOATS[:5]}), "not all there"),
    "torch: unknown byte order": ("pth", lambda: zipped({"w": tensor(PLACE, (12,))}, {"0": FLOATS}, byteorder=b"middle"), "byte order"),
    "legacy: wrong magic": ("pth", lambda: legacy({}, {}, magic=7), "magic number"),
    "legacy: wrong protocol": ("pth", lambda: legacy({}, {}, protocol=7), "protocol 1001"),
    "legacy: a plain pickle": ("pth", lambda: pickle.dumps({"w": [1.0]}, protocol=2), "magic number"),
    "legacy: cut off in numbers": ("pth", lambda: in_legacy(arrays())[:-3], "ends early"),
    "legacy: cut off in the pickle": ("pth", lambda: in_legacy(arrays())[:150], "ends early"),
    "legacy: storages of other tensors": ("pth", lambda: legacy({"w": tensor(PLACE, (12,))}, {"1": FLOATS}), "storages"),
    "legacy: storage of another length": ("pth", lambda: legacy({"w": tensor(PLACE, (12,))}, {"0": FLOATS[:5]}), "storages"),
    "legacy: storage not there": ("pth", lambda: legacy({"w": tensor(PLACE, (12,))}, {}), "not all there"),
    # Other files
    "torch: tar of 2016": ("tar", tar, "tar format"),
    "torch: TorchScript": ("pt", lambda: zipped({}, {}, **{"constants.pkl": b"", "code/net.py": b""}), "TorchScript"),
    "torch: a whole module": ("pth", lambda: one(Call(Name("torchvision.models.resnet", "ResNet"), ())), "state_dict.*nothing was run"),
    "torch: a list": ("pth", lambda: zipped([tensor(PLACE, (12,))], {"0": FLOATS}), "no tensors by name"),
    "torch: no tensors": ("pth", lambda: zipped({"epoch": 3, "state_dict": {}}, {}), "no tensors by name.*'epoch'"),
    "torch: two networks": ("pth", lambda: zipped({k: {"w": tensor(PLACE, (12,))} for k in "gd"}, {"0": FLOATS}), "several.*'g', 'd'"),
    "another suffix": ("h5", lambda: b"\x89HDF", "not a weights file"),
    # Of other networks
    "another network": ("pth", lambda: in_torch({f"layer{k}.weight": FLOATS for k in range(200)}), "another network; 0 of the 4"),
    "wrong shape": ("npz", lambda: in_npz(with_state(lambda s: s.update({"stem.weight": np.ones((3, 3, 2, 9))}))), r"\(3, 3, 2, 9\)"),
    "wrong name": ("npz", lambda: in_npz(with_state(lambda s: s.update({"stem.wieght": s.pop("stem.weight")}))), "near 'stem.wieght'"),
    "missing": ("safetensors", lambda: in_safetensors(with_state(lambda s: s.pop("head.bias"))), "1 missing: 'head.bias'"),
    "unexpected": ("safetensors", lambda: in_safetensors(with_state(lambda s: s.update(more=FLOATS))), "1 unexpected: 'more'"),
    "complex numbers": ("npz", lambda: in_npz(with_state(lambda s: s.update({"head.bias": np.ones(4, np.complex64)}))), "real numbers"),
    "other classes": ("npz", lambda: in_npz(with_state(lambda s: s.update({"head.weight": np.ones((3, 9))}))), "skip_mismatched=True"),
    # Malicious
    "os.system": ("pth", lambda: one(SYSTEM), "'os.system'.*nothing was run"),
    "os.system, legacy": ("pth", lambda: one(SYSTEM, legacy), "'os.system'.*nothing was run"),
    "a pickle in place of a checkpoint": ("pth", lambda: pickle.dumps(Malicious()), "nothing was run"),
    "exec by a reduce of Python's own": ("pth", lambda: zipped(pickle.dumps({"w": Malicious()}, protocol=2), {}), "nothing was run"),
    "eval": ("pth", lambda: one(Call(Name("builtins", "eval"), (TOUCH,))), "'builtins.eval'.*nothing was run"),
    "getattr of an import": ("pth", lambda: one(Call(GETATTR, ("touch it-ran",))), "nothing was run"),
    "an attribute of an allowed name": ("pth", lambda: one(Call(Name("collections", "OrderedDict.__init__"), ())), "nothing was run"),
    "an allowed name in another module": ("pth", lambda: one(Call(Name("os", "OrderedDict"), ())), "nothing was run"),
    "numpy's loader": ("pth", lambda: one(Call(Name("numpy", "load"), ("x.npy", None, True))), "nothing was run"),
    "a word that is called": ("pth", lambda: one(Call(Name("torch", "FloatStorage"), (HUGE,))), "nothing was run"),
    "text that is called": ("pth", lambda: one(Call("os.system", ("touch it-ran",))), "nothing was run"),
    "a container that is called": ("pth", lambda: one(Call(OrderedDict(), ())), "nothing was run"),
    "INST": ("pth", lambda: one(Raw(b"(X\x0c\x00\x00\x00touch it-ranios\nsystem\n")), "instruction b'i'"),
    "NEWOBJ": ("pth", lambda: one(Raw(b"ccollections\nOrderedDict\n)\x81")), "instruction"),
    "EXT1": ("pth", lambda: one(Raw(b"\x82\x01")), "instruction"),
    "an object's state": ("pth", lambda: one(Raw(b"ctorch\nfloat32\n}b")), "nothing was run"),
    "a reference to a module": ("pth", lambda: one(Outside(("module", Name("torch", "float32"), "net.py", TOUCH))), "nothing was run"),
    "tensor beyond its storage": ("pth", lambda: one(tensor(PLACE, (4, 4))), "does not lie within"),
    "tensor of 2^40 numbers": ("pth", lambda: one(tensor(PLACE, (HUGE,)), legacy), "does not lie within"),
    "tensor before its storage": ("pth", lambda: one(tensor(PLACE, (3,), (1,), -5)), "does not lie within"),
    "negative strides": ("pth", lambda: one(tensor(PLACE, (3,), (-1,), 1)), "whole numbers"),
    "more strides than axes": ("pth", lambda: one(tensor(PLACE, (3,), (1, 1))), "not a view"),
    "a thousand axes": ("pth", lambda: one(tensor(PLACE, (1,) * 1000, (0,) * 1000)), "whole numbers"),
    "more elements than addresses": ("pth", lambda: one(tensor(PLACE, (HUGE,) * 8, (0,) * 8)), "damaged"),
    "storage of 2^60 numbers": ("pth", lambda: one(tensor(storage("0", "Float", 1 << 60), (1 << 40,))), "not all there"),
    "storage of 2^60 numbers, legacy": ("pth", lambda: one(tensor(storage("0", "Float", 1 << 60), (1 << 40,)), legacy), "storages"),
    "one storage of two types": (
        "pth",
        lambda: zipped({"a": tensor(PLACE, (12,)), "b": tensor(storage("0", "Byte", 48), (48,))}, {"0": FLOATS}),
        "two types",
    ),
    "view beyond its storage": ("pth", lambda: one(tensor(storage("0", "Float", 12, ("v", 8, 9)), (9,)), legacy), "outside"),
    "storage outside the archive": ("pth", lambda: one(tensor(storage("../../../etc/passwd", "Byte", 9), (9,))), "lacks"),
    "compressed storages": ("pth", lambda: zipped({}, {"0": np.zeros(1 << 22)}, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "storages listed many times": ("pth", listed_twice, "more bytes than it has|zip"),
    "a key that takes for ever to hash": (
        "pth",
        lambda: zipped(Raw(b"}" + nested(60) + b"Ns"), {}),
        "key",
    ),
    "a place in the memo far away": ("pth", lambda: one(Raw(b"Nr\xff\xff\xff\x7f")), "no tensors"),
    "a memory that is not there": ("pth", lambda: one(Raw(b"j\xff\xff\xff\x7f")), "cannot be followed"),
    "text of 4 GiB": ("pth", lambda: one(Raw(b"X\xff\xff\xff\xff")), "ends early"),
    "bytes of 2^62": ("pth", lambda: one(Raw(b"\x96" + (1 << 62).to_bytes(8, "little"))), "instruction"),
    "values that are not there": ("pth", lambda: zipped(b"\x80\x02\x87.", {}), "cannot be followed"),
    "a mark that is not there": ("pth", lambda: zipped(b"\x80\x02t.", {}), "cannot be followed"),
    "a list in itself": ("pth", lambda: zipped(Raw(b"]q\x00h\x00a"), {}), "only a list"),
    "a dict in itself": ("pth", lambda: zipped(Raw(b"}q\x00X\x05\x00\x00\x00modelh\x00s"), {}), "no tensors"),
    "one list in ten thousand dicts": (
        "pth",
        lambda: zipped(Raw(b"](" + b"(U\x01aNt" * 5000 + b"eq\x000" + b"(" + b"ccollections\nOrderedDict\n(h\x00tR" * 9000 + b"t"), {}),
        "more than the file can",
    ),
    "names with escapes": ("pth", lambda: one(Call(Name("os\x1b[2J", "system"), ())), r"os\\x1b"),
    "a name without end": ("pth", lambda: one(Raw(b"c" + b"a" * 5000)), "ends early|cannot be followed|asks for"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_gets_a_sentence_changes_nothing_and_runs_nothing(name, tmp_path, monkeypatch):
    suffix, content, words = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "UNPACKED", 1 << 20)  # so that a small bomb will do
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content())
    before = model().store.trainable.tobytes() + model().store.state.tobytes()
    with pytest.raises(WeightsError, match=words) as caught:
        model().load_weights(path)
    sentence = str(caught.value)
    assert len(sentence) < 500
    assert sentence.isprintable()
    assert model().store.trainable.tobytes() + model().store.state.tobytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
