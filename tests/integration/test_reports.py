"""Looking back at a task: the screenshots that it left behind, and its report."""

import base64
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from threading import Timer
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import delete, update

from api import pictures, reports
from api.marks import Mark, marks, words
from shared import jobs, keys, retention, writes
from shared import pictures as store
from shared.db import Database
from shared.errors import StorageUnavailable
from shared.models import Event, Job, Step
from shared.settings import ApiSettings, PictureSettings, Settings
from tests.integration.conftest import (
    API,
    GOOD,
    SUBMIT,
    UNKNOWN,
    Serve,
    claim,
    error,
    keep_pictures,
    submit,
    take_steps,
)

PNG = b"\x89PNG\r\n\x1a\n and the rest"
JPEG = b"\xff\xd8\xff and the rest"
WEBP = b"RIFF\x0a\x00\x00\x00WEBP and the rest"
HOSTILE = "</p><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&{{ 7 * 7 }}"


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "screenshots"


@pytest.fixture
def keeping(settings: Settings, folder: Path) -> Settings:
    """Settings with a store of screenshots."""
    return settings.model_copy(update={"pictures": PictureSettings(store=str(folder))})


@pytest.fixture
def viewer(serve: Serve, keeping: Settings) -> FlaskClient:
    return serve(keeping)


@pytest.fixture
def make_task(client: FlaskClient, db: Database, folder: Path) -> Callable[..., tuple[str, list[str]]]:
    """Makes tasks with a step for each picture; gives the id and the pictures' names."""

    def made(*data: bytes | None, end: bool = True, **more: Any) -> tuple[str, list[str]]:
        task_id = submit(client, **{"sandbox_id": f"box-{uuid4()}", **more})
        lease = claim(db, task_id)
        take_steps(db, lease, len(data))
        names = keep_pictures(db, lease, len(data))
        for name, one in zip(names, data, strict=True):
            if one is not None:
                (folder / task_id).mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(one)
        if end:
            with db.transaction() as session:
                writes.carry_out(session, writes.finished(lease, "done"))
        return task_id, [name.partition("/")[2] for name in names]

    return made


def long_ago(db: Database) -> None:
    """What is not in the store by now never will be."""
    with db.transaction() as session:
        age = timedelta(seconds=pictures.NEW_SECONDS)
        session.execute(update(Event).values(created_at=Event.created_at - age))


# --- screenshots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "kind"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")])
def test_a_screenshot(viewer: FlaskClient, make_task: Any, data: bytes, kind: str) -> None:
    task_id, [name] = make_task(data)
    answer = viewer.get(f"{API}/task/{task_id}/screenshots/{name}")
    assert (answer.status_code, answer.data, answer.headers["Content-Type"]) == (200, data, kind)
    assert re.fullmatch(r"private, max-age=\d+, immutable", answer.headers["Cache-Control"])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert viewer.head(f"{API}/task/{task_id}/screenshots/{name}").status_code == 200


def test_steps_and_events_lead_to_it(viewer: FlaskClient, make_task: Any, db: Database) -> None:
    task_id, names = make_task(PNG, JPEG)
    shown = viewer.get(f"{API}/task/{task_id}/steps").json["steps"]
    paths = [f"{API}/task/{task_id}/screenshots/{name}" for name in names]
    assert [step["screenshot"] for step in shown] == paths
    page = viewer.get(f"{API}/task/{task_id}/events", headers={"Accept": "application/json"}).json
    seen = [event for event in page["events"] if event["type"] == "observation"]
    assert [event["screenshot"] for event in seen] == paths
    assert not any("picture" in event for event in seen)
    stream = viewer.get(f"{API}/task/{task_id}/events").text
    assert all(path in stream for path in paths)
    assert "pictures.example" not in stream
    with db.transaction() as session:
        retention.forget_pictures(session, UUID(task_id))
    shown = viewer.get(f"{API}/task/{task_id}/steps").json["steps"]
    assert [step["screenshot"] for step in shown] == [f"https://pictures.example/{n}" for n in (1, 2)]


@pytest.mark.parametrize(
    "name",
    [
        UNKNOWN,
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "..%5c..",
        "a%00b",
        "%00",
        "a%0ab",
        "%ff",
        "a%23",
        "é",
        "a" * 500,
        "a/b",
        "",
    ],
)
def test_names_that_are_none(viewer: FlaskClient, make_task: Any, name: str) -> None:
    task_id, _ = make_task(PNG)
    status, code, _ = error(viewer.get(f"{API}/task/{task_id}/screenshots/{name}"))
    assert status == 404
    assert code == "screenshot_not_found" or ("/" in name or "%2f" in name or name in ("", ".."))


def test_a_file_beside_the_pictures_is_not_served(viewer: FlaskClient, make_task: Any, folder: Path) -> None:
    task_id, _ = make_task(PNG)
    (folder / task_id / "note").write_bytes(b"<html>secret</html>")
    answer = viewer.get(f"{API}/task/{task_id}/screenshots/note")
    assert error(answer)[:2] == (404, "screenshot_not_found")


def test_another_task_s_picture(viewer: FlaskClient, make_task: Any) -> None:
    _, [name] = make_task(PNG)
    other, _ = make_task(PNG)
    assert error(viewer.get(f"{API}/task/{other}/screenshots/{name}"))[:2] == (404, "screenshot_not_found")
    assert error(viewer.get(f"{API}/task/{UNKNOWN}/screenshots/{name}"))[:2] == (404, "task_not_found")


def test_only_the_owner_looks_back(serve: Serve, keeping: Settings, make_task: Any, db: Database) -> None:
    guarded = serve(keeping.model_copy(update={"api": ApiSettings(keys="required")}))
    task_id, [name] = make_task(PNG)
    sent = []
    for owner in ("alice", "bob"):
        with db.transaction() as session:
            sent.append({"X-API-Key": keys.create(session, owner)})
    mine = {"instruction": "mine", "sandbox_id": "box-mine"}
    own = guarded.post(SUBMIT, json=mine, headers=sent[0]).json["task_id"]
    with db.transaction() as session:
        owner = jobs.get(session, UUID(own)).owner_id
        session.execute(update(Job).where(Job.id == UUID(task_id)).values(owner_id=owner))
    for path in (f"{API}/task/{task_id}/screenshots/{name}", f"{API}/task/{task_id}/report"):
        assert guarded.get(path, headers=sent[0]).status_code == 200
        assert error(guarded.get(path, headers=sent[1]))[:2] == (404, "task_not_found")
        assert error(guarded.get(path))[:2] == (401, "unauthenticated")


def test_a_picture_that_is_gone(viewer: FlaskClient, make_task: Any, db: Database) -> None:
    task_id, [name] = make_task(None)
    long_ago(db)
    began = time.monotonic()
    answer = viewer.get(f"{API}/task/{task_id}/screenshots/{name}")
    assert error(answer)[:2] == (404, "screenshot_not_found")
    assert time.monotonic() - began < 1


def test_a_picture_on_its_way_is_waited_for(
    viewer: FlaskClient, make_task: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, [name, lost] = make_task(None, None, end=False)
    (folder / task_id).mkdir(parents=True)
    Timer(0.3, (folder / task_id / name).write_bytes, [PNG]).start()
    assert viewer.get(f"{API}/task/{task_id}/screenshots/{name}").data == PNG
    monkeypatch.setattr(pictures, "WAIT_SECONDS", 0.3)
    assert error(viewer.get(f"{API}/task/{task_id}/screenshots/{lost}"))[0] == 404


def test_without_a_store(client: FlaskClient, make_task: Any) -> None:
    task_id, [name] = make_task(PNG)
    answer = error(client.get(f"{API}/task/{task_id}/screenshots/{name}"))
    assert answer[:2] == (404, "screenshot_not_found")
    assert "SCREENSHOT_STORE" in answer[2]


def test_a_folder_is_no_picture(viewer: FlaskClient, make_task: Any, folder: Path, db: Database) -> None:
    task_id, [name] = make_task(None)
    (folder / task_id / name).mkdir(parents=True)
    long_ago(db)
    answer = viewer.get(f"{API}/task/{task_id}/screenshots/{name}")
    assert error(answer)[:2] == (404, "screenshot_not_found")


def test_a_store_that_is_away(
    serve: Serve, settings: Settings, make_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setattr(store, "GET_SECONDS", 0.1)
    viewer = serve(settings.model_copy(update={"pictures": PictureSettings(store="s3://bucket/prefix")}))
    task_id, [name, *_] = make_task(PNG, PNG, PNG)
    answer = viewer.get(f"{API}/task/{task_id}/screenshots/{name}")
    assert error(answer)[:2] == (503, "screenshots_unavailable")
    assert answer.headers["Retry-After"]
    began = time.monotonic()
    assert report(viewer, task_id).text.count("store did not answer") == 3
    assert time.monotonic() - began < 1  # the first of them has told enough


def test_a_store_that_can_t_be_opened(
    serve: Serve, settings: Settings, make_task: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    broken = serve(
        settings.model_copy(update={"pictures": PictureSettings(store=str(tmp_path / "file" / "store"))})
    )
    task_id, [name] = make_task(PNG)
    answer = broken.get(f"{API}/task/{task_id}/screenshots/{name}")
    assert error(answer)[:2] == (503, "screenshots_unavailable")
    assert answer.headers["Retry-After"]
    page = broken.get(f"{API}/task/{task_id}/report")
    assert page.status_code == 200
    assert "store did not answer" in page.text


# --- reports --------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def set_step(db: Database, task_id: str, number: int, **values: Any) -> None:
    with db.transaction() as session:
        found = Step.job_id == UUID(task_id), Step.number == number
        session.execute(update(Step).where(*found).values(**values))


def report(client: FlaskClient, task_id: str) -> Page:
    answer = client.get(f"{API}/task/{task_id}/report")
    assert answer.status_code == 200
    return Page(answer.text)


def test_a_report(viewer: FlaskClient, make_task: Any, db: Database) -> None:
    task_id, _ = make_task(PNG, JPEG, WEBP)
    set_step(db, task_id, 2, status="failed", feedback="it was refused")
    answer = viewer.get(f"{API}/task/{task_id}/report")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'inline; filename="task-{task_id}.html"'
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "base-uri 'none'"):
        assert part in policy
    page = Page(answer.text)
    assert [one["src"] for one in page.all("img")] == [
        f"data:{kind};base64,{base64.b64encode(data).decode()}"
        for kind, data in (("image/png", PNG), ("image/jpeg", JPEG), ("image/webp", WEBP))
    ]
    assert not {"script", "link", "iframe", "a", "form", "base"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") or name == "href" for _, some in page.tags for name in some)
    for said in (GOOD["instruction"], task_id, "finished", "done", "Step 3", "7 ms", "it was refused"):
        assert said in page.text
    assert "click(point='<point>1 1</point>')" in page.text
    assert '{"type": "mouse:click"}' in page.text


def test_a_task_without_steps(viewer: FlaskClient, submitted: str) -> None:
    page = report(viewer, submitted)
    assert "No step was taken yet" in page.text
    assert "had not ended" in page.text


def test_unknown_tasks(viewer: FlaskClient) -> None:
    for task_id in (UNKNOWN, "none", "%00", "..%5c"):
        assert error(viewer.get(f"{API}/task/{task_id}/report"))[:2] == (404, "task_not_found")


def test_hostile_text_is_text(viewer: FlaskClient, make_task: Any, db: Database) -> None:
    task_id, _ = make_task(PNG, instruction=HOSTILE, metadata={HOSTILE: HOSTILE})
    harmless = report(viewer, make_task(PNG)[0])
    hostile_action = {"type": HOSTILE, "content": HOSTILE, "x": HOSTILE}
    values = {"thought": HOSTILE, "raw": HOSTILE, "feedback": HOSTILE, "status": "done"}
    set_step(
        db, task_id, 1, actions=[hostile_action, {"type": "keyboard:type", "content": HOSTILE}], **values
    )
    told = {"error_code": HOSTILE, "error_message": HOSTILE, "output": HOSTILE}
    sandbox = {"sandbox_id": HOSTILE, "os": HOSTILE}
    with db.transaction() as session:
        job = update(Job).where(Job.id == UUID(task_id))
        options = jobs.get(session, UUID(task_id)).options | {"model_name": HOSTILE}
        session.execute(job.values(sandbox=sandbox, options=options, **told))
    page = report(viewer, task_id)
    assert page.text.count(HOSTILE) >= 12
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in harmless.tags} <= {"ol", "li", "div", "span"}
    assert len(page.all("img")) == 1
    assert "7 * 7" in page.text


def test_no_secret_is_told(viewer: FlaskClient, make_task: Any) -> None:
    secrets = {
        "authentication": {"api_key": "sk-planted-lybic", "org_id": "org"},
        "ark_apikey": "planted-ark",
    }
    task_id, _ = make_task(PNG, **secrets)
    assert "planted" not in report(viewer, task_id).text


def test_pictures_that_are_gone_are_said_to_be(viewer: FlaskClient, make_task: Any, db: Database) -> None:
    task_id, _ = make_task(PNG, None, b"<svg/>", PNG)
    set_step(db, task_id, 4, picture=None)
    page = report(viewer, task_id)
    assert len(page.all("img")) == 1
    assert page.text.count("not kept, or not any more") == 3


def test_a_report_is_bounded(
    viewer: FlaskClient, make_task: Any, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, _ = make_task(*[PNG * 1000] * 5)
    monkeypatch.setattr(reports, "MOST_PICTURE_CHARACTERS", len(PNG) * 3000)
    monkeypatch.setattr(reports, "STEPS_AT_A_TIME", 2)
    page = report(viewer, task_id)
    assert len(page.all("img")) == 2
    assert page.text.count("would become too large") == 3
    monkeypatch.setattr(reports, "MOST_STEPS", 4)
    page = report(viewer, task_id)
    assert "Step 4" in page.text
    assert "Step 5" not in page.text
    assert "Further steps are left out" in page.text


def test_a_report_is_made_while_it_is_sent(viewer: FlaskClient, make_task: Any, db: Database) -> None:
    task_id, _ = make_task(*[PNG.ljust(100_000)] * 3)
    answer = viewer.get(f"{API}/task/{task_id}/report", buffered=False)
    pieces = answer.iter_encoded()
    first = next(pieces)
    assert len(first) <= 16 * 1024
    with db.transaction() as session:  # what was not read yet is not there any more
        session.execute(delete(Step).where(Step.number == 3))
        session.execute(update(Step).where(Step.number == 2).values(picture=None))
    rest = b"".join(pieces).decode()
    answer.close()
    assert rest.endswith("</html>")


def test_the_database_goes_away_meanwhile(
    viewer: FlaskClient, make_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, _ = make_task(PNG, PNG, PNG)
    monkeypatch.setattr(reports, "STEPS_AT_A_TIME", 2)
    real = jobs.steps

    def away(session: Any, job_id: UUID, **more: Any) -> Any:
        if more["after"]:
            raise StorageUnavailable("away")
        return real(session, job_id, **more)

    monkeypatch.setattr(jobs, "steps", away)
    page = report(viewer, task_id)
    assert len(page.all("img")) == 2
    assert "breaks off here" in page.text


# --- marks ----------------------------------------------------------------------------------------------


def part(numerator: int, denominator: int = 1000) -> dict[str, Any]:
    return {"type": "/", "numerator": numerator, "denominator": denominator}


AT = {"x": part(250), "y": part(500)}


@pytest.mark.parametrize(
    ("action", "mark"),
    [
        ({"type": "mouse:click", **AT, "button": 1}, Mark("point", 25, 50, rings=1)),
        ({"type": "mouse:doubleClick", **AT}, Mark("point", 25, 50, rings=2)),
        ({"type": "touch:tap", **AT}, Mark("point", 25, 50, rings=1)),
        ({"type": "mouse:move", **AT}, Mark("point", 25, 50)),
        (
            {
                "type": "mouse:drag",
                "startX": part(0),
                "startY": part(1, 8),
                "endX": part(1, 2),
                "endY": part(1, 1),
            },
            Mark("way", 0, 12.5, 50, 100),
        ),
        (
            {"type": "touch:swipe", **AT, "direction": "up", "distance": part(1, 4)},
            Mark("way", 25, 50, 25, 25),
        ),
        (
            {"type": "touch:swipe", **AT, "direction": "left", "distance": part(1, 2)},
            Mark("way", 25, 50, 0, 50),
        ),
        ({"type": "mouse:scroll", **AT, "stepVertical": -5}, Mark("scroll", 25, 50, turn=90)),
        ({"type": "mouse:scroll", **AT, "stepVertical": 5}, Mark("scroll", 25, 50, turn=270)),
        ({"type": "mouse:scroll", **AT, "stepHorizontal": 5}, Mark("scroll", 25, 50, turn=0)),
        ({"type": "mouse:click", "x": part(-5), "y": part(5000)}, Mark("point", 0, 100, rings=1)),
        ({"type": "keyboard:type", "content": "x"}, None),
        ({"type": "mouse:click"}, None),
        ({"type": "mouse:click", "x": 5, "y": {"type": "px", "value": 5}}, None),
        ({"type": "mouse:click", "x": part(1, 0), "y": part(1)}, None),
        ({"type": "mouse:click", "x": {**part(1), "numerator": "1"}, "y": part(1)}, None),
        ({"type": "touch:swipe", **AT, "direction": "away", "distance": part(1, 4)}, None),
        ({"type": "mouse:drag", **AT}, None),
        ({"type": "new", **AT}, None),
        ({}, None),
    ],
)
def test_where_an_action_is_marked(action: dict[str, Any], mark: Mark | None) -> None:
    assert marks([action]) == ([mark] if mark else [])


def test_marks_of_several_actions_are_numbered() -> None:
    found = marks([{"type": "mouse:move", **AT}, {"type": "wait"}, {"type": "touch:tap", **AT}])
    assert [mark.number for mark in found] == [1, 3]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({"type": "mouse:click", "button": 2}, "Right click"),
        ({"type": "mouse:scroll", "stepVertical": 0, "stepHorizontal": -5}, "Scroll left"),
        ({"type": "keyboard:type", "content": "Hello"}, "Type Hello"),
        ({"type": "keyboard:type", "content": "x" * 300}, f"Type {'x' * 200}…"),
        ({"type": "keyboard:hotkey", "keys": "ctrl+c"}, "Press ctrl+c"),
        ({"type": "wait", "duration": 1500}, "Wait 1.5 s"),
        ({"type": "wait", "duration": "long"}, "Wait 0 s"),
        ({"type": "os:startAppByName", "name": "Maps"}, "Start Maps"),
        ({"type": "os:new"}, "os:new"),
        ({}, "None"),
    ],
)
def test_an_action_in_words(action: dict[str, Any], said: str) -> None:
    assert words(action) == said


def test_marks_stand_in_the_page(viewer: FlaskClient, make_task: Any, db: Database) -> None:
    task_id, _ = make_task(PNG)
    drag = {"type": "mouse:drag", "startX": part(0), "startY": part(0), "endX": part(500), "endY": part(500)}
    actions = [
        {"type": "mouse:click", **AT, "button": 1},
        drag,
        {"type": "mouse:scroll", **AT, "stepVertical": -5},
    ]
    set_step(db, task_id, 1, actions=actions)
    [step, *_] = viewer.get(f"{API}/task/{task_id}/steps").json["steps"]
    assert step["marks"] == [asdict(mark) for mark in marks(actions)]
    assert (step["marks"][0]["x"], step["marks"][0]["y"]) == (25, 50)
    page = report(viewer, task_id)
    assert {"x": "25.000%", "y": "50.000%"} in page.all("svg")
    assert any(line.get("x2") == "50.000%" for line in page.all("line"))
    assert {"transform": "rotate(90)"} in page.all("g")
