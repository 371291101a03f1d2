"""These tests need numba-cuda (``pip install ".[gpu]"``), which compiles without a GPU, or the simulator."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from numba.core import config

collect_ignore_glob = [] if config.ENABLE_CUDASIM or find_spec("numba_cuda") else ["test_*.py"]


@pytest.fixture
def capabilities(pytestconfig: pytest.Config) -> tuple[tuple[int, int], ...]:
    """Of GPUs that kernels are compiled for: those of each layer's first case are for all anyway."""
    from .test_layers import CAPABILITIES

    return CAPABILITIES if pytestconfig.getoption("--nightly") else CAPABILITIES[-1:]
