"""API keys: who is let in, what each caller sees and may touch, and how much of it."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import func, select, text, update
from typer.testing import CliRunner, Result
from werkzeug.test import TestResponse

from api.auth import METRICS, OPEN
from local.keys import keys as keys_command
from local.stack import Plan, Storage
from local.up import refuse_keys_without_a_place
from shared import keys
from shared.db import Database
from shared.errors import ConfigurationError, InvalidRequest
from shared.models import ApiKey, Job
from shared.settings import ApiSettings, RedisSettings, Settings
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
)

MakeKey = Callable[..., str]
Caller = Callable[..., FlaskClient]


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return settings.model_copy(update={"api": ApiSettings(keys="required")})


@pytest.fixture
def guarded(serve: Serve, keyed: Settings) -> FlaskClient:
    """A client that sends no key."""
    return serve(keyed)


@pytest.fixture
def make_key(db: Database) -> MakeKey:
    def made(name: str = "alice", **limits: Any) -> str:
        with db.transaction() as session:
            return keys.create(session, name, **limits)

    return made


@pytest.fixture
def caller(guarded: FlaskClient, make_key: MakeKey) -> Caller:
    """Makes clients that send a key of their own."""
    return lambda name="alice", **limits: with_key(guarded, make_key(name, **limits))


def with_key(client: FlaskClient, key: str) -> FlaskClient:
    """Another client of the same application, which sends the key."""
    other = client.application.test_client()
    other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return other


def twin(client: FlaskClient) -> FlaskClient:
    """The same caller in another thread."""
    other = client.application.test_client()
    other.environ_base.update(client.environ_base)
    return other


def row(db: Database, name: str) -> ApiKey:
    with db.transaction() as session:
        return session.scalars(select(ApiKey).where(ApiKey.name == name)).one()


def stored(db: Database, table: str) -> list[str]:
    """All that stands in the table."""
    with db.transaction() as session:
        return list(session.scalars(text(f"SELECT t::text FROM {table} t")))


# --- who is let in --------------------------------------------------------------------------------------


def test_no_route_but_the_open_ones_is_reached_without_a_key(guarded: FlaskClient) -> None:
    rules = [
        rule for rule in guarded.application.url_map.iter_rules() if rule.endpoint not in OPEN | {METRICS}
    ]
    assert len(rules) >= 11
    for rule in rules:
        url = rule.rule.replace("<task_id>", UNKNOWN)
        for method in rule.methods - {"OPTIONS"}:
            answer = guarded.open(url, method=method)
            assert answer.status_code == 401, f"{method} {url}"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            if method != "HEAD":
                assert error(answer)[1] == "unauthenticated"


def test_the_open_routes_need_none(guarded: FlaskClient) -> None:
    for path in ("health", "ready", "openapi.json", "docs", "swagger/css/swagger-ui.css"):
        with guarded.get(f"/api/{path}") as answer:
            assert answer.status_code in {200, 503}, path


STRANGERS = (
    {"Authorization": "Bearer lgk_unknown"},
    {"X-API-Key": "lgk_unknown"},
    {"X-API-Key": ""},
    {"X-API-Key": "schlüssel\x7f"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer a=b"},
    {"Authorization": "Basic bGdrOmxnaw=="},
    {"Authorization": "lgk_unknown"},
)


def test_an_unknown_key(guarded: FlaskClient, make_key: MakeKey) -> None:
    make_key()
    for headers in STRANGERS:
        answer = guarded.get(f"{API}/info", headers=headers)
        assert error(answer)[:2] == (401, "unauthenticated"), headers
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "lgk_unknown" not in answer.text


def test_both_headers_carry_a_key(guarded: FlaskClient, make_key: MakeKey) -> None:
    key = make_key()
    for header in ("Authorization: Bearer {}", "authorization: bearer {}", "X-API-Key: {}"):
        name, _, value = header.format(key).partition(": ")
        assert guarded.get(f"{API}/info", headers={name: value}).status_code == 200, header


def test_a_revoked_key(caller: Caller, db: Database) -> None:
    alice = caller()
    task_id = submit(alice)
    with db.transaction() as session:
        keys.revoke(session, "alice")
    assert error(alice.get(f"{API}/info"))[:2] == (403, "forbidden")
    assert read(db, task_id).status == "pending", "its tasks go on"
    assert caller("alice").get(f"{API}/task/status/{task_id}").status_code == 404, "a name is no identity"


def test_without_the_database_nobody_is_called_a_stranger(serve: Serve, keyed: Settings) -> None:
    nowhere = keyed.storage.model_copy(update={"url": SecretStr("postgresql://u:p@127.0.0.1:9/d")})
    client = with_key(serve(keyed.model_copy(update={"storage": nowhere})), "lgk_any")
    answer = client.get(f"{API}/info")
    assert error(answer)[:2] == (503, "storage_unavailable")
    assert answer.headers["Retry-After"]


def test_only_a_hash_is_stored(make_key: MakeKey, db: Database) -> None:
    key = make_key()
    assert len(key) > 40
    assert key[10:] not in str(stored(db, "api_keys"))
    assert row(db, "alice").digest == sha256(key.encode()).digest()


def test_it_is_remembered_when_a_key_was_used_to_the_minute(caller: Caller, db: Database) -> None:
    alice = caller()
    assert row(db, "alice").used_at is None
    alice.get(f"{API}/info")
    first = row(db, "alice").used_at
    assert first is not None
    alice.get(f"{API}/info")
    assert row(db, "alice").used_at == first
    with db.transaction() as session:
        session.execute(update(ApiKey).values(used_at=ApiKey.used_at - timedelta(minutes=2)))
    alice.get(f"{API}/info")
    assert row(db, "alice").used_at > first


# --- what each caller sees and may touch ----------------------------------------------------------------

TOUCH: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/task/status/{}", None),
    ("GET", "/task/{}/steps", None),
    ("GET", "/task/{}/events", None),
    ("GET", "/task/{}/events?page", None),
    ("GET", "/task/{}/screenshots/one", None),
    ("GET", "/task/{}/preview", None),
    ("GET", "/task/{}/report", None),
    ("GET", "/task/{}/webhooks", None),
    ("POST", "/task/{}/resume", {"message": "go on"}),
    ("POST", "/task/{}/takeover", None),
    ("POST", "/task/{}/actions", {"actions": [{"type": "screenshot"}]}),
    ("POST", "/cancel", {"task_id": "{}"}),
    ("POST", "/task/submit", {"instruction": "x", "continue_context": True, "task_id": "{}"}),
    ("POST", "/run", {"instruction": "x", "continue_context": True, "task_id": "{}"}),
    ("POST", "/task/batch", {"tasks": [{"instruction": "x", "continue_context": True, "task_id": "{}"}]}),
]


def ask(client: FlaskClient, method: str, path: str, body: Any, task_id: str) -> TestResponse:
    """The request about a task."""
    filled = {name: task_id if value == "{}" else value for name, value in (body or {}).items()}
    if "tasks" in filled:
        filled["tasks"] = [{**one, "task_id": task_id} for one in filled["tasks"]]
    headers = {"Accept": "application/json"} if "?page" in path else {}
    url = f"{API}{path.format(task_id)}"
    return client.open(url, method=method, json=filled if body else None, headers=headers)


@pytest.mark.parametrize("state", ["pending", "running", "human_intervention", "finished"])
def test_another_s_task_is_like_one_that_does_not_exist(caller: Caller, db: Database, state: str) -> None:
    alice, mallory = caller("alice"), caller("mallory")
    task_id = submit(alice)
    {"pending": read, "running": claim, "human_intervention": call_human, "finished": finish}[state](
        db, task_id
    )
    before = stored(db, "jobs")
    for method, path, body in TOUCH:
        answer = ask(mallory, method, path, body, task_id)
        assert error(answer)[:2] == (404, "task_not_found"), path
        nothing = ask(mallory, method, path, body, UNKNOWN)
        assert answer.json["error"]["message"] == nothing.json["error"]["message"].replace(UNKNOWN, task_id)
        assert set(answer.headers.keys()) == set(nothing.headers.keys())
    assert stored(db, "jobs") == before


def test_lists_and_cancel_all_keep_to_the_caller_s_own(caller: Caller, db: Database) -> None:
    alice, mallory = caller("alice"), caller("mallory")
    hers = [submit(alice, metadata={"team": "a"}) for _ in range(2)]
    his = submit(mallory, metadata={"team": "a"})
    for query in ("", "?metadata=team:a", "?status=pending"):
        listed = mallory.get(f"{API}/task/list{query}").json
        assert ([one["task_id"] for one in listed["tasks"]], listed["total"]) == ([his], 1)
    assert [one["task_id"] for one in mallory.get(f"{API}/task/list?q=open").json["tasks"]] == [his]
    cursor = alice.get(f"{API}/task/list?limit=1").json["next_cursor"]
    assert cursor
    assert {one["task_id"] for one in mallory.get(f"{API}/task/list?cursor={cursor}").json["tasks"]} <= {his}
    active = mallory.get(f"{API}/tasks").json
    assert ([one["task_id"] for one in active["tasks"]], active["total"]) == ([his], 1)
    assert mallory.post(f"{API}/cancel", json={}).json["task_ids"] == [his]
    assert [read(db, one).status for one in hers] == ["pending", "pending"]
    assert alice.get(f"{API}/task/list").json["total"] == 2


def test_who_waits_for_a_sandbox_is_not_told_whose_task_is_ahead(caller: Caller) -> None:
    alice, mallory = caller("alice"), caller("mallory")
    first, hers, his = submit(alice), submit(alice), submit(mallory)

    def reason(client: FlaskClient, task_id: str) -> str:
        return str(client.get(f"{API}/task/status/{task_id}").json["pending_reason"])

    assert reason(alice, first) == "waiting for a worker"
    assert first in reason(alice, hers)
    assert "another task" in reason(mallory, his)
    assert first not in reason(mallory, his)
    assert hers not in reason(mallory, his)


def test_each_caller_has_idempotency_keys_of_its_own(caller: Caller) -> None:
    alice, mallory = caller("alice"), caller("mallory")
    headers = {"Idempotency-Key": "monday"}
    hers, hers_again = (alice.post(SUBMIT, json=GOOD, headers=headers).json["task_id"] for _ in range(2))
    his = mallory.post(SUBMIT, json=GOOD | {"max_steps": 3}, headers=headers).json["task_id"]
    assert hers == hers_again != his


def test_a_caller_s_own_tasks_are_all_there_for_it(caller: Caller, db: Database) -> None:
    alice = caller("alice")
    task_id = submit(alice)
    call_human(db, task_id)
    assert alice.get(f"{API}/task/{task_id}/steps").json["count"] == 1
    assert alice.post(f"{API}/task/{task_id}/resume", json={}).json["status"] == "pending"
    assert alice.post(f"{API}/cancel", json={"task_id": task_id}).json["status"] == "cancelled"
    assert frames(alice.get(f"{API}/task/{task_id}/events").text)[-1]["type"] == "cancelled"
    follow_up = {"instruction": "and now", "continue_context": True, "task_id": task_id}
    assert alice.post(SUBMIT, json=follow_up).status_code == 200


# --- how much a caller may ------------------------------------------------------------------------------


@pytest.fixture
def limited(serve: Serve, keyed: Settings, make_key: MakeKey) -> Caller:
    """Makes clients by the limits in the settings and the key's own ones."""

    def made(settings: dict[str, Any], key: dict[str, Any]) -> FlaskClient:
        api = ApiSettings(keys="required", **settings)
        return with_key(serve(keyed.model_copy(update={"api": api})), make_key(**key))

    return made


@pytest.mark.parametrize(
    ("setting", "own", "allowed"), [("2/minute", None, 2), ("2/minute", "4/hour", 4), ("9/day", "1/day", 1)]
)
def test_a_caller_that_asks_too_often(
    limited: Caller, make_key: MakeKey, setting: str, own: str | None, allowed: int
) -> None:
    alice = limited({"rate_limit": setting}, {"rate_limit": own})
    assert alice.get(f"{API}/info").json["limits"]["rate"] == (own or setting)
    assert [alice.get(f"{API}/info").status_code for _ in range(allowed)] == [200] * (allowed - 1) + [429]
    answer = alice.post(SUBMIT, json=GOOD)
    assert error(answer)[:2] == (429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 86400
    assert alice.get("/api/health").status_code == 200, "where no key is asked for, nobody counts"
    assert with_key(alice, make_key("bob")).get(f"{API}/info").status_code == 200, "others are not held up"


def test_a_rate_holds_when_all_ask_at_once(caller: Caller) -> None:
    alice = caller(rate_limit="10/hour")

    def asked(_: int) -> int:
        return twin(alice).get(f"{API}/info").status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(asked, range(30))) == [200] * 10 + [429] * 20


def test_without_redis_nobody_is_held_up(
    serve: Serve, keyed: Settings, make_key: MakeKey, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = RedisSettings(url=SecretStr("redis://127.0.0.1:9/0"))
    alice = with_key(serve(keyed.model_copy(update={"redis": nowhere})), make_key(rate_limit="1/day"))
    assert [alice.get(f"{API}/info").status_code for _ in range(5)] == [200] * 5
    assert [line for line in caplog.messages if "not counted" in line] == [
        "requests are not counted: Redis does not answer (ConnectionError)"
    ]


@pytest.mark.parametrize(("setting", "own", "most"), [(2, None, 2), (2, 3, 3), (None, 1, 1)])
def test_a_caller_with_too_many_tasks(
    limited: Caller, make_key: MakeKey, db: Database, setting: int | None, own: int | None, most: int
) -> None:
    alice = limited({"max_active_tasks": setting}, {"max_active_tasks": own})
    assert alice.get(f"{API}/info").json["limits"]["active_tasks"] == most
    ids = [submit(alice) for _ in range(most)]
    for path, body in ((SUBMIT, GOOD), (f"{API}/run", GOOD), (f"{API}/task/batch", {"tasks": [GOOD]})):
        answer = alice.post(path, json=body)
        assert error(answer)[:2] == (429, "too_many_active_tasks")
        assert int(answer.headers["Retry-After"]) >= 1
    assert alice.get(f"{API}/task/list").json["total"] == most, "what was refused left nothing behind"
    assert submit(with_key(alice, make_key("bob", max_active_tasks=1))), "others are not held up"
    finish(db, ids[0])
    assert submit(alice), "what has ended makes room"


def test_a_batch_beyond_the_limit_is_refused_as_a_whole(caller: Caller) -> None:
    alice = caller(max_active_tasks=3)
    assert error(alice.post(f"{API}/task/batch", json={"tasks": [GOOD] * 4}))[0] == 429
    assert alice.get(f"{API}/tasks").json["total"] == 0
    assert alice.post(f"{API}/task/batch", json={"tasks": [GOOD] * 3}).json["count"] == 3


def test_a_request_that_is_sent_again_is_let_through_at_the_limit(caller: Caller) -> None:
    alice = caller(max_active_tasks=2)
    once, twice = {"Idempotency-Key": "1"}, {"Idempotency-Key": "2"}
    first = alice.post(SUBMIT, json=GOOD, headers=once).json["task_id"]
    batch = alice.post(f"{API}/task/batch", json={"tasks": [GOOD]}, headers=twice).json["task_ids"]
    assert alice.post(SUBMIT, json=GOOD, headers=once).json["task_id"] == first
    assert alice.post(f"{API}/task/batch", json={"tasks": [GOOD]}, headers=twice).json["task_ids"] == batch
    assert error(alice.post(SUBMIT, json=GOOD, headers={"Idempotency-Key": "3"}))[0] == 429


def test_the_limit_holds_when_all_submit_at_once(caller: Caller, db: Database) -> None:
    alice = caller(max_active_tasks=5)

    def submitted(number: int) -> int:
        path, body = (SUBMIT, GOOD) if number % 2 else (f"{API}/task/batch", {"tasks": [GOOD] * 2})
        return twin(alice).post(path, json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submitted, range(24)))
    assert set(answers) == {200, 429}
    with db.transaction() as session:
        # 5, or 4 where only batches of two came when there was room for one.
        assert session.scalar(select(func.count()).select_from(Job)) in {4, 5}


# --- the command line -----------------------------------------------------------------------------------


@pytest.fixture
def command(database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`lybic-guiagent keys`, at this test's database."""
    monkeypatch.setenv("POSTGRES_CONNECTION_STRING", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(keys_command, arguments)


def test_keys_are_made_listed_and_revoked(command: Callable[..., Result], guarded: FlaskClient) -> None:
    made = command("create", "alice", "--rate-limit", "7/minute", "--max-active-tasks", "9")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    limits = with_key(guarded, key).get(f"{API}/info").json["limits"]
    assert (limits["rate"], limits["active_tasks"]) == ("7/minute", 9)

    listed = command("list").stdout
    assert key not in listed
    assert key[10:] not in listed
    [line] = [line for line in listed.splitlines() if "alice" in line]
    assert key[:10] in line
    assert ("valid" in line, "7/minute" in line, "9" in line) == (True, True, True)

    again = command("create", "alice")
    assert isinstance(again.exception, InvalidRequest)
    assert command("revoke", "alice").exit_code == 0
    assert with_key(guarded, key).get(f"{API}/info").status_code == 403
    assert "revoked" in command("list").stdout
    assert isinstance(command("revoke", "alice").exception, InvalidRequest)
    assert command("create", "alice").stdout.strip() != key, "a name is free again"


def test_programs_read_json(command: Callable[..., Result]) -> None:
    made = json.loads(command("create", "alice", "--rate-limit", "7/minute", "--json").stdout)
    assert made["name"] == "alice"
    assert json.loads(command("rotate", "alice", "--json").stdout)["key"] != made["key"]
    assert json.loads(command("revoke", "alice", "--json").stdout) == {"name": "alice", "revoked": True}
    listed = command("list", "--json").stdout
    (one,) = map(json.loads, listed.splitlines())
    assert (one["name"], one["rate_limit"], bool(one["revoked_at"])) == ("alice", "7/minute", True)
    assert made["key"] not in listed


def test_a_key_is_replaced(command: Callable[..., Result], guarded: FlaskClient) -> None:
    old = command("create", "alice", "--rate-limit", "7/minute").stdout.strip()
    task_id = submit(with_key(guarded, old))
    new = command("rotate", "alice").stdout.strip()
    assert error(with_key(guarded, old).get(f"{API}/info"))[:2] == (401, "unauthenticated")
    assert with_key(guarded, new).get(f"{API}/task/status/{task_id}").status_code == 200
    assert with_key(guarded, new).get(f"{API}/info").json["limits"]["rate"] == "7/minute"
    assert new[:10] in command("list").stdout
    command("revoke", "alice")
    assert isinstance(command("rotate", "alice").exception, InvalidRequest)


def test_a_rate_that_is_none(make_key: MakeKey) -> None:
    for rate in ("many", "0/minute", "5/fortnight", "-1/second", "1/minute\n", "١/day"):
        with pytest.raises(InvalidRequest, match="a rate is written like"):
            make_key(rate_limit=rate)


def test_a_name_is_any_text_that_can_be_shown(command: Callable[..., Result], make_key: MakeKey) -> None:
    for name in ("[/red]", "小王", "a b"):
        make_key(name)
        assert name in command("list").stdout
    for name in ("", " ", "a\nb", "\x1b[2J", "\x00", "\udcff"):
        with pytest.raises(InvalidRequest, match="name"):
            make_key(name)


def test_the_command_asks_for_a_database_if_there_is_none(
    command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POSTGRES_CONNECTION_STRING")
    assert isinstance(command("list").exception, ConfigurationError)


# --- nobody could be let in -----------------------------------------------------------------------------


def test_a_database_without_a_valid_key_is_refused(db: Database, make_key: MakeKey) -> None:
    def required() -> None:
        with db.transaction() as session:
            keys.require_any(session)

    with pytest.raises(ConfigurationError, match="keys create"):
        required()
    make_key()
    required()
    with db.transaction() as session:
        keys.revoke(session, "alice")
    with pytest.raises(ConfigurationError, match="keys create"):
        required()


@pytest.mark.parametrize(
    ("storage", "keys_required", "refused"),
    [
        (Storage(), True, True),
        (Storage(), False, False),
        (Storage(kept=Path("state")), True, False),
        (Storage(url="postgresql://elsewhere/db"), True, False),
    ],
)
def test_a_throw_away_database_has_no_keys(storage: Storage, keys_required: bool, refused: bool) -> None:
    plan = Plan(environment={}, storage=storage, host="0.0.0.0", port=5000, keys_required=keys_required)
    if refused:
        with pytest.raises(ConfigurationError, match="--state-dir"):
            refuse_keys_without_a_place(plan)
    else:
        refuse_keys_without_a_place(plan)


@pytest.mark.parametrize(
    ("host", "chosen", "required"),
    [
        ("127.0.0.1", "auto", False),
        ("::1", "auto", False),
        ("localhost", "auto", False),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("api.example.com", "auto", True),
        ("0.0.0.0", "off", False),
        ("127.0.0.1", "required", True),
    ],
)
def test_where_keys_are_required(host: str, chosen: Any, required: bool) -> None:
    assert ApiSettings(host=host, keys=chosen).keys_required is required
