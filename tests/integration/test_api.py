"""The routes on a real database: what is accepted, what is refused and how."""

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import Redis

from local.servers import Valkey
from shared import jobs, writes
from shared.db import Database
from shared.models import Job
from shared.schemas import Credentials
from shared.secrets import Vault
from shared.settings import RedisSettings, Settings, StorageSettings
from tests.conftest import wait_until
from tests.integration.conftest import GOOD, SUBMIT, UNKNOWN, Serve, claim, error, frames


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


def test_health_asks_nothing_else(serve: Serve, settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={
            "storage": StorageSettings(
                url=SecretStr("postgresql://u:p@127.0.0.1:9/d"),
                credentials_keys=settings.storage.credentials_keys,
            ),
            "redis": RedisSettings(url=SecretStr("redis://127.0.0.1:9/0")),
        }
    )
    client = serve(nowhere)
    assert client.get("/api/health").json == {"status": "ok"}
    ready = client.get("/api/ready")
    assert ready.status_code == 503
    assert {name: check["ok"] for name, check in ready.json["checks"].items()} == {
        "database": False,
        "redis": False,
        "workers": False,
    }
    assert error(client.post(SUBMIT, json=GOOD))[:2] == (503, "storage_unavailable")
    assert client.post(SUBMIT, json=GOOD).headers["Retry-After"]


def test_submit_without_redis_is_durable(serve: Serve, settings: Settings, db: Database) -> None:
    client = serve(
        settings.model_copy(update={"redis": RedisSettings(url=SecretStr("redis://127.0.0.1:9/0"))})
    )
    answer = client.post(SUBMIT, json=GOOD)
    assert answer.status_code == 200
    with db.transaction() as session:
        assert jobs.get(session, UUID(answer.json["task_id"])).status == "pending"


def test_status_of_a_new_task(client: FlaskClient, submitted: str) -> None:
    shown = client.get(f"/api/agent/task/status/{submitted}").json
    assert shown["status"] == "pending"
    assert shown["query"] == "Open notepad"
    assert shown["max_steps"] == 50
    assert shown["sandbox_info"] == {"sandbox_id": "box-123"}
    assert shown["finished_output"] is None
    assert shown["queue_position"] == 1
    assert shown["usage"] == {"model_calls": 0, "input_tokens": 0, "output_tokens": 0}
    assert shown["created_at"].endswith("Z")
    assert [one["role"] for one in shown["llm_context"]["messages"]] == ["system", "user"]


def test_fields_narrow_the_status(client: FlaskClient, submitted: str) -> None:
    shown = client.get(f"/api/agent/task/status/{submitted}?fields=status, usage").json
    assert set(shown) == {"task_id", "status", "usage"}


def test_body_is_read_whatever_its_content_type(client: FlaskClient) -> None:
    answer = client.post(SUBMIT, data=json.dumps(GOOD), content_type="application/x-www-form-urlencoded")
    assert answer.json["success"] is True


def test_unknown_fields_are_ignored(client: FlaskClient) -> None:
    assert client.post(SUBMIT, json=GOOD | {"destination": "box"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "instruction"),
        ({"instruction": ""}, "instruction"),
        ({"instruction": " \n\t "}, "instruction"),
        ({"instruction": "x" * 100_001}, "instruction"),
        ({"instruction": 7}, "instruction"),
        ({"instruction": ["open"]}, "instruction"),
        (GOOD | {"instruction": "a\x00b"}, "instruction"),
        (GOOD | {"max_steps": 0}, "max_steps"),
        (GOOD | {"max_steps": 501}, "max_steps"),
        (GOOD | {"max_steps": "many"}, "max_steps"),
        (GOOD | {"max_steps": 10**30}, "max_steps"),
        (GOOD | {"sandbox_id": ".."}, "sandbox_id"),
        (GOOD | {"sandbox_id": {"id": 1}}, "sandbox_id"),
        (GOOD | {"sandbox_id": ""}, "sandbox_id"),
        (GOOD | {"authentication": "sk"}, "authentication"),
        (GOOD | {"authentication": {"api_key": "sk-planted"}}, "authentication.org_id"),
        (GOOD | {"authentication": {"api_key": "sk\nx: y", "org_id": "o"}}, "authentication.api_key"),
        (GOOD | {"ark_apikey": "schlüssel"}, "ark_apikey"),
        (GOOD | {"continue_context": "perhaps"}, "continue_context"),
        (GOOD | {"metadata": {"a": {"b": "c"}}}, "metadata.a"),
        (GOOD | {"priority": 10}, "priority"),
        (GOOD | {"language": "fr"}, "language"),
    ],
)
def test_a_bad_value_is_refused_by_name(client: FlaskClient, body: dict[str, Any], field: str) -> None:
    status, code, message = error(client.post(SUBMIT, json=body))
    assert (status, code) == (400, "invalid_request")
    assert message.startswith(field)
    assert "planted" not in message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"instruction": "\\ud800"}', b"[" * 100_000],
)
def test_a_body_that_is_no_request(client: FlaskClient, body: bytes) -> None:
    assert error(client.post(SUBMIT, data=body))[:2] == (400, "invalid_request")


def test_a_huge_body(client: FlaskClient) -> None:
    assert error(client.post(SUBMIT, data=b" " * (1024 * 1024 + 1)))[0] == 413


@pytest.mark.parametrize("path", ["/api/agent/run", SUBMIT])
@pytest.mark.parametrize(("group", "field"), [("lybic", "authentication"), ("model", "ark_apikey")])
def test_missing_credentials_are_named_at_once(
    serve: Serve, settings: Settings, path: str, group: str, field: str
) -> None:
    without = getattr(settings, group).model_copy(update={"api_key": None})
    client = serve(settings.model_copy(update={group: without}))
    status, code, message = error(client.post(path, json=GOOD))
    assert (status, code) == (400, "missing_credentials")
    assert message.startswith(field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (
            {"authentication": {"api_key": "k", "org_id": "o", "api_endpoint": "http://evil"}},
            "authentication",
        ),
        ({"model": {"base_url": "http://169.254.169.254/"}}, "model.base_url"),
    ],
)
def test_only_allowed_endpoints(client: FlaskClient, body: dict[str, Any], field: str) -> None:
    status, code, message = error(client.post(SUBMIT, json=GOOD | body))
    assert (status, code) == (400, "endpoint_not_allowed")
    assert message.startswith(field)


@pytest.mark.parametrize("task_id", ["previous-task-id", "$TASK_ID", UNKNOWN, "a" * 300, "%00"])
def test_unknown_tasks(client: FlaskClient, task_id: str) -> None:
    for answer in (
        client.get(f"/api/agent/task/status/{task_id}"),
        client.get(f"/api/agent/task/{task_id}/events"),
    ):
        assert error(answer)[:2] == (404, "task_not_found")


def test_cancelling_an_unknown_task(client: FlaskClient) -> None:
    assert error(client.post("/api/agent/cancel", json={"task_id": "stuck-task-id"}))[0] == 404


def test_unknown_routes_and_methods(client: FlaskClient) -> None:
    assert error(client.get("/api/nothing"))[:2] == (404, "not_found")
    status, code, _ = error(client.get(SUBMIT))
    assert (status, code) == (405, "method_not_allowed")


def test_cancel_pending_then_again(client: FlaskClient, submitted: str) -> None:
    first = client.post("/api/agent/cancel", json={"task_id": submitted}).json
    assert (first["success"], first["status"], first["already_cancelled"]) == (True, "cancelled", False)
    again = client.post("/api/agent/cancel", json={"task_id": submitted}).json
    assert (again["success"], again["already_cancelled"]) == (True, True)


def test_cancel_all(client: FlaskClient) -> None:
    ids = [client.post(SUBMIT, json=GOOD).json["task_id"] for _ in range(3)]
    answer = client.post("/api/agent/cancel", data=b"").json
    assert (answer["count"], set(answer["task_ids"])) == (3, set(ids))
    assert client.post("/api/agent/cancel", json={}).json["count"] == 0


def test_a_finished_task_is_not_cancelled(client: FlaskClient, db: Database, submitted: str) -> None:
    lease = claim(db, submitted)
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "done"))
    answer = client.post("/api/agent/cancel", json={"task_id": submitted}).json
    assert (answer["status"], answer["already_cancelled"]) == ("finished", False)
    assert client.get(f"/api/agent/task/status/{submitted}").json["status"] == "finished"


def test_events_are_replayed_after_the_last_one_seen(
    client: FlaskClient, db: Database, submitted: str
) -> None:
    lease = claim(db, submitted)
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "fertig ✓"))
    url = f"/api/agent/task/{submitted}/events"
    everything = client.get(url)
    assert everything.mimetype == "text/event-stream"
    assert [(one["seq"], one["type"]) for one in frames(everything.text)] == [
        (1, "status"),
        (2, "status"),
        (3, "finished"),
    ]
    last = frames(everything.text)[-1]
    assert last["task_id"] == last["taskId"] == submitted
    assert (last["output"], last["done"], last["stage"]) == ("fertig ✓", True, "System")
    for seen in (0, 1, 2):
        resumed = client.get(url, headers={"Last-Event-ID": str(seen)})
        assert [one["seq"] for one in frames(resumed.text)] == list(range(seen + 1, 4))
    assert client.get(f"{url}?after=3").status_code == 204
    page = client.get(f"{url}?after=1", headers={"Accept": "application/json"}).json
    assert [one["seq"] for one in page["events"]] == [2, 3]


@pytest.mark.parametrize("after", ["-1", "abc", "1e3", "9" * 30, "١"])
def test_nonsense_after(client: FlaskClient, submitted: str, after: str) -> None:
    answer = client.get(f"/api/agent/task/{submitted}/events", query_string={"after": after})
    assert error(answer)[:2] == (400, "invalid_request")


def test_a_follow_up(client: FlaskClient, db: Database, submitted: str) -> None:
    follow_up = {"instruction": "Type more", "continue_context": True, "task_id": submitted}
    assert error(client.post(SUBMIT, json=follow_up))[:2] == (409, "task_conflict")
    lease = claim(db, submitted)
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "done"))
    task_id = client.post(SUBMIT, json=follow_up).json["task_id"]
    assert task_id != submitted
    shown = client.get(f"/api/agent/task/status/{task_id}").json
    assert shown["parent_task_id"] == submitted
    assert shown["sandbox_info"] == {"sandbox_id": "box-123"}
    texts = [one["content"] for one in shown["llm_context"]["messages"]]
    assert texts[1:] == ["Open notepad", "Type more"]
    unknown = follow_up | {"task_id": "previous-task-id"}
    assert error(client.post(SUBMIT, json=unknown))[:2] == (404, "task_not_found")


def test_nothing_of_the_request_s_secrets_is_shown(
    client: FlaskClient, db: Database, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    body = GOOD | {
        "authentication": {"api_key": "sk-planted-lybic", "org_id": "org"},
        "ark_apikey": "planted-ark",
    }
    task_id = client.post(SUBMIT, json=body).json["task_id"]
    with db.transaction() as session:
        job: Job = jobs.get(session, UUID(task_id))
    opened = vault.open(job.credentials or b"", Credentials)
    assert opened.model_key.get_secret_value() == "planted-ark"
    rest = {column: value for column, value in vars(job).items() if column != "credentials"}
    shown = client.get(f"/api/agent/task/status/{task_id}").text
    assert "planted" not in f"{rest}{shown}{caplog.text}{opened!r}"


def test_sandbox_create_out_of_reach(client: FlaskClient) -> None:
    status, code, _ = error(client.post("/api/sandbox/create", json={}))
    assert (status, code) == (502, "sandbox_error")


@pytest.mark.parametrize(
    ("body", "field"),
    [({"maxLifeSeconds": 86401}, "maxLifeSeconds"), ({"name": ""}, "name"), ({"shape": 5}, "shape")],
)
def test_sandbox_create_with_a_bad_value(client: FlaskClient, body: dict[str, Any], field: str) -> None:
    status, _, message = error(client.post("/api/sandbox/create", json=body))
    assert status == 400
    assert message.startswith(field)


def test_a_message_carries_the_job_s_id_and_nothing_else(client: FlaskClient, valkey: Valkey) -> None:
    redis = Redis.from_url(valkey.url, decode_responses=True)
    redis.flushall()
    body = GOOD | {"instruction": "planted text", "ark_apikey": "planted-key"}
    task_id = client.post(SUBMIT, json=body).json["task_id"]
    (key,) = wait_until(lambda: [key for key in redis.scan_iter() if key.startswith("guiagent")])
    (message,) = (json.loads(text) for text in redis.lrange(key, 0, -1))
    arguments = json.loads(base64.b64decode(message["body"]))[:2]
    assert arguments == [[task_id], {}]
    assert "planted" not in f"{message}{arguments}"
