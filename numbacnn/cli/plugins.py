"""`numbacnn plugins`."""

from __future__ import annotations

import dataclasses

import click

from ..plugin import registry
from ..plugin.manager import PluginInfo
from . import options


@click.command(
    epilog=options.examples(
        "numbacnn plugins",
        "numbacnn plugins --json",
        "numbacnn --no-plugin blurpool plugins",
        "NUMBACNN_PLUGINS=architectures,datasets numbacnn plugins",
    )
)
@options.as_json
def command(as_json: bool) -> None:
    """Show all plugins: what they provide, and why one is not in use.

    A status is ok, conflict (a name that another plugin has too), broken, incompatible (written for other hooks) or blocked (by
    --no-plugin, NUMBACNN_NO_PLUGIN or the allow-list NUMBACNN_PLUGINS).
    """
    plugins = registry.plugins()
    if as_json:
        options.print_json([dataclasses.asdict(plugin) for plugin in plugins])
    else:
        _print_table(plugins)


def _print_table(plugins: tuple[PluginInfo, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("plugin", "distribution", "status", "provides", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for plugin in plugins:
        colour = "green" if plugin.status == "ok" else "yellow" if plugin.status in ("blocked", "conflict") else "red"
        table.add_row(
            Text(plugin.name), Text(f"{plugin.distribution} {plugin.version}"), Text(plugin.status, style=colour), Text(_provided(plugin))
        )
    console = Console()
    console.print(table)
    for plugin in plugins:
        if plugin.error:
            console.print(f"\n{plugin.name}: {plugin.error}", markup=False, highlight=False, soft_wrap=True)


def _provided(plugin: PluginInfo) -> str:
    """Names by kind; a kind with many is only counted."""
    lines = []
    for kind, names in plugin.provides.items():
        plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
        counted = f"{len(names)} {plural}" if len(names) > 1 else kind
        lines.append(f"{counted}: {', '.join(names)}" if len(names) <= 8 else counted)
    return "\n".join(lines) or "-"
