"""Layers of capsules as they run on a GPU."""

from __future__ import annotations

import math
from typing import Any

import numbacnn as nc
from numbacnn.layers.base import Shape
from numbacnn.layers.cuda.twin import Twin

from . import capsule_kernels_cuda as kernels


class Squash(Twin):
    """Squashed vectors."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        kernels.squash(x, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.squash_backward(x, dy, dx)


class CapsuleRouting(Twin):
    """Dynamic routing. The squashed vectors of all iterations are kept, so that the gradient of the votes is written once."""

    def buffers(self, x: Shape) -> dict[str, nc.Buffer]:
        return {**self.layer.buffers(x), "squashed": self.layer.buffers(x)["sums"]}

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, nc.Buffer]:
        buffers, layer = self.buffers(x), self.layer
        count = math.prod(x[:-1])
        arrays = {
            "logits": nc.Buffer((count, layer.capsules)),
            "partials": nc.Buffer((-(-count // kernels.CHUNK), layer.width, layer.capsules)),
        }
        if not training:
            return {**arrays, **buffers}
        gradients = {"dvotes": "votes", "dlogits": "couplings", "gradient": "sums"}
        return {**arrays, "dcouplings": arrays["logits"], **{name: buffers[like] for name, like in gradients.items()}}

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        kernels.Routing(len(x), p["weight"], self.layer.iterations).forward(x, p["weight"], y, b)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        routing = kernels.Routing(len(x), p["weight"], self.layer.iterations)
        routing.backward(dy, b)
        if dx is not None:
            routing.input_gradient(p["weight"], b["dvotes"], dx)
        if "weight" in dp:
            routing.weight_gradient(x, b["dvotes"], dp["weight"])


class CapsuleLength(Twin):
    """Lengths of vectors."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        kernels.lengths(x, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.lengths_backward(x, y, dy, dx)


class LongestCapsule(Twin):
    """The longest capsule stays."""

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        kernels.keep_longest(x, x, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels.keep_longest(x, dy, dx)
