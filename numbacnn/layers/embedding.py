"""The embedding layer: vectors for whole numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import ConfigError, DataError
from . import initializers
from .base import Buffer, Layer, Parameter, Shape
from .checks import integer
from .initializers import Initializer, Normal

STANDARD_NORMAL = Normal(deviation=1.0)


@dataclasses.dataclass(frozen=True)
class Embedding(Layer):
    """``y = weight[x]``: for each whole number of ``x``, such as the id of a word, a row of a table that is learned.

    Args:
        vocabulary: number of rows; ids are from 0 to ``vocabulary - 1``.
        width: length of a row.
        padding_index: id of what stands for nothing. Its row starts at zero and gets no gradient. A negative one counts from the end.
        initializer: name or initializer of the table.

    Input of any shape, of type int64 (``nc.Input((length,), dtype="int64")``), output ``(..., width)``. Parameter: ``weight
    (vocabulary, width)``. Running it raises DataError for an id that is outside of the vocabulary. As :class:`torch.nn.Embedding`.
    """

    vocabulary: int
    width: int
    padding_index: int | None = None
    initializer: Any = STANDARD_NORMAL

    input_dtype: ClassVar[str | None] = "int64"
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn.layers.cuda.embedding:Embedding"
    stem: ClassVar[str] = "embedding"

    def __post_init__(self) -> None:
        integer(self, "vocabulary", 1)
        integer(self, "width", 1)
        if self.padding_index is None:
            return
        integer(self, "padding_index")
        index, vocabulary = self.padding_index, self.vocabulary
        if not -vocabulary <= index < vocabulary:
            raise ConfigError(f"Embedding: padding_index is {index}; with a vocabulary of {vocabulary} it is below that.")
        object.__setattr__(self, "padding_index", index % vocabulary)

    def output_shape(self, x: Shape) -> Shape:
        return (*x, self.width)

    def parameters(self, x: Shape) -> dict[str, Parameter]:
        initializer = initializers.resolve(self.initializer)
        if self.padding_index is not None:
            initializer = _ZeroRow(initializer, self.padding_index)
        return {"weight": Parameter((self.vocabulary, self.width), initializer)}

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        """The places of a batch, sorted by their ids."""
        return {"starts": Buffer((self.vocabulary + 2,), "int64", per_sample=False), "order": Buffer(x, "int64")} if training else {}

    def check_ids(self, x: np.ndarray) -> None:
        """Raise DataError for an id that is outside of the vocabulary."""
        for least_or_most in (x.min(), x.max()):
            if not 0 <= least_or_most < self.vocabulary:
                raise DataError(f"given the id {least_or_most}, which the vocabulary lacks; its ids are from 0 to {self.vocabulary - 1}.")

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        self.check_ids(x)
        kernels.embedding.rows(p["weight"], x.reshape(-1), y.reshape(-1, self.width))

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if "weight" in dp:
            order = b["order"].reshape(-1)
            kernels.embedding.sort(x.reshape(-1), b["starts"], order)
            skipped = -1 if self.padding_index is None else self.padding_index
            kernels.embedding.row_sums(dy.reshape(-1, self.width), b["starts"], order, skipped, dp["weight"])


@dataclasses.dataclass(frozen=True)
class _ZeroRow(Initializer):
    """As another initializer, but for one row of zeros."""

    initializer: Initializer
    row: int

    def __call__(self, shape: Shape, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        values = self.initializer(shape, generator, dtype)
        values[self.row] = 0
        return values
