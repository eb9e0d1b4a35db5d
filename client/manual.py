"""The clients of the original server's user manual, by their names: over `Client`, with plain dicts.

They follow a task through broken connections, too, and whatever is refused is a `ClientError`.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from client import calls
from client.calls import Authentication, Call
from client.clients import DEFAULT_URL, Client
from client.models import PAUSED

Data = dict[str, Any]


class LybicAgentClient:
    """The client of the manual's examples."""

    def __init__(self, base_url: str = DEFAULT_URL) -> None:
        self.base_url = base_url

    def run_task(
        self, instruction: str, sandbox_id: str, auth: Authentication, ark_key: str
    ) -> Iterator[Data]:
        """Runs a task and yields its events, until it ends or waits for a human."""
        call = calls.submit(instruction, sandbox_id=sandbox_id, authentication=auth, ark_apikey=ark_key)
        yield from _events(self.base_url, call)

    def submit_task(self, instruction: str, sandbox_id: str, auth: Authentication, ark_key: str) -> Data:
        """Submits a task; the answer has its `task_id`."""
        call = calls.submit(instruction, sandbox_id=sandbox_id, authentication=auth, ark_apikey=ark_key)
        return _answer(self.base_url, call)

    def get_status(self, task_id: str) -> Data:
        """A task's state and result."""
        return _answer(self.base_url, calls.status(task_id))


class ProductionLybicClient:
    """The client of the manual's best practice: credentials are given once."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        lybic_api_key: str | None = None,
        lybic_org_id: str | None = None,
        ark_api_key: str | None = None,
    ) -> None:
        self.base_url = base_url
        self.lybic_auth: Authentication | None = (
            {"api_key": lybic_api_key, "org_id": lybic_org_id} if lybic_api_key and lybic_org_id else None
        )
        self.ark_api_key = ark_api_key

    def create_sandbox(
        self,
        name: str = "production-sandbox",
        shape: str = "beijing-2c-4g-cpu",
        max_life_seconds: int = 7200,
    ) -> Data:
        """Creates a sandbox; the answer has its `sandbox_id`."""
        call = calls.create_sandbox(
            name, shape=shape, max_life_seconds=max_life_seconds, authentication=self.lybic_auth
        )
        return _answer(self.base_url, call)

    def run_task_stream(
        self,
        instruction: str,
        sandbox_id: str,
        continue_context: bool = False,  # noqa: FBT001, FBT002 - the manual has it so
        task_id: str | None = None,
    ) -> Iterator[Data]:
        """Runs a task and yields its events, until it ends or waits for a human."""
        call = calls.submit(
            instruction,
            sandbox_id=sandbox_id,
            continue_context=continue_context,
            task_id=task_id,
            authentication=self.lybic_auth,
            ark_apikey=self.ark_api_key,
        )
        yield from _events(self.base_url, call)

    def submit_task_async(self, instruction: str, sandbox_id: str, max_steps: int = 50) -> Data:
        """Submits a task; the answer has its `task_id`."""
        call = calls.submit(
            instruction,
            sandbox_id=sandbox_id,
            max_steps=max_steps,
            authentication=self.lybic_auth,
            ark_apikey=self.ark_api_key,
        )
        return _answer(self.base_url, call)

    def get_task_status(self, task_id: str) -> Data:
        """A task's state and result."""
        return _answer(self.base_url, calls.status(task_id))

    def cancel_task(self, task_id: str | None = None) -> Data:
        """Ends a task, or all."""
        return _answer(self.base_url, calls.cancel(task_id))


def _answer(url: str, call: Call[Any]) -> Data:
    """The answer as the server sends it."""
    as_sent: Call[Data] = replace(call, read=lambda response: response.json())
    with Client(url) as client:
        return client.send(as_sent)


def _events(url: str, submission: Call[str]) -> Iterator[Data]:
    """The events that a stream of /api/agent/run has: to the task's end, or until it waits for a human."""
    with Client(url) as client:
        for event in client.events(client.send(submission)):
            yield event.data()
            if event.type == PAUSED:
                return
