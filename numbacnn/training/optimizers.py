"""Optimizers: frozen configuration, and the Updater that applies one to the parameters of a model."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import numbers as numeric
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .. import arrays, kernels
from ..errors import ConfigError, UnknownNameError
from . import named

TASK = 1 << 14  # elements that one thread updates at a time
NUMBERS = 16  # float64 cells through which a step's numbers reach the kernel
GROUP_OPTIONS = ("rate", "rate_factor", "weight_decay", "l1")

Groups = Iterable[tuple[str, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Base of all optimizers: a frozen dataclass with configuration and a ``rate``.

    ``weight_decay``, ``l1``  factors of the L2 and L1 penalties. Their gradients are added to the loss's; with ``decoupled``
                  weight decay instead multiplies the parameters by ``1 - rate * weight_decay`` (Loshchilov & Hutter, 2019).
                 Both spare biases and the parameters of normalisation unless ``decay_all`` (which is what PyTorch does).
    ``clip_value``  bounds each element of the gradient, ``clip_norm`` then the Euclidean norm of all gradients together.
    ``groups``  pairs of a pattern of parameter names (``"stage1.*"``) and a mapping with ``rate``, ``rate_factor`` (of the
                  optimizer's rate), ``weight_decay`` or ``l1`` for the parameters that match; the first pattern that matches
                  counts. :func:`numbacnn.layer_groups` makes some.

    An author of an optimizer defines :attr:`slots`, :meth:`numbers` and :meth:`update`. A ``recordable`` optimizer's
    ``update`` does nothing but call kernels; it is then called once, and afterwards only the kernels run. ``cuda`` names, as
    ``"package.module:function"``, what does the same as ``update`` on a GPU, with arrays there.
    """

    weight_decay: float = dataclasses.field(default=0.0, kw_only=True)
    l1: float = dataclasses.field(default=0.0, kw_only=True)
    decoupled: bool = dataclasses.field(default=False, kw_only=True)
    decay_all: bool = dataclasses.field(default=False, kw_only=True)
    clip_norm: float | None = dataclasses.field(default=None, kw_only=True)
    clip_value: float | None = dataclasses.field(default=None, kw_only=True)
    groups: Groups = dataclasses.field(default=(), kw_only=True)

    recordable: ClassVar[bool] = False
    cuda: ClassVar[str | None] = None
    rate: ClassVar[float]

    def __post_init__(self) -> None:
        self._check("rate", "weight_decay", "l1")
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None and not (_is_number(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{self.name}: {name} must be a positive number or None; {getattr(self, name)!r} was given.")
        object.__setattr__(self, "groups", tuple(self._group(entry) for entry in self.groups))

    def _check(self, *names: str, below: float = math.inf) -> None:
        for name in names:
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < below:
                limit = "" if below == math.inf else f" and below {below:g}"
                raise ConfigError(f"{self.name}: {name} must be a number of at least 0{limit}; {value!r} was given.")
            object.__setattr__(self, name, value.item() if isinstance(value, np.generic) else value)

    def _group(self, entry: Any) -> tuple[str, tuple[tuple[str, float], ...]]:
        try:
            pattern, options = entry
            options = dict(options)
            if not isinstance(pattern, str):
                raise TypeError
        except (TypeError, ValueError):
            raise ConfigError(f'{self.name}: groups are pairs such as ("stage1.*", {{"rate": 0.01}}); {entry!r} was given.') from None
        for option, value in options.items():
            if option not in GROUP_OPTIONS:
                raise UnknownNameError("option of a parameter group", option, GROUP_OPTIONS)
            if not _is_number(value) or not 0 <= value < math.inf:
                raise ConfigError(f"{self.name}: {option} of the group {pattern!r} must be a number of at least 0; {value!r} was given.")
        return pattern, tuple(sorted((option, float(value)) for option, value in options.items()))

    @property
    def name(self) -> str:
        """How messages speak of this optimizer."""
        return type(self).__name__

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays, each as long as all trainable parameters, that are kept from step to step."""
        return ()

    @property
    def initial(self) -> float:
        """What the arrays are filled with at first."""
        return 0.0

    def numbers(self, step: int) -> tuple[float, ...]:
        """What :meth:`update` finds in ``numbers[OWN:]`` at step 1, 2, ..."""
        return ()

    def update(
        self, parameters: np.ndarray, gradients: np.ndarray, state: np.ndarray, tasks: np.ndarray, groups: np.ndarray, numbers: np.ndarray
    ) -> None:
        """Update the flat ``parameters`` from the flat ``gradients``. :mod:`numbacnn.kernels.optim` says what the other
        arrays hold; clipping of the norm has been computed, and all else is up to this method."""
        raise NotImplementedError(f"{self.name} does not define update")


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum: ``v = momentum v + (1 - dampening) g``, ``p -= rate v``, or, with
    ``nesterov``, ``p -= rate (g + momentum v)`` (Sutskever et al., 2013). The first step has ``v = g``. As PyTorch's."""

    rate: float = 0.01  # type: ignore[misc]
    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.optim:sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum")
        self._check("dampening")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ConfigError("SGD: nesterov needs a momentum, and no dampening.")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def numbers(self, step: int) -> tuple[float, ...]:
        return self.momentum, 1.0 if step == 1 else 1.0 - self.dampening, float(self.nesterov)

    def update(self, *arguments: np.ndarray) -> None:
        kernels.optim.sgd(*arguments)


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015). ``betas`` are the decay rates of the mean gradient and of the mean squared gradient."""

    rate: float = 0.001  # type: ignore[misc]
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.optim:adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = isinstance(self.betas, (tuple, list, np.ndarray)) and len(self.betas) == 2
        if not pair or not all(_is_number(beta) and 0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"{self.name}: betas must be two numbers of at least 0 and below 1; {self.betas!r} was given.")
        _positive(self, "epsilon")
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))

    @property
    def slots(self) -> tuple[str, ...]:
        return "mean", "square"

    def numbers(self, step: int) -> tuple[float, ...]:
        beta1, beta2 = self.betas
        return beta1, beta2, 1.0 / (1.0 - beta1**step), 1.0 / math.sqrt(1.0 - beta2**step), self.epsilon

    def update(self, *arguments: np.ndarray) -> None:
        kernels.optim.adam(*arguments)


@dataclasses.dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    weight_decay: float = dataclasses.field(default=0.01, kw_only=True)
    decoupled: bool = dataclasses.field(default=True, kw_only=True)


@dataclasses.dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton, 2012): the gradient over the root of its mean square, whose decay rate is ``alpha``;
    ``centered`` takes the variance instead (Graves, 2013). As PyTorch's: epsilon is added to the root."""

    rate: float = 0.01  # type: ignore[misc]
    alpha: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    epsilon: float = 1e-8

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.optim:rmsprop"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum")
        self._check("alpha", below=1)
        _positive(self, "epsilon")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("square", *(["mean"] if self.centered else []), *(["velocity"] if self.momentum else []))

    def numbers(self, step: int) -> tuple[float, ...]:
        return self.alpha, self.epsilon, self.momentum, float(self.centered), 2.0 if self.centered else 1.0

    def update(self, *arguments: np.ndarray) -> None:
        kernels.optim.rmsprop(*arguments)


@dataclasses.dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer, 2011): the gradient over the root of the sum of its squares, which starts at
    ``initial_sum``; the rate at step t is ``rate / (1 + (t - 1) rate_decay)``. As PyTorch's."""

    rate: float = 0.01  # type: ignore[misc]
    rate_decay: float = 0.0
    initial_sum: float = 0.0
    epsilon: float = 1e-10

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn.kernels.cuda.optim:adagrad"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("rate_decay", "initial_sum")
        _positive(self, "epsilon")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("square",)

    @property
    def initial(self) -> float:
        return self.initial_sum

    def numbers(self, step: int) -> tuple[float, ...]:
        return 1.0 / (1.0 + (step - 1) * self.rate_decay), self.epsilon

    def update(self, *arguments: np.ndarray) -> None:
        kernels.optim.adagrad(*arguments)


def _is_number(value: Any) -> bool:
    return isinstance(value, numeric.Real) and not isinstance(value, bool)


def _positive(optimizer: Any, option: str) -> None:
    value = getattr(optimizer, option)
    if not _is_number(value) or not value > 0:
        raise ConfigError(f"{optimizer.name}: {option} must be a positive number; {value!r} was given.")


def resolve(optimizer: str | Optimizer) -> Optimizer:
    """An optimizer from a registered name (with its default options), or the optimizer itself."""
    return named.resolve("optimizer", Optimizer, optimizer, "'adam' or nc.SGD(0.1)")


# Applying an optimizer to a model ------------------------------------------------------------------------------------


class Updater:
    """An optimizer at work on the parameters of a model.

    ``steps`` counts the updates so far; ``state`` is the optimizer's arrays, one after the other, and :meth:`arrays` gives
    them by name. ``numbers`` is what the kernel is told at each step.
    """

    def __init__(self, optimizer: Optimizer, store: Any):
        self.optimizer, self.store = optimizer, store
        self.steps = 0
        self.numbers = np.zeros(NUMBERS)
        size = store.trainable.size
        self.state = arrays.zeros(max(1, len(optimizer.slots) * size), store.trainable.dtype)
        if optimizer.initial:  # zeros of frozen parameters take no memory as long as nobody writes to them
            self.state.fill(optimizer.initial)
        self._views = {slot: self.state[k * size : (k + 1) * size] for k, slot in enumerate(optimizer.slots)}
        partition(optimizer, store)  # complains about groups that match nothing

    def arrays(self) -> dict[str, np.ndarray]:
        """The optimizer's arrays by name: views, laid out like ``store.trainable``."""
        return dict(self._views)

    def bind(self, gradients: np.ndarray) -> kernels.program.Program:
        """What one update from the flat ``gradients`` (laid out like ``store.trainable``) runs, given the parameters that
        are frozen now."""
        optimizer = self.optimizer
        tasks, groups = partition(optimizer, self.store)
        arguments = (self.store.trainable, gradients, self.state, tasks, groups, self.numbers)
        with kernels.jit.record() as steps:
            if optimizer.clip_norm is not None:
                kernels.optim.clip_norm(gradients, tasks, float(optimizer.clip_norm), np.zeros(len(tasks)), self.numbers)
            if optimizer.recordable:
                optimizer.update(*arguments)
        return kernels.program.Program(steps if optimizer.recordable else [*steps, (optimizer.update, arguments)])

    def apply(self, bound: Sequence[tuple[Any, tuple]], factor: float = 1.0) -> None:
        """Update the parameters by what :meth:`bind` gave. The rates are multiplied by the schedule's ``factor``."""
        optimizer, numbers = self.optimizer, self.numbers
        self.steps += 1
        own = optimizer.numbers(self.steps)
        numbers[:4] = factor, 1.0, math.inf if optimizer.clip_value is None else optimizer.clip_value, optimizer.decoupled
        numbers[4 : 4 + len(own)] = own
        kernels.program.run(bound)
        self.store.touch()


def partition(optimizer: Optimizer, store: Any, size: int = TASK) -> tuple[np.ndarray, np.ndarray]:
    """The trainable parameters that are not frozen, as the kernel takes them: ``tasks`` int64 ``(start, stop, group)`` of at most ``size``
    elements, and ``groups`` float64 ``(rate, weight decay, l1)``. Raises UnknownNameError for a group that matches no parameter."""
    names = [name for name, spec in store.specs.items() if spec.trainable]
    for pattern, _ in optimizer.groups:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("trainable parameter", pattern, names)
    gap = arrays.ALIGNMENT // store.trainable.itemsize  # zeros between two parameters may be updated along: they stay zeros
    groups: dict[tuple[float, ...], int] = {}
    stretches: list[list[int]] = []
    for name in sorted(set(names) - store.frozen, key=store.slices.__getitem__):
        start, stop = store.slices[name]
        group = groups.setdefault(_group_of(optimizer, name, store.specs[name].decay), len(groups))
        if stretches and stretches[-1][2] == group and start - stretches[-1][1] < gap:
            stretches[-1][1] = stop
        else:
            stretches.append([start, stop, group])
    tasks = [(at, min(at + size, stop), group) for start, stop, group in stretches for at in range(start, stop, size)]
    return np.array(tasks, np.int64).reshape(-1, 3), np.array(list(groups), np.float64).reshape(-1, 3)


def _group_of(optimizer: Optimizer, name: str, decays: bool) -> tuple[float, ...]:
    """``(rate, weight decay, l1)`` of a parameter."""
    spared = not (decays or optimizer.decay_all)
    options = {"rate": optimizer.rate, "weight_decay": 0.0 if spared else optimizer.weight_decay, "l1": 0.0 if spared else optimizer.l1}
    for pattern, given in optimizer.groups:
        if fnmatch.fnmatchcase(name, pattern):
            options.update(given)
            break
    rate = options["rate"] * options.get("rate_factor", 1.0)
    return float(rate), float(options["weight_decay"]), float(options["l1"])
