"""How the threads of a launch divide its tasks.

Each thread has a share of successive tasks, and helps others when it is through with its own. Tasks that follow each other work on places
that follow each other, so in layer after layer a thread finds most of its inputs in its own core's cache, where it has left them.
"""

from __future__ import annotations

from ..simd import take
from .jit import QUEUE_STEP, inline


@inline
def shares_of(queue):
    """How many threads tasks are divided among."""
    return queue.size // QUEUE_STEP


@inline
def next_task(queue, thread, tasks):
    """The next of so many tasks for a thread, ``tasks`` where none is left."""
    threads = shares_of(queue)
    for k in range(threads):
        owner = thread + k
        if owner >= threads:
            owner -= threads
        first, last = owner * tasks // threads, (owner + 1) * tasks // threads
        place = owner * QUEUE_STEP
        if first + queue[place] < last:
            task = first + take(queue[place:], 1)
            if task < last:
                return task
    return tasks


@inline
def in_shares(task, shares, places, ways):
    """Of ``places * ways`` tasks, which way at which place a task is: share by share of the places, in each way by way."""
    share = ((task // ways + 1) * shares - 1) // places
    first, last = share * places // shares, (share + 1) * places // shares
    way, place = divmod(task - first * ways, last - first)
    return way, first + place
