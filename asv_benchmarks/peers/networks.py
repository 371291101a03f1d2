"""Networks that numbacnn and PyTorch both have, with parameters of the same names or ones that load into each other."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


@functools.cache
def peers() -> dict[str, Any]:
    """Of each registered architecture that another library has, what the tests know of it."""
    from tests import zoo

    return zoo.family_tables("PEERS")


@functools.cache
def twins() -> dict[str, Any]:
    """Of small architectures that no other library has: what makes a PyTorch module with our names of parameters for square images of a
    size, and their usual shape."""
    from torch import nn

    class LeNet5(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
            self.dense1 = nn.Linear(16 * ((size // 2 - 4) // 2) ** 2, 120)
            self.dense2, self.dense3 = nn.Linear(120, 84), nn.Linear(84, 10)

        def forward(self, x: Any) -> Any:
            h = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
            h = nn.functional.max_pool2d(self.conv2(h).relu(), 2).flatten(1)
            return self.dense3(self.dense2(self.dense1(h).relu()).relu())

    class CNN(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
            self.dense1, self.dense2 = nn.Linear(64 * (size // 4) ** 2, 64), nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            h = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
            h = nn.functional.max_pool2d(self.conv2(h).relu(), 2).flatten(1)
            return self.dense2(self.dense1(h).relu())

    return {"lenet5": (LeNet5, (28, 28, 1)), "cnn": (CNN, (32, 32, 3))}


def options_of(name: str, calm: bool = False) -> dict[str, Any]:
    """What ours is made with, besides its input shape; ``calm``: so that it drops nothing at random."""
    if name not in peers():
        return {}
    peer = peers()[name][0]
    return {**peer.options, **(peer.calm if calm else {})}


def peer_of(name: str, shape: tuple[int, ...] | None = None) -> Any:
    """The PyTorch module, for that shape of images (None: the usual one), on which only those of the small architectures depend."""
    if name in peers():
        return peers()[name][0].make()
    make, usual = twins()[name]
    return make((shape or usual)[0])


def shape_of(name: str) -> tuple[int, ...]:
    """The usual shape of an input."""
    if name not in peers():
        return twins()[name][1]
    peer = peers()[name][0]
    return peer.shape(peer.size)


def drawn(name: str, shape: tuple[int, ...], batch: int, seed: int = 0) -> np.ndarray:
    """What the network is given: images, clips, series or ids of words."""
    if name in peers():
        return peers()[name][0].draw(shape, batch, seed)
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def channels_first(images: np.ndarray) -> np.ndarray:
    """As PyTorch takes them."""
    return np.ascontiguousarray(np.moveaxis(images, -1, 1)) if images.ndim > 2 else images


def channels_last_layout(axes: int) -> Any:
    """PyTorch's name for it, for tensors of so many axes; None where there is none."""
    import torch

    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(axes)
