"""Depthwise convolution on the device, forward and backward (compare :mod:`numbacnn.kernels.conv.depthwise`).

Arrays are ``(N, D, H, W, C)``, the weights ``(taps, outputs)``; output ``c * multiplier + j`` belongs to input channel ``c``. A thread has
one channel of a *strip*: some neighbouring pixels of a line, and some lines below each other. It walks down the lines, reads each once, and
keeps in registers the weights and the sums of all outputs that the line takes part in. Sums run over the taps in their order, however the
lines are cut into strips.

Kernels are specialised on the taps, the stride and the dilation of a plane, so that all of that is in registers. Of a plane with too many
taps for it they take a block at a time: a line of taps, or one.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from ..conv.window import Triple, Window
from .columns import lanes_for, parts_for, sum_parts
from .driver import cuda, device_function, float32, int32
from .ending import Ending, ended
from .indexing import divided, divisors, located, read_inside
from .launch import THREADS, Kernel, blocks_for, kernel
from .memory import DeviceArray

BLOCK = 128  # threads of a block: sums in registers leave no room for many
PIXELS = (4, 2, 1)  # of a line of a strip
MOST_TAPS = 49  # of a block of taps: the compiler unrolls loops over more of them no longer
MOST_READ = 80  # pixels that a line of a strip reaches over, likewise
MOST_NUMBERS = 150  # that a thread may hold at once
WANTED_THREADS = 1 << 17  # at least, if there are so many outputs
MOST_LINES = 16  # of a strip

nothing = float32(0)


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """What a depthwise convolution computes: ``batch`` inputs of ``size`` pixels and ``channels`` give as many outputs of ``places`` pixels
    and ``channels * multiplier``."""

    window: Window
    size: Triple
    places: Triple
    channels: int
    multiplier: int
    batch: int

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.channels * self.multiplier


@dataclasses.dataclass(frozen=True)
class _Taps:
    """A block of the taps of a plane, strides and dilations of lines and columns, and the pixels of a strip's lines: what kernels are
    specialised on."""

    rows: int
    columns: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pixels: int

    @property
    def apart(self) -> int:
        """Distance of the lines of a strip, in lines: with stride 1 those whose taps meet the same lines."""
        return self.dilation[0] if self.stride[0] == 1 and self.rows > 1 else 1

    @property
    def phases(self) -> int:
        """Of the lines that a line of the output moves on by, those with taps."""
        return min(self.stride[0], self.rows)

    @property
    def under_way(self) -> int:
        """Lines of the output that a line of the input takes part in."""
        return -(-self.rows // self.stride[0])

    @property
    def read(self) -> int:
        """Pixels that a line of a strip reaches over."""
        return (self.pixels - 1) * self.stride[1] + (self.columns - 1) * self.dilation[1] + 1

    @property
    def fits(self) -> bool:
        """Whether a thread can walk down the lines, and its registers hold the weights, the sums, and what is read, with addresses."""
        taps, walks = self.rows * self.columns, self.rows == 1 or 1 in (self.stride[0], self.dilation[0])
        met = {i * self.stride[1] + j * self.dilation[1] for i in range(self.pixels) for j in range(self.columns)}
        needed = taps + self.under_way * self.pixels + 3 * self.phases * len(met)
        return walks and taps <= MOST_TAPS and self.read <= MOST_READ and needed <= MOST_NUMBERS


def _largest_block(window: Window) -> _Taps:
    """The largest block of the taps of a plane that a kernel takes: all of them, or a line or a part of one."""
    (_, height, width), stride, dilation = window.extent, window.stride[1:], window.dilation[1:]
    parts = [(1, columns) for columns in range(width, 0, -1) if width % columns == 0]
    blocks = [_Taps(*part, stride, dilation, pixels) for part in ((height, width), *parts) for pixels in PIXELS]  # type: ignore[arg-type]
    return next(block for block in blocks if block.fits)


def _lines(lines: int, apart: int, threads: int) -> tuple[int, int]:
    """Lines of a strip, and strips below each other, of ``lines`` for which there are so many threads each."""
    each = -(-lines // apart)
    strips = -(-each // max(1, min(MOST_LINES, lines * threads // WANTED_THREADS)))
    return -(-each // strips), apart * strips


# Forward -------------------------------------------------------------------------------------------------------------


@functools.cache
def _convolution(taps: _Taps, whole: bool, kind: Any) -> Kernel:
    """The forward pass with that block of taps; ``whole``: it has all of them, and the weights stay in registers."""
    rows, columns, (down, across), (far_down, far_across) = taps.rows, taps.columns, taps.stride, taps.dilation
    pixels, apart, phases, under_way, read = taps.pixels, taps.apart, taps.phases, taps.under_way, taps.read
    count, held = rows * columns, under_way * pixels
    finish = ended(kind)

    @kernel(threads=BLOCK)
    def depthwise(
        x, w, scale, shift, addend, y, strips, outputs, by_o, of_o, wide, by_w, of_w, high, by_h, of_h, planes, by_p, of_p, multiplier,
        by_m, of_m, depth, height, width, channels, places_h, places_w, lines, extent_d, extent_h, extent_w, stride_d, far_d, before_d,
        before_h, before_w, tap_first, tap_step,
    ):  # fmt: skip
        at = int32(int32(cuda.blockIdx.x) * int32(BLOCK) + int32(cuda.threadIdx.x))
        if at < strips:
            sample, plane, strip, column, output = located(
                at, outputs, by_o, of_o, wide, by_w, of_w, high, by_h, of_h, planes, by_p, of_p
            )  # fmt: skip
            channel, column = divided(output, by_m, of_m), int32(column * pixels)
            line = int32(strip // apart * (lines * apart) + strip % apart)
            weights, sums = cuda.local.array(count, float32), cuda.local.array(held, float32)
            row = cuda.local.array(read, float32)
            for k in range(held):
                sums[k] = nothing
            if whole:
                for k in range(count):
                    weights[k] = w[(tap_first + k * tap_step) * outputs + output]
            for q in range(int32(lines + (under_way - 1))):
                first = int32((line + q * apart) * down - before_h)
                for tap_d in range(extent_d):
                    d = int32(plane * stride_d - before_d + tap_d * far_d)
                    for tap_h in range(int32(0), extent_h, int32(rows)):
                        for tap_w in range(int32(0), extent_w, int32(columns)):
                            if not whole:
                                for k in range(count):
                                    tap = int32((tap_d * extent_h + tap_h + k // columns) * extent_w + tap_w + k % columns)
                                    weights[k] = w[(tap_first + tap * tap_step) * outputs + output]
                            left = int32(column * across - before_w + tap_w * far_across)
                            for phase in range(phases):
                                h = int32(first + tap_h * far_down + phase)
                                exists = d >= 0 and d < depth and h >= 0 and h < height
                                near = int32((((sample * depth + d) * height + h) * width + left) * channels + channel)
                                for k in range(read):
                                    inside = exists and left + k >= 0 and left + k < width
                                    row[k] = read_inside(x, near + k * channels, inside)
                                for k in range(under_way):
                                    tap = k * down + phase
                                    if tap < rows:
                                        for i in range(pixels):
                                            for j in range(columns):
                                                sums[k * pixels + i] += row[i * across + j * far_across] * weights[tap * columns + j]
                done = int32(line + (q - (under_way - 1)) * apart)
                if q >= under_way - 1 and done < places_h:
                    to = int32((((sample * planes + plane) * places_h + done) * places_w + column) * outputs + output)
                    for i in range(pixels):
                        if column + i < places_w:
                            y[to] = finish(sums[held - pixels + i], scale, shift, addend, output, to)
                        to = int32(to + outputs)
                for k in range(held - 1, pixels - 1, -1):
                    sums[k] = sums[k - pixels]
                for k in range(pixels):
                    sums[k] = nothing

    return depthwise


def convolve(conv: Depthwise, x: DeviceArray, weight: DeviceArray, ending: Ending, y: DeviceArray) -> None:
    """``y``: the depthwise convolution of ``x``, and its ``ending``."""
    _convolve(conv, x, weight, ending, y, (0, 1))


def _convolve(conv: Depthwise, x: DeviceArray, weight: DeviceArray, ending: Ending, y: DeviceArray, order: tuple[int, int]) -> None:
    """``order``: the number of the first tap, and the way from one to the next."""
    window, (planes, high, wide) = conv.window, conv.places
    taps = _largest_block(window)
    across = -(-wide // taps.pixels)
    lines, strips = _lines(high, taps.apart, conv.batch * planes * across * conv.outputs)
    threads = conv.batch * planes * strips * across * conv.outputs
    whole = taps.rows * taps.columns == window.taps
    _convolution(taps, whole, ending.kind)(
        blocks_for(threads, BLOCK), x, weight, *ending.arguments(y), y, threads,
        *divisors(conv.outputs, across, strips, planes, conv.multiplier), *conv.size, conv.channels, high, wide, lines, *window.extent,
        window.stride[0], window.dilation[0], *window.padding, *order,
    )  # fmt: skip


# Data gradient -------------------------------------------------------------------------------------------------------


@functools.cache
def _data_gradient(taps: _Taps, whole: bool) -> Kernel:
    """The data gradient of a convolution all of whose taps of a plane are in the block. A line of ``dy`` goes to as many lines of ``dx`` as
    there are lines of taps; a strip begins at a pixel that the first tap of a window can meet."""
    rows, columns, (down, across), (_, far_across) = taps.rows, taps.columns, taps.stride, taps.dilation
    pixels, apart, under_way = taps.pixels, taps.apart, max(rows, down)
    lines_back, back = (rows - 1) // down, (columns - 1) * far_across // across
    read = back + pixels // across
    count, held, done = rows * columns, under_way * pixels, down * pixels

    @kernel(threads=BLOCK)
    def depthwise_data_gradient(
        dy, w, dx, strips, channels, by_c, of_c, wide, by_w, of_w, high, by_h, of_h, depth, by_d, of_d, stride_d, by_s, of_s, height, width,
        planes, places_h, places_w, multiplier, lines, extent_d, far_d, before_d, before_h, before_w,
    ):  # fmt: skip
        at = int32(int32(cuda.blockIdx.x) * int32(BLOCK) + int32(cuda.threadIdx.x))
        if at < strips:
            sample, d, strip, column, channel = located(
                at, channels, by_c, of_c, wide, by_w, of_w, high, by_h, of_h, depth, by_d, of_d
            )  # fmt: skip
            outputs = int32(channels * multiplier)
            line = int32(strip // apart * (lines * apart) + strip % apart)
            left = int32(before_w // across + column * (pixels // across) - back)
            column = int32(column * pixels - before_w % across)
            weights, sums = cuda.local.array(count, float32), cuda.local.array(held, float32)
            row = cuda.local.array(read, float32)
            for k in range(held):
                sums[k] = nothing
            if whole:
                for k in range(count):
                    weights[k] = w[k * outputs + channel]
            for q in range(int32(-lines_back), lines):
                h = int32(line + q * apart + before_h // down)
                for tap_d in range(extent_d):
                    far = int32(d + before_d - tap_d * far_d)
                    plane = divided(max(far, int32(0)), by_s, of_s)
                    exists = far >= 0 and plane * stride_d == far and plane < planes and h >= 0 and h < places_h
                    first = int32((((sample * planes + plane) * places_h + h) * places_w + left) * outputs + channel * multiplier)
                    for output in range(multiplier):
                        if not whole:
                            for k in range(count):
                                weights[k] = w[(tap_d * int32(count) + k) * outputs + channel * multiplier + output]
                        near = int32(first + output)
                        for k in range(read):
                            inside = exists and left + k >= 0 and left + k < places_w
                            row[k] = read_inside(dy, near + k * outputs, inside)
                        for tap in range(rows):
                            for i in range(pixels):
                                for j in range(columns):
                                    k = back * across + i - j * far_across
                                    if k % across == 0:
                                        sums[tap * pixels + i] += row[k // across] * weights[tap * columns + j]
                for phase in range(down):
                    h = int32((line + q * apart) * down + phase - before_h % down)
                    if q >= 0 and h >= 0 and h < height:
                        to = int32((((sample * depth + d) * height + h) * width + column) * channels + channel)
                        for i in range(pixels):
                            if column + i >= 0 and column + i < width:
                                dx[to] = sums[phase * pixels + i]
                            to = int32(to + channels)
                for k in range(held - done):
                    sums[k] = sums[k + done]
                for k in range(held - done, held):
                    sums[k] = nothing

    return depthwise_data_gradient


@device_function
def _place(far, stride, by_s, of_s, places):
    """The place whose window begins ``far`` behind that of place 0, or -1."""
    place = divided(max(far, int32(0)), by_s, of_s)
    return place if far >= 0 and place * stride == far and place < places else int32(-1)


@kernel
def _any_data_gradient(
    dy, w, dx, count, channels, by_c, of_c, width, by_w, of_w, height, by_h, of_h, depth, by_d, of_d, stride_d, by_sd, of_sd, stride_h,
    by_sh, of_sh, stride_w, by_sw, of_sw, planes, places_h, places_w, extent_d, extent_h, extent_w, far_d, far_h, far_w, before_d, before_h,
    before_w, multiplier,
):  # fmt: skip
    """The data gradient, whatever the window: a thread for each element, which looks for the place where each tap meets it."""
    at = int32(int32(cuda.blockIdx.x) * int32(THREADS) + int32(cuda.threadIdx.x))
    if at < count:
        sample, d, h, column, channel = located(
            at, channels, by_c, of_c, width, by_w, of_w, height, by_h, of_h, depth, by_d, of_d
        )  # fmt: skip
        total = nothing
        for tap_d in range(extent_d):
            i = _place(int32(d + before_d - tap_d * far_d), stride_d, by_sd, of_sd, planes)
            for tap_h in range(extent_h if i >= 0 else int32(0)):
                j = _place(int32(h + before_h - tap_h * far_h), stride_h, by_sh, of_sh, places_h)
                for tap_w in range(extent_w if j >= 0 else int32(0)):
                    k = _place(int32(column + before_w - tap_w * far_w), stride_w, by_sw, of_sw, places_w)
                    if k >= 0:
                        near = int32(((((sample * planes + i) * places_h + j) * places_w + k) * channels + channel) * multiplier)
                        tap = int32((((tap_d * extent_h + tap_h) * extent_w + tap_w) * channels + channel) * multiplier)
                        for output in range(multiplier):
                            total += dy[near + output] * w[tap + output]
        dx[at] = total


def data_gradient(conv: Depthwise, dy: DeviceArray, weight: DeviceArray, dx: DeviceArray) -> None:
    """``dx``: the gradient of the input."""
    window = conv.window
    if conv.multiplier == 1 and window.stride == (1, 1, 1):
        padding: Any = tuple(far * (extent - 1) - before for extent, far, before in zip(window.extent, window.dilation, window.padding))
        mirrored = dataclasses.replace(conv, window=dataclasses.replace(window, padding=padding), size=conv.places, places=conv.size)
        _convolve(mirrored, dy, weight, Ending(), dx, (window.taps - 1, -1))
    elif not _strided_data_gradient(conv, dy, weight, dx):
        _any_data_gradient(
            blocks_for(dx.size), dy, weight, dx, dx.size, *divisors(conv.channels, *reversed(conv.size), *window.stride), *conv.places,
            *window.extent, *window.dilation, *window.padding, conv.multiplier,
        )  # fmt: skip


def _strided_data_gradient(conv: Depthwise, dy: DeviceArray, weight: DeviceArray, dx: DeviceArray) -> bool:
    """By strips; False, and nothing done, where the registers cannot hold what that takes."""
    window, (depth, height, width) = conv.window, conv.size
    (extent_d, rows, columns), (stride_d, down, across), (far_d, far_down, far_across) = window.extent, window.stride, window.dilation
    pixels = across * -(-PIXELS[0] // across)
    taps = _Taps(rows, columns, (down, across), (far_down, far_across), pixels)
    read = (columns - 1) * far_across // across + pixels // across
    needed = rows * columns + max(rows, down) * pixels + 3 * read
    if needed > MOST_NUMBERS or rows * columns > MOST_TAPS or min(down, far_down) > 1:
        return False
    wide = -(-(width + window.padding[2] % across) // pixels)
    lines, strips = _lines(-(-(height + window.padding[1] % down) // down), taps.apart, conv.batch * depth * wide * conv.channels)
    threads = conv.batch * depth * strips * wide * conv.channels
    _data_gradient(taps, extent_d * stride_d * conv.multiplier == 1)(
        blocks_for(threads, BLOCK), dy, weight, dx, threads, *divisors(conv.channels, wide, strips, depth, stride_d), height, width,
        *conv.places, conv.multiplier, lines, extent_d, far_d, *window.padding,
    )  # fmt: skip
    return True


# Weight gradient -----------------------------------------------------------------------------------------------------


@functools.cache
def _weight_gradient(taps: _Taps) -> Kernel:
    """Partial sums of the gradients of a block of taps, and of the bias. The blocks of a grid are parts of the strips, then lanes of
    channels (see :mod:`.columns`), then blocks of taps; a thread has the sums of one channel over some of its part's strips."""
    rows, columns, (down, across), (far_down, far_across) = taps.rows, taps.columns, taps.stride, taps.dilation
    pixels, apart, phases, under_way, read = taps.pixels, taps.apart, taps.phases, taps.under_way, taps.read
    count, held = rows * columns, under_way * pixels
    kept, cells = count + 1, (count + 1) * BLOCK

    @kernel(threads=BLOCK, blocks=3)
    def depthwise_weight_gradient(
        x, dy, partials, bias_partials, strips, wide, by_w, of_w, high, by_h, of_h, planes, by_p, of_p, multiplier, by_m, of_m, blocks_w,
        by_bw, of_bw, blocks_h, by_bh, of_bh, outputs, bits, parts, depth, height, width, channels, places_h, places_w, lines, extent_d,
        extent_h, extent_w, stride_d, far_d, before_d, before_h, before_w,
    ):  # fmt: skip
        shared = cuda.shared.array(cells, float32)
        thread, part, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x), int32(cuda.blockIdx.z)
        plane_of_taps = divided(block, by_bw, of_bw)
        tap_d = divided(plane_of_taps, by_bh, of_bh)
        tap_h, tap_w = int32((plane_of_taps - tap_d * blocks_h) * rows), int32((block - plane_of_taps * blocks_w) * columns)
        lanes, walkers = int32(1 << bits), int32(BLOCK >> bits)
        output = int32((int32(cuda.blockIdx.y) << bits) + (thread & (lanes - 1)))
        channel = divided(output, by_m, of_m)
        sums, slopes = cuda.local.array(kept, float32), cuda.local.array(held, float32)
        row = cuda.local.array(read, float32)
        for k in range(kept):
            sums[k] = nothing
        if output < outputs:
            for at in range(int32(part * walkers + (thread >> bits)), strips, int32(parts * walkers)):
                sample, plane, strip, column, _ = located(
                    at, int32(1), int32(0), int32(0), wide, by_w, of_w, high, by_h, of_h, planes, by_p, of_p
                )  # fmt: skip
                column, line = int32(column * pixels), int32(strip // apart * (lines * apart) + strip % apart)
                d = int32(plane * stride_d - before_d + tap_d * far_d)
                left = int32(column * across - before_w + tap_w * far_across)
                for k in range(held):
                    slopes[k] = nothing
                for q in range(int32(lines + (under_way - 1))):
                    for k in range(held - 1, pixels - 1, -1):
                        slopes[k] = slopes[k - pixels]
                    place = int32(line + q * apart)
                    near = int32((((sample * planes + plane) * places_h + place) * places_w + column) * outputs + output)
                    for i in range(pixels):
                        inside = q < lines and place < places_h and column + i < places_w
                        slopes[i] = read_inside(dy, near + i * outputs, inside)
                        sums[count] += slopes[i]
                    for phase in range(phases):
                        h = int32(place * down - before_h + tap_h * far_down + phase)
                        exists = d >= 0 and d < depth and h >= 0 and h < height
                        near = int32((((sample * depth + d) * height + h) * width + left) * channels + channel)
                        for k in range(read):
                            inside = exists and left + k >= 0 and left + k < width
                            row[k] = read_inside(x, near + k * channels, inside)
                        for k in range(under_way):
                            tap = k * down + phase
                            if tap < rows:
                                for j in range(columns):
                                    for i in range(pixels):
                                        sums[tap * columns + j] += slopes[k * pixels + i] * row[i * across + j * far_across]
        for k in range(kept):
            shared[k * BLOCK + thread] = sums[k]
        cuda.syncthreads()
        for k in range(int32(thread >> bits), int32(kept) if output < outputs else int32(0), walkers):
            total = nothing
            for walker in range(walkers):
                total += shared[k * BLOCK + (walker << bits) + (thread & (lanes - 1))]
            if k < count:
                tap = int32((tap_d * extent_h + tap_h + k // columns) * extent_w + tap_w + k % columns)
                partials[(part * extent_d * extent_h * extent_w + tap) * outputs + output] = total
            elif block == 0:
                bias_partials[part * outputs + output] = total

    return depthwise_weight_gradient


@dataclasses.dataclass(frozen=True)
class WeightGradient:
    """The gradients of weights and bias: partial sums over parts of the output, then the sums of these."""

    conv: Depthwise

    @functools.cached_property
    def _cut(self) -> tuple[_Taps, int, int, int, int]:
        """The block of taps, strips beside each other, lines of a strip, strips below each other, and parts."""
        conv, window, (planes, high, wide) = self.conv, self.conv.window, self.conv.places
        taps = _largest_block(window)
        across = -(-wide // taps.pixels)
        lines, strips = _lines(high, taps.apart, conv.batch * planes * across * conv.outputs)
        lanes = lanes_for(conv.outputs)
        blocks = -(-conv.outputs // lanes) * window.taps // (taps.rows * taps.columns)
        return taps, across, lines, strips, parts_for(blocks, -(-conv.batch * planes * strips * across * lanes // BLOCK))

    @property
    def scratch_elements(self) -> int:
        """Length of the array ``scratch`` of :meth:`run`."""
        return self._cut[-1] * (self.conv.window.taps + 1) * self.conv.outputs

    def run(self, x: DeviceArray, dy: DeviceArray, dw: DeviceArray, db: DeviceArray | None, scratch: DeviceArray) -> None:
        """``dw``, and ``db`` if it is given."""
        conv, window, (planes, high, wide) = self.conv, self.conv.window, self.conv.places
        taps, across, lines, strips, parts = self._cut
        lanes, elements = lanes_for(conv.outputs), parts * window.taps * conv.outputs
        partials, bias_partials = scratch[:elements], scratch[elements : elements + parts * conv.outputs]
        blocks_h, blocks_w = window.extent[1] // taps.rows, window.extent[2] // taps.columns
        _weight_gradient(taps)(
            (parts, -(-conv.outputs // lanes), window.extent[0] * blocks_h * blocks_w), x, dy, partials, bias_partials,
            conv.batch * planes * strips * across, *divisors(across, strips, planes, conv.multiplier, blocks_w, blocks_h), conv.outputs,
            lanes.bit_length() - 1, parts, *conv.size, conv.channels, high, wide, lines, *window.extent, window.stride[0],
            window.dilation[0], *window.padding,
        )  # fmt: skip
        sum_parts(partials, dw)
        if db is not None:
            sum_parts(bias_partials, db)
