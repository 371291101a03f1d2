from . import Peer, tm, tv

VARIANTS = [f"vgg{layers}{suffix}" for suffix in ("", "_bn") for layers in (11, 13, 16, 19)]
SMALL = {"small": 32, "calm": {"dropout": 0.0}}

PEERS = {name: [Peer("torchvision", tv(name, init_weights=False), **SMALL), Peer("timm", tm(name), **SMALL)] for name in VARIANTS}
REDUCED = {name: {"input_shape": (32, 32, 3), "width": 8, "hidden": 64, "dropout": 0.0} for name in VARIANTS}
TRAINING = dict.fromkeys(VARIANTS, (1e-3, 40))
