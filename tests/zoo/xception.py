from . import Peer, tm

PEERS = {"xception": [Peer("timm", tm("legacy_xception"), size=299, odd=197)]}
REDUCED = {"xception": {"input_shape": (40, 40, 3), "width": 8, "middle": 2}}
