"""`lybic-guiagent doctor`: all is well, nothing is, and what can be in between."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest
import typer
from alembic import command
from cryptography.fernet import Fernet
from typer.testing import CliRunner, Result

from local.demo import isolated
from local.doctor import doctor as command_line
from migrations.__main__ import config
from shared import jobs
from shared.db import Database
from shared.schemas import NewJob
from shared.secrets import Vault
from shared.settings import Settings
from tests.e2e.conftest import System

Doctor = Callable[..., Result]
SECRETS = ("sk-very-secret", "pw-very-secret", "ark-very-secret")


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs the command with just these settings."""

    app = typer.Typer()
    app.command()(command_line)

    def run(settings: Mapping[str, str], *arguments: str) -> Result:
        for name in set(os.environ) - set(isolated(os.environ)):
            monkeypatch.delenv(name)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, arguments)

    monkeypatch.chdir(tmp_path)
    return run


def found(result: Result) -> dict[str, tuple[str, str]]:
    """State, and all that is said, by part."""
    return {
        one["part"]: (one["state"], f"{one['found']} {one['advice']}") for one in json.loads(result.stdout)
    }


def test_all_is_well(system: System, doctor: Doctor) -> None:
    result = doctor(system.stack._environment, "--url", system.stack.plan.url)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    states = {part: state for state, part, *_ in lines if state != "→"}
    assert states.pop("database") == "warning", "a throw-away one does without fsync"
    assert set(states.values()) == {"ok"}
    assert len(states) == 11
    for name, value in system.stack._environment.items():
        if name in {"CREDENTIALS_KEYS", "LYBIC_API_KEY", "ARK_API_KEY"}:
            assert value not in result.stdout


def test_nothing_is_well(doctor: Doctor) -> None:
    broken = {
        "CREDENTIALS_KEYS": "no-key-at-all",
        "POSTGRES_CONNECTION_STRING": "postgresql://user:pw-very-secret@127.0.0.1:9/db",
        "REDIS_URL": "redis://:pw-very-secret@127.0.0.1:9/0",
        "API_PORT": "9",
        "SCREENSHOT_STORE": "/proc/nowhere",
        "LYBIC_API_KEY": "sk-very-secret",
        "LYBIC_ORG_ID": "org",
        "LYBIC_API_ENDPOINT": "http://127.0.0.1:9",
        "ARK_API_KEY": "ark-very-secret",
        "ARK_API_ENDPOINT": "http://127.0.0.1:9/v1",
        "LYBIC_ORGID": "org",
    }
    result = doctor(broken, "--json")
    assert result.exit_code == 1
    parts = found(result)
    assert parts.pop("settings") == ("warning", "LYBIC_ORGID is no setting did you mean LYBIC_ORG_ID?")
    assert {state for state, _ in parts.values()} == {"failed"}, parts
    for part, name in {
        "database": "POSTGRES_CONNECTION_STRING",
        "redis": "REDIS_URL",
        "api": "--url",
        "screenshots": "SCREENSHOT_STORE",
        "sandboxes": "LYBIC_API_ENDPOINT",
        "model": "ARK_API_ENDPOINT",
    }.items():
        assert name in parts[part][1]
    assert not any(secret in result.output for secret in SECRETS)


def test_keys_and_names_that_others_refuse(system: System, doctor: Doctor) -> None:
    environment = system.stack._environment
    refused = doctor({**environment, "LYBIC_API_KEY": "wrong-key", "ARK_API_KEY": "wrong-key"}, "--json")
    parts = found(refused)
    assert parts["sandboxes"][0] == parts["model"][0] == "failed"
    assert "correct LYBIC_API_KEY" in parts["sandboxes"][1]
    assert "correct ARK_API_KEY" in parts["model"][1]


def test_settings_that_are_none(doctor: Doctor) -> None:
    result = doctor({"API_PORT": "five thousand"}, "--json")
    assert result.exit_code == 1
    assert found(result)["settings"][0] == "failed"
    assert "API_PORT" in found(result)["settings"][1]


def test_nothing_is_set(doctor: Doctor) -> None:
    result = doctor({"API_PORT": "9"}, "--offline")
    assert "lybic-guiagent up" in result.stdout
    assert "start it" in result.stdout


def test_what_may_be_wrong_with_a_database(
    doctor: Doctor, database_url: str, db: Database, vault: Vault, new_job: NewJob, settings: Settings
) -> None:
    with db.transaction() as session:
        jobs.submit(session, [(new_job, vault.seal(new_job.credentials))])
    with psycopg.connect(database_url, autocommit=True) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    given = {
        "POSTGRES_CONNECTION_STRING": database_url,
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "API_KEYS": "required",
    }
    parts = found(
        doctor({**given, "CREDENTIALS_KEYS": Fernet.generate_key().decode()}, "--json", "--offline")
    )
    assert parts["database"][0] == "warning"
    assert "synchronous_commit is off" in parts["database"][1]
    assert parts["stored keys"][0] == "failed"
    assert "add the key" in parts["stored keys"][1]
    assert parts["api keys"][0] == "failed"
    assert "keys create" in parts["api keys"][1]
    assert parts["tasks"] == ("ok", "1 pending ")

    command.downgrade(config(database_url), "0003")
    parts = found(doctor(given, "--json", "--offline"))
    assert parts["migrations"][0] == "failed"
    assert "python -m migrations upgrade" in parts["migrations"][1]
    assert "tasks" not in parts

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "upgrade this program" in found(doctor(given, "--json", "--offline"))["migrations"][1]
