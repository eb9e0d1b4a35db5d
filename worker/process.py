"""One worker process: its connections, its slots, and the two ways in which a job comes to it."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, wait
from threading import BoundedSemaphore, Timer
from uuid import UUID

from shared.db import AsyncDatabase, Database
from shared.errors import StorageUnavailable
from shared.pictures import PictureStore
from shared.portal import Portal
from shared.secrets import Vault
from shared.settings import Settings
from shared.wakes import Waker, connect
from worker.courier import Courier
from worker.janitor import Janitor
from worker.lease import LeaseKeeper
from worker.runner import Claimed, Runner
from worker.stop import Reason
from worker.storage import THREADS, Storage
from worker.sweeper import Sweeper
from worker.wakes import WakeBatch

log = logging.getLogger(__name__)

MOST_SWEPT = 16
"""So many jobs one process takes up at a time, so that others get their share."""


class Process:
    """What the threads of a worker process share. Raises `ConfigurationError` when made."""

    def __init__(self, settings: Settings, *, name: str, concurrency: int) -> None:
        vault, store = Vault(settings.storage), PictureStore.connect(settings.pictures)
        self._settings = settings.worker
        # Whoever uses it tries again, or leaves it to a sweep: connections need no asking whether they live.
        few = settings.storage.model_copy(update={"pool_size": THREADS})
        self._db = Database.connect(
            few, name=f"guiagent {name}", pre_ping=False, plan_once=True, overflow=False
        )
        self._writes = AsyncDatabase(settings.storage, name=f"guiagent {name} runs")
        self._storage = Storage(self._db, self._writes)
        self._portal = Portal(uvloop=True)
        self._wakes = WakeBatch(Waker(connect(settings.redis)))
        # A connection of its own: runs that queue for the others must not cost them their leases.
        alone = settings.storage.model_copy(update={"pool_size": 1})
        self._lease_db = Database.connect(alone, name=f"guiagent {name} leases")
        self._keeper = LeaseKeeper(self._lease_db, settings.worker)
        self._runner = Runner(
            settings,
            db=self._db,
            vault=vault,
            wakes=self._wakes,
            portal=self._portal,
            storage=self._storage,
            store=store,
            keeper=self._keeper,
            name=name,
        )
        self._slots = BoundedSemaphore(concurrency)
        self._runs: set[Future[None]] = set()
        self._sweeper = Sweeper(self._sweep, settings.worker.sweep_seconds)
        janitor = Janitor(settings, db=self._db, vault=vault, portal=self._portal, store=store)
        self._cleaner = Sweeper(janitor.clean, settings.worker.clean_seconds)
        self._courier = Courier(settings, db=self._db, vault=vault, portal=self._portal)

    def run(self, job_id: UUID) -> None:
        """Runs the job that a message names, if it is free, when there is a slot; returns at its end."""
        self._slots.acquire()
        claimed = None
        try:
            if not self._keeper.draining:
                claimed = self._runner.claim(job_id)
        except StorageUnavailable as error:
            log.warning("job %s is left to the sweepers: %s", job_id, error.message)
        finally:
            if claimed is None:
                self._slots.release()
        if claimed is not None:
            wait((self._start(claimed),))

    def drain(self) -> None:
        """Stops every run at its next boundary; after the grace, or when told again, in a call."""
        if self._keeper.draining:
            self._keeper.drain(Reason.ABANDONED)
            return
        self._keeper.drain()
        deadline = Timer(self._settings.drain_seconds, self._keeper.drain, [Reason.ABANDONED])
        deadline.daemon = True
        deadline.start()

    def close(self) -> None:
        """Lets go of everything, after the last run."""
        self._sweeper.close()
        self._cleaner.close()
        wait(list(self._runs))
        self._courier.close()
        self._keeper.close()
        self._portal.call(self._writes.close)
        self._portal.close()
        self._storage.close()
        self._wakes.close()
        self._lease_db.close()
        self._db.close()

    def _sweep(self) -> None:
        """Takes up as many forgotten jobs as there are free slots."""
        free = self._take_slots()
        claimed: Sequence[Claimed] = []
        try:
            if free and not self._keeper.draining:
                claimed = self._runner.claim_forgotten(free)
        finally:
            for _ in range(free - len(claimed)):
                self._slots.release()
        for one in claimed:
            self._start(one)

    def _take_slots(self) -> int:
        taken = 0
        while taken < MOST_SWEPT and self._slots.acquire(blocking=False):
            taken += 1
        return taken

    def _start(self, claimed: Claimed) -> Future[None]:
        """Begins to work at a claimed job, in a slot that was taken for it."""
        run = self._portal.start(self._work, claimed)
        self._runs.add(run)
        run.add_done_callback(self._ended)
        return run

    async def _work(self, claimed: Claimed) -> None:
        """Works at the job. Whatever goes wrong, it is in PostgreSQL and its lease runs out."""
        try:
            await self._runner.run(claimed)
        except StorageUnavailable as error:
            log.warning("job %s is left to the sweepers: %s", claimed.job.id, error.message)
        except Exception:
            log.exception("job %s is left to the sweepers", claimed.job.id)

    def _ended(self, run: Future[None]) -> None:
        self._runs.discard(run)
        self._slots.release()
        self._courier.poke()
        self._sweeper.poke()
