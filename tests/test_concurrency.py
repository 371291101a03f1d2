"""Several threads of one process predict at once: the same bits as alone, no deadlock, no memory that stays.

Each test runs in a process of its own, with two threads for a launch however many cores there are, and networks whose launches are large
enough to use them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from numbacnn.kernels import jit

pytestmark = pytest.mark.skipif(jit.JIT_DISABLED, reason="without compiled code there are no threads of ours")

CALLERS, CALLS = 8, 1000
SECONDS = 300  # of a process, after which it shows where its threads stand, and ends

COMMON = """
    import faulthandler, json, os, signal, sys, threading
    import numpy as np
    import numbacnn as nc
    from numbacnn import model as models
    from numbacnn.graph import plan_cache

    faulthandler.dump_traceback_later({seconds}, exit=True)
    nc.set_num_threads(2)

    def network(seed, filters):
        x = nc.Input((16, 16, 3))
        h = nc.Conv2D(filters, 3, padding="same", activation="relu")(x)
        h = nc.MaxPool2D(2)(nc.DepthwiseConv2D(3, padding="same")(h))
        return nc.Model(x, nc.Dense(10)(nc.Flatten()(h)), seed=seed)

    def cases(model, sizes):
        '''Batches of so many images, and what the model makes of them in this thread.'''
        rng = np.random.default_rng(0)
        batches = [rng.standard_normal((size, 16, 16, 3), dtype="f4") for size in sizes]
        return [(batch, model.predict(batch)) for batch in batches]

    def together(*works):
        '''Run the functions in threads that start at once; gives what went wrong in them.'''
        start, wrong = threading.Barrier(len(works)), []

        def run(work):
            try:
                start.wait()
                work()
            except BaseException as error:
                wrong.append(repr(error))

        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return wrong

    def caller(model, cases, first, calls, halfway=lambda: None):
        '''A function that predicts the cases in turn, so many times in all, and compares bits.'''
        def work():
            for call in range(calls):
                if call == calls // 4:
                    halfway()
                batch, expected = cases[(first + call) % len(cases)]
                if not np.array_equal(model.predict(batch), expected):
                    raise AssertionError(f"call {{call}} of {{len(batch)}} images differs")
        return work

    def told(**found):
        print(json.dumps(found))
"""


def run(program: str) -> dict:
    """What a program that starts as COMMON does tells."""
    text = textwrap.dedent(COMMON).format(seconds=SECONDS) + textwrap.dedent(program)
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", text], env=environment, check=False, capture_output=True, text=True, timeout=SECONDS + 60)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


EIGHT_CALLERS = """
    model = network(0, 16)
    batches = cases(model, range(1, {callers} + 1))
    early, sizes = threading.Barrier({callers}), []

    def resident():
        if early.wait() == 0 and os.path.exists("/proc/self/statm"):
            with open("/proc/self/statm") as file:
                sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        early.wait()

    def measured(first):
        work = caller(model, batches, first, {calls}, resident)
        def both():
            work()
            resident()  # with all threads still there, as at the early point
        return both

    wrong = together(*(measured(first) for first in range({callers})))
    told(wrong=wrong, sizes=sizes, plans=len(model._plans))
"""


def test_eight_threads_call_one_model():
    """With as many batch sizes, in another order each: different plans at the same time, and the same plan one after the other."""
    found = run(EIGHT_CALLERS.format(callers=CALLERS, calls=CALLS))
    assert found["wrong"] == []
    assert found["plans"] == CALLERS
    if found["sizes"]:
        early, late = found["sizes"]
        assert late - early < 6 << 20, "a kilobyte that each call leaves behind would be as much"


DROPPED_PLANS = """
    plan_cache.PLANS = 2
    model = network(0, 16)
    batches = cases(model, range(1, 6))
    wrong = together(*(caller(model, batches, first, 40) for first in range(4)))
    told(wrong=wrong, plans=len(model._plans))
"""


def test_plans_are_dropped_while_other_threads_run_them():
    assert run(DROPPED_PLANS) == {"wrong": [], "plans": 2}


FORKS = """
    model = network(0, 16)
    (batch, wanted), = cases(model, [64])
    busy, end = threading.Event(), threading.Event()

    def predict():
        while not end.is_set():
            model.predict(batch)
            busy.set()

    thread = threading.Thread(target=predict)
    thread.start()
    busy.wait()
    states = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            model.parameters["dense1.bias"] += 1  # so that weights are packed anew
            os._exit(not np.allclose(model.predict(batch), wanted + 1, atol=1e-4))
        states.append(os.waitpid(child, 0)[1])
    end.set()
    thread.join()
    told(states=states)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_process_that_is_forked_while_a_thread_predicts():
    """Whoever holds a lock at that moment is not there to give it back."""
    assert run(FORKS) == {"states": [0] * 10}


TWO_MODELS = """
    from numba.core.registry import cpu_target
    from numbacnn.kernels import jit

    codegen = cpu_target.target_context.codegen()
    before = codegen._library_class, cpu_target.target_context.create_cpython_wrapper.__name__
    images = np.random.default_rng(0).standard_normal((4, 16, 16, 3), dtype="f4")
    twins = [(network(seed, 16), network(seed, 16)) for seed in (0, 1)]
    results = [[], []]

    def predict(k):
        for _ in range(50):
            results[k].append(twins[k][0].predict(images))

    wrong = together(*(lambda k=k: predict(k) for k in (0, 1)))
    same = all(np.array_equal(y, twins[k][1].predict(images)) for k in (0, 1) for y in results[k])
    after = codegen._library_class, cpu_target.target_context.create_cpython_wrapper.__name__
    told(wrong=wrong, same=same, numba_is_as_it_was=before == after)
"""


def test_two_threads_begin_with_a_model_each():
    """Both plan, and compile or load the same kernels, at the same time."""
    assert run(TWO_MODELS) == {"wrong": [], "same": True, "numba_is_as_it_was": True}


WITHIN = """
    import dataclasses

    inner = network(0, 16)

    @dataclasses.dataclass(frozen=True)
    class Inner(nc.Layer):
        def output_shape(self, x):
            return (10,)

        def forward(self, x, y, p, b, training):
            y[...] = inner.predict(x)

    x = nc.Input((16, 16, 3))
    outer = nc.Model(x, Inner()(x), seed=0)
    batches = cases(inner, [4])
    wrong = together(*(caller(model, batches, 0, 200) for model in (inner, outer, outer, inner)))
    told(wrong=wrong)
"""


def test_a_layer_that_predicts_with_a_model_that_others_call():
    """Locks are taken in one order."""
    assert run(WITHIN) == {"wrong": []}


CHOICES = """
    from numbacnn.kernels.jit import kernel, set_num_threads

    @kernel(parallel=True, serial=0)
    def working(y, threads, thread):
        y[thread] = threads

    def asked():
        y = np.zeros(4)
        working(y)
        return y[: models.kernels.jit.num_threads()].tolist()

    counts, chosen, launched = [], threading.Barrier(2), threading.Barrier(2)

    def other():
        set_num_threads(1)
        counts.append(asked())
        chosen.wait()
        launched.wait()
        counts.append(asked())

    def this():
        chosen.wait()
        counts.append(asked())
        set_num_threads(2)
        counts.append(asked())
        launched.wait()

    wrong = together(other, this)
    told(wrong=wrong, counts=counts)
"""


def test_a_number_of_threads_counts_for_launches_of_all_callers():
    assert run(CHOICES) == {"wrong": [], "counts": [[1], [1], [2, 2], [2, 2]]}
