"""Activations on the device (compare :mod:`numbacnn.layers.activation`)."""

from __future__ import annotations

import math
from typing import Any

from ...kernels import scalar
from ...kernels.cuda import pointwise, softmax, weighted
from ..base import Buffer, Shape
from .twin import Twin, rows


class Elementwise(Twin):
    """Any elementwise activation, those of plugins included: its scalar function is compiled for the device."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        with scalar.explained(self.layer.scalar()):
            pointwise.forward(self.layer.scalar(), x, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is None:
            return
        if not self.backward_reads:  # a linear one
            pointwise.copy(dy, dx)
            return
        from_output = self.layer.gradient_from_output()
        if from_output is not None:
            pointwise.backward_from_output(from_output, dy, y, dx)
            return
        scalar_function, derivative = self.layer.scalar(), self.layer.derivative()
        with scalar.explained(derivative or scalar_function):
            pointwise.backward(scalar_function, derivative, dy, x, dx)


class PReLU(Twin):
    """One weight for each channel, or for all elements."""

    def _view(self, array: Any) -> Any:
        return array.reshape(1, -1, 1 if self.layer.shared else array.shape[-1])

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if not training:
            return {}
        channels = 1 if self.layer.shared else x[-1]
        return {"partials": Buffer(weighted.partials_shape(batch * math.prod(x) // channels, channels), per_sample=False)}

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        weighted.prelu(self._view(x), p["weight"], self._view(y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        x, dy, dx = (None if array is None else self._view(array) for array in (x, dy, dx))
        weighted.prelu_backward(dy, x, p["weight"], dx, b["partials"], dp.get("weight"))


class Softmax(Twin):
    """Over the channels."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        softmax.softmax(rows(x), rows(y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            softmax.softmax_backward(rows(dy), rows(y), rows(dx))


class LogSoftmax(Twin):
    """Likewise."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        softmax.log_softmax(rows(x), rows(y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            softmax.log_softmax_backward(rows(dy), rows(y), rows(dx))
