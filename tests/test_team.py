"""The threads that share launches: every part once, by whoever is there; sleep, waking, forks and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from numbacnn.kernels import jit, team
from numbacnn.kernels.jit import kernel
from numbacnn.kernels.program import Program
from numbacnn.simd import take

pytestmark = pytest.mark.skipif(jit.JIT_DISABLED, reason="without compiled code there are no threads of ours")

SECONDS = 120  # of a process, at most


@kernel(parallel=True, serial=0)
def parts(seen, tasks, queue, threads, thread):
    """How often each thread's part was done, and each task taken."""
    seen[thread] += threads
    while True:
        task = take(queue, 1)
        if task >= tasks.size:
            break
        for _ in range(200):
            tasks[task] = tasks[task] * 1.0
        tasks[task] += 1


@pytest.fixture
def own(monkeypatch):
    """A team of its own for a test."""
    found = team.Team()
    monkeypatch.setattr(team, "_team", found)
    yield found
    found.stop()


def program(threads, launches, tasks=7):
    seen, done = np.zeros(threads), np.zeros((launches, tasks))
    with jit.record(threads=threads) as steps:
        for row in done:
            parts(seen, row)
    return Program(steps), seen, done


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_each_part_and_each_task_once(own, threads):
    """Also with more threads than cores."""
    run, seen, done = program(threads, 50)
    for _ in range(20):
        run.run()
    np.testing.assert_array_equal(seen, 20 * 50 * threads)
    np.testing.assert_array_equal(done, 20)
    assert len(own._threads) == threads - 1


def test_a_team_grows_and_smaller_launches_still_work(own):
    for threads in (2, 4, 3, 2):
        run, seen, done = program(threads, 5)
        run.run()
        np.testing.assert_array_equal(seen, 5 * threads)
        np.testing.assert_array_equal(done, 1)
    assert len(own._threads) == 3


def test_threads_fall_asleep_and_are_woken(own):
    run, seen, done = program(2, 3)
    for turn in range(3):
        run.run()
        end = time.monotonic() + 30
        while not own.state[team.ASLEEP] and time.monotonic() < end:
            time.sleep(0.01)
        assert own.state[team.ASLEEP] == 1
        assert seen[0] == 6 * (turn + 1)
    np.testing.assert_array_equal(done, 3)


def test_who_finds_the_team_taken_works_alone(own):
    state = own.take(2)
    try:
        assert state.size
        assert own.take(2) is team.NOBODY
        run, seen, done = program(2, 4)
        run.run()
    finally:
        own.give_back(state)
    np.testing.assert_array_equal(seen, 8)
    np.testing.assert_array_equal(done, 1)


def test_many_callers_at_once(own):
    programs, wrong = [program(2, 10) for _ in range(6)], []

    def call(run):
        try:
            for _ in range(100):
                run.run()
        except BaseException as error:
            wrong.append(error)

    callers = [threading.Thread(target=call, args=(run,)) for run, _, _ in programs]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    for _, seen, done in programs:
        np.testing.assert_array_equal(seen, 2 * 10 * 100)
        np.testing.assert_array_equal(done, 100)


def test_where_no_thread_starts_the_caller_works_alone(own, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    run, seen, done = program(2, 4)
    for _ in range(2):
        run.run()
    np.testing.assert_array_equal(seen, 16)
    np.testing.assert_array_equal(done, 2)


def test_a_team_that_has_ended_is_not_begun_again(own):
    own.end()
    run, seen, _ = program(2, 4)
    run.run()
    np.testing.assert_array_equal(seen, 8)
    assert not own._threads


def in_a_process(text):
    code = "from tests.test_team import *\n" + textwrap.dedent(text)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_a_process_ends_while_the_team_waits():
    assert in_a_process("program(3, 5)[0].run(); print('ran')") == ["ran"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_process_has_a_team_of_its_own():
    told = in_a_process("""
        program(2, 5)[0].run()
        child = os.fork()
        run, seen, done = program(2, 5)
        run.run()
        assert (done == 1).all() and len(team.team()._threads) == 1
        if child == 0:
            sys.stdout.write("child "); sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print("parent")
    """)
    assert sorted(told) == ["child", "parent"]


def test_what_goes_wrong_in_another_thread_is_told():
    if not os.environ.get("NUMBA_BOUNDSCHECK"):
        code = "from tests.test_team import *; test_what_goes_wrong_in_another_thread_is_told()"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_BOUNDSCHECK": "1"}, check=True, timeout=SECONDS)
        return
    place = np.zeros(2, np.int64)

    @kernel(parallel=True, serial=0)
    def outside(place, y, thread):
        y[place[thread]] = thread

    with jit.record(threads=2) as steps:
        outside(place, np.zeros(3))
    run = Program(steps)
    run.run()
    place[1] = 3
    with pytest.raises(IndexError):
        run.run()
    place[1] = 0
    run.run()  # what went wrong is over
