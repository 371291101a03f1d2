"""Machine code on disk, in a folder of numbacnn's own:

- one file per kernel and kind of arguments, written atomically, so that processes never disturb each other;
- its name is a hash of everything that the code is made of: the function, all kernels and constants that it reaches,
  the source of ``simd.py``, Numba, Python and the CPU. An edit anywhere recompiles exactly what it touches, and a
  kernel made by a factory (with numbers or other kernels in its closure) is found by the next process;
- a folder that cannot be written, or a damaged file, costs compilation, never an error.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import pickle
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config as numba_config
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher

from ..errors import ConfigError
from ..paths import kernel_folder
from .fingerprint import UnknownValueError, file_digest, fingerprint

# Numba numbers functions from 1 on in each process, and names machine code by that. Cache files come from many processes: two closures
# of one factory would get one name, and one would silently run in place of the other. So each process numbers from elsewhere.


def _number_functions_from_elsewhere() -> None:
    FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "little"))


_number_functions_from_elsewhere()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_from_elsewhere)


_OWN_SOURCES = ("simd.py", "elementary.py", "dual.py", "kernels/jit.py", "kernels/linking.py", "kernels/disk_cache.py")


@functools.cache
def _environment() -> str:
    """What machine code depends on besides the kernel's own sources."""
    folder = Path(__file__).parents[1]
    parts = [numba.__version__, llvmlite.__version__, np.__version__, platform.python_version(), sys.platform]
    parts += [str(bool(numba_config.BOUNDSCHECK)), str(numba_config.OPT)]
    parts += [file_digest(str(folder / name)).hex() for name in _OWN_SOURCES]
    return "|".join(parts)


DIGEST_BYTES = hashlib.sha256().digest_size  # in front of each file, of what follows


class DiskCache(_Cache):
    """Numba's cache protocol over one file per kernel and signature. What has no fingerprint is compiled in each process."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._enabled = True

    @functools.cached_property
    def _fingerprint(self) -> str | None:
        try:
            return fingerprint(self._dispatcher)
        except UnknownValueError:
            return None

    @property
    def cache_path(self) -> str:
        return str(kernel_folder())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Nothing is kept in memory."""

    def file(self, signature: Any) -> Path:
        """The file of a signature, the same in every process. Raises ConfigError where there is no place for files."""
        codegen = self._dispatcher.targetctx.codegen()
        key = "|".join((str(self._fingerprint), str(signature), str(codegen.magic_tuple()), _environment()))
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        name = "".join(c if c.isalnum() or c == "_" else "." for c in self._dispatcher.py_func.__qualname__.replace(".<locals>", ""))
        return Path(self.cache_path) / f"{name}-{digest}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """What is in the file: machine code. Numba's own cache also loads all that Numba can compile first (``target_context.refresh()``, a
        third of a second and 36 MiB), and keeps LLVM's form of the code, some MiB each, for functions that it is linked into."""
        if not self._enabled or self._fingerprint is None:
            return None
        try:
            content = self._content(self.file(sig))
            if content is None:
                return None
            found = CompileResult._rebuild(target_context, *pickle.loads(content))
            found.library._shared_module = None  # kernels are only called from Python
            return found
        except Exception:  # no folder, a foreign file: compile, and write over it
            return None

    @staticmethod
    def _content(path: Path) -> bytes | None:
        """What :meth:`save_overload` has written, None where nothing is or it is damaged: machine code with a wrong bit would run."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        return content[DIGEST_BYTES:] if content[:DIGEST_BYTES] == hashlib.sha256(content[DIGEST_BYTES:]).digest() else None

    @property
    def fingerprinted(self) -> bool:
        """Whether all that the kernel is made of is known."""
        return self._fingerprint is not None

    def may_hold(self, sig: Any) -> bool:
        """Whether there is a file, whatever its content."""
        try:
            return self._fingerprint is not None and self.file(sig).exists()
        except (OSError, ConfigError):
            return False

    def holds(self, sig: Any) -> bool:
        """Whether a process that asks for this signature finds it."""
        return self._fingerprint is not None and self._content(self.file(sig)) is not None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        if not self._enabled or self._fingerprint is None or data.library.has_dynamic_globals:
            return
        with contextlib.suppress(OSError, ConfigError):
            path = self.file(sig)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    content = numba.core.serialize.dumps(data._reduce())
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
