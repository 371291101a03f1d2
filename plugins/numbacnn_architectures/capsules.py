"""Layers of capsules, vectors whose length says how likely something is there, and the loss of such lengths.

S. Sabour, N. Frosst, G. E. Hinton, "Dynamic Routing Between Capsules", NeurIPS 2017.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any, ClassVar

import numpy as np

import numbacnn as nc
from numbacnn.layers.base import Shape
from numbacnn.layers.checks import integer, number
from numbacnn.training.losses import Loss, class_indices

INITIALIZER = nc.TruncatedNormal(deviation=0.1)


def kernels() -> Any:
    """The compiled loops; they are imported when they are first run."""
    return importlib.import_module(f"{__package__}.capsule_kernels")


def rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


@dataclasses.dataclass(frozen=True)
class Squash(nc.Layer):
    """``y = x |x| / (1 + |x|^2)`` of each vector along the last axis: its direction stays, and its length comes below one (equation 1)."""

    recordable: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn_architectures.capsule_twins:Squash"
    stem: ClassVar[str] = "squash"

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        kernels().squash(rows(x), rows(y))

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels().squash_backward(rows(x), rows(dy), rows(dx))

    def flops(self, x: Shape) -> int:
        return 3 * math.prod(x)


@dataclasses.dataclass(frozen=True)
class CapsuleRouting(nc.Layer):
    """Capsules that each see all capsules of the input, by dynamic routing (procedure 1).

    Input capsule i, a vector ``x[i]`` of length D, votes ``u[i, j] = x[i] @ weight[i, :, :, j]`` for output capsule j. Their means
    ``s[j] = sum over i of c[i, j] u[i, j]`` are squashed to the outputs ``v[j]``. The couplings ``c[i] = softmax(b[i])`` start alike; each
    of the ``iterations`` but the last adds the agreement ``u[i, j] . v[j]`` to ``b[i, j]``.

    Gradients flow through all of it, the couplings too, as in the authors' implementation (others take the couplings for constants).

    Args:
        capsules: number J of output capsules.
        width: their length O.
        iterations: how often the couplings are used.
        initializer: of the weight.

    Input ``(..., D)``, all axes but the last one counting capsules, I in all; output ``(J, O)``. Parameter: ``weight (I, D, O, J)``.
    """

    capsules: int
    width: int = 16
    iterations: int = 3
    initializer: Any = INITIALIZER

    recordable: ClassVar[bool] = True
    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn_architectures.capsule_twins:CapsuleRouting"
    stem: ClassVar[str] = "capsules"

    def __post_init__(self) -> None:
        for field in ("capsules", "width", "iterations"):
            integer(self, field, 1)

    def output_shape(self, x: Shape) -> Shape:
        if len(x) < 2:
            raise nc.ShapeError(f"given shape {x}, needs capsules of some length: (..., length).")
        return self.capsules, self.width

    def parameters(self, x: Shape) -> dict[str, nc.Parameter]:
        return {"weight": nc.Parameter((math.prod(x[:-1]), x[-1], self.width, self.capsules), self.initializer)}

    def buffers(self, x: Shape) -> dict[str, nc.Buffer]:
        count = math.prod(x[:-1])
        return {
            "votes": nc.Buffer((count, self.width, self.capsules)),
            "couplings": nc.Buffer((self.iterations, count, self.capsules)),
            "sums": nc.Buffer((self.iterations, self.width, self.capsules)),
        }

    def scratch(self, x: Shape, batch: int, threads: int, training: bool) -> dict[str, nc.Buffer]:
        count = math.prod(x[:-1])
        arrays = {"logits": nc.Buffer((count, self.capsules)), "squashed": nc.Buffer((self.width, self.capsules))}
        if not training:
            return {**arrays, **self.buffers(x)}
        gradients = {
            "dvotes": (count, self.width, self.capsules),
            "dcouplings": (count, self.capsules),
            "dsums": (self.width, self.capsules),
        }
        return {**arrays, **{name: nc.Buffer(shape) for name, shape in gradients.items()}}

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        x = x.reshape(len(x), -1, x.shape[-1])
        kernels().route(x, p["weight"], y, b["votes"], b["couplings"], b["sums"], b["logits"], b["squashed"])

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        names = ("votes", "couplings", "sums", "dvotes", "logits", "dcouplings", "squashed", "dsums")
        kernels().route_backward(dy, *(b[name] for name in names))
        count, length = p["weight"].shape[:2]
        dvotes = b["dvotes"].reshape(len(x), count, -1)
        if dx is not None:
            kernels().vote_backward(p["weight"].reshape(count, length, -1), dvotes, dx.reshape(len(x), count, length))
        if "weight" in dp:
            kernels().weight_gradient(x.reshape(len(x), count, length), dvotes, dp["weight"].reshape(count, length, -1))

    def flops(self, x: Shape) -> int:
        votes = math.prod(x[:-1]) * self.width * self.capsules
        return 2 * votes * (x[-1] + 2 * self.iterations - 1)


@dataclasses.dataclass(frozen=True)
class CapsuleLength(nc.Layer):
    """Lengths of the vectors along the last axis: ``(..., D)`` to ``(...)``. The gradient of a vector of length zero is zero."""

    recordable: ClassVar[bool] = True
    cuda: ClassVar[str | None] = "numbacnn_architectures.capsule_twins:CapsuleLength"
    stem: ClassVar[str] = "lengths"

    def output_shape(self, x: Shape) -> Shape:
        if len(x) < 2:
            raise nc.ShapeError(f"given shape {x}, needs capsules of some length: (..., length).")
        return x[:-1]

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        kernels().lengths(rows(x), y.reshape(-1))

    def backward(self, x: np.ndarray, y: np.ndarray, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            kernels().lengths_backward(rows(x), y.reshape(-1), dy.reshape(-1), rows(dx))

    def flops(self, x: Shape) -> int:
        return 2 * math.prod(x)


@dataclasses.dataclass(frozen=True)
class LongestCapsule(nc.Layer):
    """``(J, O)`` capsules of which the longest stays and the others become zero (section 4.1, where it is, in training, that of the right
    class)."""

    backward_reads: ClassVar[tuple[str, ...]] = ("x",)
    cuda: ClassVar[str | None] = "numbacnn_architectures.capsule_twins:LongestCapsule"
    stem: ClassVar[str] = "longest"

    def output_shape(self, x: Shape) -> Shape:
        if len(x) != 2:
            raise nc.ShapeError(f"given shape {x}, needs capsules of some length: (capsules, length).")
        return x

    def forward(self, x: np.ndarray, y: np.ndarray, p: dict, b: dict, training: bool) -> None:
        self._keep(x, x, y)

    def backward(self, x: np.ndarray, y: Any, dy: np.ndarray, dx: np.ndarray | None, p: dict, dp: dict, b: dict) -> None:
        if dx is not None:
            self._keep(x, dy, dx)

    def _keep(self, x: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
        longest = np.square(x).sum(axis=-1).argmax(axis=-1)
        each = np.arange(len(x))
        target[...] = 0
        target[each, longest] = source[each, longest]


@dataclasses.dataclass(frozen=True)
class Margin(Loss):
    """The margin loss of lengths of capsules (equation 4): ``T max(0, present - v)^2 + absent_weight (1 - T) max(0, v - absent)^2``, with T
    one for the right class, summed over the classes and averaged over the samples.

    Outputs ``(N, K)``, integer labels ``(N,)``.
    """

    present: float = 0.9
    absent: float = 0.1
    absent_weight: float = 0.5

    cuda: ClassVar[str | None] = "numbacnn_architectures.capsule_kernels_cuda:margin"

    def __post_init__(self) -> None:
        for field in ("present", "absent", "absent_weight"):
            number(self, field, least=0.0)

    def targets(self, labels: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        labels = np.asarray(labels)
        if labels.shape != tuple(shape[:-1]):
            raise nc.ShapeError(f"Margin got labels of shape {labels.shape}; for outputs of shape {tuple(shape)} it takes {shape[:-1]}.")
        return class_indices(self, labels, shape)

    def compute(self, outputs: np.ndarray, targets: np.ndarray, gradient: np.ndarray, total: np.ndarray, scale: float = 1.0) -> None:
        right = np.arange(outputs.shape[-1]) == targets[..., None]
        missing = np.where(right, np.maximum(self.present - outputs, 0), 0)
        too_much = np.where(right, 0, np.maximum(outputs - self.absent, 0))
        share = scale / targets.size
        gradient[...] = 2 * share * (self.absent_weight * too_much - missing)
        total[:] = share * (np.square(missing).sum() + self.absent_weight * np.square(too_much).sum()), targets.size
