"""A batch as a whole: row after row, so many at a time, until all have ended or somebody interrupts."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from itertools import islice

from rich.console import Console

from client.batch.attempts import Attempts, Policy, Then, failed
from client.batch.display import Display, Standing
from client.batch.ledger import Ledger
from client.batch.requests import Batch, Refusal, Request
from client.batch.watcher import Watcher
from client.clients import AsyncClient
from client.models import PAUSED, Task
from client.text import one_line

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INVALID_ROW = "invalid_row"
MOST_SHOWN = 5

Say = Callable[[str], None]


class Runner:
    """Carries out the rows that have no result yet.

    `say` tells people what they can't see from the progress on the console.
    """

    def __init__(
        self,
        batch: Batch,
        ledger: Ledger,
        policy: Policy,
        clients: tuple[AsyncClient, AsyncClient],
        console: Console,
        say: Say,
    ) -> None:
        hasty, patient = clients
        self.interrupted = False
        self._main: asyncio.Task[None] | None = None
        self._batch = batch
        self._ledger = ledger
        self._policy = policy
        self._say = say
        tell = self._tell_of_human if policy.on_human is Then.WAIT else None
        self._watcher = Watcher(patient, batch.name, tell)
        self._attempts = Attempts(hasty, patient, self._watcher, policy)
        self._slots = asyncio.Semaphore(policy.max_active)
        self._group = asyncio.TaskGroup()
        self._display = Display(console, self._standing)

    async def run(self) -> None:
        """Returns when all rows have a result, or when it was interrupted. Raises `ClientError`."""
        self._main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._interrupt)
        try:
            await self._run()
        except asyncio.CancelledError:
            if not self.interrupted:
                raise
        except BaseExceptionGroup as group:
            self._say("Ended early. The same command goes on from here.")
            raise _first(group) from None
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def _run(self) -> None:
        async with self._group:
            helpers = [self._group.create_task(one) for one in (self._watcher.watch(), self._display.show())]
            async with asyncio.TaskGroup() as rows:
                for item in islice(self._batch.requests(), self._ledger.rows):
                    await asyncio.sleep(0)  # signals are looked for, however many rows are done
                    if item.row not in self._ledger:
                        await self._begin(item, rows)
                    if self.interrupted:
                        break
            for helper in helpers:
                helper.cancel()

    async def _begin(self, item: Request | Refusal, rows: asyncio.TaskGroup) -> None:
        """Begins the row as soon as a slot is free."""
        if isinstance(item, Refusal):
            self._ledger.add(failed(item, INVALID_ROW, item.problem))
            return
        await self._slots.acquire()
        rows.create_task(self._carry_out(item))

    async def _carry_out(self, request: Request) -> None:
        try:
            result = await self._attempts.carry_out(request)
            if result is not None:
                self._ledger.add(result)
        finally:
            self._slots.release()

    def _interrupt(self) -> None:
        then = Then.LEAVE if self.interrupted else self._policy.on_interrupt
        self.interrupted = True
        self._attempts.stop()
        self._say(_farewell(then, self._attempts.under_way))
        if then is Then.CANCEL:
            self._group.create_task(self._attempts.cancel_all())
        elif then is Then.LEAVE and self._main is not None:
            self._main.cancel()

    def _standing(self) -> Standing:
        summary, active = self._ledger.summary, self._watcher.statuses
        return Standing(
            total=self._ledger.rows,
            done=summary.done,
            failed=summary.failed,
            running=active["running"],
            waiting=active["pending"],
            paused=active[PAUSED],
        )

    def _tell_of_human(self, task: Task) -> None:
        row = self._attempts.under_way.get(task.task_id)
        self._say(
            f"row {row} waits for a human: help it, then `lybic-guiagent resume {one_line(task.task_id)}`"
        )


def _farewell(then: Then, under_way: Mapping[str, int]) -> str:
    """What a user who interrupts is told."""
    number = f"{len(under_way):,} task(s)"
    match then:
        case Then.CANCEL:
            return f"Interrupted. Cancelling {number}; Ctrl-C again leaves them."
        case Then.WAIT:
            return f"Interrupted. Waiting for {number}; Ctrl-C again leaves them."
    shown = [f"  row {row}  {one_line(task_id)}" for task_id, row in islice(under_way.items(), MOST_SHOWN)]
    rest = [f"  … and {len(under_way) - MOST_SHOWN:,} more"] if len(under_way) > MOST_SHOWN else []
    return "\n".join([f"Interrupted. {number} go on; the same command comes back to them.", *shown, *rest])


def _first(error: BaseException) -> BaseException:
    """The error by which a group of them came to be."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
