"""Our architectures beside those of torchvision and timm: the same weights, the same images, and how far the results are apart.

A module per family says in ``PEERS`` who else has its members, and in ``REDUCED`` with which options each is small enough to be trained in
a test: the same layers, with fewer channels. ``TRAINING``, where there is one, says with which rate and in how many steps that goes, for
networks that take longer than others, and ``LOSSES`` with which loss if not with cross-entropy. ``HEADS`` is how the names of the head's
parameters begin where not with ``head.``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import numbacnn as nc
from numbacnn.weights import names


@functools.cache
def torchvision() -> ModuleType:
    """torchvision, whose wheels are built for CUDA; beside a PyTorch for the CPU its own C++ operators, which classifiers don't use, are
    declared but not there."""
    torch = pytest.importorskip("torch")
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        pytest.skip("torchvision is not installed")
    if torch.version.cuda is not None:
        return importlib.import_module("torchvision")
    declarations = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for name in {*re.findall(r'register_meta\("(\w+)"\)', declarations), *re.findall(r"torchvision::(\w+)", declarations)}:
        library.define(f"{name}(Tensor a) -> Tensor")
    import torchvision

    torchvision._numbacnn_declarations = library  # they last as long as the library object
    return torchvision


@functools.cache
def timm() -> ModuleType:
    torchvision()
    return pytest.importorskip("timm")


def tv(name: str, **options: Any) -> Callable[[], Any]:
    """What makes torchvision's classifier of that name."""
    return lambda: getattr(torchvision().models, name)(weights=None, **options)


def tm(name: str, **options: Any) -> Callable[[], Any]:
    """What makes timm's classifier of that name."""
    return lambda: timm().create_model(name, pretrained=False, **options)


def images(shape: tuple[int, ...], batch: int = 1, seed: int = 0) -> np.ndarray:
    """Inputs of that shape drawn at random: images, clips, series."""
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def whole_numbers(limit: int, shape: tuple[int, ...], batch: int = 1, seed: int = 0) -> np.ndarray:
    """Inputs of that shape drawn at random: ids of words."""
    return np.random.default_rng(seed).integers(0, limit, (batch, *shape))


@dataclasses.dataclass(frozen=True)
class Peer:
    """The same network in another library. ``size`` is the usual one, ``odd`` one that no stage divides, ``small`` one for gradients;
    ``shape`` is the input's of a size, and ``draw(shape, batch)`` gives inputs. ``options`` are those of ours, ``calm`` those that switch
    off what it drops at random. ``outputs`` makes what the other gives in training a tuple in our order, whose losses
    ``loss_weights`` weights. ``lean`` stands in where gradients are compared, for networks whose dense layers fill the memory."""

    library: str
    make: Callable[[], Any]
    size: int = 224
    odd: int = 161
    small: int = 64
    shape: Callable[[int], tuple[int, ...]] = lambda size: (size, size, 3)
    draw: Callable[..., np.ndarray] = images
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    calm: dict[str, Any] = dataclasses.field(default_factory=dict)
    outputs: Callable[[Any], tuple[Any, ...]] = lambda outputs: (outputs,)
    loss_weights: tuple[float, ...] = (1.0,)
    lean: Peer | None = None


def family_tables(table: str) -> dict[str, Any]:
    """The rows of all families' tables of that name."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {name: row for module in modules for name, row in getattr(module, table, {}).items()}


def first_of_each_family() -> list[str]:
    """A member of each family that has peers."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return [next(iter(module.PEERS)) for module in modules if module.PEERS]


def randomised(module: Any, seed: int = 0) -> Any:
    """The module in evaluation mode, every one-dimensional array of it drawn at random, running statistics too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, array in module.state_dict().items():
            if not array.dtype.is_floating_point or array.ndim != 1:
                continue
            scale = name.endswith(("weight", "running_var", "gamma"))
            array.copy_(torch.rand(array.shape, generator=generator) * 0.4 + (0.8 if scale else -0.2))
    return module.eval()


def channels_first(batch: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(batch, -1, 1)))


def logits_apart(name: str, peer: Peer, size: int, seed: int = 0) -> tuple[nc.Model, float]:
    """Our model with the peer's weights, and the largest difference of its logits from the peer's in float64, relative to the largest."""
    import torch

    theirs = randomised(peer.make(), seed)
    ours = nc.create(name, input_shape=peer.shape(size), **peer.options)
    report = ours.load_weights({key: array.numpy() for key, array in theirs.state_dict().items()})
    assert report.complete, str(report)
    assert names.places(ours, report.convention) == names.places(ours, peer.library)
    batch = peer.draw(peer.shape(size))
    precise = batch.astype(np.float64) if batch.dtype.kind == "f" else batch
    with torch.no_grad():
        wanted = theirs.double()(channels_first(precise)).numpy()
    found = ours.predict(batch)
    return ours, relative(found["logits"] if isinstance(found, dict) else found, wanted)


def learned(module: Any) -> int:
    """Number of parameters that a PyTorch module learns."""
    return sum(array.numel() for array in module.parameters())


def without_chance(module: Any) -> Any:
    """The module in training mode, with nothing dropped."""
    for part in module.modules():
        for option in ("p", "drop_prob"):
            if isinstance(getattr(part, option, None), float):
                setattr(part, option, 0.0)
    return module.train()


def gradients_apart(name: str, peer: Peer, size: int, batch: int = 4, seed: int = 0) -> tuple[float, float]:
    """Forward and backward in training mode, in float64, since rectifiers make gradients of deep networks jump with the last bits of
    float32: the largest difference of the logits, and of any parameter's gradient, each relative to the largest number of its array.
    Gradients a millionth of the largest are as good as none: those of a bias in front of a normalisation are rounding errors."""
    import torch

    peer = peer.lean or peer
    theirs = without_chance(randomised(peer.make(), seed).double())
    ours = nc.create(name, input_shape=peer.shape(size), dtype="float64", **{**peer.options, **peer.calm})
    ours.load_weights({key: array.numpy() for key, array in theirs.state_dict().items()})
    x = peer.draw(peer.shape(size), batch)
    x = x.astype(np.float64) if x.dtype.kind == "f" else x
    wanted = peer.outputs(theirs(channels_first(x)))
    labels = np.arange(batch) % wanted[0].shape[1]
    losses = [torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)) for logits in wanted]
    sum(weight * loss for weight, loss in zip(peer.loss_weights, losses, strict=True)).backward()
    plan = ours.training_plan(batch)
    plan.inputs[0][...] = x
    plan.forward()
    apart = max(relative(array, logits.detach().numpy()) for array, logits in zip(plan.outputs, wanted, strict=True))
    found = nc.Trainer(ours, metrics=(), loss_weights=peer.loss_weights).gradients(x, labels)
    of_theirs = {key: array.grad.numpy() for key, array in theirs.named_parameters()}
    places = {own: place for own, place in names.places(ours, peer.library).items() if own in found}
    assert {place.name for place in places.values()} == set(of_theirs)
    least = 1e-6 * max(abs(gradient).max() for gradient in of_theirs.values())
    return apart, max(relative(place.exported(found[own]), of_theirs[place.name], least) for own, place in places.items())


def relative(found: np.ndarray, wanted: np.ndarray, least: float = 1e-12) -> float:
    """The largest difference, relative to the largest number that is wanted, or to ``least``."""
    return float(abs(found.reshape(wanted.shape) - wanted).max() / max(abs(wanted).max(), least))
