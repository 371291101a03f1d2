"""Elementwise activations on the device."""

from __future__ import annotations

from typing import Any

from ...kernels import scalar
from ...kernels.cuda import pointwise
from .twin import Twin


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
