"""The database as runs see it: they wait for it on the event loop.

What every step needs, a `Write`, is a statement that psycopg carries out on the loop itself: a tenth of a
millisecond, where SQLAlchemy in a thread takes half of one (docs/performance.md). The rest, which few jobs
need, are transactions in threads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from sqlalchemy.orm import Session

from shared.db import AsyncDatabase, Database
from shared.errors import LeaseLost, StorageUnavailable
from shared.statements import STATE
from shared.states import Request
from shared.writes import Write
from worker.stop import Stop

log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSE_SECONDS = 0.25
THREADS = 4
"""They, and all others of the process that ask PostgreSQL, share so many connections."""


class Storage:
    """What is carried out is committed. Raises `StorageUnavailable`."""

    def __init__(self, db: Database, writes: AsyncDatabase) -> None:
        self._db = db
        self._writes = writes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="storage")

    async def carry_out(self, write: Write) -> Request | None:
        """As `shared.writes.carry_out`, in a transaction of its own."""
        written = await self._writes.fetch_one(write.statement, write.given)
        if written is None:
            raise write.refusal(await self._writes.fetch_one(STATE, write.lease.given))
        return Request.of(written[0], written[1])

    async def transaction(self, work: Callable[[Session], T]) -> T:
        """The work's result from a committed transaction."""

        def carry_out() -> T:
            with self._db.transaction() as session:
                return work(session)

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, carry_out)

    def close(self) -> None:
        """Ends the threads, after their work."""
        self._threads.shutdown()


async def persist(write: Callable[[], Awaitable[T]], stop: Stop) -> T:
    """The result of a write, which is tried again while PostgreSQL is away.

    Raises `LeaseLost` when the lease does not last any longer.
    """
    while True:
        try:
            return await write()
        except StorageUnavailable as error:
            log.warning("not recorded yet: %s", error.message)
            if time.monotonic() + PAUSE_SECONDS >= stop.expires:
                raise LeaseLost("the database was away for longer than the lease") from error
            await asyncio.sleep(PAUSE_SECONDS)
