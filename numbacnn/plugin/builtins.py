"""What numbacnn itself provides, by the same hooks that plugins use. Dotted strings only: nothing is imported."""

from __future__ import annotations

from collections.abc import Iterator

from .hookspecs import hookimpl
from .specs import ActivationSpec, CallbackSpec, CommandSpec, LayerSpec, LossSpec, MetricSpec, OptimizerSpec, ScheduleSpec

# Names by module; "{}" stands for 1D, 2D and 3D.
LAYERS = {
    "conv": {
        "Conv{}": "convolution",
        "Conv{}Transpose": "transposed convolution",
        "DepthwiseConv{}": "convolution of each channel by itself",
        "SeparableConv{}": "depthwise convolution, then a mix of channels",
    },
    "dense": {"Dense": "matrix product over the channels"},
    "embedding": {"Embedding": "vectors for whole numbers, such as words"},
    "pool": {
        "MaxPool{}": "largest value of each window",
        "AveragePool{}": "mean of each window",
        "LpPool{}": "p-norm of each window",
        "GlobalAveragePool{}": "mean over all positions",
        "GlobalMaxPool{}": "largest value over all positions",
        "AdaptiveAveragePool{}": "mean pooling to a given size",
        "AdaptiveMaxPool{}": "max pooling to a given size",
    },
    "norm": {
        "BatchNorm": "normalise each channel over the batch",
        "LayerNorm": "normalise each position over its channels",
        "GroupNorm": "normalise groups of channels of each sample",
        "InstanceNorm": "normalise each channel of each sample",
        "LocalResponseNorm": "divide by the energy of nearby channels",
    },
    "dropout": {
        "Dropout": "drop values at random",
        "SpatialDropout": "drop channels at random",
        "StochasticDepth": "drop samples of a branch at random",
    },
    "activation": {
        "Activation": "a registered scalar function, value by value",
        "PReLU": "leaky relu with a learned slope per channel",
        "Softmax": "probabilities over the channels",
        "LogSoftmax": "logarithms of probabilities over the channels",
    },
    "merge": {
        "Add": "sum of inputs",
        "Subtract": "difference of two inputs",
        "Multiply": "product of inputs",
        "Maximum": "largest of inputs",
        "Concatenate": "inputs one after the other along an axis",
    },
    "shape": {
        "Split": "cut an axis into several outputs",
        "Slice": "part of an axis",
        "Flatten": "all axes as one",
        "Reshape": "the same numbers in another shape",
        "Permute": "axes in another order",
        "ZeroPad": "zeros around",
        "Crop": "remove borders",
        "DepthToSpace": "blocks of channels to pixels",
        "SpaceToDepth": "blocks of pixels to channels",
        "ChannelShuffle": "interleave groups of channels",
        "Scale": "multiply each channel by a learned number",
        "Identity": "the input itself",
    },
    "resize": {"Upsample": "enlarge, nearest or bilinear"},
}
ACTIVATIONS = {
    "linear": ("Linear", "x"),
    "identity": ("Linear", "x"),
    "relu": ("ReLU", "max(x, 0)"),
    "relu6": ("ReLU6", "min(max(x, 0), 6)"),
    "leaky_relu": ("LeakyReLU", "x above 0, alpha x elsewhere"),
    "elu": ("ELU", "x above 0, alpha (exp(x) - 1) elsewhere"),
    "selu": ("SELU", "elu, scaled to keep mean and variance"),
    "gelu": ("GELU", "x times the normal distribution function"),
    "gelu_tanh": ("gelu_tanh", "gelu, approximated by tanh"),
    "silu": ("SiLU", "x sigmoid(x)"),
    "swish": ("SiLU", "x sigmoid(x)"),
    "hard_swish": ("HardSwish", "x relu6(x + 3) / 6"),
    "hard_sigmoid": ("HardSigmoid", "relu6(x + 3) / 6"),
    "mish": ("Mish", "x tanh(softplus(x))"),
    "sigmoid": ("Sigmoid", "1 / (1 + exp(-x))"),
    "tanh": ("Tanh", "hyperbolic tangent"),
    "softplus": ("Softplus", "log(1 + exp(x))"),
    "prelu": ("PReLU", "leaky relu with a learned slope per channel"),
    "softmax": ("Softmax", "probabilities over the channels"),
    "log_softmax": ("LogSoftmax", "logarithms of probabilities over the channels"),
}
OPTIMIZERS = {
    "sgd": ("SGD", "stochastic gradient descent with momentum"),
    "adam": ("Adam", "adaptive moments"),
    "adamw": ("AdamW", "Adam with decoupled weight decay"),
    "rmsprop": ("RMSprop", "rates by running squares of gradients"),
    "adagrad": ("Adagrad", "rates by sums of squared gradients"),
}
LOSSES = {
    "softmax_cross_entropy": ("SoftmaxCrossEntropy", "classes, from logits"),
    "multi_class_hinge": ("MultiClassHinge", "classes, with a margin"),
    "binary_cross_entropy": ("BinaryCrossEntropy", "independent yes or no, from logits"),
    "mean_squared_error": ("MeanSquaredError", "squared differences"),
    "mean_absolute_error": ("MeanAbsoluteError", "absolute differences"),
    "huber": ("Huber", "squared near zero, absolute beyond"),
}
SCHEDULES = {
    "constant": ("Constant", "the rate as it is"),
    "step": ("Step", "multiplied every so many epochs"),
    "multi_step": ("MultiStep", "multiplied after given epochs"),
    "exponential": ("Exponential", "multiplied after every epoch"),
    "cosine": ("Cosine", "warm-up, then half a cosine down"),
    "polynomial": ("Polynomial", "warm-up, then a power of what is left of the run"),
    "linear_warmup": ("LinearWarmup", "up over the first epochs, then another schedule"),
    "one_cycle": ("OneCycle", "up and down once"),
    "reduce_on_plateau": ("ReduceOnPlateau", "multiplied when a value stops improving"),
}
METRICS = {
    "accuracy": ("Accuracy", "share of samples whose class is the largest output"),
    "top_k_accuracy": ("TopKAccuracy", "share of samples whose class is among the k largest outputs"),
    "mean_absolute_error": ("MeanAbsoluteError", "absolute differences"),
    "mean_squared_error": ("MeanSquaredError", "squared differences"),
}
CALLBACKS = {
    "early_stopping": ("callbacks:EarlyStopping", "end a run that no longer improves"),
    "csv_logger": ("callbacks:CSVLogger", "the history as a CSV file"),
    "model_checkpoint": ("callbacks:ModelCheckpoint", "save the best model"),
    "progressive_unfreezing": ("transfer:ProgressiveUnfreezing", "train the head first, then more and more layers"),
}
COMMANDS = {
    "train": "Train an architecture on a data set.",
    "evaluate": "Measure a saved model on a data set.",
    "predict": "Name what is on images.",
    "summary": "Show the layers of an architecture or a saved model.",
    "profile": "Tell where the time of a training step goes.",
    "optimize": "Measure and remember the fastest convolutions on this machine.",
    "plugins": "Show all plugins, and why one is not in use.",
    "cache": "Compiled kernels: info, clear, warm.",
    "doctor": "Show what numbacnn finds on this machine.",
}


@hookimpl
def numbacnn_layers() -> Iterator[LayerSpec]:
    for module, names in LAYERS.items():
        for pattern, summary in names.items():
            for axes in ("1D", "2D", "3D") if "{}" in pattern else ("",):
                name = pattern.format(axes)
                yield LayerSpec(name, f"numbacnn.layers.{module}:{name}", summary)


@hookimpl
def numbacnn_activations() -> Iterator[ActivationSpec]:
    for name, (attribute, summary) in ACTIVATIONS.items():
        yield ActivationSpec(name, f"numbacnn.layers.activation:{attribute}", summary)


@hookimpl
def numbacnn_optimizers() -> Iterator[OptimizerSpec]:
    for name, (attribute, summary) in OPTIMIZERS.items():
        yield OptimizerSpec(name, f"numbacnn.training.optimizers:{attribute}", summary)


@hookimpl
def numbacnn_losses() -> Iterator[LossSpec]:
    for name, (attribute, summary) in LOSSES.items():
        yield LossSpec(name, f"numbacnn.training.losses:{attribute}", summary)


@hookimpl
def numbacnn_schedules() -> Iterator[ScheduleSpec]:
    for name, (attribute, summary) in SCHEDULES.items():
        yield ScheduleSpec(name, f"numbacnn.training.schedules:{attribute}", summary)


@hookimpl
def numbacnn_metrics() -> Iterator[MetricSpec]:
    for name, (attribute, summary) in METRICS.items():
        yield MetricSpec(name, f"numbacnn.training.metrics:{attribute}", summary)


@hookimpl
def numbacnn_callbacks() -> Iterator[CallbackSpec]:
    for name, (attribute, summary) in CALLBACKS.items():
        yield CallbackSpec(name, f"numbacnn.training.{attribute}", summary)


@hookimpl
def numbacnn_cli() -> Iterator[CommandSpec]:
    for name, summary in COMMANDS.items():
        yield CommandSpec(name, f"numbacnn.cli.{name}:command", summary)
