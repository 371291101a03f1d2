"""Where numbacnn keeps files of its own."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from .errors import ConfigError


def cache_folder() -> Path:
    """``NUMBACNN_CACHE_DIR``, else the platform's cache folder. It may not exist, and may not be writable. Raises ConfigError where
    neither is known."""
    chosen = os.environ.get("NUMBACNN_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        return _platform_folder()
    except RuntimeError:
        raise ConfigError("This user has no home folder, so there is no place for files; set NUMBACNN_CACHE_DIR to a folder.") from None


def kernel_folder() -> Path:
    """Where compiled kernels of the CPU are. Raises as :func:`cache_folder`."""
    return cache_folder() / "kernels"


def writable(folder: Path) -> bool:
    """Whether a file can be made there, or the folder itself where it is yet to come. Leaves nothing behind."""
    existing = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "numbacnn" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/numbacnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numbacnn"
