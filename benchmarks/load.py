"""Clients at the API, as cheap as can be, since they share the cores with it."""

import asyncio
import json
import re
import resource
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WRITTEN = re.compile(rb'"timestamp": "([^"]+)"')
CONNECTING_AT_ONCE = 50


def _request(url: str, path: str, body: dict[str, object] | None = None) -> bytes:
    head = f"Host: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
    if body is None:
        return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()
    content = json.dumps(body)
    return f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(content)}\r\n\r\n{content}".encode()


async def post_all(
    url: str, path: str, bodies: Callable[[int], dict[str, object]], *, count: int, connections: int
) -> list[float]:
    """Seconds that each request took, on connections that send one after the other.

    Raises `RuntimeError` for one that is refused.
    """
    numbers = iter(range(count))
    seconds: list[float] = []
    address = urlsplit(url)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for number in numbers:
            request = _request(url, path, bodies(number))
            began = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(answer)
            content = await reader.readexactly(int(length[1])) if length else b""
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(content.decode(errors="replace"))
            seconds.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return seconds


async def first_events(url: str, path: str, bodies: Sequence[dict[str, object]]) -> list[float]:
    """Seconds until the first event of each stream; the next is asked for when it has ended."""
    seconds = []
    for body in bodies:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        began = time.perf_counter()
        writer.write(_request(url, path, body))
        await reader.readuntil(b"data: ")
        seconds.append(time.perf_counter() - began)
        await reader.readuntil(b'"done": true')
        writer.close()
    return seconds


class Listener:
    """Many streams, each at a task of its own, and how late their events come."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lags: list[float] = []

    async def lags(self, task_ids: Sequence[str], seconds: float) -> list[float]:
        """Seconds from the writing of each event, shortly before its commit, to its arrival.

        Of the events that come within so many seconds after all streams have begun. Their timestamps are cut
        off to the millisecond.
        """
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        few = asyncio.Semaphore(CONNECTING_AT_ONCE)
        streams = await asyncio.gather(*(self._connect(task_id, few) for task_id in task_ids))
        self._lags.clear()
        await asyncio.sleep(seconds)
        for stream in streams:
            stream.close()
        return self._lags

    async def _connect(self, task_id: str, few: asyncio.Semaphore) -> asyncio.Transport:
        address, begun = urlsplit(self._url), asyncio.Event()
        async with few:
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: _Stream(self._lags, begun), address.hostname, address.port
            )
            transport.write(_request(self._url, f"/api/agent/task/{task_id}/events"))
            await begun.wait()
        return transport


class _Stream(asyncio.Protocol):
    def __init__(self, lags: list[float], begun: asyncio.Event) -> None:
        self._lags = lags
        self._begun = begun

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._begun.set()
        written = _WRITTEN.findall(data)
        self._lags += [now - datetime.fromisoformat(one.decode()).timestamp() for one in written]
