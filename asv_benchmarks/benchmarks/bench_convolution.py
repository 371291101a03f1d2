"""The three passes of convolution on layer shapes of ResNet-50, and depthwise convolution."""

from __future__ import annotations

from .common import Training, need

LAYERS = {  # size, channels, filters, kernel, stride
    "56x56 64-64 1x1": (56, 64, 64, 1, 1),
    "56x56 64-64 3x3": (56, 64, 64, 3, 1),
    "28x28 512-128 1x1": (28, 512, 128, 1, 1),
    "28x28 256-256 3x3 stride 2": (28, 256, 256, 3, 2),
    "14x14 256-256 3x3": (14, 256, 256, 3, 1),
    "7x7 512-512 3x3": (7, 512, 512, 3, 1),
    "7x7 512-2048 1x1": (7, 512, 2048, 1, 1),
    "224x224 3-64 7x7 stride 2": (224, 3, 64, 7, 2),
}


class Convolution:
    """The forward pass, and the weight gradient."""

    params = [list(LAYERS), [1, 8]]
    param_names = ["layer", "batch"]
    passes = {"weights": True, "inputs": False}

    def setup(self, layer, batch):
        (Conv2D,) = need("Conv2D")
        size, channels, filters, kernel, stride = LAYERS[layer]
        self.case = Training(Conv2D(filters, kernel, stride, kernel // 2), (size, size, channels), batch, **self.passes)

    def time_forward(self, layer, batch):
        self.case.plan.forward()

    def time_weight_gradient(self, layer, batch):
        self.case.plan.backward()


class ConvolutionDataGradient:
    params = Convolution.params
    param_names = Convolution.param_names
    passes = {"weights": False, "inputs": True}
    setup = Convolution.setup

    def time_data_gradient(self, layer, batch):
        self.case.plan.backward()


class Depthwise:
    """The forward pass, and the weight gradient."""

    params = [[(112, 32, 3, 1), (56, 144, 3, 1), (28, 192, 3, 2), (14, 480, 5, 1)]]
    param_names = ["size, channels, kernel, stride"]
    passes = {"weights": True, "inputs": False}

    def setup(self, numbers):
        (DepthwiseConv2D,) = need("DepthwiseConv2D")
        size, channels, kernel, stride = numbers
        self.case = Training(DepthwiseConv2D(kernel, stride, kernel // 2), (size, size, channels), 1, **self.passes)

    def time_forward(self, numbers):
        self.case.plan.forward()

    def time_weight_gradient(self, numbers):
        self.case.plan.backward()


class DepthwiseDataGradient:
    params = Depthwise.params
    param_names = Depthwise.param_names
    passes = {"weights": False, "inputs": True}
    setup = Depthwise.setup

    def time_data_gradient(self, numbers):
        self.case.plan.backward()
