from . import Peer, tv

PEERS = {"shufflenet_v2_x1_0": [Peer("torchvision", tv("shufflenet_v2_x1_0"))]}
REDUCED = {name: {"input_shape": (32, 32, 3), "depths": (2, 2, 2), "width": 8, "last_width": 32} for name in PEERS}
