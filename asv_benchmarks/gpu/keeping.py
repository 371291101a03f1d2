"""Memory that does not grow, and arrays that go to PyTorch and come from it without a copy."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

import numbacnn as nc
from numbacnn.errors import DataError
from numbacnn.kernels.cuda import interchange, runtime

from . import theirs
from .networks import held_bytes
from .sizes import Sizes

LEAK = 1 << 20  # bytes of the device that may be gone after many steps
WIDTH = 8  # of the network that trains meanwhile, and half its input's size
BEFORE = 3  # steps until all has been allocated

Item = dict[str, Any]


def leak_items(sizes: Sizes) -> list[Item]:
    return [{"of": f"{sizes.steps} steps"}]


def leak_rows(item: Item, sizes: Sizes) -> list[Item]:
    """Memory of the device before and after many steps, with predictions in between."""
    rng = np.random.default_rng(0)
    x = nc.Input((2 * WIDTH, 2 * WIDTH, 3))
    h = nc.Activation("relu")(nc.BatchNorm()(nc.Conv2D(WIDTH, 3, padding="same", bias=False)(x)))
    model = nc.Model(x, nc.Dense(10)(nc.Dropout(0.2)(nc.GlobalAveragePool2D()(h))))
    trainer = nc.Trainer(model, optimizer="adam", device="cuda")
    batch = 32 if sizes.steps > 100 else 2
    images, labels = rng.standard_normal((batch, 2 * WIDTH, 2 * WIDTH, 3)).astype("float32"), rng.integers(0, 10, batch)
    for _ in range(BEFORE):
        trainer.step(images, labels)
        model.predict(images)
    gc.collect()
    free, held = runtime.device().memory()[0], held_bytes()
    for step in range(sizes.steps):
        trainer.step(images, labels)
        if step % 10 == 0:
            model.predict(images)
    gc.collect()
    grown = {"bytes more of the device": free - runtime.device().memory()[0], "bytes more of arrays": held_bytes() - held}
    return [{**grown, "ok": max(grown.values()) < LEAK}]


# With PyTorch --------------------------------------------------------------------------------------------------------


def interchange_items(sizes: Sizes) -> list[Item]:
    ways = [f"{way}, {protocol}" for way in ("PyTorch's to us", "ours to PyTorch") for protocol in ("DLPack", "CUDA array interface")]
    return [{"way": way} for way in (*ways, "not dense") if theirs.there()]


def interchange_rows(item: Item, sizes: Sizes) -> list[Item]:
    """Whether an array is at the same address on both sides, whether a model computes the same from it, and whether it stays there as
    long as the borrower lives. The interface of the CUDA array is for GPUs only."""
    import torch

    if "CUDA array interface" in item["way"] and not theirs.on_gpu():
        return [{"skipped": "PyTorch has it on a GPU only"}]
    x = nc.Input((5, 4, 3))
    model = nc.Model(x, nc.Activation("tanh")(x))
    images = np.random.default_rng(0).standard_normal((7, 5, 4, 3)).astype(np.float32)
    expected = model.predict(images)
    model.to("cuda")
    tensor = torch.from_numpy(images).to(theirs.place())
    if item["way"] == "not dense":
        return [{"ok": _refused(tensor.movedim(-1, 1).contiguous().movedim(1, -1))}]
    if item["way"].startswith("PyTorch's"):
        borrowed = interchange.borrowed(tensor if "DLPack" in item["way"] else _Described(tensor))
        same, results = borrowed.pointer == tensor.data_ptr(), model.predict(borrowed).download()
        del tensor
        gc.collect()
        kept = np.array_equal(borrowed.download(), images)
    else:
        lent = model.predict(tensor if theirs.on_gpu() else interchange.borrowed(tensor))  # simulated, a tensor is one of the CPU
        taken = torch.from_dlpack(lent) if "DLPack" in item["way"] else torch.as_tensor(lent, device=theirs.place())
        same, results = lent.pointer == taken.data_ptr(), taken.cpu().numpy()
        del lent
        gc.collect()
        kept = np.array_equal(taken.cpu().numpy(), results)
    error = float(abs(results - expected).max())
    return [{"without a copy": same, "error": error, "still there": kept, "ok": bool(same and kept and error < 1e-5)}]


class _Described:
    """A tensor that has nothing but the CUDA array interface."""

    def __init__(self, tensor: Any):
        self.tensor = tensor
        self.__cuda_array_interface__ = tensor.__cuda_array_interface__


def _refused(tensor: Any) -> bool:
    try:
        interchange.borrowed(tensor)
    except DataError:
        return True
    return False
