"""Convolutions on tensor cores: their passes, as launches of the kernels for a precision.

Arrays are float32, ``(N, depth, height, width, channels)``, weights ``(kernel..., channels / groups, filters)``. Products are of
``"tf32"`` (relative error of a factor up to 2**-11) or of ``"bf16"`` (2**-9) numbers, sums are float32. :func:`fits` says for which sizes.
"""

from __future__ import annotations

from typing import Any

from ...conv.window import Triple, Window
from ..driver import cuda, int32
from ..ending import Ending
from ..launch import blocks_for, kernel
from ..memory import DeviceArray, on_device
from ..ptx import load4, store4
from . import bf16, gather, tf32
from .gather import CHUNK, DEPTH, Axes
from .tile import ROWS

PRODUCTS: dict[str, Any] = {"tf32": tf32, "bf16": bf16}
AT_ONCE = 264  # blocks, of a large GPU: two on each multiprocessor
LEAST_TILES = 8  # of pixels, of a part of the gradient of weights
NARROW_COST = 0.6  # of a block with 64 columns: half of the products of one with 128, and more than half of its copies


def fits(window: Window, channels: int, filters: int) -> bool:
    """Whether tensor cores can take a convolution: rows of 16 bytes, in each group, and no very large kernel."""
    in_chunks = channels % (CHUNK * window.groups) == 0 and filters % (CHUNK * window.groups) == 0
    return in_chunks and sum(window.extent) <= gather.MOST_TAPS


def convolve(x: DeviceArray, w: DeviceArray, y: DeviceArray, window: Window, precision: str, ending: Ending) -> None:
    """``y``: the convolution of ``x``, ended."""
    _correlate(gather.forward_axes(window, _size(x), _size(y)), x, w, y, window, False, precision, ending)


def data_gradient(dy: DeviceArray, w: DeviceArray, dx: DeviceArray, window: Window, precision: str, ending: Ending) -> None:
    """``dx``: the gradient of a convolution's input, or a transposed convolution of ``dy``, ended."""
    for axes in gather.data_gradient_axes(window, _size(dx), _size(dy)):
        _correlate(axes, dy, w, dx, window, True, precision, ending)


def weight_gradient_parts(window: Window, rows: int, channels: int, filters: int) -> int:
    """Into how many parts the ``rows`` output pixels of a batch fall for the gradient of the weights: so many that there are blocks enough
    for a large GPU, but none is short."""
    group, group_filters = channels // window.groups, filters // window.groups
    lines = window.taps * group
    blocks = blocks_for(lines, ROWS) * blocks_for(group_filters, _columns(lines, group_filters, window.groups)) * window.groups
    tiles = blocks_for(rows, DEPTH)
    wanted = max(1, min(AT_ONCE // blocks, tiles // LEAST_TILES))
    return blocks_for(tiles, blocks_for(tiles, wanted))


def weight_gradient(
    x: DeviceArray, dy: DeviceArray, dw: DeviceArray, window: Window, precision: str, partials: DeviceArray | None = None
) -> None:
    """``dw``: the gradient of a convolution's weights. ``partials`` has room for each of :func:`weight_gradient_parts`, if there are
    several."""
    axes = gather.forward_axes(window, _size(x), _size(dy))
    channels, filters, stride = x.shape[-1], dy.shape[-1], dw.shape[-1]
    group, group_filters = channels // window.groups, filters // window.groups
    lines = window.taps * group
    pixels = gather.pixels(axes, channels, filters)
    chunks = gather.chunks(axes, group, channels, (group * stride, stride), in_order=True)[:, : lines // CHUNK]
    rows = len(x) * pixels.shape[1]
    parts = weight_gradient_parts(window, rows, channels, filters)
    columns = _columns(lines, group_filters, window.groups)
    column_blocks = blocks_for(group_filters, columns)
    products = PRODUCTS[precision]
    into = dw if parts == 1 else partials
    assert into is not None
    grid = blocks_for(lines, ROWS) * column_blocks, window.groups, parts
    products.weight_gradient(columns)(
        grid, x, dy, into, on_device(pixels), on_device(chunks), rows, pixels.shape[1], _per_image(x), _per_image(dy), group, group_filters,
        stride, lines, column_blocks, blocks_for(blocks_for(rows, DEPTH), parts), dw.size, shared=products.shared_bytes(columns),
    )  # fmt: skip
    if parts > 1:
        _add_parts(blocks_for(dw.size // 4), into, dw, parts, dw.size)


@kernel
def _add_parts(partials, dw, parts, count):
    """Four sums of each thread."""
    at = (int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)) * int32(4)
    if at < count:
        first, second, third, fourth = load4(partials, at)
        for part in range(int32(1), parts):
            more = load4(partials, part * count + at)
            first, second, third, fourth = first + more[0], second + more[1], third + more[2], fourth + more[3]
        store4(dw, at, (first, second, third, fourth))


def _correlate(
    axes: Axes, x: DeviceArray, w: DeviceArray, y: DeviceArray, window: Window, transposed: bool, precision: str, ending: Ending
) -> None:
    axes = tuple(axis.met() for axis in axes)  # type: ignore[assignment]
    groups, channels, filters = window.groups, x.shape[-1], y.shape[-1]
    group, group_filters = channels // groups, filters // groups
    per_filter = w.shape[-1]  # elements from one of the weights' channels to the next
    weight_strides = (w.shape[-2] * per_filter, 1 if transposed else per_filter)
    pixels, chunks = gather.pixels(axes, channels, filters), gather.chunks(axes, group, channels, weight_strides)
    rows = x.shape[0] * pixels.shape[1]
    columns = _columns(rows, group_filters, groups)
    column_blocks = blocks_for(group_filters, columns)
    products = PRODUCTS[precision]
    tiles = chunks.shape[1] // (DEPTH // CHUNK) - 1
    products.convolution(ending.kind, columns, transposed)(
        (blocks_for(rows, ROWS) * column_blocks, groups), x, w, y, *ending.arguments(y), on_device(pixels), on_device(chunks), rows,
        pixels.shape[1], _per_image(x), _per_image(y), group, group_filters, per_filter, tiles, column_blocks,
        shared=products.shared_bytes(columns),
    )  # fmt: skip


def _columns(rows: int, filters: int, groups: int) -> int:
    """Of a block: what takes fewer turns of a large GPU's multiprocessors."""

    def cost(columns: int) -> float:
        blocks = blocks_for(rows, ROWS) * blocks_for(filters, columns) * groups
        return blocks_for(blocks, AT_ONCE) * (1 if columns == 128 else NARROW_COST)

    return min((128, 64), key=cost)


def _size(array: DeviceArray) -> Triple:
    return tuple(array.shape[1:-1])  # type: ignore[return-value]


def _per_image(array: DeviceArray) -> int:
    return array.size // len(array)
