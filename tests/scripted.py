"""A server on a free loopback port that answers as it is told: as broken servers and proxies do."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


@dataclass
class Request:
    """What came: the names of the headers are in small letters, the body was JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Script:
    """The answers, one after the other, of which the last is given again and again; and what came so far."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def sent(self, header: str) -> list[str | None]:
        return [request.headers.get(header) for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Whoever asked is in the last of the script's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer's body waits 40 ms for its head to be acknowledged
    script: Script

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):  # whoever asked has heard enough
            super().handle_one_request()

    def do_GET(self) -> None:
        self._take(None)

    def do_POST(self) -> None:
        self._take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _take(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.script.requests.append(Request(self.command, self.path, headers, body))
        answers = self.script.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def scripted() -> Iterator[Script]:
    """The server, while it runs."""
    script = Script("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"script": script}))
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(body: Any, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    """JSON, or a text as it is."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()

    def send(handler: Handler) -> None:
        handler.send_response(status)
        named = {"Content-Type": kind, "Content-Length": str(len(content)), **headers}
        for name, value in named.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return send


def refused(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    """An error of the API."""
    body = {
        "success": False,
        "error": {"code": code, "message": message, "details": {"field": "x"}},
        "detail": message,
        "request_id": "r-1",
    }
    return answer(body, status, **headers)


def hang_up(handler: Handler) -> None:
    """The request came through, and its answer is lost."""
    handler.close_connection = True


def stream(*pieces: bytes, hold: bool = False) -> Answer:
    """The pieces, one after the other; then the connection is closed, or held for long."""

    def send(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if hold:
            handler.connection.recv(1)  # until the client leaves
        handler.close_connection = True

    return send


def event(seq: int, kind: str = "thinking", **more: Any) -> bytes:
    """An event as it comes on a stream."""
    data = {"type": kind, "task_id": "t", "seq": seq, "timestamp": "2026-11-21T15:36:48.494Z", **more}
    return f"id: {seq}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
