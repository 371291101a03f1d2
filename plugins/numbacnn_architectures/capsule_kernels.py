"""Loops of capsules: squashing, lengths, and dynamic routing, forward and backward.

A sample is the task of one thread, and so is a capsule where the gradient of the weights is summed up over samples: the bits do not depend
on the number of threads.
"""

from __future__ import annotations

from math import exp, sqrt

import numbacnn as nc
from numbacnn.kernels.tasks import next_task

# Squash: v = s * n / (1 + n^2) with n = |s| ----------------------------------------------------------------------------


@nc.inline
def squash_factor(square):
    """``v / s`` of a vector whose squared length is given."""
    return sqrt(square) / (1.0 + square)


@nc.inline
def squash_slope(square):
    """The derivative of :func:`squash_factor` by the length, divided by the length; 0 for a vector of length 0."""
    if square == 0.0:
        return 0.0
    return (1.0 - square) / ((1.0 + square) * (1.0 + square) * sqrt(square))


@nc.kernel(parallel=True)
def squash(x, y, queue, thread):
    """Squashed rows of ``x (P, D)``."""
    while True:
        first = next_task(queue, thread, -(-x.shape[0] // 64)) * 64
        if first >= x.shape[0]:
            break
        for row in range(first, min(first + 64, x.shape[0])):
            square = 0.0
            for d in range(x.shape[1]):
                square += x[row, d] * x[row, d]
            factor = squash_factor(square)
            for d in range(x.shape[1]):
                y[row, d] = factor * x[row, d]


@nc.kernel(parallel=True)
def squash_backward(x, dy, dx, queue, thread):
    """``dx`` for the gradient ``dy`` of squashed rows."""
    while True:
        first = next_task(queue, thread, -(-x.shape[0] // 64)) * 64
        if first >= x.shape[0]:
            break
        for row in range(first, min(first + 64, x.shape[0])):
            square, along = 0.0, 0.0
            for d in range(x.shape[1]):
                square += x[row, d] * x[row, d]
                along += x[row, d] * dy[row, d]
            factor, slope = squash_factor(square), squash_slope(square) * along
            for d in range(x.shape[1]):
                dx[row, d] = factor * dy[row, d] + slope * x[row, d]


# Lengths -------------------------------------------------------------------------------------------------------------


@nc.kernel
def lengths(x, y):
    """Lengths ``y (P,)`` of the rows of ``x (P, D)``."""
    for row in range(x.shape[0]):
        square = 0.0
        for d in range(x.shape[1]):
            square += x[row, d] * x[row, d]
        y[row] = sqrt(square)


@nc.kernel
def lengths_backward(x, y, dy, dx):
    """``dx`` for the gradient ``dy`` of lengths ``y``; 0 for a row of length 0."""
    for row in range(x.shape[0]):
        factor = dy[row] / y[row] if y[row] > 0.0 else 0.0
        for d in range(x.shape[1]):
            dx[row, d] = factor * x[row, d]


# Routing -------------------------------------------------------------------------------------------------------------
#
# Arrays, for N samples, I input capsules of length D, J output capsules of length O and R iterations:
#   x (N, I, D), weight (I, D, O, J), y (N, J, O), votes (N, I, O, J), couplings (N, R, I, J), sums (N, R, O, J), logits (N, I, J).
# With the output capsules last, the inner loops run over neighbours and end in no sum.


@nc.kernel(parallel=True)
def route(x, weight, y, votes, couplings, sums, logits, squashed, queue, thread):
    """Dynamic routing: fills ``y``, and ``votes``, ``couplings`` and ``sums`` for the way back; ``logits`` and ``squashed (N, O, J)`` are
    scratch."""
    samples, iterations = couplings.shape[:2]
    while True:
        n = next_task(queue, thread, samples)
        if n >= samples:
            break
        vote(x[n], weight, votes[n])
        logits[n] = 0
        for r in range(iterations):
            couple(logits[n], couplings[n, r])
            add_up(couplings[n, r], votes[n], sums[n, r])
            squash_columns(sums[n, r], squashed[n])
            if r < iterations - 1:
                agree(votes[n], squashed[n], logits[n])
        for o in range(y.shape[2]):
            for j in range(y.shape[1]):
                y[n, j, o] = squashed[n, o, j]


@nc.inline
def vote(x, weight, votes):
    """What each input capsule predicts for each output capsule: ``votes[i] = x[i] @ weight[i]``."""
    count, length, outputs, capsules = weight.shape
    votes[:] = 0
    for i in range(count):
        for d in range(length):
            factor = x[i, d]
            for o in range(outputs):
                for j in range(capsules):
                    votes[i, o, j] += factor * weight[i, d, o, j]


@nc.inline
def couple(logits, couplings):
    """The softmax of ``logits`` over the output capsules."""
    count, capsules = logits.shape
    for i in range(count):
        largest = logits[i, 0]
        for j in range(1, capsules):
            largest = max(largest, logits[i, j])
        total = 0.0
        for j in range(capsules):
            couplings[i, j] = exp(logits[i, j] - largest)
            total += couplings[i, j]
        for j in range(capsules):
            couplings[i, j] /= total


@nc.inline
def add_up(factors, votes, sums):
    """``sums[o, j] = sum over i of factors[i, j] * votes[i, o, j]``."""
    count, outputs, capsules = votes.shape
    sums[:] = 0
    for i in range(count):
        for o in range(outputs):
            for j in range(capsules):
                sums[o, j] += factors[i, j] * votes[i, o, j]


@nc.inline
def agree(votes, vectors, agreements):
    """``agreements[i, j] += sum over o of votes[i, o, j] * vectors[o, j]``."""
    count, outputs, capsules = votes.shape
    for i in range(count):
        for o in range(outputs):
            for j in range(capsules):
                agreements[i, j] += votes[i, o, j] * vectors[o, j]


@nc.inline
def squash_columns(sums, squashed):
    for j in range(sums.shape[1]):
        square = 0.0
        for o in range(sums.shape[0]):
            square += sums[o, j] * sums[o, j]
        factor = squash_factor(square)
        for o in range(sums.shape[0]):
            squashed[o, j] = factor * sums[o, j]


@nc.inline
def squash_columns_backward(sums, gradient):
    """The gradient of ``sums`` in place of that of what they were squashed to."""
    for j in range(sums.shape[1]):
        square, along = 0.0, 0.0
        for o in range(sums.shape[0]):
            square += sums[o, j] * sums[o, j]
            along += sums[o, j] * gradient[o, j]
        factor, slope = squash_factor(square), squash_slope(square) * along
        for o in range(sums.shape[0]):
            gradient[o, j] = factor * gradient[o, j] + slope * sums[o, j]


@nc.kernel(parallel=True)
def route_backward(dy, votes, couplings, sums, dvotes, dlogits, dcouplings, squashed, gradient, queue, thread):
    """Gradients ``dvotes`` for those of the output, ``dy (N, J, O)``. The other arrays behind ``sums`` are scratch: ``dlogits`` and
    ``dcouplings (N, I, J)``, ``squashed`` and ``gradient (N, O, J)``."""
    samples, iterations = couplings.shape[:2]
    while True:
        n = next_task(queue, thread, samples)
        if n >= samples:
            break
        dvotes[n] = 0
        dlogits[n] = 0
        for o in range(dy.shape[2]):
            for j in range(dy.shape[1]):
                gradient[n, o, j] = dy[n, j, o]
        for r in range(iterations - 1, -1, -1):
            squash_columns_backward(sums[n, r], gradient[n])
            spread(couplings[n, r], gradient[n], dvotes[n])
            if r > 0:  # the logits of iteration r are sums of the agreements of those before
                dcouplings[n] = 0
                agree(votes[n], gradient[n], dcouplings[n])
                couple_backward(couplings[n, r], dcouplings[n], dlogits[n])
                squash_columns(sums[n, r - 1], squashed[n])
                spread(dlogits[n], squashed[n], dvotes[n])
                add_up(dlogits[n], votes[n], gradient[n])


@nc.inline
def spread(factors, vectors, dvotes):
    """``dvotes[i, o, j] += factors[i, j] * vectors[o, j]``."""
    count, outputs, capsules = dvotes.shape
    for i in range(count):
        for o in range(outputs):
            for j in range(capsules):
                dvotes[i, o, j] += factors[i, j] * vectors[o, j]


@nc.inline
def couple_backward(couplings, dcouplings, dlogits):
    """Adds to ``dlogits`` what comes through the softmax."""
    count, capsules = couplings.shape
    for i in range(count):
        mean = 0.0
        for j in range(capsules):
            mean += couplings[i, j] * dcouplings[i, j]
        for j in range(capsules):
            dlogits[i, j] += couplings[i, j] * (dcouplings[i, j] - mean)


@nc.kernel(parallel=True)
def vote_backward(weight, dvotes, dx, queue, thread):
    """``dx[n, i, d] = sum over o and j of dvotes[n, i, o, j] * weight[i, d, o, j]``, of ``weight (I, D, K)``, ``dvotes (N, I, K)``."""
    samples, count, length = dx.shape
    while True:
        n = next_task(queue, thread, samples)
        if n >= samples:
            break
        for i in range(count):
            for d in range(length):
                total = 0.0
                for k in range(weight.shape[2]):
                    total += dvotes[n, i, k] * weight[i, d, k]
                dx[n, i, d] = total


@nc.kernel(parallel=True)
def weight_gradient(x, dvotes, gradient, queue, thread):
    """``gradient[i, d, k] = sum over n of x[n, i, d] * dvotes[n, i, k]``."""
    samples, count, length = x.shape
    while True:
        i = next_task(queue, thread, count)
        if i >= count:
            break
        gradient[i] = 0
        for n in range(samples):
            for d in range(length):
                factor = x[n, i, d]
                for k in range(dvotes.shape[2]):
                    gradient[i, d, k] += factor * dvotes[n, i, k]
