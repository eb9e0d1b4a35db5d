"""Lybic and the model in one small process: `python -m benchmarks.standin --think 0.2 --act 0.05`.

It looks at nothing and keeps nothing but counts, so that what is measured is ours. An instruction
`bench-10-ID` takes ten answers of the model, the last of which ends the task.
"""

import argparse
import asyncio
import json
import random
import re
from collections import Counter
from io import BytesIO

from PIL import Image

SANDBOX = "BENCH"
_HEAD = re.compile(rb"([A-Z]+) (\S+) HTTP")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ORDER = re.compile(rb"bench-(\d+)-([0-9a-z]+)")
SHAPE = {
    "name": "bench",
    "description": "",
    "hardwareAcceleratedEncoding": False,
    "pricePerHour": 0,
    "requiredFeatureFlag": "",
    "requiredPlanTier": 0,
    "os": "Windows",
    "virtualization": "KVM",
    "architecture": "x86_64",
}


class StandIn:
    """What is answered, and how often that was asked."""

    def __init__(self, think: float, act: float, spread: float) -> None:
        self.think, self.act, self.spread = think, act, spread
        self.url = ""
        self.counts: Counter[str] = Counter()
        self._answers: Counter[bytes] = Counter()
        picture = BytesIO()
        Image.new("RGB", (1280, 720), "white").save(picture, "webp")
        self._picture = picture.getvalue()

    async def answer(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, type and body."""
        if path.endswith("/chat/completions"):
            return await self._chat(body)
        if path.startswith("/screenshots/"):
            self.counts["screenshot"] += 1
            return 200, "image/webp", self._picture
        if path == "/counts":
            return _json(200, self.counts)
        return await self._lybic(method, path)

    async def _chat(self, body: bytes) -> tuple[int, str, bytes]:
        self.counts["chat"] += 1
        order = _ORDER.search(body)
        assert order, "no instruction of a benchmark"
        steps, name = int(order[1]), order[2]
        self._answers[name] += 1
        number = self._answers[name]
        call = f"click(point='<point>{number} 5</point>')" if number < steps else "finished(content='done')"
        if number == steps:
            del self._answers[name]
        await _pause(self.think * random.uniform(1 - self.spread, 1 + self.spread))  # noqa: S311
        said = {"role": "assistant", "content": f"Thought: step {number} of {steps}\nAction: {call}"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020}
        choice = {"index": 0, "finish_reason": "stop", "message": said}
        answer = {"id": "bench", "object": "chat.completion", "created": 0, "model": "bench"}
        return _json(200, {**answer, "choices": [choice], "usage": usage})

    async def _lybic(self, method: str, path: str) -> tuple[int, str, bytes]:
        last = path.rpartition("/")[2]
        self.counts[f"{method} {last if last in OPERATIONS else 'sandbox'}"] += 1
        if last in {"execute", "preview"}:
            await _pause(self.act)
            cursor = {"x": 0, "y": 0, "screenWidth": 1280, "screenHeight": 720, "screenIndex": 0}
            name = self.counts.total()
            return _json(200, {"screenShot": f"{self.url}/screenshots/{name}.webp", "cursorPosition": cursor})
        if (method, last) == ("GET", "sandboxes"):
            return _json(200, [])
        if last == "status":
            return _json(200, {"status": "RUNNING"})
        sandbox = {
            "id": f"{SANDBOX}-{self.counts.total()}" if method == "POST" else last,
            "name": "bench",
            "expiresAt": "2099-01-01T00:00:00Z",
            "createdAt": "2026-01-01T00:00:00Z",
            "projectId": "bench",
            "status": "PENDING" if method == "POST" else "RUNNING",
            "shapeName": "bench",
            "shape": SHAPE,
        }
        if method == "POST":
            return _json(201, sandbox)
        connection = {"certificateHashBase64": "", "endUserToken": "", "roomId": "", "gatewayAddresses": []}
        return _json(200, {"sandbox": sandbox, "connectDetails": connection})


OPERATIONS = {"execute", "preview", "status", "sandboxes", "extend"}


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)


def _json(status: int, value: object) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode()


async def serve(stand_in: StandIn, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            request = _HEAD.match(head)
            assert request
            status, kind, content = await stand_in.answer(request[1].decode(), request[2].decode(), body)
            lines = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write(lines.encode() + content)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Listens on a free port of the loopback address, and says so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--think", type=float, default=0.0, help="seconds for each answer of the model")
    parser.add_argument("--spread", type=float, default=0.0, help="as much of that more or less, by chance")
    parser.add_argument("--act", type=float, default=0.0, help="seconds for each action or look")
    options = parser.parse_args()
    stand_in = StandIn(options.think, options.act, options.spread)
    server = await asyncio.start_server(lambda r, w: serve(stand_in, r, w), "127.0.0.1", 0, limit=1 << 26)
    stand_in.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(f"listening on {stand_in.url}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
