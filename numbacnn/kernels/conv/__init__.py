"""Convolution: the kernels (direct, Winograd, depthwise), their launches, and the choice between them."""

from .direct import channel_sums, fold_bias
from .launch import (
    depthwise_convolve,
    depthwise_data_gradient,
    depthwise_data_gradient_elements,
    depthwise_elements,
    depthwise_packed_elements,
    depthwise_weight_gradients,
    pack_depthwise,
    weight_gradient_elements,
    weight_gradients,
)
from .methods import DataGradient, Forward, Method
from .window import POINTWISE, Window, lift

__all__ = [
    "POINTWISE",
    "DataGradient",
    "Forward",
    "Method",
    "Window",
    "channel_sums",
    "depthwise_convolve",
    "depthwise_data_gradient",
    "depthwise_data_gradient_elements",
    "depthwise_elements",
    "depthwise_packed_elements",
    "depthwise_weight_gradients",
    "fold_bias",
    "lift",
    "pack_depthwise",
    "weight_gradient_elements",
    "weight_gradients",
]
