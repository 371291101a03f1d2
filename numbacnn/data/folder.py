"""A folder of class folders of images as a data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from . import images as image_files
from .dataset import Batch

SPLITS = ("train", "test")
_TEST_FOLDERS = ("test", "val", "validation", "valid")
_TEST_SHARE = 5  # where the folder has no test images of its own, one in five of a class is one, chosen by the hash of its name


class ImageFolder:
    """Images in one folder per class: ``folder/cat/*.jpg``, ``folder/dog/*.jpg``, at any depth below the class folder.

    With ``folder/train/`` and ``folder/test/`` (or ``val/``) the split is the one they make; otherwise a fifth of each class's images
    is the test set. Which ones depends on nothing but the file names, so the split is the same on every machine.
    Class folders in alphabetical order are the labels 0, 1, 2...; folders and files whose names start with a dot are left out.

    ``size`` ``(height, width)`` is what images are resized to (bilinear); None takes the size of the first image, and raises DataError
    for an image of another size. ``channels`` is 1 for grey, 3 for colour; None gives 3 if the first image of any class has colour.
    ``classes`` gives the class names of a model that is to be evaluated, in the order of its labels.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str = "train",
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        classes: Sequence[str] | None = None,
    ):
        if split not in SPLITS:
            raise ConfigError(f"A split is 'train' or 'test', not {split!r}.")
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise DataError(f"There is no folder {self.folder}.")
        train, test = _split_folders(self.folder)
        self._classes = tuple(classes) if classes is not None else _class_names(train or self.folder)
        root = (test if split == "test" else train) or train or self.folder
        self.files, self._labels = self._list(root, split, split_by_name=test is None)
        self._given_size = None if size is None else image_files.checked_size(size)
        self._channels = channels or self._native_channels()
        self._size = self._given_size or image_files.image_size(self.files[0])

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*self._size, self._channels)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        images = np.empty((len(indices), *self.input_shape), np.float32)
        for image, index in zip(images, indices, strict=True):
            image[...] = self._read(self.files[index])
        return images, self._labels.take(indices)

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.folder)!r}, {len(self)} images of shape {self.input_shape}, {len(self.classes)} classes)"

    def _read(self, path: Path) -> NDArray[np.float32]:
        image = image_files.read_image(path, self._channels, self._given_size)
        if image.shape != self.input_shape:
            (height, width), (first_height, first_width) = image.shape[:2], self._size
            raise DataError(
                f"{path} has {height} x {width} pixels, but {self.files[0]} has {first_height} x {first_width}: "
                "say which size (height, width) all images are to be resized to."
            )
        return image

    def _list(self, root: Path, split: str, split_by_name: bool) -> tuple[list[Path], NDArray[np.int64]]:
        unknown = [name for name in _class_names(root) if name not in self._classes]
        if unknown:
            raise DataError(f"{root} has a class folder {unknown[0]!r}, which is none of the classes: {', '.join(self._classes)}.")
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self._classes):
            found = _images_below(root / name)
            if split_by_name:
                found = _share_of(found, root, split)
            files += found
            labels += [label] * len(found)
        if not files:
            raise DataError(
                f"The class folders in {root} hold no image files ({', '.join(sorted(image_files.SUFFIXES))}) for the {split} split."
            )
        return files, np.array(labels, np.int64)

    def _native_channels(self) -> int:
        _, firsts = np.unique(self._labels, return_index=True)
        return max(image_files.count_channels(self.files[at]) for at in firsts)


def _split_folders(folder: Path) -> tuple[Path | None, Path | None]:
    """``folder/train`` and the folder of test images beside it, where there are such; a folder without folders is a class of that name."""
    train = folder / "train"
    if not train.is_dir() or not any(entry.is_dir() for entry in train.iterdir()):
        return None, None
    tests = (folder / name for name in _TEST_FOLDERS)
    return train, next((test for test in tests if test.is_dir()), None)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not names:
        raise DataError(f"{folder} holds no class folders: put the images of each class into a folder of the class's name.")
    return names


def _images_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in image_files.SUFFIXES
        ]
    return found


def _share_of(files: list[Path], root: Path, split: str) -> list[Path]:
    """The part of one class's files that belongs to the split, still in the order of their names."""
    hashed = sorted(files, key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    tests = set(hashed[: round(len(files) / _TEST_SHARE)])
    return [path for path in files if (path in tests) == (split == "test")]
