"""What becomes of many tasks, for few requests."""

import asyncio
from collections import Counter
from collections.abc import Callable

from client.batch.requests import BATCH_LABEL
from client.clients import STATE, AsyncClient
from client.errors import NotFound
from client.models import PAUSED, Task

ACTIVE = ("pending", "running", PAUSED)
SHORTEST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0


class Watcher:
    """Asks now and then which tasks of a batch are active, and what became of those that are so no more.

    Often while tasks end, seldom while none does. A task that calls a human counts as ended, unless there is
    somebody to be told. `statuses` are how many tasks were in each at the last look.
    """

    def __init__(self, client: AsyncClient, batch: str, tell: Callable[[Task], None] | None) -> None:
        self._client = client
        self._batch = batch
        self._tell = tell
        self._awaited: dict[str, asyncio.Future[Task]] = {}
        self._told: set[str] = set()
        self.statuses: Counter[str] = Counter()

    async def end(self, task_id: str) -> Task:
        """The task when it has ended, or called a human. Raises `NotFound` if there is none any more."""
        self._awaited[task_id] = asyncio.get_running_loop().create_future()
        try:
            return await self._awaited[task_id]
        finally:
            del self._awaited[task_id]

    async def watch(self) -> None:
        """Looks until it is cancelled. Raises `ClientError` if the server does not answer for long."""
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause)
            some_ended = await self._look() if self._awaited else True
            pause = SHORTEST_PAUSE_SECONDS if some_ended else min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    async def _look(self) -> bool:
        # Taken before the question: what is submitted while it is answered may be missing from the answer.
        awaited = dict(self._awaited)
        label = {BATCH_LABEL: self._batch}
        active = {task.task_id: task async for task in self._client.tasks(status=ACTIVE, metadata=label)}
        self.statuses = Counter(task.status for task in active.values())
        for task_id, future in awaited.items():
            try:
                task = active.get(task_id) or await self._client.status(task_id, fields=STATE)
            except NotFound as error:
                if not future.done():
                    future.set_exception(error)
            else:
                self._settle(future, task)
        return any(future.done() for future in awaited.values())

    def _settle(self, future: asyncio.Future[Task], task: Task) -> None:
        if task.status != PAUSED:
            self._told.discard(task.task_id)
        elif self._tell is not None and task.task_id not in self._told:
            self._told.add(task.task_id)
            self._tell(task)
        over = task.ended or (task.status == PAUSED and self._tell is None)
        if over and not future.done():  # whoever awaited it may be gone
            future.set_result(task)
