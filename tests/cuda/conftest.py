"""These tests need numba-cuda (``pip install ".[gpu]"``), which compiles without a GPU, or the simulator."""

from __future__ import annotations

from importlib.util import find_spec

from numba.core import config

collect_ignore_glob = [] if config.ENABLE_CUDASIM or find_spec("numba_cuda") else ["test_*.py"]
