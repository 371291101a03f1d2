"""Checkpoints of a run: a folder of files from which it goes on as if it had never stopped.

A checkpoint is one safetensors file: the parameters under their names, the optimizer's arrays as ``optimizer.NAME``, and all else
(position, history, fingerprint) as JSON in its metadata, with a checksum over everything. It is written under a temporary name,
flushed to disk and renamed, so that whatever happens there is a whole one. The last two are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, WeightsError
from ..weights.files import write_weights
from .history import plain

FORMAT = 1
KEPT = 2
METADATA_KEY = "numbacnn.checkpoint"
_NAME = re.compile(r"checkpoint-(\d{9,})\.safetensors")


class CheckpointWarning(UserWarning):
    """A checkpoint that cannot be read; the one before it was taken."""


@dataclasses.dataclass
class Checkpoint:
    """``arrays`` by name, and ``state`` that JSON can hold."""

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def save(folder: str | os.PathLike, step: int, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint after ``step`` steps, and remove all but this one and the one before: those after it, from which the run did
    not go on because they were damaged, and what processes that were killed have left of theirs. Raises WeightsError where it cannot be
    written."""
    folder = Path(folder)
    _make(folder)
    state = json.dumps(checkpoint.state, default=plain)
    metadata = {"format": FORMAT, "checksum": _checksum(checkpoint.arrays, state), "state": state}
    path = folder / f"checkpoint-{step:09d}.safetensors"
    write_weights(path, checkpoint.arrays, {METADATA_KEY: json.dumps(metadata)})
    there = paths(folder)
    at = there.index(path)
    _remove([*there[:at], *there[at + KEPT :], *_halves(folder)])
    return path


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"The checkpoint folder {str(folder)!r} cannot be made: {error.strerror or error}.") from error


def paths(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    folder = Path(folder)
    names = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(names, reverse=True)]


def clear(folder: str | os.PathLike) -> None:
    """Remove all checkpoints, and what interrupted writes have left."""
    _remove([*paths(folder), *_halves(folder)])


def _halves(folder: str | os.PathLike) -> list[Path]:
    """What interrupted writes have left."""
    return list(Path(folder).glob(".checkpoint-*.tmp"))


def _remove(files: list[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()


def newest(folder: str | os.PathLike) -> Checkpoint | None:
    """The newest checkpoint that is undamaged, with a CheckpointWarning where that is not the last; None in a folder
    without any. Raises WeightsError where all are damaged."""
    problems: list[str] = []
    for path in paths(folder):
        try:
            checkpoint = read(path)
        except WeightsError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem} Going on from {path.name}, the one before it.", CheckpointWarning, stacklevel=3)
        return checkpoint
    if problems:
        raise WeightsError(f"{problems[0]} There is no other one to resume from in {str(folder)!r}; run without resume to start anew.")
    return None


def read(path: str | os.PathLike) -> Checkpoint:
    """One checkpoint. Raises WeightsError where it is damaged."""
    from safetensors import safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, state, checksum = metadata["format"], metadata["state"], metadata["checksum"]
    except Exception as error:  # of the operating system, of safetensors, of JSON, of a missing key
        raise WeightsError(f"The checkpoint {str(path)!r} is damaged ({type(error).__name__}: {error}).") from error
    if version != FORMAT:
        raise WeightsError(f"The checkpoint {str(path)!r} has format {version!r}; this version of numbacnn reads format {FORMAT}.")
    if _checksum(arrays, state) != checksum:
        raise WeightsError(f"The checkpoint {str(path)!r} is damaged (its checksum does not fit its contents).")
    return Checkpoint(arrays, json.loads(state))


def _checksum(arrays: Mapping[str, np.ndarray], state: str) -> int:
    checksum = zlib.crc32(state.encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data, checksum)
    return checksum


def check_fingerprint(folder: str | os.PathLike, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise ConfigError where a checkpoint is of a run with another configuration, and say what differs."""
    differing = [name for name in current if saved.get(name) != current[name]]
    if not differing:
        return
    described = "; ".join(f"{name} was {_shown(saved.get(name))} and is {_shown(current[name])}" for name in differing)
    raise ConfigError(
        f"The checkpoint in {str(folder)!r} is of another run: {described}. Resume with the same configuration, or choose another folder."
    )


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
