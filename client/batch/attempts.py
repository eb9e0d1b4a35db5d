"""One row: submitted, awaited, and tried again if it failed for a reason that may pass.

Nothing of this is kept on this side. A row that a later process begins again goes through the same attempts
under the same idempotency keys, and the server answers with the tasks that there are: so none is made twice,
and none is tried more often than it may.
"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from client.batch.requests import Refusal, Request
from client.batch.results import Result
from client.batch.watcher import Watcher
from client.clients import AsyncClient
from client.errors import ApiError, ClientError, TooManyRequests
from client.following import Patience
from client.models import PAUSED, Task, Usage

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
"""How long a server that is away is waited for."""
FULL_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0
CANCELLED_AT_ONCE = 10
ERROR_CODES = frozenset(
    {
        "agent_failed",
        "budget_exceeded",
        "credentials_rejected",
        "internal",
        "loop_detected",
        "max_steps",
        "model_error",
        "model_output_invalid",
        "sandbox_error",
        "sandbox_lost",
        "timeout",
    }
)
"""Those of tasks, as the HTTP contract lists them."""
PASSING = frozenset({"internal", "model_error", "sandbox_error", "sandbox_lost"})
"""Those that say nothing of the instruction: another attempt may go well."""
ABOUT_THE_ROW = frozenset(
    {
        "endpoint_not_allowed",
        "idempotency_conflict",
        "invalid_request",
        "request_entity_too_large",
        "task_conflict",
        "task_not_found",
    }
)
"""Refusals after which the other rows go on; any other one ends the command."""
TOLD = set(Result.model_fields) & set(Task.model_fields) - {"usage"}


class Then(StrEnum):
    """What is to become of tasks that have not ended."""

    CANCEL = "cancel"
    LEAVE = "leave"
    WAIT = "wait"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How many tasks at once, what is tried again how often, what becomes of tasks that wait or are left."""

    max_active: int = 20
    retries: int = 0
    retry_on: frozenset[str] = PASSING
    on_human: Then = Then.CANCEL
    on_interrupt: Then = Then.LEAVE

    def again(self, task: Task, attempt: int) -> bool:
        """Whether the task, made by the attempt of this number, is followed by another one."""
        return task.status == "error" and task.error_code in self.retry_on and attempt <= self.retries


def failed(row: Request | Refusal, code: str, message: str, *, attempts: int = 0) -> Result:
    """The result of a row whose last attempt made no task."""
    return Result(
        row=row.row, id=row.id, status="error", error_code=code, error_message=message, attempts=attempts
    )


class Attempts:
    """Carries out rows. `under_way` are the rows of tasks that have not ended, by the ids of these.

    The `hasty` client, which submits, tries nothing again: whoever interrupts is not to wait for that.
    """

    def __init__(self, hasty: AsyncClient, patient: AsyncClient, watcher: Watcher, policy: Policy) -> None:
        self._hasty = hasty
        self._patient = patient
        self._watcher = watcher
        self._policy = policy
        self._turn = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._cancelling = False
        self._told: set[str] = set()
        self.under_way: dict[str, int] = {}

    def stop(self) -> None:
        """Submits nothing more."""
        self._stopped.set()

    async def cancel_all(self) -> None:
        """Cancels what is under way, and what is about to be."""
        self._cancelling = True
        tasks = list(self.under_way)
        for first in range(0, len(tasks), CANCELLED_AT_ONCE):
            await asyncio.gather(*map(self._patient.cancel, tasks[first : first + CANCELLED_AT_ONCE]))

    async def carry_out(self, request: Request) -> Result | None:
        """The row's result; None if it was stopped before there was one. Raises `ClientError`."""
        attempt, usage = 1, Counter[str]()
        while True:
            try:
                task = await self._attempt(request, attempt)
            except ApiError as error:
                if error.code not in ABOUT_THE_ROW:
                    raise
                return failed(request, error.code, error.message, attempts=attempt - 1)
            if task is None:
                return None
            usage.update(task.usage.model_dump(include=set(Usage.model_fields)))
            if not self._policy.again(task, attempt):
                return _result(request, task, attempt, usage)
            await self._pause(min(2.0 ** (attempt - 1), LONGEST_RETRY_SECONDS))
            attempt += 1

    async def _attempt(self, request: Request, attempt: int) -> Task | None:
        task_id = await self._submit(request, attempt)
        if task_id is None:
            return None
        self.under_way[task_id] = request.row
        try:
            if self._cancelling:
                await self._patient.cancel(task_id)
            return await self._end(task_id)
        finally:
            del self.under_way[task_id]

    async def _submit(self, request: Request, attempt: int) -> str | None:
        patience = Patience(PATIENCE_SECONDS)
        async with self._turn:  # a server that takes no more for now is asked by one, not by all
            while not self._stopped.is_set():
                try:
                    return await self._hasty.submit(**request.fields, idempotency_key=request.key(attempt))
                except TooManyRequests as error:  # until there is room, however long that takes
                    self._tell_once(error)
                    pause = error.retry_after or FULL_SECONDS
                except ClientError as error:
                    pause = patience.pause(error)
                    log.info("%s; trying again", error.message)
                await self._pause(pause)
        return None

    def _tell_once(self, error: TooManyRequests) -> None:
        if error.code not in self._told:
            self._told.add(error.code)
            log.info("%s; waiting", error.message)

    async def _end(self, task_id: str) -> Task:
        task = await self._watcher.end(task_id)
        if task.status != PAUSED:
            return task
        while task.status == PAUSED and self._policy.on_human is Then.CANCEL:
            await self._patient.cancel(task_id)
            task = await self._watcher.end(task_id)
        return task if task.status in {"finished", "error"} else _paused(task)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()


def _paused(task: Task) -> Task:
    told = {"error_code": PAUSED, "error_message": "the model called a human"}
    return task.model_copy(update=told)


def _result(request: Request, task: Task, attempts: int, usage: Counter[str]) -> Result:
    return Result(
        row=request.row,
        id=request.id,
        output=task.finished_output,
        attempts=attempts,
        usage=Usage(**usage),
        **task.model_dump(include=TOLD),
    )
