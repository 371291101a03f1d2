"""Sums and maxima over the threads of a block, or parts of it, always in the same order."""

from __future__ import annotations

from .driver import cuda, device_function, int32
from .launch import THREADS

HALF = THREADS // 2
WARP = 32
SMALLEST_TEAM = 4
MERGE_LANES = 8  # sums of a block that puts partial sums together: few, as there are many parts to each


@device_function
def block_sum(shared, thread, value):
    """The sum of a number of each thread, for all of them. ``shared`` has a cell for each thread; every thread of the block takes part."""
    shared[thread] = value
    cuda.syncthreads()
    width = int32(HALF)
    while width > 0:
        if thread < width:
            shared[thread] += shared[thread + width]
        cuda.syncthreads()
        width //= 2
    found = shared[0]
    cuda.syncthreads()
    return found


@device_function
def block_largest(shared, thread, value):
    """The largest number of all threads, likewise."""
    shared[thread] = value
    cuda.syncthreads()
    width = int32(HALF)
    while width > 0:
        if thread < width:
            shared[thread] = max(shared[thread], shared[thread + width])
        cuda.syncthreads()
        width //= 2
    found = shared[0]
    cuda.syncthreads()
    return found


# Threads as rows of lanes: thread ``row * lanes + lane`` ----------------------------------------------------------------


@device_function
def add_rows(shared, thread, row, rows, lanes, value):
    """Leave in the first ``lanes`` cells of ``shared`` the sums over the rows of a number of each thread. Threads that are left over after
    the last row take part, too. A barrier must follow before the cells are written again."""
    shared[thread] = value
    cuda.syncthreads()
    while rows > 1:
        half = int32((rows + 1) >> 1)
        if row < rows - half:
            shared[thread] += shared[thread + half * lanes]
        cuda.syncthreads()
        rows = half


@device_function
def column_sum(shared, thread, row, rows, lanes, value):
    """For each thread the sum over the rows of its lane."""
    add_rows(shared, thread, row, rows, lanes, value)
    found = shared[thread - row * lanes]
    cuda.syncthreads()
    return found


# Teams: as many neighbouring threads each, a power of two ---------------------------------------------------------------


@device_function
def _meet(team):
    """Wait for the team; all teams of the block come here."""
    if team > WARP:
        cuda.syncthreads()
    else:
        cuda.syncwarp()


@device_function
def team_sum(shared, thread, lane, team, value):
    """The sum of a number of each thread of a team, for all of them; ``lane`` is the thread's number in its team. ``shared`` has a cell for
    each thread of the block, all of which take part."""
    shared[thread] = value
    _meet(team)
    width = int32(team >> 1)
    while width > 0:
        if lane < width:
            shared[thread] += shared[thread + width]
        _meet(team)
        width = int32(width >> 1)
    found = shared[thread - lane]
    _meet(team)
    return found


@device_function
def team_largest(shared, thread, lane, team, value):
    """The largest number of a team, likewise."""
    shared[thread] = value
    _meet(team)
    width = int32(team >> 1)
    while width > 0:
        if lane < width:
            shared[thread] = max(shared[thread], shared[thread + width])
        _meet(team)
        width = int32(width >> 1)
    found = shared[thread - lane]
    _meet(team)
    return found


def team_for(length: int, each: int) -> int:
    """Size of teams for rows of ``length`` numbers, of which a thread shall have ``each``."""
    team = SMALLEST_TEAM
    while team < THREADS and team * each < length:
        team *= 2
    return team
