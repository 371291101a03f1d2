"""Whole networks beside PyTorch eager: images per second of training steps and of inference, and the memory that they take."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import numbacnn as nc
from numbacnn.kernels.cuda.runtime import Memory

from ..peers.networks import options_of
from . import theirs, timing
from .sizes import Network, Sizes

MODES = ("training", "inference")

Item = dict[str, Any]
Work = Callable[[], Any]


def first_items(sizes: Sizes) -> list[Item]:
    """The networks that targets speak of: the first large one, and the small ones."""
    return _items(sizes.networks[:1], sizes) + _items(sizes.small_networks, sizes)


def other_items(sizes: Sizes) -> list[Item]:
    """The other large ones."""
    return _items(sizes.networks[1:], sizes)


def _items(networks: tuple[Network, ...], sizes: Sizes) -> list[Item]:
    cases = itertools.product(networks, MODES, sizes.precisions)
    return [{**each.item(mode), "precision": precision} for each, mode, precision in cases if getattr(each, mode)]


def rows(item: Item, sizes: Sizes) -> list[Item]:
    """Of a batch that is on the device (``source`` device), and for small networks of one that comes from the host, with the loss or the
    logits going back (``source`` host)."""
    every = (*sizes.networks, *sizes.small_networks)
    network = next(each for each in every if each.item(item["mode"]).items() <= item.items())
    on_device, from_host = ours(network, item["mode"], item["precision"])
    missing = theirs.lacks(network)
    timed: dict[str, dict[str, Any]] = {"device": {timing.OURS: (on_device, timing.ours)}, "host": {timing.OURS: (from_host, timing.host)}}
    found = []
    with contextlib.ExitStack() as stack:
        if missing is None:
            try:
                autocast = stack.enter_context(theirs.computing(item["precision"]))
                their_device, their_host = getattr(theirs, item["mode"])(network, *batch_of(network, item["mode"]), autocast)
                timed["device"]["eager"], timed["host"]["eager"] = (their_device, timing.torch), (their_host, timing.host)
            except Exception as error:
                missing = f"{type(error).__name__} in PyTorch"
        for source in ("device", "host") if network.small else ("device",):
            times = timing.in_turn(timed[source], sizes)
            row = timing.compared(times)
            row |= {"images/s": 1e3 * item["batch"] / row["ms"]}
            row |= {"torch images/s": 1e3 * item["batch"] / row["torch ms"]} if "torch ms" in row else {"beside": missing or "failed"}
            found.append({"source": source, **row})
        found[0] |= _memory(timed["device"]["eager"][0] if "torch ms" in found[0] else None)
    return found


def _memory(other: Work | None) -> Item:
    """MiB that our arrays take, all of them, since no step takes any more; and the most that PyTorch's tensors took in a step."""
    gc.collect()
    found: Item = {"MiB": held_bytes() / 2**20}
    if other is not None:
        theirs.forget_peak()
        other()
        peak = theirs.peak_bytes()
        if peak is not None:
            found |= {"torch MiB": peak / 2**20}
    return found


def held_bytes() -> int:
    """Bytes of all memory on the device that the engine holds."""
    return sum(each.nbytes for each in gc.get_objects() if type(each) is Memory)


# Ours ----------------------------------------------------------------------------------------------------------------


def ours(network: Network, mode: str, precision: str) -> tuple[Work, Work]:
    """A training step (SGD with momentum) or the forward pass, on a batch that is on the device; and one from the host and back."""
    options = options_of(network.name) if network.classes == 1000 else {**options_of(network.name), "classes": network.classes}
    model = nc.create(network.name, input_shape=network.shape, **options).to("cuda", precision)
    images, labels = batch_of(network, mode)
    if mode == "inference":
        model.predict(images, len(images))
        return model._inference_plan(len(images)).replay, lambda: model.predict(images, len(images))
    trainer = nc.Trainer(model, optimizer=nc.SGD(theirs.RATE, momentum=theirs.MOMENTUM), metrics=())
    trainer.step(images, labels)
    (bound,) = trainer._batches.values()
    return bound.replay, lambda: trainer.step(images, labels)


def batch_of(network: Network, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels at random."""
    rng, size = np.random.default_rng(0), getattr(network, mode)
    return rng.standard_normal((size, *network.shape), np.float32), rng.integers(0, network.classes, size)
