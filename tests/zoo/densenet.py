from . import Peer, tm, tv

PEERS = {name: [Peer("torchvision", tv(name)), Peer("timm", tm(name))] for name in ("densenet121", "densenet169", "densenet201")}
REDUCED = {name: {"input_shape": (32, 32, 3), "width": 8, "growth": 4} for name in PEERS}
