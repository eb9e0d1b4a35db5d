"""The clients: they submit scripted jobs, follow streams that break, cancel; and those who listen in."""

import json
import random
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg

from tests.chaos.arena import Arena
from tests.chaos.invariants import TERMINAL, AnsweredCancel, Evidence, Heard, Report, Takeover, check
from tests.conftest import wait_until
from tests.receiver import receiving

WORDS = "these words are for the model alone"
PAUSE_SECONDS = 0.1
READ_SECONDS = 20
"""Longer than a stream may be silent."""
LANES = 1000


class Stream(threading.Thread):
    """A client that holds a stream and comes back with `Last-Event-ID` whenever it breaks, until its end."""

    def __init__(
        self, url: str, *, job_id: str | None = None, body: dict[str, Any] | None = None, patience: int = 0
    ) -> None:
        super().__init__(daemon=True)
        self.job_id = job_id
        self.connections = 0
        self.refused = False
        """The request was answered with an error, or its answer was lost before the first event."""
        self._url = url
        self.body = body
        self._patience = patience
        self._events: list[tuple[int, str]] = []
        self._ended = threading.Event()
        self._left = threading.Event()
        self.start()

    @property
    def heard(self) -> Heard:
        """What came so far."""
        return Heard(self.job_id, tuple(self._events), self.connections)

    @property
    def last(self) -> int:
        """The number of the last event that came."""
        return self._events[-1][0] if self._events else 0

    def leave(self) -> None:
        """The client goes away for good."""
        self._left.set()

    def run(self) -> None:
        timeout = httpx.Timeout(READ_SECONDS, connect=5)
        with httpx.Client(base_url=self._url, trust_env=False, timeout=timeout) as http:
            while not (self._ended.is_set() or self._left.is_set()):
                try:
                    self._connect(http)
                except httpx.HTTPError:
                    if self.job_id is None:
                        self.refused = True
                        return
                self._left.wait(PAUSE_SECONDS)

    def _connect(self, http: httpx.Client) -> None:
        if self.job_id is None:
            request = http.stream("POST", "/api/agent/run", json=self.body)
        else:
            headers = {"Last-Event-ID": str(self.last)}
            request = http.stream("GET", f"/api/agent/task/{self.job_id}/events", headers=headers)
        with request as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:
                self._ended.set()
            if answer.raise_for_status().status_code == httpx.codes.OK:
                self.connections += 1
                self._read(answer)

    def _read(self, answer: httpx.Response) -> None:
        number = 0
        for count, line in enumerate(answer.iter_lines()):
            if line.startswith("id: "):
                number = int(line.removeprefix("id: "))
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                self.job_id = event["task_id"]
                self._events.append((number, event["type"]))
                if event["type"] in TERMINAL.values():
                    self._ended.set()
            if self._left.is_set() or (self._patience and count >= 3 * self._patience):
                return  # as a client does whose network went away


class Listener(ABC):
    """Something that goes on beside the scenario, in a thread of its own, until it is closed."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._closed.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except (OSError, psycopg.Error):  # whatever it listens to is away
                self._closed.wait(PAUSE_SECONDS)

    @abstractmethod
    def _listen(self) -> None:
        """Listens until it is closed, or until whatever it listens to is away."""


class Repeated(Listener):
    """Does the same again and again, as long as the block lasts."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        super().__init__()

    def __enter__(self) -> None:
        """It has begun."""

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _listen(self) -> None:
        while not self._closed.is_set():
            self._act()


class Watcher(Listener):
    """Samples every job's status and counts on the way: what is over stays so, and no count sinks."""

    QUERY = "SELECT id::text, status, run, event_count, step_count, crashes FROM jobs"
    EVERY_SECONDS = 0.05

    def __init__(self, database: str) -> None:
        self.violations: list[str] = []
        self.samples = 0
        self._database = database
        self._known: dict[str, tuple[Any, ...]] = {}
        super().__init__()

    def _listen(self) -> None:
        with psycopg.connect(self._database, autocommit=True, connect_timeout=2) as connection:
            while not self._closed.wait(self.EVERY_SECONDS):
                for job_id, *now in connection.execute(self.QUERY):
                    self._compare(job_id, tuple(now))
                self.samples += 1

    def _compare(self, job_id: str, now: tuple[Any, ...]) -> None:
        before = self._known.setdefault(job_id, now)
        changed = before[0] in TERMINAL and now != before
        sank = any(new < old for new, old in zip(now[1:], before[1:], strict=True))
        if changed or sank:
            self.violations.append(f"{job_id} went from {before} to {now}")
        self._known[job_id] = now


class Eavesdropper(Listener):
    """Hears every command that Redis gets, and looks for words in them."""

    CHUNK = 65_536

    def __init__(self, redis: str, words: Mapping[str, str]) -> None:
        self.found: set[str] = set()
        self.heard = 0
        self._parts = urlsplit(redis)
        self._words = {name: word.encode() for name, word in words.items()}
        self._longest = max(map(len, self._words.values()))
        super().__init__()

    def _listen(self) -> None:
        address = (self._parts.hostname, self._parts.port)
        with socket.create_connection(address, timeout=1) as connection:
            connection.sendall(f"AUTH {self._parts.password}\r\nMONITOR\r\n".encode())
            rest = b""
            while not self._closed.is_set():
                try:
                    chunk = connection.recv(self.CHUNK)
                except TimeoutError:
                    continue
                if not chunk:
                    raise OSError("closed")
                self.heard += len(chunk)
                self.found |= {name for name, word in self._words.items() if word in rest + chunk}
                rest = (rest + chunk)[-self._longest :]


class Clients:
    """All who use the system in one scenario, and what they noted."""

    _lanes = 0

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.accepted: list[str] = []
        self.streams: list[Stream] = []
        self.cancels: list[AnsweredCancel] = []
        self.takeovers: list[Takeover] = []
        self.notes: list[str] = []
        """When what was done to whom, for whoever has to find out why."""
        self.retried = 0
        self._shared: list[str] = []
        self._ends = ExitStack()
        self.receiver = self._ends.enter_context(receiving())
        self._http = httpx.Client(base_url=arena.url, trust_env=False, timeout=30)
        self._watcher = Watcher(arena.postgres.url)
        self._eavesdropper = Eavesdropper(arena.valkey.url, {**arena.secrets, "an instruction": WORDS})
        self._older = frozenset(self._sandboxes())

    def close(self) -> None:
        """They all go away."""
        for stream in self.streams:
            stream.leave()
        self._watcher.close()
        self._eavesdropper.close()
        self._http.close()
        self._ends.close()

    # --- asking

    def body(self, steps: int = 8, *, sandbox: str | None = None, first: str = "") -> dict[str, Any]:
        """A request for a job of so many steps, each with a coordinate of its own."""
        Clients._lanes = Clients._lanes % (LANES - 1) + 1
        click = f"script> repeat {steps} click(point='<point>{{i}} {Clients._lanes}</point>')"
        lines = [WORDS, *([f"script> {first}"] if first else []), click]
        named = {"sandbox_id": sandbox} if sandbox else {}
        secret = self.arena.secrets["the secret of the webhooks"]
        told = {"webhook_url": f"{self.receiver.url}/204", "webhook_secret": secret}
        return {"instruction": "\n".join(lines), "max_steps": 500, **named, **told, **self.arena.credentials}

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """One request, answered or not."""
        return self._http.post(path, json=body)

    def submit(self, steps: int = 8, *, sandbox: str | None = None, first: str = "") -> str:
        """One job, accepted at the first attempt."""
        answer = self.post("/api/agent/task/submit", self.body(steps, sandbox=sandbox, first=first))
        assert answer.status_code == httpx.codes.OK, answer.text
        self.accepted.append(answer.json()["task_id"])
        return self.accepted[-1]

    def submit_many(self, count: int, steps: int = 8) -> list[str]:
        """Several jobs."""
        return [self.submit(steps) for _ in range(count)]

    def insist(self, body: Callable[[], dict[str, Any]]) -> str:
        """One job, asked for until it is accepted; each time as a new one, for nobody knows of the last."""

        def attempt() -> str | None:
            try:
                answer = self.post("/api/agent/task/submit", body())
            except httpx.TransportError:
                return None
            return str(answer.json()["task_id"]) if answer.status_code == httpx.codes.OK else None

        while (job_id := attempt()) is None:
            self.retried += 1
            time.sleep(PAUSE_SECONDS)
        self.accepted.append(job_id)
        return job_id

    def run(self, steps: int = 8, *, patience: int = 0) -> Stream:
        """One job through `/run`, whose stream is followed to its end."""
        self.streams.append(Stream(self.arena.url, body=self.body(steps), patience=patience))
        return self.streams[-1]

    def follow(self, job_id: str, *, patience: int = 0) -> Stream:
        """One more client of a job. `patience`: it leaves after so many events and comes back."""
        self.streams.append(Stream(self.arena.url, job_id=job_id, patience=patience))
        return self.streams[-1]

    def cancel(self, job_id: str) -> AnsweredCancel | None:
        """Asks for the end of a job; None if the API did not answer."""
        try:
            answer = self.post("/api/agent/cancel", {"task_id": job_id})
        except httpx.TransportError:
            return None
        if answer.status_code != httpx.codes.OK:
            return None
        self.cancels.append(AnsweredCancel(job_id, answer.json()["status"], datetime.now(UTC)))
        return self.cancels[-1]

    def take_over(self, job_id: str, seconds: float) -> None:
        """Has a job for so long, and lets it go on; unless it ends before."""
        status = self._insist(job_id, "takeover")
        since = datetime.now(UTC)
        if status is None:
            return
        time.sleep(seconds)
        if status == "human_intervention":
            self.takeovers.append(Takeover(job_id, since, datetime.now(UTC)))
        while self._insist(job_id, "resume") is None and job_id in self.unfinished():
            time.sleep(PAUSE_SECONDS)  # its run is about to stop, or another is to find that it should

    def _insist(self, job_id: str, what: str) -> str | None:
        """The job's status by the API's answer; None if its state forbids this."""
        while True:
            with suppress(httpx.TransportError):
                answer = self.post(f"/api/agent/task/{job_id}/{what}", {})
                if answer.status_code == httpx.codes.OK:
                    return str(answer.json()["status"])
                if answer.status_code == httpx.codes.CONFLICT:
                    return None
            time.sleep(PAUSE_SECONDS)

    def make_sandbox(self) -> str:
        """A sandbox for several jobs."""
        body = {"authentication": self.arena.credentials["authentication"]}
        return str(self.post("/api/sandbox/create", body).raise_for_status().json()["sandbox_id"])

    def open_sandboxes(self, count: int) -> None:
        """Sandboxes that many clients name."""
        self._shared += [self.make_sandbox() for _ in range(count)]

    def some_sandbox(self, generator: random.Random) -> str | None:
        """One of those, or none: then the job gets its own."""
        return generator.choice([*self._shared, *(None for _ in self._shared)])

    # --- looking

    @property
    def submitted(self) -> int:
        """How many jobs are known to be accepted."""
        return len(self.known)

    @property
    def known(self) -> list[str]:
        """The jobs that were accepted as far as the clients know."""
        return [*self.accepted, *(one.job_id for one in self.streams if one.body and one.job_id)]

    def expired(self, job_id: str) -> bool:
        """Whether nobody holds the job any more."""
        lives = "SELECT coalesce(lease_expires_at > clock_timestamp(), false) FROM jobs WHERE id = %s"
        return not self.arena.query(lives, job_id)[0][0]

    def _sandboxes(self) -> list[str]:
        url = f"{self.arena.witness}/simulated/sandboxes"
        return list(httpx.get(url, trust_env=False).json()["sandboxes"])

    def status(self, job_id: str) -> str:
        """By the database's account."""
        return str(self._column("status", job_id))

    def steps(self, job_id: str) -> int:
        """How many steps the job has had."""
        return int(self._column("step_count", job_id))

    def runs(self, job_id: str) -> int:
        """How many runs the job has had."""
        return int(self._column("run", job_id))

    def _column(self, name: str, job_id: str) -> Any:
        found = self.arena.query(f"SELECT {name} FROM jobs WHERE id = %s", job_id)
        return found[0][0]

    def wait_for_steps(self, job_id: str, count: int = 1) -> None:
        """Returns when the job has had so many steps."""
        wait_until(lambda: self.steps(job_id) >= count, 30)

    def wait_for_run(self, job_id: str, number: int) -> None:
        """Returns when the job is in that run, or in a later one."""
        wait_until(lambda: self.runs(job_id) >= number, 30)

    def done(self, job_id: str) -> int:
        """How many actions were really carried out for the job by now."""
        sandbox = self._column("sandbox_id", job_id)
        if sandbox is None:
            return 0
        url = f"{self.arena.witness}/simulated/sandboxes/{sandbox}/actions"
        return int(httpx.get(url, trust_env=False).json()["count"])

    def unfinished(self) -> list[str]:
        """The jobs that have not ended."""
        return [row[0] for row in self.arena.query("SELECT id::text FROM jobs WHERE finished_at IS NULL")]

    def wait_until_all_ended(self, seconds: float = 60) -> None:
        """Returns when every job has ended and every client and receiver has heard so."""
        wait_until(lambda: not self.unfinished(), seconds)
        wait_until(lambda: not self.arena.query("SELECT 1 FROM deliveries WHERE state = 'pending'"), 30)
        wait_until(lambda: not any(stream.is_alive() for stream in self.streams), 30)

    def verdict(self) -> Report:
        """What the one checker says of it all."""
        arena = self.arena
        return check(
            Evidence(
                database=arena.postgres.url,
                witness=arena.witness,
                redis=arena.valkey.url,
                logs=arena.logs,
                secrets=arena.secrets,
                words=WORDS,
                accepted=tuple(self.known),
                heard=[stream.heard for stream in self.streams if not stream.refused],
                cancels=tuple(self.cancels),
                takeovers=tuple(self.takeovers),
                watched=tuple(self._watcher.violations),
                overheard=sorted(self._eavesdropper.found),
                delivered=frozenset(self.receiver.ids),
                older_sandboxes=self._older,
            )
        )
