"""Options of the test suite."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

os.environ.setdefault("NUMBACNN_COMPILE_PROCESSES", "1")  # the suite's own processes keep the cores busy


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

    parser.addoption(
        "--nightly",
        action="store_true",
        help="run what is marked nightly, and compile the GPU's kernels for each generation of GPUs: the long way round",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skipped = []
    if find_spec("torch") is None:
        skipped.append(("oracle", "needs PyTorch"))
    for option in ("whole-zoo", "nightly"):
        if not config.getoption(f"--{option}"):
            skipped.append((option.replace("-", "_"), f"needs --{option}"))
    for marker, reason in skipped:
        for item in items:
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))
