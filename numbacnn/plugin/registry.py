"""Names to things: what is registered under a name, who provides it, and the thing itself.

Kinds are the keys of :data:`numbacnn.plugin.specs.KINDS`. ``"package:name"`` asks for the thing of one distribution (or entry point).
A name that two plugins provide raises PluginError when it is asked for without saying whose. An activation is a layer too: the
kind ``"layer"`` falls back on activations.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

from ..errors import ConfigError, PluginError, UnknownNameError
from .manager import Entry, PluginInfo, PluginManager, default_manager, normalized

_FALLBACK = {"layer": "activation"}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a thing comes from. ``distribution`` and ``version`` are None for one that no plugin registers."""

    name: str
    distribution: str | None
    version: str | None


def names(kind: str, manager: PluginManager | None = None) -> list[str]:
    """All names of a kind, sorted."""
    return sorted((manager or default_manager()).entries(kind))


def entries(kind: str, manager: PluginManager | None = None) -> list[Entry]:
    """All entries of a kind, sorted by name; several with one name where plugins are in conflict."""
    found = (manager or default_manager()).entries(kind)
    return [entry for name in sorted(found) for entry in found[name]]


def plugins(manager: PluginManager | None = None) -> tuple[PluginInfo, ...]:
    """Every plugin that is installed, with its status."""
    return (manager or default_manager()).plugins


def find(kind: str, name: str, manager: PluginManager | None = None) -> Entry:
    """The entry of a name. Raises UnknownNameError, ConfigError for what is no text, or PluginError where several plugins provide
    it."""
    manager = manager or default_manager()
    if not isinstance(name, str):
        raise ConfigError(f"{name!r} was given as a name, of the kind {kind}; a name is text.")
    package, _, bare = name.rpartition(":")
    found = _providers(manager, kind, bare, package)
    if not found and kind in _FALLBACK:
        found = _providers(manager, _FALLBACK[kind], bare, package)
    if not found:
        raise _unknown(manager, kind, name)
    if len(found) > 1:
        raise _conflict(kind, bare, found)
    return found[0]


def load(kind: str, name: str, manager: PluginManager | None = None) -> Any:
    """The thing of that name: imports its module. Raises as :func:`find`, and PluginError where importing fails."""
    return resolve(find(kind, name, manager))


def resolve(entry: Entry) -> Any:
    """The thing that an entry's factory string names. Raises PluginError where it cannot be imported."""
    return attribute(entry.spec.factory, f"The {entry.spec.kind} {entry.spec.name!r} of {entry.source}")


def attribute(dotted: str, what: str) -> Any:
    """What ``"package.module:attribute"`` names. Raises PluginError, which speaks of it as ``what``, where it cannot be imported."""
    module, _, path = dotted.partition(":")
    try:
        thing = importlib.import_module(module)
        for name in path.split("."):
            thing = getattr(thing, name)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} cannot be imported from {dotted}: {type(error).__name__}: {error}") from error
    return thing


def load_saved(kind: str, name: str, distribution: str | None, version: str | None = None, manager: PluginManager | None = None) -> Any:
    """The thing that a saved model recorded by :func:`origin`. Raises PluginError that says what to install, or why an installed
    plugin is not in use."""
    manager = manager or default_manager()
    if distribution is None:
        return load(kind, name, manager)
    found = _providers(manager, kind, name, distribution) or _providers(manager, _FALLBACK.get(kind, kind), name, distribution)
    if found:
        return resolve(found[0])
    carrier = f"the distribution {distribution}" + (f" (version {version})" if version else "")
    installed = [p for p in manager.plugins if normalized(p.distribution) == normalized(distribution)]
    for plugin in installed:
        if plugin.status not in ("ok", "conflict"):
            raise PluginError(
                f"The model needs the {kind} {name!r} of {carrier}, whose plugin {plugin.name!r} is {plugin.status}: {plugin.error}"
            )
    if installed:
        has = installed[0].version
        raise PluginError(f"The model needs the {kind} {name!r} of {carrier}; version {has} is installed and does not have it.")
    raise PluginError(f"The model needs the {kind} {name!r} of {carrier}, which is not installed: pip install {distribution}")


def origin(kind: str, name_or_object: Any, manager: PluginManager | None = None) -> Origin:
    """Who provides a registered name, or a class, function or instance of a class. An object that no plugin registers has its own
    name and no distribution."""
    manager = manager or default_manager()
    if isinstance(name_or_object, str):
        return _origin_of(find(kind, name_or_object, manager))
    thing = name_or_object if hasattr(name_or_object, "__qualname__") else type(name_or_object)
    kinds = [kind, _FALLBACK[kind]] if kind in _FALLBACK else [kind]
    for entry in (entry for k in kinds for entry in entries(k, manager)):
        if _imported(entry) is thing:
            return _origin_of(entry)
    return Origin(thing.__name__, None, None)


def _origin_of(entry: Entry) -> Origin:
    return Origin(entry.spec.name, entry.distribution, entry.version)


def _providers(manager: PluginManager, kind: str, name: str, package: str) -> list[Entry]:
    found = manager.entries(kind).get(name, [])
    if not package:
        return found
    return [e for e in found if normalized(e.distribution) == normalized(package)] or [e for e in found if e.plugin == package]


def _imported(entry: Entry) -> Any:
    """The thing of an entry if its module has been imported, else None."""
    module, _, path = entry.spec.factory.partition(":")
    thing: Any = sys.modules.get(module)
    for attribute in path.split("."):
        thing = getattr(thing, attribute, None)
    return thing


def _conflict(kind: str, name: str, found: list[Entry]) -> PluginError:
    one_carrier = len({e.distribution for e in found}) == 1
    carriers = [e.plugin if one_carrier else e.distribution for e in found]
    sources = " and ".join(f"{e.source} (plugin {e.plugin!r})" for e in found)
    choices = " or ".join(f"'{carrier}:{name}'" for carrier in carriers)
    return PluginError(f"The {kind} {name!r} is provided by {sources}. Ask for {choices}, or block one plugin with --no-plugin.")


def _unknown(manager: PluginManager, kind: str, name: str) -> UnknownNameError:
    error = UnknownNameError(kind, name, manager.entries(kind))
    unused = [f"{p.name} ({p.status})" for p in manager.plugins if p.status not in ("ok", "conflict")]
    if unused:
        error.args = (f"{error} Plugins that are not in use: {', '.join(unused)}; `numbacnn plugins` says why.",)
    return error
