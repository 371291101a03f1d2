"""Rows of a table by their numbers, and the way back: for each row of the table the sum of the gradients of the places that read it.

Backward sorts the places by the row that they read (:func:`sort`), so that each row of the gradient is summed up by one task, in the order
of the places: without atomic additions, and with the same bits whatever the number of threads.
"""

from __future__ import annotations

from ..simd import zeros
from .channels import VECTORS, WIDTH, read, write
from .jit import kernel
from .tasks import next_task

TASK_ELEMENTS = 8192  # of a task, as far as rows and columns allow
PANEL = 8 * WIDTH  # columns of a task: a row that many places read is work for several


@kernel(parallel=True)
def rows(table, ids, y, queue, thread):
    """``y[p] = table[ids[p]]``, of dense ``table (V, W)``, ``ids (P,)`` int64 from 0 to V - 1, and ``y (P, W)``."""
    places, width = y.shape
    grain = max(1, TASK_ELEMENTS // width)
    while True:
        first = next_task(queue, thread, -(-places // grain)) * grain
        if first >= places:
            break
        for place in range(first, min(first + grain, places)):
            for c in range(0, width, WIDTH):
                write(read(table, ids[place] * width + c, width - c), y, place * width + c, width - c)


@kernel
def sort(ids, starts, order):
    """Sort the places of ``ids (P,)`` by their ids: those with id v, in ascending order, are ``order[starts[v]:starts[v + 1]]``.

    ``starts`` has two elements more than there are ids."""
    starts[:] = 0
    for place in range(ids.size):
        starts[ids[place] + 2] += 1
    for v in range(2, starts.size):
        starts[v] += starts[v - 1]
    for place in range(ids.size):
        at = ids[place] + 1  # goes from the start of its id's places to their end, which is the start of the next
        order[starts[at]] = place
        starts[at] += 1


@kernel(parallel=True)
def row_sums(dy, starts, order, skipped, gradient, queue, thread):
    """``gradient[v]`` is the sum of ``dy[p]`` over the places of id v, from :func:`sort`; zeros for ``v == skipped``."""
    count, width = gradient.shape
    panels = -(-width // PANEL)
    grain = max(1, TASK_ELEMENTS // min(width, PANEL))
    while True:
        task = next_task(queue, thread, -(-count // grain) * panels)
        first = task // panels * grain
        if first >= count:
            break
        start = task % panels * PANEL
        for v in range(first, min(first + grain, count)):
            stop = starts[v] if v == skipped else starts[v + 1]
            for c in range(start, min(start + PANEL, width), WIDTH):
                sums = zeros(gradient, 1, VECTORS)
                for k in range(starts[v], stop):
                    sums = sums + read(dy, order[k] * width + c, width - c)
                write(sums, gradient, v * width + c, width - c)
