from typing import Any

from . import Peer, torchvision


def video(name: str) -> Any:
    """torchvision's classifier of clips of that name."""
    return lambda: getattr(torchvision().models.video, name)(weights=None)


PEERS = {"r3d_18": [Peer("torchvision", video("r3d_18"), size=112, odd=57, small=24, shape=lambda size: (size // 7, size, size, 3))]}
REDUCED = {"r3d_18": {"input_shape": (6, 16, 16, 3), "width": 4}}
