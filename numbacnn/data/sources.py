"""From what a user writes (a registered name, a folder, a pair of arrays) to a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, UnknownNameError
from ..plugin import registry
from ..weights.preprocessing import Preprocessing
from .dataset import ArrayDataset, Dataset, Normalised, as_input
from .folder import SPLITS, ImageFolder


def open_dataset(
    source: Any,
    split: str = "train",
    folder: str | os.PathLike | None = None,
    input_shape: tuple[Any, ...] | None = None,
    classes: Sequence[str] | None = None,
    whole_numbers: Sequence[bool] = (),
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Open a data set.

    ``source`` is a registered name (``"digits"``; ``nc.list_datasets()`` has all), a folder of class folders of images (see
    :class:`numbacnn.data.folder.ImageFolder`), a pair ``(images, labels)`` of arrays (see
    :class:`numbacnn.data.dataset.ArrayDataset`), or a data set, which is returned as it is.
    A name that is registered and a folder too means the registered one; ``./name`` means the folder.
    ``split`` is ``"train"`` or ``"test"``. ``folder`` is where a registered data set's files lie, if not in the usual places.
    ``input_shape`` ``(height, width, channels)`` is what the images are to be; files are converted and resized, arrays resized.
    ``classes`` are those of a model, in the order of its labels; a folder of images is read with these labels.
    ``whole_numbers`` says of each input of a model whether it takes whole numbers; arrays are then kept as such.
    ``preprocessing`` is a model's: its mean and standard deviation are applied to pixels, that is, to everything but arrays of
    floating-point numbers and what is normalised already.

    Raises UnknownNameError for a name that is neither registered nor a folder, DataError for data that cannot be used.
    """
    if split not in SPLITS:
        raise ConfigError(f"A split is 'train' or 'test', not {split!r}.")
    dataset = _open(source, split, folder, input_shape, classes, whole_numbers)
    pixels = not isinstance(dataset, Normalised) and getattr(dataset, "holds_pixels", True)
    if input_shape is not None:
        dataset = as_input(dataset, input_shape)
    return Normalised(dataset, preprocessing.mean, preprocessing.std) if preprocessing is not None and pixels else dataset


def _open(
    source: Any,
    split: str,
    folder: str | os.PathLike | None,
    input_shape: tuple[Any, ...] | None,
    classes: Sequence[str] | None,
    whole_numbers: Sequence[bool],
) -> Dataset:
    if isinstance(source, str) and not _looks_like_path(source):
        try:
            factory = registry.load("dataset", source)
        except UnknownNameError:
            if not Path(source).is_dir():
                raise
        else:
            return factory(split=split, folder=folder)
    if folder is not None:
        raise ConfigError(f"The folder {folder} (--data-folder) is where a registered data set's files lie; {_describe(source)} is none.")
    if isinstance(source, str | os.PathLike):
        image = input_shape is not None and len(input_shape) == 3 and not isinstance(input_shape[0], tuple)
        size, channels = (input_shape[:2], input_shape[2]) if input_shape is not None and image else (None, None)
        return ImageFolder(source, split, size, channels, classes)
    if isinstance(source, tuple | list) and len(source) == 2:
        return ArrayDataset(*source, whole_numbers=whole_numbers)
    if isinstance(source, Dataset):
        return source
    raise DataError(
        f"A data set is a registered name, a folder, a pair (images, labels) of arrays, or an object with "
        f"input_shape, classes, len() and batch(indices); not {_describe(source)}."
    )


def _looks_like_path(source: str) -> bool:
    return os.sep in source or "/" in source or source.startswith((".", "~"))


def _describe(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    if isinstance(source, tuple | list):
        return f"a {type(source).__name__} of {len(source)}"
    return f"an object of type {type(source).__name__}"
