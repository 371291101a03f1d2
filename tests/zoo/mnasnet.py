import numbacnn as nc

from . import Peer, tm, tv

CALM = {"dropout": 0.0}
PEERS = {
    "mnasnet1_0": [
        Peer("torchvision", tv("mnasnet1_0"), calm=CALM),
        Peer("timm", tm("mnasnet_100"), options={"norm": nc.BatchNorm}, calm=CALM),
    ],
}
REDUCED = {"mnasnet1_0": {"input_shape": (64, 64, 3), "width": 0.25}}
