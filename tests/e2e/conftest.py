"""The whole system as real processes: stand-ins, API and a worker, shared by the tests of a process."""

import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from local.demo import isolated
from local.processes import free_port
from local.servers import LOOPBACK
from local.stack import Plan, Stack
from tests.conftest import wait_until

TERMINAL = ("finished", "error", "cancelled")
TOLD_LINES = 25


@dataclass(frozen=True)
class System:
    """A running system and the ways to talk to it."""

    stack: Stack
    http: httpx.Client

    def submit(self, instruction: str, **more: Any) -> str:
        answer = self.http.post("/api/agent/task/submit", json={"instruction": instruction, **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["task_id"])

    def status(self, task_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/api/agent/task/status/{task_id}").json())

    def wait(self, task_id: str, *statuses: str) -> dict[str, Any]:
        """The task's status once it is one of those, or terminal."""
        wanted = statuses or TERMINAL
        return wait_until(
            lambda: now if (now := self.status(task_id))["status"] in wanted else None, seconds=40
        )

    def done(self, instruction: str, **more: Any) -> dict[str, Any]:
        """A task, submitted and waited for."""
        return self.wait(self.submit(instruction, **more))

    def events(self, task_id: str, after: int = 0) -> list[dict[str, Any]]:
        """All events of a task until its stream ends."""
        url = f"/api/agent/task/{task_id}/events"
        with self.http.stream("GET", url, headers={"Last-Event-ID": str(after)}) as stream:
            return list(read(stream))

    def desktop(self, sandbox_id: str) -> dict[str, Any]:
        """What the sandbox is really like, by its own account."""
        return dict(httpx.get(f"{self.stack.sandbox}/simulated/sandboxes/{sandbox_id}").json())

    def executed(self, sandbox_id: str) -> list[dict[str, Any]]:
        """The actions that the sandbox really carried out."""
        answer = httpx.get(f"{self.stack.sandbox}/simulated/sandboxes/{sandbox_id}/actions").json()
        return [record["action"] for record in answer["actions"]]


def read(stream: httpx.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream as they come."""
    for line in stream.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@contextmanager
def started(**settings: str) -> Iterator[System]:
    """Everything, started and ready; no user's settings reach it, only these."""
    usual = {"AGENT_SETTLE_SECONDS": "0", "LOG_FORMAT": "json", "WEBHOOK_ALLOWED_HOSTS": LOOPBACK}
    environment = {**isolated(os.environ), **usual, **settings}
    stack = Stack(Plan(environment=environment, port=free_port()), lambda *_: None)
    try:
        stack.start()
        with httpx.Client(base_url=stack.plan.url, timeout=30, trust_env=False) as http:
            yield System(stack, http)
    finally:
        stack.stop()


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """Everything, started once."""
    with started() as one:
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Below a failure stands what API and workers said last: their logs go with them."""
    report = yield
    system = getattr(item, "funcargs", {}).get("system")
    if report.failed and isinstance(system, System):
        for log in (*system.stack.logs.glob("api*.log"), *system.stack.logs.glob("worker*.log")):
            lines = log.read_text(errors="replace").splitlines()[-TOLD_LINES:]
            report.sections.append((f"the end of {log.name}", "\n".join(lines)))
    return report
