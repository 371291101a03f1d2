"""The data sets that come with numbacnn."""

from __future__ import annotations

from collections.abc import Iterator

from numbacnn.plugin.hookspecs import hookimpl
from numbacnn.plugin.specs import DatasetSpec

numbacnn_api = 1


@hookimpl
def numbacnn_datasets() -> Iterator[DatasetSpec]:
    yield DatasetSpec("digits", "numbacnn_datasets.digits:digits", "1,797 handwritten digits, 8 x 8 grey, comes with numbacnn")
    yield DatasetSpec("mnist", "numbacnn_datasets.mnist:mnist", "70,000 handwritten digits, 28 x 28 grey")
    yield DatasetSpec("fashion_mnist", "numbacnn_datasets.mnist:fashion_mnist", "70,000 pieces of clothing, 28 x 28 grey")
    yield DatasetSpec("cifar10", "numbacnn_datasets.cifar:cifar10", "60,000 photographs of 10 things, 32 x 32 colour")
    yield DatasetSpec("cifar100", "numbacnn_datasets.cifar:cifar100", "60,000 photographs of 100 things, 32 x 32 colour")
