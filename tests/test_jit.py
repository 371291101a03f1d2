"""The kernel decorator: what it compiles, what the next process finds in the disk cache, recording, threads."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import types as python_types

import numba
import numpy as np
import pytest
from numba import types
from numba.core.registry import cpu_target

from numbacnn.errors import ConfigError
from numbacnn.kernels import jit
from numbacnn.kernels.fingerprint import UnknownValueError, fingerprint
from numbacnn.kernels.jit import inline, kernel
from numbacnn.kernels.linking import linked_later
from numbacnn.simd import take

compiled_only = pytest.mark.skipif(jit.JIT_DISABLED, reason="nothing is compiled, so nothing is cached")


@kernel
def double(x, y):
    for i in range(x.size):
        y[i] = x[i] * 2


@kernel(parallel=True, serial=0)
def count(y, queue, threads):
    """How many threads there are, and each task once."""
    while True:
        task = take(queue, 1)
        if task >= y.size - 1:
            break
        y[1 + task] += 1
    y[0] = threads


@kernel(views=("x",))
def copy_strided(x, y):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = x[i, j]


# In one process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_take_both_types(dtype):
    x = np.arange(5, dtype=dtype)
    y = np.zeros(5, dtype)
    double(x, y)
    np.testing.assert_array_equal(y, 2 * x)


@compiled_only
def test_shapes_share_one_compilation():
    for size in (1, 7, 100):
        y = np.zeros(size, np.float32)
        double(np.ones(size, np.float32), y)
        assert (y == 2).all()
    double(np.ones(5, np.float64), np.zeros(5, np.float64))
    kinds = set(double.dispatcher.overloads)
    assert len(kinds) == 2, kinds


@compiled_only
def test_views_share_one_compilation():
    whole = np.arange(48.0).reshape(6, 8)
    for x in (whole, whole[:, 2:5], whole[::2].T):
        y = np.zeros(x.shape)
        copy_strided(x, y)
        np.testing.assert_array_equal(y, x)
    assert len(copy_strided.dispatcher.overloads) == 1


def test_parallel_kernels_get_a_queue_and_the_number_of_threads():
    before = jit.num_threads()
    try:
        for threads in sorted({1, before}):
            jit.set_num_threads(threads)
            assert jit.num_threads() == threads
            y = np.zeros(1000)
            count(y)
            assert y[0] == threads
            assert (y[1:] == 1).all()
    finally:
        jit.set_num_threads(before)


@pytest.mark.parametrize("parallel", [False, True])
def test_what_is_supplied_comes_last_and_only_to_parallel_kernels(parallel):
    def early(queue, y):
        y[0] = queue[0]

    def late(y, queue):
        y[0] = queue[0]

    def without(y):
        y[0] = 1

    for function in (early, without) if parallel else (early, late):
        with pytest.raises(
            TypeError, match=rf"kernel {re.escape(function.__qualname__)}: a kernel that is parallel, and no other, ends with"
        ):
            kernel(parallel=parallel)(function)


def test_small_launches_stay_in_one_thread_and_larger_ones_take_more():
    def woken(y, thread):
        y[thread] = thread

    with jit.record(threads=7):
        for serial in (jit.SERIAL_ELEMENTS, 100):
            for elements, expected in ((serial, 1), (serial + 1, 2), (2 * serial + 2, 4), (100 * serial, 7)):
                launch, _ = kernel(parallel=True, serial=serial)(woken).bind(np.zeros(elements))
                assert launch.threads == expected


def test_numbers_of_threads_that_cannot_be():
    before = jit.num_threads()
    for threads in (0, -1, 100_000, 1.5, True, "2", None):
        with pytest.raises(
            ConfigError, match=re.escape(f"{threads!r} threads were asked for; this machine allows a whole number from 1 to")
        ):
            jit.set_num_threads(threads)
    assert jit.num_threads() == before
    jit.set_num_threads(np.int64(before))
    assert jit.num_threads() == before


def test_a_recording_has_its_own_number_of_threads():
    """That of the scratch memory, whatever is set meanwhile."""
    before, y = jit.num_threads(), np.zeros(4)
    with jit.record(threads=before + 1) as steps:
        assert jit.num_threads() == before + 1
        with jit.record():
            assert jit.num_threads() == before
        count(y)
    assert jit.num_threads() == before
    assert steps[0][0].threads == before + 1
    with jit.record() as steps:
        count(y)
    assert steps[0][0].threads == before


def test_record_collects_without_running():
    x, y, z = np.ones(4), np.zeros(4), np.zeros(10)
    with jit.record() as steps:
        double(x, y)
        count(z)
    assert len(steps) == 2
    assert not y.any()
    assert not z.any()
    x[:] = 3
    for function, arguments in steps:
        function(*arguments)
    assert (y == 6).all()
    assert (z[1:] == 1).all()
    double(x, x)
    assert (x == 6).all(), "outside the block kernels run at once"


def test_records_nest_and_end_with_an_error():
    x, y = np.ones(4), np.zeros(4)
    with jit.record() as outer:
        with jit.record() as inner:
            double(x, y)
        with pytest.raises(ZeroDivisionError), jit.record():
            raise ZeroDivisionError
        double(x, y)
        double(y, x)
    assert (len(outer), len(inner)) == (2, 1)
    double(x, y)
    assert (y == 2).all()


def test_recording_concerns_one_thread():
    x, y = np.ones(4), np.zeros(4)
    with jit.record() as steps:
        other = threading.Thread(target=double, args=(x, y))
        other.start()
        other.join()
    assert not steps
    assert (y == 2).all()


@compiled_only
def test_postponed_kernels_are_noted_once_per_kind_and_not_run():
    def increased(x, y):
        y[0] = x[0] + 1

    increase, x, y = kernel(increased), np.ones(4), np.zeros(4)
    with jit.postponed() as noted:
        increase(x, y)
        increase(x[:2], y)
        increase(x.astype("f4"), y)
        with jit.record() as steps:
            count(y)
        jit.run(steps)
    assert not y.any()
    assert not increase.dispatcher.overloads
    assert [wanted.kernel for wanted in noted] == [increase, increase, count]
    first, second, _ = noted
    assert first.key != second.key
    with jit.builds() as builds:
        build = first.build()
        assert first.kept
        increase(x, y)
    assert y[0] == 2
    assert builds == [build]
    assert build.name == increased.__qualname__


@compiled_only
def test_arguments_that_a_kernel_cannot_take():
    with pytest.raises(TypeError, match="a kernel takes NumPy arrays and numbers, not list"):
        double([1.0], np.zeros(1))


def test_fingerprints_see_what_a_function_is_made_of():
    def made(number, helper):
        def function(x):
            return helper(x) + number

        return function

    def text(source, **names):
        exec(source, names)
        return names["function"]

    twice, thrice = inline(lambda x: 2 * x), inline(lambda x: 3 * x)
    same = [fingerprint(made(1.0, twice)), fingerprint(made(1.0, inline(lambda x: 2 * x)))]
    assert len(set(same)) == 1
    others = [made(2.0, twice), made(1.0, thrice), made((1.0, 2.0), twice), made(np.ones(2), twice)]
    assert len({fingerprint(function) for function in others} | set(same)) == 5
    by_global = [text("def function(x): return x + N", N=n) for n in (1, 2)]
    assert fingerprint(by_global[0]) != fingerprint(by_global[1])
    by_default = [text(f"def function(x, n={n}): return x + n") for n in (1, 2)]
    assert fingerprint(by_default[0]) != fingerprint(by_default[1])


def _text(source, **names):
    exec(textwrap.dedent(source), names)
    return names["function"]


def abs_of(x):
    return abs(x)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, (2, 3)), ((1, 2), 3)),
        ((1, 2), [1, 2]),
        (("ab", "c"), ("a", "bc")),
        ({"a": 1}, {"a": 2}),
        (frozenset({1, 2}), frozenset({1, 3})),
        (types.float32, types.float64),
        (np.float32(1), np.float64(1)),
        (1, True),
        ("1", 1),
        (np.ones((2, 3)), np.ones((2, 3), order="F")),
        (numba.njit(abs_of), numba.njit(fastmath=True)(abs_of)),
        (lambda x: x * 1.0 + 12.5, lambda x: x * 1.01 + 2.5),
        (lambda x: [max(v, 1) for v in x], lambda x: [max(v, 2) for v in x]),
    ],
)
def test_fingerprints_tell_values_apart(one, other):
    def holding(value):
        return fingerprint(lambda: value)

    assert holding(one) != holding(other)


def test_fingerprints_see_which_function_is_met_again():
    source = """
    def f(x): return x + 1
    def g(x): return x + 2
    def function(x): return A(x) + B(x) + C(x)
    """

    def ordered(choose):
        names = {}
        exec(textwrap.dedent(source), names)
        names["A"], names["B"], names["C"] = choose(names["f"], names["g"])
        return fingerprint(names["function"])

    assert ordered(lambda f, g: (f, g, f)) != ordered(lambda f, g: (f, g, g))


def test_fingerprints_see_what_is_read_through_modules():
    settings, inner = python_types.ModuleType("settings"), python_types.ModuleType("inner")
    settings.inner = inner

    def by(source, **values):
        settings.SLOPE, inner.SHIFT, settings.helper = 1.0, 2.0, lambda x: x
        settings.SPARE = values.pop("spare", 0)
        for name, value in values.items():
            setattr(inner if name == "SHIFT" else settings, name, value)
        return fingerprint(_text(source, settings=settings))

    source = "def function(x): return settings.helper(settings.SLOPE * x + settings.inner.SHIFT)"
    assert by(source) == by(source, spare=1)
    assert len({by(source), by(source, SLOPE=2.0), by(source, SHIFT=1.0), by(source, helper=lambda x: -x)}) == 4


@compiled_only
def test_what_has_no_fingerprint_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBACNN_CACHE_DIR", str(tmp_path))
    raised = numba.vectorize(lambda x: x + 1)

    def unknown(x, y):
        y[0] = raised(x[0])

    def known(x, y):
        y[0] = x[0] + 1

    with pytest.raises(UnknownValueError, match="of type DUFunc"):
        fingerprint(unknown)
    for function, files in ((unknown, 0), (known, 1)):
        y = np.zeros(1)
        kernel(function)(np.ones(1), y)
        assert y[0] == 2
        assert len(list(tmp_path.rglob("*.nbc"))) == files


@compiled_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_processes_number_functions_from_elsewhere():
    script = """
        import itertools, os
        from numbacnn.kernels import disk_cache

        def number():
            return next(disk_cache.FunctionIdentity._unique_ids)

        if os.fork() == 0:
            print(number(), flush=True)
            os._exit(0)
        os.wait()
        print(number())
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True, timeout=120)
    numbers = [int(number) for number in result.stdout.split()]
    assert abs(numbers[0] - numbers[1]) > 1000


@compiled_only
def test_kernels_and_functions_with_the_name_of_a_helper():
    """They can be called, also from Python."""

    def named(function):
        function.__qualname__ = "same"
        return function

    helper = inline(named(lambda x: x + 1))
    function = numba.njit(named(lambda x: helper(x) * 10))

    def body(x, y):
        y[0] = function(x[0])

    x, y = np.ones(1), np.zeros(1)
    kernel(named(body))(x, y)
    assert y[0] == 20
    assert function(1.0) == 20


# From process to process ---------------------------------------------------------------------------------------------

MODULE = """
from numbacnn.kernels.jit import inline, kernel
from numbacnn.simd import LANES, load_part, store_part, take
from helper import FACTOR, SPARE, scaled

@kernel
def plain(x, y):
    for i in range(x.size):
        y[i] = scaled(x[i]) * FACTOR

def made(number):
    @kernel
    def by_number(x, y):
        for i in range(x.size):
            y[i] = x[i] * number
    return by_number

def composed(function):
    body = inline(function)

    @kernel(parallel=True)
    def by_function(x, y, queue):
        while True:
            at = take(queue, 1) * LANES
            if at >= x.size:
                break
            store_part(body(load_part(x, at, 0, x.size - at, 1, 1)), y, at, 0, x.size - at)
    return by_function

KERNELS = {
    "plain": plain,
    "made 3": made(3.0),
    "made 5": made(5.0),
    "squared": composed(lambda v: v * v),
    "shifted": composed(lambda v: v + 0.5),
}
"""
HELPER = """
from numbacnn.kernels.jit import inline

FACTOR = 1
SPARE = 1

@inline
def scaled(x):
    return x * 2

@inline
def unused(x):
    return x * 7
"""
RUN = """
import json, sys
import numpy as np
from module import KERNELS

report = {}
for name in sys.argv[2:]:
    x, kernel = np.arange(1, 6, dtype=sys.argv[1]), KERNELS[name]
    y = np.zeros_like(x)
    kernel(x, y)
    stats = kernel.dispatcher.stats
    report[name] = [y.tolist(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]
print(json.dumps(report))
"""
EXPECTED = {
    "plain": [2, 4, 6, 8, 10],
    "made 3": [3, 6, 9, 12, 15],
    "made 5": [5, 10, 15, 20, 25],
    "squared": [1, 4, 9, 16, 25],
    "shifted": [1.5, 2.5, 3.5, 4.5, 5.5],
}


class Elsewhere:
    """Runs kernels of a small module in processes of their own, with a cache folder of their own."""

    def __init__(self, folder):
        self.folder, self.cache = folder, folder / "cache"
        for name, text in (("module", MODULE), ("helper", HELPER), ("run", RUN)):
            (folder / f"{name}.py").write_text(textwrap.dedent(text))

    def start(self, *names, dtype="float32"):
        environment = {**os.environ, "NUMBACNN_CACHE_DIR": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "run.py", dtype, *names]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @staticmethod
    def report(process):
        """``{name: (results, found in the cache, compiled)}`` of a process."""
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return json.loads(output)

    def run(self, *names, dtype="float32"):
        return self.report(self.start(*names, dtype=dtype))

    def edit(self, old, new):
        helper = self.folder / "helper.py"
        assert old in helper.read_text()
        helper.write_text(helper.read_text().replace(old, new))

    def files(self):
        """Name, contents' length and time of each file in the cache."""
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in self.cache.rglob("*") if path.is_file()}


@pytest.fixture
def elsewhere(tmp_path):
    return Elsewhere(tmp_path)


def compiled(*names):
    return {name: [EXPECTED[name], 0, 1] for name in names}


def found(*names):
    return {name: [EXPECTED[name], 1, 0] for name in names}


@compiled_only
def test_the_next_process_finds_every_kind_of_kernel(elsewhere):
    for dtype in ("float32", "float64"):
        assert elsewhere.run(*EXPECTED, dtype=dtype) == compiled(*EXPECTED)
    files = elsewhere.files()
    assert len(files) == 2 * len(EXPECTED)
    assert {path.suffix for path in files} == {".nbc"}
    for dtype in ("float32", "float64"):
        assert elsewhere.run(*EXPECTED, dtype=dtype) == found(*EXPECTED)
    assert elsewhere.files() == files, "nothing is written when everything is found"


@compiled_only
def test_kernels_of_one_factory_from_several_processes_do_not_mix(elsewhere):
    elsewhere.run("made 3", "squared")
    mixed = elsewhere.run("made 5", "made 3", "shifted", "squared")
    assert mixed == compiled("made 5", "shifted") | found("made 3", "squared")
    assert elsewhere.run(*reversed(EXPECTED)) == found(*EXPECTED) | compiled("plain")


@compiled_only
def test_an_edit_recompiles_exactly_what_it_touches(elsewhere):
    elsewhere.run("plain", "made 3")
    elsewhere.edit("return x * 2", "return x * 4")
    assert elsewhere.run("plain", "made 3") == {"plain": [[4, 8, 12, 16, 20], 0, 1], **found("made 3")}
    elsewhere.edit("FACTOR = 1", "FACTOR = 10")
    assert elsewhere.run("plain", "made 3") == {"plain": [[40, 80, 120, 160, 200], 0, 1], **found("made 3")}
    elsewhere.edit("return x * 7", "return x * 8")
    elsewhere.edit("SPARE = 1", "SPARE = 2")
    assert elsewhere.run("plain") == {"plain": [[40, 80, 120, 160, 200], 1, 0]}
    elsewhere.edit("return x * 4", "return x * 2")
    elsewhere.edit("FACTOR = 10", "FACTOR = 1")
    assert elsewhere.run("plain") == found("plain"), "what it was before is still there"


@compiled_only
def test_a_folder_that_cannot_be_written_costs_compilation_only(elsewhere):
    elsewhere.cache.write_text("a file where the folder should be")
    for _ in range(2):
        assert elsewhere.run("plain") == compiled("plain")


@compiled_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_read(elsewhere):
    elsewhere.run("plain")
    folders = [elsewhere.cache, elsewhere.cache / "kernels"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert elsewhere.run("plain", "made 3") == found("plain") | compiled("made 3")
    finally:
        for folder in folders:
            folder.chmod(0o755)


@compiled_only
def test_a_missing_folder_is_made(elsewhere):
    elsewhere.cache = elsewhere.folder / "several" / "levels" / "down"
    assert elsewhere.run("plain") == compiled("plain")
    assert elsewhere.run("plain") == found("plain")


@compiled_only
def test_damaged_files_are_compiled_again(elsewhere):
    elsewhere.run(*EXPECTED)
    damages = [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: pickle.dumps("something else"),
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :],
    ]
    files = sorted(elsewhere.files())
    assert len(files) == len(damages)
    for path, damage in zip(files, damages):
        path.write_bytes(damage(path.read_bytes()))
    assert elsewhere.run(*EXPECTED) == compiled(*EXPECTED)
    assert sorted(elsewhere.files()) == files
    assert elsewhere.run(*EXPECTED) == found(*EXPECTED)


@compiled_only
def test_processes_that_compile_at_once(elsewhere):
    processes = [elsewhere.start("plain", "squared") for _ in range(2)]
    for process in processes:
        report = elsewhere.report(process)
        assert {name: entry[0] for name, entry in report.items()} == {name: EXPECTED[name] for name in ("plain", "squared")}
    assert {path.suffix for path in elsewhere.files()} == {".nbc"}, "no temporary file is left"
    assert elsewhere.run("plain", "squared") == found("plain", "squared")


@compiled_only
def test_threads_that_compile_at_once_leave_numba_as_it_was():
    """The second one waits until the first one has taken away what it put in Numba's place."""
    codegen = cpu_target.target_context.codegen()
    before = codegen._library_class
    inside, go = threading.Event(), threading.Event()

    def first():
        with linked_later("first", jit.INLINED):
            inside.set()
            go.wait()

    def second():
        inside.wait()
        threading.Timer(0.05, go.set).start()  # after this thread has arrived at the lock
        with linked_later("second", jit.INLINED):
            pass

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codegen._library_class is before
