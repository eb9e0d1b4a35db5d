"""Thousands of streams on one process of the API: real sockets, read only as the test wants it."""

import http.client
import json
import os
import resource
import selectors
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis

from local.demo import isolated
from local.processes import Child, Program, answers_200, free_port
from local.stack import authority
from shared import events, jobs, writes
from shared.db import Database
from shared.schemas import NewJob
from shared.secrets import Vault
from shared.settings import Settings
from shared.wakes import Waker, channel, connect
from shared.writes import Lease
from tests.conftest import wait_until

STREAMS = 2000
JOBS = 20
EVENTS = 5
UNANSWERED = 100
"""So many requests at once are answered long before they would be refused for want of a connection."""
FILES = STREAMS + 1000
USUAL_SOFT_LIMIT = 1024


class Client:
    """One stream, read by hand."""

    def __init__(self, host: str, port: int, job_id: UUID, after: int = 0, receive_bytes: int = 0) -> None:
        self.job_id = job_id
        self.answered = self.gone = False
        self.numbers: list[int] = []
        self.signs_of_life = 0
        self._rest = b""
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect((host, port))
        # HTTP/1.0: the answer is the bare stream, without chunks.
        path = f"/api/agent/task/{job_id}/events?after={after}"
        self.socket.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self.socket.setblocking(False)

    def take(self) -> None:
        """Reads what is there."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.gone = not data
        self._rest += data
        if not self.answered and b"\r\n\r\n" in self._rest:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            assert b" 200 OK\r\n" in head, head
            self.answered = True
        *whole, self._rest = self._rest.split(b"\n\n")
        for frame in whole:
            self._hear(frame)

    def leave(self, *, rudely: bool) -> None:
        """Closes the connection, with a farewell or with a reset."""
        if rudely:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _hear(self, frame: bytes) -> None:
        if frame == b": keep-alive":
            self.signs_of_life += 1
            return
        head, _, data = frame.partition(b"\ndata: ")
        event = json.loads(data)
        assert head == b"id: %d" % event["seq"]
        assert event["task_id"] == str(self.job_id)
        self.numbers.append(event["seq"])


class Crowd:
    """Clients that are read whenever one looks."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self._selector = selectors.DefaultSelector()

    def add(self, client: Client) -> None:
        self.clients.append(client)
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def all(self, condition: Callable[[Client], bool]) -> bool:
        """Whether it holds for each client, after reading what is there."""
        for key, _ in self._selector.select(0.05):
            key.data.take()
            if key.data.gone:
                self._selector.unregister(key.fileobj)
        return all(condition(client) for client in self.clients)

    def close(self) -> None:
        self._selector.close()
        for client in self.clients:
            client.socket.close()


class Api:
    """An API of its own: gunicorn as it is started in earnest."""

    def __init__(self, child: Child, host: str, port: int) -> None:
        self.child = child
        self.host = host
        self.port = port

    @property
    def log(self) -> str:
        return self.child.log.read_text()

    def get(self, path: str) -> int:
        """The status of a short request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def stream(self, job_id: UUID, after: int = 0, receive_bytes: int = 0) -> Client:
        return Client(self.host, self.port, job_id, after, receive_bytes)


class Work:
    """What workers would do to jobs."""

    def __init__(self, settings: Settings, db: Database, vault: Vault, new_job: NewJob) -> None:
        self.redis: Redis = connect(settings.redis)
        self._db = db
        self._waker = Waker(self.redis)
        self._new = new_job
        self._sealed = vault.seal(new_job.credentials)

    def start(self) -> Lease:
        """A job that runs: it has two events."""
        with self._db.transaction() as session:
            (submitted,) = jobs.submit(session, [(self._new, self._sealed)])
            job = jobs.claim(session, submitted.job_id, owner="test", lease_seconds=600)
        assert job is not None
        return Lease(job.id, job.run, "test")

    def tell(self, lease: Lease, *texts: str) -> None:
        with self._db.transaction() as session:
            writes.carry_out(session, writes.change(lease, [events.result(text, 1) for text in texts]))
        self._waker.wake(lease.job_id)

    def finish(self, lease: Lease) -> None:
        with self._db.transaction() as session:
            writes.carry_out(session, writes.finished(lease, "done"))
        self._waker.wake(lease.job_id)

    def followers(self, *leases: Lease) -> list[int]:
        """How many connections to Redis listen for each job: those of the API's processes."""
        channels = [channel(lease.job_id) for lease in leases]
        return [count for _, count in self.redis.pubsub_numsub(*channels)]


@pytest.fixture
def work(settings: Settings, db: Database, vault: Vault, new_job: NewJob) -> Work:
    return Work(settings, db, vault, new_job)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd()
    yield made
    made.close()


Start = Callable[..., Api]


@pytest.fixture
def start_api(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts an API on this test's database, with further settings."""
    children = []

    def start(host: str = "127.0.0.1", **more: str) -> Api:
        port = free_port(host)
        assert settings.storage.url is not None
        environment = {
            **isolated(os.environ),
            "POSTGRES_CONNECTION_STRING": settings.storage.url.get_secret_value(),
            "REDIS_URL": settings.redis.url.get_secret_value(),
            "CREDENTIALS_KEYS": settings.storage.credentials_keys[0].get_secret_value(),
            "API_HOST": host,
            "API_PORT": str(port),
            "TMPDIR": str(tmp_path),
            "WEB_CONCURRENCY": "1",
            **more,
        }
        argv = [sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_conf", "api.wsgi:app"]
        log = tmp_path / "api.log"
        child = Child(Program(name="api", argv=argv, log=log, environment=environment, cwd=tmp_path))
        children.append(child)
        child.wait_until(answers_200(f"http://{authority(host, port)}/api/health"), 60)
        return Api(child, host, port)

    yield start
    for child in children:
        child.kill()  # gracefully it would wait for streams


@contextmanager
def soft_limit(files: int) -> Iterator[None]:
    """So many files may be open at once in this process, and in children that it starts meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < files:
        pytest.skip(f"only {hard} files may be open at once, and this takes {files}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.long
def test_one_process_holds_thousands_of_streams_beside_short_requests(
    start_api: Start, work: Work, crowd: Crowd
) -> None:
    with soft_limit(USUAL_SOFT_LIMIT):  # the API raises it by itself
        api = start_api(SSE_KEEP_ALIVE_SECONDS="2")
    leases = [work.start() for _ in range(JOBS)]
    with soft_limit(FILES):
        for number in range(STREAMS):
            crowd.add(api.stream(leases[number % JOBS].job_id))
            if number % UNANSWERED == UNANSWERED - 1:
                wait_until(lambda: crowd.all(lambda client: client.answered), seconds=60)
        wait_until(lambda: crowd.all(lambda client: client.numbers == [1, 2]), seconds=60)

        # One connection for all streams of a job…
        wait_until(lambda: work.followers(*leases) == [1] * JOBS)
        listening = work.redis.client_list(_type="pubsub")
        assert len([one for one in listening if int(one["sub"]) > JOBS]) == 1  # …and of all jobs

        for number in range(EVENTS):
            for lease in leases:
                work.tell(lease, f"event {number}")
            crowd.all(lambda client: True)
            assert api.get("/api/health") == 200
            assert api.get(f"/api/agent/task/status/{leases[number].job_id}") == 200
        last = 2 + EVENTS
        wait_until(lambda: crowd.all(lambda client: client.numbers[-1] == last), seconds=60)
        wait_until(lambda: crowd.all(lambda client: client.signs_of_life > 0), seconds=60)

        ended = leases[: JOBS // 2]
        for lease in ended:
            work.finish(lease)
        over = {lease.job_id for lease in ended}
        wait_until(lambda: crowd.all(lambda client: client.gone == (client.job_id in over)), seconds=60)
        for client in crowd.clients:
            assert client.numbers == list(range(1, last + (2 if client.job_id in over else 1)))
        wait_until(lambda: not any(work.followers(*ended)))
        assert work.followers(*leases[JOBS // 2 :]) == [1] * (JOBS - len(ended))

        for number, client in enumerate(crowd.clients):
            client.leave(rudely=number % 2 == 0)
        wait_until(lambda: not any(work.followers(*leases)), seconds=60)
        assert api.get("/api/health") == 200
    assert "Traceback" not in api.log


@pytest.mark.long
def test_a_client_that_does_not_read_is_cut_and_goes_on_where_it_was(
    start_api: Start, work: Work, crowd: Crowd
) -> None:
    api = start_api(SSE_KEEP_ALIVE_SECONDS="1", SSE_SEND_SECONDS="1")
    lease = work.start()
    work.tell(lease, *("x" * 100_000 for _ in range(40)))
    stalled = api.stream(lease.job_id, receive_bytes=4096)
    crowd.add(stalled)
    wait_until(lambda: work.followers(lease) == [1])
    wait_until(lambda: work.followers(lease) == [0])  # its stream was freed, though it never left
    wait_until(lambda: crowd.all(lambda client: client.gone))
    assert stalled.numbers == list(range(1, len(stalled.numbers) + 1))
    assert 0 < len(stalled.numbers) < 42
    work.finish(lease)
    numbers = [*stalled.numbers]

    def come_back() -> bool:  # more than once, should this process be kept from reading for a second
        crowd.add(again := api.stream(lease.job_id, after=len(numbers)))
        wait_until(lambda: crowd.all(lambda client: client.gone))
        numbers.extend(again.numbers)
        return len(numbers) >= 43

    wait_until(come_back)
    assert numbers == list(range(1, 44))
    assert "Traceback" not in api.log


@pytest.mark.long
def test_a_client_that_sends_half_a_request_is_not_waited_for(start_api: Start) -> None:
    api = start_api(SSE_SEND_SECONDS="1")
    with socket.create_connection((api.host, api.port), timeout=30) as client:
        head = "POST /api/agent/task/submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f'{head}Content-Length: 100\r\n\r\n{{"instruction": '.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in api.log


@pytest.mark.long
def test_several_processes_serve_one_address(start_api: Start, work: Work, crowd: Crowd) -> None:
    host = "::1" if _has_ipv6() else "127.0.0.1"
    api = start_api(host, WEB_CONCURRENCY="2")
    lease = work.start()

    def both_listen() -> bool:
        crowd.add(api.stream(lease.job_id))
        wait_until(lambda: crowd.all(lambda client: client.numbers == [1, 2]))
        return work.followers(lease) == [2]

    wait_until(both_listen, seconds=60)
    work.tell(lease, "to all")
    work.finish(lease)
    wait_until(lambda: crowd.all(lambda client: client.gone))
    assert all(client.numbers == [1, 2, 3, 4] for client in crowd.clients)


def test_unusable_settings_are_told_in_one_line(start_api: Start, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="exit code 1"):
        start_api(SSE_SEND_SECONDS="-1")
    (line,) = (tmp_path / "api.log").read_text().splitlines()
    assert "SSE_SEND_SECONDS" in line


def _has_ipv6() -> bool:
    with suppress(OSError):
        free_port("::1")
        return True
    return False
