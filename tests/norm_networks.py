"""Parts of networks with batch norms behind convolutions, whose statistics these gather, on any device."""

from __future__ import annotations

from typing import Any

import numbacnn as nc


def relu(x: Any) -> Any:
    return nc.Activation("relu")(x)


def residual(x: Any) -> Any:
    h = relu(nc.BatchNorm()(nc.Conv2D(8, 3, padding="same")(x)))
    return relu(nc.Add()(nc.BatchNorm()(nc.Conv2D(8, 3, padding="same", groups=2)(h)), h))


def branches(x: Any) -> Any:
    """Statistics that wait while others are gathered, of which two norms read some."""
    a, b = nc.Conv2D(4, 1)(x), nc.Conv2D(4, 3, padding="same")(x)
    both = nc.Add()(nc.Conv2D(4, 1)(a), b)
    return nc.Concatenate()(nc.BatchNorm()(a), relu(nc.BatchNorm()(b)), nc.BatchNorm(momentum=0.5)(a), both)
