"""HTTP as the vendors' clients know it, httpx's, over the connections of aiohttp.

httpx's own connections cost a request 4.6 ms of CPU where a hundred are under way, these 0.4
(docs/performance.md). The package `httpx-aiohttp` does the same, but reports an answer that was lost as a
connection that was never made: whoever tries that again repeats an action.
"""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import yarl

log = logging.getLogger(__name__)
_last_check: ContextVar["_LastCheck | None"] = ContextVar("last_check", default=None)


class _LastCheck:
    """A check before bytes leave, and what it raised."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self.refusal: BaseException | None = None

    def __call__(self) -> None:
        try:
            self._check()
        except BaseException as error:
            self.refusal = error
            raise


@contextmanager
def checked_before_sending(check: Callable[[], None]) -> Iterator[None]:
    """Within the block, `check` is called right before a request's bytes leave; what it raises stops them.

    Milliseconds pass between the start of a call and its first byte, far more where a connection is made
    first. The process may be frozen in between, for longer than it may act at all.
    """
    token = _last_check.set(_LastCheck(check))
    try:
        yield
    finally:
        _last_check.reset(token)


async def _before_bytes(*_: object) -> None:
    check = _last_check.get()
    if check is not None:
        check()


class Transport(httpx.AsyncBaseTransport):
    """Connections for any number of requests at a time. To be made on the event loop that they use."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        tracing = aiohttp.TraceConfig()
        # The head alone has no effect: the body tells what to do, and leaves last.
        tracing.on_request_headers_sent.append(_before_bytes)
        tracing.on_request_chunk_sent.append(_before_bytes)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=KEEP_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trace_configs=[tracing],
        )
        self._proxies = _proxies()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, its body to be read yet. Raises httpx's errors."""
        seconds: dict[str, float | None] = request.extensions.get("timeout", {})
        body = await request.aread()
        with _translated(request):
            response = await self._session.request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=body or None,
                allow_redirects=False,
                proxy=self._proxy_for(request.url),
                timeout=aiohttp.ClientTimeout(
                    sock_connect=seconds.get("connect"), sock_read=seconds.get("read")
                ),
            )
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=_Body(request, response), request=request
        )

    def _proxy_for(self, url: httpx.URL) -> str | None:
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        return proxy if proxy and not proxy_bypass(url.host) else None

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._session.close()


def _proxies() -> dict[str, str]:
    """Those of the environment, by scheme.

    aiohttp would look for them at each request, in a thread, and send passwords from ~/.netrc.
    """
    proxies = {}
    for scheme in getproxies().keys() & {"http", "https", "all"}:
        given = getproxies()[scheme]
        url = given if "://" in given else f"http://{given}"
        if url.startswith(("http://", "https://")):
            proxies[scheme] = url
        else:  # not what it is: it may hold a password
            log.warning("%s_proxy is not used: it names no HTTP proxy", scheme)
    return proxies


KEEP_SECONDS = 5.0
"""A connection that is idle for longer is closed: before the server does that, which may cost an action."""


class _Body(httpx.AsyncByteStream):
    def __init__(self, request: httpx.Request, response: aiohttp.ClientResponse) -> None:
        self._request = request
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated(self._request):
            async for part in self._response.content.iter_any():
                yield part

    async def aclose(self) -> None:
        self._response.close()  # a connection whose response was read to its end is in use elsewhere by now


@contextmanager
def _translated(request: httpx.Request) -> Iterator[None]:
    """aiohttp's errors as httpx's. Only what is certain to precede the first byte is a connection's error."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise _named(httpx.ConnectError, error, request) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise _named(httpx.ConnectTimeout, error, request) from error
    except TimeoutError as error:
        raise _named(httpx.ReadTimeout, error, request) from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise _named(httpx.UnsupportedProtocol, error, request) from error
    except aiohttp.ClientResponseError as error:
        raise _named(httpx.RemoteProtocolError, error, request) from error
    except (aiohttp.ClientError, OSError) as error:
        check = _last_check.get()
        if check is not None and check.refusal is not None:
            raise check.refusal from None
        raise _named(httpx.ReadError, error, request) from error


def _named(kind: Any, error: Exception, request: httpx.Request) -> httpx.TransportError:
    made: httpx.TransportError = kind(type(error).__name__, request=request)
    return made
