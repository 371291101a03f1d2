"""Files from the internet, checked before anybody sees them, or a sentence that says what to put where instead."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import NumbacnnError


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded: its name, its SHA-256 (64 hexadecimal digits, or the first few), and where it lies (tried in this
    order)."""

    name: str
    sha256: str
    urls: tuple[str, ...]


def download(what: str, files: Sequence[RemoteFile], folder: Path, instead: str, error: type[NumbacnnError]) -> None:
    """Download files into ``folder``, each to a temporary file that is renamed once its checksum is right, with a progress bar on a
    terminal. Raises ``error``, which says that ``what`` is not on this machine, why, and what to do ``instead``."""
    try:
        import pooch  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise error(f'{what} is not on this machine: `pip install "numbacnn[download]"` to have it downloaded, or {instead}.') from None
    with _progress_bar(what) as bar:
        fetch = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=30)
        for file in files:
            reason = _download_one(fetch, file, folder)
            if reason:
                raise error(f"{what} is not on this machine and {file.name} could not be downloaded ({reason}): {instead}.")


def has_checksum(path: Path, sha256: str) -> bool:
    """Whether the SHA-256 of a file starts with these hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256)


def _download_one(fetch: Any, file: RemoteFile, folder: Path) -> str:
    """Returns why none of the addresses worked; nothing once one did."""
    reasons = []
    for url in file.urls:
        temporary = folder / f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fetch(url, str(temporary), None)
            if has_checksum(temporary, file.sha256):
                os.replace(temporary, folder / file.name)
                return ""
            reasons.append("its checksum is wrong")
        except (OSError, ValueError) as error:  # errors of requests are OSErrors, and ValueErrors for addresses that are none
            reasons.append(_reason(error))
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return "; ".join(dict.fromkeys(reasons))


def _reason(error: Exception) -> str:
    """A few words; the libraries below print whole object trees."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, ConnectionError) or "Connection" in type(error).__name__:
        return "no connection"
    if "Timeout" in type(error).__name__:
        return "timed out"
    return getattr(error, "strerror", None) or type(error).__name__


@contextlib.contextmanager
def _progress_bar(what: str) -> Iterator[Any]:
    """A bar with the methods that pooch calls, drawn by rich on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _PoochBar(progress, progress.add_task(f"downloading {what}", total=None))


class _PoochBar:
    def __init__(self, progress: Any, task: Any):
        self._progress, self._task = progress, task
        self.total = 0

    def update(self, count: int) -> None:
        self._progress.update(self._task, total=self.total, advance=count)

    def reset(self) -> None:  # pooch resets the bar and updates it by the whole once a file is complete
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.reset(self._task)
