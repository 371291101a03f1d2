from . import Peer, tv

PEERS = {
    "googlenet": [
        Peer("torchvision", tv("googlenet", aux_logits=False, init_weights=False), calm={"dropout": 0.0}),
    ]
}
REDUCED = {"googlenet": {"input_shape": (33, 33, 3), "width": 0.125, "dropout": 0.0}}
