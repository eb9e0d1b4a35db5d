"""A human takes a task over: its run stops, it waits, and what it is told then reaches the model."""

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from api import takeover
from shared import events, jobs, writes
from shared.db import Database
from shared.errors import StorageUnavailable
from shared.logging import QUIET
from shared.models import Job
from shared.schemas import Usage
from shared.settings import Settings
from shared.states import JobStatus, Request
from shared.writes import INTERRUPTED, Lease, Progress
from tests.conftest import wait_until
from tests.integration.conftest import (
    API,
    UNKNOWN,
    Serve,
    call_human,
    claim,
    error,
    finish,
    read,
    submit,
    take_steps,
)
from tests.integration.test_jobs import a_step
from tests.scripted import Answer, Handler, Script, answer, hang_up, scripted
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


def test_what_humans_say_has_an_end(client: FlaskClient, db: Database, submitted: str) -> None:
    """Nobody acts in between: a job may be taken over and handed back for ever."""
    message, refused = "x" * 100_000, []
    for steps in (0, 1):
        lease = claim(db, submitted)
        take_steps(db, lease, steps)
        hand_over(db, lease)
        for _ in range(2):
            resume(client, submitted, message)
            hand_over(db, claim(db, submitted))
        told = client.post(f"{API}/task/{submitted}/resume", json={"message": message})
        refused.append((*error(told)[:2], told.json["error"]["details"]))
        resume(client, submitted)
    assert refused == [(400, "invalid_request", {"field": "message"})] * 2


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


# --- acting ---------------------------------------------------------------------------------------------

PASSWORD = "hunter2-hunter2"
TYPE = {"type": "keyboard:type", "content": PASSWORD}
POINT = {"type": "px", "value": 7}
CLICK = {"type": "mouse:click", "x": POINT, "y": POINT, "button": 1}
DONE = answer({"screenShot": None, "cursorPosition": None})


@pytest.fixture
def lybic() -> Iterator[Script]:
    with scripted() as script:
        script.answers = [DONE]
        yield script


@pytest.fixture
def manned(serve: Serve, settings: Settings, lybic: Script, db: Database) -> tuple[FlaskClient, str]:
    """A task that waits for a human, in a sandbox of this Lybic."""
    ours = settings.lybic.model_copy(update={"endpoint": lybic.url})
    client = serve(settings.model_copy(update={"lybic": ours}))
    task_id = submit(client)
    call_human(db, task_id)
    return client, task_id


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that a server would log that is told to tell everything."""
    for name, level in QUIET.items():
        caplog.set_level(level, name)
    caplog.set_level("DEBUG")
    return caplog


def act(manned: tuple[FlaskClient, str], *actions: Any) -> TestResponse:
    client, task_id = manned
    return client.post(f"{API}/task/{task_id}/actions", json={"actions": actions})


def test_a_human_acts_in_the_task_s_sandbox_with_its_credentials(
    manned: tuple[FlaskClient, str], lybic: Script, db: Database, logged: pytest.LogCaptureFixture
) -> None:
    before = read(db, manned[1]).event_count
    held = {"type": "keyboard:hotkey", "keys": "ctrl+a", "duration": "5"}
    told = act(manned, CLICK, held, TYPE | {"more": 1}).json
    assert told == {
        "success": True,
        "task_id": manned[1],
        "done": 3,
        "message": "3 action(s) carried out",
    }
    sent = [request.body["action"] for request in lybic.requests]
    assert [one["type"] for one in sent] == ["mouse:click", "keyboard:hotkey", "keyboard:type"]
    assert (sent[1]["duration"], sent[2]["content"]) == (5, PASSWORD)
    assert {request.path.rpartition("/sandboxes/")[2].split("/")[0] for request in lybic.requests} == {
        "box-123"
    }
    assert set(lybic.sent("x-api-key")) == {"sk-lybic-secret"}
    assert read(db, manned[1]).event_count == before
    assert PASSWORD not in logged.text


@pytest.mark.parametrize(
    ("actions", "field"),
    [
        ([], "actions"),
        ([CLICK] * 11, "actions"),
        (["click"], "actions"),
        ([CLICK, {}], "actions[1]"),
        ([CLICK, {"type": "x" * 5000}], "actions[1]"),
        ([CLICK, CLICK | {"x": 7}], "actions[1]"),
        ([{"type": "wait", "duration": 10_001}], "actions[0].duration"),
        ([{"type": "wait", "duration": 6000}] * 2, "actions[1].duration"),
        ([{"type": "wait", "duration": -1}], "actions[0].duration"),
    ],
)
def test_what_is_no_action_is_refused_before_any_is_sent(
    manned: tuple[FlaskClient, str], lybic: Script, actions: list[Any], field: str
) -> None:
    refused = act(manned, *actions)
    assert error(refused)[:2] == (400, "invalid_request")
    assert refused.json["error"]["details"]["field"].startswith(field)
    assert len(refused.data) < 3000
    assert lybic.requests == []


def hinting(status: int) -> Answer:
    return answer({"code": "nomos.action.INVALID", "message": f"can't type {PASSWORD}"}, status)


@pytest.mark.parametrize(
    ("trouble", "code", "unknown"),
    [
        (hinting(400), "sandbox_error", None),
        (hinting(404), "sandbox_lost", None),
        (hinting(403), "credentials_rejected", None),
        (hinting(503), "sandbox_error", True),
        (hang_up, "sandbox_error", True),
    ],
)
def test_what_goes_wrong_is_told_and_nothing_is_sent_again(
    manned: tuple[FlaskClient, str],
    lybic: Script,
    trouble: Answer,
    code: str,
    unknown: bool | None,
    logged: pytest.LogCaptureFixture,
) -> None:
    lybic.answers = [DONE, trouble, DONE]
    told = act(manned, CLICK, TYPE, CLICK)
    assert error(told)[:2] == (502, code)
    details = told.json["error"]["details"]
    assert (details["done"], details.get("outcome_unknown")) == (1, unknown)
    assert "Retry-After" not in told.headers
    assert len(lybic.requests) == 2
    assert code in logged.text
    assert PASSWORD not in logged.text


def test_nothing_is_sent_after_the_task_goes_on(
    manned: tuple[FlaskClient, str], lybic: Script, db: Database
) -> None:
    _, task_id = manned

    def resumed_meanwhile(handler: Handler) -> None:
        with db.transaction() as session:
            jobs.resume(session, UUID(task_id), None)
        DONE(handler)

    lybic.answers = [resumed_meanwhile]
    told = act(manned, CLICK, CLICK)
    assert error(told)[:2] == (409, "task_conflict")
    assert told.json["error"]["details"] == {"done": 1}
    assert len(lybic.requests) == 1
    claim(db, task_id)
    assert error(act(manned, CLICK))[:2] == (409, "task_conflict")
    assert len(lybic.requests) == 1


def test_what_is_half_done_is_not_to_be_sent_again(
    manned: tuple[FlaskClient, str], lybic: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = jobs.get

    def away(session: Session, job_id: UUID, **more: Any) -> Job:
        if lybic.requests:
            raise StorageUnavailable("the database does not answer")
        return looked(session, job_id, **more)

    monkeypatch.setattr(jobs, "get", away)
    told = act(manned, CLICK, CLICK)
    assert error(told)[:2] == (503, "storage_unavailable")
    assert (told.json["error"]["details"], "Retry-After" in told.headers) == ({"done": 1}, False)
    told = act(manned, CLICK)
    assert (told.json["error"]["details"], "Retry-After" in told.headers) == ({"done": 0}, True)


def test_a_lybic_that_is_slow_is_not_waited_for_again_and_again(
    manned: tuple[FlaskClient, str], lybic: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "ACT_SECONDS", 0)
    told = act(manned, CLICK)
    assert error(told)[:2] == (502, "sandbox_error")
    assert told.json["error"]["details"] == {"done": 0}
    assert lybic.requests == []


def test_there_is_no_acting_without_a_sandbox(client: FlaskClient, db: Database) -> None:
    task_id = submit(client, sandbox_id=None)
    hand_over(db, claim(db, task_id))
    assert error(act((client, task_id), CLICK))[:2] == (409, "task_conflict")
    assert error(act((client, UNKNOWN), CLICK))[:2] == (404, "task_not_found")
