"""Options of the test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reduced",
        action="store_true",
        help="run the table over all layers with one small case per layer (quick enough for NUMBA_DISABLE_JIT=1)",
    )
    parser.addoption(
        "--whole-zoo",
        action="store_true",
        help="compare every architecture with its peers at full size, not only the first of each family (many minutes)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--whole-zoo"):
        for item in items:
            if "whole_zoo" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs --whole-zoo"))
