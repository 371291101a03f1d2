"""Convolution: the kernels (direct, Winograd, depthwise), their launches, and the choice between them."""

from .direct import channel_sums, fold_bias
from .ending import is_clamp
from .launch import (
    Prologue,
    depthwise_convolve,
    depthwise_data_gradient,
    depthwise_data_gradient_elements,
    depthwise_elements,
    depthwise_gradient_elements,
    depthwise_packed_elements,
    depthwise_stretches,
    depthwise_weight_gradients,
    pack_depthwise,
)
from .methods import DataGradient, Forward, Method, WeightGradient
from .window import POINTWISE, Window, lift

__all__ = [
    "POINTWISE",
    "DataGradient",
    "Forward",
    "Method",
    "Prologue",
    "WeightGradient",
    "Window",
    "channel_sums",
    "depthwise_convolve",
    "depthwise_data_gradient",
    "depthwise_data_gradient_elements",
    "depthwise_elements",
    "depthwise_gradient_elements",
    "depthwise_packed_elements",
    "depthwise_stretches",
    "depthwise_weight_gradients",
    "fold_bias",
    "is_clamp",
    "lift",
    "pack_depthwise",
]
