"""Arithmetic around the convolution kernels: windows lifted to three axes, block sizes, and the launches of each pass."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...simd import LANES
from ..channels import VECTORS, WIDTH
from .depthwise import EXPANSION_LADDER, HEIGHTS, HELD, depthwise, depthwise_weight_gradient, gradient_tile, pack_taps
from .direct import add_parts, convolution, pack_weights, weight_gradient
from .ending import EVERYTHING, is_long, resolved
from .narrow import narrow_weight_gradient
from .tiles import MAX_ROWS, ladder_of, tile_heights
from .window import NOTHING, POINTWISE, Triple, Window, met

TASK_PIXELS = 1008  # at most: a multiple of tiles' heights
PATCH_ELEMENTS = 48 * 1024  # of input that a task holds, and
PASS_ELEMENTS = 64 * 1024  # of weights that meet them at a time: together they should stay in a second-level cache
PART_COST = 400  # a part costs as much time as one part in so many of all
LEAST_PIXELS = 8 * MAX_ROWS  # of a task: with fewer, weights come from afar for too few products
GATHERED_PIXELS = 256  # at most, of a part of the statistics that a convolution gathers
FEW_PRODUCTS = 300_000  # a convolution of less runs in the caller's thread: waking others would take longer
TASKS_PER_THREAD = 4  # enough to even out threads that get less of the machine
DEPTHWISE_ELEMENTS = 6 * 1024  # of the lines that a task of a depthwise convolution holds
EXPANDED_ELEMENTS = 80 * 1024  # of what it expands for each block of channels, from the second-level cache
MOST_EXPANDED = 128  # channels of which another convolution makes the input of a depthwise one line by line,
LEAST_EXPANSION = 64 * 1024  # elements of that input, and
EXPANDED_COLUMNS = 14  # of the output: shorter lines leave too much of tiles empty
DEPTHWISE_RUN = 3  # taps that share what they read
LEAST_LINES = 4  # of a task's output: it reads some more lines of input, and
LEAST_COLUMNS = 28  # some more columns
GRADIENT_PARTS = 16  # at most, of the weight gradient of a depthwise convolution, and
GRADIENT_LINES = 8  # at least, of one,
GRADIENT_PART = 448  # pixels at least, and
GRADIENT_TOGETHER = 8  # lines that it takes before the next channels
GRADIENT_PIXELS = 256  # pixels per block of the weight gradient, at most, and
PANEL_PIXELS = 168  # of a pointwise one: a panel of inputs and one of gradients should stay in a first-level cache
GRADIENT_ELEMENTS = 96 * 1024  # of input and gradients that a task of it holds at a time
NARROW_ELEMENTS = 12 * 1024  # of input and gradients that a task of a narrow one holds at a time: most stay in a first-level cache
NARROW_COLUMNS = 256  # at most, of its blocks of pixels
NARROW_PARTS = 16  # at most, whose sums are added up,
NARROW_PIXELS = 512  # at least, of one, and
NARROW_WEIGHTS = 64 * 1024  # at most, of all of them
NARROW_BLOCK = 64  # pixels at least, of images whose groups have two vectors
COPY_COST = 4  # of a vector: as much as so many times LANES products
ONE: Triple = (1, 1, 1)
ROUND = 16  # scratch rows start at multiples of a cache line


def packed_elements(inputs: int, outputs: int, taps: int, groups: int) -> int:
    """Elements of packed weights for ``inputs`` and ``outputs`` channels in all."""
    return groups * -(-(outputs // groups) // WIDTH) * taps * (inputs // groups) * WIDTH


# Forward -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a convolution is cut into tasks and runs."""

    flat: bool  # all pixels are one line, and inputs are read where they lie; otherwise they go through patches
    whole_lines: bool  # in a task's patch, lines follow each other as pixels do
    rows: int
    columns: int
    piece_rows: int  # of a part of the statistics, where they are gathered; they follow from the shape alone
    piece_columns: int
    task_panels: int
    pass_panels: int
    offsets: tuple[int, ...]  # where runs start
    length: int  # of a run
    scratch: int  # elements per thread


def blocks(
    window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, threads: int, even: bool, gathers: bool = False
) -> Blocks:  # fmt: skip
    """Cut a convolution of ``size`` places with ``channels`` into ``places`` with ``outputs`` channels; ``even``: in each array, all
    pixels are equally far from the next one; ``gathers``: tasks consist of whole pieces, of which statistics are gathered."""
    channels, outputs = channels // window.groups, outputs // window.groups
    wanted = TASKS_PER_THREAD * threads
    if _leaves_out(window, size, places):
        size, window = places, dataclasses.replace(window, stride=(1, 1, 1))
    flat = even and _as_one_line(window, size, places)
    if flat:
        pixels = batch * math.prod(places)
        piece_rows, piece_columns = 1, evened(pixels, min(GATHERED_PIXELS, _longest_line(channels)))
        rows, columns = 1, _line_block(channels, pixels, threads, piece_columns if gathers else 1)
        pixel_tasks = -(-pixels // columns)
        offsets: tuple[int, ...] = (0,)
        length, scratch = channels, 1
    else:
        columns, most = _largest_patch(window, channels, places)
        piece_rows, piece_columns = evened(places[1], min(most, max(1, GATHERED_PIXELS // columns))), columns
        rows = _patch_rows(columns, most, places, batch, threads, piece_rows if gathers else 1)
        pixel_tasks = batch * places[0] * -(-places[1] // rows) * -(-places[2] // columns)
        lines, line = _patch(window, rows, columns, channels)
        offsets, length = _runs(window, lines, line, channels)
        scratch = window.extent[0] * lines * line
    panels = -(-outputs // WIDTH)
    task_panels = -(-panels // min(panels, -(-wanted // (pixel_tasks * window.groups))))
    pass_panels = min(task_panels, max(1, PASS_ELEMENTS // (max(1, window.taps * channels) * WIDTH)))
    whole_lines = window.taps == 1 and window.stride == (1, 1, 1) and columns == places[2]
    return Blocks(
        flat, whole_lines, rows, columns, piece_rows, piece_columns, task_panels, pass_panels, offsets, length, _rounded(scratch)
    )  # fmt: skip


def _as_one_line(window: Window, size: Triple, places: Triple) -> bool:
    """Whether each pixel of the output is made of the same pixel of the input."""
    return window.taps == 1 and window.stride == (1, 1, 1) and not any(window.padding) and size == places


def _longest_line(channels: int) -> int:
    """Pixels of a task, at most, where all are one line."""
    return min(TASK_PIXELS, max(LEAST_PIXELS, PATCH_ELEMENTS // channels))


def _line_block(channels: int, pixels: int, threads: int, piece: int) -> int:
    """Pixels of a task, in whole pieces, where all are one line."""
    most = _longest_line(channels) // piece
    if pixels <= threads * LEAST_PIXELS:
        return min(pixels, most * piece)
    return piece * _fair(-(-pixels // piece), most, 1, threads)


def evened(length: int, most: int) -> int:
    """The size of parts, of at most so much, that are about equally large."""
    return -(-length // -(-length // most))


def _fair(length: int, most: int, others: int, threads: int) -> int:
    """A length of at most ``most`` to cut ``length`` into, so that the thread with most to do has least; ``others`` such lengths are
    cut likewise."""
    fewest = -(-length // most)

    def cost(block: int) -> float:
        parts = -(-length // block)
        return -(-parts * others // threads) * block + parts * length / PART_COST

    return min((-(-length // parts) for parts in range(fewest, min(length, 2 * fewest + threads) + 1)), key=cost)


def _patch(window: Window, rows: int, columns: int, channels: int) -> tuple[int, int]:
    """Lines of a patch plane, and elements of a line."""
    lines = (rows - 1) * window.stride[1] + (window.extent[1] - 1) * window.dilation[1] + 1
    line = (columns - 1) * window.stride[2] + (window.extent[2] - 1) * window.dilation[2] + 1
    return lines, line * channels


def _largest_patch(window: Window, channels: int, places: Triple) -> tuple[int, int]:
    """Columns and, at most, rows of output whose patch is about :data:`PATCH_ELEMENTS`, at most :data:`TASK_PIXELS` in all."""
    _, height, width = places
    columns = evened(width, TASK_PIXELS)
    while columns > 4 * MAX_ROWS and window.extent[0] * math.prod(_patch(window, 1, columns, channels)) > PATCH_ELEMENTS:
        columns = -(-columns // 2)
    rows, most = 1, min(height, TASK_PIXELS // columns)
    while rows < most and window.extent[0] * math.prod(_patch(window, rows + 1, columns, channels)) <= PATCH_ELEMENTS:
        rows += 1
    return columns, rows


def _patch_rows(columns: int, most: int, places: Triple, batch: int, threads: int, piece: int) -> int:
    """Rows of output of a task, in whole pieces, equally many for all threads."""
    depth, height, width = places
    if most * columns <= LEAST_PIXELS:
        return evened(height, most)  # a piece
    return piece * _fair(-(-height // piece), most // piece, batch * depth * -(-width // columns), threads)


def _runs(window: Window, lines: int, line: int, channels: int) -> tuple[tuple[int, ...], int]:
    """Where the runs of contiguous products of one output start in a patch, and their length: a kernel line if it has no dilation."""
    (kd, kh, kw), (_, dh, dw) = window.extent, window.dilation
    per_line = [(k * lines + j * dh) * line for k in range(kd) for j in range(kh)]
    if dw == 1:
        return tuple(per_line), kw * channels
    return tuple(start + i * dw * channels for start in per_line for i in range(kw)), channels


def _rounded(elements: int) -> int:
    return -(-elements // ROUND) * ROUND


def _int_array(values: Sequence[int]) -> np.ndarray:
    """Numbers for a kernel, also where there are none."""
    return np.array(values, np.int64)


def _geometry(window: Window) -> np.ndarray:
    """What kernels take of a window."""
    return np.array([window.stride, window.padding, window.dilation, window.extent], np.int64)


def forward_elements(
    window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, threads: int, gathers: bool = False
) -> int:  # fmt: skip
    """Scratch elements per thread that :func:`convolve` needs; ``gathers``: also where it gathers statistics."""
    cuts = itertools.product((False, True), (False, True) if gathers else (False,))
    return max(blocks(window, size, channels, places, outputs, batch, threads, *cut).scratch for cut in cuts)


def gathered_shape(window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int) -> Triple:
    """The parts of the statistics that :func:`convolve` gathers of dense arrays: images, planes, and parts of each."""
    plan = blocks(window, size, channels, places, outputs, batch, 1, _as_one_line(window, size, places), gathers=True)
    if plan.flat:
        return 1, 1, -(-batch * math.prod(places) // plan.piece_columns)
    return batch, places[0], -(-places[1] // plan.piece_rows) * -(-places[2] // plan.piece_columns)


def nothing_gathered(like: np.ndarray) -> np.ndarray:
    """What kernels take where they gather no statistics."""
    return np.empty((0,) * 5, like.dtype)


@dataclasses.dataclass(frozen=True)
class Prologue:
    """``scalar(x * gain + offset)`` takes the place of ``x``: ``gain (1 or N, C)``, ``offset (C,)``, a scalar function that is a clamp."""

    gain: np.ndarray
    offset: np.ndarray
    scalar: Callable | None


def takes_prologue(window: Window, size: Triple, places: Triple) -> bool:
    """Whether :func:`convolve` takes a :class:`Prologue`."""
    return window.groups == 1 and _leaves_out(window, size, places)


def convolve(
    x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, window: Window, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None, prologue: Prologue | None = None,
    gathered: np.ndarray | None = None,
) -> None:  # fmt: skip
    """``y = activation(conv(x) + bias + addend)``; arrays ``(N, D, H, W, C)``, weights from :func:`pack` (none: the sum is zero). What is
    ``gathered (STATISTICS, *gathered_shape, CO)`` are the statistics of ``y``."""
    more = y if addend is None else addend
    gathers, in_place = gathered is not None, _as_one_line(window, x.shape[1:4], y.shape[1:4])
    x, window = _without_gaps(x, y.shape[1:4], window)
    even = prologue is None and None not in (pixel_step(x), pixel_step(y), pixel_step(more)) and (in_place or not gathers)
    plan = blocks(window, x.shape[1:4], x.shape[4], y.shape[1:4], y.shape[4], x.shape[0], scratch.shape[0], even, gathers)
    assert plan.scratch <= scratch.shape[1], "a patch must fit the scratch of its thread"
    assert not gathers or plan.flat == in_place, "statistics are gathered of dense arrays"
    if plan.flat:
        x, y, more = (as_line(array) for array in (x, y, more))
    narrow = _vectors(window, y.shape[4]) == 1
    adjacent = narrow and not plan.flat and window.stride[2] == 1 and x.shape[4] == window.groups
    one_line = plan.whole_lines and all(pixel_step(array) == array.strides[3] for array in (y, more))
    heights = tile_heights(plan.rows * plan.columns if one_line else plan.columns, ladder_of(narrow, adjacent))
    function, low, high = resolved(activation)
    convolution(narrow, adjacent, function, is_long(activation))(
        x, not plan.flat, *_before(prologue, bias), packed, bias, addend is not None, more, low, high, y,
        _int_array(plan.offsets), plan.length, heights, window.groups,
        _geometry(window), plan.rows, plan.columns, one_line, plan.task_panels, plan.pass_panels,
        nothing_gathered(y) if gathered is None else gathered, plan.piece_rows, plan.piece_columns, scratch,
        alone=y.size * window.taps * x.shape[4] // window.groups <= FEW_PRODUCTS,
    )  # fmt: skip


def _before(prologue: Prologue | None, bias: np.ndarray) -> tuple:
    """What the kernel takes of a prologue."""
    if prologue is None:
        return (False, bias[None], bias, *EVERYTHING)
    function, floor, ceiling = resolved(prologue.scalar)
    assert function is None, "a prologue ends with a clamp"
    return True, prologue.gain, prologue.offset, floor, ceiling


def _leaves_out(window: Window, size: Triple, places: Triple) -> bool:
    """Whether each place of the output is made of one place of the input, and none of padding."""
    return window.taps == 1 and not any(window.padding) and all((n - 1) * s < m for n, s, m in zip(places, window.stride, size))


def _without_gaps(x: np.ndarray, places: Triple, window: Window) -> tuple[np.ndarray, Window]:
    """The same convolution without the inputs that a pointwise one with a stride leaves out."""
    if not _leaves_out(window, x.shape[1:4], places):
        return x, window
    chosen = (slice(0, (n - 1) * s + 1, s) for n, s in zip(places, window.stride))
    return x[:, *chosen], dataclasses.replace(window, stride=(1, 1, 1))


def pixel_step(array: np.ndarray) -> int | None:
    """Bytes from each pixel of ``(N, D, H, W, C)`` to the next one; None where these differ."""
    step, following = array.strides[4] * array.shape[4], None
    for length, distance in zip(array.shape[3::-1], array.strides[3::-1]):
        if length == 1:
            continue
        if following is None:
            step = distance
        elif distance != following:
            return None
        following = distance * length
    return step


def as_line(array: np.ndarray) -> np.ndarray:
    """All pixels of ``(N, D, H, W, C)`` as one line, for an array that has a :func:`pixel_step`."""
    pixels, step = math.prod(array.shape[:4]), pixel_step(array)
    assert step is not None
    return np.lib.stride_tricks.as_strided(array, (1, 1, 1, pixels, array.shape[4]), (*(pixels * step,) * 3, step, array.strides[4]))


def pack(weight: np.ndarray, taps: Sequence[int], scale: np.ndarray, packed: np.ndarray, groups: int) -> None:
    """Pack these taps of ``weight (kernel..., C / groups, CO)``, output channels multiplied by ``scale``, for :func:`convolve`."""
    if taps:
        pack_weights(weight.reshape(-1, *weight.shape[-2:]), _int_array(taps), groups, False, scale, packed)


# Data gradient -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Residue:
    """The places of ``dx`` with one residue modulo the stride: where they start, their window over ``dy``, and its taps."""

    start: Triple
    places: Triple
    window: Window
    taps: tuple[int, ...]


def residues(window: Window, size: Triple) -> Iterator[Residue]:
    """Cut the data gradient of a convolution of an input of ``size`` into convolutions of ``dy`` with stride 1.

    ``dx[i] = sum of dy[(i + p - k d) / s] w[k]`` over the k for which the division is exact; for i = r + s j these k, and so the
    offsets into ``dy``, form an arithmetic progression that does not depend on j."""
    axes = [list(_axis_residues(*axis)) for axis in zip(window.extent, window.stride, window.dilation, window.padding, size)]
    kh, kw = window.extent[1:]
    for parts in itertools.product(*axes):
        starts, places, taps, dilations, paddings = zip(*parts)
        flat = tuple((a * kh + b) * kw + c for a, b, c in itertools.product(*taps))
        part = Window(tuple(map(len, taps)), (1, 1, 1), dilations, paddings, window.groups) if flat else NOTHING  # type: ignore[arg-type]
        yield Residue(starts, places, part, flat)  # type: ignore[arg-type]


def _axis_residues(extent: int, stride: int, dilation: int, padding: int, size: int) -> Iterator[tuple[int, int, list[int], int, int]]:
    for start in range(min(stride, size)):
        taps = [k for k in reversed(range(extent)) if (start + padding - k * dilation) % stride == 0]
        offset = (start + padding - taps[0] * dilation) // stride if taps else 0
        yield start, -(-(size - start) // stride), taps, dilation // math.gcd(dilation, stride), -offset


def _parts(window: Window, size: Triple, places: Triple) -> Iterator[Residue]:
    """The residues, without taps that meet nothing but padding of the ``places`` of ``dy``."""
    for part in residues(window, size):
        seen, kept = met(part.window, places, part.places)
        yield dataclasses.replace(part, window=seen, taps=tuple(part.taps[tap] for tap in kept))


def data_gradient_elements(
    window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, threads: int
) -> tuple[int, int]:
    """Elements of packed weights, and of scratch per thread, that :func:`data_gradient` needs."""
    packed, scratch = 0, 0
    for part in _parts(window, size, places):
        if part.taps:
            packed += packed_elements(outputs, channels, len(part.taps), window.groups)
        scratch = max(scratch, forward_elements(part.window, places, outputs, part.places, channels, batch, threads))
    return packed, scratch


def pack_transposed(weight: np.ndarray, scale: np.ndarray, packed: np.ndarray, window: Window, size: Triple, places: Triple) -> None:
    """Pack ``weight (kernel..., C / groups, CO)``, channels of C multiplied by ``scale``, for :func:`data_gradient` from ``places`` to
    ``size``."""
    flat = weight.reshape(-1, *weight.shape[-2:])
    channels = flat.shape[1] * window.groups
    at = 0
    for part in _parts(window, size, places):
        if part.taps:
            elements = packed_elements(flat.shape[2], channels, len(part.taps), window.groups)
            pack_weights(flat, _int_array(part.taps), window.groups, True, scale, packed[at : at + elements])
            at += elements


def data_gradient(
    dy: np.ndarray, packed: np.ndarray, bias: np.ndarray, dx: np.ndarray, window: Window, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None,
) -> None:  # fmt: skip
    """``dx`` from ``dy`` of a convolution with ``window`` (plus ``bias``, ``addend`` and ``activation``, which make it a transposed
    convolution); weights from :func:`pack_transposed`."""
    at = 0
    for part in _parts(window, dx.shape[1:4], dy.shape[1:4]):
        places = (slice(None), *(slice(start, None, s) for start, s in zip(part.start, window.stride)))
        target = dx[places]
        more = None if addend is None else addend[places]
        if part.taps:
            elements = packed_elements(dy.shape[4], dx.shape[4], len(part.taps), window.groups)
            convolve(dy, packed[at : at + elements], bias, target, part.window, scratch, more, activation)
            at += elements
        else:
            convolve(dy, packed[:0], bias, target, part.window, scratch, more, activation)


# Weight gradient -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GradientBlocks:
    """How a weight gradient is cut into tasks."""

    rows: int
    columns: int
    channels: int
    panels: int
    cost: float  # of the thread that has most to do, in vector products
    scratch: int


def gradient_blocks(window: Window, channels: int, places: Triple, outputs: int, batch: int, threads: int) -> GradientBlocks:
    """Cut the weight gradient of a convolution that gave ``places`` with ``outputs`` channels. Rows and columns, and with them the order of
    sums, follow from the shape alone; channels and panels are the ones that copy least, for all threads."""
    channels, panels = channels // window.groups, -(-outputs // window.groups // WIDTH)
    panelled, pixels = _panelled(window), PANEL_PIXELS if _panelled(window) else GRADIENT_PIXELS
    columns = -(-places[2] // -(-places[2] // pixels)) if panelled else min(places[2], pixels)
    line = (columns - 1) * window.stride[2] + (window.extent[2] - 1) * window.dilation[2] + 1
    rows = max(1, min(batch * places[0] * places[1], pixels // max(columns, line // window.stride[2])))
    lines = window.groups * window.extent[0] * window.extent[1]

    def scratch(block: int, some: int) -> int:
        panel = (rows * columns + 1) * WIDTH
        return (-(-block // WIDTH) * panel if panelled else rows * line * block) + some * panel + MAX_ROWS * WIDTH

    def cost(block: int, some: int) -> float:
        """Per column of a line, in products of a panel."""
        tasks = lines * -(-channels // block) * -(-panels // some)
        products = block * some * window.extent[2]
        copies = COPY_COST * (block / LANES * line / columns + some * VECTORS)
        return -(-tasks // threads) * (products + copies)

    unit = WIDTH if panelled else 1
    cuts = [(min(channels, -(-channels // c // unit) * unit), -(-panels // p)) for c in counts(channels) for p in counts(panels)]
    fitting = [cut for cut in cuts if scratch(*cut) <= GRADIENT_ELEMENTS] or [min(cuts, key=lambda cut: scratch(*cut))]
    block, some = min(fitting, key=lambda cut: cost(*cut))
    total = batch * math.prod(places) * VECTORS * cost(block, some)
    return GradientBlocks(rows, columns, block, some, total, _rounded(scratch(block, some)))


def counts(length: int) -> list[int]:
    """Numbers of parts that ``length`` may be cut into."""
    return sorted({min(length, count) for power in range(length.bit_length() + 1) for count in (2**power, 3 * 2**power)})


@dataclasses.dataclass(frozen=True)
class NarrowBlocks:
    """How the weight gradient of a convolution with narrow groups is cut into tasks: all follows from the shape, so that the bits do not
    depend on the number of threads."""

    rows: int
    columns: int
    channels: int
    parts: int
    weights: int  # of a part
    scratch: int  # elements per thread

    def elements(self, threads: int) -> int:
        """Scratch elements per thread, and a thread's share of the parts."""
        return self.scratch + _rounded(-(-self.parts * self.weights // threads))


def narrow_blocks(window: Window, channels: int, places: Triple, outputs: int, batch: int) -> NarrowBlocks:
    """Cut the weight gradient of a convolution that gave ``places`` with ``outputs`` channels, few in each group."""
    weights = window.taps * channels // window.groups * outputs
    width = _vectors(window, outputs) * LANES
    channels, outputs = channels // window.groups, outputs // window.groups
    columns = -(-places[2] // -(-places[2] // NARROW_COLUMNS))

    def held(rows: int, block: int) -> int:
        return math.prod(_patch(window, rows, columns, block)) + rows * columns * outputs

    block = channels
    while block > LANES and held(1, block) > NARROW_ELEMENTS:
        block = -(-block // 2)
    rows = 1
    while rows < places[1] and held(rows + 1, block) <= NARROW_ELEMENTS:
        rows += 1
    rows = -(-places[1] // -(-places[1] // rows))
    pixels = batch * math.prod(places)
    parts = max(1, min(NARROW_PARTS, pixels // NARROW_PIXELS, NARROW_WEIGHTS // weights))
    scratch = held(rows, block) + math.prod(window.extent[1:]) * block * width + width
    return NarrowBlocks(rows, columns, block, parts, weights, _rounded(scratch))


def _vectors(window: Window, outputs: int) -> int:
    """Vectors that the output channels of a group fill."""
    return -(-outputs // window.groups // LANES)


def _sums_parts(window: Window, channels: int, places: Triple, outputs: int) -> bool:
    """Whether the weight gradient is cut into :class:`NarrowBlocks`: groups have one vector of output channels, or two where several lines
    of the kernel share what is copied, weights are few, and blocks large enough to pay for loading the sums of all of them."""
    weights = window.taps * channels // window.groups * outputs
    few = weights * NARROW_PARTS <= NARROW_WEIGHTS and math.prod(places[1:]) >= NARROW_BLOCK
    return _vectors(window, outputs) == 1 or (_vectors(window, outputs) == VECTORS and window.extent[1] > 1 and few)


def _panelled(window: Window) -> bool:
    """Whether the weight gradient copies inputs into panels."""
    return window == POINTWISE


def weight_gradient_elements(window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`weight_gradients` needs."""
    if _as_one_line(window, size, places):
        places, batch = (1, 1, batch * math.prod(places)), 1
    elif _leaves_out(window, size, places):
        window = dataclasses.replace(window, stride=(1, 1, 1))
    if _sums_parts(window, channels, places, outputs):
        return narrow_blocks(window, channels, places, outputs, batch).elements(threads)
    return gradient_blocks(window, channels, places, outputs, batch, threads).scratch


def weight_gradients(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    """``dw (kernel..., C / groups, CO)`` of the convolution of ``x`` with ``window``, from ``dy``."""
    if _as_one_line(window, x.shape[1:4], dy.shape[1:4]):
        x, dy = x.reshape(1, 1, 1, -1, x.shape[4]), dy.reshape(1, 1, 1, -1, dy.shape[4])
    else:
        x, window = _without_gaps(x, dy.shape[1:4], window)
    flat = dw.reshape(-1, *dw.shape[-2:])
    if _sums_parts(window, x.shape[4], dy.shape[1:4], dy.shape[4]):
        _narrow_weight_gradients(x, dy, flat, window, scratch)
        return
    plan = gradient_blocks(window, x.shape[4], dy.shape[1:4], dy.shape[4], x.shape[0], scratch.shape[0])
    weight_gradient(
        x,
        dy,
        flat,
        tile_heights(plan.channels * window.extent[2]),
        window.groups,
        _geometry(window),
        _panelled(window),
        plan.rows,
        plan.columns,
        plan.channels,
        plan.panels,
        scratch,
    )


def _narrow_weight_gradients(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    plan = narrow_blocks(window, x.shape[4], dy.shape[1:4], dy.shape[4], x.shape[0])
    threads, memory = len(scratch), scratch.reshape(-1)
    own = memory[: threads * plan.scratch].reshape(threads, -1)
    parts = memory[own.size : own.size + plan.parts * dw.size].reshape(plan.parts, *dw.shape) if plan.parts > 1 else dw[None]
    heights = tile_heights(plan.channels * window.extent[2])
    geometry = _geometry(window)
    kernel = narrow_weight_gradient(_vectors(window, dy.shape[4]))
    kernel(x, dy, parts, heights, window.groups, geometry, plan.rows, plan.columns, plan.channels, own)
    if plan.parts > 1:
        add_parts(parts, dw)


# Depthwise -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DepthwiseBlocks:
    """How a depthwise convolution is cut into tasks."""

    height: int  # of tiles
    rows: int
    columns: int
    piece_rows: int  # of a part of the statistics, as wide as a task, where they are gathered
    offsets: np.ndarray  # where runs of taps start, for each part and each place of their first line in the ring of lines
    lengths: np.ndarray  # of runs
    phases: Sequence[tuple[int, ...]]  # what the kernel takes of each part
    geometry: tuple[Triple, ...]
    scratch: int  # elements per thread


@dataclasses.dataclass(frozen=True)
class Expansion:
    """A pointwise convolution that makes the input of a depthwise one: ``scalar(x @ weights + bias)``, weights from :func:`pack`."""

    packed: np.ndarray
    bias: np.ndarray
    scalar: Callable | None


def depthwise_blocks(
    parts: Sequence[Residue], spread: Triple, channels: int, batch: int, threads: int, expanded: int = 0, gathers: bool = False
) -> DepthwiseBlocks:  # fmt: skip
    """Cut depthwise convolutions of one input with ``channels``, whose places are ``spread`` apart: enough tasks for all threads, whose
    lines fit the cache. Columns follow from the shape alone, and with them the stretches that are summed. ``expanded``: the channels that
    an :class:`Expansion` reads, if there is one; ``gathers``: tasks consist of whole pieces, of which statistics are gathered."""
    window = _around(parts)
    depth, height, width = parts[0].places
    (kd, ring, reach), (_, sh, sw) = window.extent, window.stride
    columns = _depthwise_columns(window, width)
    across = (columns - 1) * sw + reach
    part = -(-across // sw) * HELD
    line = min(sw, across) * part
    tasks = batch * depth * -(-channels // HELD) * -(-width // columns)
    cuts = max(-(-TASKS_PER_THREAD * threads // tasks), height * sh * across * expanded // EXPANDED_ELEMENTS)
    rows = -(-height // min(cuts, -(-height // LEAST_LINES)))
    piece_rows = evened(height, max(1, GATHERED_PIXELS // columns))
    if gathers:
        rows = -(-rows // piece_rows) * piece_rows
    most = max(len(_runs_of(residue.window)) for residue in parts)
    offsets, lengths = np.zeros((len(parts), ring, most), np.int64), np.zeros((len(parts), most), np.int64)
    phases, weights = [], 0
    for k, residue in enumerate(parts):
        own, runs = residue.window, _runs_of(residue.window)
        down, right = (around - padding for around, padding in zip(window.padding[1:], own.padding[1:]))
        for run, (d, h, taps) in enumerate(runs):
            low, start = h * own.dilation[1] + down, taps[0] * own.dilation[2] + right
            column = start % sw * part + start // sw * HELD
            offsets[k, :, run] = [(d * ring + (first + low) % ring) * line + column for first in range(ring)]
            lengths[k, run] = len(taps)
        phases.append((*residue.start[1:], *residue.places[1:], len(runs), weights, len(residue.taps)))
        weights += depthwise_packed_elements(channels, len(residue.taps))
    narrowest = max(1, columns - (width - min(residue.places[2] for residue in parts)))
    tall = min((h for h in HEIGHTS if h <= narrowest), key=lambda h: -(-columns // h) * (h + 1))
    geometry = (window.stride, window.padding, spread, window.extent, window.dilation)
    return DepthwiseBlocks(tall, rows, columns, piece_rows, offsets, lengths, phases, geometry, _rounded(kd * ring * line))


def _runs_of(window: Window) -> list[tuple[int, int, list[int]]]:
    """Plane, line and taps of the runs of a window."""
    return [(d, h, taps) for d, h in np.ndindex(window.extent[:2]) for taps in _column_runs(window)]


def _around(parts: Sequence[Residue]) -> Window:
    """The window over all that any of these convolutions reads for one place, without dilation of lines and columns. They have the same
    stride, and their planes are the same."""
    windows = [part.window for part in parts if part.taps] or [part.window for part in parts]
    front = [max(window.padding[axis] for window in windows) for axis in range(3)]
    lines, columns = (
        max((window.extent[axis] - 1) * window.dilation[axis] - window.padding[axis] for window in windows) + front[axis] + 1
        for axis in (1, 2)
    )
    first = windows[0]
    return Window((first.extent[0], lines, columns), first.stride, (first.dilation[0], 1, 1), tuple(front))  # type: ignore[arg-type]


def _depthwise_columns(window: Window, width: int) -> int:
    """Columns of a task, of ``width``: as many as have their lines of input in the first-level cache."""
    inputs = DEPTHWISE_ELEMENTS // (max(1, window.extent[0]) * _ring(window) * HELD)
    most = (inputs - (window.extent[2] - 1) * window.dilation[2] - 1) // window.stride[2] + 1
    return -(-width // -(-width // max(LEAST_COLUMNS, most)))


def _ring(window: Window) -> int:
    """Lines of input between the first and the last one that a line of output is made of."""
    return max(1, (window.extent[1] - 1) * window.dilation[1] + 1)


def _column_runs(window: Window) -> list[list[int]]:
    """The taps along a line, cut into runs of at most three whose inputs are neighbours, where columns are sorted by their remainder modulo
    the stride."""
    step, dilation = window.stride[2], window.dilation[2]
    together = step // math.gcd(step, dilation)  # so many taps further, the remainder is the same
    near = math.lcm(step, dilation) // step == 1
    runs = []
    for first in range(min(together, window.extent[2])):
        taps = list(range(first, window.extent[2], together))
        length = DEPTHWISE_RUN if near else 1
        runs += [taps[k : k + length] for k in range(0, len(taps), length)]
    return runs


def depthwise_elements(window: Window, channels: int, places: Triple, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`depthwise_convolve` needs."""
    return depthwise_blocks(_whole(window, places), ONE, channels, batch, threads).scratch


def _whole(window: Window, places: Triple) -> list[Residue]:
    """All of a convolution that gives ``places``, as the one residue of a data gradient without a stride."""
    return [Residue((0, 0, 0), places, window, tuple(range(window.taps)))]


def makes_expansion(window: Window, size: Triple, channels: int, places: Triple, outputs: int) -> bool:
    """Whether a convolution can be an :class:`Expansion`, and is faster as one: where its output would hardly stay in the second-level
    cache, and its weights for a block of channels stay in the first-level one."""
    pointwise = window.groups == 1 and _as_one_line(window, size, places)
    return pointwise and channels <= MOST_EXPANDED and math.prod(size) * outputs >= LEAST_EXPANSION


def takes_expansion(places: Triple) -> bool:
    """Whether :func:`depthwise_convolve` that gives ``places`` is faster with an :class:`Expansion`."""
    return places[2] >= EXPANDED_COLUMNS


def depthwise_stretches(window: Window, places: Triple) -> int:
    """How many stretches of lines of pixels :func:`depthwise_convolve` sums, whatever the number of threads."""
    return places[0] * places[1] * -(-places[2] // _depthwise_columns(window, places[2]))


def depthwise_gathered_shape(window: Window, channels: int, places: Triple, batch: int) -> Triple:
    """The parts of the statistics that :func:`depthwise_convolve` gathers: images, planes, and parts of each."""
    plan = depthwise_blocks(_whole(window, places), ONE, channels, batch, 1)
    return batch, places[0], -(-places[1] // plan.piece_rows) * -(-places[2] // plan.columns)


def depthwise_convolve(
    x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, window: Window, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None, sums: np.ndarray | None = None,
    expansion: Expansion | None = None, gathered: np.ndarray | None = None,
) -> None:  # fmt: skip
    """``y = activation(depthwise conv(x) + bias + addend)``; arrays ``(N, D, H, W, C)``, weights from :func:`pack_depthwise`. ``sums
    (N, stretches, C)`` gets the sums of ``y`` over each of :func:`depthwise_stretches`. The convolution is of what the ``expansion`` makes
    of ``x``, if there is one. What is ``gathered (STATISTICS, 1, parts, C)`` are the statistics of ``y``, by the parts of
    :func:`depthwise_gathered_shape` in their order."""
    if gathered is not None:
        pieces = depthwise_gathered_shape(window, y.shape[4], y.shape[1:4], y.shape[0])
        gathered = gathered.reshape(len(gathered), *pieces, y.shape[4])
    parts = _whole(window, y.shape[1:4])
    _convolve_parts(x, packed, bias, y, parts, ONE, scratch, addend, activation, sums, expansion, gathered)


def _convolve_parts(
    x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, parts: Sequence[Residue], spread: Triple, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None, sums: np.ndarray | None = None,
    expansion: Expansion | None = None, gathered: np.ndarray | None = None,
) -> None:  # fmt: skip
    """:func:`depthwise_convolve` for several ``parts`` of the places of ``y``, whose lines and columns are ``spread`` apart."""
    expanded = 0 if expansion is None else x.shape[4]
    plan = depthwise_blocks(parts, spread, y.shape[4], y.shape[0], scratch.shape[0], expanded, gathered is not None)
    assert plan.scratch <= scratch.shape[1], "a patch must fit the scratch of its thread"
    function, low, high = resolved(activation)
    before, weights, shift, floor, ceiling, longest = _expansion(expansion, packed, bias, x.shape[3])
    depthwise(plan.height, function, before)(
        x, weights, shift, floor, ceiling, tile_heights(longest, EXPANSION_LADDER),
        packed, bias, addend is not None, y if addend is None else addend, low, high, y,
        np.empty((0, 0, 0), y.dtype) if sums is None else sums, nothing_gathered(y) if gathered is None else gathered, plan.piece_rows,
        plan.offsets, plan.lengths, np.array(plan.phases, np.int64), np.array(plan.geometry, np.int64),
        plan.rows, plan.columns, scratch,
    )  # fmt: skip


def _expansion(expansion: Expansion | None, packed: np.ndarray, bias: np.ndarray, columns: int) -> tuple:
    """What the kernel is made for, and what it takes, of an expansion of lines of ``columns``: weights, bias, clamp and longest line."""
    if expansion is None:
        return None, packed, bias, *EVERYTHING, 0
    function, low, high = resolved(expansion.scalar)
    return (function, is_long(expansion.scalar)), expansion.packed, expansion.bias, low, high, columns


def depthwise_packed_elements(channels: int, taps: int) -> int:
    """Elements of packed weights."""
    return -(-channels // HELD) * taps * HELD


def pack_depthwise(weight: np.ndarray, window: Window, scale: np.ndarray, packed: np.ndarray) -> None:
    """Pack ``weight (kernel..., 1, C)`` times ``scale (C,)`` for :func:`depthwise_convolve` with ``window``."""
    flat = weight.reshape(-1, weight.shape[-1])
    _pack_taps(flat, tuple(range(flat.shape[0])), window, scale, packed)


def _pack_taps(weight: np.ndarray, taps: tuple[int, ...], window: Window, scale: np.ndarray, packed: np.ndarray) -> None:
    """Pack the ``taps`` of a ``window``, in the order of its runs."""
    lines = window.extent[0] * window.extent[1]
    chosen = [taps[line * window.extent[2] + tap] for line in range(lines) for run in _column_runs(window) for tap in run]
    pack_taps(weight, _int_array(chosen), scale, packed.reshape(-1, len(taps), HELD))


def depthwise_data_gradient_elements(window: Window, size: Triple, channels: int, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`depthwise_data_gradient` needs."""
    return max(depthwise_blocks(parts, window.stride, channels, batch, threads).scratch for parts in _plane_residues(window, size))


def _plane_residues(window: Window, size: Triple) -> list[list[Residue]]:
    """The residues, those of the same planes together: they read the same planes."""
    return [list(parts) for _, parts in itertools.groupby(residues(window, size), lambda part: part.start[0])]


def depthwise_data_gradient(
    dy: np.ndarray, weight: np.ndarray, packed: np.ndarray, dx: np.ndarray, window: Window, scratch: np.ndarray
) -> None:
    """``dx`` of a depthwise convolution with ``weight (kernel..., 1, C)``; ``packed`` is scratch as large as packed weights."""
    channels = weight.shape[-1]
    flat = weight.reshape(-1, channels)
    ones, zeros = np.ones(channels, dx.dtype), np.zeros(channels, dx.dtype)
    at = 0
    for parts in _plane_residues(window, dx.shape[1:4]):
        first = at
        for part in parts:
            taps = packed[at : at + depthwise_packed_elements(channels, len(part.taps))]
            at += taps.size
            if part.taps:
                _pack_taps(flat, part.taps, part.window, ones, taps)
        _convolve_parts(dy, packed[first:], zeros, dx[:, parts[0].start[0] :: window.stride[0]], parts, window.stride, scratch)


@dataclasses.dataclass(frozen=True)
class DepthwiseGradientBlocks:
    """How the weight gradient of a depthwise convolution is cut into tasks: all follows from the shape, so that the bits do not depend on
    the number of threads."""

    together: int  # lines that a task takes through all of its channels before the next ones
    parts: int
    scratch: int  # elements per thread

    def elements(self, window: Window, channels: int, threads: int) -> int:
        """Scratch elements per thread, and a thread's share of the parts."""
        return self.scratch + _rounded(-(-self.parts * window.taps * channels // threads))


def depthwise_gradient_blocks(window: Window, channels: int, places: Triple, batch: int) -> DepthwiseGradientBlocks:
    """Cut the weight gradient of a depthwise convolution that gave ``places``."""
    taps, _, vectors = gradient_tile(window.extent)
    sums = (
        3 * window.extent[0] * window.extent[1] * -(-window.extent[2] // taps) * taps * -(-channels // (vectors * LANES)) * vectors * LANES
    )
    parts = max(1, min(GRADIENT_PARTS, batch * math.prod(places) // GRADIENT_PART, batch * places[0] * places[1] // GRADIENT_LINES))
    return DepthwiseGradientBlocks(GRADIENT_TOGETHER, parts, _rounded(sums))


def depthwise_gradient_elements(window: Window, channels: int, places: Triple, batch: int, threads: int) -> int:
    """Scratch elements per thread that :func:`depthwise_weight_gradients` needs."""
    return depthwise_gradient_blocks(window, channels, places, batch).elements(window, channels, threads)


def depthwise_weight_gradients(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, scratch: np.ndarray) -> None:
    """``dw (kernel..., 1, C)`` of a depthwise convolution."""
    total = dw.reshape(window.taps, -1)
    plan = depthwise_gradient_blocks(window, dy.shape[4], dy.shape[1:4], len(dy))
    threads, memory = len(scratch), scratch.reshape(-1)
    own = memory[: threads * plan.scratch].reshape(threads, -1)
    parts = memory[own.size : own.size + plan.parts * total.size].reshape(plan.parts, *total.shape) if plan.parts > 1 else total[None]
    gradient = depthwise_weight_gradient(*gradient_tile(window.extent))
    gradient(x, dy, parts, _geometry(window), plan.together, own)
    if plan.parts > 1:
        add_parts(parts, total)
