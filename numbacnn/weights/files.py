"""Weights on disk: safetensors, written whole or not at all, and npz and PyTorch's files, read with one sentence for what is wrong.

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
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError
from ..layers.base import Shape
from . import names, torch_files

FORMAT = 1
"""Version of the file's layout; a reader refuses newer ones."""
METADATA_KEY = "numbacnn"
SHOWN = 4
"""How many names a message lists of each kind of mismatch."""
SEARCHED = 1000
"""How many names are compared with one that is listed."""
UNPACKED, RATIO = 1 << 30, 100
"""An npz file may unpack to that many bytes, or to so many times its own size."""
NPZ_ERRORS = (
    *(ValueError, EOFError, LookupError, TypeError, SyntaxError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, tokenize.TokenError),
)
"""What NumPy and zipfile raise for files of nonsense."""


# Writing -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path next to ``path``; it takes the place of ``path``, flushed to disk, when the block ends well,
    and is removed when it does not. Readers, and a machine that loses power, see the old file or the new one."""
    path = Path(os.path.realpath(path))  # where it is a link, what that leads to is written
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder; it takes the name of a file.")
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
    """Arrays by name from a ``.safetensors`` or ``.npz`` file, from a PyTorch checkpoint (:mod:`numbacnn.weights.torch_files`), or from a
    mapping of anything that NumPy takes.

    Raises WeightsError, in a sentence, for a file that is missing, damaged or of another kind."""
    if isinstance(source, Mapping):
        return {str(name): np.asarray(array) for name, array in source.items()}
    path = Path(source)
    suffix = path.suffix.lower()
    readers: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
        ".npz": _read_npz,
        **dict.fromkeys(torch_files.SUFFIXES, torch_files.read_checkpoint),
    }
    readers |= dict.fromkeys(("", ".safetensors"), _read_tensors)
    if suffix not in readers:
        known = ", ".join(sorted(filter(None, readers)))
        raise WeightsError(f"{str(path)!r} is not a weights file: {known} are read, {path.suffix!r} is not.")
    _check_file(path)
    return (_read_tensors if _is_safetensors(path) else readers[suffix])(path)


def _is_safetensors(path: Path) -> bool:
    """By how it begins: eight bytes for the length of a JSON text, and that text."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    return _read_safetensors(path)[0]


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
            halves = [name for name in file.keys() if file.get_slice(name).get_dtype() == "BF16"]  # noqa: SIM118 (not a mapping)
            weights = {name: file.get_tensor(name) for name in file.keys() if name not in halves}  # noqa: SIM118
            return {**weights, **_read_bfloat16(path, halves)}, dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{str(path)!r} is not a complete safetensors file: {error}.") from error
    except (TypeError, AttributeError) as error:
        raise WeightsError(f"{str(path)!r} holds numbers of a type that NumPy lacks: {error}.") from error
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error


def _read_bfloat16(path: Path, tensors: list[str]) -> dict[str, np.ndarray]:
    """The tensors of a file that safetensors has found to be whole, of a type that NumPy lacks, as float32."""
    weights = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in tensors:
            start, stop = header[name]["data_offsets"]
            file.seek(8 + length + start)
            weights[name] = torch_files.from_bfloat16(np.frombuffer(file.read(stop - start), "<u2")).reshape(header[name]["shape"])
    return weights


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(record.file_size for record in archive.infolist()) > max(UNPACKED, RATIO * path.stat().st_size):
                raise ValueError(f"it unpacks to more than {RATIO} times its size")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except NPZ_ERRORS as error:
        raise WeightsError(
            f"{str(path)!r} is not a complete npz file of plain arrays: {str(error).rstrip('.') or type(error).__name__}."
        ) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder; a weights file is needed.")
    if not path.exists():
        raise WeightsError(f"There is no file {str(path)!r}.")


# Assigning -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """How the names of a file and of a model met, as the file spells them, but for what wrappers put before all. ``convention`` is whose
    names these are (``"numbacnn"``, ``"torchvision"``...); ``shapes`` gives (name, given shape, needed shape)."""

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
        whose = "" if self.convention == names.OWN else f" by their names in {self.convention}"
        return "; ".join([f"{len(self.assigned)} parameters assigned{whose}", *self.problems()])

    def problems(self) -> list[str]:
        """A phrase for each kind of mismatch, with the first few names."""
        phrases = []
        if self.missing:
            phrases.append(f"{len(self.missing)} missing: {_listed(self.missing, lambda name: _with_hint(name, self.unexpected))}")
        if self.unexpected:
            phrases.append(f"{len(self.unexpected)} unexpected: {_listed(self.unexpected, lambda name: _with_hint(name, self.missing))}")
        if self.shapes:
            phrases.append(f"{len(self.shapes)} of the wrong shape: {_listed(self.shapes, _shapes_apart)}")
        return phrases


def assign(model: Any, weights: Mapping[str, Any], strict: bool = True, skip_mismatched: bool = False, adapt_input: bool = False) -> Report:
    """Copy arrays into the model's parameters, by our names or by those of the library that more of the names fit. What DataParallel and
    torch.compile put before all names is left out. With ``adapt_input`` the weights of the first convolutions are made to fit another
    number of input channels (:func:`numbacnn.weights.names.with_channels`).

    Raises WeightsError, and leaves the model as it was, where a kind of number does not fit, where a shape does not and
    ``skip_mismatched`` is not set, where no name fits, or, if ``strict``, where one is missing or unexpected. What is skipped is
    reported."""
    given = {name: np.asarray(array) for name, array in weights.items() if not names.IGNORED.fullmatch(name)}
    conventions = names.conventions(model)
    candidates = {convention: names.places(model, convention) for convention in conventions}
    given = _unwrapped(given, {place.name for places in candidates.values() for place in places.values()})
    convention = max(candidates, key=lambda key: _met(candidates[key].values(), given))
    places = {ours: place for ours, place in candidates[convention].items() if place.name in given}
    known = {place.name for place in candidates[convention].values()}
    if adapt_input:
        given.update(_adapted(names.input_weights(model) & set(places), places, given))
    fitting = {ours: place for ours, place in places.items() if place.fits(given[place.name].shape)}
    report = Report(
        assigned=tuple(place.name for place in fitting.values()),
        missing=tuple(place.name for place in candidates[convention].values() if place.name not in given),
        unexpected=tuple(name for name in given if name not in known and not names.is_absent(name, conventions[convention])),
        shapes=tuple((place.name, given[place.name].shape, place.shape) for ours, place in places.items() if ours not in fitting),
        convention=convention,
    )
    if (report.shapes and not skip_mismatched) or (strict and (report.missing or report.unexpected)) or (given and not places):
        raise WeightsError(f"The weights do not fit the model: {_misfit(model, report)}.")
    for place in fitting.values():
        if given[place.name].dtype.kind not in "fiub":
            raise WeightsError(
                f"The weights do not fit the model: {place.name!r} holds {given[place.name].dtype}, real numbers are needed."
            )
    for ours, place in fitting.items():
        place.fill(model.store.view(ours), given[place.name])
    model.store.touch()
    return report


def _met(places: Iterable[names.Place], given: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """How many names are there, and how many of them with the shape that belongs there."""
    there = [place for place in places if place.name in given]
    return len(there), sum(place.fits(given[place.name].shape) for place in there)


def _adapted(ours: Iterable[str], places: Mapping[str, names.Place], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of first convolutions with as many input channels as the model has, where that is all that does not fit."""
    found = {}
    for place in (places[name] for name in ours):
        array, axis = given[place.name], place.order.index(len(place.order) - 2)
        if array.ndim == len(place.shape) and not place.fits(array.shape):
            found[place.name] = names.with_channels(array, axis, place.shape[axis])
    return found


def export(model: Any, path: str | os.PathLike, convention: str) -> None:
    """Write the model's parameters in the names and layouts of a library. Raises UnknownNameError where there are no rules for it."""
    places = names.places(model, convention)
    write_weights(path, {place.name: place.exported(model.store.view(ours)) for ours, place in places.items()})


def output_parameters(model: Any, convention: str = names.OWN) -> set[str]:
    """What a library calls the parameters of the last layers that have any before each output: of the classes, in a classifier."""
    places = names.places(model, convention)
    makers = {tensor: node for node in model.graph.nodes for tensor in node.outputs}
    found: set[str] = set()
    tensors, seen = list(model.graph.outputs), set(model.graph.outputs)
    while tensors:
        node = makers.get(tensors.pop())
        if node is None:
            continue
        found |= {places[name].name for name in node.parameters.values()}
        before = [] if node.parameters else [tensor for tensor in node.inputs if tensor not in seen]
        tensors += before
        seen |= set(before)
    return found


def _unwrapped(given: dict[str, np.ndarray], known: set[str]) -> dict[str, np.ndarray]:
    """``given`` without a wrapper's prefix of all names, unless the model has such names itself."""
    for prefix in names.WRAPPERS * 2:  # one may stand in the other
        if given and not known & set(given) and all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): array for name, array in given.items()}
    return given


def _misfit(model: Any, report: Report) -> str:
    """What to say of weights that don't fit, and what to do about it. Of weights of another network it is no use to list names."""
    total = len(report.assigned) + len(report.missing) + len(report.shapes)
    if 2 * len(report.assigned) < total and (report.unexpected or report.shapes):
        foreign = f"{len(report.unexpected)} names are foreign, such as {' and '.join(map(repr, report.unexpected[:2]))}"
        return (
            f"they seem to be those of another network; {len(report.assigned)} of the {total} parameters of "
            f"{model.architecture or model.name or 'the model'} are among them by name and shape, and "
            f"{foreign if report.unexpected else _shapes_apart(report.shapes[0])}"
        )
    phrases = report.problems()
    if report.shapes and {name for name, _, _ in report.shapes} <= output_parameters(model, report.convention):
        phrases.append("the number of classes differs, and skip_mismatched=True leaves the layer that tells them apart as it is")
    elif report.shapes:
        phrases.append("skip_mismatched=True leaves those of the wrong shape out")
    return "; ".join(phrases)


def _listed(items: Sequence[Any], show: Callable[[Any], str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(show, items[:SHOWN])) + more


def _with_hint(name: str, candidates: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, candidates[:SEARCHED], n=1, cutoff=0.6)
    return f"{name!r} (near {close[0]!r})" if close else repr(name)


def _shapes_apart(misfit: tuple[str, Shape, Shape]) -> str:
    name, given, needed = misfit
    return f"{name!r} has shape {given}, the model needs {needed}"
