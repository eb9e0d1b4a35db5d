"""What the stand-ins share: how they start and end, whom they let in, the faults they are asked to show."""

import argparse
import hmac
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Any, Literal, NoReturn, cast

import gevent
from flask import Flask, Response, abort, jsonify, request
from gevent.pywsgi import WSGIHandler, WSGIServer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import HTTPException

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def arguments(program: str, description: str) -> argparse.ArgumentParser:
    """The options that every stand-in has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        epilog="@FILE stands for the options in a file, one a line: keys that no process list is to show.",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument(
        "--api-key", action="append", required=True, metavar="K", help="a key that is let in; repeatable"
    )
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds added to a call")
    return parser


class _Handler(WSGIHandler):
    """Hands the application its own socket, so that it can lose an answer on purpose."""

    def handle(self) -> None:
        # An answer leaves in two pieces; without this the second waits 40 ms for an acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle()  # type: ignore[no-untyped-call]

    def get_environ(self) -> dict[str, Any]:
        environ = cast(dict[str, Any], super().get_environ())  # type: ignore[no-untyped-call]
        environ["standin.socket"] = self.socket
        return environ


def serve(app: Flask, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT, which end it at once, whatever requests are under way."""
    server = WSGIServer((host, port), app, backlog=1024, log=None, handler_class=_Handler)
    server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.stop, 0)
    name = f"[{host}]" if ":" in host else host
    print(f"listening on http://{name}:{server.server_port}", flush=True)
    server.serve_forever()


class Refused(Exception):
    """An answer other than success. `code` is stable, `message` is for people."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


def install_errors(app: Flask, body: Callable[[Refused], dict[str, Any]]) -> None:
    """Every error leaves as JSON of the shape that `body` gives it."""

    def refused(error: Refused) -> Response:
        answer = jsonify(body(error))
        answer.status_code = error.status
        if error.retry_after is not None:
            answer.headers["Retry-After"] = f"{error.retry_after:g}"
        return answer

    def http_error(error: HTTPException) -> Response:
        if error.response is not None:
            return cast(Response, error.response)
        return refused(
            Refused(error.code or 500, error.name.replace(" ", "_").upper(), str(error.description))
        )

    app.register_error_handler(Refused, refused)
    app.register_error_handler(HTTPException, http_error)


def pause(seconds: float) -> None:
    if seconds > 0:
        gevent.sleep(seconds)


def known_key(offered: str, keys: Iterable[str]) -> bool:
    return offered != "" and any(hmac.compare_digest(offered.encode(), key.encode()) for key in keys)


def offered_key() -> str:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    return request.headers.get("x-api-key") or bearer


def json_body() -> Any:
    """The request's body, whatever its Content-Type says."""
    try:
        return request.get_json(force=True)
    except (RecursionError, ValueError) as error:
        raise Refused(400, "BAD_REQUEST", "the body is not JSON") from error


def drop_connection() -> NoReturn:
    """Ends the request as a cut cable does: without an answer."""
    request.environ["standin.socket"].shutdown(socket.SHUT_RDWR)
    abort(Response(status=500))


class Fault(BaseModel):
    """One misbehaviour that a test asks for. Before: nothing was done. After: only the answer is lost."""

    model_config = ConfigDict(extra="forbid")

    on: str = Field("chat", description="The operation that it hits.")
    when: Literal["before", "after"] = "before"
    sandbox_id: str | None = Field(None, description="Only this sandbox.")
    match: str = Field("", description="Only a conversation that holds this text.")
    delay: float = Field(0, ge=0, description="Seconds to hang; what follows comes after them.")
    drop: bool = Field(default=False, description="Close the connection without an answer.")
    status: int | None = Field(None, ge=400, le=599)
    retry_after: float | None = Field(None, ge=0, description="Seconds, sent along with the status.")
    text: str | None = Field(None, description="The model says exactly this.")
    echo: bool = Field(
        default=False, description="Repeat the key of the request, in the error and for {key} in the text."
    )
    times: int = Field(1, ge=1)

    def fits(self, on: str, when: str, about: str) -> bool:
        if (self.on, self.when) != (on, when):
            return False
        return self.sandbox_id in (None, about) and self.match in about


class Faults:
    """The faults still to be shown, first asked first shown; `operations` are those that they can hit."""

    def __init__(self, *operations: str) -> None:
        self.operations = operations
        self.queue: list[Fault] = []

    def pending(self) -> dict[str, Any]:
        return {"faults": [fault.model_dump(exclude_defaults=True) for fault in self.queue]}

    def ask(self) -> dict[str, Any]:
        try:
            fault = Fault.model_validate(json_body())
        except ValidationError as error:
            raise Refused(400, "BAD_REQUEST", str(error)) from error
        if fault.on not in self.operations:
            raise Refused(400, "BAD_REQUEST", f"on: one of {', '.join(self.operations)}")
        self.queue.append(fault)
        return self.pending()

    def clear(self) -> dict[str, Any]:
        self.queue.clear()
        return self.pending()

    def strike(self, on: str, when: str, about: str) -> str | None:
        """Shows the first fault that fits; returns the text that the model is to say instead, if any."""
        fault = self._take(on, when, about)
        if fault is None:
            return None
        pause(fault.delay)
        if fault.drop:
            drop_connection()
        key = offered_key() if fault.echo else ""
        if fault.status is not None:
            message = f"a fault that a test asked for {key}".rstrip()
            raise Refused(fault.status, f"SIMULATED_FAULT{key}", message, fault.retry_after)
        return fault.text and fault.text.replace("{key}", key)

    def _take(self, on: str, when: str, about: str) -> Fault | None:
        fault = next((fault for fault in self.queue if fault.fits(on, when, about)), None)
        if fault is not None:
            fault.times -= 1
            self.queue = [fault for fault in self.queue if fault.times > 0]
        return fault


def loopback_only() -> None:
    """The test aids answer this machine alone."""
    if request.remote_addr not in LOOPBACK:
        raise Refused(403, "FORBIDDEN", "test aids answer the loopback address only")
