from . import Peer, tm, tv

PEERS = {
    "resnet18": [Peer("torchvision", tv("resnet18"))],
    "resnet34": [Peer("torchvision", tv("resnet34"))],
    "resnet50": [Peer("torchvision", tv("resnet50")), Peer("timm", tm("resnet50"))],
    "resnet101": [Peer("torchvision", tv("resnet101"))],
    "resnet152": [Peer("torchvision", tv("resnet152"))],
    "resnext50_32x4d": [Peer("torchvision", tv("resnext50_32x4d"))],
    "wide_resnet50_2": [Peer("torchvision", tv("wide_resnet50_2"))],
    "resnet50d": [Peer("timm", tm("resnet50d"))],
}
REDUCED = {name: {"input_shape": (32, 32, 3), "width": 8} for name in PEERS} | {
    "resnext50_32x4d": {"input_shape": (32, 32, 3), "width": 64, "group_width": 1},
}
TRAINING = {"resnet152": (3e-3, 20)}  # after twelve steps how rounding falls still decides whether the loss is below half
