"""Finding the files of a data set on this machine, or downloading them, checked."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..paths import cache_folder

FOLDER_VARIABLE = "NUMBACNN_DATA_DIR"


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded: its name, the SHA-256 that it must have, and where it lies (tried in this order)."""

    name: str
    sha256: str
    urls: tuple[str, ...]


def search_folders(dataset: str, folder: str | os.PathLike | None = None, system: Sequence[str] = ()) -> list[Path]:
    """Folders in which a data set's files may lie, most wanted first: ``folder`` and ``folder/dataset`` if it is given, otherwise the
    download folder, folders of the ``system``'s packages, and ``datasets/dataset`` in numbacnn's cache folder."""
    if folder is not None:
        given = Path(folder).expanduser()
        if not given.is_dir():
            raise DataError(f"There is no folder {given} to read {dataset} from.")
        return [given, given / dataset]
    return list(dict.fromkeys([download_folder(dataset), *map(Path, system), cache_folder() / "datasets" / dataset]))


def download_folder(dataset: str) -> Path:
    """Where a data set's files are downloaded to: ``$NUMBACNN_DATA_DIR/dataset``, else in numbacnn's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() / dataset if chosen else cache_folder() / "datasets" / dataset


def missing(dataset: str, files: Sequence[RemoteFile], folder: str | os.PathLike) -> DataError:
    """The error for a folder that a user named and that lacks a data set's files."""
    return DataError(f"{folder} does not hold {dataset}, which is {' and '.join(file.name for file in files)}.")


def download(dataset: str, files: Sequence[RemoteFile]) -> Path:
    """Download those of a data set's files that are not there yet, each to a temporary file that is renamed once its checksum
    is right, with a progress bar on a terminal. Returns their folder. Raises DataError that says what to put where instead."""
    folder = download_folder(dataset)
    wanted = [file for file in files if not (folder / file.name).is_file()]
    instead = f"put {' and '.join(file.name for file in files)} (from {files[0].urls[0].rpartition('/')[0]}/) into {folder}"
    try:
        import pooch  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise DataError(
            f'{dataset} is not on this machine: `pip install "numbacnn[download]"` to have it downloaded, or {instead}.'
        ) from None
    with _quiet(pooch), _progress_bar(dataset) as bar:
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=30)
        for file in wanted:
            reason = _download_one(pooch, downloader, file, folder)
            if reason:
                raise DataError(f"{dataset} is not on this machine and {file.name} could not be downloaded ({reason}): {instead}.")
    return folder


def _download_one(pooch: Any, downloader: Any, file: RemoteFile, folder: Path) -> str:
    """Returns why none of the addresses worked; nothing once one did."""
    reasons = []
    for url in file.urls:
        try:
            pooch.retrieve(url, f"sha256:{file.sha256}", file.name, folder, downloader=downloader)
            return ""
        except (OSError, ValueError) as error:  # errors of requests are OSErrors; a wrong checksum is a ValueError
            reasons.append(_reason(error))
    return "; ".join(dict.fromkeys(reasons))


def _reason(error: Exception) -> str:
    """A few words; the libraries below print whole object trees."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, ValueError):
        return "its checksum is wrong"
    if isinstance(error, ConnectionError) or "Connection" in type(error).__name__:
        return "no connection"
    if "Timeout" in type(error).__name__:
        return "timed out"
    return getattr(error, "strerror", None) or type(error).__name__


@contextlib.contextmanager
def _quiet(pooch: Any) -> Iterator[None]:
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _progress_bar(dataset: str) -> Iterator[Any]:
    """A bar with the methods that pooch calls, drawn by rich on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _PoochBar(progress, progress.add_task(f"downloading {dataset}", total=None))


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
