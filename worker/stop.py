"""How a run is told to stop, at its next boundary or in the midst of a call."""

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from enum import IntEnum
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class Reason(IntEnum):
    """Why a run stops; a greater reason replaces a smaller one.

    Reads and model calls are abandoned for any of them. An action under way is not, for it would still have
    its effect: only the two greatest reasons do not wait for its end.
    """

    DRAINING = 1
    TIMEOUT = 2
    CANCELLED = 3
    ABANDONED = 4  # the worker can't wait any longer
    LEASE_LOST = 5


class Stopped(Exception):
    """Unwinds a run that was told to stop."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Stop:
    """One run's signal to stop, set from other threads, and the time until which it may act at all.

    `expires` is when the lease ends by this process's monotonic clock, `progressed` when the run last came by
    a boundary. A process that was frozen for longer than its lease finds it over at its next boundary, before
    any other thread had the time to say so.
    """

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.progressed = time.monotonic()
        self._reason: Reason | None = None
        self._told: Future[None] = Future()
        self._abandon: Future[None] = Future()
        self._lock = Lock()

    @property
    def reason(self) -> Reason | None:
        """Why the run is to stop, if it is."""
        if time.monotonic() >= self.expires:
            return Reason.LEASE_LOST
        return self._reason

    def set(self, reason: Reason) -> None:
        """Tells the run to stop."""
        with self._lock:
            if self._reason is not None and reason <= self._reason:
                return
            self._reason = reason
            if not self._told.done():
                self._told.set_result(None)
            if reason >= Reason.ABANDONED and not self._abandon.done():
                self._abandon.set_result(None)

    def check(self) -> None:
        """Raises `Stopped` if the run was told to stop: called at every boundary."""
        reason = self.reason
        if reason is not None:
            raise Stopped(reason)
        self.progressed = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Pauses the run; raises `Stopped` as soon as it is told to stop."""
        wait((self._told,), seconds)
        self.check()

    def wait_for(self, call: Future[T], *, effect: bool = False) -> T:
        """The result of a call; raises `Stopped` and abandons the call when told to.

        `effect`: the call changes something outside, so it is waited for unless that can't be any longer.
        """
        both: tuple[Future[Any], ...] = (call, self._abandon if effect else self._told)
        wait(both, return_when=FIRST_COMPLETED)
        if call.done() and not call.cancelled():
            return call.result()
        call.cancel()
        self.check()
        raise Stopped(Reason.ABANDONED)  # the call was cancelled by the end of the process
