"""Convolution: the kernels (direct, depthwise) and their launches."""

from .direct import channel_sums, fold_bias
from .launch import (
    POINTWISE,
    Window,
    convolve,
    data_gradient,
    data_gradient_elements,
    depthwise_convolve,
    depthwise_data_gradient,
    depthwise_weight_gradients,
    forward_elements,
    lift,
    pack,
    pack_depthwise,
    pack_transposed,
    packed_elements,
    weight_gradient_elements,
    weight_gradients,
)

__all__ = [
    "POINTWISE",
    "Window",
    "channel_sums",
    "convolve",
    "data_gradient",
    "data_gradient_elements",
    "depthwise_convolve",
    "depthwise_data_gradient",
    "depthwise_weight_gradients",
    "fold_bias",
    "forward_elements",
    "lift",
    "pack",
    "pack_depthwise",
    "pack_transposed",
    "packed_elements",
    "weight_gradient_elements",
    "weight_gradients",
]
