"""What this distribution provides. numbacnn finds this module by the entry point in pyproject.toml.

The factories are dotted strings, so that finding the plugin imports none of its code.
"""

import numbacnn as nc
from numbacnn.plugin.specs import ActivationSpec, ArchitectureSpec, LayerSpec

numbacnn_api = 1


@nc.hookimpl
def numbacnn_layers():
    yield LayerSpec("BlurPool2D", "numbacnn_blurpool.layer:BlurPool2D", "anti-aliased downsampling (Zhang 2019)")


@nc.hookimpl
def numbacnn_activations():
    yield ActivationSpec("squareplus", "numbacnn_blurpool.activation:Squareplus", "a smooth relu without exp (Barron 2021)")


@nc.hookimpl
def numbacnn_architectures():
    yield ArchitectureSpec(
        "blurnet",
        "numbacnn_blurpool.architecture:blurnet",
        "a small network without aliasing",
        recipe={"optimizer": "adam", "rate": 0.01},  # what `numbacnn train blurnet` uses unless told otherwise
    )
