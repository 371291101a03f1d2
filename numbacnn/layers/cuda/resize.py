"""Upsample on the device."""

from __future__ import annotations

from typing import Any

from ...kernels.cuda import resize
from .twin import Twin


class Upsample(Twin):
    """The twin of Upsample: nearest and linear, in one to three dimensions."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        resize.gather(x, y, self.layer.taps(x.shape[1:]))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            resize.gather(dy, dx, [axis.transposed() for axis in self.layer.taps(dx.shape[1:])])
