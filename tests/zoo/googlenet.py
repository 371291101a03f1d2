from . import Peer, tv

PEERS = {
    "googlenet": [
        Peer("torchvision", tv("googlenet", aux_logits=False, init_weights=False), calm={"dropout": 0.0}),
        Peer(
            "torchvision",
            tv("googlenet", aux_logits=True, init_weights=False),
            options={"auxiliary": True},
            calm={"dropout": 0.0, "auxiliary_dropout": 0.0},
            outputs=lambda outputs: (outputs.logits, outputs.aux_logits1, outputs.aux_logits2),
            loss_weights=(1.0, 0.3, 0.3),
        ),
    ]
}
REDUCED = {"googlenet": {"input_shape": (33, 33, 3), "width": 0.125, "dropout": 0.0}}
