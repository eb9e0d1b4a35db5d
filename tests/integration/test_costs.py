"""What a step costs in statements, calls and wakes: counted, since timings tell of the machine."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from flask.testing import FlaskClient
from psycopg import AsyncConnection
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import Engine, event

from local.demo import isolated
from local.processes import Child, Program
from shared.db import Database
from shared.settings import AgentSettings, LybicSettings, ModelSettings, Settings
from shared.wakes import PREFIX
from tests.integration.conftest import read, submit
from worker.process import Process


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Lybic and a model that answer at once."""
    child = Child(
        Program(
            name="standin",
            argv=[sys.executable, "-m", "benchmarks.standin"],
            log=tmp_path_factory.mktemp("standin") / "log",
            environment=isolated(os.environ),
            cwd=Path.cwd(),
        )
    )
    yield child.wait_for_line("listening on ", 30)
    child.kill()


@pytest.fixture
def settings(settings: Settings, stand_in: str) -> Settings:
    key = SecretStr("key")
    return settings.model_copy(
        update={
            "lybic": LybicSettings(endpoint=stand_in, api_key=key, org_id="org"),
            "model": ModelSettings(endpoint=f"{stand_in}/v1", api_key=key, image="url"),
            "agent": AgentSettings(settle_seconds=0),
        }
    )


@pytest.fixture
def process(settings: Settings) -> Iterator[Process]:
    """A worker's, which takes up only what it is told to."""
    process = Process(settings, name="test", concurrency=4)
    yield process
    process.close()


@contextmanager
def statements() -> Iterator[list[str]]:
    """What runs have PostgreSQL do within the block, on their event loop and in threads."""
    seen: list[str] = []
    execute = AsyncConnection.execute

    def see(*execution: object) -> None:
        if current_thread().name.startswith("storage"):
            seen.append(str(execution[2]))

    async def seen_executing(connection: AsyncConnection, query: Any, *more: Any) -> Any:
        seen.append(query.decode())
        return await execute(connection, query, *more)

    event.listen(Engine, "before_cursor_execute", see)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncConnection, "execute", seen_executing)
        yield seen
    event.remove(Engine, "before_cursor_execute", see)


class Costs:
    """What a task of so many steps costs, from its claim to its end."""

    def __init__(
        self, client: FlaskClient, process: Process, db: Database, stand_in: str, steps: int
    ) -> None:
        task = submit(client, instruction=f"bench-{steps}-{uuid4().hex}", sandbox_id=None, max_steps=100)
        before = self._asked(stand_in)
        with statements() as seen:
            process.run(UUID(task))
        assert read(db, task).status == "finished"
        self.statements = len(seen)
        self.asked = self._asked(stand_in) - before

    @staticmethod
    def _asked(stand_in: str) -> Counter[str]:
        return Counter(httpx.get(f"{stand_in}/counts").json())


@pytest.fixture
def few(client: FlaskClient, process: Process, db: Database, stand_in: str) -> Costs:
    return Costs(client, process, db, stand_in, 2)


@pytest.fixture
def many(client: FlaskClient, process: Process, db: Database, stand_in: str) -> Costs:
    return Costs(client, process, db, stand_in, 32)


def test_a_step_costs_two_statements(few: Costs, many: Costs) -> None:
    """The intent and the outcome, each a transaction by itself."""
    assert many.statements - few.statements == 2 * 30
    assert few.statements == 7  # three before the steps, three for them, and the end


def test_a_step_costs_one_call_of_the_model_and_one_of_lybic(few: Costs, many: Costs) -> None:
    assert many.asked - few.asked == Counter({"chat": 30, "POST execute": 30})
    assert few.asked == Counter(
        {"POST sandboxes": 1, "GET status": 1, "POST preview": 1, "chat": 2, "POST execute": 1}
    )


def test_an_event_costs_one_wake_at_most(
    client: FlaskClient, process: Process, db: Database, stand_in: str, settings: Settings
) -> None:
    with Redis.from_url(settings.redis.url.get_secret_value(), decode_responses=True) as redis:
        listener = redis.pubsub()
        listener.psubscribe(f"{PREFIX}*")
        task = submit(client, instruction=f"bench-20-{uuid4().hex}", sandbox_id=None)
        process.run(UUID(task))
        process._wakes.close()
        heard = 0
        while message := listener.get_message(timeout=0.1):
            heard += message["type"] == "pmessage" and message["channel"].endswith(task)
        listener.close()
    assert 1 < heard <= read(db, task).event_count
