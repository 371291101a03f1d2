"""From what stands on the command line to a model: an architecture's name, or a saved file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import WeightsError


def is_file(name: str) -> bool:
    """Whether a word means a saved model, not an architecture."""
    return name.endswith(".safetensors") or Path(name).exists()


def saved_model(path: str) -> Any:
    """The model in a file, or in the folder that training has written. Raises WeightsError."""
    from ..model import load

    place = Path(path)
    file = place / "model.safetensors" if place.is_dir() else place
    if not file.exists():
        raise WeightsError(f"There is no model {str(file)!r}. `numbacnn train` writes one; its last line says where.")
    return load(file)


def new_model(architecture: str, input_shape: tuple[int, ...] | None, classes: int, seed: int = 0) -> Any:
    """A model of a registered architecture; ``input_shape`` None leaves the shape to the architecture."""
    from ..model import create

    options: dict[str, Any] = {} if input_shape is None else {"input_shape": input_shape}
    return create(architecture, classes=classes, seed=seed, **options)


def open_fitting(dataset: str, split: str, folder: Path | None, model: Any) -> Any:
    """A data set with its images and classes as the model knows them. Raises DataError where that cannot be."""
    from ..data.folder import ImageFolder
    from ..data.sources import open_dataset

    shape = tuple(model.graph.inputs[0].shape)
    data = open_dataset(dataset, split, folder, shape)
    if isinstance(data, ImageFolder) and model.classes and data.classes != model.classes:
        return ImageFolder(dataset, split, shape[:2], shape[2], model.classes)
    return data
