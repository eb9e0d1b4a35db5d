"""A breaker: after a failure the next calls are not even tried, for a while.

Redis only wakes. While it is frozen each call to it would take as long as its time-outs, and neither a client
that submits nor a step that was recorded should wait for that.
"""

import time

from shared.metrics import REDIS_FAILURES

OPEN_SECONDS = 2.0


class Breaker:
    """Closed while all goes well; open for a while after each failure."""

    def __init__(self, seconds: float = OPEN_SECONDS) -> None:
        self._seconds = seconds
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls should be left out for now."""
        return time.monotonic() < self._open_until

    def trip(self) -> None:
        """A call has failed."""
        REDIS_FAILURES.inc()
        self._open_until = time.monotonic() + self._seconds
