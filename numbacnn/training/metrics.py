"""Metrics: how good the outputs of a batch are, in numbers that people read."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..plugin import registry


@dataclasses.dataclass(frozen=True)
class Metric:
    """Base of all metrics: a frozen dataclass with :meth:`measure`. Its value over many batches is the sum of what
    ``measure`` gives first over the sum of what it gives second."""

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
    over the classes, whose largest counts. With one output per sample, its sign decides."""

    ignore_index: int | None = None

    @property
    def name(self) -> str:
        return "accuracy"

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        if outputs.shape[-1] == 1:
            found, labels = outputs.reshape(-1) > 0, labels.reshape(-1) > 0.5
        else:
            found = outputs.argmax(axis=-1)
            labels = labels.argmax(axis=-1) if labels.ndim == outputs.ndim else labels
        right = found == labels
        if self.ignore_index is None:
            return float(np.count_nonzero(right)), float(right.size)
        counted = labels != self.ignore_index
        return float(np.count_nonzero(right & counted)), float(np.count_nonzero(counted))


@dataclasses.dataclass(frozen=True)
class TopKAccuracy(Metric):
    """Share of the samples whose label is among the ``k`` largest outputs."""

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"TopKAccuracy: k must be at least 1; {self.k} was given.")

    @property
    def name(self) -> str:
        return f"top_{self.k}_accuracy"

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        labels = labels.argmax(axis=-1) if labels.ndim == outputs.ndim else labels
        own = np.take_along_axis(outputs, labels[..., None], axis=-1)
        larger = np.count_nonzero(outputs > own, axis=-1)
        return float(np.count_nonzero(larger < self.k)), float(labels.size)


class _Error(Metric):
    """Mean of an error over all elements. Outputs ``(N, ..., 1)`` may have labels ``(N, ...)``."""

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        if labels.shape != outputs.shape:
            labels = np.reshape(labels, outputs.shape)
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
    """A metric from a registered name, or the metric itself."""
    if isinstance(metric, str):
        return registry.load("metric", metric)()
    if not isinstance(metric, Metric):
        raise ConfigError(f"{metric!r} is not a metric; give a registered name, such as 'accuracy', or a Metric.")
    return metric


def smaller_is_better(name: str) -> bool:
    """Whether an entry of an epoch's record improves by getting smaller: losses and errors do."""
    return name.endswith(("loss", "error"))


class Means:
    """Sums and counts of several named values over batches."""

    def __init__(self, sums: dict[str, list[float]] | None = None):
        self.sums = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, name: str, total: float, count: float) -> None:
        pair = self.sums.setdefault(name, [0.0, 0.0])
        pair[0] += total
        pair[1] += count

    def values(self) -> dict[str, float]:
        """The means so far; without anything counted, NaN."""
        return {name: total / count if count else float("nan") for name, (total, count) in self.sums.items()}

    def measure(self, metrics: Any, outputs: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch's metrics."""
        for metric in metrics:
            self.add(metric.name, *metric.measure(outputs, labels))
