"""What numbacnn itself provides, by the same hooks that plugins use. Dotted strings only: nothing is imported."""

from __future__ import annotations

from collections.abc import Iterator

from .hookspecs import hookimpl
from .specs import ActivationSpec, CallbackSpec, LayerSpec, LossSpec, MetricSpec, OptimizerSpec, ScheduleSpec

LAYERS = {
    "conv": "Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose DepthwiseConv1D DepthwiseConv2D DepthwiseConv3D "
    "SeparableConv1D SeparableConv2D SeparableConv3D",
    "dense": "Dense",
    "pool": "MaxPool1D MaxPool2D MaxPool3D AveragePool1D AveragePool2D AveragePool3D LpPool1D LpPool2D LpPool3D "
    "GlobalAveragePool1D GlobalAveragePool2D GlobalAveragePool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D "
    "AdaptiveAveragePool1D AdaptiveAveragePool2D AdaptiveAveragePool3D AdaptiveMaxPool1D AdaptiveMaxPool2D AdaptiveMaxPool3D",
    "norm": "BatchNorm LayerNorm GroupNorm InstanceNorm LocalResponseNorm",
    "dropout": "Dropout SpatialDropout StochasticDepth",
    "activation": "Activation PReLU Softmax LogSoftmax",
    "merge": "Add Subtract Multiply Maximum Concatenate",
    "shape": "Split Slice Flatten Reshape Permute ZeroPad Crop DepthToSpace SpaceToDepth ChannelShuffle Scale Identity",
    "resize": "Upsample",
}
ACTIVATIONS: dict[str, str] = {}
OPTIMIZERS: dict[str, str] = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
LOSSES: dict[str, str] = {
    "softmax_cross_entropy": "SoftmaxCrossEntropy",
    "multi_class_hinge": "MultiClassHinge",
    "binary_cross_entropy": "BinaryCrossEntropy",
    "mean_squared_error": "MeanSquaredError",
    "mean_absolute_error": "MeanAbsoluteError",
    "huber": "Huber",
}
SCHEDULES: dict[str, str] = {}
METRICS: dict[str, str] = {}
CALLBACKS: dict[str, str] = {}


@hookimpl
def numbacnn_layers() -> Iterator[LayerSpec]:
    for module, names in LAYERS.items():
        for name in names.split():
            yield LayerSpec(name, f"numbacnn.layers.{module}:{name}")


@hookimpl
def numbacnn_activations() -> Iterator[ActivationSpec]:
    for name, attribute in ACTIVATIONS.items():
        yield ActivationSpec(name, f"numbacnn.layers.activation:{attribute}")


@hookimpl
def numbacnn_optimizers() -> Iterator[OptimizerSpec]:
    for name, attribute in OPTIMIZERS.items():
        yield OptimizerSpec(name, f"numbacnn.training.optimizers:{attribute}")


@hookimpl
def numbacnn_losses() -> Iterator[LossSpec]:
    for name, attribute in LOSSES.items():
        yield LossSpec(name, f"numbacnn.training.losses:{attribute}")


@hookimpl
def numbacnn_schedules() -> Iterator[ScheduleSpec]:
    for name, attribute in SCHEDULES.items():
        yield ScheduleSpec(name, f"numbacnn.training.schedules:{attribute}")


@hookimpl
def numbacnn_metrics() -> Iterator[MetricSpec]:
    for name, attribute in METRICS.items():
        yield MetricSpec(name, f"numbacnn.training.metrics:{attribute}")


@hookimpl
def numbacnn_callbacks() -> Iterator[CallbackSpec]:
    for name, attribute in CALLBACKS.items():
        yield CallbackSpec(name, f"numbacnn.training.callbacks:{attribute}")
