"""A human takes a task over: its run stops, it waits, and what it is told then reaches the model."""

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from api import takeover
from shared import events, jobs, writes
from shared.db import Database
from shared.schemas import Usage
from shared.settings import Settings
from shared.states import JobStatus, Request
from shared.writes import INTERRUPTED, Lease, Progress
from tests.conftest import wait_until
from tests.integration.conftest import (
    API,
    UNKNOWN,
    call_human,
    claim,
    error,
    finish,
    read,
    submit,
    take_steps,
)
from tests.integration.test_jobs import a_step
from worker.process import Process

CANCEL = f"{API}/cancel"


@pytest.fixture
def process(settings: Settings) -> Iterator[Process]:
    """A worker's, which takes up only what it is told to, and reaches neither Lybic nor a model."""
    process = Process(settings, name="test", concurrency=4)
    yield process
    process.close()


def ask(client: FlaskClient, task_id: str) -> Any:
    return client.post(f"{API}/task/{task_id}/takeover")


def asked(db: Database, task_id: str) -> None:
    with db.transaction() as session:
        jobs.request_takeover(session, UUID(task_id))


def hand_over(db: Database, lease: Lease) -> None:
    """As a run does that was told to."""
    with db.transaction() as session:
        jobs.call_human(session, lease, events.TAKEN_OVER, taken_over=True)


def obeying(db: Database, lease: Lease, end: Callable[[Database, Lease], None]) -> Thread:
    """A worker that ends its run as soon as a human wants it."""

    def obey() -> None:
        wait_until(lambda: read(db, str(lease.job_id)).takeover_requested_at)
        end(db, lease)

    worker = Thread(target=obey)
    worker.start()
    return worker


def said(client: FlaskClient, task_id: str) -> list[str]:
    """What the model is told after the instruction."""
    context = client.get(f"{API}/task/status/{task_id}").json["llm_context"]
    told = [one["content"] for one in context["messages"]]
    return told[told.index("Open notepad") + 1 :]


def resume(client: FlaskClient, task_id: str, message: str | None = None) -> None:
    assert client.post(f"{API}/task/{task_id}/resume", json={"message": message}).status_code == 200


def last_event(client: FlaskClient, task_id: str) -> dict[str, Any]:
    page = client.get(f"{API}/task/{task_id}/events", headers={"Accept": "application/json"}).json
    return dict(page["events"][-1])


# --- asking ---------------------------------------------------------------------------------------------


def test_it_is_answered_when_the_run_has_stopped_and_may_be_asked_again(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    worker = obeying(db, claim(db, submitted), hand_over)
    answer = ask(client, submitted).json
    worker.join()
    assert answer == {
        "success": True,
        "task_id": submitted,
        "status": "human_intervention",
        "message": f"Task {submitted} is yours",
    }
    told = last_event(client, submitted)
    assert (told["type"], told["content"]) == ("human_intervention", "A human has taken over.")
    assert (told["needs_human"], told["taken_over"], told["message"]) == (True, True, f"👤 {told['content']}")
    before = read(db, submitted)
    assert ask(client, submitted).json == answer
    assert read(db, submitted).updated_at == before.updated_at
    assert read(db, submitted).event_count == before.event_count


def test_one_that_does_not_stop_is_said_to_be_stopping(
    client: FlaskClient, db: Database, submitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "STOP_SECONDS", 0.1)
    lease = claim(db, submitted)
    answer = ask(client, submitted).json
    assert (answer["status"], answer["message"]) == ("running", f"Task {submitted} is stopping")
    with db.transaction() as session:
        assert jobs.requests(session, lease.owner) == {lease.job_id: Request.TAKEOVER}
        assert jobs.requests(session, "another") == {}


def test_one_that_waits_for_a_human_anyway_is_yours(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    call_human(db, submitted)
    assert ask(client, submitted).json["status"] == "human_intervention"
    assert read(db, submitted).takeover_requested_at is None
    assert last_event(client, submitted)["content"] == "please log in"


def test_no_other_can_be_taken_over(client: FlaskClient, db: Database) -> None:
    pending, stopping, ended, cancelled = (submit(client, sandbox_id=f"box-{n}") for n in range(4))
    claim(db, stopping)
    with db.transaction() as session:
        jobs.request_cancel(session, UUID(stopping))
    finish(db, ended)
    client.post(CANCEL, json={"task_id": cancelled})
    for task_id in (pending, stopping, ended, cancelled):
        assert error(ask(client, task_id))[:2] == (409, "task_conflict")
        assert read(db, task_id).takeover_requested_at is None
    assert error(ask(client, UNKNOWN))[:2] == (404, "task_not_found")


def test_one_that_ends_meanwhile_is_not_yours(client: FlaskClient, db: Database, submitted: str) -> None:
    def end(db: Database, lease: Lease) -> None:
        with db.transaction() as session:
            writes.carry_out(session, writes.finished(lease, "done"))

    worker = obeying(db, claim(db, submitted), end)
    assert error(ask(client, submitted))[:2] == (409, "task_conflict")
    worker.join()


# --- stopping -------------------------------------------------------------------------------------------


def test_the_record_of_an_intent_tells_of_it(db: Database, submitted: str) -> None:
    """So that nothing is done about the decision, though nobody has looked for requests since."""
    lease = claim(db, submitted)
    asked(db, submitted)
    intent = writes.new_step(lease, a_step(1), Usage(), [], Progress(2, 0))
    with db.transaction() as session:
        assert writes.carry_out(session, intent) is Request.TAKEOVER
    with db.transaction() as session:
        jobs.request_cancel(session, lease.job_id)
        assert writes.carry_out(session, writes.change(lease)) is Request.CANCEL
        assert jobs.requests(session, lease.owner) == {lease.job_id: Request.CANCEL}


def test_a_cancel_wins_whenever_it_comes(client: FlaskClient, db: Database, submitted: str) -> None:
    lease = claim(db, submitted)
    asked(db, submitted)
    with db.transaction() as session:
        jobs.request_cancel(session, lease.job_id)
    hand_over(db, lease)
    assert read(db, submitted).status == JobStatus.CANCELLED
    second = submit(client, sandbox_id="another")
    hand_over(db, claim(db, second))
    assert client.post(CANCEL, json={"task_id": second}).json["status"] == "cancelled"


@pytest.mark.parametrize("died", [False, True])
def test_a_run_that_ended_before_it_could_obey_leaves_it_to_the_next(
    client: FlaskClient, db: Database, process: Process, submitted: str, *, died: bool
) -> None:
    with db.transaction() as session:
        first = jobs.claim(session, UUID(submitted), owner="first", lease_seconds=0 if died else 60)
    assert first is not None
    lease = Lease(first.id, first.run, "first")
    take_steps(db, lease, 1)
    asked(db, submitted)
    if not died:
        with db.transaction() as session:
            writes.carry_out(session, writes.given_back(lease))
        assert ask(client, submitted).json["status"] == "pending"  # the request is in force
        assert error(client.post(f"{API}/task/{submitted}/resume", json={}))[:2] == (409, "task_conflict")
    process.run(UUID(submitted))
    job = read(db, submitted)
    assert (job.status, job.run, job.step_count) == (JobStatus.HUMAN_INTERVENTION, 2, 1)
    assert last_event(client, submitted)["taken_over"] is True
    resume(client, submitted)
    assert read(db, submitted).request is None


# --- going on -------------------------------------------------------------------------------------------


def test_what_a_human_says_before_the_first_step_is_told(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    for message in ("the blue one", None):
        lease = claim(db, submitted)
        asked(db, submitted)
        hand_over(db, lease)
        resume(client, submitted, message)
    everything = f"{jobs.RESUMED}\n\nthe blue one\n\n{jobs.RESUMED}"
    assert said(client, submitted) == [everything]
    with db.transaction() as session:
        (turn,) = jobs.turns(session, jobs.get(session, UUID(submitted)))
    assert turn.advice == everything
    finish(db, submitted)
    follow_up = submit(client, continue_context=True, task_id=submitted, instruction="go on")
    assert said(client, follow_up) == [everything, "go on"]


def test_what_a_step_came_to_is_told_beside_what_the_human_says(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    """A decision that was not acted on is as open as one that was cut off."""
    lease = claim(db, submitted)
    with db.transaction() as session:
        writes.carry_out(session, writes.new_step(lease, a_step(1), Usage(), [], Progress(2, 0)))
    hand_over(db, lease)
    resume(client, submitted, "I clicked it")
    [step] = client.get(f"{API}/task/{submitted}/steps").json["steps"]
    assert (step["status"], step["feedback"]) == ("interrupted", f"{INTERRUPTED}\n\nI clicked it")
    hand_over(db, claim(db, submitted))
    resume(client, submitted, "twice")
    assert said(client, submitted) == ["raw", f"{INTERRUPTED}\n\nI clicked it\n\ntwice"]
