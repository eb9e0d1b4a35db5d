"""The edge to receivers of webhooks: one POST to an address that was checked.

The receiver is hostile: its name may mean another address each time that it is looked up, its answer may be
endless or never come. So a name is looked up once for each attempt, and the connection goes to an address
that was checked then; of the answer just the head is read.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

import anyio
import anyio.to_thread
import httpcore
import httpx

from shared.addresses import Address
from shared.receivers import AllowedReceivers

CONNECT_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
GONE = 410


@dataclass(frozen=True, slots=True)
class Reply:
    """What a receiver answered."""

    status: int | None = None
    error: str | None = None
    """Why it was not accepted; see docs/webhooks.md."""
    is_final: bool = False
    """It would not be accepted at another time either."""
    retry_after: float = 0
    """Seconds for which the receiver wants to be left alone."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.error, self.status) if part)


class Post:
    """Sends webhooks. No proxy is asked, no redirect followed, and no connection kept."""

    def __init__(self, allowed: AllowedReceivers, timeout_seconds: float) -> None:
        self._allowed = allowed
        self._network = CheckedNetwork(allowed)
        self._ssl = httpx.create_ssl_context()
        self._seconds = timeout_seconds

    async def send(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> Reply:
        """Posts the body. Raises `EndpointNotAllowed`."""
        self._allowed.check(url)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._send(url, {"Host": url.netloc.decode(), **headers}, body)
        except (TimeoutError, httpcore.TimeoutException):
            return Reply(error="timeout")
        except httpcore.ConnectError as error:
            return Reply(error="tls" if isinstance(error.__cause__, ssl.SSLError) else "unreachable")
        except (httpcore.NetworkError, httpcore.ProtocolError):
            return Reply(error="no_answer")

    async def _send(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> Reply:
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        async with (
            httpcore.AsyncHTTPConnection(
                target.origin, ssl_context=self._ssl, network_backend=self._network
            ) as connection,
            connection.stream(
                "POST",
                target,
                headers=list(headers.items()),
                content=body,
                extensions={"timeout": {"connect": CONNECT_SECONDS}},
            ) as answer,
        ):
            return _read(answer)


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """The network as far as it is allowed: a host is connected to at an address that it has now."""

    def __init__(self, allowed: AllowedReceivers) -> None:
        self._allowed = allowed
        self._tcp = httpcore.AnyIOBackend()
        # Not the threads that others wait for: names of a hostile domain may take half a minute each.
        self._threads = anyio.CapacityLimiter(math.inf)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to the first allowed address that answers. Raises `EndpointNotAllowed`."""
        *others, last = self._allowed.admit(host, await self._addresses(host, port))
        connect = partial(
            self._tcp.connect_tcp,
            port=port,
            timeout=timeout,
            local_address=local_address,
            socket_options=socket_options,
        )
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await connect(str(address))
        return await connect(str(last))

    async def _addresses(self, host: str, port: int) -> list[Address]:
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._threads)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from None
        return [ip_address(place[0]) for *_, place in found]


def _read(answer: httpcore.Response) -> Reply:
    if 200 <= answer.status < 300:
        return Reply(answer.status)
    return Reply(
        answer.status,
        error="rejected",
        is_final=answer.status == GONE,
        retry_after=_retry_after(answer.headers),
    )


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float:
    value = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    return min(float(value), LONGEST_RETRY_AFTER_SECONDS) if value.isdigit() else 0
