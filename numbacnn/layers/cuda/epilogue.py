"""Layers that end in an epilogue, on the device (compare :mod:`numbacnn.layers.epilogue`)."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from ...kernels.cuda.ending import Ending, fold_bias
from ..base import GATHERED, Buffer
from .twin import Twin, on_cuda


class FusableTwin(Twin):
    """The twin of a :class:`~numbacnn.layers.epilogue.Fusable` layer. A subclass defines :meth:`run` and ``backward``."""

    fusable: ClassVar[bool] = True

    def run(self, x: Any, y: Any, ending: Ending, p: dict, b: dict) -> None:
        """``y``: what the weights in ``p`` make of ``x``, the bias left out, with that ``ending``."""
        raise NotImplementedError(f"{type(self).__name__} does not define run")

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        self.run(x, y, Ending(shift=p.get("bias"), statistics=b.get(GATHERED)), p, b)


class FusedEpilogue(Twin):
    """A layer with what follows it, for inference."""

    @functools.cached_property
    def _base(self) -> FusableTwin:
        return on_cuda(self.layer.base, self.precision)  # type: ignore[return-value]

    def _first(self, x: Any) -> Any:
        return x if self.arity == 1 else x[0]

    @property
    def _folds_bias(self) -> bool:
        return self.layer.folded and self.layer.base.bias

    def prepared(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        shape = self._first(x)
        buffers = self._base.prepared(shape, batch, threads, training)
        if self._folds_bias:
            buffers = {**buffers, "shift": Buffer((self.layer.base.output_shape(shape)[-1],), per_sample=False)}
        return buffers

    def prepare(self, x: Any, batch: int, p: dict, b: dict, training: bool) -> None:
        self._base.prepare(self._first(x), batch, p, b, training)
        if self._folds_bias:
            fold_bias(p["bias"], p["fold_scale"], p["fold_shift"], b["shift"])

    def scratch(self, x: Any, batch: int, threads: int, training: bool) -> dict[str, Buffer]:
        return self._base.scratch(self._first(x), batch, threads, training)

    def forward(self, x: Any, y: Any, p: dict, b: dict, training: bool) -> None:
        layer = self.layer
        ending = Ending(
            p["fold_scale"] if layer.folded else None,
            b.get("shift", p.get("fold_shift", p.get("bias"))),
            x[-1] if layer.residual else None,
            None if layer.epilogue is None else layer.epilogue.scalar(),
        )
        self._base.run(self._first(x), y, ending, p, b)
