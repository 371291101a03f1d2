"""Dropout on the device."""

from __future__ import annotations

from typing import Any

from ...kernels.cuda import dropout, pointwise
from .twin import Twin


class _Dropping(Twin):
    """What they share (compare :class:`numbacnn.layers.dropout._Dropping`)."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        if training:
            self._drop(x, y, b["random"], b["first"])
        else:
            pointwise.copy(x, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            self._drop(dy, dx, b["random"], b["first"])

    def _drop(self, x: Any, y: Any, random: Any, first: Any) -> None:
        raise NotImplementedError


class Dropout(_Dropping):
    """Leaves out elements."""

    def _drop(self, x: Any, y: Any, random: Any, first: Any) -> None:
        dropout.elements(x, y, random, first, self.layer.rate)


class SpatialDropout(_Dropping):
    """Leaves out channels of samples."""

    def _drop(self, x: Any, y: Any, random: Any, first: Any) -> None:
        dropout.groups(x, y, random, first, self.layer.rate, True)


class StochasticDepth(_Dropping):
    """Leaves out samples."""

    def _drop(self, x: Any, y: Any, random: Any, first: Any) -> None:
        dropout.groups(x, y, random, first, self.layer.rate, False)
