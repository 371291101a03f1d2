"""What a convolution adds up, as tables: where the pixels of a matrix product's left operand lie, which of them are padding, and which
weights they meet.

A convolution, its data gradient (for stride ``s`` a convolution with stride 1 for each residue modulo ``s``) and a transposed convolution
are the product ``y[m, n] = sum over k of x[m, k] w[k, n]``. Its rows ``m`` are output pixels; its depth ``k`` runs over taps and channels,
in *chunks* of four channels of one tap (16 bytes). ``x[m, k]`` is element ``origin(m) + shift(k)`` of the input if that is not padding: if
``inside(m)`` has all bits of ``need(k)``, of which there is one for each place of the taps along each axis.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from ...conv.window import Triple, Window

CHUNK = 4  # channels
DEPTH = 32  # of a tile: numbers of each row that are multiplied at a time
MOST_TAPS = 29  # places of taps along all axes together: an int32 has no more bits
ROW = 1 << 29  # this bit is there in every pixel that exists,
NEVER = 1 << 30  # and this one in none


@dataclasses.dataclass(frozen=True)
class Axis:
    """Output places ``first, first + step, ...`` below ``places``; the ``i``-th adds up inputs ``i * stride + offset`` of ``size``, each
    times the weight of its tap, for ``(offset, tap)`` in ``taps``. The kernel has ``extent`` taps."""

    size: int
    stride: int
    places: int
    first: int
    step: int
    extent: int
    taps: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        return len(range(self.first, self.places, self.step))

    def inside(self) -> np.ndarray:
        """For each place the bits of the taps that are within the input."""
        at = np.arange(self.count)[:, None] * self.stride + np.array([offset for offset, _ in self.taps], np.int64)[None, :]
        return (((at >= 0) & (at < self.size)) << np.arange(len(self.taps))).sum(1)

    def met(self) -> Axis:
        """Without the taps that meet nothing but padding."""
        found = np.bitwise_or.reduce(self.inside(), initial=0)
        return dataclasses.replace(self, taps=tuple(tap for i, tap in enumerate(self.taps) if found >> i & 1))


Axes = tuple[Axis, Axis, Axis]


def forward_axes(window: Window, size: Triple, places: Triple) -> Axes:
    """Those of a convolution of ``size`` inputs into ``places``."""
    return tuple(  # type: ignore[return-value]
        Axis(inputs, stride, outputs, 0, 1, extent, tuple((k * dilation - padding, k) for k in range(extent)))
        for inputs, outputs, extent, stride, dilation, padding in zip(
            size, places, window.extent, window.stride, window.dilation, window.padding
        )
    )


def data_gradient_axes(window: Window, size: Triple, places: Triple) -> list[Axes]:
    """Those of its data gradient, for each residue: from gradients of ``places`` into gradients of ``size``."""
    numbers = zip(size, places, window.extent, window.stride, window.dilation, window.padding)
    return list(itertools.product(*(_residues(*axis) for axis in numbers)))  # type: ignore[arg-type]


def _residues(size: int, places: int, extent: int, stride: int, dilation: int, padding: int) -> list[Axis]:
    """Input ``residue + stride * i`` is met by tap ``k`` of output ``i + (residue + padding - k * dilation) / stride``."""
    found = []
    for residue in range(min(stride, size)):
        offsets = [(residue + padding - k * dilation, k) for k in range(extent)]
        taps = tuple((offset // stride, k) for offset, k in offsets if offset % stride == 0)
        found.append(Axis(places, 1, size, residue, stride, extent, taps))
    return found


def pixels(axes: Axes, channels: int, filters: int) -> np.ndarray:
    """``int32 (3, count)``: for each output pixel of an image its origin in the input's image, of ``channels``, its bits, and its first
    element in the output's image, of ``filters``."""
    origins = [np.arange(axis.count) * axis.stride for axis in axes]
    targets = [np.arange(axis.first, axis.places, axis.step) for axis in axes]
    inside, bit = np.array(ROW), 0
    for number, axis in enumerate(axes):
        inside = inside + _along(axis.inside() << bit, number)
        bit += len(axis.taps)
    rows = (
        _flat(origins, [axis.size for axis in axes]) * channels,
        inside,
        _flat(targets, [axis.places for axis in axes]) * filters,
    )
    return np.stack([np.broadcast_to(row, [axis.count for axis in axes]).reshape(-1) for row in rows]).astype(np.int32)


def chunks(axes: Axes, group: int, channels: int, weight_strides: tuple[int, int], in_order: bool = False) -> np.ndarray:
    """``int32 (3, count)``: for each chunk its shift, its bits and the first element of its weights, -1 where none is. ``group`` channels
    of the input's ``channels`` take part; ``weight_strides``: elements from one tap to the next, from one channel to the next.

    They fill whole tiles, and one tile more is there to be read. Where tiles of one tap do, all taps of the same channels follow each
    other, since they read mostly the same, and the first-level cache still has it; not so if chunks shall be ``in_order``, as weights."""
    per_tile = DEPTH // CHUNK
    size = [axis.size for axis in axes]
    shifts, needs, weights = [], [], []
    for chosen in itertools.product(*(range(len(axis.taps)) for axis in axes)):
        shifts.append(_flat([np.int64(axis.taps[i][0]) for axis, i in zip(axes, chosen)], size) * channels)
        bits = [sum(len(axis.taps) for axis in axes[:number]) + i for number, i in enumerate(chosen)]
        needs.append(ROW | sum(1 << bit for bit in bits))
        weights.append(_flat([axis.taps[i][1] for axis, i in zip(axes, chosen)], [axis.extent for axis in axes]) * weight_strides[0])
    channel = np.arange(0, group, CHUNK)
    rows = [
        np.add.outer(np.array(shifts, np.int64), channel),
        np.broadcast_to(np.array(needs, np.int64)[:, None], (len(needs), len(channel))),
        np.add.outer(np.array(weights, np.int64), channel * weight_strides[1]),
    ]
    if group % DEPTH == 0 and not in_order:
        rows = [row.reshape(len(shifts), group // DEPTH, per_tile).swapaxes(0, 1) for row in rows]
    found = np.stack([row.reshape(-1) for row in rows])
    count = found.shape[1]
    padded = np.empty((3, (-(-count // per_tile) + 1) * per_tile), np.int32)
    padded[:, :count], padded[:, count:] = found, np.array([[0], [NEVER], [-1]])
    return padded


def _along(values: np.ndarray, number: int) -> np.ndarray:
    """Along one of three axes."""
    return values.reshape([-1 if i == number else 1 for i in range(3)])


def _flat(places: list, size: list[int]) -> np.ndarray:
    """The numbers of places ``(depth, height, width)`` of an array of that ``size``."""
    depth, height, width = (_along(np.asarray(place), i) if np.ndim(place) else np.asarray(place) for i, place in enumerate(places))
    return (depth * size[1] + height) * size[2] + width
