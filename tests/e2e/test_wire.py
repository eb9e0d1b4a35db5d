"""Bytes that no HTTP library would send: the server and the routes together never fail on them."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import System

MIB = 1024 * 1024
GOOD = b'{"instruction": "script> finished(content=\'ok\')"}'


def exchange(system: System, *sent: bytes) -> tuple[int, str, bytes]:
    """Status, head and body of the answer to just these bytes; status 0 if there is none."""
    url = urlsplit(system.stack.plan.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        try:
            for part in sent:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it had heard enough, and may have said why
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
    head, _, body = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, head.decode("latin-1"), body


def post(path: str, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", "")
    return "\r\n".join(lines).encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


SUBMIT = "/api/agent/task/submit"
CHUNKED = post(SUBMIT, "Transfer-Encoding: chunked")


def test_a_body_in_chunks(system: System) -> None:
    status, _, body = exchange(system, CHUNKED, *(chunk(bytes([byte])) for byte in GOOD), chunk(b""))
    assert (status, json.loads(body)["success"]) == (200, True)


@pytest.mark.parametrize(
    "sent",
    [
        (post(SUBMIT, f"Content-Length: {MIB + 1}"), b" " * (MIB + 1)),
        (post(SUBMIT, f"Content-Length: {10**15}", "Expect: 100-continue"),),
        (CHUNKED, chunk(GOOD.ljust(MIB + 1)), chunk(b"")),
        (CHUNKED, *[chunk(GOOD.ljust(MIB // 4))] * 5, chunk(b"")),
    ],
    ids=["at once", "announced", "in a chunk", "in chunks"],
)
def test_a_huge_body_is_refused_however_it_comes(system: System, sent: tuple[bytes, ...]) -> None:
    status, _, body = exchange(system, *sent)
    assert status == 413
    assert json.loads(body)["error"]["code"] == "request_entity_too_large"


def test_a_client_of_http_1_0_that_names_no_host(system: System) -> None:
    assert exchange(system, b"GET /api/health HTTP/1.0\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /api/agent/info HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/api/agent/info HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /api//health HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /api/agent/info HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        post(SUBMIT, "Origin: http://evil.example", f"Content-Length: {len(GOOD)}") + GOOD,
        post(SUBMIT, "Content-Length: 2", "Transfer-Encoding: chunked") + chunk(GOOD) + chunk(b""),
        post(SUBMIT, "Content-Length: 2", "Content-Length: 3") + GOOD,
        post(SUBMIT, "Content-Length: +2") + b"{}",
        post(SUBMIT, "Content-Length: 1000") + b"{}",
        post(SUBMIT, "Transfer-Encoding: gzip") + GOOD,
        CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"2\r\n{}",
        CHUNKED.replace(b"close", b"keep-alive") + b"2\r\n{}zz" + CHUNKED,
        post(SUBMIT, "X-Request-Id: a", " X-Evil: folded", "Content-Length: 0"),
        post(SUBMIT, "X-Request-Id: a\rX-Evil: 1", "Content-Length: 0"),
        post(SUBMIT, "X-Request-Id: a\nX-Evil: 1", "Content-Length: 0"),
        post(SUBMIT, "X-Request-Id: a\x00", "Content-Length: 0"),
        post(SUBMIT, "Idempotency-Key: \xff\xfe", f"Content-Length: {len(GOOD)}") + GOOD,
        post("/api/agent/task/status/\xff\xfe", "Content-Length: 0"),
        post("/api/agent/task/status/" + "a" * 10_000, "Content-Length: 0"),
        post("/api/agent/task/%00/resume", "Content-Length: 0"),
        post("/api/agent/task/%0d%0aX-Evil:%201/resume", "Content-Length: 0"),
        post(SUBMIT, *[f"X-{number}: a" for number in range(200)], "Content-Length: 0"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET\r\n\r\n",
        b"\x00" * 1000,
    ],
    ids=range(26),
)
def test_odd_bytes_are_refused_and_nothing_is_injected(system: System, sent: bytes) -> None:
    before = system.http.get("/api/agent/task/list").json()["total"]
    status, head, body = exchange(system, sent)
    assert status == 0 or 400 <= status < 500, head
    assert "X-Evil" not in head
    if "application/json" in head:
        assert json.loads(body)["error"]["code"]
    assert b"Traceback" not in body
    assert system.http.get("/api/agent/task/list").json()["total"] == before
