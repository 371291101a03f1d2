"""A convolution's forward pass, data gradient and weight gradient, each by the method that suits its shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from . import launch, minimal, minimal_gradient, weight_launch, winograd
from .window import Triple, Window, met


@dataclasses.dataclass(frozen=True)
class Method:
    """How a convolution runs.

    ``tile`` is M of Winograd's F(M x M, taps), 0 for the direct convolution. Of Winograd's, ``block`` is the number of tiles that a task
    takes through all steps, 0 for phases; None leaves it to the cost model, which needs the number of threads."""

    tile: int = 0
    block: int | None = None


DIRECT = Method()


class _Pass:
    """A convolution with ``window`` of ``batch`` inputs of ``size`` places with ``channels`` into ``places`` with ``outputs`` channels, all
    lifted to three axes. ``exact`` leaves out methods that round more than the direct one; ``method`` None takes the cost model's."""

    packs: ClassVar[bool]  # whether the cost model counts packing the weights

    def __init__(
        self, window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, exact: bool,
        method: Method | None = None,
    ):  # fmt: skip
        self.window, self.size, self.channels = window, size, channels
        self.places, self.outputs, self.batch = places, outputs, batch
        self.exact = exact
        self.method = DIRECT if exact or not self._minimal else method or Method(minimal.tile_size(*self._convolution, packs=self.packs))

    @property
    def _convolution(self) -> tuple[Window, Triple, int, Triple, int, int]:
        """Window, places and channels read, places and channels written, and batch of the convolution with stride 1 that this is."""
        raise NotImplementedError

    @property
    def _minimal(self) -> bool:
        """Whether minimal filtering can do it: with all taps of the weights, which it transforms as they are."""
        window, _, channels, _, outputs, _ = self._convolution
        return window.extent == self.window.extent and minimal.applies(window, channels, outputs)

    @property
    def tile(self) -> int:
        """As of the method."""
        return self.method.tile

    def candidates(self, threads: int) -> dict[str, Method]:
        """All methods that there are for this shape, by names that stay the same."""
        found = {"direct": DIRECT}
        if not self.exact and self._minimal:
            for tile in minimal.TILES[self._convolution[0].extent[1:]]:
                found[f"F({tile}x{tile}) fused"] = Method(tile, minimal.block_size(tile, self._convolution, threads))
                found[f"F({tile}x{tile}) phased"] = Method(tile, 0)
        return found

    def settled(self, threads: int) -> Method:
        """The method on that many threads, with a number as its block."""
        tile, block = self.method.tile, self.method.block
        if not tile or block is not None:
            return self.method
        phased = minimal.in_phases(tile, self._convolution, threads)
        return Method(tile, 0 if phased else minimal.block_size(tile, self._convolution, threads))

    def key(self, threads: int, dtype: Any) -> str:
        """All that the fastest method depends on, besides the machine."""
        window = dataclasses.asdict(self.window)
        shapes = f"{self.batch} x {_text(self.size)} x {self.channels} to {_text(self.places)} x {self.outputs}"
        numbers = (f"{name} {_text(value) if isinstance(value, tuple) else value}" for name, value in window.items())
        return ", ".join([f"{type(self).__name__} {shapes}", *numbers, f"{threads} threads", str(np.dtype(dtype))])

    @property
    def packing_elements(self) -> int:
        """Scratch elements per thread of ``pack``."""
        return winograd.weight_elements(*self._tile_and_kernel) if self.tile else 0

    def _minimal_elements(self, threads: int, gathers: bool = False) -> int:
        """Scratch elements per thread of Winograd's method."""
        return minimal.scratch_elements(self.tile, self._block(threads, gathers), self._convolution, threads)

    def _block(self, threads: int, gathers: bool = False) -> int:
        """Tiles of a task, at least as many as a part of the statistics has that it ``gathers``; 0 for phases."""
        block = self.settled(threads).block or 0
        return max(block, minimal.part_of_tiles(self.tile, self.places)[1]) if block and gathers else block

    def _transform(self, weight: np.ndarray, transposed: bool, scale: np.ndarray, packed: np.ndarray, scratch: np.ndarray | None) -> None:
        winograd.transform_weights(*self._tile_and_kernel)(weight.reshape(-1, *weight.shape[-2:]), transposed, scale, packed, scratch)

    @property
    def _tile_and_kernel(self) -> tuple[int, int]:
        """How many places there are in a line of a transformed tile, and in one of the kernel."""
        return minimal.tile_places(self.tile, self.window), self.window.extent[2]


class Forward(_Pass):
    """``y = activation(conv(x) + bias + addend)``."""

    packs = False

    @property
    def _convolution(self) -> tuple[Window, Triple, int, Triple, int, int]:
        return self._seen, self.size, self.channels, self.places, self.outputs, self.batch

    @property
    def _seen(self) -> Window:
        """The part of the window that meets inputs."""
        return met(self.window, self.size, self.places)[0]

    @property
    def packed_elements(self) -> int:
        """Elements of packed weights."""
        if self.tile:
            return minimal.packed_elements(self.tile, self._convolution)
        return launch.packed_elements(self._seen, self.channels, self.places, self.outputs)

    def scratch_elements(self, threads: int, gathers: bool = False) -> int:
        """Scratch elements per thread of :meth:`run`; ``gathers``: also where it gathers statistics."""
        if self.tile:
            return self._minimal_elements(threads, gathers)
        return launch.forward_elements(self._seen, self.size, self.channels, self.places, self.outputs, self.batch, threads, gathers)

    @property
    def gathered_shape(self) -> Triple:
        """The parts of the statistics that :meth:`run` gathers: images, planes, and parts of each, whatever the number of threads."""
        if self.tile:
            return minimal.gathered_shape(self.tile, self.places, self.batch)
        return launch.gathered_shape(self._seen, self.size, self.channels, self.places, self.outputs, self.batch)

    def pack(self, weight: np.ndarray, scale: np.ndarray, packed: np.ndarray, scratch: np.ndarray | None = None) -> None:
        """Pack ``weight (kernel..., C / groups, CO)``, output channels multiplied by ``scale``; ``scratch`` of :attr:`packing_elements`
        per thread."""
        if self.tile:
            self._transform(weight, False, scale, packed, scratch)
        else:
            launch.pack(weight, met(self.window, self.size, self.places)[1], self._seen, self.places, scale, packed)

    @property
    def takes_prologue(self) -> bool:
        """Whether :meth:`run` takes a prologue."""
        return launch.takes_prologue(self._seen, self.size, self.places)

    def run(
        self, x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, scratch: np.ndarray,
        addend: np.ndarray | None = None, activation: Callable | None = None, prologue: launch.Prologue | None = None,
        gathered: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Arrays ``(N, D, H, W, C)``; ``gathered (STATISTICS, 1, parts, CO)`` gets the statistics of ``y``, by the parts of
        :attr:`gathered_shape` in their order (see :mod:`numbacnn.kernels.statistics`)."""
        if gathered is not None:
            gathered = gathered.reshape(len(gathered), *self.gathered_shape, self.outputs)
        if self.tile:
            block = self._block(len(scratch), gathered is not None)
            minimal.convolve(self.tile, block, x, packed, bias, y, self.window, scratch, addend, activation, gathered)
        else:
            launch.convolve(x, packed, bias, y, self._seen, scratch, addend, activation, prologue, gathered)


class DataGradient(_Pass):
    """``dx`` from ``dy``; plus ``bias``, ``addend`` and ``activation`` it is a transposed convolution."""

    packs = True

    @property
    def mirrored(self) -> Window:
        """Of a convolution with stride 1, the window of the convolution of ``dy`` that gives ``dx``."""
        window = self.window
        padding = tuple(d * (n - 1) - p for n, d, p in zip(window.extent, window.dilation, window.padding))
        return dataclasses.replace(window, padding=padding)  # type: ignore[arg-type]

    @property
    def _convolution(self) -> tuple[Window, Triple, int, Triple, int, int]:
        seen = met(self.mirrored, self.places, self.size)[0]
        return seen, self.places, self.outputs, self.size, self.channels, self.batch

    @property
    def _minimal(self) -> bool:
        return self.window.stride == (1, 1, 1) and super()._minimal  # with others, it is several convolutions

    @property
    def packed_elements(self) -> int:
        """Elements of packed weights."""
        if self.tile:
            return minimal.packed_elements(self.tile, self._convolution)
        return self._direct_elements(1)[0]

    def scratch_elements(self, threads: int) -> int:
        """Scratch elements per thread of :meth:`pack` and :meth:`run`."""
        if self.tile:
            return max(self._minimal_elements(threads), self.packing_elements)
        return self._direct_elements(threads)[1]

    def _direct_elements(self, threads: int) -> tuple[int, int]:
        return launch.data_gradient_elements(self.window, self.size, self.channels, self.places, self.outputs, self.batch, threads)

    def pack(self, weight: np.ndarray, scale: np.ndarray, packed: np.ndarray, scratch: np.ndarray | None = None) -> None:
        """Pack ``weight (kernel..., C / groups, CO)``, channels of C multiplied by ``scale``; ``scratch`` as of :meth:`run`."""
        if self.tile:
            self._transform(weight, True, scale, packed, scratch)
        else:
            launch.pack_transposed(weight, scale, packed, self.window, self.size, self.places)

    def run(
        self, dy: np.ndarray, packed: np.ndarray, bias: np.ndarray, dx: np.ndarray, scratch: np.ndarray,
        addend: np.ndarray | None = None, activation: Callable | None = None,
    ) -> None:  # fmt: skip
        """Arrays ``(N, D, H, W, C)``."""
        if self.tile:
            block = self._block(len(scratch))
            minimal.convolve(self.tile, block, dy, packed, bias, dx, self.mirrored, scratch, addend, activation)
        else:
            launch.data_gradient(dy, packed, bias, dx, self.window, scratch, addend, activation)


class WeightGradient:
    """``dw`` from ``x`` and ``dy``; arguments as of the other passes; ``minimally`` None leaves the choice between Winograd's
    and the direct method to the cost model."""

    def __init__(
        self, window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, exact: bool,
        minimally: bool | None = None,
    ):  # fmt: skip
        self.window, self.size = window, size
        self.shapes = places, channels, outputs, batch
        all_met = met(window, size, places)[0].extent == window.extent
        if exact or not (all_met and minimal_gradient.applies(window, channels, outputs)):
            minimally = False
        self.minimally = minimal_gradient.gradient_pays(window, *self.shapes) if minimally is None else minimally

    def scratch_elements(self, threads: int) -> int:
        """Scratch elements per thread of :meth:`run`."""
        if self.minimally:
            return minimal_gradient.gradient_elements(self.window, *self.shapes, threads)
        places, channels, outputs, batch = self.shapes
        return weight_launch.weight_gradient_elements(self.window, self.size, channels, places, outputs, batch, threads)

    def run(self, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, scratch: np.ndarray) -> None:
        """``x`` and ``dy (N, D, H, W, C)``, ``dw (kernel..., C / groups, CO)``."""
        if self.minimally:
            minimal_gradient.weight_gradients(x, dy, dw, self.window, scratch)
        else:
            weight_launch.weight_gradients(x, dy, dw, self.window, scratch)


def _text(sizes: Triple) -> str:
    return "x".join(map(str, sizes))
