"""Room for frames: calls anywhere take no memory from the system."""

from __future__ import annotations

import sys

import pytest

from numbacnn.frames import with_room

resource = pytest.importorskip("resource")

CALLS = 200
DEPTHS = 1500  # of calls: with some fifteen words for each, more than one piece of 16 KiB


def nothing():
    pass


def pages_taken_by_calls() -> int:
    """Pages that the system maps while a loop calls a function."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        nothing()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def most_pages(depth: int) -> int:
    """The most that :func:`pages_taken_by_calls` finds from here to so many calls deeper."""
    return max(pages_taken_by_calls(), most_pages(depth - 1)) if depth else 0


@pytest.mark.skipif(sys.platform != "linux" or sys.implementation.name != "cpython", reason="how CPython has frames on Linux")
def test_no_depth_takes_a_page_for_each_call():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 2 * DEPTHS)
    try:
        assert with_room(most_pages, DEPTHS) < CALLS / 2
    finally:
        sys.setrecursionlimit(limit)


def test_arguments_results_and_errors_pass():
    assert with_room(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        with_room(divmod, 7, 0)
