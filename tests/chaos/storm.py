"""The storm: random faults from a seed, each healed after a while; and the flood of jobs meanwhile."""

import heapq
import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from local.processes import Child
from tests.chaos.arena import Arena, Worker
from tests.chaos.clients import Clients, Stream

TICK_SECONDS = 0.05
LONG_LEASE_SECONDS = 5.0
LONG_OUTAGE_SECONDS = 20.0
"""Where leases are as long as in earnest, outages are, too."""
STEPS = (4, 16)


@dataclass(frozen=True)
class Kill:
    """A worker that was killed: when, and which runs it had."""

    at: float
    held: dict[str, int]


@dataclass(frozen=True)
class Recovery:
    """A run that died with its worker: how long until the job's next claim, whether PostgreSQL was there."""

    seconds: float
    undisturbed: bool


class Storm:
    """Does harm. It is called from the main thread, which all children belong to."""

    def __init__(self, arena: Arena, clients: Clients, *, seed: int, every: float) -> None:
        self.faults: Counter[str] = Counter()
        self.kills: list[Kill] = []
        self.outages: list[tuple[float, float]] = []
        """From when to when PostgreSQL was away."""
        self._arena = arena
        self._clients = clients
        self._every = every
        self._generator = random.Random(seed)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._down: set[str] = set()
        """What is broken already, and is to be healed before it is broken again."""
        lease = arena.conditions.lease_seconds
        outage = LONG_OUTAGE_SECONDS if lease >= LONG_LEASE_SECONDS else lease * 1.25
        self._harms: dict[str, tuple[int, Callable[[], bool]]] = {
            "worker SIGKILL": (6, self._kill_worker),
            "worker SIGSTOP past its lease": (3, lambda: self._freeze_worker(lease + self._between(0.5, 2))),
            "worker SIGSTOP within its lease": (1, lambda: self._freeze_worker(lease / 3)),
            "worker SIGTERM": (3, lambda: self._terminate_worker(1)),
            "worker SIGTERM twice": (1, lambda: self._terminate_worker(2)),
            "Redis SIGKILL": (2, self._kill_redis),
            "Redis SIGSTOP": (2, self._freeze_redis),
            "Redis FLUSHALL": (2, self._flush_redis),
            "messages doubled": (2, self._double_messages),
            "PostgreSQL SIGKILL": (2, lambda: self._kill_postgres(0)),
            "PostgreSQL away for longer than a lease": (1, lambda: self._kill_postgres(outage)),
            "API SIGKILL": (3, self._kill_api),
            "answers of sandboxes lost": (2, self._lose_answers),
            "sandboxes slow": (1, self._slow_sandboxes),
            "model fails": (2, self._fail_model),
        }

    def rage_until(self, calm: Callable[[], bool], seconds: float = 600) -> None:
        """One fault after the other until the condition holds; then all that is still to be healed is."""
        deadline = time.monotonic() + seconds
        due = time.monotonic()
        while not calm():
            assert time.monotonic() < deadline, f"not calm after {seconds} s"
            self._heal()
            if time.monotonic() >= due:
                self._harm()
                due += self._every
            time.sleep(TICK_SECONDS)
        while self._later:
            heapq.heappop(self._later)[2]()
            time.sleep(TICK_SECONDS)

    def _harm(self) -> None:
        """The first fault of a random order that can be done now."""
        names = list(self._harms)
        weights = [self._harms[name][0] for name in names]
        for name in self._generator.choices(names, weights, k=20):
            self._note(name)
            if self._harms[name][1]():
                self.faults[name] += 1
                return

    def _heal(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), what))

    def _between(self, least: float, most: float) -> float:
        return self._generator.uniform(least, most)

    def _break(self, name: str, seconds: float, heal: Callable[[], None]) -> None:
        """Notes that something is broken, and when it will be healed."""

        def healed() -> None:
            self._down.discard(name)
            heal()

        self._down.add(name)
        self._after(seconds, healed)
        self._note(f"  {name} is down for {seconds:.2f} s")

    def _note(self, what: str) -> None:
        self._clients.notes.append(f"{datetime.now(UTC):%H:%M:%S.%f} {what}")

    # --- workers

    def _some_worker(self) -> Worker | None:
        whole = [worker for worker in self._arena.workers if worker.usual.name not in self._down]
        # One is left alone, so that there is somebody to take over; who it is changes.
        return self._generator.choice(whole) if len(whole) > 1 else None

    def _kill_worker(self) -> bool:
        worker = self._some_worker()
        if worker is None:
            return False
        self._arena.kill(worker.child)
        at, held = time.time(), dict[str, int]()
        with suppress(psycopg.Error):
            held = self._arena.held_by(worker)
        self.kills.append(Kill(at, held))
        self._note(f"  {worker.usual.name} had {held}")
        self._break(worker.usual.name, self._between(0, 1), worker.start_again)
        return True

    def _freeze_worker(self, seconds: float) -> bool:
        worker = self._some_worker()
        if worker is None:
            return False
        child = worker.child
        self._arena.freeze(child)
        self._break(worker.usual.name, seconds, lambda: self._arena.thaw(child))
        return True

    def _terminate_worker(self, times: int) -> bool:
        worker = self._some_worker()
        if worker is None:
            return False
        child = worker.child
        child.send(signal.SIGTERM)
        for number in range(1, times):
            self._after(0.3 * number, lambda: child.send(signal.SIGTERM))
        self._break(worker.usual.name, 0.5, lambda: self._replace(worker, child))
        return True

    def _replace(self, worker: Worker, child: Child) -> None:
        if child.exit_code is None:  # it is not done yet
            self._break(worker.usual.name, 0.5, lambda: self._replace(worker, child))
        else:
            worker.start_again()

    # --- Redis and PostgreSQL

    def _kill_redis(self) -> bool:
        if "Redis" in self._down:
            return False
        self._arena.valkey.kill()
        self._break("Redis", self._between(0.5, 4), self._arena.valkey.start)
        return True

    def _freeze_redis(self) -> bool:
        if "Redis" in self._down:
            return False
        child = self._arena.valkey.child
        self._arena.freeze(child)
        self._break("Redis", self._between(1, 5), lambda: self._arena.thaw(child))
        return True

    def _flush_redis(self) -> bool:
        if "Redis" in self._down:
            return False
        self._arena.lose_redis_contents()
        return True

    def _double_messages(self) -> bool:
        if self._down & {"Redis", "PostgreSQL"}:
            return False
        self._arena.dispatch(self._clients.unfinished(), times=3)
        return True

    def _kill_postgres(self, seconds: float) -> bool:
        if "PostgreSQL" in self._down:
            return False
        began = time.time()
        self._arena.postgres.kill()

        def heal() -> None:
            self._arena.postgres.start()
            self.outages.append((began, time.time()))

        self._break("PostgreSQL", seconds + self._between(0, 1), heal)
        return True

    # --- the rest

    def _kill_api(self) -> bool:
        if "API" in self._down:
            return False
        self._arena.kill(self._arena.api.child)
        self._break("API", self._between(0, 1), self._arena.api.start_again)
        return True

    def _lose_answers(self) -> bool:
        self._arena.ask_for_fault("sandbox", on="execute", when="after", drop=True, times=3)
        return True

    def _slow_sandboxes(self) -> bool:
        self._arena.ask_for_fault("sandbox", on="execute", delay=self._between(0.2, 1), times=20)
        return True

    def _fail_model(self) -> bool:
        self._arena.ask_for_fault("model", on="chat", status=500, times=5)
        return True


class Visitor(threading.Thread):
    """One client who asks for one job after the other, each in one of the ways in which clients do."""

    def __init__(self, clients: Clients, generator: random.Random, jobs: int, pause: float) -> None:
        super().__init__(daemon=True)
        self._clients = clients
        self._generator = generator
        self._jobs = jobs
        self._pause = pause
        self.start()

    def run(self) -> None:
        for _ in range(self._jobs):
            time.sleep(self._pause * self._generator.uniform(0, 2))
            self._generator.choice(
                [
                    *(self._run, self._follow, self._cancel, self._take_over),
                    *(self._leave_alone, self._leave_alone),
                ]
            )()

    def _steps(self) -> int:
        return self._generator.randint(*STEPS)

    def _submit(self, sandbox: str | None = None) -> str:
        steps = self._steps()
        return self._clients.insist(lambda: self._clients.body(steps, sandbox=sandbox))

    def _leave_alone(self) -> None:
        self._submit(self._clients.some_sandbox(self._generator))

    def _follow(self) -> None:
        self._clients.follow(self._submit(), patience=self._generator.choice([0, 5, 20]))

    def _run(self) -> None:
        while not self._known(self._clients.run(self._steps(), patience=self._generator.choice([0, 0, 10]))):
            time.sleep(0.2)

    def _known(self, stream: Stream) -> bool:
        """Whether the request was accepted, as far as the client can tell."""
        while stream.job_id is None and not stream.refused:
            time.sleep(TICK_SECONDS)
        return stream.job_id is not None

    def _cancel(self) -> None:
        job_id = self._submit()
        time.sleep(self._generator.uniform(0, 3))
        for _ in range(100):
            if self._clients.cancel(job_id) is not None:
                return
            time.sleep(0.2)

    def _take_over(self) -> None:
        job_id = self._submit()
        time.sleep(self._generator.uniform(0, 3))
        self._clients.take_over(job_id, self._generator.uniform(0, 2))


@contextmanager
def flood(clients: Clients, *, jobs: int, seed: int, seconds: float, visitors: int = 5) -> Iterator[None]:
    """So many jobs of all kinds, spread over about so many seconds; at the end every one was accepted."""
    generator = random.Random(seed)
    clients.open_sandboxes(max(1, jobs // 30))
    shares = [len(range(number, jobs, visitors)) for number in range(visitors)]
    threads = [
        Visitor(clients, random.Random(generator.random()), share, seconds / max(shares)) for share in shares
    ]
    yield
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def recoveries(arena: Arena, storm: Storm) -> list[Recovery]:
    """All of them, the quickest first."""
    claims = arena.query(
        "SELECT job_id::text, (payload->>'run')::int, extract(epoch FROM created_at)::float8 FROM events"
        " WHERE type = 'status' AND payload ? 'run'"
    )
    at = {(job_id, run): moment for job_id, run, moment in claims}
    found = []
    for kill in storm.kills:
        for job_id, run in kill.held.items():
            if claimed := at.get((job_id, run + 1)):
                away = any(begin < claimed and kill.at < end for begin, end in storm.outages)
                found.append(Recovery(claimed - kill.at, not away))
    return sorted(found, key=lambda recovery: recovery.seconds)
