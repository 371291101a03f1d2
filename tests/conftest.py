"""Options of the test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reduced",
        action="store_true",
        help="run the table over all layers with one small case per layer (quick enough for NUMBA_DISABLE_JIT=1 and NUMBA_BOUNDSCHECK=1)",
    )
