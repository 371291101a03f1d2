"""Where numbacnn keeps files of its own."""

from __future__ import annotations

import os
import sys
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


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "numbacnn" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/numbacnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numbacnn"
