"""The portal: one asyncio thread per process, on which runs and every call to Lybic and to models take place.

The HTTP client is shared by all jobs of a process: building one costs 20 to 40 ms of CPU for its TLS
set-up. A call on the portal can be abandoned at any moment, which a blocking call in a thread can't.
Under gevent the thread is a greenlet, and the same holds.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TypeVar, TypeVarTuple, Unpack

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from shared.transport import Transport

T = TypeVar("T")
Args = TypeVarTuple("Args")

TIMEOUT = httpx.Timeout(None, connect=5.0)  # the whole of a call is bounded where it is made


class Portal:
    """Starts calls on the asyncio thread. Made before the first call, closed at the end of the process.

    `uvloop` is the faster event loop, but none for a process that gevent has patched: it would block it all.
    """

    def __init__(self, *, uvloop: bool = False) -> None:
        with (
            ExitStack() as stack
        ):  # the thread ends again if the client can't be made: it would keep the process
            portal = start_blocking_portal(backend_options={"use_uvloop": uvloop})
            self._portal: BlockingPortal = stack.enter_context(portal)
            self.http: httpx.AsyncClient = self._portal.call(_make_client)
            self._stack = stack.pop_all()

    def start(self, call: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> Future[T]:
        """Begins a call; cancelling the future abandons it."""
        return self._portal.start_task_soon(call, *args)

    def call(self, call: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
        """Waits for a call."""
        return self.start(call, *args).result()

    def close(self) -> None:
        """Closes the shared client and ends the thread."""
        self._portal.call(self.http.aclose)
        self._stack.close()


async def _make_client() -> httpx.AsyncClient:
    transport = Transport(httpx.create_ssl_context())
    return _Client(transport=transport, timeout=TIMEOUT, follow_redirects=False)


class _NoCookies(httpx.Cookies):
    def extract_cookies(self, response: httpx.Response) -> None:
        """Leaves them: all jobs share the client, and one organisation's are none of another's."""


class _Client(httpx.AsyncClient):
    _none = _NoCookies()

    @property
    def cookies(self) -> httpx.Cookies:
        """None, whatever the answers say."""
        return self._none

    @cookies.setter
    def cookies(self, _: object) -> None:
        raise AttributeError("this client has no cookies")
