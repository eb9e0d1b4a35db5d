"""The portal: one asyncio thread per process on which every call to Lybic and to models runs.

The vendors' clients are shared by all jobs of a process: building one costs 20 to 40 ms of CPU for its TLS
set-up. A call on the portal can be abandoned at any moment, which a blocking call in a thread can't.
Under gevent the thread is a greenlet, and the same holds.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TypeVar, TypeVarTuple, Unpack

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")
Args = TypeVarTuple("Args")

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)
TIMEOUT = httpx.Timeout(None, connect=5.0)  # the whole of a call is bounded where it is made


class Portal:
    """Starts calls on the asyncio thread. Made before the first call, closed at the end of the process."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
        self.http: httpx.AsyncClient = self._portal.call(self._make_client)

    @staticmethod
    async def _make_client() -> httpx.AsyncClient:
        return httpx.AsyncClient(limits=LIMITS, timeout=TIMEOUT, follow_redirects=False)

    def start(self, call: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> Future[T]:
        """Begins a call; cancelling the future abandons it."""
        return self._portal.start_task_soon(call, *args)

    def call(self, call: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
        """Waits for a call."""
        return self.start(call, *args).result()

    def close(self) -> None:
        """Closes the shared clients and ends the thread."""
        self._portal.call(self.http.aclose)
        self._stack.close()
