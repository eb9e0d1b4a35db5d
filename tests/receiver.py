"""A receiver of webhooks on a free loopback port, which answers as the last part of the URL's path says."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Message:
    """What came: the names of the headers are in small letters."""

    path: str
    headers: dict[str, str]
    body: bytes
    server_name: str | None

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str | bytes) -> dict[str, Any]:
        """The JSON in the body, if the signature is good."""
        return dict(Webhook(secret).verify(self.body, self.headers))


@dataclass
class Receiver:
    """Who it is, and what came so far."""

    url: str
    messages: list[Message] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    """How the next requests are answered, whatever their path says."""
    released: threading.Event = field(default_factory=threading.Event)
    """Until then those that hang do so."""

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]

    def at(self, path: str) -> list[Message]:
        return [message for message in self.messages if message.path == path]


class Handler(BaseHTTPRequestHandler):
    """`/204` answers with that status; the others are below."""

    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        name = getattr(self.connection, "sni", None)
        self.receiver.messages.append(Message(self.path, headers, body, name))
        how = self.receiver.plan.pop(0) if self.receiver.plan else urlsplit(self.path).path[1:]
        with suppress(OSError):  # whoever asked has heard enough
            getattr(self, f"answer_{how}", lambda: self.answer(int(how)))()
        self.close_connection = True

    def answer(self, status: int, *headers: str) -> None:
        lines = (f"HTTP/1.1 {status} So", "Content-Length: 0", *headers)
        self.wfile.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())

    def answer_hang(self) -> None:
        self.receiver.released.wait(30)

    def answer_close(self) -> None:
        """Says nothing."""

    def answer_nonsense(self) -> None:
        self.wfile.write(b"\x00 no HTTP at all\r\n\r\n")

    def answer_busy(self) -> None:
        self.answer(503, "Retry-After: 1800")

    def answer_echo(self) -> None:
        self.answer(
            500, f"X-You-Are: {self.path}", *(f"X-{name}: {value}" for name, value in self.headers.items())
        )

    def answer_redirect(self) -> None:
        self.answer(307, f"Location: {self.receiver.url}/204")

    def answer_drip(self) -> None:
        """A head without an end."""
        self.wfile.write(b"HTTP/1.1 204 So\r\n")
        while not self.receiver.released.wait(0.01):
            self.wfile.write(b"X: y\r\n")

    def answer_huge(self) -> None:
        """A good status, and a body without an end."""
        self.wfile.write(b"HTTP/1.1 200 So\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    def log_message(self, *_: object) -> None:
        """It would be printed."""


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver, until the end of the block."""
    handler = type("OneReceiversHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        tls.sni_callback = lambda connection, name, _: setattr(connection, "sni", name)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "https" if tls else "http"
    receiver = handler.receiver = Receiver(f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield receiver
    receiver.released.set()
    server.shutdown()
    thread.join()
    server.server_close()
