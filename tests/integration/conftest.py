"""What the tests of routes share: applications with their clients, a look at errors, tasks in any state."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import EXTENSION
from local.servers import Postgres, Valkey
from shared import events, jobs, writes
from shared.db import Database
from shared.models import Job, Step
from shared.portal import Portal
from shared.schemas import Usage
from shared.settings import Settings
from shared.states import StepStatus
from shared.writes import Lease, Progress
from tests.conftest import new_database, settings_for

Serve = Callable[[Settings], FlaskClient]

API = "/api/agent"
SUBMIT = f"{API}/task/submit"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
GOOD = {"instruction": "Open notepad", "sandbox_id": "box-123"}


@contextmanager
def serving() -> Iterator[Serve]:
    """Makes clients of applications, and closes those at the end."""
    apps: list[Flask] = []

    def served(settings: Settings) -> FlaskClient:
        apps.append(create_app(settings))
        return apps[-1].test_client()

    yield served
    for app in apps:
        app.extensions[EXTENSION].close()


@pytest.fixture(scope="session")
def lasting_database(postgres: Postgres) -> Iterator[str]:
    """A database that tests leave behind as they like."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture
def emptied_database(lasting_database: str) -> str:
    """A database without rows, far sooner than a new one."""
    with psycopg.connect(lasting_database, autocommit=True) as connection:
        connection.execute("DELETE FROM jobs")
        connection.execute("DELETE FROM api_keys")
    return lasting_database


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes clients of applications with other settings."""
    with serving() as served:
        yield served


@pytest.fixture
def client(serve: Serve, settings: Settings) -> FlaskClient:
    return serve(settings)


@pytest.fixture(scope="session")
def shared_client(
    lasting_database: str, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlaskClient]:
    """One for tests of many values each, which do not mind what others left behind."""
    with pytest.MonkeyPatch.context() as patch, serving() as served:
        patch.chdir(tmp_path_factory.mktemp("shared"))
        yield served(settings_for(lasting_database, valkey))


@pytest.fixture
def submitted(client: FlaskClient) -> str:
    """A pending task."""
    return submit(client)


@pytest.fixture(scope="module")
def portal() -> Iterator[Portal]:
    """An event loop of their own for the tests of a module."""
    portal = Portal()
    yield portal
    portal.close()


def submit(client: FlaskClient, **more: Any) -> str:
    """The id of a new task."""
    answer = client.post(SUBMIT, json=GOOD | more)
    assert answer.status_code == 200, answer.text
    return str(answer.json["task_id"])


def error(response: TestResponse) -> tuple[int, str, str]:
    """Status, code and message, after a look at the whole of the contract's error body."""
    body = response.json
    assert set(body) == {"success", "error", "detail", "request_id"}
    assert body["success"] is False
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["detail"] == body["error"]["message"]
    assert body["request_id"] == response.headers["X-Request-Id"]
    return response.status_code, body["error"]["code"], body["error"]["message"]


def frames(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def read(db: Database, task_id: str) -> Job:
    with db.transaction() as session:
        return jobs.get(session, UUID(task_id))


# --- what a worker would do -----------------------------------------------------------------------------


def claim(db: Database, task_id: str) -> Lease:
    with db.transaction() as session:
        job = jobs.claim(session, UUID(task_id), owner="test", lease_seconds=60)
    assert job is not None
    return Lease(job.id, job.run, "test")


def take_steps(db: Database, lease: Lease, count: int) -> None:
    """Steps that click, each carried out."""
    for _ in range(count):
        with db.transaction() as session:
            job = jobs.get(session, lease.job_id)
            number = job.step_count + 1
            step = Step(
                number=number,
                raw=f"Thought: {number}\nAction: click(point='<point>1 1</point>')",
                thought=str(number),
                actions=[{"type": "mouse:click"}],
                status=StepStatus.INTENDED,
            )
            before = Progress(job.event_count, job.step_count)
            writes.carry_out(session, writes.new_step(lease, step, Usage(model_calls=1), [], before))
        with db.transaction() as session:
            writes.carry_out(
                session,
                writes.outcome(lease, StepStatus.DONE, [], Progress(before.events, number), action_ms=7),
            )


def finish(db: Database, task_id: str, output: str = "done") -> None:
    lease = claim(db, task_id)
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, output))


def call_human(db: Database, task_id: str, content: str = "please log in") -> None:
    """The task's first step calls a human."""
    lease = claim(db, task_id)
    take_steps(db, lease, 1)
    with db.transaction() as session:
        jobs.call_human(session, lease, content)


def keep_pictures(db: Database, lease: Lease, count: int) -> list[str]:
    """The first steps refer to pictures, and events tell of them, as when they are put into the store."""
    names = [f"{lease.job_id}/{uuid4().hex}" for _ in range(count)]
    with db.transaction() as session:
        told = [
            events.observation(f"https://pictures.example/{number}", number, name)
            for number, name in enumerate(names, 1)
        ]
        writes.carry_out(session, writes.change(lease, told, has_pictures=True))
        for number, name in enumerate(names, 1):
            session.execute(
                update(Step)
                .where(Step.job_id == lease.job_id, Step.number == number)
                .values(picture=name, screenshot=f"https://pictures.example/{number}")
            )
    return names
