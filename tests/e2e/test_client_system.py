"""The client against the real system: it reads what was sent, and nothing that dies takes it along."""

import asyncio
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import client as package
from client import AsyncClient, Client, Event
from local.processes import answers_200
from tests.conftest import wait_until
from tests.e2e.conftest import System
from tests.e2e.test_manual import PRODUCTION, PROGRAMS, SIMPLE
from tests.scripted import Handler, answer, scripted

COMMAND = Path(sys.executable).with_name("lybic-guiagent")
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```",
    (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
CLICKS = "script> repeat 40 click(point='<point>{i} 5</point>')"
LOGIN = "script> call_user(content='Please log in.')\nscript> finished(content='Thank you')"


@pytest.fixture
def client(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("LYBIC_GUIAGENT_URL", system.stack.plan.url)
    with Client() as one:
        yield one


# --- whatever dies --------------------------------------------------------------------------------------


@dataclass
class Watcher:
    """Somebody who runs a task, and what came to them."""

    url: str
    events: list[Event] = field(default_factory=list)

    def waiting(self) -> None:
        with Client(self.url) as client:
            self.events.extend(client.run(CLICKS, max_steps=100))

    def asynchronous(self) -> None:
        async def run() -> None:
            async with AsyncClient(self.url) as client:
                async for event in client.run(CLICKS, max_steps=100):
                    self.events.append(event)

        asyncio.run(run())

    def at_a_terminal(self) -> None:
        command = [COMMAND, "run", CLICKS, "--max-steps", "100", "--json", "--url", self.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stderr
            self.events.extend(map(Event.model_validate_json, process.stdout))
            said = process.stderr.read()
        assert process.returncode == 0, said


def kill_the_api(system: System) -> None:
    """As `kill -9` does it, with all its processes; it is started again as `up` does."""
    next(child for child in system.stack.services if child.name == "api").kill()
    ready = answers_200(f"{system.stack.plan.url}/api/health")
    wait_until(lambda: system.stack.tend() or ready(), seconds=60)


def test_who_watches_sees_each_event_once_though_the_api_is_killed(system: System) -> None:
    watchers = [Watcher(system.stack.plan.url) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        watching = [
            pool.submit(watch)
            for watch in (watchers[0].waiting, watchers[1].asynchronous, watchers[2].at_a_terminal)
        ]
        wait_until(lambda: min(len(one.events) for one in watchers) >= 10, 60)
        kill_the_api(system)
        for one in watching:
            one.result(60)
    for watcher in watchers:
        assert [event.seq for event in watcher.events] == list(range(1, len(watcher.events) + 1))
        assert watcher.events[-1].type == "finished"
        assert system.status(watcher.events[0].task_id)["steps"] == 41


def test_a_submission_whose_answer_is_lost_makes_one_task(system: System, client: Client) -> None:
    taken = []

    def lose(handler: Handler) -> None:
        """Passes the request on, and dies with the answer."""
        request = handler.script.requests[-1]
        sent = {"Idempotency-Key": request.headers["idempotency-key"]}
        taken.append(system.http.post(request.path, json=request.body, headers=sent).json())
        handler.close_connection = True

    def pass_on(handler: Handler) -> None:
        lose(handler)
        answer(taken[-1])(handler)

    label = {"test": "lost"}
    with scripted() as proxy, Client(proxy.url) as behind:
        proxy.answers = [lose, lose, pass_on, lose, pass_on]
        one = behind.submit("Open calculator", metadata=label)
        many = behind.submit_many([{"instruction": "Open notepad", "metadata": label}] * 2)
    assert len(taken) == 5
    assert {task.task_id for task in client.tasks(metadata=label)} == {one, *many}


# --- what it reads --------------------------------------------------------------------------------------


def test_all_is_read_as_it_was_sent(system: System, client: Client) -> None:
    label = {"test": "client"}
    events = list(client.run("Open notepad and type Hello World", metadata=label))
    task_id = events[0].task_id

    def sent(path: str, **options: Any) -> Any:
        return system.http.get(path, **options).raise_for_status().json()

    of_task = f"/api/agent/task/{task_id}"
    assert client.status(task_id).data() == system.status(task_id)
    assert client.status(task_id, fields=["status"]).data() == {"task_id": task_id, "status": "finished"}
    page = sent(f"{of_task}/events", headers={"Accept": "application/json"})
    assert [event.data() for event in events] == page["events"]
    steps = list(client.steps(task_id))
    assert [step.data() for step in steps] == sent(f"{of_task}/steps")["steps"]
    (listed,) = client.tasks(metadata=label)
    assert [listed.data()] == sent("/api/agent/task/list?metadata=test:client")["tasks"]
    assert client.info().data() == sent("/api/agent/info")
    assert client.webhooks(task_id) == []
    assert client.screenshot(task_id, steps[0].screenshot or "")[:4] == b"RIFF"
    assert "Hello World" in client.report(task_id)
    assert (client.health().status, client.ready().ok) == ("ok", True)
    assert list(client.events(task_id, after=events[-1].seq)) == []


def test_a_task_is_helped_continued_and_cancelled(system: System, client: Client) -> None:
    sandbox = client.create_sandbox("desk", max_life_seconds=600)
    first = client.submit(LOGIN, sandbox_id=sandbox.sandbox_id)
    assert client.wait(first, until_paused=True).status == "human_intervention"
    assert [task.task_id for task in client.active() if task.sandbox_id == sandbox.sandbox_id] == [first]
    assert client.resume(first, "Done.").task_id == first
    assert client.wait(first, timeout=60).finished_output == "Thank you"
    second = client.submit("script> hang 60\nscript> wait()", continue_context=True, task_id=first)
    system.wait(second, "running")
    assert client.takeover(second).status == "human_intervention"
    assert client.cancel(second).status == "cancelled"
    assert client.cancel(second).already_cancelled
    stopped = client.status(second)
    assert (stopped.status, stopped.parent_task_id) == ("cancelled", first)
    assert system.desktop(sandbox.sandbox_id)


# --- as documented --------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_run(
    example: str, system: System, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        package.ProductionLybicClient.__init__, "__defaults__", (client.url, None, None, None)
    )
    exec(compile(example, "example", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    ("name", "section"), [("LybicAgentClient", SIMPLE), ("ProductionLybicClient", PRODUCTION)]
)
def test_the_manual_s_classes_are_as_it_prints_them(name: str, section: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[section].partition("# Usage")[0], encoding="utf-8")

    def shape(kind: type) -> dict[str, list[tuple[str, Any]]]:
        return {
            method: [(one.name, one.default) for one in inspect.signature(function).parameters.values()]
            for method, function in inspect.getmembers(kind, inspect.isfunction)
        }

    assert shape(getattr(package, name)) == shape(runpy.run_path(str(program))[name])
