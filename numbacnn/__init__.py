"""Convolutional networks in Python: every kernel compiled by Numba, every layer a plugin.

Names are imported when they are first used, so that ``import numbacnn`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAYERS = {
    "conv": "Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose DepthwiseConv1D DepthwiseConv2D DepthwiseConv3D "
    "SeparableConv1D SeparableConv2D SeparableConv3D",
    "dense": "Dense",
    "embedding": "Embedding",
    "pool": "MaxPool1D MaxPool2D MaxPool3D AveragePool1D AveragePool2D AveragePool3D LpPool1D LpPool2D LpPool3D "
    "GlobalAveragePool1D GlobalAveragePool2D GlobalAveragePool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D "
    "AdaptiveAveragePool1D AdaptiveAveragePool2D AdaptiveAveragePool3D AdaptiveMaxPool1D AdaptiveMaxPool2D AdaptiveMaxPool3D",
    "norm": "BatchNorm LayerNorm GroupNorm InstanceNorm LocalResponseNorm",
    "dropout": "Dropout SpatialDropout StochasticDepth",
    "activation": "Activation PReLU Softmax LogSoftmax activation",
    "merge": "Add Subtract Multiply Maximum Concatenate",
    "shape": "Split Slice Flatten Reshape Permute ZeroPad Crop DepthToSpace SpaceToDepth ChannelShuffle Scale Identity",
    "resize": "Upsample",
    "base": "Layer Parameter Buffer",
}
_NAMES = {
    "graph.tensor": "Input Tensor scope",
    "model": "Model Sequential load create",
    "training.trainer": "Trainer TrainingInterrupted",
    "training.optimizers": "SGD Adam AdamW RMSprop Adagrad",
    "training.losses": "SoftmaxCrossEntropy MultiClassHinge BinaryCrossEntropy MeanSquaredError MeanAbsoluteError Huber",
    "training.callbacks": "Callback CSVLogger EarlyStopping LambdaCallback ModelCheckpoint",
    "training.transfer": "ProgressiveUnfreezing layer_groups",
    "data.dataset": "ArrayDataset",
    "plugin.hookspecs": "hookimpl",
    "kernels.jit": "kernel inline",
    "simd": "where",
    "layers.initializers": "Initializer Constant Normal TruncatedNormal Uniform VarianceScaling Orthogonal",
    "errors": "NumbacnnError ConfigError ShapeError DataError WeightsError PluginError DivergenceError UnknownNameError",
}
_MODULES = ["callbacks", "metrics", "schedules"]  # for names that clash (Constant, MeanSquaredError) or are rare
_HOME = {name: f".layers.{module}" for module, names in _LAYERS.items() for name in names.split()}
_HOME |= {name: f".{module}" for module, names in _NAMES.items() for name in names.split()}
_HOME |= {name: f".training.{name}" for name in _MODULES}

__all__ = [  # written out, because type checkers read it
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdaptiveAveragePool1D",
    "AdaptiveAveragePool2D",
    "AdaptiveAveragePool3D",
    "AdaptiveMaxPool1D",
    "AdaptiveMaxPool2D",
    "AdaptiveMaxPool3D",
    "Add",
    "ArrayDataset",
    "AveragePool1D",
    "AveragePool2D",
    "AveragePool3D",
    "BatchNorm",
    "BinaryCrossEntropy",
    "Buffer",
    "CSVLogger",
    "Callback",
    "ChannelShuffle",
    "Concatenate",
    "ConfigError",
    "Constant",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Crop",
    "DataError",
    "Dense",
    "DepthToSpace",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "DepthwiseConv3D",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Flatten",
    "GlobalAveragePool1D",
    "GlobalAveragePool2D",
    "GlobalAveragePool3D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPool3D",
    "GroupNorm",
    "Huber",
    "Identity",
    "Initializer",
    "Input",
    "InstanceNorm",
    "LambdaCallback",
    "Layer",
    "LayerNorm",
    "LocalResponseNorm",
    "LogSoftmax",
    "LpPool1D",
    "LpPool2D",
    "LpPool3D",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
    "Maximum",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Model",
    "ModelCheckpoint",
    "MultiClassHinge",
    "Multiply",
    "Normal",
    "NumbacnnError",
    "Orthogonal",
    "PReLU",
    "Parameter",
    "Permute",
    "PluginError",
    "ProgressiveUnfreezing",
    "RMSprop",
    "Reshape",
    "Scale",
    "SeparableConv1D",
    "SeparableConv2D",
    "SeparableConv3D",
    "Sequential",
    "ShapeError",
    "Slice",
    "Softmax",
    "SoftmaxCrossEntropy",
    "SpaceToDepth",
    "SpatialDropout",
    "Split",
    "StochasticDepth",
    "Subtract",
    "Tensor",
    "Trainer",
    "TrainingInterrupted",
    "TruncatedNormal",
    "Uniform",
    "UnknownNameError",
    "Upsample",
    "VarianceScaling",
    "WeightsError",
    "ZeroPad",
    "__version__",
    "activation",
    "callbacks",
    "create",
    "hookimpl",
    "inline",
    "kernel",
    "layer_groups",
    "list_architectures",
    "list_augmentations",
    "list_datasets",
    "list_layers",
    "list_plugins",
    "load",
    "metrics",
    "schedules",
    "scope",
    "set_num_threads",
    "where",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOME[name], __name__)
    thing = globals()[name] = module if name in _MODULES else getattr(module, name)
    return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def list_layers() -> list[str]:
    """Names of all layers, those of plugins included."""
    return _registered("layer")


def list_architectures() -> list[str]:
    """Names that :func:`create` knows."""
    return _registered("architecture")


def list_augmentations() -> list[str]:
    """Names of all augmentations."""
    return _registered("augmentation")


def list_datasets() -> list[str]:
    """Names of all data sets."""
    return _registered("dataset")


def list_plugins() -> list[str]:
    """Names of all installed plugins, working or not; ``numbacnn plugins`` tells more."""
    from .plugin import registry

    return sorted({plugin.name for plugin in registry.plugins()})


def _registered(kind: str) -> list[str]:
    from .plugin import registry

    return registry.names(kind)


def set_num_threads(count: int) -> None:
    """Number of threads that kernels use from now on."""
    from . import kernels

    kernels.jit.set_num_threads(count)


if TYPE_CHECKING:
    from .data.dataset import ArrayDataset
    from .errors import (
        ConfigError,
        DataError,
        DivergenceError,
        NumbacnnError,
        PluginError,
        ShapeError,
        UnknownNameError,
        WeightsError,
    )
    from .graph.tensor import Input, Tensor, scope
    from .kernels.jit import inline, kernel
    from .layers.activation import Activation, LogSoftmax, PReLU, Softmax, activation
    from .layers.base import Buffer, Layer, Parameter
    from .layers.conv import (
        Conv1D,
        Conv1DTranspose,
        Conv2D,
        Conv2DTranspose,
        Conv3D,
        Conv3DTranspose,
        DepthwiseConv1D,
        DepthwiseConv2D,
        DepthwiseConv3D,
        SeparableConv1D,
        SeparableConv2D,
        SeparableConv3D,
    )
    from .layers.dense import Dense
    from .layers.dropout import Dropout, SpatialDropout, StochasticDepth
    from .layers.embedding import Embedding
    from .layers.initializers import Constant, Initializer, Normal, Orthogonal, TruncatedNormal, Uniform, VarianceScaling
    from .layers.merge import Add, Concatenate, Maximum, Multiply, Subtract
    from .layers.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, LocalResponseNorm
    from .layers.pool import (
        AdaptiveAveragePool1D,
        AdaptiveAveragePool2D,
        AdaptiveAveragePool3D,
        AdaptiveMaxPool1D,
        AdaptiveMaxPool2D,
        AdaptiveMaxPool3D,
        AveragePool1D,
        AveragePool2D,
        AveragePool3D,
        GlobalAveragePool1D,
        GlobalAveragePool2D,
        GlobalAveragePool3D,
        GlobalMaxPool1D,
        GlobalMaxPool2D,
        GlobalMaxPool3D,
        LpPool1D,
        LpPool2D,
        LpPool3D,
        MaxPool1D,
        MaxPool2D,
        MaxPool3D,
    )
    from .layers.resize import Upsample
    from .layers.shape import (
        ChannelShuffle,
        Crop,
        DepthToSpace,
        Flatten,
        Identity,
        Permute,
        Reshape,
        Scale,
        Slice,
        SpaceToDepth,
        Split,
        ZeroPad,
    )
    from .model import Model, Sequential, create, load
    from .plugin.hookspecs import hookimpl
    from .simd import where
    from .training import callbacks, metrics, schedules
    from .training.callbacks import Callback, CSVLogger, EarlyStopping, LambdaCallback, ModelCheckpoint
    from .training.losses import BinaryCrossEntropy, Huber, MeanAbsoluteError, MeanSquaredError, MultiClassHinge, SoftmaxCrossEntropy
    from .training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
    from .training.trainer import Trainer, TrainingInterrupted
    from .training.transfer import ProgressiveUnfreezing, layer_groups
