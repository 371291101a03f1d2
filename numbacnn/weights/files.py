"""Weights on disk: safetensors and npz, written whole or not at all, and read with one sentence for what is wrong.

A model's file is an ordinary ``.safetensors`` file: one tensor per parameter under its dotted name, and, in the metadata
under ``"numbacnn"``, a JSON text with the format's version and the graph (each layer's name, version and providing
distribution), so that it is rebuilt without running any code from the file.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError
from . import names

FORMAT = 1
"""Version of the file's layout; a reader refuses newer ones."""
METADATA_KEY = "numbacnn"
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
SHOWN = 4
"""How many names a message lists of each kind of mismatch."""


# Writing -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path next to ``path``; it takes the place of ``path``, flushed to disk, when the block ends well,
    and is removed when it does not. Readers, and a machine that loses power, see the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last; where folders cannot be opened (Windows), the system takes care of it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_weights(path: str | os.PathLike, weights: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays by name to a safetensors file, atomically. Raises WeightsError where it cannot be written."""
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(array, order="C") for name, array in weights.items()}
    try:
        with atomic_file(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(tensors, temporary, dict(metadata or {}))
            temporary.chmod(mode)  # safetensors makes files that only their owner may read
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise WeightsError(f"{str(path)!r} cannot be written: {error}.") from error


def save_parts(path: str | os.PathLike, config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Write a model: ``config`` is JSON-able and describes the graph, ``weights`` are all arrays by name."""
    text = json.dumps({"format": FORMAT, "model": config})
    write_weights(path, weights, {METADATA_KEY: text})


# Reading -------------------------------------------------------------------------------------------------------------


def read_weights(source: str | os.PathLike | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name from a ``.safetensors`` or ``.npz`` file, or from a mapping of anything that NumPy takes.

    Raises WeightsError, in a sentence, for a file that is missing, damaged or of another kind."""
    if isinstance(source, Mapping):
        return {str(name): np.asarray(array) for name, array in source.items()}
    path = Path(source)
    if path.suffix.lower() in TORCH_SUFFIXES:
        raise WeightsError(
            f"{str(path)!r} looks like a PyTorch file, which this version does not read; save it as .safetensors or .npz first, "
            "for example with safetensors.torch.save_file(module.state_dict(), path)."
        )
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    if path.suffix.lower() == ".safetensors" or not path.suffix:
        return _read_safetensors(path)[0]
    raise WeightsError(f"{str(path)!r} is not a weights file: .safetensors and .npz are read, {path.suffix!r} is not.")


def load_parts(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`save_parts` wrote: ``(config, weights)``.

    Raises WeightsError for a file that is not a numbacnn model, or was written by a newer version."""
    weights, metadata = _read_safetensors(Path(path))
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f"{str(path)!r} holds weights but no model: build the model in code (or with nc.create), then use model.load_weights(path)."
        )
    try:
        text = json.loads(metadata[METADATA_KEY])
        version, config = int(text["format"]), dict(text["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{str(path)!r} is damaged: its description of the model cannot be read.") from error
    if version > FORMAT:
        raise WeightsError(f"{str(path)!r} was written in format {version}, this numbacnn reads up to {FORMAT}: pip install -U numbacnn.")
    return config, weights


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    _check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (not a mapping)
    except (SafetensorError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{str(path)!r} is not a complete safetensors file that NumPy can hold: {error}.") from error
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    _check_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise WeightsError(f"{str(path)!r} is not a complete npz file of plain arrays: {error}.") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder; a weights file is needed.")
    if not path.exists():
        raise WeightsError(f"There is no file {str(path)!r}.")


# Assigning -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """How the names of a file and of a model met, as the file spells them. ``convention`` is whose names these are (``"numbacnn"``,
    ``"torchvision"``...); ``shapes`` gives (name, given shape, needed shape)."""

    assigned: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    convention: str = names.OWN

    @property
    def complete(self) -> bool:
        """Whether every parameter was given, and nothing else."""
        return not (self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        parts = [f"{len(self.assigned)} parameters assigned"]
        if self.missing:
            parts.append(f"{len(self.missing)} missing: {_listed([_with_hint(name, self.unexpected) for name in self.missing])}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected: {_listed([_with_hint(name, self.missing) for name in self.unexpected])}")
        if self.shapes:
            wrong = [f"{name!r} has shape {given}, the model needs {needed}" for name, given, needed in self.shapes]
            parts.append(f"{len(self.shapes)} of the wrong shape: {_listed(wrong)}")
        return "; ".join(parts)


def assign(model: Any, weights: Mapping[str, Any], strict: bool = True, skip_mismatched: bool = False) -> Report:
    """Copy arrays into the model's parameters, by our names or by those of the library that more of the names fit.

    Raises WeightsError, and leaves the model as it was, where a kind of number does not fit, where a shape does not and
    ``skip_mismatched`` is not set, or, if ``strict``, where a name is missing or unexpected. What is skipped is reported."""
    given = {name: np.asarray(array) for name, array in weights.items() if not names.IGNORED.fullmatch(name)}
    candidates = {convention: names.places(model, convention) for convention in names.conventions(model)}
    convention = max(candidates, key=lambda key: sum(place.name in given for place in candidates[key].values()))
    places = {ours: place for ours, place in candidates[convention].items() if place.name in given}
    known = {place.name for place in candidates[convention].values()}
    fitting = {ours: place for ours, place in places.items() if _without_ones(given[place.name].shape) == _without_ones(place.shape)}
    report = Report(
        assigned=tuple(place.name for place in fitting.values()),
        missing=tuple(place.name for place in candidates[convention].values() if place.name not in given),
        unexpected=tuple(name for name in given if name not in known),
        shapes=tuple((place.name, given[place.name].shape, place.shape) for ours, place in places.items() if ours not in fitting),
        convention=convention,
    )
    if (report.shapes and not skip_mismatched) or (strict and (report.missing or report.unexpected)):
        raise WeightsError(f"The weights do not fit the model: {_mismatch(report)}.")
    for place in fitting.values():
        if given[place.name].dtype.kind not in "fiu":
            raise WeightsError(
                f"The weights do not fit the model: {place.name!r} holds {given[place.name].dtype}, real numbers are needed."
            )
    for ours, place in fitting.items():
        model.parameters[ours] = place.imported(given[place.name])
    return report


def export(model: Any, path: str | os.PathLike, convention: str) -> None:
    """Write the model's parameters in the names and layouts of a library. Raises UnknownNameError where there are no rules for it."""
    places = names.places(model, convention)
    write_weights(path, {place.name: place.exported(model.store.view(ours)) for ours, place in places.items()})


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _mismatch(report: Report) -> str:
    return str(report).partition("; ")[2]


def _with_hint(name: str, candidates: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f"{name!r} (near {close[0]!r})" if close else repr(name)


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
