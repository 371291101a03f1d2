"""Where numbacnn keeps files of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """``NUMBACNN_CACHE_DIR``, else the platform's cache folder. It may not exist, and may not be writable."""
    chosen = os.environ.get("NUMBACNN_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "numbacnn" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/numbacnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numbacnn"
