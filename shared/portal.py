"""The portal: one asyncio thread per process, on which runs and every call to Lybic and to models take place.

The HTTP clients are shared by all jobs of a process: building one costs 20 to 40 ms of CPU for its TLS
set-up. A call on the portal can be abandoned at any moment, which a blocking call in a thread can't.
Under gevent the thread is a greenlet, and the same holds.
"""

from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import cycle
from ssl import SSLContext
from typing import Any, TypeVar, TypeVarTuple, Unpack

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")
Args = TypeVarTuple("Args")

CLIENTS = 32
"""Whenever a request begins or ends, httpcore looks at every connection and request of its pool. With a
hundred at a time in one pool, a request took 4.6 ms of CPU, and 0.8 ms in several (docs/performance.md)."""
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=8)
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
    """Starts calls on the asyncio thread. Made before the first call, closed at the end of the process.

    `uvloop` is the faster event loop, but none for a process that gevent has patched: it would block it all.
    """

    def __init__(self, *, uvloop: bool = False) -> None:
        self._stack = ExitStack()
        portal = start_blocking_portal(backend_options={"use_uvloop": uvloop})
        self._portal: BlockingPortal = self._stack.enter_context(portal)
        tls = httpx.create_ssl_context()
        self._clients = [_make_client(tls) for _ in range(CLIENTS)]
        self._next = cycle(self._clients)

    def client(self) -> httpx.AsyncClient:
        """One of the shared clients: a job, or a request, takes one and keeps to it."""
        return next(self._next)

    def start(self, call: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> Future[T]:
        """Begins a call; cancelling the future abandons it."""
        return self._portal.start_task_soon(call, *args)

    def call(self, call: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
        """Waits for a call."""
        return self.start(call, *args).result()

    def close(self) -> None:
        """Closes the shared clients and ends the thread."""
        for client in self._clients:
            self._portal.call(client.aclose)
        self._stack.close()


def _make_client(tls: SSLContext) -> httpx.AsyncClient:
    hooks: dict[str, list[Callable[..., Any]]] = {"request": [_trace]}
    # All jobs share it: what one organisation's answer sets would go along with another's request.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        verify=tls,
        limits=LIMITS,
        timeout=TIMEOUT,
        follow_redirects=False,
        cookies=no_cookies,
        event_hooks=hooks,
    )
