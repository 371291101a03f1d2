"""Kernels of capsules for GPUs: squashing, lengths, the longest, dynamic routing, and the margin loss (compare ``capsule_kernels.py``).

Sums over input capsules are cut into chunks, and sums over samples run in order: the bits follow from the shapes alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numbacnn.kernels.cuda.driver import cuda, device_function, float32, int32
from numbacnn.kernels.cuda.launch import THREADS, blocks_for, kernel
from numbacnn.kernels.cuda.loss import blocks_of_sums, constant, factor_of, finish
from numbacnn.kernels.cuda.memory import DeviceArray, empty
from numbacnn.kernels.cuda.reduce import block_sum

CHUNK = 32  # input capsules that one block adds up
DEPTH = 8  # elements of an input capsule for which a thread keeps sums at once
TURNS = 16  # samples that are voted for at once


@device_function
def _thread_of_grid():
    return int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x)


# Squash and lengths --------------------------------------------------------------------------------------------------


@device_function
def _squash_factor(square):
    """``v / s`` of a vector whose squared length is given."""
    return math.sqrt(square) / (float32(1) + square)


@device_function
def _squash_slope(square):
    """The derivative of that by the length, divided by the length; 0 for a vector of length 0."""
    one = float32(1)
    if square == float32(0):
        return float32(0)
    return (one - square) / ((one + square) * (one + square) * math.sqrt(square))


@device_function
def _square(vectors, first, stride, length):
    found = float32(0)
    for d in range(length):
        found += vectors[first + d * stride] * vectors[first + d * stride]
    return found


@kernel
def _squash(x, y, rows, length):
    row = _thread_of_grid()
    if row < rows:
        first = row * length
        factor = _squash_factor(_square(x, first, int32(1), length))
        for d in range(length):
            y[first + d] = factor * x[first + d]


def squash(x: DeviceArray, y: DeviceArray) -> None:
    """Squashed vectors along the last axis."""
    rows = x.size // x.shape[-1]
    _squash(blocks_for(rows), x, y, rows, x.shape[-1])


@kernel
def _squash_backward(x, dy, dx, rows, length):
    row = _thread_of_grid()
    if row < rows:
        first, along = row * length, float32(0)
        square = _square(x, first, int32(1), length)
        for d in range(length):
            along += x[first + d] * dy[first + d]
        factor, slope = _squash_factor(square), _squash_slope(square) * along
        for d in range(length):
            dx[first + d] = factor * dy[first + d] + slope * x[first + d]


def squash_backward(x: DeviceArray, dy: DeviceArray, dx: DeviceArray) -> None:
    """``dx`` for the gradient ``dy`` of squashed vectors."""
    rows = x.size // x.shape[-1]
    _squash_backward(blocks_for(rows), x, dy, dx, rows, x.shape[-1])


@kernel
def _lengths(x, y, rows, length):
    row = _thread_of_grid()
    if row < rows:
        y[row] = math.sqrt(_square(x, row * length, int32(1), length))


def lengths(x: DeviceArray, y: DeviceArray) -> None:
    """Lengths of the vectors along the last axis."""
    _lengths(blocks_for(y.size), x, y, y.size, x.shape[-1])


@kernel
def _lengths_backward(x, y, dy, dx, rows, length):
    row = _thread_of_grid()
    if row < rows:
        first, factor = row * length, float32(0)
        if y[row] > float32(0):
            factor = dy[row] / y[row]
        for d in range(length):
            dx[first + d] = factor * x[first + d]


def lengths_backward(x: DeviceArray, y: DeviceArray, dy: DeviceArray, dx: DeviceArray) -> None:
    """``dx`` for the gradient ``dy`` of lengths ``y``; 0 for a vector of length 0."""
    _lengths_backward(blocks_for(y.size), x, y, dy, dx, y.size, x.shape[-1])


@kernel
def _keep_longest(x, source, target, capsules, length):
    """A block for each sample. Of equally long capsules the first one is kept."""
    largest, places = cuda.shared.array(THREADS, float32), cuda.shared.array(THREADS, int32)
    thread, sample = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x) * capsules * length
    best, place = float32(-1), capsules
    for j in range(thread, capsules, int32(THREADS)):
        square = _square(x, sample + j * length, int32(1), length)
        if square > best:
            best, place = square, j
    largest[thread], places[thread] = best, place
    cuda.syncthreads()
    width = int32(THREADS // 2)
    while width > 0:
        if thread < width:
            other = thread + width
            if largest[other] > largest[thread] or (largest[other] == largest[thread] and places[other] < places[thread]):
                largest[thread], places[thread] = largest[other], places[other]
        cuda.syncthreads()
        width //= int32(2)
    first = places[0] * length
    for at in range(thread, capsules * length, int32(THREADS)):
        target[sample + at] = source[sample + at] if at >= first and at < first + length else float32(0)


def keep_longest(x: DeviceArray, source: DeviceArray, target: DeviceArray) -> None:
    """``target``: of each sample of ``source (N, J, O)`` the capsule that is the longest of ``x``, and zeros for the others."""
    samples, capsules, length = x.shape
    _keep_longest(samples, x, source, target, capsules, length)


# Routing: the parts ---------------------------------------------------------------------------------------------------
#
# K = O * J elements are a vote, of all output capsules. What belongs to an iteration r lies ``offset`` elements into an array, and samples
# are ``stride`` elements apart there.


@kernel
def _vote(x, weight, votes, samples, count, length, elements):
    """``votes[n, i, k]``: a thread for i and k, and some samples, which find the weights in the cache."""
    place = _thread_of_grid()
    if place < count * elements:
        i = place // elements
        k = place - i * elements
        for n in range(int32(cuda.blockIdx.y), samples, int32(cuda.gridDim.y)):
            row, found = n * count + i, float32(0)
            for d in range(length):
                found += x[row * length + d] * weight[(i * length + d) * elements + k]
            votes[row * elements + k] = found


@kernel
def _couple(logits, couplings, offset, stride, rows, count, capsules):
    """``couplings``: the softmax of each row of ``logits (N, I, J)``."""
    row = _thread_of_grid()
    if row < rows:
        n = row // count
        first, own = row * capsules, offset + n * stride + (row - n * count) * capsules
        largest, total = logits[first], float32(0)
        for j in range(1, capsules):
            largest = max(largest, logits[first + j])
        for j in range(capsules):
            total += math.exp(logits[first + j] - largest)
        for j in range(capsules):
            couplings[own + j] = math.exp(logits[first + j] - largest) / total


@kernel
def _add_up_chunks(factors, offset, stride, votes, partials, chunks, count, capsules, elements, size):
    """``partials[n, c, k]``: the sum over the input capsules of chunk c of ``factors[n, i, j] * votes[n, i, k]``."""
    place = _thread_of_grid()
    if place < size:
        part = place // elements
        k, n = place - part * elements, part // chunks
        first = (part - n * chunks) * int32(CHUNK)
        factor, found = offset + n * stride + k % capsules, float32(0)
        for i in range(first, min(first + int32(CHUNK), count)):
            found += factors[factor + i * capsules] * votes[(n * count + i) * elements + k]
        partials[place] = found


@kernel
def _add_up(partials, chunks, sums, offset, stride, elements, size):
    place = _thread_of_grid()
    if place < size:
        n = place // elements
        k, found = place - n * elements, float32(0)
        for chunk in range(chunks):
            found += partials[(n * chunks + chunk) * elements + k]
        sums[offset + n * stride + k] = found


@kernel
def _squash_columns(sums, squashed, offset, stride, outputs, capsules, vectors):
    """Squashed vectors along the first axis of ``(O, J)``."""
    vector = _thread_of_grid()
    if vector < vectors:
        n = vector // capsules
        first = offset + n * stride + vector - n * capsules
        factor = _squash_factor(_square(sums, first, capsules, outputs))
        for o in range(outputs):
            squashed[first + o * capsules] = factor * sums[first + o * capsules]


@kernel
def _squash_columns_backward(sums, gradient, offset, stride, outputs, capsules, vectors):
    """The gradient of ``sums`` in place of that of what they were squashed to."""
    vector = _thread_of_grid()
    if vector < vectors:
        n = vector // capsules
        first, along = offset + n * stride + vector - n * capsules, float32(0)
        square = _square(sums, first, capsules, outputs)
        for o in range(outputs):
            along += sums[first + o * capsules] * gradient[first + o * capsules]
        factor, slope = _squash_factor(square), _squash_slope(square) * along
        for o in range(outputs):
            at = first + o * capsules
            gradient[at] = factor * gradient[at] + slope * sums[at]


@kernel
def _agree(votes, vectors, offset, stride, agreements, adds, count, capsules, outputs, size):
    """``agreements[n, i, j]``: the sum over o of ``votes[n, i, o, j] * vectors[n, o, j]``; with ``adds`` it is added to what is there."""
    at = _thread_of_grid()
    if at < size:
        row = at // capsules
        j = at - row * capsules
        vector, found = offset + row // count * stride + j, float32(0)
        for o in range(outputs):
            found += votes[(row * outputs + o) * capsules + j] * vectors[vector + o * capsules]
        agreements[at] = agreements[at] + found if adds != 0 else found


@kernel
def _couple_backward(couplings, dcouplings, dlogits, later, offset, stride, rows, count, capsules):
    """``dlogits`` of an iteration: what comes through its softmax, and, unless ``later`` is 0, what the iteration after it got, so many
    elements on."""
    row = _thread_of_grid()
    if row < rows:
        n = row // count
        first, own = row * capsules, offset + n * stride + (row - n * count) * capsules
        mean = float32(0)
        for j in range(capsules):
            mean += couplings[own + j] * dcouplings[first + j]
        for j in range(capsules):
            found = couplings[own + j] * (dcouplings[first + j] - mean)
            dlogits[own + j] = found + dlogits[own + later + j] if later > 0 else found


@kernel
def _spread(couplings, gradient, dlogits, squashed, dvotes, iterations, count, capsules, elements, size):
    """``dvotes[n, i, k]``: what each iteration r gives, ``couplings[r] * gradient[r]`` and, but for the first,
    ``dlogits[r] * squashed[r - 1]``."""
    place = _thread_of_grid()
    if place < size:
        row = place // elements
        k, n = place - row * elements, row // count
        factor, vector = (n * iterations * count + row - n * count) * capsules + k % capsules, n * iterations * elements + k
        found = couplings[factor] * gradient[vector]
        for _ in range(1, iterations):
            factor += count * capsules
            found += dlogits[factor] * squashed[vector]
            vector += elements
            found += couplings[factor] * gradient[vector]
        dvotes[place] = found


@kernel
def _transpose(inside, offset, stride, outside, outputs, capsules, size, inverse):
    """``(O, J)`` of each sample as ``(J, O)`` of a dense array, or with ``inverse`` the other way round."""
    at = _thread_of_grid()
    if at < size:
        n = at // (outputs * capsules)
        k = at - n * outputs * capsules
        j = k // outputs
        place = offset + n * stride + (k - j * outputs) * capsules + j
        if inverse != 0:
            inside[place] = outside[at]
        else:
            outside[at] = inside[place]


@kernel
def _vote_backward(weight, dvotes, dx, samples, count, length, elements):
    """``dx[n, i, d]``: neighbouring threads belong to one i, and share its weights."""
    place = _thread_of_grid()
    if place < count * samples * length:
        i = place // (samples * length)
        at = place - i * samples * length
        n = at // length
        d, found = at - n * length, float32(0)
        vote, row = (n * count + i) * elements, (i * length + d) * elements
        for k in range(elements):
            found += dvotes[vote + k] * weight[row + k]
        dx[(n * count + i) * length + d] = found


@kernel
def _weight_gradient(x, dvotes, gradient, samples, count, length, elements):
    """``gradient[i, d, k]``: a thread for i and k, and ``DEPTH`` numbers d."""
    place, begin = _thread_of_grid(), int32(cuda.blockIdx.y) * int32(DEPTH)
    if place < count * elements:
        i = place // elements
        k = place - i * elements
        sums = cuda.local.array(DEPTH, float32)
        for d in range(DEPTH):
            sums[d] = float32(0)
        for n in range(samples):
            row = n * count + i
            dvote = dvotes[row * elements + k]
            for d in range(DEPTH):
                sums[d] += x[row * length + min(begin + d, length - 1)] * dvote
        for d in range(DEPTH):
            if begin + d < length:
                gradient[(i * length + begin + d) * elements + k] = sums[d]


# Routing: the whole ---------------------------------------------------------------------------------------------------


class Routing:
    """Dynamic routing of ``x (N, I, D)`` with ``weight (I, D, O, J)``: shapes, and the launches that follow from them.

    Arrays of all iterations are ``couplings`` and ``dlogits (N, R, I, J)``, ``sums``, ``squashed`` and ``gradient (N, R, O, J)``; beside
    them there are ``votes`` and ``dvotes (N, I, O, J)``, ``logits`` and ``dcouplings (N, I, J)``, and ``partials (N, chunks, O, J)``."""

    def __init__(self, samples: int, weight: DeviceArray, iterations: int):
        self.samples, self.iterations = samples, iterations
        self.count, self.length, self.outputs, self.capsules = weight.shape
        self.elements = self.outputs * self.capsules
        self.rows, self.vectors = samples * self.count, samples * self.capsules

    def forward(self, x: DeviceArray, weight: DeviceArray, y: DeviceArray, b: dict[str, DeviceArray]) -> None:
        """Fill ``y (N, J, O)``, and ``votes``, ``couplings``, ``sums`` and ``squashed`` for the way back."""
        grid = (blocks_for(self.count * self.elements), min(self.samples, TURNS))
        _vote(grid, x, weight, b["votes"], self.samples, self.count, self.length, self.elements)
        b["logits"].clear()
        for r in range(self.iterations):
            _couple(blocks_for(self.rows), b["logits"], b["couplings"], *self._factors(r), self.rows, self.count, self.capsules)
            self._add_up(b["couplings"], r, b, b["sums"], r)
            _squash_columns(
                blocks_for(self.vectors), b["sums"], b["squashed"], *self._vectors(r), self.outputs, self.capsules, self.vectors
            )  # fmt: skip
            if r < self.iterations - 1:
                self._agree(b["votes"], b["squashed"], r, b["logits"], adds=True)
        self._transpose(b["squashed"], y, inverse=False)

    def backward(self, dy: DeviceArray, b: dict[str, DeviceArray]) -> None:
        """Fill ``dvotes`` from the gradient ``dy`` of ``y``."""
        last = self.iterations - 1
        self._transpose(b["gradient"], dy, inverse=True)
        for r in range(last, -1, -1):
            _squash_columns_backward(
                blocks_for(self.vectors), b["sums"], b["gradient"], *self._vectors(r), self.outputs, self.capsules, self.vectors
            )  # fmt: skip
            if r > 0:  # the logits of iteration r are sums of the agreements of those before
                self._agree(b["votes"], b["gradient"], r, b["dcouplings"], adds=False)
                later = self.count * self.capsules if r < last else 0
                _couple_backward(
                    blocks_for(self.rows), b["couplings"], b["dcouplings"], b["dlogits"], later, *self._factors(r), self.rows, self.count,
                    self.capsules,
                )  # fmt: skip
                self._add_up(b["dlogits"], r, b, b["gradient"], r - 1)
        size = self.rows * self.elements
        _spread(
            blocks_for(size), b["couplings"], b["gradient"], b["dlogits"], b["squashed"], b["dvotes"], self.iterations, self.count,
            self.capsules, self.elements, size,
        )  # fmt: skip

    def input_gradient(self, weight: DeviceArray, dvotes: DeviceArray, dx: DeviceArray) -> None:
        """``dx[n, i, d]``: the sum over o and j of ``dvotes[n, i, o, j] * weight[i, d, o, j]``."""
        _vote_backward(blocks_for(dx.size), weight, dvotes, dx, self.samples, self.count, self.length, self.elements)

    def weight_gradient(self, x: DeviceArray, dvotes: DeviceArray, gradient: DeviceArray) -> None:
        """``gradient[i, d, o, j]``: the sum over n of ``x[n, i, d] * dvotes[n, i, o, j]``."""
        grid = (blocks_for(self.count * self.elements), blocks_for(self.length, DEPTH))
        _weight_gradient(grid, x, dvotes, gradient, self.samples, self.count, self.length, self.elements)

    def _factors(self, r: int) -> tuple[int, int]:
        """Offset and stride of iteration r in an array ``(N, R, I, J)``."""
        each = self.count * self.capsules
        return r * each, self.iterations * each

    def _vectors(self, r: int) -> tuple[int, int]:
        """Offset and stride of iteration r in an array ``(N, R, O, J)``."""
        return r * self.elements, self.iterations * self.elements

    def _add_up(self, factors: DeviceArray, r: int, b: dict[str, DeviceArray], sums: DeviceArray, into: int) -> None:
        """``sums`` of iteration ``into``: the votes, weighted by the factors of iteration r, added up over input capsules."""
        chunks, size = blocks_for(self.count, CHUNK), self.samples * self.elements
        _add_up_chunks(
            blocks_for(chunks * size), factors, *self._factors(r), b["votes"], b["partials"], chunks, self.count, self.capsules,
            self.elements, chunks * size,
        )  # fmt: skip
        _add_up(blocks_for(size), b["partials"], chunks, sums, *self._vectors(into), self.elements, size)

    def _agree(self, votes: DeviceArray, vectors: DeviceArray, r: int, agreements: DeviceArray, adds: bool) -> None:
        """The agreement of votes and the vectors of iteration r."""
        size = self.rows * self.capsules
        _agree(
            blocks_for(size), votes, vectors, *self._vectors(r), agreements, adds, self.count, self.capsules, self.outputs, size
        )  # fmt: skip

    def _transpose(self, inside: DeviceArray, outside: DeviceArray, inverse: bool) -> None:
        """Between the last iteration's ``(O, J)`` and the layer's ``(J, O)``."""
        size = self.samples * self.elements
        _transpose(
            blocks_for(size), inside, *self._vectors(self.iterations - 1), outside, self.outputs, self.capsules, size, inverse
        )  # fmt: skip


# Margin loss ---------------------------------------------------------------------------------------------------------


@device_function
def _excess(value):
    """``max(0, value)``, of which what is not a number stays so."""
    return float32(0) if value <= float32(0) else value


@kernel
def _margin(outputs, labels, classes, size, present, absent, absent_weight, divisor, scale, gradient, partials):
    sums = cuda.shared.array(THREADS, float32)
    thread, loss, twice = int32(cuda.threadIdx.x), float32(0), float32(2) * factor_of(scale, divisor)
    for at in range(_thread_of_grid(), size, int32(cuda.gridDim.x) * int32(THREADS)):
        row = at // classes
        if at - row * classes == labels[row]:
            missing = _excess(present - outputs[at])
            loss += missing * missing
            gradient[at] = -twice * missing
        else:
            too_much = _excess(outputs[at] - absent)
            loss += absent_weight * too_much * too_much
            gradient[at] = twice * absent_weight * too_much
    whole = block_sum(sums, thread, loss)
    if thread == 0:
        partials[int32(cuda.blockIdx.x)] = whole


def margin(loss: Any, outputs: DeviceArray, targets: DeviceArray, gradient: DeviceArray, total: DeviceArray, scale: float) -> None:
    """The margin loss; targets are int64 classes."""
    blocks, divisor = blocks_of_sums(outputs.size), constant(targets.size)
    partials = empty((blocks,), np.float32)
    _margin(
        blocks, outputs, targets, outputs.shape[-1], outputs.size, float(loss.present), float(loss.absent), float(loss.absent_weight),
        divisor, float(scale), gradient, partials,
    )  # fmt: skip
    finish(partials, divisor, scale, total)
