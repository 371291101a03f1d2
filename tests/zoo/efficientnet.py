from collections.abc import Callable
from typing import Any

import numbacnn as nc

from . import Peer, tm, tv


def tm_calm(name: str) -> Callable[[], Any]:
    """timm's depthwise kernels start so large that, with running statistics drawn at random, numbers grow from block to block until
    PyTorch's own float32 and float64 give other logits: here they are a third of that."""

    def make() -> Any:
        module = tm(name)()
        for part in module.modules():
            if getattr(part, "groups", 1) > 1:
                part.weight.data /= 3
        return module

    return make


CALM = {"dropout": 0.0}
TIMM_NORM = {"norm": nc.BatchNorm}  # epsilon and momentum of PyTorch's default
SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
PEERS = {
    "efficientnet_lite0": [Peer("timm", tm("tf_efficientnet_lite0"), calm=CALM)],
    **{
        f"efficientnet_{name}": [
            Peer("torchvision", tv(f"efficientnet_{name}"), size=size, calm=CALM),
            Peer("timm", tm_calm(f"efficientnet_{name}"), size=size, options=TIMM_NORM, calm=CALM),
        ]
        for name, size in SIZES.items()
    },
    "efficientnet_v2_s": [
        Peer("torchvision", tv("efficientnet_v2_s"), size=384, calm=CALM),
        Peer("timm", tm_calm("efficientnetv2_s"), size=384, options=TIMM_NORM, calm=CALM),
    ],
}
REDUCED = {name: {"input_shape": (64, 64, 3), "width": 0.25, "depth": 0.3} for name in PEERS}
