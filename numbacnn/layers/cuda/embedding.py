"""Vectors for whole numbers on the device."""

from __future__ import annotations

import math
from typing import Any

from ...kernels.cuda import embedding
from ..base import Buffer, Shape
from .twin import Twin


class Embedding(Twin):
    """Rows of a table. Kernels cannot complain: plans let :meth:`check_input` look at ids before they leave the host."""

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        layer = self.layer
        shapes = embedding.scratch_shapes(batch * math.prod(x), layer.vocabulary, layer.width) if training else {}
        return {name: Buffer(shape, dtype, per_sample=False) for name, (shape, dtype) in shapes.items()}

    def check_input(self, x: Any) -> None:
        self.layer.check_ids(x)

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        embedding.rows(p["weight"], x, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if "weight" in dp:
            skipped = -1 if self.layer.padding_index is None else self.layer.padding_index
            embedding.row_sums(dy, x, skipped, dp["weight"], b)
