"""PyTorch's checkpoints, without PyTorch: tensors come out bit for bit, and nothing else does."""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.errors import WeightsError
from numbacnn.weights.torch_files import read_checkpoint
from tests.torch_bytes import STORAGES, Call, Name, Outside, checkpoint, instructions, legacy, storage, tensor, zipped

FORMS = pytest.mark.parametrize("form", [zipped, legacy])
FLOATS = np.arange(12, dtype=np.float32)
PLACE = storage("0", "Float", 12)


def read(tmp_path, content: bytes) -> dict[str, np.ndarray]:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    return read_checkpoint(path)


# Files made by hand ----------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("dtype", STORAGES)
def test_arrays_come_out_bit_for_bit(tmp_path, form, dtype):
    given = {"a.weight": (np.arange(6) % 5).reshape(2, 3).astype(dtype), "scalar": np.ones((), dtype), "empty": np.zeros((0, 4), dtype)}
    found = read(tmp_path, checkpoint(given, form))
    assert list(found) == list(given)
    for name, array in given.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@FORMS
def test_bfloat16_becomes_float32(tmp_path, form):
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x3E20], np.uint16)
    found = read(tmp_path, form({"w": tensor(storage("0", "BFloat16", 4), (4,))}, {"0": bits}))["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([1.0, -2.0, np.inf, 0.15625]))


@FORMS
def test_offsets_and_strides_are_honoured_and_storages_shared(tmp_path, form):
    content = {"t": tensor(PLACE, (3, 4), (1, 3)), "part": tensor(PLACE, (2, 2), (4, 2), 1), "same": tensor(PLACE, (5,), (0,), 7)}
    found = read(tmp_path, form(content, {"0": FLOATS}))
    np.testing.assert_array_equal(found["t"], FLOATS.reshape(4, 3).T)
    np.testing.assert_array_equal(found["part"], [[1, 3], [5, 7]])
    np.testing.assert_array_equal(found["same"], [7] * 5)
    assert np.shares_memory(found["t"], found["part"])
    assert not any(array.flags.writeable for array in found.values())


def test_the_older_format_has_views_of_storages(tmp_path):
    view = storage("0", "Float", 12, ("view", 4, 6))
    found = read(tmp_path, legacy({"w": tensor(view, (2, 2), offset=2)}, {"0": FLOATS}))
    np.testing.assert_array_equal(found["w"], [[6, 7], [8, 9]])


def test_the_byte_order_is_honoured_and_any_folder_will_do(tmp_path):
    found = read(tmp_path, zipped({"w": tensor(PLACE, (12,))}, {"0": FLOATS.astype(">f4")}, "any name", byteorder=b"big"))
    np.testing.assert_array_equal(found["w"], FLOATS)
    assert found["w"].dtype.isnative


WEIGHT = tensor(PLACE, (12,))
STATE = OrderedDict(w=WEIGHT)
PARAMETER = Call(Name("torch._utils", "_rebuild_parameter"), (WEIGHT, True, OrderedDict()))
PYTHON2 = Call(Name("collections", "OrderedDict"), ([["w", WEIGHT]],))
SIZE = Call(Name("torch", "Size"), ((12,),))
DEFAULT = Call(Name("collections", "defaultdict"), (Name("__builtin__", "list"),))
COUNTER = Call(Name("collections", "Counter"), ({3: 1},))
DEVICE = Call(Name("torch", "device"), ("cuda", 0))


@FORMS
@pytest.mark.parametrize(
    "content",
    [
        {"w": WEIGHT, "version": 3},
        {"w": PARAMETER},
        PYTHON2,
        {"state_dict": STATE, "epoch": 90, "best": 0.75, "arch": "resnet", "args": None, "loss": tensor(PLACE, ())},
        {"model": STATE, "optimizer": {"state": {0: {"step": 1, "sum": WEIGHT}}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
        {"state_dict": {"w": tensor(PLACE, (2,))}, "state_dict_ema": STATE},
        {"model_state": STATE, "sizes": (SIZE, [DEVICE, Name("torch", "float16")]), "milestones": COUNTER, "default": DEFAULT},
        {"generator": STATE, "epoch": 1},
    ],
)
def test_the_state_dict_is_found_among_containers(tmp_path, form, content):
    found = read(tmp_path, form(content, {"0": FLOATS}))
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], FLOATS)


def test_attributes_of_containers_are_dropped(tmp_path):
    attribute = b"}X\x09\x00\x00\x00_metadataNsb"
    content = b"\x80\x02" + instructions(STATE) + attribute + b"."
    assert list(read(tmp_path, zipped(content, {"0": FLOATS}))) == ["w"]


def test_a_data_parallel_checkpoint_fits_the_model(tmp_path):
    model = nc.Model(x := nc.Input((4,)), nc.Dense(3)(x, name="head"), seed=1)
    given = {name: np.array(array) for name, array in nc.Model(x, nc.Dense(3)(x, name="head"), seed=2).parameters.items()}
    for wrapper in ("module.", "_orig_mod.", "model.", "_orig_mod.module."):
        path = tmp_path / "w.pth"
        path.write_bytes(checkpoint({wrapper + name: array for name, array in given.items()}))
        assert model.load_weights(path).complete
        for name, array in given.items():
            np.testing.assert_array_equal(model.parameters[name], array)


# Files of PyTorch itself -------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_pytorch_writes_is_read_as_pytorch_reads_it(tmp_path, new, protocol):
    torch = pytest.importorskip("torch")
    base = torch.randn(4, 6, 5)
    tensors = {
        "plain": base,
        "transposed": base.transpose(0, 2),
        "slice": base[1:3, ::2, 1],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.randn(3, 1).expand(3, 7),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5, 2).bfloat16().T,
        "double": torch.randn(3).double(),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        **{str(kind): torch.arange(-3, 4).to(kind) for kind in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)},
        "complex": torch.randn(2, dtype=torch.complex64),
    }
    more = {"epoch": 3, "size": torch.Size([1, 2]), "dtype": torch.float32, "device": torch.device("cpu"), "counts": Counter({5: 1})}
    more["default"] = defaultdict(dict, {0: {"step": 1}})
    path = tmp_path / "w.pth"
    torch.save({"state_dict": OrderedDict(tensors), **more}, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    found = read_checkpoint(path)
    assert list(found) == list(tensors)
    for name, wanted in tensors.items():
        array = (wanted.float() if wanted.dtype == torch.bfloat16 else wanted).detach().numpy()
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert np.shares_memory(found["plain"], found["slice"])


@pytest.mark.oracle
@pytest.mark.parametrize("new", [True, False])
def test_modules_and_their_optimizers(tmp_path, new):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    content = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    found = read_checkpoint(tmp_path / "w.pth")
    assert {name: array.tolist() for name, array in found.items()} == {name: t.tolist() for name, t in module.state_dict().items()}
    torch.save(module, tmp_path / "whole.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"torch\.nn.*state_dict.*nothing was run"):
        read_checkpoint(tmp_path / "whole.pth")


@pytest.mark.oracle
def test_a_torchscript_archive_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(tmp_path / "w.pt")


# Damage ------------------------------------------------------------------------------------------------------------------


@FORMS
def test_a_flipped_bit_or_a_missing_end_is_a_weights_error_or_harmless(tmp_path, form):
    """The older format has no checksums: flips in numbers go unnoticed. All others are sentences, and none is another kind of error."""
    whole = checkpoint({"a.weight": FLOATS.reshape(3, 4), "b": FLOATS[:2]}, form)
    generator = np.random.default_rng(0)
    path = tmp_path / "w.pth"
    for _ in range(500):
        damaged = bytearray(whole)
        for place in generator.integers(len(whole), size=generator.integers(1, 4)):
            damaged[place] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(WeightsError):
            assert sum(array.size for array in read_checkpoint(path).values()) <= 14
    for length in range(0, len(whole) - 1, 3):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_checkpoint(path)


@FORMS
@pytest.mark.parametrize("inner", [Outside(("module", Name("os", "system"), "file", "source")), Outside("0"), Outside(("storage",))])
def test_other_references_are_refused(tmp_path, form, inner):
    with pytest.raises(WeightsError, match=r"nothing was run"):
        read(tmp_path, form({"w": inner}, {}))
