"""How a run is told to stop, at its next boundary or in the midst of a call."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from threading import Lock
from typing import Final, TypeVar

from anyio import CancelScope

from shared.states import Request

T = TypeVar("T")


class Reason(IntEnum):
    """Why a run stops; a greater reason replaces a smaller one.

    Reads and model calls are abandoned for any of them. An action under way is not, for it would still have
    its effect: only the two greatest reasons do not wait for its end.
    """

    DRAINING = 1
    TAKEN_OVER = 2  # no other run would act before the human has it
    TIMEOUT = 3
    CANCELLED = 4
    ABANDONED = 5  # the worker can't wait any longer
    LEASE_LOST = 6


ASKED: Final[Mapping[Request, Reason]] = {
    Request.CANCEL: Reason.CANCELLED,
    Request.TAKEOVER: Reason.TAKEN_OVER,
}


class Stopped(Exception):
    """Unwinds a run that was told to stop."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Stop:
    """One run's signal to stop, set from any thread, and the time until which it may act at all.

    `expires` is when the lease ends by this process's monotonic clock, `progressed` when the run last came by
    a boundary. A process that was frozen for longer than its lease finds it over at its next boundary, before
    any other thread had the time to say so.
    """

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.progressed = time.monotonic()
        self._reason: Reason | None = None
        self._call: _Call | None = None
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
            call = self._call
        if call is not None:
            with suppress(RuntimeError):  # the loop is closed: the call is over as well
                call.loop.call_soon_threadsafe(self._abandon, call)

    def check(self) -> None:
        """Raises `Stopped` if the run was told to stop: called at every boundary."""
        reason = self.reason
        if reason is not None:
            raise Stopped(reason)
        self.progressed = time.monotonic()

    def check_asked(self) -> None:
        """Raises `Stopped` if a person asked for it."""
        reason = self.reason
        if reason is not None and reason in ASKED.values():
            raise Stopped(reason)

    async def sleep(self, seconds: float) -> None:
        """Pauses the run; raises `Stopped` as soon as it is told to stop."""
        await self.wait_for(asyncio.sleep(seconds))
        self.check()

    async def wait_for(self, awaited: Awaitable[T], *, effect: bool = False) -> T:
        """The result of a call; raises `Stopped` and abandons the call when told to.

        `effect`: the call changes something outside, so it is waited for unless that can't be any longer.
        """
        with CancelScope() as scope:
            call = _Call(asyncio.get_running_loop(), scope, Reason.ABANDONED if effect else Reason.DRAINING)
            with self._lock:
                self._call = call
            self._abandon(call)  # it may have been told before
            try:
                return await awaited
            finally:
                self._call = None
        self.check()
        raise AssertionError("a call was abandoned for no reason")

    def _abandon(self, call: "_Call") -> None:
        if self._reason is not None and self._reason >= call.least:
            call.scope.cancel()


@dataclass(frozen=True, slots=True)
class _Call:
    """The call under way. `least`: it is abandoned for this reason or any greater one."""

    loop: asyncio.AbstractEventLoop
    scope: CancelScope
    least: Reason
