"""The playground as people use it: the page in a real browser, over the whole system."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from api.playground import BUILT
from local.keepers import Service
from local.processes import answers_200, free_port
from tests.conftest import wait_until
from tests.e2e.conftest import System
from tests.e2e.test_secrets import make_key

AXE = Path(__file__).parents[2] / "playground" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
DESKTOP, PHONE = {"width": 1360, "height": 860}, {"width": 390, "height": 844}
SECONDS = 30


Open = Callable[..., Page]


def looking_around(times: int, seconds: float) -> str:
    """An instruction to click on nothing so often, and to think for so long each time: somebody can watch."""
    clicks = (
        f"script> delay {seconds}\nscript> click(point='<point>{10 * n} 20</point>')" for n in range(times)
    )
    return "\n".join(["Look around", *clicks])


def require(found: object, what: str) -> None:
    """Nothing is left out where CI runs."""
    if not found and os.environ.get("CI"):
        pytest.fail(what)
    if not found:
        pytest.skip(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require(CHROMIUM, "no Chromium on this machine: the playground is not tried in a browser")
    require((BUILT / "index.html").exists(), "the playground is not built: make playground")
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, system: System) -> Iterator[Open]:
    """Opens a page; at the end of the test none may have had an error, nor broken its own policy."""
    complaints: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        # An answer that is no success is logged as well.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def opened(path: str = "/", url: str = system.stack.plan.url, **options: Any) -> Page:
        page = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options}).new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url + path)
        return page

    yield opened
    for context in browser.contexts:
        context.close()
    assert complaints == []


@contextmanager
def another_api(system: System, **settings: str) -> Iterator[Service]:
    """An API of our own beside the first, to be stopped, or to ask for keys."""
    [first] = system.stack._api
    settings = {"API_PORT": str(free_port()), **settings}
    environment = {**first.program.environment, **settings}
    name = f"api-{settings['API_PORT']}"
    program = replace(
        first.program, name=name, log=system.stack.logs / f"{name}.log", environment=environment
    )
    service = Service(program)
    try:
        wait_for_api(service)
        yield service
    finally:
        service.child.kill()


def url_of(service: Service) -> str:
    return f"http://127.0.0.1:{service.program.environment['API_PORT']}"


def wait_for_api(service: Service) -> None:
    service.child.wait_until(answers_200(f"{url_of(service)}/api/health"), SECONDS)


def task_of(page: Page) -> str:
    page.wait_for_url(re.compile(r"/tasks/"))
    return page.url.rpartition("/")[2]


def status(page: Page) -> Locator:
    return page.locator("header .badge")


def button(page: Page | Locator, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def submit(page: Page, instruction: str) -> str:
    page.get_by_role("navigation").get_by_text("New task").click()
    page.get_by_label("What should the agent do?").fill(instruction)
    button(page, "Start").click()
    return task_of(page)


def assert_whole(page: Page, last: int) -> None:
    """The events in sight, at the end of the list, are all that there are, each once."""
    page.get_by_role("region", name="Events").press("End")
    numbers = page.get_by_test_id("event").locator(".seq")
    expect(numbers.last).to_have_text(str(last))
    seen = [int(text) for text in numbers.all_inner_texts()]
    assert seen == list(range(seen[0], last + 1)), "none twice, none missing"


def test_a_task_is_submitted_watched_to_its_end_and_replayed(visit: Open, system: System) -> None:
    page = visit()
    click, ending = "click(point='<point>250 500</point>')", "finished(content='It is done.')"
    script = ("delay 1", click, "delay 1", "hotkey(key='esc')", ending)
    task_id = submit(page, "\n".join(f"script> {line}" for line in script))
    expect(page.get_by_test_id("live").get_by_role("img")).to_be_visible()
    expect(status(page)).to_have_text("Finished")
    expect(page.locator(".notice.good")).to_contain_text("It is done.")

    steps = page.get_by_role("region", name="Steps").locator("article")
    expect(steps).to_have_count(3)
    expect(steps.first).to_contain_text("Click")
    button(page, "Step 1").click()
    expect(page.get_by_alt_text("Screen before step 1")).to_be_visible()
    mark, screen = (
        one.bounding_box()
        for one in (page.get_by_test_id("mark"), page.get_by_alt_text("Screen before step 1"))
    )
    assert mark
    assert screen
    across = (mark["x"] + mark["width"] / 2 - screen["x"]) / screen["width"]
    down = (mark["y"] + mark["height"] / 2 - screen["y"]) / screen["height"]
    assert (across, down) == (pytest.approx(0.25, abs=0.01), pytest.approx(0.5, abs=0.01))

    page.get_by_role("slider").press("ArrowRight")
    expect(page.get_by_alt_text("Screen before step 2")).to_be_visible()
    button(page, "Replay").click()
    expect(page.get_by_alt_text("Screen before step 3")).to_be_visible()

    with page.context.expect_page() as report:
        page.get_by_role("link", name="Report").click()
    expect(report.value.locator("body")).to_contain_text(task_id)


def test_a_task_is_submitted_again_however_long_its_instruction(visit: Open, system: System) -> None:
    instruction = "Look around.\n" * 700 + "script> finished(content='It is done.')"
    page = visit(f"/tasks/{system.done(instruction)['task_id']}")
    button(page, "Run again").click()
    field = page.get_by_label("What should the agent do?")
    expect(field).to_have_value(instruction)
    page.reload()
    expect(field).to_have_value(instruction)
    field.fill("")
    field.press("Control+Enter")
    assert page.url.endswith("/new"), "nothing is sent without an instruction"
    field.fill("script> finished(content='Done again.')")
    field.press("Control+Enter")
    task_of(page)
    expect(page.locator(".notice.good")).to_contain_text("Done again.")


def test_a_reload_in_the_midst_of_a_task_loses_nothing(visit: Open, system: System) -> None:
    task_id = system.submit(looking_around(60, 0.3))
    page = visit(f"/tasks/{task_id}", viewport={**DESKTOP, "height": 400})
    expect(page.get_by_role("region", name="Steps").locator("article").first).to_be_visible()
    page.reload()
    expect(status(page)).to_have_text("Running")
    assert_stays_where_it_is_put(page)
    system.http.post("/api/agent/cancel", json={"task_id": task_id})
    expect(status(page)).to_have_text("Cancelled")
    page.get_by_role("tab", name="Events").click()
    assert_whole(page, system.events(task_id)[-1]["seq"])


def assert_stays_where_it_is_put(page: Page) -> None:
    """The timeline of a task that goes on, at a step that was chosen; the screen, once it is live again."""
    place = page.locator(".where")
    expect(page.get_by_role("region", name="Steps").locator("article").nth(1)).to_be_visible()
    page.get_by_role("slider").press("Home")
    expect(place).to_have_text(re.compile("1 / ([6-9]|[1-9][0-9])$"))
    expect(button(page, "Step 1")).to_be_in_viewport()
    button(page, "Replay").click()
    button(page, "Live").click()
    expect(button(page, "Replay")).to_be_visible()
    expect(place).to_have_text("")


def test_an_api_that_is_killed_and_comes_back_is_found_again(visit: Open, system: System) -> None:
    with another_api(system) as api:
        task_id = system.submit(looking_around(60, 0.5))
        page = visit(f"/tasks/{task_id}", url_of(api))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.headers.get("last-event-id", "")))
        page.get_by_role("tab", name="Events").click()
        expect(page.get_by_test_id("event").nth(3)).to_be_visible()
        api.child.kill()
        expect(page.locator(".connection")).to_have_text("Connection lost: trying again…")
        system.http.post("/api/agent/cancel", json={"task_id": task_id})
        api.start_again()
        wait_for_api(api)
        expect(status(page)).to_have_text("Cancelled")
        assert_whole(page, system.events(task_id)[-1]["seq"])
        assert any(map(str.isdigit, asked)), "it went on after the last event that it had"


def test_a_task_is_cancelled_after_a_question(visit: Open, system: System) -> None:
    page = visit(f"/tasks/{system.submit(looking_around(60, 1))}")
    button(page, "Cancel task").click()
    dialog = page.get_by_role("alertdialog")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button(page, "Cancel task")).to_be_focused()
    page.keyboard.press("Enter")
    button(dialog, "Cancel task").click()
    expect(status(page)).to_have_text("Cancelled")
    expect(page.get_by_text("The task is cancelled.").first).to_be_visible()
    expect(page.get_by_role("main")).to_be_focused()


def test_a_task_goes_on_as_a_follow_up(visit: Open, system: System) -> None:
    first = system.done("Open notepad and type Hello World")["task_id"]
    page = visit(f"/tasks/{first}")
    page.get_by_label("Go on from here").fill("Open calculator and compute 2 * 3")
    button(page, "Continue").click()
    page.wait_for_url(lambda url: first not in url)
    follow_up = task_of(page)
    expect(status(page)).to_have_text("Finished")
    assert system.status(follow_up)["parent_task_id"] == first
    page.get_by_role("link", name=re.compile("^Continues")).click()
    assert task_of(page) == first


def test_a_person_takes_over_acts_and_hands_back(visit: Open, system: System) -> None:
    task_id = system.submit(looking_around(60, 1))
    page = visit(f"/tasks/{task_id}")
    expect(page.get_by_role("region", name="Steps").locator("article").nth(1)).to_be_visible()
    screen = page.get_by_test_id("live")
    expect(screen.get_by_test_id("mark")).to_be_visible()
    button(page, "Step 1").click()
    button(page, "Take over").press("Enter")
    expect(status(page)).to_have_text("Needs you")
    expect(page.get_by_role("region", name="The screen is yours")).to_be_focused()
    box = screen.bounding_box()
    assert box
    sandbox = system.status(task_id)["sandbox_info"]["sandbox_id"]
    before = len(system.executed(sandbox))

    def acted(times: int) -> list[dict[str, Any]]:
        """What the person has done in the sandbox, once it is so much."""
        return wait_until(lambda: done if len(done := system.executed(sandbox)[before:]) == times else None)

    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25)
    [click] = acted(1)
    fault = {"on": "execute", "sandbox_id": sandbox, "status": 400}
    httpx.post(f"{system.stack.sandbox}/simulated/faults", json=fault, trust_env=False).raise_for_status()
    field = page.get_by_label("Type into the sandbox")
    field.fill("as a person does")
    button(page, "Send").first.click()
    expect(page.locator(".toast.failed")).to_be_visible()
    expect(field).to_have_value("as a person does")
    button(page, "Send").first.click()
    expect(field).to_have_value("")
    button(page, "Esc").click()
    _, typed, key = acted(3)
    assert click["type"] == "mouse:click"
    assert [click[way]["numerator"] / click[way]["denominator"] for way in "xy"] == [
        pytest.approx(0.75, abs=0.01),
        pytest.approx(0.25, abs=0.01),
    ]
    assert (typed["content"], key["keys"]) == ("as a person does", "Escape")

    page.get_by_label("Tell the agent what you did").fill("I closed the dialog.")
    button(page, "Hand back").press("Enter")
    expect(status(page)).not_to_have_text("Needs you")
    expect(page.get_by_role("main", name="Look around")).to_be_focused()
    told = [one["content"] for one in system.status(task_id)["llm_context"]["messages"]]
    assert any("I closed the dialog." in text for text in told)
    steps = page.get_by_role("region", name="Steps").locator("article")
    expect(steps.filter(has_text="I closed the dialog.")).to_have_count(1)
    system.http.post("/api/agent/cancel", json={"task_id": task_id})


def test_with_keys_a_person_signs_in_and_sees_only_their_own(visit: Open, system: System) -> None:
    stranger = system.done("Open notepad and type Hello World")["task_id"]
    with another_api(system, API_KEYS="required") as api:
        database = system.stack._environment["POSTGRES_CONNECTION_STRING"]
        key = make_key(database)
        page = visit("/new", url_of(api))
        page.get_by_label("API key").fill("gak_wrong")
        button(page, "Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("refused this key")
        page.get_by_label("API key").fill(key)
        button(page, "Sign in").click()
        task_id = submit(page, "Open notepad and type Hello World")
        expect(status(page)).to_have_text("Finished")
        expect(page.get_by_alt_text("Screen before step 5")).to_be_visible()
        with page.expect_download() as report:
            page.get_by_role("link", name="Report").click()
        assert task_id in report.value.path().read_text()

        page.reload()
        expect(status(page)).to_have_text("Finished")
        page.goto(f"{url_of(api)}/tasks/{stranger}")
        expect(page.get_by_role("alert")).to_contain_text("not yours")
        button(page, "Sign out").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert key not in page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        )
        page.get_by_label("API key").fill(make_key(database, "others"))
        button(page, "Sign in").click()
        page.get_by_role("link", name="Tasks", exact=True).click()
        expect(page.get_by_text("No task yet.")).to_be_visible()
        page.get_by_role("navigation").get_by_text("New task").click()
        page.get_by_label("One of mine").check()
        expect(page.get_by_text("There is none.")).to_be_visible()
        expect(button(page, "Start")).to_be_disabled()


def test_the_list_is_live_and_finds_tasks(visit: Open, system: System) -> None:
    wanted = system.submit(
        "Find the lighthouse\nscript> delay 1\nscript> finished(content='x')", metadata={"team": "north"}
    )
    system.submit("Find the harbour\nscript> finished(content='x')", metadata={"team": "south"})
    page = visit()
    tasks = page.get_by_role("list", name="Tasks").get_by_role("listitem")
    page.get_by_label("Search instructions or ids").fill("LIGHTHOUSE")
    expect(tasks).to_have_count(1)
    expect(tasks.first.locator(".badge")).to_have_text("Finished")
    page.get_by_label("Search instructions or ids").fill(wanted[:13])
    expect(tasks).to_have_count(1)
    page.get_by_label("Search instructions or ids").fill("")
    button(tasks.filter(has_text="lighthouse"), "team:north").click()
    expect(tasks).to_have_count(1)
    button(page, "Failed").click()
    expect(page.get_by_text("No task is like that.")).to_be_visible()
    button(page, "Clear filters").click()
    late = system.submit("Find the pier\nscript> finished(content='x')")
    tasks.filter(has_text="pier").get_by_role("link").click()
    assert task_of(page) == late


def test_sandboxes_are_made_used_and_deleted(visit: Open, system: System) -> None:
    page = visit("/sandboxes")
    button(page, "New sandbox").click()
    page.get_by_label("Name").fill("workbench")
    button(page, "Create").click()
    mine = page.get_by_role("listitem").filter(has_text="workbench")
    sandbox_id = mine.locator(".mono").inner_text()
    mine.get_by_text("New task here").click()
    page.get_by_label("What should the agent do?").fill("Open notepad and type Hello World")
    button(page, "Start").click()
    expect(status(page)).to_have_text("Finished")
    assert system.status(task_of(page))["sandbox_info"]["sandbox_id"] == sandbox_id
    page.goto(f"{system.stack.plan.url}/sandboxes")
    button(mine, "Delete").click()
    button(page.get_by_role("alertdialog"), "Delete").click()
    expect(mine).to_have_count(0)
    expect(page.get_by_role("main", name="Sandboxes")).to_be_focused()


def test_what_is_refused_is_said_and_nothing_is_lost(visit: Open, system: System) -> None:
    page = visit("/new?sandbox=typed")
    page.get_by_label("One of mine").check()
    page.get_by_label("By its id").check()
    expect(page.get_by_label("Sandbox id")).to_have_value("")
    page.get_by_label("Sandbox id").fill("..")
    page.get_by_label("What should the agent do?").fill("Look around")
    button(page, "Start").click()
    expect(page.get_by_role("alert")).to_contain_text("sandbox_id")
    expect(page.get_by_label("What should the agent do?")).to_have_value("Look around")
    for path in ("/tasks/nonsense", "/tasks/00000000-0000-0000-0000-000000000000"):
        page.goto(system.stack.plan.url + path)
        expect(page.get_by_role("alert")).to_contain_text("no such task")


def test_language_and_looks_are_chosen_and_kept(visit: Open) -> None:
    page = visit()
    button(page, "Language").press("Enter")
    page.get_by_role("menuitemradio", name="中文").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("任务")
    button(page, "外观").click()
    page.get_by_role("menuitemradio", name="深色").click()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("任务")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_hostile_text_is_only_text(visit: Open, system: System) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>{{ 7*7 }} {count} @:app.name"
    call = "finished(content='" + hostile.replace("'", "") + "')"
    task_id = system.done(f"{hostile}\nscript> {call}", metadata={"<b>": "<i>"})["task_id"]
    page = visit(f"/tasks/{task_id}")
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    expect(page.get_by_role("heading", level=1)).to_contain_text(hostile)
    expect(page.locator(".notice.good")).to_contain_text(hostile)
    page.goto(system.stack.plan.url)
    expect(page.get_by_role("list", name="Tasks")).to_contain_text(hostile)
    assert page.locator("main img").count() == 0


def test_a_thousand_events_stay_few_in_the_page(visit: Open, system: System) -> None:
    task_id = system.done("Count\nscript> finished(content='x')")["task_id"]
    before, thought = system.events(task_id)[-1]["seq"], '{"content": "Hm.", "step": 1}'
    with psycopg.connect(system.stack._environment["POSTGRES_CONNECTION_STRING"]) as connection:
        connection.execute("UPDATE events SET seq = seq + 1000 WHERE job_id = %s", [task_id])
        connection.execute(
            "INSERT INTO events SELECT %s, seq, 'thinking', %s FROM generate_series(1, 1000) seq",
            [task_id, thought],
        )
        connection.execute("UPDATE jobs SET event_count = event_count + 1000 WHERE id = %s", [task_id])
    last = before + 1000
    page = visit(f"/tasks/{task_id}")
    page.get_by_role("tab", name="Events").click()
    events = page.get_by_test_id("event")
    for key, place, number in (("End", events.last, last), ("Home", events.first, 1)):
        page.get_by_role("region", name="Events").press(key)
        expect(place.locator(".seq")).to_have_text(str(number))
        assert events.count() < 60


VIEWS = ("list", "new", "task", "waiting", "sandboxes")


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(DESKTOP, "light", id="desktop-light"),
        pytest.param(PHONE, "dark", id="phone-dark", marks=pytest.mark.long),
        pytest.param(DESKTOP, "dark", id="desktop-dark", marks=pytest.mark.long),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.long),
    ],
)
def test_everybody_can_use_every_view(visit: Open, system: System, size: dict[str, int], scheme: str) -> None:
    locale = "en-GB" if scheme == "light" else "zh-CN"
    done = system.done("Open notepad and type Hello World", metadata={"team": "north"})["task_id"]
    waiting = system.submit("Log in\nscript> call_user(content='Please log in.')")
    system.wait(waiting, "human_intervention")
    page = visit(viewport=size, color_scheme=scheme, locale=locale)
    paths = {
        "list": "/",
        "new": "/new",
        "task": f"/tasks/{done}",
        "waiting": f"/tasks/{waiting}",
        "sandboxes": "/sandboxes",
    }
    for view in VIEWS:
        page.goto(system.stack.plan.url + paths[view])
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if view in {"task", "waiting"}:
            expect(page.locator(".stage img")).to_be_visible()
        assert serious_findings(page) == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is too wide"
        assert page.evaluate("document.documentElement.lang") == ("en" if locale == "en-GB" else "zh-CN")
    system.http.post("/api/agent/cancel", json={"task_id": waiting})


def serious_findings(page: Page) -> list[str]:
    """What axe finds of the kinds `serious` and `critical`."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
