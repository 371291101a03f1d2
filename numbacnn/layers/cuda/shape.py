"""Layers that move numbers, and Scale, on the device (compare :mod:`numbacnn.layers.shape`)."""

from __future__ import annotations

import math
from typing import Any

from ...kernels.cuda import rearrange, weighted
from ...kernels.cuda.memory import DeviceArray
from ...kernels.cuda.strided import parts_of, stand_in, view_of, whole_of
from ..base import Buffer, Shape
from ..shape import resolve_axis
from .twin import Twin


class Move(Twin):
    """A copy between the views that the layer tells."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        self._copy(x, y, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            self._copy(dx, dy, dx)

    def _copy(self, x: DeviceArray, y: DeviceArray, target: DeviceArray) -> None:
        """Fill ``target``, one of the two, from the other."""
        wholes = stand_in(x), stand_in(y)
        source, destination = (view_of(array, whole, part) for array, whole, part in zip((x, y), wholes, self.layer.views(*wholes)))
        if target is x:
            source, destination = destination, source
        if destination.size < target.size:
            target.clear()
        rearrange.copy(source, destination)


class Split(Twin):
    """A copy for each part."""

    def _parts(self, whole: DeviceArray, pieces: Any) -> list[tuple[Any, Any]]:
        """Each part of an array with its piece, which is an array of its own."""
        pieces = (pieces,) if isinstance(pieces, DeviceArray) else pieces
        axis = resolve_axis(self.layer.axis, whole.shape[1:]) + 1
        return list(zip(parts_of(whole, axis, [piece.shape[axis] for piece in pieces]), map(whole_of, pieces)))

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        for part, piece in self._parts(x, y):
            rearrange.copy(part, piece)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            for part, piece in self._parts(dx, dy):
                rearrange.copy(piece, part)


class Scale(Twin):
    """A weight for each place along an axis."""

    def _view(self, array: Any) -> Any:
        axis = resolve_axis(self.layer.axis, array.shape[1:]) + 1
        return array.reshape(1, math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if not training:
            return {}
        axis = resolve_axis(self.layer.axis, x)
        shape = weighted.partials_shape(batch * math.prod(x[:axis]), math.prod(x[axis:]))
        return {"partials": Buffer(shape, per_sample=False)}

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        weighted.scale(self._view(x), p["weight"], self._view(y))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        x, dy, dx = (None if array is None else self._view(array) for array in (x, dy, dx))
        weighted.scale_backward(dy, x, p["weight"], dx, b["partials"], dp.get("weight"))
