"""The portal: one asyncio thread per process on which every call to Lybic and to models runs.

The vendors' clients are shared by all jobs of a process: building one costs 20 to 40 ms of CPU for its TLS
set-up. A call on the portal can be abandoned at any moment, which a blocking call in a thread can't.
Under gevent the thread is a greenlet, and the same holds.
"""

from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar, TypeVarTuple, Unpack

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")
Args = TypeVarTuple("Args")

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)
TIMEOUT = httpx.Timeout(None, connect=5.0)  # the whole of a call is bounded where it is made

_last_check: ContextVar[Callable[[], None] | None] = ContextVar("last_check", default=None)


@contextmanager
def checked_before_sending(check: Callable[[], None]) -> Iterator[None]:
    """Within the block, `check` is called right before a request's bytes leave; what it raises stops them.

    Milliseconds pass between the start of a call and its first byte, far more where a connection is made
    first. The process may be frozen in between, for longer than it may act at all.
    """
    token = _last_check.set(check)
    try:
        yield
    finally:
        _last_check.reset(token)


async def _trace(request: httpx.Request) -> None:
    check = _last_check.get()
    if check is None:
        return

    async def trace(event: str, _: dict[str, Any]) -> None:
        # The head alone has no effect: the body tells what to do, and leaves last.
        if event.endswith((".send_request_headers.started", ".send_request_body.started")):
            check()

    request.extensions["trace"] = trace


class Portal:
    """Starts calls on the asyncio thread. Made before the first call, closed at the end of the process."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
        self.http: httpx.AsyncClient = self._portal.call(self._make_client)

    @staticmethod
    async def _make_client() -> httpx.AsyncClient:
        hooks: dict[str, list[Callable[..., Any]]] = {"request": [_trace]}
        # All jobs share it: what one organisation's answer sets would go along with another's request.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        return httpx.AsyncClient(
            limits=LIMITS, timeout=TIMEOUT, follow_redirects=False, cookies=no_cookies, event_hooks=hooks
        )

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
