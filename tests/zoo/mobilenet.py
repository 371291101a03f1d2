import numbacnn as nc

from . import Peer, tm, tv

CALM = {"dropout": 0.0}
TIMM_NORM = {"norm": nc.BatchNorm}  # epsilon and momentum of PyTorch's default
PEERS = {
    "mobilenet_v3_small": [
        Peer("torchvision", tv("mobilenet_v3_small"), calm=CALM),
        Peer("timm", tm("mobilenetv3_small_100"), options=TIMM_NORM, calm=CALM),
    ],
    "mobilenet_v3_large": [
        Peer("torchvision", tv("mobilenet_v3_large"), calm=CALM),
        Peer("timm", tm("mobilenetv3_large_100"), options=TIMM_NORM, calm=CALM),
    ],
    "mobilenet_v2": [Peer("torchvision", tv("mobilenet_v2"), calm=CALM), Peer("timm", tm("mobilenetv2_100"), calm=CALM)],
    "mobilenet_v1": [Peer("timm", tm("mobilenetv1_100"))],
}
REDUCED = {name: {"input_shape": (64, 64, 3), "width": 0.25} for name in PEERS}
