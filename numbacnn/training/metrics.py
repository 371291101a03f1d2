"""Metrics: how good the outputs of a batch are, in numbers that people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..errors import ConfigError, ShapeError
from . import named

RESERVED = ("epoch", "loss", "rate", "seconds", "waited_seconds", "images_per_second")  # entries of the epochs' records that are no metrics


@dataclasses.dataclass(frozen=True)
class Metric:
    """Base of all metrics: a frozen dataclass with :meth:`measure`. Its value over many batches is the sum of what
    ``measure`` gives first over the sum of what it gives second. ``smaller_is_better`` says which way it improves."""

    smaller_is_better: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its key in the records of epochs."""
        raise NotImplementedError(f"{type(self).__name__} does not define name")

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Sum and count over a batch, for the model's first output ``(N, ...)`` and its labels."""
        raise NotImplementedError(f"{type(self).__name__} does not define measure")


@dataclasses.dataclass(frozen=True)
class Accuracy(Metric):
    """Share of the samples (or pixels) whose largest output is that of their label. Labels are classes, or distributions
    over the classes, whose largest counts. With one output per sample, its sign decides. Samples whose label is the class
    ``ignore_index`` don't count."""

    ignore_index: int | None = None

    @property
    def name(self) -> str:
        return "accuracy"

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        if outputs.shape[-1] == 1:
            labels = labels.reshape(outputs.shape[:-1])
            right = (outputs[..., 0] > 0) == (labels > 0.5)
            return _share(right, labels, self.ignore_index)
        if labels.ndim == outputs.ndim:
            return _share(outputs.argmax(axis=-1) == labels.argmax(axis=-1))
        return _share(outputs.argmax(axis=-1) == labels, labels, self.ignore_index)


@dataclasses.dataclass(frozen=True)
class TopKAccuracy(Metric):
    """Share of the samples (or pixels) whose label is among the ``k`` largest outputs. Labels are as for :class:`Accuracy`."""

    k: int = 5
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"TopKAccuracy: k must be at least 1; {self.k} was given.")

    @property
    def name(self) -> str:
        return f"top_{self.k}_accuracy"

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        ignored = None if labels.ndim == outputs.ndim else self.ignore_index
        labels = labels.argmax(axis=-1) if labels.ndim == outputs.ndim else labels
        classes = labels if ignored is None else np.where(labels == ignored, 0, labels)
        own = np.take_along_axis(outputs, classes[..., None], axis=-1)
        larger = np.count_nonzero(outputs > own, axis=-1)
        return _share(larger < self.k, labels, ignored)


def _share(right: np.ndarray, labels: np.ndarray | None = None, ignored: int | None = None) -> tuple[float, float]:
    """How many are right, of how many, without those whose label is ``ignored``."""
    if labels is None or ignored is None:
        return float(np.count_nonzero(right)), float(right.size)
    counted = labels != ignored
    return float(np.count_nonzero(right & counted)), float(np.count_nonzero(counted))


class _Error(Metric):
    """Mean of an error over all elements. Outputs ``(N, ..., 1)`` may have labels ``(N, ...)``."""

    smaller_is_better: ClassVar[bool] = True

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        if outputs.shape == (*labels.shape, 1):
            labels = labels[..., None]
        if labels.shape != outputs.shape:
            raise ShapeError(f"{self.name} got labels of shape {labels.shape}; it takes targets of the outputs' shape {outputs.shape}.")
        return float(self.error(outputs.astype(np.float64) - labels).sum()), float(outputs.size)

    def error(self, difference: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class MeanAbsoluteError(_Error):
    """Mean of ``|output - target|``."""

    @property
    def name(self) -> str:
        return "mean_absolute_error"

    def error(self, difference: np.ndarray) -> np.ndarray:
        return np.abs(difference)


@dataclasses.dataclass(frozen=True)
class MeanSquaredError(_Error):
    """Mean of ``(output - target)^2``."""

    @property
    def name(self) -> str:
        return "mean_squared_error"

    def error(self, difference: np.ndarray) -> np.ndarray:
        return np.square(difference)


def resolve(metric: str | Metric) -> Metric:
    """A metric from a registered name (with its default options), or the metric itself."""
    return named.resolve("metric", Metric, metric, "'accuracy' or nc.metrics.TopKAccuracy(3)")


def resolve_all(metrics: str | Metric | Sequence[str | Metric]) -> list[Metric]:
    """Metrics from one or several of what :func:`resolve` takes. Raises ConfigError for a name that two have, or that the records of
    epochs use for something else."""
    found = [resolve(metric) for metric in ([metrics] if isinstance(metrics, (str, Metric)) else metrics)]
    names = [metric.name for metric in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two metrics are called {name!r}; each needs a name of its own.")
        if name in RESERVED or name.startswith((_LOSS, "val_")):
            raise ConfigError(f"A metric is called {name!r}; the records of epochs use that name for something else.")
    return found


_LOSS = "loss of output "


class Means:
    """Sums and counts of several named values over batches, and of the loss of each output."""

    def __init__(self, sums: dict[str, list[float]] | None = None):
        self.sums = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, name: str, total: float, count: float) -> None:
        pair = self.sums.setdefault(name, [0.0, 0.0])
        pair[0] += float(total)
        pair[1] += float(count)

    def add_losses(self, totals: np.ndarray) -> None:
        """Add a batch's losses: for each output the loss and its divisor, as :meth:`Loss.compute` leaves them."""
        for output, (loss, divisor) in enumerate(totals):
            self.add(f"{_LOSS}{output}", loss * divisor, divisor)

    def values(self) -> dict[str, float]:
        """The means so far, ``"loss"`` (the sum of the outputs' mean losses) first; without anything counted, NaN."""
        means = {name: total / count if count else float("nan") for name, (total, count) in self.sums.items()}
        losses = [means.pop(name) for name in self.sums if name.startswith(_LOSS)]
        return {"loss": sum(losses), **means} if losses else means

    def measure(self, metrics: Sequence[Metric], outputs: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch's metrics."""
        for metric in metrics:
            self.add(metric.name, *metric.measure(outputs, labels))
