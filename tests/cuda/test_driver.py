"""The compiler of device code beside versions of other packages."""

from __future__ import annotations

import subprocess
import sys

from .test_ptx import compiled

PROGRAM = """
import numpy as np
from numba import types
from numbacnn.kernels.cuda.pointwise import _copy_where
if hasattr(np, "row_stack"):
    del np.row_stack
floats = types.CPointer(types.float32)
name, text = _copy_where.ptx((floats, floats, floats, types.int32), (9, 0))
assert name == "_copy_where" and "st.global" in text
assert not hasattr(np, "row_stack")
"""


@compiled
def test_a_numpy_without_its_old_names() -> None:
    """numba-cuda asks for row_stack, which NumPy 2.5 has no more, when it compiles for the first time in a process."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
