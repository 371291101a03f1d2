"""From what stands on the command line to a model: an architecture's name, or a saved file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ..errors import ConfigError, WeightsError
from ..plugin import registry


def is_saved(name: str) -> bool:
    """Whether a word means a saved model, not an architecture: what is registered counts before a file or folder of that name."""
    return name.endswith(".safetensors") or (name not in registry.names("architecture") and Path(name).exists())


def saved_model(path: str) -> Any:
    """The model in a file, or in the folder that training has written. Raises WeightsError."""
    from ..model import load

    place = Path(path)
    file = place / "model.safetensors" if place.is_dir() else place
    if not file.exists():
        if path in registry.names("architecture"):
            raise WeightsError(f"{path!r} is an architecture; a model that was trained and saved is needed, or weights for it.")
        raise WeightsError(f"There is no model {str(file)!r}. `numbacnn train` writes one; its last line says where.")
    return load(file)


def pretrained_model(architecture: str, weights: str) -> Any:
    """A registered architecture with the weights of a name or a file."""
    from ..model import create

    return create(architecture, weights=weights)


def new_model(architecture: str, input_shape: tuple[int, ...] | None, classes: int, seed: int = 0, weights: str | None = None) -> Any:
    """A model of a registered architecture, with ``weights`` of a name or a file. ``input_shape`` None leaves the shape to the
    architecture, and raises ConfigError where it has none of its own."""
    from ..model import create

    if input_shape is None:
        own = inspect.signature(registry.load("architecture", architecture)).parameters.get("input_shape")
        if own is not None and own.default is inspect.Parameter.empty:
            raise ConfigError(f"The architecture {architecture!r} has no input shape of its own: give one, such as --input-shape 32x32x3.")
    options: dict[str, Any] = {} if input_shape is None else {"input_shape": input_shape}
    return create(architecture, weights=weights, classes=classes, seed=seed, **options)
