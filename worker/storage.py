"""The database as runs see it: they wait for it on the event loop, while a few threads ask it.

SQLAlchemy's asyncio extension costs as much CPU per statement as a hand-over to a thread does
(docs/performance.md), and would be a second way to PostgreSQL beside that of leases and sweepers.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from shared.db import Database
from shared.errors import LeaseLost, StorageUnavailable
from worker.stop import Stop

log = logging.getLogger(__name__)
C = TypeVar("C", Session, Connection)
T = TypeVar("T")

PAUSE_SECONDS = 0.25


class Storage:
    """Carries out work in transactions, as many at a time as it has threads. Raises `StorageUnavailable`."""

    def __init__(self, db: Database, threads: int) -> None:
        self._db = db
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="storage")

    async def transaction(self, work: Callable[[Session], T]) -> T:
        """The work's result from a committed transaction."""
        return await self._carry_out(self._db.transaction, work)

    async def statement(self, work: Callable[[Connection], T]) -> T:
        """The same for work that is one statement."""
        return await self._carry_out(self._db.statement, work)

    def close(self) -> None:
        """Ends the threads, after their work."""
        self._threads.shutdown()

    async def _carry_out(
        self, connected: Callable[[], AbstractContextManager[C]], work: Callable[[C], T]
    ) -> T:
        def carry_out() -> T:
            with connected() as connection:
                return work(connection)

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, carry_out)


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
