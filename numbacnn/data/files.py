"""Finding the files of a data set on this machine, or downloading them, checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .. import downloads
from ..downloads import RemoteFile
from ..errors import DataError
from ..paths import cache_folder

FOLDER_VARIABLE = "NUMBACNN_DATA_DIR"


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
    downloads.download(dataset, wanted, folder, instead, DataError)
    return folder
