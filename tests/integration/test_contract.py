"""What docs and clients rely on, route by route: batches, repeats, lists, pages, going on, stopping."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy
from flask.testing import FlaskClient
from sqlalchemy import Connection, text, update

from api.schemas import LARGEST_PAGE, MOST_TASKS
from api.services import EXTENSION
from shared import events, jobs, writes
from shared.db import Database
from shared.events import NewEvent
from shared.models import Job, Step
from shared.settings import Settings
from shared.states import JobStatus
from tests.conftest import wait_until
from tests.integration.conftest import (
    API,
    GOOD,
    SUBMIT,
    UNKNOWN,
    Serve,
    call_human,
    claim,
    error,
    finish,
    frames,
    read,
    submit,
    take_steps,
)
from worker.runner import _seconds_left

BATCH = f"{API}/task/batch"
LIST = f"{API}/task/list"
CANCEL = f"{API}/cancel"
AS_PAGE = {"Accept": "application/json"}


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


def status(client: FlaskClient, task_id: str, **query: str) -> dict[str, Any]:
    answer = client.get(f"{API}/task/status/{task_id}", query_string=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def listed(client: FlaskClient, **query: Any) -> list[str]:
    return [one["task_id"] for one in client.get(LIST, query_string=query).json["tasks"]]


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What the work gives in so many threads."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


# --- batches --------------------------------------------------------------------------------------------


def test_a_batch_of_a_thousand_keeps_its_order(client: FlaskClient) -> None:
    wanted = [f"task {number}" for number in range(MOST_TASKS)]
    answer = client.post(BATCH, json={"tasks": [{"instruction": one} for one in wanted]}).json
    assert (answer["success"], answer["count"], len(set(answer["task_ids"]))) == (True, 1000, 1000)
    stored = [
        one["query"]
        for offset in range(0, MOST_TASKS, LARGEST_PAGE)
        for one in client.get(f"{LIST}?limit={LARGEST_PAGE}&offset={offset}").json["tasks"]
    ]
    assert stored == wanted[::-1]
    for index in (0, 500, 999):
        assert status(client, answer["task_ids"][index])["query"] == wanted[index]


def test_tasks_become_durable_by_one_statement(client: FlaskClient) -> None:
    alone: list[bool] = []  # for each statement, whether it commits itself

    def note(connection: Connection, *_: object) -> None:
        alone.append(connection.connection.dbapi_connection.autocommit)  # type: ignore[union-attr]

    sqlalchemy.event.listen(client.application.extensions[EXTENSION].db.engine, "before_cursor_execute", note)
    submit(client)
    assert client.post(BATCH, json={"tasks": [GOOD] * 50}).status_code == 200
    assert alone == [True, True]
    again = {"Idempotency-Key": "monday"}  # if it was used for another request, nothing may remain
    assert client.post(BATCH, json={"tasks": [GOOD] * 50}, headers=again).status_code == 200
    assert alone == [True, True, False]


@pytest.mark.parametrize(
    ("tasks", "code", "said"),
    [
        ([GOOD, GOOD, {"instruction": " "}], 400, "tasks[2].instruction"),
        ([GOOD, GOOD | {"model": {"base_url": "http://evil"}}], 400, "tasks[1].model.base_url"),
        ([GOOD, GOOD | {"metadata": {"a": []}}], 400, "tasks[1].metadata.a"),
        ([GOOD, GOOD | {"continue_context": True}], 400, "tasks[1].task_id"),
        ([GOOD, GOOD | {"continue_context": True, "task_id": UNKNOWN}], 404, "tasks[1].task_id"),
        ([GOOD, "task"], 400, "tasks[1]"),
        ([GOOD] * (MOST_TASKS + 1), 400, "tasks"),
        ([], 400, "tasks"),
        ({}, 400, "tasks"),
        (None, 400, "tasks"),
    ],
)
def test_a_bad_batch_is_refused_by_index_and_nothing_is_stored(
    shared_client: FlaskClient, tasks: Any, code: int, said: str
) -> None:
    before = shared_client.get(LIST).json["total"]
    answer = shared_client.post(BATCH, json={"tasks": tasks})
    found, _, message = error(answer)
    assert (found, message[: len(said)]) == (code, said)
    assert answer.json["error"]["details"]["field"] == said
    assert shared_client.get(LIST).json["total"] == before


def test_a_batch_at_one_sandbox_runs_in_its_order(client: FlaskClient, db: Database) -> None:
    ids = client.post(BATCH, json={"tasks": [GOOD] * 5}).json["task_ids"]
    for number, task_id in enumerate(ids):
        assert status(client, task_id)["queue_position"] == 1
        for later in ids[number + 1 :]:
            assert task_id in status(client, later)["pending_reason"]
            with db.transaction() as session:
                assert jobs.claim(session, UUID(later), owner="eager", lease_seconds=60) is None
        finish(db, task_id)


# --- requests that are sent again -----------------------------------------------------------------------

REPEATED = [(SUBMIT, GOOD), (f"{API}/run", GOOD), (BATCH, {"tasks": [GOOD, GOOD]})]


def ids_of(answer: Any) -> list[str]:
    """The ids of the tasks that the answer tells of; for a stream, by its first event."""
    assert answer.status_code == 200, answer.text
    if answer.mimetype == "text/event-stream":
        first = next(piece for piece in answer.iter_encoded() if b"data: " in piece).decode()
        answer.close()
        return [frames(first)[0]["task_id"]]
    return list(answer.json.get("task_ids") or [answer.json["task_id"]])


@pytest.mark.parametrize(("path", "body"), REPEATED)
def test_a_repeat_gets_the_first_tasks_even_from_many_threads(
    client: FlaskClient, path: str, body: dict[str, Any]
) -> None:
    def ask(number: int) -> tuple[str, ...]:
        sent = client.application.test_client()
        return tuple(ids_of(sent.post(path, json=body, headers={"Idempotency-Key": "monday"})))

    [ids] = set(at_once(8, ask))
    assert client.get(LIST).json["total"] == len(ids)
    assert ids_of(client.post(path, json=body, headers={"Idempotency-Key": "tuesday"})) != list(ids)


@pytest.mark.parametrize(("path", "body"), REPEATED)
def test_the_same_key_with_another_body_is_a_conflict(
    client: FlaskClient, path: str, body: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": "monday"}
    ids_of(client.post(path, json=body, headers=headers))
    others = [(SUBMIT, GOOD | {"max_steps": 3}), (BATCH, {"tasks": [GOOD] * 3}), (BATCH, {"tasks": [GOOD]})]
    for other, changed in others:
        answer = client.post(other, json=changed, headers=headers)
        assert error(answer)[:2] == (409, "idempotency_conflict")
    assert client.get(LIST).json["total"] == len(body.get("tasks", [body]))


def test_a_repeat_may_bring_another_secret_or_spell_the_same_differently(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "monday"}
    bodies = [GOOD | {"ark_apikey": "one"}, GOOD | {"ark_apikey": "two", "max_steps": 50, "unknown": 1}]
    first, again = (client.post(SUBMIT, json=body, headers=headers).json["task_id"] for body in bodies)
    assert first == again


def test_a_repeat_after_the_end_gets_the_ended_task(client: FlaskClient, db: Database) -> None:
    headers = {"Idempotency-Key": "monday"}
    task_id = client.post(SUBMIT, json=GOOD, headers=headers).json["task_id"]
    finish(db, task_id)
    assert client.post(SUBMIT, json=GOOD, headers=headers).json["task_id"] == task_id
    replayed = client.post(f"{API}/run", json=GOOD, headers=headers)
    assert [one["type"] for one in frames(replayed.text)] == ["status", "status", "finished"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "schlüssel", "\x7f"])
def test_a_key_that_is_none(shared_client: FlaskClient, key: str) -> None:
    status, _, message = error(shared_client.post(SUBMIT, json=GOOD, headers={"Idempotency-Key": key}))
    assert status == 400
    assert message.startswith("Idempotency-Key")


# --- lists ----------------------------------------------------------------------------------------------


def test_the_list_by_state(client: FlaskClient, db: Database) -> None:
    pending, running, ended, cancelled = (submit(client, sandbox_id=f"box-{n}") for n in range(4))
    claim(db, running)
    finish(db, ended)
    client.post(CANCEL, json={"task_id": cancelled})
    assert listed(client) == [cancelled, ended, running, pending]
    assert listed(client, status="running") == [running]
    assert listed(client, status="running,finished") == listed(client, status=["running", "finished"])
    assert listed(client, status="running,finished") == [ended, running]
    assert listed(client, status="human_intervention") == []


def test_the_list_by_labels(client: FlaskClient) -> None:
    labels: list[dict[str, Any]] = [
        {"run": "7", "team": "a:b"},
        {"run": 7, "team": "a:b"},
        {"run": 7.0},
        {"run": True},
        {"run": "true"},
        {"run": None},
        {"run": ""},
        {"run": '7, "x": 1'},
        {},
    ]
    ids = [submit(client, metadata=one) for one in labels]

    def having(*wanted: str) -> list[int]:
        return sorted(ids.index(one) for one in listed(client, metadata=list(wanted)))

    assert having("run:7") == [0, 1, 2]
    assert having("run:7.0") == [1, 2]
    assert having("run:7", "team:a:b") == [0, 1]
    assert having("run:true") == [3, 4]
    assert having("run:null") == [5]
    assert having("run:") == [6]
    assert having('run:7, "x": 1') == [7]
    assert having("run:8") == having("nun:7") == []
    shown = client.get(LIST).json["tasks"]
    assert [one["metadata"] for one in shown] == labels[::-1]


def test_the_list_by_a_text(client: FlaskClient, db: Database) -> None:
    said = ["Open Notepad", "open notepad, 100% of it", "100 files", "a_b", "a-b", "打开邮箱", "deadbeef"]
    ids = [submit(client, instruction=one, sandbox_id=f"box-{one}", metadata={"team": "a"}) for one in said]
    claim(db, ids[0])

    def having(text: str, **query: str) -> list[int]:
        return [ids.index(one) for one in listed(client, q=text, **query)]

    assert having("NOTEPAD") == [1, 0]
    assert having("100%") == [1]
    assert having("a_b") == [3]
    assert having("\\") == having("/") == []
    assert having("邮箱") == [5]
    assert having("notepad", status="running", metadata="team:a") == [0]
    assert having("notepad", metadata="team:b") == []
    assert having("notepad", offset="1") == [0]
    first = client.get(LIST, query_string={"q": "notepad", "limit": 1}).json
    assert (first["count"], first["total"], first["total_is_exact"]) == (1, 2, True)
    assert having("notepad", cursor=first["next_cursor"]) == [0]
    for begin in (ids[4], ids[4][:4], ids[4][:14].upper()):
        assert ids[4] in listed(client, q=begin)
    assert having(ids[4][9:]) == []  # begins with it
    assert having("deadbeef") == [6]
    long = submit(client, instruction="x" * 1990 + " early, late")
    assert listed(client, q="early") == [long]
    assert listed(client, q="late") == []
    for bad in ("", "x" * 201, "\x00"):
        assert error(client.get(LIST, query_string={"q": bad}))[:2] == (400, "invalid_request")


def test_a_walk_by_cursor_sees_what_a_walk_by_offset_sees_and_no_newer_task(client: FlaskClient) -> None:
    for _ in range(3):  # tasks of a batch were made at the same moment
        client.post(BATCH, json={"tasks": [{"instruction": "x", "metadata": {"walk": 1}}] * 9})
        submit(client, metadata={"walk": 1})
        submit(client)
    wanted: dict[str, Any] = {"metadata": "walk:1", "limit": 4}
    by_offset = [one for offset in range(0, 30, 4) for one in listed(client, offset=offset, **wanted)]
    assert len(set(by_offset)) == 30

    by_cursor, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        page = client.get(LIST, query_string=wanted | ({"cursor": cursor} if cursor else {})).json
        assert (page["total"], page["total_is_exact"]) == (30 + pages, True)
        assert page["count"] == len(page["tasks"])
        by_cursor += [one["task_id"] for one in page["tasks"]]
        cursor, pages = page["next_cursor"], pages + 1
        submit(client, metadata={"walk": 1})
    assert by_cursor == by_offset
    assert pages == 8


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=1e2",
        "limit=",
        "offset=-1",
        "offset=1000001",
        "status=lost",
        "metadata=team",
        "metadata=:a",
        "cursor=x",
        "cursor=",
        "&".join(["metadata=a:b"] * 33),
    ],
)
def test_a_bad_query_is_refused_by_name(shared_client: FlaskClient, query: str) -> None:
    status, code, message = error(shared_client.get(f"{LIST}?{query}"))
    assert (status, code) == (400, "invalid_request")
    assert message.startswith(query.partition("=")[0])


def test_odd_rows_of_older_versions_spoil_nothing(client: FlaskClient, db: Database) -> None:
    task_id = submit(client)
    odd = [("{}", None, "{}"), ("[]", "[1]", '"x"'), ("{}", '{"odd": [1]}', "null"), ("null", "null", "7")]
    insert = text(
        "INSERT INTO jobs (id, created_at, instruction, options, sandbox, metadata) VALUES "
        "(gen_random_uuid(), '2020-1-1', 'x', CAST(:o AS jsonb), CAST(:s AS jsonb), CAST(:m AS jsonb))"
    )
    with db.transaction() as session:
        session.execute(insert, [dict(zip("osm", columns, strict=True)) for columns in odd])
    ids = listed(client)
    assert ids[0] == task_id
    assert len(ids) == 1 + len(odd)
    for one in ids:
        assert status(client, one)["llm_context"]["messages"]
    assert client.get(f"{API}/tasks").json["count"] == 1 + len(odd)
    assert client.post(CANCEL, json={}).json["count"] == 1 + len(odd)


def test_active_tasks_under_way_first_then_those_that_wait_in_their_order(
    client: FlaskClient, db: Database
) -> None:
    late, urgent, running, human, ended = (
        submit(client, sandbox_id=f"box-{number}", priority=priority)
        for number, priority in enumerate((9, 0, 5, 5, 5))
    )
    claim(db, running)
    call_human(db, human)
    finish(db, ended)
    answer = client.get(f"{API}/tasks").json
    assert [one["task_id"] for one in answer["tasks"]] == [running, human, urgent, late]
    assert (answer["count"], answer["total"]) == (4, 4)
    assert answer["tasks"][0] == {
        "task_id": running,
        "sandbox_id": "box-2",
        "cancelled": False,
        "status": "running",
        "worker": "test",
        "step": 0,
    }
    assert client.get(f"{API}/tasks?limit=1").json["total"] == 4


# --- one task -------------------------------------------------------------------------------------------


def test_the_place_in_the_queue_follows_priority_then_age(client: FlaskClient, db: Database) -> None:
    ids = [submit(client, sandbox_id=f"box-{p}", priority=p) for p in (5, 9, 0)] + [
        submit(client, priority=5)
    ]
    assert [status(client, one)["queue_position"] for one in ids] == [2, 4, 1, 3]
    assert status(client, ids[0])["pending_reason"] == "waiting for a worker"
    claim(db, ids[2])
    assert status(client, ids[2])["queue_position"] is None
    assert status(client, ids[2])["pending_reason"] is None
    assert [status(client, one)["queue_position"] for one in ids if one != ids[2]] == [1, 3, 2]


def test_a_task_at_a_busy_sandbox_says_what_it_waits_for(client: FlaskClient, db: Database) -> None:
    first, second = submit(client), submit(client)
    reason = f"waiting for sandbox box-123, which task {first} uses or asked for first"
    assert status(client, second)["pending_reason"] == reason
    call_human(db, first)
    assert status(client, second)["pending_reason"] == reason, "a human drives it, too"
    client.post(CANCEL, json={"task_id": first})
    assert status(client, second)["pending_reason"] == "waiting for a worker"


def test_fields_are_those_of_the_contract(client: FlaskClient, submitted: str) -> None:
    names = {
        *("task_id", "status", "query", "max_steps", "steps", "sandbox_info", "finished_output"),
        *("created_at", "started_at", "updated_at", "finished_at", "llm_context", "usage"),
        *("error_code", "error_message", "parent_task_id", "queue_position"),
    }
    whole = status(client, submitted)
    assert names <= set(whole)
    for name in names:
        assert status(client, submitted, fields=name) == {"task_id": submitted, name: whole[name]}
    assert status(client, submitted, fields=" status ,steps,") == {
        "task_id": submitted,
        "status": "pending",
        "steps": 0,
    }
    assert status(client, submitted, fields="nonsense") == {"task_id": submitted}


def test_steps_page_by_page(client: FlaskClient, db: Database, submitted: str) -> None:
    url = f"{API}/task/{submitted}/steps"
    empty = client.get(url).json
    assert (empty["steps"], empty["total"], empty["next_after"]) == ([], 0, None)
    take_steps(db, claim(db, submitted), 7)
    seen, after = [], 0
    while after is not None:
        page = client.get(f"{url}?after={after}&limit=3").json
        assert (page["task_id"], page["total"], page["count"]) == (submitted, 7, len(page["steps"]))
        seen += page["steps"]
        after = page["next_after"]
    assert [one["number"] for one in seen] == list(range(1, 8))
    assert (seen[0]["thought"], seen[0]["actions"], seen[0]["status"]) == (
        "1",
        [{"type": "mouse:click"}],
        "done",
    )
    assert (seen[0]["action_ms"], seen[0]["run"]) == (7, 1)
    assert (seen[0]["call"], seen[0]["marks"]) == ("click(point='<point>1 1</point>')", [])
    assert client.get(f"{url}?after=100").json["next_after"] is None
    for query in ("after=-1", "after=2147483648", "limit=0", "limit=501", "after=x"):
        assert error(client.get(f"{url}?{query}"))[0] == 400
    assert error(client.get(f"{API}/task/{UNKNOWN}/steps"))[:2] == (404, "task_not_found")


def test_events_page_by_page(client: FlaskClient, db: Database, submitted: str) -> None:
    url = f"{API}/task/{submitted}/events"
    lease = claim(db, submitted)
    with db.transaction() as session:
        writes.carry_out(
            session, writes.change(lease, [events.result(str(number), 1) for number in range(1100)])
        )
    pages, after, over = [], 0, False
    while not over:
        page = client.get(f"{url}?after={after}", headers=AS_PAGE).json
        assert page["next_after"] == after + page["count"]
        if page["count"] == 0:  # nothing new, and not over: it goes on later
            with db.transaction() as session:
                writes.carry_out(session, writes.finished(lease, "done"))
        pages.append([one["seq"] for one in page["events"]])
        after, over = page["next_after"], page["over"]
    assert [len(page) for page in pages] == [500, 500, 102, 0, 1]
    assert [seq for page in pages for seq in page] == list(range(1, 1104))
    last = client.get(f"{url}?after=1103", headers=AS_PAGE).json
    assert (last["events"], last["next_after"], last["over"]) == ([], 1103, True)
    both = client.get(f"{url}?after=1100", headers=AS_PAGE | {"Last-Event-ID": "1102"}).json
    assert [one["seq"] for one in both["events"]] == [1103], "the header wins"
    assert frames(client.get(f"{url}?after=1102").text) == both["events"], "a stream tells the same"


def test_a_page_and_a_stream_tell_the_same_of_every_type(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    lease = claim(db, submitted)
    told = [
        events.observation(None, 1),
        events.observation("https://pictures.example/1", 1, f"{submitted}/name"),
        events.thinking("hm", 1),
        events.action("wait()", [{"type": "wait", "duration": 1, "more": None}], 1),
        events.result("", 1),
        events.status(JobStatus.PENDING, resumed=True, content=None),
        NewEvent("human_intervention", {"content": "?", "needs_human": True, "taken_over": True}),
        NewEvent("thinking", {"content": "of a later version", "step": 2, "mood": None}),
        NewEvent("dream", {"content": "of a later version as well"}),
    ]
    for ending in (writes.change(lease, told), writes.failed(lease, "timeout", "too late")):
        with db.transaction() as session:
            writes.carry_out(session, ending)
    url = f"{API}/task/{submitted}/events"
    page = client.get(url, headers=AS_PAGE).json
    assert page["events"] == frames(client.get(url).text)
    assert (page["success"], page["count"], page["over"]) == (True, 12, True)


def test_info(client: FlaskClient, settings: Settings) -> None:
    shown = client.get(f"{API}/info").json
    assert shown["limits"] == {
        "instruction_characters": 100_000,
        "max_steps": 500,
        "batch_tasks": 1000,
        "page": 500,
        "body_bytes": 1024 * 1024,
        "rate": None,
        "active_tasks": None,
    }
    assert (shown["api_keys"], shown["log_level"]) == ("off", settings.log.level)
    assert shown["model"]["name"] == settings.model.name
    assert "secret" not in str(shown)


def test_info_shows_no_password_in_an_address(serve: Serve, settings: Settings) -> None:
    model = settings.model.model_copy(
        update={"endpoint": "https://user:planted@model.example.com/v1?key=planted"}
    )
    shown = serve(settings.model_copy(update={"model": model})).get(f"{API}/info").json
    assert shown["model"]["endpoint"] == "https://model.example.com/v1"


# --- going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"message": "the password is on the note"}, "the password is on the note"),
        ({}, jobs.RESUMED),
        ({"message": None}, jobs.RESUMED),
        ({"message": ""}, jobs.RESUMED),
    ],
)
def test_a_resumed_task_goes_on_with_the_message(
    client: FlaskClient, db: Database, submitted: str, body: dict[str, Any], told: str
) -> None:
    call_human(db, submitted)
    answer = client.post(f"{API}/task/{submitted}/resume", json=body).json
    assert (answer["success"], answer["task_id"], answer["status"]) == (True, submitted, "pending")
    shown = status(client, submitted)
    assert shown["llm_context"]["messages"][-1] == {"role": "user", "content": told}
    assert shown["sandbox_info"] == {"sandbox_id": "box-123"}
    finish(db, submitted)
    page = client.get(f"{API}/task/{submitted}/events", headers=AS_PAGE).json["events"]
    assert [one["seq"] for one in page] == list(range(1, len(page) + 1))
    kinds = ["status", "status", "human_intervention", "status", "status", "finished"]
    assert [one["type"] for one in page] == kinds
    assert (page[3]["status"], page[3]["resumed"]) == ("pending", True)


def test_a_resume_with_a_bad_message(client: FlaskClient, db: Database, submitted: str) -> None:
    call_human(db, submitted)
    for bad in (7, ["x"], {}, "x" * 100_001, "\x00"):
        answer = client.post(f"{API}/task/{submitted}/resume", json={"message": bad})
        found, _, message = error(answer)
        assert (found, message[:7]) == (400, "message")
    assert read(db, submitted).status == "human_intervention"


def test_only_a_task_that_waits_for_a_human_is_resumed(client: FlaskClient, db: Database) -> None:
    pending, running, ended, cancelled = (submit(client, sandbox_id=f"box-{n}") for n in range(4))
    claim(db, running)
    finish(db, ended)
    client.post(CANCEL, json={"task_id": cancelled})
    for task_id in (pending, running, ended, cancelled):
        before = read(db, task_id).event_count
        answer = client.post(f"{API}/task/{task_id}/resume", json={})
        assert error(answer)[:2] == (409, "task_conflict")
        assert read(db, task_id).event_count == before
    assert error(client.post(f"{API}/task/{UNKNOWN}/resume", json={}))[:2] == (404, "task_not_found")


def test_of_many_resumes_at_once_one_counts(client: FlaskClient, db: Database, submitted: str) -> None:
    call_human(db, submitted)
    url = f"{API}/task/{submitted}/resume"
    answers = at_once(8, lambda _: client.application.test_client().post(url, json={}).status_code)
    assert sorted(answers) == [200] + [409] * 7
    page = client.get(f"{API}/task/{submitted}/events", headers=AS_PAGE).json["events"]
    assert [one["seq"] for one in page] == [1, 2, 3, 4]


def test_waiting_for_a_human_costs_no_time(client: FlaskClient, db: Database) -> None:
    task_id = submit(client, timeout_seconds=60)
    call_human(db, task_id)
    ages = {name: getattr(Job, name) - timedelta(hours=1) for name in ("started_at", "updated_at")}
    with db.transaction() as session:  # as if the human had been called an hour ago
        session.execute(update(Job).values(ages))
    client.post(f"{API}/task/{task_id}/resume", json={})
    claim(db, task_id)
    left = _seconds_left(read(db, task_id))
    assert left is not None
    assert 50 < left <= 60


def test_a_follow_up_of_a_follow_up_knows_all_that_was_said(client: FlaskClient, db: Database) -> None:
    task_id = None
    for instruction in ("one", "two", "three"):
        more = {"continue_context": True, "task_id": task_id} if task_id else {}
        task_id = submit(client, instruction=instruction, **more)
        take_steps(db, lease := claim(db, task_id), 1)
        with db.transaction() as session:
            writes.carry_out(session, writes.finished(lease, "done"))
    told = [one["content"] for one in status(client, str(task_id))["llm_context"]["messages"]]
    assert [one for one in told if one in {"one", "two", "three"}] == ["one", "two", "three"]
    assert len(told) == 1 + 2 * 3


# --- stopping -------------------------------------------------------------------------------------------


def obeying(db: Database, task_ids: Iterable[str]) -> Thread:
    """A worker that stops its runs as soon as it is asked to."""
    leases = [claim(db, task_id) for task_id in task_ids]

    def obey() -> None:
        for lease in leases:
            wait_until(lambda lease=lease: read(db, str(lease.job_id)).cancel_requested_at)  # type: ignore[misc]
            with db.transaction() as session:
                writes.carry_out(session, writes.cancelled(lease))

    worker = Thread(target=obey)
    worker.start()
    return worker


def test_cancel_all_whatever_state_they_are_in(client: FlaskClient, db: Database) -> None:
    stuck, pending, human, running, ended = (submit(client, sandbox_id=f"box-{n}") for n in range(5))
    claim(db, stuck)  # by a worker that does not answer
    call_human(db, human)
    finish(db, ended)
    worker = obeying(db, [running])
    answer = client.post(CANCEL, json={}).json
    worker.join()
    assert set(answer["task_ids"]) == {pending, human, running}
    assert (answer["stopping"], answer["count"]) == ([stuck], 3)
    states = [status(client, one)["status"] for one in (stuck, pending, human, running, ended)]
    assert states == ["running", "cancelled", "cancelled", "cancelled", "finished"]
    assert client.get(f"{API}/tasks").json["tasks"][0]["cancelled"] is True
    for task_id in (pending, human, running):
        kinds = [one["type"] for one in frames(client.get(f"{API}/task/{task_id}/events").text)]
        assert kinds.count("cancelled") == 1
        assert kinds[-1] == "cancelled"


def test_cancelling_a_running_task_answers_when_it_has_stopped(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    worker = obeying(db, [submitted])
    answer = client.post(CANCEL, json={"task_id": submitted}).json
    worker.join()
    assert (answer["status"], answer["already_cancelled"]) == ("cancelled", False)


def test_a_task_that_was_handed_back_before_it_could_obey_is_stopping(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    lease = claim(db, submitted)
    with db.transaction() as session:
        jobs.request_cancel(session, UUID(submitted))
        writes.carry_out(session, writes.given_back(lease))
    answer = client.post(CANCEL, json={"task_id": submitted}).json
    assert (answer["status"], answer["already_cancelled"]) == ("cancelled", True)


def test_cancelling_from_many_threads_ends_a_task_once(client: FlaskClient, db: Database) -> None:
    ids = [submit(client) for _ in range(3)]

    def cancel(number: int) -> int:
        body = {"task_id": ids[0]} if number % 2 else {}
        return client.application.test_client().post(CANCEL, json=body).status_code

    assert set(at_once(8, cancel)) == {200}
    for task_id in ids:
        page = client.get(f"{API}/task/{task_id}/events", headers=AS_PAGE).json
        assert [one["type"] for one in page["events"]] == ["status", "cancelled"]


def test_a_step_left_open_is_told_as_such(client: FlaskClient, db: Database, submitted: str) -> None:
    take_steps(db, claim(db, submitted), 1)
    with db.transaction() as session:
        session.execute(update(Step).values(status="intended", finished_at=None, action_ms=None))
    [step] = client.get(f"{API}/task/{submitted}/steps").json["steps"]
    assert (step["status"], step["finished_at"], step["action_ms"]) == ("intended", None, None)
