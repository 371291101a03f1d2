"""Plain and transposed convolutions on the device."""

from __future__ import annotations

import math
from typing import Any

from ...kernels.bfloat16 import BF16
from ...kernels.conv import lift
from ...kernels.cuda.columns import column_sum_elements, column_sums
from ...kernels.cuda.conv import tensor
from ...kernels.cuda.conv.launch import DataGradient, Forward, Problem, WeightGradient
from ...kernels.cuda.ending import Ending
from ..base import Buffer
from .epilogue import FusableTwin


class ChannelMixing(FusableTwin):
    """What plain and transposed convolutions and Dense layers share. A subclass says which convolution its passes are of."""

    def problem(self, x: Any, batch: int) -> Problem:
        """The convolution that the weights are of."""
        raise NotImplementedError(f"{type(self).__name__} does not define problem")

    forwards: type = Forward
    backwards: type = DataGradient

    def _pass(self, kind: type, x: Any, batch: int) -> Any:
        """One of the three passes, on tensor cores where these are asked for and can take it."""
        if self._on_tensor_cores(x, batch):
            return getattr(tensor, kind.__name__)(self.problem(x, batch), self.precision)
        return kind(self.problem(x, batch))

    def _on_tensor_cores(self, x: Any, batch: int) -> bool:
        return self.precision != "float32" and tensor.fits(self.problem(x, batch))

    def prepared(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        """Tensor cores take weights in bfloat16: rounded once, they are read in half the time by both passes."""
        if self.precision != "bf16" or not self._on_tensor_cores(x, batch):
            return {}
        return {"rounded_weight": Buffer(self.parameters(x)["weight"].shape, BF16, per_sample=False)}

    def prepare(self, x: Any, batch: int, p: dict, b: dict, training: bool) -> None:
        if "rounded_weight" in b:
            b["rounded_weight"].copy_from(p["weight"])

    def scratch(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        places = self.output_shape(x)
        kinds = (self.forwards, self.backwards, WeightGradient) if training else (self.forwards,)
        elements = max(self._pass(kind, x, batch).scratch_elements for kind in kinds)
        if training:
            elements = max(elements, column_sum_elements(1, batch * math.prod(places[:-1]), places[-1]))
        return {"parts": Buffer((elements,), per_sample=False)} if elements else {}

    def statistics_parts(self, x: Any, batch: int) -> int:
        return self._pass(self.forwards, x, batch).statistics_parts

    def run(self, x: Any, y: Any, ending: Ending, p: dict, b: dict) -> None:
        self._pass(self.forwards, x.shape[1:], len(x)).run(x, self._weight(p, b), y, ending, b.get("parts"))

    def backward(self, x: Any, y: Any, dy: Any, dx: Any, p: dict, dp: dict, b: dict) -> None:
        shape, batch, parts = x.shape[1:], len(x), b.get("parts")
        if "weight" in dp:
            self._pass(WeightGradient, shape, batch).run(*self.read_and_made(x, dy), dp["weight"], parts)
        if "bias" in dp:
            column_sums(dy, 1, dp["bias"], parts)
        if dx is not None:
            self._pass(self.backwards, shape, batch).run(dy, self._weight(p, b), dx, Ending(), parts)

    def _weight(self, p: dict, b: dict) -> Any:
        """What tensor cores take, or the weights themselves."""
        return b.get("rounded_weight", p["weight"])

    def read_and_made(self, x: Any, dy: Any) -> tuple[Any, Any]:
        """What the convolution of :meth:`problem` reads, and what it makes, or the gradient of that."""
        return x, dy


class Convolution(ChannelMixing):
    """Conv1D, Conv2D and Conv3D."""

    def problem(self, x: Any, batch: int) -> Problem:
        places = lift(self.output_shape(x)[:-1], 1)
        return Problem(self.layer.lifted_window(x), lift(x[:-1], 1), x[-1], places, self.layer.filters, batch)


class TransposedConvolution(ChannelMixing):
    """Conv1DTranspose, Conv2DTranspose and Conv3DTranspose: the data gradient of a convolution from the output to the input."""

    forwards = DataGradient
    backwards = Forward

    def problem(self, x: Any, batch: int) -> Problem:
        size = lift(self.output_shape(x)[:-1], 1)
        return Problem(self.layer.lifted_window(x), size, self.layer.filters, lift(x[:-1], 1), x[-1], batch)

    def read_and_made(self, x: Any, dy: Any) -> tuple[Any, Any]:
        return dy, x
