"""Depthwise and separable convolutions on the device."""

from __future__ import annotations

import math
from typing import Any

from ...kernels.bfloat16 import BF16
from ...kernels.conv.window import lift
from ...kernels.cuda import depthwise
from ...kernels.cuda.columns import column_sum_elements, column_sums
from ...kernels.cuda.ending import Ending
from ..base import Buffer, Shape
from ..conv import of_stage, prefixed
from .epilogue import FusableTwin
from .twin import on_cuda


class DepthwiseConvolution(FusableTwin):
    """The twin of DepthwiseConv1D, DepthwiseConv2D and DepthwiseConv3D."""

    def _convolution(self, x: Shape, batch: int) -> depthwise.Depthwise:
        layer = self.layer
        places = lift(layer.output_shape(x)[:-1], 1)
        return depthwise.Depthwise(layer.lifted_window(x), lift(x[:-1], 1), places, x[-1], layer.multiplier, batch)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        if not training:
            return {}
        conv = self._convolution(x, batch)
        of_bias = column_sum_elements(1, batch * math.prod(conv.places), conv.outputs)
        elements = max(depthwise.WeightGradient(conv).scratch_elements, of_bias)
        return {"scratch": Buffer((elements,), per_sample=False)}

    def run(self, x: Any, y: Any, ending: Ending, p: dict, b: dict) -> None:
        depthwise.convolve(self._convolution(x.shape[1:], len(x)), x, p["weight"], ending, y)

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        conv = self._convolution(x.shape[1:], len(x))
        if "weight" in dp:
            depthwise.WeightGradient(conv).run(x, dy, dp["weight"], dp.get("bias"), b["scratch"])
        elif "bias" in dp:
            column_sums(dy, 1, dp["bias"], b["scratch"])
        if dx is not None:
            depthwise.data_gradient(conv, dy, p["weight"], dx)


class SeparableConvolution(FusableTwin):
    """The twin of SeparableConv1D, SeparableConv2D and SeparableConv3D: those of the two convolutions, one after the other."""

    def _stages(self, x: Shape) -> tuple[Any, Any, Shape]:
        """The twins of the two, and the shape between them."""
        first, second, middle = self.layer.stages(x)
        return on_cuda(first), on_cuda(second, self.precision), middle

    def _between(self, middle: Shape) -> Buffer:
        """What lies there, stored as other activations are."""
        return Buffer(middle, BF16 if self.precision == "bf16" else None)

    def buffers(self, x: Shape) -> dict[str, Buffer]:
        return {"middle": self._between(self._stages(x)[2])}

    def prepared(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        first, second, middle = self._stages(x)
        return prefixed(first.prepared(x, batch, threads, training), second.prepared(middle, batch, threads, training))

    def prepare(self, x: Shape, batch: int, p: dict, b: dict, training: bool) -> None:
        first, second, middle = self._stages(x)
        first.prepare(x, batch, {"weight": p["depthwise_weight"]}, of_stage(b, "first"), training)
        second.prepare(middle, batch, {"weight": p["pointwise_weight"]}, of_stage(b, "second"), training)

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        first, second, middle = self._stages(x)
        both = prefixed(first.scratch(x, batch, threads, training), second.scratch(middle, batch, threads, training))
        return {**both, "d_middle" if training else "middle": self._between(middle)}

    def statistics_parts(self, x: Shape, batch: int) -> int:
        _, second, middle = self._stages(x)
        return second.statistics_parts(middle, batch)

    def run(self, x: Any, y: Any, ending: Ending, p: dict, b: dict) -> None:
        first, second, _ = self._stages(x.shape[1:])
        first.run(x, b["middle"], Ending(), {"weight": p["depthwise_weight"]}, of_stage(b, "first"))
        second.run(b["middle"], y, ending, {"weight": p["pointwise_weight"]}, of_stage(b, "second"))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        first, second, _ = self._stages(x.shape[1:])
        needed = b["d_middle"] if dx is not None or "depthwise_weight" in dp else None
        later = {name.removeprefix("pointwise_"): dp[name] for name in ("pointwise_weight", "bias") if name in dp}
        second.backward(b["middle"], None, dy, needed, {"weight": p["pointwise_weight"]}, later, of_stage(b, "second"))
        if needed is not None:
            earlier = {"weight": dp["depthwise_weight"]} if "depthwise_weight" in dp else {}
            first.backward(x, None, needed, dx, {"weight": p["depthwise_weight"]}, earlier, of_stage(b, "first"))
