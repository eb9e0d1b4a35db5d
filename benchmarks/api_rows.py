"""What is measured of the API, each with its goal."""

import asyncio
import time
from collections.abc import Callable, Iterator

from benchmarks.figures import Figure, quantile, task
from benchmarks.load import Listener, first_events, post_all
from benchmarks.system import running

SUBMIT, BATCH, RUN = (f"/api/agent/{route}" for route in ("task/submit", "task/batch", "run"))
WARM = 200
SUBMISSIONS, CONNECTIONS = 3000, 16
CLIENTS, AT_WORK, SECONDS = 1000, 40, 15
RUNS = 40


def submit() -> Iterator[Figure]:
    """Durable submissions over 16 connections; no worker takes them up meanwhile."""

    def post(count: int) -> list[float]:
        return asyncio.run(
            post_all(system.url, SUBMIT, lambda _: task(3), count=count, connections=CONNECTIONS)
        )

    with running(workers=0) as system:
        post(WARM)
        cpu, began = system.cpu(), time.perf_counter()
        seconds = post(SUBMISSIONS)
        rate = SUBMISSIONS / (time.perf_counter() - began)
        yield Figure("durable submit, 16 connections", "/s", rate, 600, most=False)
        yield Figure("… p99", "ms", quantile(seconds, 0.99) * 1000, 80)
        yield Figure("… CPU of all processes", "ms", (system.cpu() - cpu) / SUBMISSIONS * 1000, 3)


def stream() -> Iterator[Figure]:
    """1,000 clients, each at a task of its own; 40 of the tasks are at work, the others wait."""
    # Of tasks that begin at the same moment, and think equally long, all events come at the same moment.
    with running(think=1, act=0.1, spread=0.5, concurrency=AT_WORK) as system:
        tasks = [task(500) for _ in range(CLIENTS)]
        ids = system.http.post(BATCH, json={"tasks": tasks}).raise_for_status().json()["task_ids"]
        lags = asyncio.run(Listener(system.url).lags(ids, SECONDS))
        name = f"event written → its client, of {CLIENTS} at tasks of their own, {AT_WORK} at work"
        yield Figure(f"{name}, median", "ms", quantile(lags, 0.5) * 1000, 10)
        yield Figure(f"… p99 of {len(lags)}", "ms", quantile(lags, 0.99) * 1000, 50)


def first() -> Iterator[Figure]:
    """One task after the other by `POST /api/agent/run`, with a worker that takes them up."""
    with running() as system:
        asyncio.run(first_events(system.url, RUN, [task(1) for _ in range(RUNS // 4)]))
        seconds = asyncio.run(first_events(system.url, RUN, [task(1) for _ in range(RUNS)]))
        yield Figure("first event of a run, median", "ms", quantile(seconds, 0.5) * 1000, 50)


ROWS: dict[str, Callable[[], Iterator[Figure]]] = {"submit": submit, "stream": stream, "first": first}
