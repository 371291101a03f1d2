from collections.abc import Callable
from typing import Any

from . import Peer, tm, tv

VARIANTS = [f"vgg{layers}{suffix}" for suffix in ("", "_bn") for layers in (11, 13, 16, 19)]
HIDDEN = 64


def lean_torchvision(name: str) -> Callable[[], Any]:
    """torchvision's network with small hidden layers."""

    def make() -> Any:
        from torch import nn

        module = tv(name, init_weights=False)()
        layers = module.classifier
        layers[0], layers[3], layers[6] = nn.Linear(512 * 7 * 7, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1000)
        return module

    return make


def lean_timm(name: str) -> Callable[[], Any]:
    """timm's network with small hidden layers."""

    def make() -> Any:
        from torch import nn

        module = tm(name)()
        module.pre_logits.fc1, module.pre_logits.fc2 = nn.Conv2d(512, HIDDEN, 7), nn.Conv2d(HIDDEN, HIDDEN, 1)
        module.head.fc = nn.Linear(HIDDEN, 1000)
        return module

    return make


def peers(name: str) -> list[Peer]:
    calm = {"dropout": 0.0}
    lean = {"options": {"hidden": HIDDEN}, "calm": calm}
    return [
        Peer("torchvision", tv(name, init_weights=False), small=32, calm=calm, lean=Peer("torchvision", lean_torchvision(name), **lean)),
        Peer("timm", tm(name), small=32, calm=calm, lean=Peer("timm", lean_timm(name), **lean)),
    ]


PEERS = {name: peers(name) for name in VARIANTS}
REDUCED = {name: {"input_shape": (32, 32, 3), "width": 8, "hidden": 64, "dropout": 0.0} for name in VARIANTS}
TRAINING = dict.fromkeys(VARIANTS, (1e-3, 40))
