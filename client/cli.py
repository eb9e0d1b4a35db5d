"""The command line `lybic-guiagent`.

It imports none of the other packages: those that are installed bring their commands along, as entry points
of the group `lybic_guiagent.commands`.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import typer
from rich.console import Console

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


def main() -> None:
    """Runs the command line. An error that was raised on purpose is one message and exit code 1."""
    try:
        make_app(sys.argv[1:2])()
    except Exception as error:
        message = _purposeful(error)
        if message is None:
            raise
        Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def make_app(wanted: Sequence[str] = ()) -> typer.Typer:
    """The application with the commands that are installed; with the `wanted` ones only, if there are such.

    To load the others as well would make a small command wait for the imports of the large ones.
    """
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    installed = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    for entry in [entry for entry in installed if entry.name in wanted] or installed:
        _add(app, entry)
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


def _add(app: typer.Typer, entry: EntryPoint) -> None:
    """Adds the command, or group of commands. One whose own package is not installed is left out."""
    try:
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=entry.name)
        else:
            app.command(entry.name)(loaded)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing != entry.module.partition(".")[0]:
            whatever = {"allow_extra_args": True, "ignore_unknown_options": True}
            app.command(entry.name, context_settings=whatever)(_explain(entry.name, missing))


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
