"""Forward and backward of every other kind of layer, on one middling feature map."""

from __future__ import annotations

from .common import Training, api

SHAPE, BATCH = (28, 28, 128), 8
LAYERS = {
    "max_pool": ("MaxPool2D", (2,), {}),
    "average_pool": ("AveragePool2D", (2,), {}),
    "global_average_pool": ("GlobalAveragePool2D", (), {}),
    "adaptive_average_pool": ("AdaptiveAveragePool2D", (7,), {}),
    "batch_norm": ("BatchNorm", (), {}),
    "layer_norm": ("LayerNorm", (), {}),
    "group_norm": ("GroupNorm", (8,), {}),
    "local_response_norm": ("LocalResponseNorm", (), {}),
    "relu": ("Activation", ("relu",), {}),
    "silu": ("Activation", ("silu",), {}),
    "gelu": ("Activation", ("gelu",), {}),
    "softmax": ("Softmax", (), {}),
    "dropout": ("Dropout", (0.5,), {}),
    "upsample_bilinear": ("Upsample", (2,), {"mode": "bilinear"}),
    "channel_shuffle": ("ChannelShuffle", (4,), {}),
    "dense": ("Dense", (256,), {}),
}


class Layers:
    params = [list(LAYERS)]
    param_names = ["layer"]

    def setup(self, layer):
        name, arguments, options = LAYERS[layer]
        make = getattr(api(), name, None)
        if make is None:
            raise NotImplementedError
        self.case = Training(make(*arguments, **options), SHAPE, BATCH)

    def time_forward(self, layer):
        self.case.plan.forward()

    def time_backward(self, layer):
        self.case.plan.backward()
