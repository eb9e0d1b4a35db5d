"""The sweeper: in every worker process, it takes up jobs that nobody holds though they are free.

Their message was lost, their worker died, or they waited for a sandbox. It asks PostgreSQL, never Redis, so
that jobs start while Redis is away as well.
"""

import logging
import random
from collections.abc import Callable
from threading import Event, Thread

from shared.errors import StorageUnavailable

log = logging.getLogger(__name__)

JITTER = 0.3
SHORTEST_SECONDS = 0.05
"""From one sweep to the next, though many jobs end at a time."""


class Sweeper:
    """Calls `sweep` about every so many seconds, and soon after each `poke`. It never overlaps itself."""

    def __init__(self, sweep: Callable[[], None], seconds: float) -> None:
        self._sweep = sweep
        self._seconds = seconds
        self._poked = Event()
        self._closed = Event()
        self._thread = Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """A slot or a sandbox has become free: somebody may have waited for it."""
        self._poked.set()

    def close(self) -> None:
        """Ends the thread after the sweep under way."""
        self._closed.set()
        self._poked.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            # Not all at once, though a deployment starts all workers at once.
            self._poked.wait(self._seconds * random.uniform(1 - JITTER, 1))  # noqa: S311
            self._closed.wait(SHORTEST_SECONDS)
            self._poked.clear()
            try:
                if not self._closed.is_set():
                    self._sweep()
            except StorageUnavailable as error:
                log.warning("not swept: %s", error.message)
            except Exception:  # this thread must outlive whatever happens to one sweep
                log.exception("sweeper")
