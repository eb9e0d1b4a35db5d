"""Sandboxes as callers see them: listed, deleted, and never those of others."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from shared import keys, listing, writes
from shared.db import Database
from shared.schemas import LybicCredentials, SandboxInfo, sandbox_key
from shared.settings import ApiSettings, LybicSettings, Settings
from tests.integration.conftest import UNKNOWN, Serve, claim, error, finish, read, submit
from tests.integration.test_screenshots import Site, site_of
from tests.integration.test_standins import process

__all__ = ["site_of"]  # a fixture

KEY, ORG = "sk-lybic-secret", "org"
AUTHENTICATION = {"api_key": KEY, "org_id": ORG}
ROUTES = "/api/sandbox"
Make = Callable[[str], FlaskClient]


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


@pytest.fixture(scope="module")
def lybic() -> Iterator[str]:
    with process("local.sandbox", "--api-key", KEY, "--boot-seconds", "0") as url:
        yield url


@pytest.fixture
def settings(settings: Settings, lybic: str) -> Settings:
    ours = LybicSettings(api_key=SecretStr(KEY), org_id=ORG, endpoint=lybic)
    return settings.model_copy(update={"lybic": ours})


@pytest.fixture
def caller(serve: Serve, settings: Settings, db: Database) -> Make:
    """Makes clients with an API key of their own."""
    guarded = serve(settings.model_copy(update={"api": ApiSettings(keys="required")})).application

    def made(name: str) -> FlaskClient:
        client = guarded.test_client()
        with db.transaction() as session:
            client.environ_base["HTTP_X_API_KEY"] = keys.create(session, name)
        return client

    return made


@pytest.fixture(autouse=True)
def nothing_left(client: FlaskClient) -> None:
    for one in listed(client):
        delete(client, one)


def create(client: FlaskClient, name: str) -> str:
    return str(client.post(f"{ROUTES}/create", json={"name": name}).json["sandbox_id"])


def listed(client: FlaskClient, **body: Any) -> dict[str, str | None]:
    """The caller's tasks that drive them, by the sandboxes."""
    answer = client.post(f"{ROUTES}/list", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json["count"] == len(answer.json["sandboxes"])
    return {one["sandbox_id"]: one["task_id"] for one in answer.json["sandboxes"]}


def delete(client: FlaskClient, sandbox_id: str, **body: Any) -> Any:
    return client.post(f"{ROUTES}/delete", json={"sandbox_id": sandbox_id, **body})


def test_a_sandbox_is_seen_by_those_whose_tasks_use_it(
    caller: Make, client: FlaskClient, db: Database
) -> None:
    alice, mallory = caller("alice"), caller("mallory")
    hers, his, nobodys = (create(client, name) for name in ("hers", "his", "nobody's"))
    her_task, his_task = submit(alice, sandbox_id=hers), submit(mallory, sandbox_id=his)
    claim(db, her_task)
    assert listed(alice) == {hers: her_task}
    assert listed(mallory) == {his: None}, "his task waits"
    assert listed(caller("new")) == {}
    everything = [nobodys, his, hers]
    assert list(listed(client).items()) == [(nobodys, None), (his, None), (hers, her_task)], "no keys"
    assert listed(mallory, authentication=AUTHENTICATION) == dict.fromkeys(everything), "his own credentials"
    assert listed(alice, authentication=AUTHENTICATION)[hers] == her_task
    [shown] = alice.post(f"{ROUTES}/list", json={}).json["sandboxes"]
    assert (shown["name"], shown["status"], shown["shape"]) == ("hers", "RUNNING", "beijing-2c-4g-cpu")
    assert shown["created_at"] < shown["expires_at"]
    assert claim(db, his_task).job_id == UUID(his_task)
    assert listed(mallory) == {his: his_task}


def test_one_that_was_made_for_a_task_is_known_however_old_that_is(
    caller: Make, client: FlaskClient, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, mallory = caller("alice"), caller("mallory")
    made = create(client, "made")
    task_id = submit(alice, sandbox_id=None)
    lease = claim(db, task_id)
    access = LybicCredentials(api_key=SecretStr(KEY), org_id=ORG, endpoint=settings.lybic.endpoint)
    with db.transaction() as session:
        writes.carry_out(session, writes.sandbox_announced(lease, b"sealed", linger_seconds=9))
    with db.transaction() as session:
        info = SandboxInfo(sandbox_id=made)
        writes.carry_out(session, writes.sandbox_known(lease, info, sandbox_key(access, made)))
    monkeypatch.setattr(listing, "LATEST", 0)
    assert listed(alice) == {made: task_id}
    assert listed(mallory) == {}


def test_only_what_nobody_needs_is_deleted_and_only_by_who_may(
    caller: Make, client: FlaskClient, db: Database
) -> None:
    alice, mallory = caller("alice"), caller("mallory")
    hers = create(client, "hers")
    running, waiting = submit(alice, sandbox_id=hers), submit(alice, sandbox_id=hers)
    lease = claim(db, running)
    not_his = error(delete(mallory, hers))
    nothing = error(delete(mallory, "BOX-0"))
    assert not_his[:2] == nothing[:2] == (404, "sandbox_not_found")
    assert not_his[2].replace(hers, "BOX-0") == nothing[2]
    for one in (alice, client):
        assert error(delete(one, hers))[:2] == (409, "task_conflict")
    assert error(delete(mallory, hers, authentication=AUTHENTICATION))[:2] == (409, "task_conflict")
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "done"))
    assert error(delete(alice, hers))[:2] == (409, "task_conflict"), "another one waits for it"
    finish(db, waiting)
    assert hers in listed(client)
    answer = delete(alice, hers)
    assert answer.json == {
        "success": True,
        "sandbox_id": hers,
        "message": f"Sandbox {hers} deleted",
    }
    assert listed(client) == {}
    assert error(delete(alice, hers))[:2] == (404, "sandbox_not_found"), "it is no more"
    assert read(db, running).sandbox_id == hers


def test_one_that_starts_for_a_task_is_needed(client: FlaskClient, db: Database) -> None:
    """The task does not know it yet."""
    task_id = submit(client, sandbox_id=None)
    lease = claim(db, task_id)
    made, others = create(client, f"task-{task_id}"), create(client, f"task-{UNKNOWN}")
    assert listed(client) == {made: task_id, others: None}
    assert error(delete(client, made))[:2] == (409, "task_conflict")
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "done"))
    assert listed(client) == dict.fromkeys((made, others))
    assert delete(client, made).json["success"] is True


def test_nothing_is_told_to_invented_credentials(client: FlaskClient, db: Database) -> None:
    hers = create(client, "hers")
    claim(db, submit(client, sandbox_id=hers))
    invented = AUTHENTICATION | {"api_key": "sk-invented"}
    assert error(delete(client, hers, authentication=invented))[:2] == (502, "credentials_rejected")


def sandbox(number: int, **more: Any) -> dict[str, Any]:
    """As Lybic lists one."""
    return {
        "id": f"BOX-{number}",
        "name": f"n{number}",
        "createdAt": f"2026-11-21T15:{number // 60:02}:{number % 60:02}.000Z",
        "expiresAt": "2026-11-22T15:00:00Z",
        "projectId": "p",
        "shapeName": "s",
        "status": "RUNNING",
        **more,
    }


def test_what_lybic_lists_is_bounded_and_cleaned(
    serve: Serve, settings: Settings, site_of: Callable[[], Site]
) -> None:
    site = site_of()
    odd = [
        sandbox(599, id="x" * 9999, name=f"\x00{KEY}" * 999, shapeName=None, status=None),
        sandbox(598, createdAt="0001-01-01T00:00:00+23:59", expiresAt="soon"),
    ]
    site.says("/api/orgs/org/sandboxes", [sandbox(number) for number in range(598)] + odd)  # type: ignore[arg-type]
    client = serve(
        settings.model_copy(update={"lybic": settings.lybic.model_copy(update={"endpoint": site.url})})
    )
    answer = client.post(f"{ROUTES}/list", json={})
    assert KEY not in answer.text
    shown = answer.json["sandboxes"]
    assert answer.json["count"] == len(shown) == 500
    first = shown[0]
    assert (len(first["sandbox_id"]), first["shape"], first["status"]) == (200, None, None)
    assert len(first["name"]) <= 200
    assert [one["sandbox_id"] for one in shown[1:]] == [f"BOX-{number}" for number in range(597, 98, -1)]
    site.says("/api/orgs/org/sandboxes", odd)  # type: ignore[arg-type]
    [_, last] = client.post(f"{ROUTES}/list", json={}).json["sandboxes"]
    assert (last["created_at"], last["expires_at"]) == (None, None)


@pytest.mark.parametrize("route", ["list", "delete"])
def test_lybic_s_errors_are_passed_on(
    client: FlaskClient, serve: Serve, settings: Settings, route: str
) -> None:
    body = {"sandbox_id": "box"}
    wrong = body | {"authentication": AUTHENTICATION | {"api_key": "sk-wrong"}}
    assert error(client.post(f"{ROUTES}/{route}", json=wrong))[:2] == (502, "credentials_rejected")
    nowhere = settings.lybic.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    away = serve(settings.model_copy(update={"lybic": nowhere}))
    assert error(away.post(f"{ROUTES}/{route}", json=body))[:2] == (502, "sandbox_error")
