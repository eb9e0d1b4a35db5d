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
from shared.jobs import Lease
from worker.stop import Reason, Stop

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.25
"""How often requests to cancel are looked for."""
RENEWALS_PER_LEASE = 4


@dataclass(slots=True)
class _Held:
    lease: Lease
    stop: Stop
    expires: float
    """By this process's monotonic clock, from before the claim or renewal was sent: never too late."""
    ends: float | None
    """When the job's own time is over."""


class LeaseKeeper:
    """Holds the leases of one process. Started before the first run, closed after the last."""

    def __init__(self, db: Database, *, lease_seconds: float) -> None:
        self._db = db
        self._lease_seconds = lease_seconds
        self._held: dict[UUID, _Held] = {}
        self._lock = Lock()
        self._closed = Event()
        self._draining = False
        self._renewed = time.monotonic()
        self._thread = Thread(target=self._keep, name="lease-keeper", daemon=True)
        self._thread.start()

    @contextmanager
    def hold(self, lease: Lease, *, claimed: float, seconds_left: float | None) -> Iterator[Stop]:
        """Keeps a lease for the length of the block; gives the signal by which the run is stopped.

        `claimed` is the monotonic time from just before the claim.
        """
        stop = Stop()
        ends = None if seconds_left is None else claimed + seconds_left
        with self._lock:
            self._held[lease.job_id] = _Held(lease, stop, claimed + self._lease_seconds, ends)
            if self._draining:
                stop.set(Reason.DRAINING)
        try:
            yield stop
        finally:
            with self._lock:
                self._held.pop(lease.job_id, None)

    def drain(self) -> None:
        """Tells every run, now and later, to stop at its next boundary."""
        with self._lock:
            self._draining = True
            for held in self._held.values():
                held.stop.set(Reason.DRAINING)

    def close(self) -> None:
        """Ends the thread; leases are not renewed any more."""
        self._closed.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with self._lock:
                held = list(self._held.values())
            try:
                self._beat(held)
            except StorageUnavailable as error:
                log.warning("leases not renewed: %s", error.message)
            except Exception:  # this thread must outlive whatever happens to one beat
                log.exception("lease keeper")
            self._expire(held)

    def _beat(self, held: list[_Held]) -> None:
        now = time.monotonic()
        renew = now - self._renewed >= self._lease_seconds / RENEWALS_PER_LEASE
        if renew:
            self._renewed = now
        if not held:
            return
        with self._db.transaction() as session:
            cancelled = jobs.cancel_requests(session, [one.lease.job_id for one in held])
            kept = (
                jobs.renew(session, [one.lease for one in held], lease_seconds=self._lease_seconds)
                if renew
                else None
            )
        for one in held:
            if one.lease.job_id in cancelled:
                one.stop.set(Reason.CANCELLED)
            if kept is not None and one.lease.job_id in kept:
                one.expires = now + self._lease_seconds
            elif kept is not None:
                one.stop.set(Reason.LEASE_LOST)

    def _expire(self, held: list[_Held]) -> None:
        """What time alone decides, whether PostgreSQL answers or not."""
        now = time.monotonic()
        for one in held:
            if now >= one.expires:
                one.stop.set(Reason.LEASE_LOST)
            elif one.ends is not None and now >= one.ends:
                one.stop.set(Reason.TIMEOUT)
