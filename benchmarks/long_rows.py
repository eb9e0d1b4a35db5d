"""What becomes of the processes after many jobs, with many jobs at once, and after many steps of one."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from threading import Event, Thread
from urllib.parse import urlsplit

from benchmarks.figures import Figure, task
from benchmarks.rows import carry_out
from benchmarks.system import family, running
from local.processes import Child

ENDURED = int(os.environ.get("BENCH_ENDURED", "10000"))
PARTS = 10
WATCHERS = 32
IN_FLIGHT, FLIGHT_STEPS, THINK = 1000, 10, 2.0
STEPS = 412
EARLY, LATE = (3, 23), (390, 410)
MB = 1e6


@dataclass(frozen=True)
class Footprint:
    """What processes hold: MB of memory, and open descriptors. `pss` has a part of what several share."""

    rss: float = 0
    pss: float = 0
    descriptors: int = 0

    def __add__(self, other: "Footprint") -> "Footprint":
        return Footprint(self.rss + other.rss, self.pss + other.pss, self.descriptors + other.descriptors)


def footprint(*children: Child) -> Footprint:
    """Of these and all that they started."""
    return sum((_footprint(pid) for child in children for pid in family(child.pid)), Footprint())


def _footprint(pid: int) -> Footprint:
    folder = Path(f"/proc/{pid}")
    lines = (folder / "smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(kb) * 1024 / MB for name, kb, *_ in map(str.split, lines)}
    return Footprint(sizes["Rss:"], sizes["Pss:"], len(os.listdir(folder / "fd")))


def endurance() -> Iterator[Figure]:
    """10,000 short jobs, each watched to its end: what the processes hold more than after the first 2,000."""
    samples: dict[str, list[Footprint]] = {"API": [], "workers": [], "Valkey": []}
    with running(workers=2) as system:
        held_by = {"API": [system.api], "workers": system.workers, "Valkey": [system.valkey.child]}
        for part in range(1, PARTS + 1):
            asyncio.run(run_all(system.url, ENDURED // PARTS))
            for name, children in held_by.items():
                samples[name].append(footprint(*children))
            held = (f"{name} {seen[-1].rss:.0f} MB, {seen[-1].descriptors}" for name, seen in samples.items())
            print(f"  {ENDURED // PARTS * part:,} jobs: {' | '.join(held)}", flush=True)
    for name, (_, *seen) in samples.items():
        yield Figure(
            f"{name} after {ENDURED:,} jobs: more memory", "MB", growth([one.rss for one in seen]), 8
        )
        # Pools that are not full yet go on to fill.
        yield Figure("… more descriptors", "", growth([one.descriptors for one in seen]), 2)


def growth(values: list[float]) -> float:
    """From the first to the last one, by their trend: how many connections are open just then is chance."""
    return linear_regression(range(len(values)), values).slope * (len(values) - 1)


async def run_all(url: str, count: int) -> None:
    """Runs so many jobs, a few at a time, and watches each to its end. Raises `RuntimeError` if one fails."""
    numbers = iter(range(count))
    address = urlsplit(url)

    async def watcher() -> None:
        for number in numbers:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            body = json.dumps(task(1 + number % 2)).encode()
            head = f"POST /api/agent/run HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            said = await reader.read()
            writer.close()
            if b'"type": "finished"' not in said:
                raise RuntimeError(said.decode(errors="replace"))

    await asyncio.gather(*(watcher() for _ in range(WATCHERS)))


def flight() -> Iterator[Figure]:
    """1,000 jobs of 10 steps at once, at 2 s for each answer of the model: 20 s are ideal."""
    with running(think=THINK, workers=2, concurrency=IN_FLIGHT // 2) as system:
        carry_out(system, [task(1)] * 2)
        with (
            _most(lambda: footprint(*system.workers)) as held,
            suppress(RuntimeError),
        ):  # it counts them below
            carry_out(system, [task(FLIGHT_STEPS) for _ in range(IN_FLIGHT)])
        ((slowest, failed),) = system.query(
            "SELECT extract(epoch FROM max(finished_at - created_at)),"
            " count(*) FILTER (WHERE status <> 'finished') FROM jobs"
        )
    yield Figure(
        "1,000 jobs at 2 s: slowest against the ideal", "×", float(slowest) / (THINK * FLIGHT_STEPS), 1.5
    )
    yield Figure("… failed", "", failed, 0)
    yield Figure("… RSS of all workers", "MB", max(one.rss for one in held), 1000)
    yield Figure("… PSS of all workers", "MB", max(one.pss for one in held), 1000)


@contextmanager
def _most(look: Callable[[], Footprint]) -> Iterator[list[Footprint]]:
    """What is seen about once a second meanwhile."""
    seen, over = [look()], Event()

    def watch() -> None:
        while not over.wait(1):
            seen.append(look())

    thread = Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def late() -> Iterator[Figure]:
    """One job of some 400 steps: what a step near the end takes, against one near the start."""
    with running() as system:
        carry_out(system, [task(5)])
        carry_out(system, [task(STEPS)])
        rows = system.query(
            "SELECT extract(epoch FROM created_at - lag(created_at) OVER (ORDER BY number)) * 1000 FROM steps"
            " WHERE job_id = (SELECT id FROM jobs ORDER BY created_at DESC LIMIT 1) ORDER BY number"
        )
    early, last = (median(row[0] for row in rows[first - 1 : end]) for first, end in (EARLY, LATE))
    print(f"  {early:.2f} ms, {last:.2f} ms", flush=True)
    yield Figure("step 400 against step 13", "×", float(last / early), 1.2)


ROWS = {"endurance": endurance, "flight": flight, "late": late}
