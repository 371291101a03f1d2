"""Choices between ways to compute the same that were measured on this machine, kept in memory and on disk.

One JSON file per kind of machine in the folder ``tuning`` of the cache, ``{key: name}``, named after the CPU and its features, the
number of cores and the sources of all kernels: with other kernels, measurements are of no use any more. Damaged and foreign files
count as empty. Where nothing can be written, the process alone remembers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from numba.core.registry import cpu_target

from ..errors import ConfigError
from ..paths import cache_folder
from .jit import JIT_DISABLED


class Choices:
    """The choices in one file, and those of this process, which come first."""

    def __init__(self, path: Path | None):
        self._path = path
        self._lock = threading.Lock()
        self._own: dict[str, str] = {}
        self._kept: dict[str, str] = {}
        self._stamp: tuple | None = None
        self.written = True  # whether what was to be remembered last is in the file

    def recall(self, key: str) -> str | None:
        """The name that was chosen for ``key``, here or by now in another process; None where nobody chose."""
        with self._lock:
            self._read()
            return self._own.get(key, self._kept.get(key))

    def remember(self, choices: Mapping[str, str]) -> None:
        """Keep choices, beside those that are in the file by then. Of two processes that write at the same moment, the later one wins."""
        with self._lock:
            self._own.update(choices)
            self._read()
            self.written = self._write({**self._kept, **self._own})

    def _read(self) -> None:
        """Read the file again if it is not the one that was read last."""
        stamp = None
        try:
            if self._path is not None:
                status = os.stat(self._path)
                stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if stamp != self._stamp:
                self._kept = {} if stamp is None else _entries(json.loads(self._path.read_bytes()))  # type: ignore[union-attr]
        except (OSError, ValueError, RecursionError):  # no file, no folder, no JSON
            self._kept = {}
        self._stamp = stamp

    def _write(self, choices: dict[str, str]) -> bool:
        """Whether it could be done."""
        if self._path is None:
            return False
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(choices, file, indent=1, sort_keys=True)
                os.replace(temporary, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            return True
        return False


def measured() -> Choices:
    """The choices of this machine, in the cache folder of this moment."""
    try:
        path = cache_folder() / "tuning" / f"{_machine()}.json"
    except ConfigError:  # there is no place for files
        path = None
    return _made.setdefault(path, Choices(path))


_made: dict[Path | None, Choices] = {}  # by file, for the life of the process


def _entries(content: object) -> dict[str, str]:
    """What can be a choice of a file's content."""
    entries = content.items() if isinstance(content, dict) else ()
    return {key: name for key, name in entries if isinstance(name, str)}


@functools.cache
def _machine() -> str:
    """Name of the CPU, number of cores, and a digest of these, of the CPU's features, and of the kernels."""
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    cores = os.cpu_count() or 1
    digest = hashlib.sha256("|".join((cpu, features, str(cores), str(JIT_DISABLED))).encode())
    package = Path(__file__).parents[1]
    for path in sorted((*(package / "kernels").rglob("*.py"), package / "simd.py")):
        digest.update(path.read_bytes())
    return f"{''.join(c if c.isalnum() else '-' for c in cpu)}-{cores}-{digest.hexdigest()[:16]}"
