"""Losses: configuration, checks of targets, and the kernels that give the loss of a batch and its gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import ConfigError, DataError, ShapeError
from . import named

BLOCK = 8192  # elements that one thread works on at a time


class Loss:
    """Base of all losses: a frozen dataclass with configuration.

    An author defines :meth:`compute`, and :meth:`targets` where targets are not just numbers shaped like the outputs.
    A ``recordable`` loss's ``compute`` does nothing but arithmetic on shapes and calls of kernels; the trainer then runs
    it once per plan, and afterwards only the kernels. ``cuda`` names, as ``"package.module:function"``, what does the same on a GPU: a
    function ``(loss, outputs, targets, gradient, total, scale)`` of arrays there.
    """

    recordable: ClassVar[bool] = False
    cuda: ClassVar[str | None] = None

    def targets(self, labels: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """``labels`` as the array that :meth:`compute` takes, batch first, for outputs of that ``shape`` (batch first) and ``dtype``.
        Raises ShapeError or DataError for labels that do not fit."""
        labels = np.asarray(labels)
        if labels.shape != tuple(shape):
            raise ShapeError(f"{self.name} got targets of shape {labels.shape}; the model's outputs have shape {tuple(shape)}.")
        return np.ascontiguousarray(labels, dtype)

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        """Fill ``gradient`` (shaped like ``outputs``) with ``scale`` times the gradient of the batch's loss, and ``total``
        (float64) with ``scale`` times the loss and the number that the sum was divided by, the weight of this batch in
        the mean over several, which follows from ``targets``."""
        raise NotImplementedError(f"{type(self).__name__} does not define compute")

    @property
    def name(self) -> str:
        """How messages speak of this loss."""
        return type(self).__name__

    def __call__(self, outputs: Any, labels: Any) -> float:
        """The loss of a batch."""
        return self.value_and_gradient(outputs, labels)[0]

    def value_and_gradient(self, outputs: Any, labels: Any) -> tuple[float, np.ndarray]:
        """The loss of a batch and its gradient with respect to the outputs."""
        outputs = np.ascontiguousarray(outputs)
        if outputs.dtype not in (np.float32, np.float64):
            outputs = outputs.astype(np.float32)
        gradient, total = np.empty_like(outputs), np.zeros(2)
        self.compute(outputs, self.targets(labels, outputs.shape, outputs.dtype), gradient, total)
        return float(total[0]), gradient


def resolve(loss: str | Loss) -> Loss:
    """A loss from a registered name (with its default options), or the loss itself."""
    return named.resolve("loss", Loss, loss, "'softmax_cross_entropy' or nc.Huber()")


def _partials(elements: int, rows: int) -> np.ndarray:
    """A float64 cell for every block of rows."""
    return np.zeros(max(1, min(rows, elements // BLOCK)))


def class_indices(loss: Loss, labels: np.ndarray, shape: tuple[int, ...], ignored: int | None = None) -> np.ndarray:
    """Labels as dense int64, checked against the number of classes."""
    if labels.dtype.kind not in "iu":
        raise DataError(f"{loss.name} takes integer class labels of shape {shape[:-1]}; these are {labels.dtype} of shape {labels.shape}.")
    labels = np.ascontiguousarray(labels, np.int64)
    classes = shape[-1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        wrong = labels[((labels < 0) | (labels >= classes)) & (True if ignored is None else labels != ignored)]
        if wrong.size:
            raise DataError(f"{loss.name} got the label {wrong[0]}; the model has {classes} outputs, for labels 0 to {classes - 1}.")
    return labels


def _weights(loss: Loss, weights: Sequence[float] | None, classes: int, dtype: Any, option: str = "class_weights") -> np.ndarray:
    if weights is None:
        return np.ones(classes, dtype)
    if len(weights) != classes:
        raise ShapeError(f"{loss.name} has {len(weights)} {option}; the model has {classes} outputs.")
    return np.asarray(weights, dtype)


def _frozen_weights(loss: Any, option: str) -> None:
    """Keep a sequence of numbers as a tuple, so that the loss stays hashable; refuse negative ones."""
    given = getattr(loss, option)
    if given is None:
        return
    numbers = tuple(float(w) for w in np.ravel(given))
    if not all(w >= 0 and np.isfinite(w) for w in numbers):
        raise ConfigError(f"{loss.name}: {option} must be finite and not negative; {list(numbers)} were given.")
    object.__setattr__(loss, option, numbers)


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of the softmax of outputs ``(N, ..., K)``, the logits of K classes.

    Labels are integers ``(N, ...)``, or distributions over the classes ``(N, ..., K)`` (soft targets, one-hot).
    ``label_smoothing`` e replaces a target t by ``(1 - e) t + e / K`` (Szegedy et al., 2016). With integers the loss is
    the mean weighted by the ``class_weights`` of the labels, and ``ignore_index`` is a label that counts for nothing (a
    batch of nothing else has loss 0). With distributions it is the plain mean over the samples. As PyTorch's
    ``cross_entropy``.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    ignore_index: int | None = None

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.loss:softmax_cross_entropy"

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"SoftmaxCrossEntropy: label_smoothing must be at least 0 and below 1; {self.label_smoothing} was given.")
        _frozen_weights(self, "class_weights")

    def targets(self, labels: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        labels = np.asarray(labels)
        if labels.shape == tuple(shape[:-1]):
            return class_indices(self, labels, shape, self.ignore_index)
        if labels.shape == tuple(shape):
            return np.ascontiguousarray(labels, dtype)
        raise ShapeError(
            f"SoftmaxCrossEntropy got labels of shape {labels.shape}; for outputs of shape {tuple(shape)} it takes "
            f"integers of shape {tuple(shape[:-1])} or distributions of shape {tuple(shape)}."
        )

    def weights(self, classes: int, dtype: Any) -> np.ndarray:
        """The weight of each class. Raises ShapeError where there are others than ``classes``."""
        return _weights(self, self.class_weights, classes, dtype)

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        classes = outputs.shape[-1]
        weights = self.weights(classes, outputs.dtype)
        flat, slopes = outputs.reshape(-1, classes), gradient.reshape(-1, classes)
        partials = _partials(flat.size, len(flat))
        if targets.ndim == outputs.ndim:
            soft = targets.reshape(-1, classes)
            kernels.loss.softmax_cross_entropy_soft(flat, soft, weights, float(self.label_smoothing), float(scale), slopes, partials, total)
            return
        ignored = -(2**62) if self.ignore_index is None else int(self.ignore_index)
        kernels.loss.softmax_cross_entropy(
            flat, targets.reshape(-1), weights, float(self.label_smoothing), ignored, float(scale), slopes, partials, total
        )


@dataclasses.dataclass(frozen=True)
class MultiClassHinge(Loss):
    """Multi-class support vector machine (Crammer and Singer's margin, summed as by Weston and Watkins, 1999):
    ``sum over j != y of max(0, s_j - s_y + margin)``, averaged over the samples.

    Outputs ``(N, ..., K)``, integer labels ``(N, ...)``. ``squared`` takes the squares of the terms. ``class_weights``
    multiply the loss of a sample by the weight of its label. ``average_classes`` divides by K too, as PyTorch's
    ``multi_margin_loss`` does.
    """

    margin: float = 1.0
    squared: bool = False
    class_weights: tuple[float, ...] | None = None
    average_classes: bool = False

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.loss:multi_class_hinge"

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ConfigError(f"MultiClassHinge: margin must be positive; {self.margin} was given.")
        _frozen_weights(self, "class_weights")

    def targets(self, labels: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        labels = np.asarray(labels)
        if labels.shape != tuple(shape[:-1]):
            raise ShapeError(
                f"MultiClassHinge got labels of shape {labels.shape}; for outputs of shape {tuple(shape)} it takes integers of "
                f"shape {tuple(shape[:-1])}."
            )
        return class_indices(self, labels, shape)

    def weights(self, classes: int, dtype: Any) -> np.ndarray:
        """The weight of each class. Raises ShapeError where there are others than ``classes``."""
        return _weights(self, self.class_weights, classes, dtype)

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        classes = outputs.shape[-1]
        weights = self.weights(classes, outputs.dtype)
        flat, slopes = outputs.reshape(-1, classes), gradient.reshape(-1, classes)
        divisor = float(len(flat) * (classes if self.average_classes else 1))
        partials = _partials(flat.size, len(flat))
        kernels.loss.multi_class_hinge(
            flat, targets.reshape(-1), weights, float(self.margin), self.squared, divisor, float(scale), slopes, partials, total
        )


def _pointwise(kernel: Any, constants: Any, arrays: tuple, total: np.ndarray, scale: float) -> None:
    """Run a kernel of a loss of single numbers; ``constants`` belong to the last axis, or one to all elements."""
    outputs, targets, gradient = (array.reshape(-1) for array in arrays)
    period = len(constants)
    cycle = np.resize(np.asarray(constants, outputs.dtype), period + 64)
    kernel(outputs, targets, cycle, period, float(scale), gradient, _partials(outputs.size, outputs.size), total)


@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of the sigmoid of outputs (logits), the mean over all elements; targets are probabilities shaped like
    the outputs, and for outputs ``(N, ..., 1)`` labels ``(N, ...)`` do as well.

    ``positive_weight``, one number or one per channel of the last axis, multiplies the part of the positive class:
    ``-(w t log sigmoid(x) + (1 - t) log(1 - sigmoid(x)))``. As PyTorch's ``binary_cross_entropy_with_logits``.
    """

    positive_weight: float | tuple[float, ...] | None = None

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.loss:binary_cross_entropy"

    def __post_init__(self) -> None:
        _frozen_weights(self, "positive_weight")

    def targets(self, labels: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        labels = np.asarray(labels)
        if shape[-1] == 1 and labels.shape == tuple(shape[:-1]):
            labels = labels[..., None]
        targets = super().targets(labels, shape, dtype)
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            raise DataError(f"BinaryCrossEntropy takes targets from 0 to 1; these go from {targets.min():g} to {targets.max():g}.")
        return targets

    def weights(self, channels: int, dtype: Any) -> np.ndarray:
        """The weight of the positive class: one number, or one per channel. Raises ShapeError where there are others than ``channels``."""
        given: Any = self.positive_weight or (1.0,)
        return np.asarray(given, dtype) if len(given) == 1 else _weights(self, given, channels, dtype, "positive_weight numbers")

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        weights = self.weights(outputs.shape[-1], outputs.dtype)
        _pointwise(kernels.loss.binary_cross_entropy, weights, (outputs, targets, gradient), total, scale)


@dataclasses.dataclass(frozen=True)
class MeanSquaredError(Loss):
    """``(output - target)^2``, the mean over all elements."""

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.loss:mean_squared_error"

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        _pointwise(kernels.loss.mean_squared_error, (0.0,), (outputs, targets, gradient), total, scale)


@dataclasses.dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    """``|output - target|``, the mean over all elements. The gradient is 0 where they are equal."""

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.loss:mean_absolute_error"

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        _pointwise(kernels.loss.mean_absolute_error, (0.0,), (outputs, targets, gradient), total, scale)


@dataclasses.dataclass(frozen=True)
class Huber(Loss):
    """Half the squared error up to ``delta``, beyond it ``delta (|error| - delta / 2)`` (Huber, 1964); the mean over all
    elements."""

    delta: float = 1.0

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.loss:huber"

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ConfigError(f"Huber: delta must be positive; {self.delta} was given.")

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        _pointwise(kernels.loss.huber, (self.delta,), (outputs, targets, gradient), total, scale)
