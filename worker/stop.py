"""How a run is told to stop, at its next boundary or in the midst of a call."""

from concurrent.futures import FIRST_COMPLETED, Future, wait
from enum import Enum
from threading import Event
from typing import Any, TypeVar

T = TypeVar("T")


class Reason(Enum):
    """Why a run stops. All but `DRAINING` also abandon the call that is under way."""

    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"
    DRAINING = "draining"


class Stopped(Exception):
    """Unwinds a run that was told to stop."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Stop:
    """One run's signal to stop, set from other threads.

    The first reason stays, except that draining yields to any other and a lost lease to none.
    """

    def __init__(self) -> None:
        self._told = Event()
        self._abandon: Future[None] = Future()
        self._reason: Reason | None = None

    def set(self, reason: Reason) -> None:
        """Tells the run to stop."""
        if self._reason in {None, Reason.DRAINING} or reason is Reason.LEASE_LOST:
            self._reason = reason
        self._told.set()
        if reason is not Reason.DRAINING and not self._abandon.done():
            self._abandon.set_result(None)

    def check(self) -> None:
        """Raises `Stopped` if the run was told to stop: called at every boundary."""
        if self._reason is not None:
            raise Stopped(self._reason)

    def sleep(self, seconds: float) -> None:
        """Pauses the run; raises `Stopped` as soon as it is told to stop."""
        self._told.wait(seconds)
        self.check()

    def wait_for(self, call: Future[T]) -> T:
        """The result of a call; raises `Stopped` and abandons the call when told to, except for draining."""
        both: tuple[Future[Any], ...] = (call, self._abandon)
        wait(both, return_when=FIRST_COMPLETED)
        if call.done() and not call.cancelled():
            return call.result()
        call.cancel()
        self.check()
        raise Stopped(Reason.DRAINING)  # the call was cancelled by the end of the process
