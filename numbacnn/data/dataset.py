"""What a data set is, one over arrays, and a resized view of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, DataError
from . import images as image_files

Batch = tuple[NDArray[np.floating], NDArray[Any]]


@runtime_checkable
class Dataset(Protocol):
    """What training, evaluation and the loader need of a data set. Any object with these four will do.

    ``batch`` may be called from several threads at once, and gives the same arrays whenever it gets the same indices.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
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


class ArrayDataset:
    """A data set that lies in two arrays.

    ``images`` ``(n, ..., channels)``: uint8 stays as it is in memory, and a batch holds ``images / full_scale``; floating-point
    numbers are kept as float32 (float64 with ``dtype="float64"``) and not scaled.
    ``labels``: integers are class indices, stored as int64, at least 0 unless equal to ``ignored_label``; floating-point numbers
    are targets, stored in ``dtype``.
    Raises DataError where the two cannot belong together or hold something that is not a number.
    """

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        classes: Sequence[str] | None = None,
        *,
        full_scale: float = 255.0,
        ignored_label: int | None = None,
        dtype: str = "float32",
    ):
        if dtype not in ("float32", "float64"):
            raise ConfigError(f"A data set's dtype is 'float32' or 'float64', not {dtype!r}.")
        self._dtype = np.dtype(dtype)
        self._images = _checked_images(images, self._dtype)
        self._labels = _checked_labels(labels, self._dtype, ignored_label)
        self._full_scale = self._dtype.type(full_scale)
        self._classes = None if classes is None else tuple(map(str, classes))
        if len(self._images) != len(self._labels):
            raise DataError(f"There are {len(self._images)} images but {len(self._labels)} labels; each image needs one.")
        _check_within_classes(self._labels, self._classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._images.shape[1:]

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._classes

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        images = self._images.take(indices, axis=0)
        if images.dtype != self._dtype:
            images = np.divide(images, self._full_scale, dtype=self._dtype)
        return images, self._labels.take(indices, axis=0)

    def __repr__(self) -> str:
        return f"ArrayDataset({len(self)} images of shape {self.input_shape})"


class Resized:
    """A view of a data set with images of another ``size`` ``(height, width)``, resized bilinearly batch by batch."""

    def __init__(self, dataset: Dataset, size: tuple[int, int]):
        if len(dataset.input_shape) != 3:
            raise DataError(
                f"Only images (height, width, channels) can be resized; this data set's samples have shape {dataset.input_shape}."
            )
        self._dataset = dataset
        self._size = image_files.checked_size(size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*self._size, self._dataset.input_shape[-1])

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._dataset.classes

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        images, labels = self._dataset.batch(indices)
        return image_files.resize(images, self._size), labels

    def __repr__(self) -> str:
        return f"Resized({self._dataset!r}, {self._size})"


def as_input(dataset: Dataset, input_shape: tuple[int, ...]) -> Dataset:
    """The data set with images of ``input_shape``: itself, or resized. Raises DataError where resizing is not enough."""
    given, wanted = tuple(dataset.input_shape), tuple(input_shape)
    if given == wanted:
        return dataset
    if len(given) == len(wanted) == 3 and given[2] == wanted[2]:
        return Resized(dataset, (wanted[0], wanted[1]))
    raise DataError(f"The data set's images have shape {given}; the model takes {wanted}.")


# Checks of arrays ------------------------------------------------------------------------------------------------------


def _checked_images(given: ArrayLike, dtype: np.dtype) -> NDArray[Any]:
    images = np.asarray(given)
    if images.dtype.kind == "O":
        raise DataError("The images are not one array of numbers; do they differ in shape?")
    if images.dtype.kind not in "fiub":
        raise DataError(f"Images must be numbers; these are of type {images.dtype}.")
    if images.ndim < 2:
        raise DataError(f"Images must have shape (n, ..., channels); this array has shape {images.shape}.")
    if len(images) == 0 or 0 in images.shape:
        raise DataError(f"There are no images: the array has shape {images.shape}.")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "iu":
        raise DataError(f"Images must be uint8 (0 to 255) or floating-point numbers; these are {images.dtype}.")
    images = images.astype(dtype, copy=False)
    _check_finite(images, "Image")
    return images


def _checked_labels(given: ArrayLike, dtype: np.dtype, ignored: int | None) -> NDArray[Any]:
    labels = np.asarray(given)
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


def _check_within_classes(labels: NDArray[Any], classes: tuple[str, ...] | None) -> None:
    if classes is None or labels.dtype.kind != "i" or labels.size == 0:
        return
    largest = int(labels.max())
    if largest >= len(classes):
        raise DataError(f"Label {largest} occurs, but there are only {len(classes)} classes (0 to {len(classes) - 1}).")
