from . import Peer, tv

PEERS = {"squeezenet1_1": [Peer("torchvision", tv("squeezenet1_1"), calm={"dropout": 0.0})]}
REDUCED = {"squeezenet1_1": {"input_shape": (33, 33, 3), "width": 16, "dropout": 0.0}}
TRAINING = {"squeezenet1_1": (3e-3, 30)}
