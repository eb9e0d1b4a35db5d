"""What a task leaves behind on the live system: its screenshots, and its report."""

import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
from PIL import Image

from tests.e2e.conftest import System, read

PATH = re.compile(r"/api/agent/task/([0-9a-f-]{36})/screenshots/([0-9a-f]{32})")


def test_the_screenshots_of_a_task_are_kept_and_shown(system: System) -> None:
    task_id = system.done("Open notepad and type Hello World")["task_id"]
    events = system.events(task_id)
    steps = system.http.get(f"/api/agent/task/{task_id}/steps").json()["steps"]
    seen = [event["screenshot"] for event in events if event["type"] == "observation"]
    assert len(steps) > 2
    assert [step["screenshot"] for step in steps] == seen
    for path in seen:
        found = PATH.fullmatch(path)
        assert found
        assert found[1] == task_id
        answer = system.http.get(path)
        assert answer.headers["content-type"] == "image/webp"
        with Image.open(BytesIO(answer.content)) as picture:
            assert picture.size > (600, 400)
    page = system.http.get(f"/api/agent/task/{task_id}/report")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    sources = re.findall(r'<img [^>]*src="([^"]{20})', page.text)
    assert sources == ["data:image/webp;base"] * len(steps)
    assert "Hello World" in page.text
    assert "http:" not in page.text
    assert "https:" not in page.text


def test_a_screenshot_can_be_had_as_soon_as_it_is_told_of(system: System) -> None:
    with system.http.stream("POST", "/api/agent/run", json={"instruction": "Open calculator"}) as stream:
        for event in read(stream):
            if event["type"] == "observation":
                answer = httpx.get(f"{system.stack.plan.url}{event['screenshot']}", trust_env=False)
                assert answer.status_code == 200, answer.text


def test_many_look_at_once(system: System) -> None:
    """The store works on threads of its own, and the API on greenlets."""
    task_id = system.done("Open calculator")["task_id"]
    [path, *_] = [event["screenshot"] for event in system.events(task_id) if event["type"] == "observation"]
    report = f"/api/agent/task/{task_id}/report"
    with ThreadPoolExecutor(10) as people:
        answers = list(people.map(system.http.get, [path, report] * 50))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 2


def test_a_screenshot_that_is_none(system: System) -> None:
    task_id = system.done("Open calculator")["task_id"]
    for name in ("0" * 32, "..%5c", "%00"):
        answer = system.http.get(f"/api/agent/task/{task_id}/screenshots/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "screenshot_not_found")
