"""Wakes on their way out: runs leave them behind, and a thread publishes what gathers while it publishes."""

import logging
from collections import deque
from contextlib import suppress
from threading import Event, Thread
from uuid import UUID

from shared.wakes import Waker

log = logging.getLogger(__name__)


class WakeBatch:
    """One thread per process. A job that is woken twice before the thread comes by is woken once."""

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self._jobs: deque[UUID] = deque()
        self._some = Event()
        self._closed = Event()
        self._thread = Thread(target=self._run, name="wakes", daemon=True)
        self._thread.start()

    def wake(self, job_id: UUID) -> None:
        """Has whoever follows the job told that there is something new; nobody waits for it."""
        self._jobs.append(job_id)
        if not self._some.is_set():  # to set it costs a change of threads
            self._some.set()

    def close(self) -> None:
        """Publishes what is left, and ends the thread."""
        self._closed.set()
        self._some.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._some.wait()
            self._some.clear()  # before the jobs are taken: who comes later sets it again
            self._publish()
        self._publish()

    def _publish(self) -> None:
        try:
            self._waker.wake(*self._taken())
        except Exception:  # this thread must outlive whatever happens to one wake
            log.exception("wakes")

    def _taken(self) -> set[UUID]:
        jobs = set[UUID]()
        with suppress(IndexError):
            while True:
                jobs.add(self._jobs.popleft())
        return jobs
