"""Batches in a fixed order, prepared ahead by threads."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ..cores import core_count
from ..errors import ConfigError, DataError
from .dataset import Batch, Dataset, at_epoch

MOST_WORKERS = 8  # threads, unless more are asked for


class Loader:
    """Iterates over a data set in batches, epoch by epoch.

    The order of an epoch is a pure function of ``(seed, epoch)``, so a run that resumes at batch ``start`` of an epoch sees exactly
    what it would have seen. ``shuffle=False`` keeps the data set's own order. The last batch is shorter where the data set's
    length is no multiple of ``batch_size``; ``drop_last`` leaves it out.
    ``workers`` threads prepare batches ahead of the one in use (reading and decoding image files runs in parallel); None takes one per
    core, up to :data:`MOST_WORKERS`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        workers: int | None = None,
    ):
        workers = min(core_count(), MOST_WORKERS) if workers is None else workers
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, not {value!r}.")
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ConfigError(f"seed must be an integer of at least 0, not {seed!r}.")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.seed = int(seed)
        self.drop_last = drop_last
        self.workers = int(workers)
        if len(self) == 0:
            raise DataError(f"The data set has {len(dataset)} samples, which make no batch of {batch_size}.")

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        samples = len(self.dataset)
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def order(self, number: int) -> NDArray[np.int64]:
        """Indices of all samples in the order of epoch ``number``."""
        samples = len(self.dataset)
        if not self.shuffle:
            return np.arange(samples)
        # Raw Philox output never changes between versions of NumPy; Generator.permutation may.
        random = np.random.Philox(np.random.SeedSequence((self.seed, number))).random_raw(samples)
        return np.argsort(random, kind="stable")

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Batch]:
        """Batches ``(images, labels)`` of epoch ``number``, from batch ``start`` on; see :meth:`epochs`."""
        return self.epochs(number, start)

    def epochs(self, first: int = 0, start: int = 0, count: int = 1) -> Iterator[Batch]:
        """Batches ``(images, labels)`` of ``count`` epochs one after the other, from batch ``start`` of epoch ``first`` on. While the last
        ones of an epoch are in use, and whatever is done before the next is asked for, the first of the next epoch are prepared.

        Each batch is a pair of arrays of its own, or of tuples of them (see :class:`numbacnn.data.dataset.Dataset`).
        An error of the data set is raised where its batch would have come. Leaving the loop
        early (or closing the iterator) ends the threads.
        """
        if not 0 <= start <= len(self):
            raise ConfigError(f"An epoch of {len(self)} batches cannot start at batch {start}.")
        return self._batches(first, start, count)

    def _batches(self, first: int, start: int, count: int) -> Iterator[Batch]:
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="numbacnn-loader")
        try:
            for prepare in self._tasks(pool, first, start, count):
                ahead.append(pool.submit(prepare))
                if len(ahead) > self.workers + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _tasks(self, pool: ThreadPoolExecutor, first: int, start: int, count: int) -> Iterator[Callable[[], Batch]]:
        """What prepares each batch. An epoch's order, which takes a while where there are many samples, is found during the one before."""
        upcoming = pool.submit(self._begin, first)
        for number in range(first, first + count):
            dataset, order = upcoming.result()
            if number + 1 < first + count:
                upcoming = pool.submit(self._begin, number + 1)
            for at in range(start if number == first else 0, len(self)):
                yield functools.partial(_prepare, dataset, order[at * self.batch_size : (at + 1) * self.batch_size])

    def _begin(self, number: int) -> tuple[Dataset, NDArray[np.int64]]:
        """The data set and the order of epoch ``number``."""
        return at_epoch(self.dataset, number), self.order(number)


def _prepare(dataset: Dataset, indices: NDArray[np.int64]) -> Batch:
    """A batch. Raises DataError where it is not what the data set says."""
    images, labels = dataset.batch(indices)
    shape = dataset.input_shape
    several = bool(shape) and isinstance(shape[0], tuple)
    given, shapes = (images, shape) if several else ((images,), (shape,))
    if len(given) != len(shapes):
        raise DataError(f"{dataset!r} gave a batch of {len(given)} arrays of images; {len(shapes)} were asked for.")
    for array, one in zip(given, shapes):
        wanted = (len(indices), *one)
        if np.shape(array) != wanted:
            raise DataError(f"{dataset!r} gave a batch of images of shape {np.shape(array)}; {wanted} was asked for.")
    for array in labels if isinstance(labels, tuple) else (labels,):
        if len(array) != len(indices):
            raise DataError(f"{dataset!r} gave {len(array)} labels for {len(indices)} images.")
    return images, labels
