"""How parameters start.

An initializer is a small frozen dataclass that is called with a shape, a random generator and a data type. Layers name
it by its name in :data:`INITIALIZERS` (``"he_normal"``) or pass one (``Constant(0.1)``). The fans follow from the shape of a weight,
``(kernel..., C_in / groups, C_out)``: ``fan_in`` is everything but the last axis, ``fan_out`` the kernel's extent times
the last axis.

Values are drawn in float64 and then rounded, so that a float32 and a float64 model of one seed agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ConfigError, UnknownNameError

_CHUNK = 1 << 20  # numbers drawn at once, so that a large weight needs little memory beside itself

Shape = tuple[int, ...]


def fans(shape: Shape) -> tuple[int, int]:
    """``(fan_in, fan_out)`` of a weight ``(kernel..., C_in / groups, C_out)``; a vector counts as one-to-one."""
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    extent = math.prod(shape[:-2])
    return max(1, extent * shape[-2]), max(1, extent * shape[-1])


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of the parameter called ``name`` in a model of ``seed``: counter-based, and independent of
    which other parameters exist or in which order they are drawn."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, int.from_bytes(digest, "little")], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _fill(shape: Shape, dtype: Any, draw: Callable[[int], np.ndarray]) -> np.ndarray:
    values = np.empty(math.prod(shape), dtype)
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK]
        part[:] = draw(part.size)
    return values.reshape(shape)


class Initializer:
    """Base of all initializers: called with ``(shape, generator, dtype)``, it gives a new array."""

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


@dataclasses.dataclass(frozen=True)
class Constant(Initializer):
    """The same value everywhere."""

    value: float = 0.0

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        return np.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class Normal(Initializer):
    """Normal with the given mean and standard deviation."""

    mean: float = 0.0
    deviation: float = 0.05

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        return _fill(shape, dtype, lambda count: self.mean + self.deviation * generator.standard_normal(count))


@dataclasses.dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal, drawn again while more than two standard deviations from the mean."""

    mean: float = 0.0
    deviation: float = 0.05

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        def draw(count: int) -> np.ndarray:
            values = generator.standard_normal(count)
            while (outside := np.flatnonzero(np.abs(values) > 2)).size:
                values[outside] = generator.standard_normal(outside.size)
            return self.mean + self.deviation * values

        return _fill(shape, dtype, draw)


@dataclasses.dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform between ``-limit`` and ``limit``."""

    limit: float = 0.05

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        return _fill(shape, dtype, lambda count: generator.uniform(-self.limit, self.limit, count))


@dataclasses.dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Zero mean and variance ``gain / fan``: ``fan`` is ``"in"``, ``"out"`` or ``"average"``, ``distribution`` is
    ``"normal"`` or ``"uniform"``.

    Glorot & Bengio 2010 is gain 1 over the average fan; He et al. 2015 is gain 2 over fan_in; LeCun et al. 1998 is
    gain 1 over fan_in.
    """

    gain: float = 1.0
    fan: str = "in"
    distribution: str = "normal"

    def __post_init__(self) -> None:
        if self.fan not in ("in", "out", "average"):
            raise ConfigError(f"VarianceScaling was given fan={self.fan!r}; it takes 'in', 'out' or 'average'.")
        if self.distribution not in ("normal", "uniform"):
            raise ConfigError(f"VarianceScaling was given distribution={self.distribution!r}; it takes 'normal' or 'uniform'.")

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        fan_in, fan_out = fans(shape)
        variance = self.gain / {"in": fan_in, "out": fan_out, "average": (fan_in + fan_out) / 2}[self.fan]
        if self.distribution == "normal":
            return Normal(0.0, math.sqrt(variance))(shape, generator, dtype)
        return Uniform(math.sqrt(3 * variance))(shape, generator, dtype)


@dataclasses.dataclass(frozen=True)
class Orthogonal(Initializer):
    """A random orthogonal matrix ``(fan_in, C_out)`` (Saxe et al. 2014): its rows or columns, whichever are fewer, are
    orthogonal and of length ``gain``."""

    gain: float = 1.0

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        if len(shape) < 2:
            raise ConfigError(f"The orthogonal initializer was given shape {shape}; it needs at least two axes.")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.sign(np.diag(r))  # makes the distribution uniform over orthogonal matrices
        return (self.gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)


INITIALIZERS: dict[str, Initializer] = {
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
    "normal": Normal(),
    "truncated_normal": TruncatedNormal(),
    "uniform": Uniform(),
    "glorot_normal": VarianceScaling(1.0, "average", "normal"),
    "glorot_uniform": VarianceScaling(1.0, "average", "uniform"),
    "he_normal": VarianceScaling(2.0, "in", "normal"),
    "he_uniform": VarianceScaling(2.0, "in", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "in", "normal"),
    "lecun_uniform": VarianceScaling(1.0, "in", "uniform"),
    "orthogonal": Orthogonal(),
}


def resolve(initializer: Any) -> Initializer:
    """The initializer of a name, or the initializer itself."""
    if isinstance(initializer, Initializer):
        return initializer
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise UnknownNameError("initializer", initializer, INITIALIZERS)
        return INITIALIZERS[initializer]
    raise ConfigError(f"{initializer!r} was given as an initializer; a name such as 'he_normal' or an Initializer is needed.")
