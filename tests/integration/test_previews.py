"""Live previews: shared by all who watch, over several API processes, of what a hostile Lybic sends."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import Redis
from werkzeug.test import TestResponse

from api import screens
from local.servers import Valkey
from shared import writes
from shared.db import Database
from shared.schemas import SandboxInfo
from shared.secrets import Vault
from shared.settings import LybicSettings, RedisSettings, Settings
from tests.conftest import wait_until
from tests.integration.conftest import API, Serve, claim, error, finish, submit
from tests.integration.test_screenshots import LARGEST_BYTES, PNG, WEBP, Handler, Site, site_of

__all__ = ["site_of"]  # a fixture

KEY = "sk-of-this-task"
AUTHENTICATION = {"api_key": KEY, "org_id": "org"}
LOOK = "/api/orgs/org/sandboxes/box/preview"
LONG_MS = 600_000
WATCHERS = 50


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


@pytest.fixture
def lybic(site_of: Callable[[], Site]) -> Site:
    return site_of()


@pytest.fixture
def settings(settings: Settings, lybic: Site) -> Settings:
    ours = LybicSettings(api_key=SecretStr("sk-of-the-server"), org_id="ours", endpoint=lybic.url)
    return settings.model_copy(update={"lybic": ours})


@pytest.fixture(autouse=True)
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is due or forgotten before a test is over, however slow the machine is."""
    for name in ("EVERY_MS", "TURN_MS", "KEPT_MS", "FAILURE_KEPT_MS"):
        monkeypatch.setattr(screens, name, LONG_MS)


@pytest.fixture
def watched(client: FlaskClient, db: Database) -> str:
    """A running task in the sandbox `box`."""
    task_id = submit(client, sandbox_id="box", authentication=AUTHENTICATION)
    lease = claim(db, task_id)
    with db.transaction() as session:
        writes.carry_out(session, writes.sandbox_known(lease, SandboxInfo(sandbox_id="box"), "key"))
    return task_id


def show(lybic: Site, url: str, **cursor: Any) -> None:
    """The screen, from now on."""
    place = {"screenWidth": 200, "screenHeight": 100, "screenIndex": 0, **cursor} if cursor else None
    lybic.says(LOOK, {"screenShot": url, "cursorPosition": place})


def look(client: FlaskClient, task_id: str, **headers: str) -> TestResponse:
    return client.get(f"{API}/task/{task_id}/preview", headers=headers)


def looks(lybic: Site) -> int:
    """How often Lybic was asked."""
    return [path for path, _, _ in lybic.asked].count(LOOK)


def test_many_watchers_of_several_processes_share_one_look(
    client: FlaskClient, serve: Serve, settings: Settings, lybic: Site, watched: str, valkey: Valkey
) -> None:
    show(lybic, lybic.shows(WEBP, "image/webp"), x=50, y=25)
    apps = [client.application, serve(settings).application]

    def watch(number: int) -> TestResponse:
        return look(apps[number % 2].test_client(), watched)

    with ThreadPoolExecutor(WATCHERS) as pool:
        answers = list(pool.map(watch, range(WATCHERS)))
    assert {one.status_code for one in answers} == {200}
    assert {one.data for one in answers} == {WEBP}
    assert {(one.mimetype, one.headers["X-Cursor"]) for one in answers} == {("image/webp", "0.25 0.25")}
    assert looks(lybic) == 1
    (path, headers, _), _ = lybic.asked
    assert (path, headers["x-api-key"]) == (LOOK, KEY), "with the task's own key"
    assert answers[0].headers["Cache-Control"] == "private, no-cache"
    redis = Redis.from_url(valkey.url)
    shared = redis.get(f"{screens.PREFIX}{watched}")
    assert isinstance(shared, bytes)
    assert WEBP[:4] not in shared
    assert b"image" not in shared


def test_a_picture_is_decrypted_once_for_all_who_watch_here(
    client: FlaskClient, lybic: Site, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    decrypt = Vault.decrypt

    def counted(vault: Vault, token: bytes) -> bytes:
        opened.append(decrypt(vault, token))
        return opened[-1]

    monkeypatch.setattr(Vault, "decrypt", counted)
    show(lybic, lybic.shows(PNG))
    assert [look(client, watched).data for _ in range(4)] == [PNG] * 4  # the first has looked itself
    assert sum(PNG in data for data in opened) == 1  # and each its credentials


def test_the_next_turn_sees_anew_and_what_has_not_changed_is_not_sent(
    client: FlaskClient, lybic: Site, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "EVERY_MS", 0)
    page = lybic.shows(PNG)
    show(lybic, page, x=0, y=0)
    first = look(client, watched)

    def again() -> TestResponse | None:
        """Once more, when the turn is over."""
        before = looks(lybic)
        answer = look(client, watched, **{"If-None-Match": first.headers["ETag"]})
        return answer if looks(lybic) > before else None

    same = wait_until(again)
    assert (same.status_code, same.data, same.headers["X-Cursor"]) == (304, b"", "0 0")
    assert same.headers["ETag"] == first.headers["ETag"]
    show(lybic, page, x=200, y=50)
    moved = wait_until(again)
    assert (moved.status_code, moved.headers["X-Cursor"]) == (200, "1 0.5")


def test_one_who_does_not_have_the_turn_waits_for_the_first_look(
    client: FlaskClient, lybic: Site, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, asked, go_on = lybic.shows(PNG), threading.Event(), threading.Event()
    show(lybic, page)
    answer = lybic.pages[LOOK]

    def held(handler: Handler) -> None:
        asked.set()
        go_on.wait(20)
        answer(handler)

    lybic.pages[LOOK] = held
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(look, client.application.test_client(), watched)
        assert asked.wait(20)
        monkeypatch.setattr(screens, "WAIT_SECONDS", 0.0)
        too_long = look(client, watched)
        assert error(too_long)[:2] == (503, "preview_unavailable")
        monkeypatch.setattr(screens, "WAIT_SECONDS", 60.0)
        second = pool.submit(look, client.application.test_client(), watched)
        go_on.set()
        assert first.result().data == second.result().data == PNG
    assert looks(lybic) == 1


@pytest.mark.parametrize(("status", "code"), [(500, "sandbox_error"), (401, "credentials_rejected")])
def test_when_lybic_fails_the_others_are_told_and_do_not_ask(
    client: FlaskClient, serve: Serve, settings: Settings, lybic: Site, watched: str, status: int, code: str
) -> None:
    lybic.says(LOOK, {"code": "x", "message": f"no {KEY}"}, status=status)
    answers = [look(one, watched) for one in (client, client, serve(settings))]
    assert {error(one) for one in answers} == {error(answers[0])}
    assert error(answers[0])[:2] == (502, code)
    assert KEY not in answers[-1].text
    assert looks(lybic) == 1


def test_a_failure_leaves_the_last_screen_to_the_others(
    client: FlaskClient, lybic: Site, watched: str, valkey: Valkey
) -> None:
    show(lybic, lybic.shows(PNG))
    assert look(client, watched).status_code == 200
    Redis.from_url(valkey.url).delete(f"{screens.PREFIX}{watched}:turn")
    lybic.says(LOOK, {}, status=500)
    assert [look(client, watched).status_code for _ in range(3)] == [502, 200, 200]
    assert looks(lybic) == 2


PART: dict[str, Callable[[Site], str]] = {
    "no screenshot": lambda site: "",
    "script": lambda site: "javascript:alert(1)",
    "elsewhere": lambda site: "http://127.0.0.1:9/secret.png",
    "the key": lambda site: f"{site.url}/page-0?key={KEY}",
    "no picture": lambda site: site.shows(b"<script>", "text/html"),
    "no PNG": lambda site: site.shows(b"<script>"),
    "a redirect": lambda site: site.shows(b"", status=302, Location="http://127.0.0.1:9/"),
    "too large": lambda site: site.shows(PNG, **{"Content-Length": str(LARGEST_BYTES + 1)}),
}


@pytest.mark.parametrize("part", PART.values(), ids=PART)
def test_what_is_no_screen_is_not_passed_on(
    client: FlaskClient, lybic: Site, watched: str, part: Callable[[Site], str]
) -> None:
    show(lybic, part(lybic))
    answer = look(client, watched)
    assert error(answer)[:2] == (502, "sandbox_error")
    assert KEY not in answer.text


@pytest.mark.parametrize(
    ("cursor", "shown"),
    [
        ({"x": -5, "y": 10**400}, "0 1"),
        ({"x": 66, "y": 1}, "0.33 0.01"),
        ({"x": 1, "y": 1, "screenWidth": 0}, None),
        ({"x": 1, "y": 1, "screenHeight": -1}, None),
    ],
)
def test_a_cursor_is_on_the_screen_or_not_told(
    client: FlaskClient, lybic: Site, watched: str, cursor: dict[str, int], shown: str | None
) -> None:
    show(lybic, lybic.shows(PNG), **cursor)
    answer = look(client, watched)
    assert (answer.status_code, answer.headers.get("X-Cursor")) == (200, shown)


def test_there_is_something_to_see_as_long_as_there_is_a_sandbox(
    client: FlaskClient, db: Database, lybic: Site, watched: str
) -> None:
    waiting = submit(client, sandbox_id="box", authentication=AUTHENTICATION)
    ended = submit(client, sandbox_id="other")
    finish(db, ended)
    assert error(look(client, waiting)) == (409, "task_conflict", f"task {waiting} has no sandbox yet")
    status, code, message = error(look(client, ended))
    assert (status, code) == (409, "task_conflict")
    assert "has ended" in message
    assert not lybic.asked


def test_without_redis_there_are_no_previews_and_nothing_else_suffers(
    serve: Serve, settings: Settings, lybic: Site, watched: str
) -> None:
    nowhere = RedisSettings(url=SecretStr("redis://127.0.0.1:9/0"))
    lonely = serve(settings.model_copy(update={"redis": nowhere}))
    for _ in range(2):  # asked, then left out
        answer = look(lonely, watched)
        assert error(answer)[:2] == (503, "preview_unavailable")
        assert answer.headers["Retry-After"]
    assert lonely.get(f"{API}/task/status/{watched}").status_code == 200
    assert not lybic.asked


def test_no_more_looks_than_there_are_places(
    serve: Serve, settings: Settings, lybic: Site, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "MOST_LOOKS", 0)
    monkeypatch.setattr(screens, "WAIT_SECONDS", 0.0)
    assert error(look(serve(settings), watched))[:2] == (503, "preview_unavailable")
    assert not lybic.asked
