"""HTTP over aiohttp: no request leaves twice, none leaves after its check, and a lost answer is called so."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
import pytest

from local.processes import free_port
from shared.portal import Portal
from shared.transport import Transport, checked_before_sending

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\n\r\nok"


@dataclass
class Server:
    """A server that keeps what it is sent, and answers each request of a connection with the next of these.

    Without an answer left, it closes the connection.
    """

    answers: list[bytes]
    closes: bool = False
    """After each answer."""
    requests: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in self.writers:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    @property
    def connections(self) -> int:
        return len(self.writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while head := await self._head(reader):
            body = await reader.readexactly(4) if head.startswith(b"POST") else b""
            self.requests.append(head + body)
            if not self.answers:
                break
            writer.write(self.answers.pop(0))
            if self.closes:
                break
        writer.close()

    @staticmethod
    async def _head(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


Send = Callable[[httpx.AsyncClient, str], Awaitable[object]]


async def post(http: httpx.AsyncClient, url: str) -> httpx.Response:
    return await http.post(url, content=b"deed")


def meet(portal: Portal, server: Server, send: Send) -> None:
    """Sends to the running server."""

    async def met() -> None:
        async with server.running():
            await send(portal.http, server.url)

    portal.call(met)


def test_a_lost_answer_is_none_of_a_connection_that_was_not_made(portal: Portal) -> None:
    server = Server([])
    with pytest.raises(httpx.ReadError):
        meet(portal, server, post)
    assert len(server.requests) == 1


def test_nor_is_it_sent_again_over_a_connection_that_was_kept(portal: Portal) -> None:
    async def twice(http: httpx.AsyncClient, url: str) -> None:
        assert (await post(http, url)).text == "ok"
        with pytest.raises(httpx.ReadError):
            await post(http, url)

    server = Server([OK])
    meet(portal, server, twice)
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"nonsense\r\n\r\n"])
def test_half_an_answer_and_nonsense_are_lost_as_well(portal: Portal, answer: bytes) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        meet(portal, Server([answer], closes=True), post)


def test_a_connection_that_was_not_made_is_called_so(portal: Portal) -> None:
    with pytest.raises(httpx.ConnectError):
        portal.call(post, portal.http, f"http://127.0.0.1:{free_port()}")


def test_an_answer_that_does_not_come(portal: Portal) -> None:
    async def impatient(http: httpx.AsyncClient, url: str) -> None:
        await http.post(url, content=b"deed", timeout=0.1)

    with pytest.raises(httpx.ReadTimeout):
        meet(portal, Server([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"]), impatient)


class Refused(Exception):
    pass


@pytest.mark.parametrize("looks", [0, 1])
def test_nothing_that_has_an_effect_leaves_once_the_check_says_no(portal: Portal, looks: int) -> None:
    """It is looked at before the head, and once more before the body."""
    seen: list[int] = []

    def check() -> None:
        seen.append(1)
        if len(seen) > looks:
            raise Refused

    async def send(http: httpx.AsyncClient, url: str) -> None:
        with pytest.raises(Refused), checked_before_sending(check):
            await post(http, url)

    server = Server([OK])
    meet(portal, server, send)
    assert not any(b"deed" in request for request in server.requests)
    assert len(seen) == looks + 1


def test_connections_are_kept_and_cookies_are_not(portal: Portal) -> None:
    async def thrice(http: httpx.AsyncClient, url: str) -> None:
        for _ in range(3):
            await post(http, url)

    server = Server([OK] * 3)
    meet(portal, server, thrice)
    assert server.connections == 1
    assert not any(b"ookie" in request for request in server.requests)


def test_what_is_sent_is_what_httpx_would_send(portal: Portal) -> None:
    async def get(http: httpx.AsyncClient, url: str) -> None:
        await http.get(f"{url}/a%2E%2F..%20?b=%2B%26", headers={"X-Api-Key": "key"})

    server = Server([OK])
    meet(portal, server, get)
    first, *headers = server.requests[0].decode().strip().split("\r\n")
    names = sorted(header.partition(":")[0].lower() for header in headers)
    assert first == "GET /a%2E%2F..%20?b=%2B%26 HTTP/1.1"
    assert names == ["accept", "accept-encoding", "connection", "host", "user-agent", "x-api-key"]


def test_a_call_that_is_abandoned_leaves_no_connection_behind(portal: Portal) -> None:
    async def abandoned(http: httpx.AsyncClient, url: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await post(http, url)
        assert (await post(http, url)).text == "ok"

    server = Server([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", OK])
    meet(portal, server, abandoned)
    assert server.connections == 2


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:9", "nonsense://"])
def test_a_proxy_of_another_kind_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    async def met() -> httpx.Response:
        async with (
            server.running(),
            httpx.AsyncClient(transport=Transport(ssl.create_default_context())) as http,
        ):
            return await post(http, server.url)

    monkeypatch.setenv("all_proxy", address)
    server = Server([OK])
    assert asyncio.run(met()).text == "ok"
    assert "all_proxy is not used" in caplog.text


@pytest.mark.parametrize("excepted", ["", "elsewhere.example, .example"])
def test_a_proxy_of_the_environment_is_asked_unless_it_is_excepted(
    monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    async def met() -> None:
        async with proxy.running():
            monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//us%40er:secret@"))
            monkeypatch.setenv("no_proxy", excepted)
            async with httpx.AsyncClient(transport=Transport(httpx.create_ssl_context())) as http:
                await post(http, "http://lybic.example/path")

    proxy = Server([OK])
    if excepted:
        with pytest.raises(httpx.ConnectError):
            asyncio.run(met())
        assert not proxy.requests
    else:
        asyncio.run(met())
        (request,) = proxy.requests
        assert request.startswith(b"POST http://lybic.example/path HTTP/1.1")
        assert b"Proxy-Authorization: Basic dXNAZXI6c2VjcmV0" in request
