"""Every error that numbacnn raises on purpose, and the words for a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NumbacnnError(Exception):
    """Base of all errors raised on purpose; the command line prints its sentence and exits with status 2."""


class ConfigError(NumbacnnError, ValueError):
    """An argument of a layer, an optimizer, a trainer... that cannot be right."""


class ShapeError(NumbacnnError, ValueError):
    """A tensor whose shape a layer or a model cannot take."""


class DataError(NumbacnnError, ValueError):
    """A data set, an image or a label that cannot be read or used."""


class WeightsError(NumbacnnError, ValueError):
    """A weights or checkpoint file that cannot be read or does not fit the model."""


class PluginError(NumbacnnError, RuntimeError):
    """A plugin that is broken, in conflict with another, blocked or missing."""


class DeviceError(NumbacnnError, RuntimeError):
    """A device that cannot be used, or a layer that has no kernels for it."""


class DivergenceError(NumbacnnError, ArithmeticError):
    """A loss that is no longer a finite number."""


class UnknownNameError(NumbacnnError, LookupError):
    """A name that is not registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else f" Known: {', '.join(known) or 'none'}."
        super().__init__(f"There is no {kind} named {name!r}.{hint}")
        self.kind, self.name = kind, name
