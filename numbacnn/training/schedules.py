"""Schedules: what the rates of an optimizer are multiplied by as a run goes on.

A schedule is a pure function of where the run stands, so that a resumed run has the same rates as one that never stopped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import ConfigError
from . import named
from .history import check_mode, falls, score


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: ``step`` (of the run) and ``epoch`` are counted from 0 and have not been taken yet; ``history`` holds the
    record of each epoch so far."""

    step: int
    epoch: int
    steps_per_epoch: int
    epochs: int
    history: Sequence[Mapping[str, Any]] = ()

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Base of all schedules: a frozen dataclass with configuration and :meth:`factor`.

    ``per_step`` False says that the factor stays the same throughout an epoch, ``uses_total`` False that it does not depend on how
    long the run is, so that a resumed run may be given more epochs.
    """

    per_step: ClassVar[bool] = True
    uses_total: ClassVar[bool] = True

    def factor(self, progress: Progress) -> float:
        """What the optimizer's rates are multiplied by in step ``progress.step``."""
        raise NotImplementedError(f"{type(self).__name__} does not define factor")

    def check(self, record: Mapping[str, Any]) -> None:
        """Raise ConfigError where the record of an epoch lacks what this schedule reads."""

    def _require(self, condition: bool, sentence: str) -> None:
        if not condition:
            raise ConfigError(f"{self!r}: {sentence}")


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The rate stays as it is."""

    per_step: ClassVar[bool] = False
    uses_total: ClassVar[bool] = False

    def factor(self, progress: Progress) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class Step(Schedule):
    """Multiply by ``gamma`` every ``size`` epochs."""

    size: int = 30
    gamma: float = 0.1

    per_step: ClassVar[bool] = False
    uses_total: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._require(self.size >= 1 and self.gamma > 0, "size must be at least 1 epoch and gamma positive.")

    def factor(self, progress: Progress) -> float:
        return self.gamma ** (progress.epoch // self.size)


@dataclasses.dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiply by ``gamma`` after each of the given numbers of epochs."""

    milestones: tuple[int, ...] = (30, 60, 80)
    gamma: float = 0.1

    per_step: ClassVar[bool] = False
    uses_total: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        self._require(self.gamma > 0, "gamma must be positive.")

    def factor(self, progress: Progress) -> float:
        return self.gamma ** sum(progress.epoch >= milestone for milestone in self.milestones)


@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """Multiply by ``gamma`` after every epoch."""

    gamma: float = 0.95

    per_step: ClassVar[bool] = False
    uses_total: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._require(self.gamma > 0, "gamma must be positive.")

    def factor(self, progress: Progress) -> float:
        return self.gamma**progress.epoch


def _warmed(progress: Progress, epochs: float, start: float) -> tuple[float | None, float]:
    """The factor while the warm-up of ``epochs`` lasts, else None; and how far the rest of the run is, from 0 to 1."""
    warmup = epochs * progress.steps_per_epoch
    if progress.step < warmup:
        return start + (1.0 - start) * (progress.step + 1) / (warmup + 1), 0.0
    return None, min(1.0, (progress.step - warmup) / max(1.0, progress.total - warmup))


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 down to ``final`` along half a cosine (Loshchilov & Hutter, 2017), after a linear ``warmup`` of that many
    epochs."""

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        self._require(self.warmup >= 0 and self.final >= 0, "warmup and final must be at least 0.")

    def factor(self, progress: Progress) -> float:
        warming, done = _warmed(progress, self.warmup, 0.0)
        return warming if warming is not None else self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """From 1 down to ``final`` as ``(1 - t) ** power``, where t is how far the run is, after a linear ``warmup`` of that
    many epochs."""

    power: float = 1.0
    final: float = 0.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        self._require(self.power > 0 and self.final >= 0 and self.warmup >= 0, "power must be positive, final and warmup at least 0.")

    def factor(self, progress: Progress) -> float:
        warming, done = _warmed(progress, self.warmup, 0.0)
        return warming if warming is not None else self.final + (1.0 - self.final) * (1.0 - done) ** self.power


@dataclasses.dataclass(frozen=True)
class LinearWarmup(Schedule):
    """From ``start`` up to 1 over the first ``epochs``, and from then on what the schedule ``then`` says."""

    epochs: float = 5.0
    start: float = 0.0
    then: Schedule = Constant()

    @property
    def uses_total(self) -> bool:  # type: ignore[override]
        return self.then.uses_total

    def check(self, record: Mapping[str, Any]) -> None:
        self.then.check(record)

    def __post_init__(self) -> None:
        self._require(self.epochs >= 0 and self.start >= 0, "epochs and start must be at least 0.")
        object.__setattr__(self, "then", resolve(self.then))

    def factor(self, progress: Progress) -> float:
        warming, _ = _warmed(progress, self.epochs, self.start)
        return warming if warming is not None else self.then.factor(progress)


@dataclasses.dataclass(frozen=True)
class OneCycle(Schedule):
    """From ``start`` up to 1 over the share ``rise`` of the run, then down to ``final``, both along half a cosine (Smith &
    Topin, 2018)."""

    rise: float = 0.3
    start: float = 0.04
    final: float = 4e-6

    def __post_init__(self) -> None:
        self._require(0 <= self.rise < 1 and self.start >= 0 and self.final >= 0, "rise must be from 0 to 1, start and final at least 0.")

    def factor(self, progress: Progress) -> float:
        top = self.rise * progress.total - 1.0
        if progress.step < top:
            return self._between(self.start, 1.0, progress.step / top)
        top = max(top, 0.0)
        return self._between(1.0, self.final, min(1.0, (progress.step - top) / max(1.0, progress.total - 1.0 - top)))

    @staticmethod
    def _between(start: float, end: float, done: float) -> float:
        return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclasses.dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Multiply by ``gamma``, down to ``minimum``, when ``monitor`` has not improved for more than ``patience`` epochs.

    ``monitor`` names an entry of the epochs' records. With ``mode`` ``"min"`` it improves by falling below ``1 - threshold`` times
    the best so far, with ``"max"`` by rising above ``1 + threshold`` times it; ``"auto"`` does what suits the loss or metric. NaN is no
    improvement, and epochs without the entry don't count. After a reduction, ``cooldown`` epochs aren't counted. As PyTorch's.
    """

    monitor: str = "val_loss"
    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    minimum: float = 0.0
    mode: str = "auto"

    per_step: ClassVar[bool] = False
    uses_total: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_mode(self.mode)
        self._require(
            0 < self.gamma < 1 and 0 <= self.threshold < 1 and self.patience >= 0 and self.cooldown >= 0,
            "gamma must lie between 0 and 1, threshold from 0 to 1, patience and cooldown from 0 on.",
        )

    def factor(self, progress: Progress) -> float:
        falling = falls(progress.history, self.monitor, self.mode)
        factor, best, bad, cooling = 1.0, -math.inf, 0, 0
        for value in (score(record[self.monitor], falling) for record in progress.history if self.monitor in record):
            if value > best * (1 - self.threshold if falling else 1 + self.threshold):
                best, bad = value, 0
            else:
                bad += 1
            if cooling:
                cooling, bad = cooling - 1, 0
            if bad > self.patience:
                factor, cooling, bad = max(factor * self.gamma, self.minimum), self.cooldown, 0
        return factor

    def check(self, record: Mapping[str, Any]) -> None:
        if self.monitor not in record:
            raise ConfigError(f"ReduceOnPlateau watches {self.monitor!r}; the epochs have {', '.join(record)}.")


def resolve(schedule: str | Schedule) -> Schedule:
    """A schedule from a registered name (with its default options), or the schedule itself."""
    return named.resolve("schedule", Schedule, schedule, "'cosine' or nc.schedules.Cosine(warmup=5)")
