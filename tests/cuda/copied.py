"""A layer that changes nothing, and that no pass knows: what lies between two of them is stored as plans store it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from numbacnn.layers.base import Layer


@dataclasses.dataclass(frozen=True)
class Copied(Layer):
    """``y = x``."""

    cuda: ClassVar[str | None] = "tests.cuda.copied:device_twin"
    recordable: ClassVar[bool] = False

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        y[...] = x

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            dx[...] = dy


def device_twin(*given: Any) -> Any:
    """Its twin; imported late, as it needs the GPU's packages."""
    from numbacnn.layers.cuda.twin import Twin

    class CopiedTwin(Twin):
        def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
            y.copy_from(x)

        def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
            if dx is not None:
                dx.copy_from(dy)

    return CopiedTwin(*given)
