"""`numbacnn`: finds the command, built-in or a plugin's, and turns every error into one sentence and an exit status.

Exit status: 0 done, 1 the reader of the output left before its end (as click and rich have it), 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from .. import __version__
from ..errors import NumbacnnError, PluginError
from ..plugin import registry
from ..plugin.manager import BLOCK_VARIABLE, PluginWarning

BROKEN_PIPE, WRONG_INPUT, INTERRUPTED = 1, 2, 130


class Commands(click.Group):
    """A group whose commands are registered names of the kind ``"command"``, imported only when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return registry.names("command")

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name.startswith("-"):
            return None
        command = registry.load("command", name)
        if not isinstance(command, click.Command):
            entry = registry.find("command", name)
            raise PluginError(f"The command {name!r} of {entry.source} is not a click.Command but a {type(command).__name__}.")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The summaries of the specs, so that help imports no command."""
        rows = [(entry.spec.name, entry.spec.summary) for entry in registry.entries("command")]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:  # type: ignore[override]
        """``obj`` of the context is the command line as it was given."""
        written = list(sys.argv[1:] if args is None else args)
        given, blocked = _without_blocked(written)
        with _blocking(blocked), warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            if next((word for word in given if not word.startswith("-")), None) == "plugins":
                warnings.simplefilter("ignore", PluginWarning)  # this command tells them itself
            sys.exit(self._status(given, {"prog_name": "numbacnn", **options, "obj": written, "standalone_mode": False}))

    def _status(self, args: list[str], options: dict[str, Any]) -> int:
        try:
            status = super().main(args, **options)
            sys.stdout.flush()
        except (click.Abort, KeyboardInterrupt):
            return _failed("Interrupted.", INTERRUPTED)
        except click.UsageError as error:
            return _usage(error)
        except click.ClickException as error:
            return _failed(error.format_message())
        except NumbacnnError as error:
            return _failed(str(error))
        except MemoryError as error:
            return _failed(f"There is not enough memory{f': {error}' if str(error) else ''}. A smaller --batch-size needs less.")
        except OSError as error:
            if error.errno == errno.EPIPE:
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115  what still waits to be written has no reader
                return BROKEN_PIPE
            return _failed(_told(error))
        return status if isinstance(status, int) else 0


def _usage(error: click.UsageError) -> int:
    """A wrong option or argument: what is wrong, and where the right ones stand. No arguments at all: the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        click.echo(error.format_message(), err=True)
        return WRONG_INPUT
    command = error.ctx.command_path if error.ctx else "numbacnn"
    return _failed(f"{error.format_message().rstrip('.')}. See `{command} --help`.")


def _told(error: OSError) -> str:
    what = error.strerror or str(error)
    return f"{error.filename}: {what}." if error.filename else f"{what}."


def _failed(sentence: str, status: int = WRONG_INPUT) -> int:
    click.echo(f"numbacnn: {sentence}", err=True)
    return status


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, UserWarning):
        click.echo(f"numbacnn: warning: {message}", err=True)


def _without_blocked(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without ``--no-plugin NAME``, which may stand anywhere, and the names."""
    rest: list[str] = []
    blocked: list[str] = []
    waiting = list(args)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            return [*rest, argument, *waiting], blocked
        if argument == "--no-plugin" and waiting:
            blocked.append(waiting.pop(0))
        elif argument.startswith("--no-plugin="):
            blocked.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest, blocked


@contextlib.contextmanager
def _blocking(names: list[str]) -> Iterator[None]:
    """Block plugins, here and in processes that are started from here."""
    before = os.environ.get(BLOCK_VARIABLE)
    if names:
        os.environ[BLOCK_VARIABLE] = ",".join([*filter(None, [before]), *names])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(BLOCK_VARIABLE, None)
        else:
            os.environ[BLOCK_VARIABLE] = before


@click.group(
    "numbacnn",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`numbacnn COMMAND --help` has options and examples. To begin: numbacnn train lenet5 digits",
)
@click.option(
    "--no-plugin", metavar="NAME", multiple=True, expose_value=False, help="Leave a plugin out; may stand anywhere, and be repeated."
)
@click.version_option(__version__, prog_name="numbacnn")
def main() -> None:
    """Convolutional networks in Python: every kernel compiled by Numba, every layer a plugin."""


if __name__ == "__main__":
    main()
