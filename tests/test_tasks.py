"""How threads divide tasks: each is done once, whoever comes first, and neighbours mostly by one thread."""

from __future__ import annotations

import numpy as np
import pytest

from numbacnn.kernels import jit
from numbacnn.kernels.jit import kernel
from numbacnn.kernels.program import Program
from numbacnn.kernels.tasks import in_shares, next_task, shares_of


@kernel(parallel=True, serial=0)
def done_by(counts, who, queue, thread):
    """How often each task was done, and by which thread."""
    while True:
        task = next_task(queue, thread, counts.size)
        if task >= counts.size:
            break
        counts[task] += 1
        who[task] = thread


@kernel
def placed(shares, places, ways, found):
    for task in range(places * ways):
        found[task, 0], found[task, 1] = in_shares(task, shares, places, ways)


@kernel(parallel=True, serial=0)
def shares_seen(y, queue, thread):
    y[thread] = shares_of(queue)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 64])
def test_each_task_once(threads, tasks):
    counts, who = np.zeros(tasks), np.zeros(tasks)
    with jit.record(threads=threads) as steps:
        done_by(counts, who)
    run = Program(steps)
    for turn in range(1, 30):
        run.run()
        np.testing.assert_array_equal(counts, turn)


def test_a_thread_alone_does_its_own_share_first():
    order = []
    queue = np.zeros(3 * jit.QUEUE_STEP, np.int64)

    @kernel
    def take_one(cells, number, tasks, found):
        found[0] = next_task(cells, number, tasks)

    taken = np.zeros(1, np.int64)
    for _ in range(8):
        take_one(queue, 1, 7, taken)
        order.append(int(taken[0]))
    assert order == [2, 3, 4, 5, 6, 0, 1, 7]  # then the next thread's share, and the one after


@pytest.mark.parametrize(("shares", "places", "ways"), [(1, 1, 1), (1, 5, 3), (2, 2, 1), (2, 7, 3), (3, 7, 2), (4, 4, 5)])
def test_shares_of_places_in_each_way(shares, places, ways):
    found = np.zeros((places * ways, 2), np.int64)
    placed(shares, places, ways, found)
    assert {tuple(row) for row in found.tolist()} == {(way, place) for way in range(ways) for place in range(places)}
    for share in range(shares):
        first, last = share * places // shares, (share + 1) * places // shares
        own = found[first * ways : last * ways]
        assert set(own[:, 1]) == set(range(first, last))
        assert (np.diff(own[:, 0]) >= 0).all()


def test_a_queue_has_a_share_for_each_thread():
    y = np.zeros(4, np.int64)
    with jit.record(threads=3) as steps:
        shares_seen(y)
    Program(steps).run()
    np.testing.assert_array_equal(y, [3, 3, 3, 0])
