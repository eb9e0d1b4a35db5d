"""Real servers for the tests: one PostgreSQL and one Valkey per test process, a cloned database per test."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from cryptography.fernet import Fernet
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr

from local.servers import Postgres, Valkey
from migrations.__main__ import config
from shared.db import Database
from shared.schemas import Credentials, JobOptions, LybicCredentials, NewJob
from shared.secrets import Vault
from shared.settings import (
    AgentSettings,
    LybicSettings,
    ModelSettings,
    RedisSettings,
    Settings,
    StorageSettings,
)

T = TypeVar("T")

TEMPLATE = "template_guiagent"

hypothesis_settings.register_profile("unhurried", deadline=None)  # the processes share few cores
hypothesis_settings.load_profile("unhurried")

# Shells have commands in the background ignore it, and so would all that the tests start and send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(condition: Callable[[], T], seconds: float = 20) -> T:
    """The first true result of the condition; fails when it does not become true in time."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"did not become true within {seconds} s: {condition}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server with a migrated template database."""
    with Postgres(tmp_path_factory.mktemp("postgres"), throwaway=True) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        command.upgrade(config(server.url_of(TEMPLATE)), "head")
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey server, shared by the tests of this process: job ids keep them apart."""
    with Valkey(tmp_path_factory.mktemp("valkey"), throwaway=True) as server:
        yield server


@contextmanager
def new_database(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty, migrated database."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")
        yield postgres.url_of(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def settings_for(database_url: str, valkey: Valkey) -> Settings:
    """Settings for a database; Lybic and the model are where nobody listens."""
    return Settings(
        storage=StorageSettings(
            url=SecretStr(database_url), credentials_keys=(SecretStr(Fernet.generate_key().decode()),)
        ),
        redis=RedisSettings(url=SecretStr(valkey.url)),
        lybic=LybicSettings(
            api_key=SecretStr("sk-lybic-secret"), org_id="org", endpoint="http://127.0.0.1:9"
        ),
        model=ModelSettings(api_key=SecretStr("ark-secret-key"), endpoint="http://127.0.0.1:9/v1"),
        agent=AgentSettings(settle_seconds=0),
    )


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A database of this test's own."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture
def settings(database_url: str, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for this test's database."""
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    return settings_for(database_url, valkey)


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    """A pool for this test's database."""
    database = Database.connect(settings.storage, name="tests")
    yield database
    database.close()


@pytest.fixture
def vault(settings: Settings) -> Vault:
    """The keys of this test's credentials."""
    return Vault(settings.storage)


@pytest.fixture
def new_job(settings: Settings) -> NewJob:
    """A job as the API would make it durable."""
    return NewJob(
        instruction="Open notepad",
        options=JobOptions(
            model_name=settings.model.name, model_base_url=settings.model.endpoint, keep_sandbox=False
        ),
        credentials=Credentials(
            lybic=LybicCredentials(
                api_key=SecretStr("sk-lybic-secret"), org_id="org", endpoint=settings.lybic.endpoint
            ),
            model_key=SecretStr("ark-secret-key"),
        ),
    )
