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
from sqlalchemy import Engine, event, text

from local.demo import isolated
from local.processes import Child, Program
from shared.db import Database
from shared.settings import AgentSettings, LybicSettings, ModelSettings, Settings
from shared.wakes import PREFIX
from tests.conftest import wait_until
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
        seen.append(query)
        return await execute(connection, query, *more)

    event.listen(Engine, "before_cursor_execute", see)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncConnection, "execute", seen_executing)
        yield seen
    event.remove(Engine, "before_cursor_execute", see)


READ = """
SELECT steps.seq_scan AS steps_read_through, steps.n_tup_ins AS new_steps, events.n_tup_ins AS new_events,
    jobs.n_tup_upd AS changes,
    (SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'pk_jobs') AS jobs_by_key,
    (SELECT sum(idx_scan) FROM pg_stat_user_indexes
        WHERE indexrelname IN ('ix_jobs_status', 'ix_jobs_running')) AS jobs_by_status
FROM pg_stat_user_tables AS steps, pg_stat_user_tables AS events, pg_stat_user_tables AS jobs
WHERE steps.relname = 'steps' AND events.relname = 'events' AND jobs.relname = 'jobs'
"""


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


def test_what_was_planned_before_there_were_any_jobs_is_no_dearer_when_there_are(
    client: FlaskClient, settings: Settings, db: Database, stand_in: str
) -> None:
    """On tables that are empty PostgreSQL reads through them, or through an index of few."""
    process = Process(settings, name="first", concurrency=4)
    for _ in range(2):
        Costs(client, process, db, stand_in, 4)
    process.close()  # so that what it did is counted

    def counted() -> Any:
        with db.statement() as connection:
            return connection.execute(text(READ)).one()

    wait_until(lambda: counted().new_steps == 2 * 4)
    found = counted()
    assert found.steps_read_through == 0
    assert found.jobs_by_key >= found.changes + found.new_events  # which refer to it
    assert found.jobs_by_status < found.changes / 2


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
