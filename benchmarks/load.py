"""Clients at the API: connections that send one request after the other, as fast as they are answered."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


async def post_all(
    url: str, path: str, bodies: Callable[[int], dict[str, object]], *, count: int, connections: int
) -> list[float]:
    """Seconds that each request took. Raises `RuntimeError` for one that is refused."""
    numbers = iter(range(count))
    seconds: list[float] = []
    address = urlsplit(url)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for number in numbers:
            body = json.dumps(bodies(number)).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            began = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(answer)
            content = await reader.readexactly(int(length[1])) if length else b""
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(content.decode(errors="replace"))
            seconds.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return seconds
