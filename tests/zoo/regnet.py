from . import Peer, tm, tv

PEERS = {"regnet_y_400mf": [Peer("torchvision", tv("regnet_y_400mf")), Peer("timm", tm("regnety_004"))]}
REDUCED = {"regnet_y_400mf": {"input_shape": (32, 32, 3), "width": 8, "slope": 4.65, "stem_width": 8}}
