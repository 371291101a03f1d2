from . import Peer, tm, tv

WHERE = {"size": 299, "odd": 210, "small": 107, "calm": {"dropout": 0.0}}

PEERS = {
    "inception_v3": [
        Peer("torchvision", tv("inception_v3", aux_logits=False, init_weights=False), **WHERE),
        Peer("timm", tm("inception_v3"), **WHERE),
    ]
}
REDUCED = {"inception_v3": {"input_shape": (75, 75, 3), "width": 0.125, "dropout": 0.0}}
