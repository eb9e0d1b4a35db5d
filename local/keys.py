"""`lybic-guiagent keys`: who may call the API."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from alembic import command
from pydantic import SecretStr
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from local.folders import Folder
from local.servers import Postgres
from local.up import choose_storage, read_settings, user_environment
from migrations.__main__ import config
from shared import keys as api_keys
from shared.db import Database
from shared.errors import ConfigurationError
from shared.models import ApiKey
from shared.settings import StorageSettings

keys = typer.Typer(
    no_args_is_help=True, help="Create, list, rotate and revoke the keys of those who call the API."
)

Name = Annotated[str, typer.Argument(help="What the key is called here, such as the caller's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StateDir = Annotated[
    Path | None, typer.Option(help="Folder of `up --state-dir`; else POSTGRES_CONNECTION_STRING counts.")
]


SHOWN = ("name", "hint", "created_at", "used_at", "revoked_at", "rate_limit", "max_active_tasks")


@keys.command()
def create(
    name: Name,
    *,
    rate_limit: Annotated[
        str | None,
        typer.Option(metavar="N/second|minute|hour|day", help="Most requests; else API_RATE_LIMIT."),
    ] = None,
    max_active_tasks: Annotated[
        int | None, typer.Option(min=1, help="Most tasks that have not ended; else API_MAX_ACTIVE_TASKS.")
    ] = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, for the only time: what is stored is its hash."""
    with opened(state_dir) as session:
        key = api_keys.create(session, name, rate_limit=rate_limit, max_active_tasks=max_active_tasks)
    _show_key(name, key, as_json=as_json)


@keys.command("list")
def show(*, state_dir: StateDir = None, as_json: Json = False) -> None:
    """List the keys that there are and were."""
    with opened(state_dir) as session:
        known = api_keys.known(session)
    if as_json:
        for key in known:
            typer.echo(json.dumps({name: getattr(key, name) for name in SHOWN}, default=datetime.isoformat))
        return
    table = Table(
        Column("name", overflow="fold"), "key", "created", "last used", "state", "requests", "tasks", box=None
    )
    for key in known:
        table.add_row(*map(Text, _cells(key)))
    Console(highlight=False).print(table)


@keys.command()
def rotate(name: Name, *, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Replace a key and print the new one. Its tasks and limits stay; the old one is shut out at once."""
    with opened(state_dir) as session:
        key = api_keys.rotate(session, name)
    _show_key(name, key, as_json=as_json)


@keys.command()
def revoke(name: Name, *, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Shut out whoever has the key of this name. Its tasks go on."""
    with opened(state_dir) as session:
        api_keys.revoke(session, name)
    typer.echo(json.dumps({"name": name, "revoked": True}) if as_json else f"{name} is revoked")


def _show_key(name: str, key: str, *, as_json: bool) -> None:
    typer.echo(json.dumps({"name": name, "key": key}) if as_json else key)


@contextmanager
def opened(state_dir: Path | None) -> Iterator[Session]:
    """A transaction in the database that `up` or the API would take. Raises `ConfigurationError`."""
    with _database_url(state_dir) as url:
        db = Database.connect(StorageSettings(url=SecretStr(url)), name="guiagent keys")
        try:
            with db.transaction() as session:
                yield session
        except ProgrammingError:
            raise ConfigurationError(
                "the database is not migrated: run `python -m migrations upgrade`"
            ) from None
        finally:
            db.close()


@contextmanager
def _database_url(state_dir: Path | None) -> Iterator[str]:
    storage = choose_storage(read_settings().storage, state_dir, user_environment())
    if storage.url is not None:
        yield storage.url
    elif storage.kept is None:
        raise ConfigurationError(
            "Which database? Name the folder of `up` with --state-dir, or set POSTGRES_CONNECTION_STRING."
        )
    elif running := Postgres.running(storage.kept / "postgres"):
        yield running
    else:
        folder = Folder(storage.kept)
        folder.claim()
        try:
            with Postgres(storage.kept / "postgres") as server:
                command.upgrade(config(server.url), "head")
                yield server.url
        finally:
            folder.release()


def _cells(key: ApiKey) -> list[str]:
    def day(moment: datetime | None) -> str:
        return f"{moment:%Y-%m-%d}" if moment else "never"

    state = f"revoked {day(key.revoked_at)}" if key.revoked_at else "valid"
    limits = [key.rate_limit or "default", str(key.max_active_tasks or "default")]
    return [key.name, f"{key.hint}…", day(key.created_at), day(key.used_at), state, *limits]
