"""Loading plugins, each on its own: whatever one of them does, the others and numbacnn itself go on working."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import threading
import warnings
from collections.abc import Collection, Iterable
from importlib import metadata
from typing import Any

import pluggy

from .. import __version__
from ..errors import PluginError
from . import builtins, hookspecs
from .specs import SPECS, Spec

GROUP = "numbacnn"
ALLOW_VARIABLE = "NUMBACNN_PLUGINS"
BLOCK_VARIABLE = "NUMBACNN_NO_PLUGIN"


class PluginWarning(UserWarning):
    """A plugin that is installed but cannot be used."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that a plugin provides: its spec, the plugin (entry point), and the distribution that carries it."""

    spec: Spec
    distribution: str
    version: str
    plugin: str

    @property
    def source(self) -> str:
        """For messages."""
        return f"{self.distribution} {self.version}"


@dataclasses.dataclass(frozen=True)
class PluginInfo:
    """What ``numbacnn plugins`` tells of one plugin.

    ``status`` is ``"ok"``, ``"conflict"`` (loaded, but some of its names are taken by another too), ``"broken"``,
    ``"incompatible"`` (written for other hooks) or ``"blocked"``; ``error`` says why, in a sentence.
    ``provides`` are the names by kind.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    provides: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    status: str = "ok"
    error: str = ""


def normalized(distribution: str) -> str:
    """The name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


class PluginManager:
    """All plugins of one environment, loaded when they are first asked for.

    ``entry_points`` are those of the group ``numbacnn`` unless given. ``allowed`` and ``blocked`` hold names of entry points or of
    distributions; ``allowed`` None allows all. The built-ins come from :mod:`numbacnn.plugin.builtins` by the same hooks.
    """

    def __init__(
        self,
        entry_points: Iterable[metadata.EntryPoint] | None = None,
        allowed: Collection[str] | None = None,
        blocked: Collection[str] = (),
    ):
        self._entry_points = entry_points
        self._allowed, self._blocked = allowed, blocked
        self._entries: dict[str, dict[str, list[Entry]]] = {spec.kind: {} for spec in SPECS}
        self._plugins: list[PluginInfo] = []
        self._started = False
        self._lock = threading.RLock()

    @property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every plugin that was found, the built-ins first."""
        self._load_all()
        return tuple(map(self._with_conflicts, self._plugins))

    def entries(self, kind: str) -> dict[str, list[Entry]]:
        """Providers by name; more than one provider of a name is a conflict."""
        self._load_all()
        return self._entries[kind]

    def _load_all(self) -> None:
        """Load the plugins once. A plugin that looks a name up while it is being imported sees what is there so far."""
        with self._lock:
            if self._started:
                return
            self._started = True
            self._add(PluginInfo("builtins", "numbacnn", __version__), builtins)
            for point in self._found():
                self._load(point)
            complaints = [
                f"The plugin {p.name!r} of {p.distribution} {p.version} is not used: {p.error}"
                for p in self._plugins
                if p.status in ("broken", "incompatible")
            ]
            complaints += self._misspelt()
        for complaint in complaints:
            warnings.warn(complaint, PluginWarning, stacklevel=3)

    def _found(self) -> list[metadata.EntryPoint]:
        points = metadata.entry_points(group=GROUP) if self._entry_points is None else self._entry_points
        return sorted(points, key=lambda point: (_distribution(point) != ("numbacnn", __version__), _distribution(point), point.name))

    def _load(self, point: metadata.EntryPoint) -> None:
        info = PluginInfo(point.name, *_distribution(point))
        if _named(info, self._blocked):
            self._reject(info, "blocked", f"Blocked by --no-plugin or {BLOCK_VARIABLE}.")
        elif self._allowed is not None and not _named(info, self._allowed):
            self._reject(info, "blocked", f"{ALLOW_VARIABLE} does not name it.")
        else:
            try:
                plugin = point.load()
            except (Exception, SystemExit) as error:
                self._reject(info, "broken", f"Importing {point.value} raised {_told(error)}")
            else:
                self._add(info, plugin)

    def _add(self, info: PluginInfo, plugin: Any) -> None:
        """Take over all that a plugin provides, or, where anything is wrong with it, nothing."""
        try:
            _check_version(plugin)
            hooks, specs = _collect(plugin)
        except _IncompatibleError as error:
            return self._reject(info, "incompatible", str(error))
        except (PluginError, pluggy.PluginValidationError) as error:
            return self._reject(info, "broken", str(error))
        except (Exception, SystemExit) as error:
            return self._reject(info, "broken", f"One of its hooks raised {_told(error)}")
        provides: dict[str, tuple[str, ...]] = {}
        for spec in specs:
            self._entries[spec.kind].setdefault(spec.name, []).append(Entry(spec, info.distribution, info.version, info.name))
            provides[spec.kind] = (*provides.get(spec.kind, ()), spec.name)
        self._plugins.append(dataclasses.replace(info, hooks=hooks, provides=provides))

    def _reject(self, info: PluginInfo, status: str, error: str) -> None:
        self._plugins.append(dataclasses.replace(info, status=status, error=error))

    def _with_conflicts(self, info: PluginInfo) -> PluginInfo:
        """``info`` with a status that tells which of its names others provide too. The built-ins are not to blame."""
        if info.status != "ok" or info.name == "builtins":
            return info
        sentences = []
        for kind, names in info.provides.items():
            for name in names:
                others = [e.source for e in self._entries[kind][name] if (e.plugin, e.distribution) != (info.name, info.distribution)]
                if others:
                    sentences.append(f"The {kind} {name!r} is provided by {' and '.join(others)} too.")
        return dataclasses.replace(info, status="conflict", error=" ".join(sentences)) if sentences else info

    def _misspelt(self) -> list[str]:
        lists = ((ALLOW_VARIABLE, self._allowed or ()), (f"--no-plugin or {BLOCK_VARIABLE}", self._blocked))
        return [
            f"{where} names the plugin {name!r}, which is not installed."
            for where, names in lists
            for name in names
            if not any(_named(info, [name]) for info in self._plugins)
        ]


class _IncompatibleError(PluginError):
    """A plugin that was written for other hooks."""


def _named(info: PluginInfo, names: Iterable[str]) -> bool:
    """Whether ``names`` hold a plugin's name or that of its distribution."""
    return any(name == info.name or normalized(name) == normalized(info.distribution) for name in names)


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that an entry point belongs to."""
    if point.dist is None:
        return "unknown", "0"
    return point.dist.name, point.dist.version


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check_version(plugin: Any) -> None:
    wanted = getattr(plugin, "numbacnn_api", hookspecs.API_VERSION)
    if str(wanted).partition(".")[0] != str(hookspecs.API_VERSION):
        raise _IncompatibleError(
            f"It was built for version {wanted} of the plugin hooks, and numbacnn {__version__} has version {hookspecs.API_VERSION}: "
            f"install a release of the plugin, or of numbacnn, that fits."
        )


def _collect(plugin: Any) -> tuple[tuple[str, ...], list[Spec]]:
    """The hooks that a plugin implements and all specs that they yield. Raises whatever the plugin raises, and PluginError or
    PluginValidationError for hooks and specs that aren't any."""
    manager = pluggy.PluginManager("numbacnn")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    hooks, specs = [], []
    for kind in SPECS:
        caller = getattr(manager.hook, kind.hook)
        if caller.get_hookimpls():
            hooks.append(kind.hook)
            for yielded in caller(version=__version__):
                specs += _checked(kind, yielded)
    return tuple(hooks), specs


def _checked(kind: type[Spec], yielded: Any) -> list[Spec]:
    if isinstance(yielded, Spec) or not isinstance(yielded, Iterable):
        raise PluginError(f"Its hook {kind.hook} gave a {type(yielded).__name__}; it must yield {kind.__name__} objects.")
    specs, names = [], set()
    for spec in yielded:
        if not isinstance(spec, kind):
            raise PluginError(f"Its hook {kind.hook} yielded {spec!r}, which is not a {kind.__name__}.")
        if spec.name in names:
            raise PluginError(f"Its hook {kind.hook} yielded the name {spec.name!r} twice.")
        names.add(spec.name)
        specs.append(spec)
    return specs


def default_manager() -> PluginManager:
    """The manager of the installed plugins, as ``NUMBACNN_PLUGINS`` (allow-list; empty: none) and ``NUMBACNN_NO_PLUGIN`` say."""
    return _manager(os.environ.get(ALLOW_VARIABLE), os.environ.get(BLOCK_VARIABLE, ""))


@functools.cache
def _manager(allowed: str | None, blocked: str) -> PluginManager:
    return PluginManager(allowed=None if allowed is None else _names(allowed), blocked=_names(blocked))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
