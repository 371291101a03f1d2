from . import Peer, tv

PEERS = {"alexnet": [Peer("torchvision", tv("alexnet"), calm={"dropout": 0.0})]}
REDUCED = {
    "alexnet": {"input_shape": (64, 64, 3), "width": 8, "hidden": 64, "dropout": 0.0},
    "alexnet_original": {"input_shape": (67, 67, 3), "width": 12, "hidden": 64, "dropout": 0.0},
}
