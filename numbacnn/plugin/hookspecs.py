"""The hooks of a plugin.

A plugin is a module named by an entry point of the group ``numbacnn``. It implements any of these functions, marked with
:data:`hookimpl`; each yields (or returns an iterable of) specs of one kind and is never handed anything to change::

    import numbacnn as nc
    from numbacnn.plugin.specs import LayerSpec

    numbacnn_api = 1

    @nc.hookimpl
    def numbacnn_layers():
        yield LayerSpec("BlurPool2D", "numbacnn_blurpool.layer:BlurPool2D", "anti-aliased downsampling")

``version`` is numbacnn's own, for a plugin that works with several; an implementation that doesn't need it leaves it out.
``numbacnn_api`` is the version of the hooks that the plugin was written for (:data:`API_VERSION` where it is missing);
a plugin for another major version is not loaded.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from collections.abc import Iterable

import pluggy

from .specs import (
    ActivationSpec,
    ArchitectureSpec,
    AugmentationSpec,
    CallbackSpec,
    CommandSpec,
    DatasetSpec,
    LayerSpec,
    LossSpec,
    MetricSpec,
    OptimizerSpec,
    ScheduleSpec,
)

API_VERSION = 1
"""Major version of the hooks below."""

hookspec = pluggy.HookspecMarker("numbacnn")
hookimpl = pluggy.HookimplMarker("numbacnn")
"""Decorator that marks a function of a plugin as the implementation of the hook of the same name."""


@hookspec
def numbacnn_layers(version: str) -> Iterable[LayerSpec]:
    """Layers: ``nc.list_layers()``, and loading models that have them."""


@hookspec
def numbacnn_architectures(version: str) -> Iterable[ArchitectureSpec]:
    """Architectures: ``nc.create(name)``, ``numbacnn train NAME``."""


@hookspec
def numbacnn_augmentations(version: str) -> Iterable[AugmentationSpec]:
    """Augmentations of training images: ``nc.list_augmentations()``."""


@hookspec
def numbacnn_datasets(version: str) -> Iterable[DatasetSpec]:
    """Data sets: ``trainer.fit(name)``, ``numbacnn train ARCHITECTURE NAME``."""


@hookspec
def numbacnn_activations(version: str) -> Iterable[ActivationSpec]:
    """Activations: the ``activation=`` of layers."""


@hookspec
def numbacnn_optimizers(version: str) -> Iterable[OptimizerSpec]:
    """Optimizers: the ``optimizer=`` of a trainer, ``numbacnn train --optimizer NAME``."""


@hookspec
def numbacnn_schedules(version: str) -> Iterable[ScheduleSpec]:
    """Schedules of the rate: ``numbacnn train --schedule NAME``."""


@hookspec
def numbacnn_losses(version: str) -> Iterable[LossSpec]:
    """Losses: the ``loss=`` of a trainer."""


@hookspec
def numbacnn_metrics(version: str) -> Iterable[MetricSpec]:
    """Metrics: the ``metrics=`` of a trainer."""


@hookspec
def numbacnn_callbacks(version: str) -> Iterable[CallbackSpec]:
    """Callbacks: the ``callbacks=`` of a trainer, by name."""


@hookspec
def numbacnn_cli(version: str) -> Iterable[CommandSpec]:
    """Commands: ``numbacnn NAME``."""
