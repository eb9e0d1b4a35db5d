"""The lease keeper: one thread per process that renews the leases of its runs and brings them bad news.

It works apart from the runs, so that a long call does not cost a lease, and it costs one statement per beat
however many jobs the process holds.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from uuid import UUID

from shared import jobs
from shared.db import Database
from shared.errors import StorageUnavailable
from shared.settings import WorkerSettings
from shared.writes import Lease
from worker.stop import ASKED, Reason, Stop

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.25
"""How often requests to cancel or to take over are looked for."""
RENEWALS_PER_LEASE = 4


@dataclass(frozen=True, slots=True)
class _Held:
    lease: Lease
    stop: Stop
    ends: float | None
    """When the job's own time is over, by the monotonic clock."""


class LeaseKeeper:
    """Holds the leases of one process. Started before the first run, closed after the last."""

    def __init__(self, db: Database, settings: WorkerSettings) -> None:
        self._db = db
        self._settings = settings
        self._held: dict[UUID, _Held] = {}
        self._lock = Lock()
        self._closed = Event()
        self._told: Reason | None = None
        self._renewed = time.monotonic()
        self._thread = Thread(target=self._keep, name="lease-keeper", daemon=True)
        self._thread.start()

    @property
    def draining(self) -> bool:
        """Whether the process is going down: it must not claim anything more."""
        return self._told is not None

    @contextmanager
    def hold(self, lease: Lease, *, claimed: float, seconds_left: float | None) -> Iterator[Stop]:
        """Keeps a lease for the length of the block; gives the signal by which the run is stopped.

        `claimed` is the monotonic time from just before the claim was sent: never later than the database's.
        """
        stop = Stop(claimed + self._settings.lease_seconds)
        ends = None if seconds_left is None else claimed + seconds_left
        with self._lock:
            self._held[lease.job_id] = _Held(lease, stop, ends)
            if self._told is not None:
                stop.set(self._told)
        try:
            yield stop
        finally:
            with self._lock:
                self._held.pop(lease.job_id, None)

    def drain(self, reason: Reason = Reason.DRAINING) -> None:
        """Tells every run, now and later, to stop."""
        with self._lock:
            self._told = reason
            for held in self._held.values():
                held.stop.set(reason)

    def close(self) -> None:
        """Ends the thread; leases are not renewed any more."""
        self._closed.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with self._lock:
                held = list(self._held.values())
            self._watch(held)
            try:
                self._beat([one for one in held if one.stop.reason is not Reason.LEASE_LOST])
            except StorageUnavailable as error:
                log.warning("leases not renewed: %s", error.message)
            except Exception:  # this thread must outlive whatever happens to one beat
                log.exception("lease keeper")

    def _watch(self, held: list[_Held]) -> None:
        """What time alone decides, whether PostgreSQL answers or not."""
        now = time.monotonic()
        for one in held:
            if now >= one.stop.expires:
                one.stop.set(Reason.LEASE_LOST)
            elif now - one.stop.progressed > self._settings.step_seconds:
                log.error("job %s makes no progress: its lease is left to expire", one.lease.job_id)
                one.stop.set(Reason.LEASE_LOST)
            elif one.ends is not None and now >= one.ends:
                one.stop.set(Reason.TIMEOUT)

    def _beat(self, held: list[_Held]) -> None:
        """Looks for what somebody asked of the runs, and renews the leases when it is time."""
        if not held:
            return
        now = time.monotonic()
        lease_seconds = self._settings.lease_seconds
        kept: set[UUID] | None = None
        with self._db.statement() as connection:
            requests = jobs.requests(connection, held[0].lease.owner)  # as all the others'
            if now - self._renewed >= lease_seconds / RENEWALS_PER_LEASE:
                kept = jobs.renew(connection, [one.lease for one in held], lease_seconds=lease_seconds)
        for one in held:
            if request := requests.get(one.lease.job_id):
                one.stop.set(ASKED[request])
            if kept is not None and one.lease.job_id in kept:
                one.stop.expires = now + lease_seconds
            elif kept is not None:
                one.stop.set(Reason.LEASE_LOST)
        if kept is not None:
            self._renewed = now
