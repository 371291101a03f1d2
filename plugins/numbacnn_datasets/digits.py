"""The digits data set, embedded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from numbacnn.data.dataset import ArrayDataset

_TEST_SHARE = 5


def digits(split: str = "train", folder: str | os.PathLike | None = None) -> ArrayDataset:
    """1,797 handwritten digits of 13 people, ``(8, 8, 1)`` grey: the test set of E. Alpaydin and C. Kaynak's "Optical Recognition of
    Handwritten Digits" (UCI Machine Learning Repository, 1998, doi:10.24432/C50P49, CC BY 4.0), counts 0 to 16 divided by 16.

    The split is fixed: of each class, in the file's order, every fifth image (the 5th, 10th...) is in the test set (355 images), the others
    in the training set (1,442). ``folder`` is not used, as the data comes with the package.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = file["images"][..., None], file["labels"]
    tests = _every_fifth_of_its_class(labels)
    chosen = tests if split == "test" else ~tests
    return ArrayDataset(images[chosen], labels[chosen], [str(digit) for digit in range(10)], full_scale=16.0)


def _every_fifth_of_its_class(labels: np.ndarray) -> np.ndarray:
    chosen = np.zeros(len(labels), bool)
    for label in range(10):
        chosen[np.flatnonzero(labels == label)[_TEST_SHARE - 1 :: _TEST_SHARE]] = True
    return chosen
