from . import Peer, tm, tv

# The factors that start at 1e-6 would hide what is wrong before them; torchvision's are not of the shape that is drawn at random.
PEERS = {
    name: [Peer("timm", tm(name), small=32), Peer("torchvision", tv(name, layer_scale=0.5), small=32)]
    for name in ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
}
REDUCED = {name: {"input_shape": (32, 32, 3), "width": 8} for name in PEERS}
