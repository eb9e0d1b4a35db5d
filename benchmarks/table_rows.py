"""What is asked of tables that hold a million jobs; `BENCH_JOBS=20000` fills them with fewer."""

import http.client
import os
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from benchmarks.figures import Figure, quantile
from benchmarks.system import System, running

JOBS = int(os.environ.get("BENCH_JOBS", "1000000"))
EVENTS, STEPS = 20, 3
CHUNK = 50_000
REQUESTS, WARM = 200, 10
GOAL_MS = 20
LIST = "/api/agent/task/list"
KEYS = {"a fifth of them": "lgk_busy", "one in a thousand": "lgk_seldom"}
"""API keys by how many of the jobs are theirs."""


def tables() -> Iterator[Figure]:
    """1,000,000 jobs with 20,000,000 events: each way to look at them."""
    with running(workers=0) as system:
        began = time.perf_counter()
        fill(system.postgres.url, JOBS)
        ((size,),) = system.query("SELECT pg_database_size(current_database()) / 1e9")
        print(f"  filled in {time.perf_counter() - began:.0f} s: {size:.1f} GB", flush=True)
        yield from figures(system)


def figures(system: System) -> Iterator[Figure]:
    """What the routes take, over one connection."""
    title = f"{JOBS:,} jobs, p99: "
    looks = [*looks_at_one(system), *looks_at_many(), *looks_from_the_middle(system)]
    for name, paths in looks:
        yield _figure(title + name, look(system.url, paths))
        title = "… "
    system.serve(API_KEYS="required")
    for owner, key in KEYS.items():
        for name, paths in looks_at_many():
            yield _figure(f"… with a key that has {owner}: {name}", look(system.url, paths, key))


Look = tuple[str, Sequence[str]]
"""What it is, and paths that it may have."""


def looks_at_one(system: System) -> Iterator[Look]:
    """At tasks that have ended, any of them."""
    found = system.query(f"SELECT id FROM jobs WHERE status = 'finished' ORDER BY random() LIMIT {REQUESTS}")
    ids = [row[0] for row in found]
    yield "status of a task", [f"/api/agent/task/status/{one}" for one in ids]
    yield "its steps", [f"/api/agent/task/{one}/steps" for one in ids]
    yield "its events", [f"/api/agent/task/{one}/events" for one in ids]
    yield "health", ["/api/health"]
    yield "metrics", ["/metrics"]


def looks_at_many() -> Iterator[Look]:
    """At lists, by all that they may be filtered by."""
    batches = range(0, JOBS // 1000, max(JOBS // 1000 // REQUESTS, 1))
    yield "list", [LIST]
    yield "list of those that failed", [f"{LIST}?status=error"]
    yield "list of those that ended", [f"{LIST}?status=finished,error,cancelled"]
    yield "list of those that wait for a human", [f"{LIST}?status=human_intervention"]
    yield "list by a label of a few hundred", [f"{LIST}?metadata=batch:b-{batch}" for batch in batches]
    yield (
        "what is left of a batch",
        [f"{LIST}?metadata=batch:b-{batch}&status=pending,running" for batch in batches],
    )
    yield "list by a label of one in twenty", [f"{LIST}?metadata=team:team-{team}" for team in range(7)]
    yield "list from number 10,000 on", [f"{LIST}?offset=10000"]
    yield "active tasks", ["/api/agent/tasks"]


def looks_from_the_middle(system: System) -> Iterator[Look]:
    """At pages far down the list."""
    places = [JOBS * tenth // 10 for tenth in range(1, 10)]
    pages = [system.http.get(LIST, params={"offset": place, "limit": 1}).json() for place in places]
    cursors = [page["next_cursor"] for page in pages if page["next_cursor"]]
    yield "list from a cursor on", [f"{LIST}?cursor={one}" for one in cursors]
    yield (
        "list of those that failed from a cursor on",
        [f"{LIST}?status=error&cursor={one}" for one in cursors],
    )


def look(url: str, paths: Sequence[str], key: str | None = None) -> list[float]:
    """Milliseconds that each request took, one after the other. Raises `RuntimeError` for one that fails."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    headers = {"Accept": "application/json"} | ({"X-API-Key": key} if key else {})
    took = []
    for number in range(REQUESTS + WARM):
        began = time.perf_counter()
        connection.request("GET", paths[number % len(paths)], headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        took.append((time.perf_counter() - began) * 1000)
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(content.decode(errors="replace"))
    connection.close()
    return took[WARM:]


def _figure(name: str, took: list[float]) -> Figure:
    print(f"  {name}: p50 {quantile(took, 0.5):.1f} ms, p99 {quantile(took, 0.99):.1f} ms", flush=True)
    return Figure(name, "ms", quantile(took, 0.99), GOAL_MS)


# --- filling --------------------------------------------------------------------------------------------


def fill(url: str, jobs: int = JOBS) -> None:
    """Makes jobs that ended in the last months, and a few thousand that did not, with steps and events.

    Their indexes are made anew from their own definitions, which is faster than to grow them.
    """
    with psycopg.connect(url, autocommit=True) as sql:
        for setting in ("fsync = off", "max_wal_size = '8GB'"):
            sql.execute(f"ALTER SYSTEM SET {setting}")
        sql.execute("SELECT pg_reload_conf()")
        sql.execute("SET session_replication_role = replica")  # neither triggers nor foreign keys
        sql.execute("SET maintenance_work_mem = '1GB'")
        _make_keys(sql)
        indexes = sql.execute(INDEXES).fetchall()
        for name, _ in indexes:
            sql.execute(f"DROP INDEX {name}")
        for first in range(0, jobs, CHUNK):
            last = min(first + CHUNK, jobs)
            sql.execute(FILL, {"first": first, "last": last, "jobs": jobs, "events": EVENTS, "steps": STEPS})
            print(f"  {last:,} jobs", end="\r", flush=True)
        for _, definition in indexes:
            sql.execute(definition)
        sql.execute("VACUUM ANALYZE")
        sql.execute("ALTER SYSTEM RESET ALL")
        sql.execute("SELECT pg_reload_conf()")
        sql.execute("CHECKPOINT")


INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = 'jobs'::regclass AND NOT indisprimary
"""

FILL = (Path(__file__).parent / "fill.sql").read_text()


def _make_keys(sql: psycopg.Connection) -> None:
    for number, key in enumerate([*KEYS.values(), "lgk_other"], 1):
        sql.execute(
            "INSERT INTO api_keys (id, name, hint, digest) VALUES (md5(%s)::uuid, %s, 'lgk_', %s)",
            [str(number), key, sha256(key.encode()).digest()],
        )


ROWS = {"tables": tables}
