"""Specs: what a plugin says about each thing that it provides.

A spec holds a name and a *factory*, the dotted string ``"package.module:attribute"`` of the thing itself, so that listing
plugins imports none of their heavy code. What the attribute must be, depends on the kind of spec and stands with each class.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import PluginError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Base of all specs.

    ``name`` is what users ask for: letters, digits and underscores. ``summary`` is one line for tables and help.
    Raises PluginError for a name or factory that is malformed.
    """

    name: str
    factory: str
    summary: str = ""

    kind: ClassVar[str] = ""
    hook: ClassVar[str] = ""
    pattern: ClassVar[re.Pattern[str]] = _NAME

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.pattern.fullmatch(self.name):
            raise PluginError(f"{type(self).__name__} has the name {self.name!r}; a name is letters, digits and underscores.")
        if not isinstance(self.factory, str) or not _FACTORY.fullmatch(self.factory):
            raise PluginError(
                f"{type(self).__name__} {self.name!r} has the factory {self.factory!r}; it must read 'package.module:attribute'."
            )


@dataclasses.dataclass(frozen=True)
class LayerSpec(Spec):
    """Factory: a subclass of :class:`numbacnn.layers.base.Layer`."""

    kind: ClassVar[str] = "layer"
    hook: ClassVar[str] = "numbacnn_layers"


@dataclasses.dataclass(frozen=True)
class ArchitectureSpec(Spec):
    """Factory: a function ``(input_shape, classes, seed=0, dtype="float32")``, perhaps with more options, that returns a model.

    ``input_size`` is the spatial size that the command line resizes images to unless told otherwise; None takes images as
    they are. ``recipe`` holds the training options that it falls back on (``{"optimizer": "adam", "rate": 1e-3}``),
    ``"loss"`` among them.
    ``names`` is the dotted string of the rules by which other libraries name the parameters, by library
    (:mod:`numbacnn.weights.names`), or of a function of the model that gives them. ``pretrained`` is that of the weights that can be
    had, :class:`numbacnn.weights.pretrained.Pretrained` by name, or of a function of the architecture's name that gives them.
    """

    input_size: tuple[int, ...] | None = None
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    names: str | None = None
    pretrained: str | None = None

    kind: ClassVar[str] = "architecture"
    hook: ClassVar[str] = "numbacnn_architectures"


@dataclasses.dataclass(frozen=True)
class AugmentationSpec(Spec):
    """Factory: a callable that makes an augmentation of training images from its options."""

    kind: ClassVar[str] = "augmentation"
    hook: ClassVar[str] = "numbacnn_augmentations"


@dataclasses.dataclass(frozen=True)
class DatasetSpec(Spec):
    """Factory: a function ``(split, folder=None)`` with split ``"train"`` or ``"test"`` that returns a data set
    (see :class:`numbacnn.data.dataset.Dataset`)."""

    kind: ClassVar[str] = "dataset"
    hook: ClassVar[str] = "numbacnn_datasets"


@dataclasses.dataclass(frozen=True)
class ActivationSpec(Spec):
    """Factory: what makes a layer, given nothing: an elementwise layer class, such as :func:`numbacnn.activation` makes from a
    scalar function, or a layer class like softmax's, which keeps the shape."""

    kind: ClassVar[str] = "activation"
    hook: ClassVar[str] = "numbacnn_activations"


@dataclasses.dataclass(frozen=True)
class OptimizerSpec(Spec):
    """Factory: an optimizer class whose first argument is the rate."""

    kind: ClassVar[str] = "optimizer"
    hook: ClassVar[str] = "numbacnn_optimizers"


@dataclasses.dataclass(frozen=True)
class ScheduleSpec(Spec):
    """Factory: a class of schedules of the rate over the steps of a run."""

    kind: ClassVar[str] = "schedule"
    hook: ClassVar[str] = "numbacnn_schedules"


@dataclasses.dataclass(frozen=True)
class LossSpec(Spec):
    """Factory: a loss class whose arguments all have defaults."""

    kind: ClassVar[str] = "loss"
    hook: ClassVar[str] = "numbacnn_losses"


@dataclasses.dataclass(frozen=True)
class MetricSpec(Spec):
    """Factory: a metric class whose arguments all have defaults."""

    kind: ClassVar[str] = "metric"
    hook: ClassVar[str] = "numbacnn_metrics"


@dataclasses.dataclass(frozen=True)
class CallbackSpec(Spec):
    """Factory: a class of objects that the trainer calls as a run goes on."""

    kind: ClassVar[str] = "callback"
    hook: ClassVar[str] = "numbacnn_callbacks"


@dataclasses.dataclass(frozen=True)
class CommandSpec(Spec):
    """Factory: a ``click.Command``, which becomes ``numbacnn NAME``. Its name may have dashes."""

    kind: ClassVar[str] = "command"
    hook: ClassVar[str] = "numbacnn_cli"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


SPECS: tuple[type[Spec], ...] = (
    LayerSpec, ArchitectureSpec, AugmentationSpec, DatasetSpec, ActivationSpec, OptimizerSpec,
    ScheduleSpec, LossSpec, MetricSpec, CallbackSpec, CommandSpec,
)  # fmt: skip
KINDS: dict[str, type[Spec]] = {spec.kind: spec for spec in SPECS}
"""Spec class by kind."""
