"""The migrations lead to the tables that the code expects, and back."""

import os
import subprocess
import sys

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from local.servers import Postgres
from migrations.__main__ import config, main
from shared.db import driver_url
from shared.models import Base


def test_up_and_down(database_url: str) -> None:
    command.downgrade(config(database_url), "base")
    with psycopg.connect(database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("alembic_version",)]
    command.upgrade(config(database_url), "head")


def test_they_make_just_what_the_models_say(database_url: str) -> None:
    engine = create_engine(driver_url(database_url))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_the_command(
    postgres: Postgres, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTGRES_CONNECTION_STRING", database_url)
    assert main(["upgrade"]) == 0
    assert main(["sideways"]) == 2
    monkeypatch.setenv("POSTGRES_CONNECTION_STRING", "mysql://nowhere")
    assert main(["upgrade"]) == 1
    assert "postgresql://" in capsys.readouterr().err


def test_replicas_that_start_together_take_turns(database_url: str) -> None:
    command.downgrade(config(database_url), "base")
    environment = {**os.environ, "POSTGRES_CONNECTION_STRING": database_url}
    upgrade = [sys.executable, "-m", "migrations", "upgrade"]
    replicas = [subprocess.Popen(upgrade, env=environment) for _ in range(2)]
    assert [replica.wait(60) for replica in replicas] == [0, 0]
