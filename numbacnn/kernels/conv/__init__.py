"""Convolution: the kernels (direct, Winograd, depthwise), their launches, and the choice between them."""

from .depthwise_launch import (
    Expansion,
    depthwise_convolve,
    depthwise_data_gradient,
    depthwise_data_gradient_elements,
    depthwise_elements,
    depthwise_gathered_shape,
    depthwise_gradient_elements,
    depthwise_packed_elements,
    depthwise_stretches,
    depthwise_weight_gradients,
    makes_expansion,
    pack_depthwise,
    takes_expansion,
)
from .direct import channel_sums, fold_bias
from .ending import is_clamp
from .launch import Prologue
from .methods import DataGradient, Forward, Method, WeightGradient
from .window import POINTWISE, Window, lift

__all__ = [
    "POINTWISE",
    "DataGradient",
    "Expansion",
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
    "depthwise_gathered_shape",
    "depthwise_gradient_elements",
    "depthwise_packed_elements",
    "depthwise_stretches",
    "depthwise_weight_gradients",
    "fold_bias",
    "is_clamp",
    "lift",
    "makes_expansion",
    "pack_depthwise",
    "takes_expansion",
]
