"""The command line `lybic-guiagent`.

It imports none of the other packages: those that are installed bring their commands along, as entry points
of the group `lybic_guiagent.commands`. Each is loaded when it is asked for.
"""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from inspect import getdoc
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from client.exits import EPILOG, ExitCode

SURROUNDINGS = """\
Environment
  LYBIC_GUIAGENT_URL      the server, unless --url names another one
  LYBIC_GUIAGENT_API_KEY  its API key, where it needs one

"""
GROUP = "lybic_guiagent.commands"
DISTRIBUTION = "lybic-guiagent"


class NotInstalled(Exception):
    """A command needs a package of an extra. The message says how to get it."""

    code = "not_installed"

    def __init__(self, command: str, package: str) -> None:
        self.message = (
            f"`{command}` needs {package}, which is not installed: pip install '{DISTRIBUTION}[local]'"
        )
        super().__init__(self.message)


class Commands(TyperGroup):
    """The commands of the packages that are there: known by name, loaded when they are asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
        self._entries = {entry.name: entry for entry in found if find_spec(_package(entry))}
        self.commands.update({name: TyperCommand(name) for name in self._entries})
        self._completing = False

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | TyperGroup | None:  # noqa: ARG002
        """The command itself; its name alone where that is all that is asked for."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        return TyperCommand(cmd_name) if self._completing else _loaded(entry)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The names: whoever presses Tab would have to wait for all commands to be loaded."""
        self._completing = True
        return super().shell_complete(ctx, incomplete)


def main() -> None:
    """Runs the command line. An error that was raised on purpose is one message and exit code 1."""
    try:
        make_app()()
    except Exception as error:
        message = _purposeful(error)
        if message is None:
            raise
        Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(ExitCode.FAILED)


def make_app() -> typer.Typer:
    """The application with the commands that are installed."""
    app = typer.Typer(
        cls=Commands,
        name=DISTRIBUTION,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        epilog=SURROUNDINGS + EPILOG,
    )
    app.callback()(_root)
    return app


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """A durable service that runs GUI agents on Lybic cloud desktops."""


def _package(entry: EntryPoint) -> str:
    return entry.module.partition(".")[0]


def _loaded(entry: EntryPoint) -> TyperCommand | TyperGroup:
    """The command, or group of commands; one that needs a package which is not installed says so."""
    own, whatever = _package(entry), {}
    try:
        loaded = entry.load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == own:
            raise
        loaded = _explain(entry.name, missing)
        whatever = {"allow_extra_args": True, "ignore_unknown_options": True}
    panel = "Tasks" if own == __package__ else "Servers"
    if isinstance(loaded, typer.Typer):
        group = get_group(loaded)
        group.name, group.rich_help_panel = entry.name, panel
        return group
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(entry.name, context_settings=whatever, rich_help_panel=panel, help=_help(loaded))(loaded)
    return cast(TyperCommand, get_command(app))


def _help(command: Callable[..., None]) -> str:
    """The docstring, a line for each paragraph: typer would break the lines of all but the first twice."""
    paragraphs = getdoc(command) or ""
    return "\n\n".join(" ".join(one.split()) for one in paragraphs.split("\n\n"))


def _explain(command: str, package: str) -> Callable[..., None]:
    def unavailable() -> None:
        raise NotInstalled(command, package)

    unavailable.__doc__ = f"Not available: needs {package}."
    return unavailable


def _purposeful(error: Exception) -> str | None:
    """The message of an error of ours, which has a code: known by shape, as this package imports no other."""
    if not isinstance(getattr(error, "code", None), str):
        return None
    message = getattr(error, "message", None)
    return message if isinstance(message, str) else None
