"""Arithmetic around the convolution kernels: windows lifted to three axes, block sizes, and the launches of the forward pass and the data
gradient (those of weight gradients: :mod:`.weight_launch`)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...simd import LANES
from ..channels import WIDTH
from .direct import convolution, pack_weights
from .ending import EVERYTHING, is_long, resolved
from .folding import folding, pack_folded, repeat
from .pairs import CHANNELS, PAIRED_DTYPES
from .tiles import MAX_ROWS, Panels, ladder_of, tile_heights
from .window import NOTHING, Triple, Window, met

TASK_PIXELS = 1008  # at most: a multiple of tiles' heights
PATCH_ELEMENTS = 48 * 1024  # of input that a task holds, and
PASS_ELEMENTS = 64 * 1024  # of weights that meet them at a time: together they should stay in a second-level cache
PART_COST = 400  # a part costs as much time as one part in so many of all
LEAST_PIXELS = 8 * MAX_ROWS  # of a task: with fewer, weights come from afar for too few products
WEIGHT_PIXELS = 3  # as many pixels take as long as a task's weights take to come from the second-level cache
GATHERED_PIXELS = 256  # at most, of a part of the statistics that a convolution gathers
FEW_PRODUCTS = 100_000  # a convolution of less runs in the caller's thread
READING_COST = 0.05  # of inputs that some panels meet together, as a part of the time that one of these takes
TASKS_PER_THREAD = 4  # enough to even out threads that get less of the machine
ROUND = 16  # scratch rows start at multiples of a cache line


def packed_elements(window: Window, inputs: int, places: Triple, outputs: int, folds: bool = True) -> int:
    """Elements of packed weights for ``inputs`` and ``outputs`` channels in all; ``folds``: see :func:`.folding.folding`."""
    found, groups = folding(window, places, outputs, folds), window.groups
    return groups * -(-(found.outputs // groups) // WIDTH) * found.window.taps * (inputs // groups) * WIDTH


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
    if runs_alone(batch * math.prod(places) * outputs, window, channels):
        threads = 1
    channels, outputs = channels // window.groups, outputs // window.groups
    wanted = TASKS_PER_THREAD * threads if threads > 1 else 1
    if leaves_out(window, size, places):
        size, window = places, dataclasses.replace(window, stride=(1, 1, 1))
    flat = even and as_one_line(window, size, places)
    if flat:
        pixels = batch * math.prod(places)
        piece_rows, piece_columns = 1, evened(pixels, min(GATHERED_PIXELS, _longest_line(channels)))
        panels = -(-outputs // WIDTH) * window.groups
        rows, columns = 1, _line_block(channels, pixels, panels, threads, piece_columns if gathers else 1)
        pixel_tasks = -(-pixels // columns)
        offsets: tuple[int, ...] = (0,)
        length, scratch = channels, 1
    else:
        columns, most = _largest_patch(window, channels, places)
        piece_rows, piece_columns = evened(places[1], min(most, max(1, GATHERED_PIXELS // columns))), columns
        rows = _patch_rows(columns, most, places, batch, threads, piece_rows if gathers else 1)
        pixel_tasks = batch * places[0] * -(-places[1] // rows) * -(-places[2] // columns)
        lines, line = patch_of(window, rows, columns, channels)
        offsets, length = _runs(window, lines, line, channels)
        scratch = window.extent[0] * lines * line
    panels = -(-outputs // WIDTH)
    task_panels = -(-panels // min(panels, -(-wanted // (pixel_tasks * window.groups))))
    pass_panels = max(1, PASS_ELEMENTS // (max(1, window.taps * channels) * WIDTH))
    if flat:
        by_places = pixels > panels * WIDTH
        task_panels = _fair_panels(panels, task_panels, pass_panels, pixel_tasks * window.groups, threads, by_places)
    pass_panels = min(task_panels, pass_panels)
    if rows * columns == 1:  # no weights meet a second pixel
        pass_panels = task_panels
    whole_lines = window.taps == 1 and window.stride == (1, 1, 1) and columns == places[2]
    return Blocks(
        flat, whole_lines, rows, columns, piece_rows, piece_columns, task_panels, pass_panels, offsets, length, rounded(scratch)
    )  # fmt: skip


def runs_alone(elements: int, window: Window, channels: int) -> bool:
    """Whether a convolution into so many elements is too short to be shared."""
    return elements * window.taps * channels // window.groups <= FEW_PRODUCTS


def as_one_line(window: Window, size: Triple, places: Triple) -> bool:
    """Whether each pixel of the output is made of the same pixel of the input."""
    return window.taps == 1 and window.stride == (1, 1, 1) and not any(window.padding) and size == places


def _longest_line(channels: int) -> int:
    """Pixels of a task, at most, where all are one line."""
    return min(TASK_PIXELS, max(LEAST_PIXELS, PATCH_ELEMENTS // channels))


def _line_block(channels: int, pixels: int, panels: int, threads: int, piece: int) -> int:
    """Pixels of a task, in whole pieces, where all are one line, and meet so many ``panels``."""
    most = _longest_line(channels) // piece
    if pixels <= threads * LEAST_PIXELS and piece > 1:
        return min(pixels, most * piece)
    if pixels <= threads * LEAST_PIXELS:  # threads share the panels, and pixels as well where that leaves fewer of them without work
        fewest = -(-pixels // most)
        blocks = [-(-pixels // parts) for parts in range(fewest, max(fewest, threads) + 1)]
        return min(blocks, key=lambda block: -(-(-(-pixels // block) * panels) // threads) * (block + WEIGHT_PIXELS))
    return piece * _fair(-(-pixels // piece), most, 1, threads)


def _fair_panels(panels: int, most: int, together: int, pixel_tasks: int, threads: int, by_places: bool) -> int:
    """Panels of a task, at most so many, ``together`` of which read their inputs once, so that the thread with most to do has least.
    Threads share the places, if it goes ``by_places``, or else the panels, and the last task may have fewer; who is through helps others,
    so nobody waits for longer than for one task."""

    def cost(each: int) -> float:
        ways = -(-panels // each)
        tasks, smaller = ways * pixel_tasks, ways * each - panels  # and by how much they are
        shares = [(share * tasks // threads, (share + 1) * tasks // threads) for share in range(threads)]
        if by_places:
            longest = -(-pixel_tasks // threads) * panels
        else:
            longest = max((b - a) * each - max(0, b - max(a, tasks - pixel_tasks)) * smaller for a, b in shares)
        helped = panels * pixel_tasks / threads + each * (threads - 1) / threads
        return min(longest, helped) * (1 + READING_COST / min(each, together))

    return min(range(most, 0, -1), key=cost)


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


def patch_of(window: Window, rows: int, columns: int, channels: int) -> tuple[int, int]:
    """Lines of a patch plane, and elements of a line."""
    lines = (rows - 1) * window.stride[1] + (window.extent[1] - 1) * window.dilation[1] + 1
    line = (columns - 1) * window.stride[2] + (window.extent[2] - 1) * window.dilation[2] + 1
    return lines, line * channels


def _largest_patch(window: Window, channels: int, places: Triple) -> tuple[int, int]:
    """Columns and, at most, rows of output whose patch is about :data:`PATCH_ELEMENTS`, at most :data:`TASK_PIXELS` in all."""
    _, height, width = places
    columns = evened(width, TASK_PIXELS)
    while columns > 4 * MAX_ROWS and window.extent[0] * math.prod(patch_of(window, 1, columns, channels)) > PATCH_ELEMENTS:
        columns = -(-columns // 2)
    rows, most = 1, min(height, TASK_PIXELS // columns)
    while rows < most and window.extent[0] * math.prod(patch_of(window, rows + 1, columns, channels)) <= PATCH_ELEMENTS:
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
    length = _run_length(window, channels)
    if dw == 1:
        return tuple(per_line), length
    return tuple(start + i * dw * channels for start in per_line for i in range(kw)), length


def _run_length(window: Window, channels: int) -> int:
    """Products that follow each other: of a kernel line, if it has no dilation."""
    return window.extent[2] * channels if window.dilation[2] == 1 else channels


def rounded(elements: int) -> int:
    return -(-elements // ROUND) * ROUND


def int_array(values: Sequence[int]) -> np.ndarray:
    """Numbers for a kernel, also where there are none."""
    return np.array(values, np.int64)


def geometry_of(window: Window) -> np.ndarray:
    """What kernels take of a window."""
    return np.array([window.stride, window.padding, window.dilation, window.extent], np.int64)


def forward_elements(
    window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int, threads: int, gathers: bool = False,
    folds: bool = True,
) -> int:  # fmt: skip
    """Scratch elements per thread that :func:`convolve` needs; ``gathers``: also where it gathers statistics."""
    cuts = list(itertools.product((False, True), (False, True) if gathers else (False,)))
    found = folding(window, places, outputs, folds)
    ways = {(found.window, found.places, found.outputs), (found.apart, places, outputs)}
    needed = (blocks(seen, size, channels, to, many, batch, threads, *cut).scratch for seen, to, many in ways for cut in cuts)
    return max(needed) + (ROUND if found.pixels > 1 else 0)


def gathered_shape(window: Window, size: Triple, channels: int, places: Triple, outputs: int, batch: int) -> Triple:
    """The parts of the statistics that :func:`convolve` gathers of dense arrays: images, planes, and parts of each."""
    found, in_place = folding(window, places, outputs), as_one_line(window, size, places)
    plan = blocks(found.window, size, channels, found.places, found.outputs, batch, 1, in_place, gathers=True)
    if plan.flat:
        return 1, 1, -(-batch * math.prod(places) // plan.piece_columns)
    pieces = -(-found.places[1] // plan.piece_rows) * -(-found.places[2] // plan.piece_columns)
    return batch, places[0], pieces * found.pixels


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
    return window.groups == 1 and leaves_out(window, size, places)


def convolve(
    x: np.ndarray, packed: np.ndarray, bias: np.ndarray, y: np.ndarray, window: Window, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None, prologue: Prologue | None = None,
    gathered: np.ndarray | None = None, folds: bool = True,
) -> None:  # fmt: skip
    """``y = activation(conv(x) + bias + addend)``; arrays ``(N, D, H, W, C)``, weights from :func:`pack` (none: the sum is zero). What is
    ``gathered (STATISTICS, *gathered_shape, CO)`` are the statistics of ``y``. ``folds``: see :func:`.folding.folding`."""
    more = y if addend is None else addend
    gathers, in_place = gathered is not None, as_one_line(window, x.shape[1:4], y.shape[1:4])
    x, window = without_gaps(x, y.shape[1:4], window)
    found = folding(window, y.shape[1:4], y.shape[4], folds)
    if found.pixels > 1:
        folded_y, folded_more = found.of(y), found.of(more)
        if folded_y is None or folded_more is None:
            assert not gathers, "statistics are gathered of dense arrays"
            window = found.apart
        else:
            repeated = scratch[0, -ROUND:][: found.outputs]
            repeat(bias, repeated)
            y, more, bias, window = folded_y, folded_more, repeated, found.window
            gathered = None if gathered is None else gathered.reshape(*gathered.shape[:3], -1, found.outputs)
    even = prologue is None and None not in (pixel_step(x), pixel_step(y), pixel_step(more)) and (in_place or not gathers)
    plan = blocks(window, x.shape[1:4], x.shape[4], y.shape[1:4], y.shape[4], x.shape[0], scratch.shape[0], even, gathers)
    assert plan.scratch <= scratch.shape[1], "a patch must fit the scratch of its thread"
    assert not gathers or plan.flat == in_place, "statistics are gathered of dense arrays"
    if plan.flat:
        x, y, more = (as_line(array) for array in (x, y, more))
    kind = panels_of(window, x.shape[4] // window.groups, y.shape[4], y.dtype)
    narrow = kind is Panels.NARROW
    adjacent = narrow and not plan.flat and window.stride[2] == 1 and x.shape[4] == window.groups
    one_line = plan.whole_lines and all(pixel_step(array) == array.strides[3] for array in (y, more))
    heights = tile_heights(plan.rows * plan.columns if one_line else plan.columns, ladder_of(narrow, adjacent))
    function, low, high = resolved(activation)
    convolution(kind, adjacent, function, is_long(activation))(
        x, not plan.flat, *_before(prologue, bias), packed, bias, addend is not None, more, low, high, y,
        int_array(plan.offsets), plan.length, heights, window.groups,
        geometry_of(window), plan.rows, plan.columns, one_line, plan.task_panels, plan.pass_panels,
        nothing_gathered(y) if gathered is None else gathered, plan.piece_rows, plan.piece_columns, scratch,
        alone=runs_alone(y.size, window, x.shape[4]),
    )  # fmt: skip


def _before(prologue: Prologue | None, bias: np.ndarray) -> tuple:
    """What the kernel takes of a prologue."""
    if prologue is None:
        return (False, bias[None], bias, *EVERYTHING)
    function, floor, ceiling = resolved(prologue.scalar)
    assert function is None, "a prologue ends with a clamp"
    return True, prologue.gain, prologue.offset, floor, ceiling


def leaves_out(window: Window, size: Triple, places: Triple) -> bool:
    """Whether each place of the output is made of one place of the input, and none of padding."""
    return window.taps == 1 and not any(window.padding) and all((n - 1) * s < m for n, s, m in zip(places, window.stride, size))


def without_gaps(x: np.ndarray, places: Triple, window: Window) -> tuple[np.ndarray, Window]:
    """The same convolution without the inputs that a pointwise one with a stride leaves out."""
    if not leaves_out(window, x.shape[1:4], places):
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


def pack(
    weight: np.ndarray, taps: Sequence[int], window: Window, places: Triple, scale: np.ndarray, packed: np.ndarray,
    transposed: bool = False, folds: bool = True,
) -> None:  # fmt: skip
    """Pack these taps of ``weight (kernel..., C / groups, CO)``, those of ``window``, output channels multiplied by ``scale``, for
    :func:`convolve` into ``places``; ``transposed``: for a convolution the other way."""
    if not taps:
        return
    flat = weight.reshape(-1, *weight.shape[-2:])
    found = folding(window, places, flat.shape[1] * window.groups if transposed else flat.shape[2], folds)
    if found.pixels > 1:
        pack_folded(flat, int_array(taps), window.extent[2], found.pixels, window.stride[2], transposed, scale, packed)
    else:
        inputs, outputs = (flat.shape[2] // window.groups, flat.shape[1] * window.groups) if transposed else flat.shape[1:]
        paired = panels_of(window, inputs, outputs, packed.dtype) is Panels.PAIRED
        pack_weights(flat, int_array(taps), window.groups, transposed, paired, scale, packed)


def vectors_of(window: Window, outputs: int) -> int:
    """Vectors that the output channels of a group fill."""
    return -(-outputs // window.groups // LANES)


def panels_of(window: Window, inputs: int, outputs: int, dtype: np.typing.DTypeLike) -> Panels:
    """How to compute the groups of a convolution with so many ``inputs`` each and ``outputs`` in all."""
    if vectors_of(window, outputs) == 1:
        return Panels.NARROW
    paired = dtype in PAIRED_DTYPES and outputs // window.groups <= CHANNELS and _run_length(window, inputs) % 2 == 0
    return Panels.PAIRED if paired else Panels.WIDE


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
    packed, scratch, folds = 0, 0, window.stride[2] == 1
    for part in _parts(window, size, places):
        if part.taps:
            packed += packed_elements(part.window, outputs, part.places, channels, folds)
        needed = forward_elements(part.window, places, outputs, part.places, channels, batch, threads, folds=folds)
        scratch = max(scratch, needed)
    return packed, scratch


def pack_transposed(weight: np.ndarray, scale: np.ndarray, packed: np.ndarray, window: Window, size: Triple, places: Triple) -> None:
    """Pack ``weight (kernel..., C / groups, CO)``, channels of C multiplied by ``scale``, for :func:`data_gradient` from ``places`` to
    ``size``."""
    at, folds = 0, window.stride[2] == 1
    for part in _parts(window, size, places):
        if part.taps:
            elements = packed_elements(part.window, weight.shape[-1], part.places, weight.shape[-2] * window.groups, folds)
            pack(weight, part.taps, part.window, part.places, scale, packed[at : at + elements], True, folds)
            at += elements


def data_gradient(
    dy: np.ndarray, packed: np.ndarray, bias: np.ndarray, dx: np.ndarray, window: Window, scratch: np.ndarray,
    addend: np.ndarray | None = None, activation: Callable | None = None,
) -> None:  # fmt: skip
    """``dx`` from ``dy`` of a convolution with ``window`` (plus ``bias``, ``addend`` and ``activation``, which make it a transposed
    convolution); weights from :func:`pack_transposed`."""
    at, folds = 0, window.stride[2] == 1
    for part in _parts(window, dx.shape[1:4], dy.shape[1:4]):
        places = (slice(None), *(slice(start, None, s) for start, s in zip(part.start, window.stride)))
        target = dx[places]
        more = None if addend is None else addend[places]
        if part.taps:
            elements = packed_elements(part.window, dy.shape[4], part.places, dx.shape[4], folds)
            convolve(dy, packed[at : at + elements], bias, target, part.window, scratch, more, activation, folds=folds)
            at += elements
        else:
            convolve(dy, packed[:0], bias, target, part.window, scratch, more, activation)
