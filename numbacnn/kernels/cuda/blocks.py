"""How arrays ``(samples, pixels, channels)`` are cut into blocks: some channels by a chunk of the pixels of one sample.

The threads of a block are rows of lanes. Lanes have consecutive channels, so that a warp reads neighbours; rows have pixels in turn. All
follows from the shapes alone, and with it the order of sums.
"""

from __future__ import annotations

import dataclasses
import functools

from .driver import cuda, device_function, int32
from .indexing import quotient
from .launch import THREADS

LANES = 64  # most channels of a block
BLOCKS = 528  # that passes with sums are cut into, if there is enough to do: four for each multiprocessor of an H100
UNROLL = 4  # elements that a thread reads before it goes on: enough bytes on their way at a time
SECTOR = 8  # elements that memory hands out together
SUMMED = 16  # pixels that a thread of a sum has at least, where there are as many


def lanes_for(length: int, most: int) -> int:
    """How many of ``length`` neighbours, at most ``most``, blocks take side by side so that few threads are idle."""
    if length <= most:
        return length
    slices = -(-length // most)
    return -(-length // (slices * SECTOR)) * SECTOR


@dataclasses.dataclass(frozen=True)
class Cut:
    """``chunk`` is how many pixels a block has."""

    samples: int
    pixels: int
    channels: int
    chunk: int

    @functools.cached_property
    def lanes(self) -> int:
        """Channels of a block."""
        return lanes_for(self.channels, LANES)

    @functools.cached_property
    def slices(self) -> int:
        """Parts that the channels fall into."""
        return -(-self.channels // self.lanes)

    @functools.cached_property
    def chunks(self) -> int:
        """Parts that the pixels of a sample fall into."""
        return -(-self.pixels // self.chunk)

    @property
    def blocks(self) -> int:
        """How many there are in all."""
        return self.samples * self.chunks * self.slices

    @property
    def sizes(self) -> tuple[int, ...]:
        """What kernels take after their arrays: ``(pixels, channels, lanes, rows, slices, chunk, chunks)``."""
        return self.pixels, self.channels, self.lanes, THREADS // self.lanes, self.slices, self.chunk, self.chunks


@functools.cache
def cut_for_sums(samples: int, pixels: int, channels: int) -> Cut:
    """A cut for sums over the pixels."""
    whole = Cut(samples, pixels, channels, pixels)
    rows = THREADS // whole.lanes
    chunks = max(1, BLOCKS // whole.blocks)
    chunk = max(-(-pixels // chunks), rows * SUMMED)
    return dataclasses.replace(whole, chunk=-(-chunk // (rows * UNROLL)) * rows * UNROLL)


@functools.cache
def cut_for_elements(samples: int, pixels: int, channels: int) -> Cut:
    """A cut for elementwise work: a thread has some pixels, so that what it needs of its channel is read once for them."""
    rows = THREADS // lanes_for(channels, LANES)
    least = Cut(samples, pixels, channels, rows * UNROLL)
    return dataclasses.replace(least, chunk=least.chunk * min(max(least.blocks // (4 * BLOCKS), 1), 4))


@device_function
def place(channels, lanes, slices, chunks):
    """``(sample, chunk, row, channel)`` of this thread; one that has nothing to do has a row or a channel beyond the last."""
    block, thread = int32(cuda.blockIdx.x), int32(cuda.threadIdx.x)
    piece = quotient(block, slices)
    sample, row = quotient(piece, chunks), quotient(thread, lanes)
    channel = int32((block - piece * slices) * lanes + thread - row * lanes)
    return sample, int32(piece - sample * chunks), row, channel
