"""A convolution's forward pass and data gradient, each by the method that suits its shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from . import launch, minimal, winograd
from .window import Triple, Window


class _Pass:
    """A convolution with ``window`` of ``batch`` inputs of ``size`` places with ``channels`` into ``places`` with ``outputs`` channels, all
    lifted to three axes. ``exact`` leaves out methods that round more than the direct one.

    ``tile`` is M of Winograd's F(M x M, 3 x 3), 0 for the direct convolution."""

    tile: int

    def __init__(self, window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, exact: bool):
        self.window, self.size, self.channels = window, size, channels
        self.places, self.outputs, self.batch = places, outputs, batch
        self.tile = 0 if exact else self._tile()

    def _tile(self) -> int:
        raise NotImplementedError

    @property
    def packing_elements(self) -> int:
        """Scratch elements per thread of ``pack``."""
        return winograd.WEIGHT_ELEMENTS if self.tile else 0

    def _transform(self, weight: np.ndarray, transposed: bool, scale: np.ndarray, packed: np.ndarray, scratch: np.ndarray | None) -> None:
        winograd.transform_weights(self.tile)(weight.reshape(9, *weight.shape[-2:]), transposed, scale, packed, scratch)


class Forward(_Pass):
    """``y = activation(conv(x) + bias + addend)``."""

    def _tile(self) -> int:
        return minimal.tile_size(self.window, self.size, self.channels, self.places, self.outputs, self.batch, packs=False)

    @property
    def packed_elements(self) -> int:
        """Elements of packed weights."""
        if self.tile:
            return minimal.packed_elements(self.tile, self.channels, self.outputs)
        return launch.packed_elements(self.channels, self.outputs, self.window.taps, self.window.groups)

    def scratch_elements(self, threads: int) -> int:
        """Scratch elements per thread of :meth:`run`."""
        if self.tile:
            return minimal.scratch_elements(self.tile, self.places, self.channels, self.outputs, self.batch, threads)
        return launch.forward_elements(self.window, self.size, self.channels, self.places, self.outputs, self.batch, threads)

    def pack(self, weight: np.ndarray, scale: np.ndarray, packed: np.ndarray, scratch: np.ndarray | None = None) -> None:
        """Pack ``weight (kernel..., C / groups, CO)``, output channels multiplied by ``scale``; ``scratch`` of :attr:`packing_elements`
        per thread."""
        if self.tile:
            self._transform(weight, False, scale, packed, scratch)
        else:
            launch.pack(weight, scale, packed, self.window.groups)

    @property
    def takes_prologue(self) -> bool:
        """Whether :meth:`run` takes a prologue."""
        return launch.takes_prologue(self.window, self.size, self.places)

    def run(
        self, x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, scratch: np.ndarray,
        addend: np.ndarray | None = None, activation: Callable | None = None, prologue: launch.Prologue | None = None,
    ) -> None:  # fmt: skip
        """Arrays ``(N, D, H, W, C)``."""
        if self.tile:
            minimal.convolve(self.tile, x, packed, bias, y, self.window.padding, scratch, addend, activation)
        else:
            launch.convolve(x, packed, bias, y, self.window, scratch, addend, activation, prologue)


class DataGradient(_Pass):
    """``dx`` from ``dy``; plus ``bias``, ``addend`` and ``activation`` it is a transposed convolution."""

    @property
    def mirrored(self) -> Window:
        """Of a convolution with stride 1, the window of the convolution of ``dy`` that gives ``dx``."""
        window = self.window
        padding = tuple(d * (n - 1) - p for n, d, p in zip(window.extent, window.dilation, window.padding))
        return dataclasses.replace(window, padding=padding)  # type: ignore[arg-type]

    def _tile(self) -> int:
        window = self.mirrored
        return minimal.tile_size(window, self.places, self.outputs, self.size, self.channels, self.batch, packs=True)

    @property
    def packed_elements(self) -> int:
        """Elements of packed weights."""
        if self.tile:
            return minimal.packed_elements(self.tile, self.outputs, self.channels)
        return self._direct_elements(1)[0]

    def scratch_elements(self, threads: int) -> int:
        """Scratch elements per thread of :meth:`pack` and :meth:`run`."""
        if self.tile:
            elements = minimal.scratch_elements(self.tile, self.size, self.outputs, self.channels, self.batch, threads)
            return max(elements, self.packing_elements)
        return self._direct_elements(threads)[1]

    def _direct_elements(self, threads: int) -> tuple[int, int]:
        return launch.data_gradient_elements(self.window, self.size, self.channels, self.places, self.outputs, self.batch, threads)

    def pack(self, weight: np.ndarray, scale: np.ndarray, packed: np.ndarray, scratch: np.ndarray | None = None) -> None:
        """Pack ``weight (kernel..., C / groups, CO)``, channels of C multiplied by ``scale``; ``scratch`` as of :meth:`run`."""
        if self.tile:
            self._transform(weight, True, scale, packed, scratch)
        else:
            launch.pack_transposed(weight, scale, packed, self.window, self.size)

    def run(
        self, dy: np.ndarray, packed: np.ndarray, bias: np.ndarray, dx: np.ndarray, scratch: np.ndarray,
        addend: np.ndarray | None = None, activation: Callable | None = None,
    ) -> None:  # fmt: skip
        """Arrays ``(N, D, H, W, C)``."""
        if self.tile:
            minimal.convolve(self.tile, dy, packed, bias, dx, self.mirrored.padding, scratch, addend, activation)
        else:
            launch.data_gradient(dy, packed, bias, dx, self.window, scratch, addend, activation)
