"""What a data set is, one over arrays, and a resized view of another."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, DataError
from . import images as image_files

Batch = tuple[Any, Any]
"""Images and labels: an array each, or a tuple of arrays for a model with several inputs or outputs."""


@runtime_checkable
class Dataset(Protocol):
    """What training, evaluation and the loader need of a data set. Any object with these four will do.

    ``batch`` may be called from several threads at once, and gives the same arrays whenever it gets the same indices. One whose images
    change from epoch to epoch (augmentation) has a method ``at_epoch(number)`` too, which gives the data set of that epoch, as long as
    this one; numbers begin with 0.
    For a model with several inputs ``input_shape`` and the images of a batch are tuples, with an entry for each; for one with several
    outputs so are the labels (one array of labels serves all outputs).
    """

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """Shape of one image, ``(height, width, channels)``."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names by label; None where labels are no class indices, or nobody named them."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        """Images ``(n, height, width, channels)`` as float32, usually in [0, 1], and labels ``(n,)`` as int64 class indices
        (or float32 targets of any shape ``(n, ...)``)."""
        ...


def at_epoch(dataset: Dataset, number: int) -> Dataset:
    """What the data set is in epoch ``number``: another one where it has a method ``at_epoch``, else itself."""
    own = getattr(dataset, "at_epoch", None)
    return dataset if own is None else own(number)


class ArrayDataset:
    """A data set that lies in two arrays.

    ``images`` ``(n, ..., channels)``: uint8 stays as it is in memory, and a batch holds ``images / full_scale``; floating-point
    numbers are kept as float32 (float64 with ``dtype="float64"``) and not scaled.
    ``labels``: integers are class indices, stored as int64, at least 0 unless equal to ``ignored_label``; floating-point numbers
    are targets, stored in ``dtype``. Where there are ``classes``, each class index but ``ignored_label`` must be one of them.
    A tuple of arrays of images is one for each input of a model with several, a tuple of arrays of labels one for each output.
    ``whole_numbers`` says of each array of images whether it holds whole numbers, such as ids of words, which are kept as int64.
    Raises DataError where the two cannot belong together or hold something that is not a number.
    """

    def __init__(
        self,
        images: ArrayLike | tuple[ArrayLike, ...],
        labels: ArrayLike | tuple[ArrayLike, ...],
        classes: Sequence[str] | None = None,
        *,
        full_scale: float = 255.0,
        ignored_label: int | None = None,
        dtype: str = "float32",
        whole_numbers: Sequence[bool] = (),
    ):
        if dtype not in ("float32", "float64"):
            raise ConfigError(f"A data set's dtype is 'float32' or 'float64', not {dtype!r}.")
        self._dtype = np.dtype(dtype)
        self._several_inputs, self._several_labels = _is_several(images), _is_several(labels)
        self._images = [
            _checked_whole_numbers(array) if whole else _checked_images(array, self._dtype)
            for array, whole in zip(_entries(images), itertools.chain(whole_numbers, itertools.repeat(False)))
        ]
        self._labels = [_checked_labels(array, self._dtype, ignored_label) for array in _entries(labels)]
        self._full_scale = self._dtype.type(full_scale)
        self._classes = None if classes is None else tuple(map(str, classes))
        for images_of_one in self._images:
            for labels_of_one in self._labels:
                if len(images_of_one) != len(labels_of_one):
                    raise DataError(f"There are {len(images_of_one)} images but {len(labels_of_one)} labels; each image needs one.")
        if not self._several_labels:
            _check_within_classes(self._labels[0], self._classes, ignored_label)

    @property
    def input_shape(self) -> tuple[Any, ...]:
        shapes = tuple(images.shape[1:] for images in self._images)
        return shapes if self._several_inputs else shapes[0]

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._classes

    def __len__(self) -> int:
        return len(self._images[0])

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        images = tuple(self._scaled(array.take(indices, axis=0)) for array in self._images)
        labels = tuple(array.take(indices, axis=0) for array in self._labels)
        return images if self._several_inputs else images[0], labels if self._several_labels else labels[0]

    def _scaled(self, images: NDArray[Any]) -> NDArray[Any]:
        return np.divide(images, self._full_scale, dtype=self._dtype) if images.dtype == np.uint8 else images

    @property
    def holds_pixels(self) -> bool:
        """Whether the images were bytes, and so are pixels in [0, 1]; floating-point numbers may be anything."""
        return all(images.dtype == np.uint8 for images in self._images)

    def __repr__(self) -> str:
        return f"ArrayDataset({len(self)} images of shape {self.input_shape})"


class _View:
    """A data set seen through a change of its images."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self._dataset.input_shape)

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._dataset.classes

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        images, labels = self._dataset.batch(indices)
        return self._changed(images), labels

    def at_epoch(self, number: int) -> _View:
        """The view of what its data set is in that epoch."""
        view = copy.copy(self)
        view._dataset = at_epoch(self._dataset, number)
        return view

    def _changed(self, images: Any) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._dataset!r})"


class Resized(_View):
    """A view of a data set with images of another ``size`` ``(height, width)``, resized bilinearly batch by batch."""

    def __init__(self, dataset: Dataset, size: tuple[int, int]):
        if len(dataset.input_shape) != 3:
            raise DataError(
                f"Only images (height, width, channels) can be resized; this data set's samples have shape {dataset.input_shape}."
            )
        super().__init__(dataset)
        self._size = image_files.checked_size(size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*self._size, self._dataset.input_shape[-1])

    def _changed(self, images: Any) -> Any:
        return image_files.resize(images, self._size)

    def __repr__(self) -> str:
        return f"Resized({self._dataset!r}, {self._size})"


class Coloured(_View):
    """A view of a data set of grey images, whose one channel becomes red, green and blue."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*self._dataset.input_shape[:-1], 3)

    def _changed(self, images: Any) -> Any:
        return np.repeat(images, 3, axis=-1)


class Normalised(_View):
    """A view of a data set whose pixels ``p`` become ``(p - mean) / std``, with a ``mean`` and a ``std`` for each channel."""

    def __init__(self, dataset: Dataset, mean: Sequence[float], std: Sequence[float]):
        channels = dataset.input_shape[-1]
        if len(mean) != channels or len(std) != channels:
            raise DataError(
                f"The images have {channels} channels; a mean of {len(mean)} and a standard deviation of {len(std)} numbers are given."
            )
        super().__init__(dataset)
        self._mean, self._std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def _changed(self, images: Any) -> Any:
        return (images - self._mean) / self._std


def as_input(dataset: Dataset, input_shape: tuple[Any, ...]) -> Dataset:
    """The data set with images of ``input_shape``: itself, resized, or grey images in colour. Raises DataError where that is not
    enough."""
    given, wanted = tuple(dataset.input_shape), tuple(input_shape)
    if given == wanted:
        return dataset
    if len(given) == len(wanted) == 3 and not isinstance(given[2], tuple) and (given[2], wanted[2]) in {(wanted[2],) * 2, (1, 3)}:
        resized = dataset if given[:2] == wanted[:2] else Resized(dataset, (wanted[0], wanted[1]))
        return resized if given[2] == wanted[2] else Coloured(resized)
    raise DataError(f"The data set's images have shape {given}; the model takes {wanted}.")


# Checks of arrays ------------------------------------------------------------------------------------------------------


def _is_several(given: Any) -> bool:
    """Whether these are arrays for several inputs or outputs: a tuple of arrays (a list is one array)."""
    return isinstance(given, tuple) and len(given) > 0 and all(isinstance(entry, np.ndarray) for entry in given)


def _entries(given: Any) -> list[Any]:
    return list(given) if _is_several(given) else [given]


def _as_array(given: Any, what: str) -> NDArray[Any]:
    """Raises DataError for nested lists of different lengths, and for arrays of objects, which they once became."""
    try:
        array = np.asarray(given)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind == "O":
        raise DataError(f"The {what} are not one array of numbers; do they differ in shape?")
    return array


def _checked_images(given: Any, dtype: np.dtype) -> NDArray[Any]:
    images = _shaped_images(given)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "iu":
        raise DataError(f"Images must be uint8 (0 to 255) or floating-point numbers; these are {images.dtype}.")
    images = images.astype(dtype, copy=False)
    _check_finite(images, "Image")
    return images


def _checked_whole_numbers(given: Any) -> NDArray[Any]:
    images = _shaped_images(given)
    if images.dtype.kind not in "iu":
        raise DataError(f"The samples must be whole numbers, such as ids of words; these are {images.dtype}.")
    return images.astype(np.int64, copy=False)


def _shaped_images(given: Any) -> NDArray[Any]:
    images = _as_array(given, "images")
    if images.dtype.kind not in "fiub":
        raise DataError(f"Images must be numbers; these are of type {images.dtype}.")
    if images.ndim < 2:
        raise DataError(f"Images must have shape (n, ..., channels); this array has shape {images.shape}.")
    if len(images) == 0 or 0 in images.shape:
        raise DataError(f"There are no images: the array has shape {images.shape}.")
    return images


def _checked_labels(given: Any, dtype: np.dtype, ignored: int | None) -> NDArray[Any]:
    labels = _as_array(given, "labels")
    if labels.dtype.kind not in "fiub":
        raise DataError(f"Labels must be class indices (integers) or targets (floating-point numbers); these are of type {labels.dtype}.")
    if labels.ndim == 0:
        raise DataError("There must be one label per image; a single number was given.")
    if labels.dtype.kind == "f":
        labels = labels.astype(dtype, copy=False)
        _check_finite(labels, "Label")
        return labels
    labels = labels.astype(np.int64, copy=False)
    negative = labels < 0
    if ignored is not None:
        negative &= labels != ignored
    if negative.any():
        at = int(np.argwhere(negative)[0][0])
        raise DataError(f"Label {at} is {int(labels[negative][0])}; class indices start at 0.")
    return labels


def _check_finite(numbers: NDArray[np.floating], what: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(numbers.sum()):  # one pass without a temporary; a sum that overflows goes on to the exact look
            return
    for at, one in enumerate(numbers):
        if not np.isfinite(one).all():
            raise DataError(f"{what} {at} holds a NaN or an infinity.")


def _check_within_classes(labels: NDArray[Any], classes: tuple[str, ...] | None, ignored: int | None) -> None:
    if classes is None or labels.dtype.kind != "i":
        return
    largest = int(labels.max(initial=-1, where=True if ignored is None else labels != ignored))
    if largest >= len(classes):
        raise DataError(f"Label {largest} occurs, but there are only {len(classes)} classes (0 to {len(classes) - 1}).")
